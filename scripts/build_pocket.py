"""Build the pocket checkpoint: a small, hand-made embedding model that needs no download and no training.

The result has the architecture of NVIDIA's text embedders (``LlamaBidirectionalModel``: a bidirectional Llama
whose token states are averaged) and can be loaded by whatever loads those. It knows no meanings. It matches
*words*, about as BM25 does: rare words count for more than common ones, a word repeated ten times does not
count ten times, and ``policies`` finds ``policy``. Nothing is learnt by gradient descent.

How a keyword search hides in a transformer
-------------------------------------------
*A word is a code of signs.* Each stem owns a vector of signs. Two different codes are perpendicular, or
almost, so the dot product of two sums of codes counts the words that both texts hold. There are more stems
than dimensions. The stems that are heard most share a Hadamard matrix, whose rows are exactly perpendicular;
the next ones share the same matrix with some columns negated by a hash, and so on. Texts consist mostly of
words of the first basis, which do not disturb each other at all. The same text always gives the same file,
and signs compress: the file shrinks to a tenth.

*A weight survives the norm.* The final RMSNorm gives every token the same length, which would erase the
weights of the words. So a token's state is longer than its code: the rest is *ballast*, in dimensions for
which the final norm has the weight zero. All states have one length; how much of it is code and how much
ballast decides how loud the token is in the average. The weight follows the inverse document frequency (idf)
counted in the text. "The", "what", the prompt and the beginning-of-sequence token are ballast, but for a
trace of code that keeps the vector of an empty text away from zero.

*Repetition saturates.* One attention head, in one layer, counts how often a token's stem occurs in the text.
Part of the ballast is a short second code, the *key*: a token's query equals its key, so that copies see each
other with the same logit S, and strangers with a logit near 0. Only the slowest pairs of the rotary embedding
are used, which turn by a few hundredths of a radian over the whole context, so position does not matter. The
beginning-of-sequence token is an anchor for the softmax: everybody sees it with the logit S + log(R). Of n
copies the attention mass is n / (R + n), for large R about n / R. The head adds that mass, magnified, to the
ballast: the state of each copy grows from 1 to 1 + n / k1, the final norm divides by that, and n copies
together weigh about n / (1 + n / k1). This is the saturation of BM25. The MLP is zero.

*The tokenizer does the spelling.* It lower-cases, strips accents, joins digit groups (``1,000`` is ``1000``)
and turns everything but letters and digits into spaces. A ``query: `` or ``passage: `` at the very beginning
of the text, the prompt of this family of models, becomes one private character; the same words later in the
text stay words. The words are then cut by longest match (WordPiece). What the forms of a stem have in common
is a token (``polic`` for policy and policies), and endings (``##y``, ``##ies``) weigh nothing; a form that
cannot be cut so has a token with the same code. Rare words fall into pieces, which match the same pieces
elsewhere.

What it takes
-------------
Text to count words in. It decides only which words get tokens, and their weights. The checkpoint in the
package was built from Debian bookworm's packages, all free to use, to change and to pass on::

    mkdir text && cd text
    apt-get download wordnet-base python3.11-doc postgresql-doc-15 python-django-doc r-cran-janeaustenr
    for package in *.deb; do dpkg -x "$package" .; done && cd ..
    python scripts/build_pocket.py --text text --out backend/nemovlm/pocket

Needs torch, tokenizers, safetensors and snowballstemmer, and takes about a minute.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import json
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import snowballstemmer  # type: ignore[import-untyped]
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

# --- sizes --------------------------------------------------------------------------------------------------

VOCABULARY = 11_264
HIDDEN = 832
CODE = 768  # the part of a state that is averaged; 12 times a power of two, see `hadamard`
HEAD_DIM = 64
INTERMEDIATE = 32
MAX_POSITIONS = 8192
ROPE_THETA = 1e12  # so that the slow half of the 32 rotary pairs turns by < 0.01 rad over MAX_POSITIONS
RMS_EPS = 1e-5

# --- the layout of a token's state, of length sqrt(HIDDEN) --------------------------------------------------

KEYS = 32  # dimensions 0..31: the key, +-KEY_LEVEL
KEY_LEVEL = 2.0
BRAKE = KEYS  # a constant; the head adds the count of copies here
BRAKE_LEVEL = 25.0
ANCHOR = KEYS + 1  # non-zero only in the beginning-of-sequence token
FILLER = KEYS + 2  # whatever is left of the length
RESERVED = HIDDEN - CODE  # the final norm's weight is zero up to here; the code follows
LOUDEST = 4.0  # the length of the code of the heaviest token

# --- the attention head -------------------------------------------------------------------------------------

COPY_LOGIT = 24.0  # S: 8192 strangers together stay below a hundredth of one copy
ANCHOR_ODDS = 128.0  # R
K1 = 1.5  # as in BM25

# --- words --------------------------------------------------------------------------------------------------

CHUNK_WORDS = 150  # a "document" for the document frequency
IDF_POWER = 0.5
TRACE = 0.01  # the weight of words that carry no topic, relative to the heaviest
RARE_FORM = 0.03  # a form with a smaller share of its stem's occurrences gets no token of its own
PIECES = 1_500  # tokens for the pieces of rare words

BOS, PAD, UNK = "<|begin|>", "<|pad|>", "<|unknown|>"
PROMPT = "\ue000"  # private use: stands for the prompt prefix
CONTINUES = "##"


def split_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Endings that make another form of the same word. As pieces they carry no weight.
ENDINGS = split_words(
    """
    s es d ed ing ings e y ies ied ying er ers ly ness ment ments ement ements al ally able ably ible
    ibly ance ances ence ences ent ently ant ation ations ate ates ated ating ative ator ators ion ions
    or ors ive ives ively ity ities ize izes ized izing ization ise ises ised ising ism ist ists ic ical
    ically ful fully less ous ously iness ier iest
    """
)

#: Words that say nothing about the topic, as the normalizer writes them.
FUNCTION_WORDS = split_words(
    """
    a an the this that these those such same other another each every either neither both all any some
    no none few i me my mine myself we us our ours ourselves you your yours yourself yourselves he him
    his himself she her hers herself it its itself they them their theirs themselves one ones who whom
    whose which what whatever whichever whoever someone somebody something anyone anybody anything
    everyone everybody everything nobody nothing when where why how whether while whenever wherever
    there here then than am is are was were be been being do does did done doing have has had having
    will would shall should can could may might must ought cannot dont doesnt didnt isnt arent wasnt
    werent havent hasnt hadnt wont wouldnt shouldnt cant couldnt im youre hes shes theyre ive youve weve
    theyve ill youll theyll id youd theyd lets whats thats theres heres whos wheres hows and or nor but
    if because as until unless although though so yet of at by for with about against between among into
    through during before after above below to from up down in out on off over under upon within without
    toward towards onto via per across along around not only own too very just also even ever never
    again further once more most much many less least s t e g eg ie etc vs please tell
    """
)

#: Letters that decomposition leaves alone.
LETTERS = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ł": "l", "þ": "th", "ð": "d", "ı": "i"}

# --- text ---------------------------------------------------------------------------------------------------

WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
SKIPPED_PAGES = re.compile(r"genindex|py-modindex|changelog|/search\.html|/whatsnew/|/releases/|copyright|release-")


def read_text(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Documents by kind: WordNet's data, web pages, plain text and R's text data; the rest is passed over."""
    text: dict[str, list[str]] = {"dictionary": [], "page": [], "book": []}
    files = sorted({file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])})
    seen: set[str] = set()
    for file in files:
        if not file.is_file() or SKIPPED_PAGES.search(file.as_posix()):
            continue
        if file.name in WORDNET_FILES:
            kind, prose = "dictionary", glosses_of_wordnet(decoded(file))
        elif file.name == "Rdata.rdb":
            kind, prose = "book", strings_of_r(file.read_bytes())
        elif file.name.endswith((".html", ".html.gz")):
            kind, prose = "page", strip_markup(decoded(file))
        elif file.suffix == ".txt" and not file.name.endswith(".rst.txt"):
            kind, prose = "book", decoded(file)
        else:
            continue
        digest = hashlib.sha256(prose.encode()).hexdigest()
        if digest not in seen:  # packages hold the same page twice, as a link or as a copy
            seen.add(digest)
            text[kind].append(prose)
    return text


def decoded(file: Path) -> str:
    raw = file.read_bytes()
    return (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8", "replace")


def strip_markup(page: str) -> str:
    page = re.sub(r"(?is)<(script|style|pre|nav|head|footer)\b.*?</\1>", " ", page)
    page = re.sub(r'(?is)<div class="(?:sphinxsidebar|related|navheader|navfooter)".*?</div>', " ", page)
    return html.unescape(re.sub(r"(?s)<[^>]*>", " ", page))


def strings_of_r(database: bytes) -> str:
    """The strings in a database of R objects: zlib streams; a string is a header, a length and its bytes."""
    header = b"\x00\x04\x00\x09"
    lines: list[str] = []
    start = database.find(b"\x78")
    while start >= 0:
        stream = zlib.decompressobj()
        try:
            content = stream.decompress(database[start:])
        except zlib.error:  # an ordinary byte that looks like the start of a stream
            start = database.find(b"\x78", start + 1)
            continue
        for match in re.finditer(re.escape(header), content):
            size = int.from_bytes(content[match.end() : match.end() + 4], "big")
            if size < 1000:
                lines.append(content[match.end() + 4 : match.end() + 4 + size].decode("utf-8", "replace"))
        start = database.find(b"\x78", len(database) - len(stream.unused_data))
    return "\n".join(lines)


def glosses_of_wordnet(data: str) -> str:
    """Each entry's words, then its gloss: ``insurance: promise of reimbursement in the case of loss``."""
    lines: list[str] = []
    for line in data.splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields, _, gloss = line.partition("|")
        parts = fields.split()
        words = parts[4 : 4 + 2 * int(parts[3], 16) : 2]
        lines.append(" ".join(words).replace("_", " ") + ": " + gloss)
    return "\n".join(lines)


# --- tokenizer ----------------------------------------------------------------------------------------------


def normalizer() -> normalizers.Normalizer:
    """Anything a user may type, to lower-case words of letters and digits between single spaces."""
    return normalizers.Sequence(
        [
            normalizers.Replace(PROMPT, " "),  # a user's own private character is no prompt
            normalizers.Replace(Regex(r"\A(?:query|passage):(?: |\z)"), PROMPT + " "),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            *(normalizers.Replace(letter, plain) for letter, plain in LETTERS.items()),
            # A soft hyphen, or what PDF readers return for a hyphen at the end of a line, joins its word.
            normalizers.Replace(Regex("[\u00ad\u0002\ufffe\u200b]\\s*"), ""),
            normalizers.Replace(Regex(r"(?<=\p{L})['\u2019](?=\p{L})"), ""),
            normalizers.Replace(Regex(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
            normalizers.Replace(Regex(rf"[^\p{{L}}\p{{N}}{PROMPT}]+"), " "),
        ]
    )


def tokenizer_of(vocabulary: Iterable[str]) -> Tokenizer:
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(
        models.WordPiece(ids, unk_token=UNK, continuing_subword_prefix=CONTINUES, max_input_chars_per_word=200)
    )
    tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    tokenizer.add_special_tokens([BOS, PAD, UNK])
    return tokenizer


@dataclass(frozen=True)
class Words:
    """The words of the text, counted, and grouped by stem."""

    chunks: list[str]  # normalised, of CHUNK_WORDS words each
    count: dict[str, int]  # in how many chunks a word occurs
    spread: dict[str, float]  # the same, so that no kind of text drowns the others
    forms: dict[str, list[str]]  # the words of a stem


def count_words(text: dict[str, list[str]]) -> Words:
    normalize = normalizer().normalize_str
    chunks: list[str] = []
    total: Counter[str] = Counter()
    spread: defaultdict[str, float] = defaultdict(float)
    for documents in text.values():
        count: Counter[str] = Counter()
        before = len(chunks)
        for document in documents:
            words = normalize(document).split()
            for start in range(0, len(words), CHUNK_WORDS):
                chunk = words[start : start + CHUNK_WORDS]
                chunks.append(" ".join(chunk))
                count.update(word for word in set(chunk) if word.isascii())
        total.update(count)
        for word, number in count.items():
            spread[word] += number / (len(chunks) - before)
    forms: defaultdict[str, list[str]] = defaultdict(list)
    stem = snowballstemmer.stemmer("english").stemWord
    for word in sorted(total):
        if word.isalpha():
            forms[stem(word)].append(word)
    return Words(chunks, total, spread, forms)


def choose_vocabulary(words: Words) -> dict[str, str]:
    """The tokens with their stems: special ones, characters, numbers, stems by frequency, at last pieces."""
    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    numbers = [*range(10, 100), *range(1900, 2050)]
    tokens = [BOS, PAD, UNK, PROMPT, *characters, *(CONTINUES + character for character in characters)]
    tokens += [CONTINUES + ending for ending in sorted(ENDINGS)]
    tokens += [str(number) for number in numbers] + [f"{CONTINUES}{number:02}" for number in range(100)]
    counted = sorted((word for word in words.count if word.isdigit()), key=lambda w: (-words.count[w], w))
    tokens += counted[:300]
    tokens += sorted(FUNCTION_WORDS)
    vocabulary = {token: token for token in tokens}

    frequency = {stem: sum(words.spread[form] for form in forms) for stem, forms in words.forms.items()}
    stem_of = {form: stem for stem, forms in words.forms.items() for form in forms}
    for stem in sorted(frequency, key=lambda stem: (-frequency[stem], stem)):
        forms = [form for form in words.forms[stem] if words.spread[form] > RARE_FORM * frequency[stem]]
        forms = [form for form in forms if form not in vocabulary]
        if not forms:
            continue
        # What the forms have in common is a token; a form that is more than that and an ending is one too.
        base = common_start(forms)
        if len(base) < 3 or base in vocabulary or stem_of.get(base, stem) != stem:
            base = min(forms, key=len)
        tokens = [base, *(form for form in forms if form != base and form.removeprefix(base) not in ENDINGS)]
        if len(vocabulary) + len(tokens) > VOCABULARY - PIECES:
            break
        vocabulary |= dict.fromkeys(tokens, stem)

    # Longest match may cut a form at another stem's token (``acti|ng``): such forms get tokens too.
    for stem in sorted(set(vocabulary.values()) & words.forms.keys()):
        for form in words.forms[stem]:
            longest = next(form[:end] for end in range(len(form), 0, -1) if form[:end] in vocabulary)
            if vocabulary[longest] != stem and words.count[form] >= 10:
                vocabulary[form] = stem

    rest = [word for word in sorted(words.count) if word.isalpha() and not is_cut_well(word, vocabulary)]
    for piece in learn_pieces(rest):
        if len(vocabulary) == VOCABULARY:
            break
        vocabulary.setdefault(piece, piece)
    return vocabulary


def common_start(words: list[str]) -> str:
    first, last = min(words), max(words)
    return next((first[:end] for end in range(len(first), 0, -1) if last.startswith(first[:end])), "")


def is_cut_well(word: str, vocabulary: Container[str]) -> bool:
    """Whether the word is a token, or a token and an ending."""
    return word in vocabulary or any(word[:at] in vocabulary and word[at:] in ENDINGS for at in range(3, len(word)))


def learn_pieces(words: list[str]) -> Iterator[str]:
    """Byte pair encoding over word types: the most frequent pair of neighbours becomes a piece, and again.

    (Its own, because ties have to be broken alike on every run.)
    """
    cut = [[word[0], *(CONTINUES + letter for letter in word[1:])] for word in words]
    count: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for index, pieces in enumerate(cut):
        for pair in pairwise(pieces):
            count[pair] += 1
            where[pair].add(index)
    while count:
        best = max(count, key=lambda pair: (count[pair], pair))
        joined = best[0] + best[1].removeprefix(CONTINUES)
        for index in where.pop(best):
            old, new = cut[index], list[str]()
            for piece in old:
                if new and (new[-1], piece) == best:
                    new[-1] = joined
                else:
                    new.append(piece)
            count.subtract(pairwise(old))
            for pair in pairwise(new):
                count[pair] += 1
                where[pair].add(index)
            cut[index] = new
        count = +count
        yield joined


# --- weights ------------------------------------------------------------------------------------------------


def signs(name: str, size: int) -> torch.Tensor:
    """`size` pseudo-random signs that depend on the name alone."""
    bits = int.from_bytes(hashlib.shake_256(name.encode()).digest(size // 8 + 1), "big")
    return torch.tensor([1.0 if bits >> index & 1 else -1.0 for index in range(size)])


def hadamard(size: int) -> torch.Tensor:
    """Signs in orthogonal rows. `size` is 1 or 12 (Paley's construction) times a power of two."""
    if size % 3:
        matrix = torch.ones(1, 1)
    else:
        squares = {number * number % 11 for number in range(11)}
        matrix = torch.ones(12, 12)
        for row in range(11):
            for column in range(11):
                matrix[row + 1, column + 1] = 1.0 if (row - column) % 11 in squares else -1.0
        matrix[1:, 0] = -1
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def codes_of(stems: list[str], loudness: dict[str, float]) -> dict[str, torch.Tensor]:
    """A code for each stem: the loudest ones share an orthogonal basis, the next ones another, and so on."""
    rows = hadamard(CODE)
    codes: dict[str, torch.Tensor] = {}
    for rank, stem in enumerate(sorted(set(stems), key=lambda stem: (-loudness[stem], stem))):
        basis, row = divmod(rank, CODE)
        if row == 0:
            basis_signs = signs(f"basis {basis}", CODE)
        codes[stem] = rows[row] * basis_signs
    return codes


def weights_of(vocabulary: dict[str, str], frequency: dict[str, int], chunks: int) -> list[float]:
    """From 0 to 1 for each token: its stem's idf in the text."""
    silent = {BOS, PAD, UNK, PROMPT, *FUNCTION_WORDS, *(CONTINUES + ending for ending in ENDINGS)}
    weights: list[float] = []
    for token, stem in vocabulary.items():
        idf = math.log(chunks / max(frequency.get(stem, 0), 1)) / math.log(chunks)
        weights.append(TRACE if token in silent else max(TRACE, idf**IDF_POWER))
    return weights


def count_stems(vocabulary: dict[str, str], chunks: list[str], tokenizer: Tokenizer) -> dict[str, int]:
    """In how many chunks a stem occurs, once the tokenizer has cut the words."""
    stems = list(vocabulary.values())
    frequency: Counter[str] = Counter()
    for start in range(0, len(chunks), 1000):
        for encoding in tokenizer.encode_batch_fast(chunks[start : start + 1000], add_special_tokens=False):
            frequency.update({stems[index] for index in encoding.ids})
    return frequency


def embeddings(vocabulary: dict[str, str], weights: list[float], frequency: dict[str, int]) -> torch.Tensor:
    stems = list(vocabulary.values())
    loudness: defaultdict[str, float] = defaultdict(float)
    for stem, weight in zip(stems, weights, strict=True):
        loudness[stem] = max(loudness[stem], weight**2 * frequency.get(stem, 0))
    codes = codes_of(stems, loudness)
    table = torch.zeros(len(vocabulary), HIDDEN)
    for row, token, stem, weight in zip(table, vocabulary, stems, weights, strict=True):
        code = codes[stem] * LOUDEST * weight / math.sqrt(CODE)
        if token == PAD:
            continue
        if token == BOS:
            row[RESERVED:] = code
            row[ANCHOR] = math.sqrt(HIDDEN)
            continue
        if token != PROMPT:
            row[RESERVED:] = code
        row[:KEYS] = KEY_LEVEL * signs("key " + stem, KEYS)
        row[BRAKE] = BRAKE_LEVEL
        row[FILLER] = math.sqrt(HIDDEN - float(row.square().sum()))
    return table


def model_weights(table: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state dict of a Llama with one layer, one head and an empty MLP. Every state has the length
    sqrt(HIDDEN), so that the norm before the attention changes nothing."""
    pairs = HEAD_DIM // 2
    slow = [*range(pairs - KEYS // 2, pairs), *range(HEAD_DIM - KEYS // 2, HEAD_DIM)]
    bias = pairs - KEYS // 2 - 1  # the next slowest
    q, k, v = (torch.zeros(HEAD_DIM, HIDDEN) for _ in range(3))
    o = torch.zeros(HIDDEN, HEAD_DIM)
    key_square = KEYS * KEY_LEVEL**2
    for index, dimension in enumerate(slow):
        q[dimension, index] = math.sqrt(HEAD_DIM) * COPY_LOGIT / key_square
        k[dimension, index] = 1.0
    q[bias, BRAKE] = 1.0
    k[bias, ANCHOR] = (COPY_LOGIT + math.log(ANCHOR_ODDS)) * math.sqrt(HEAD_DIM) / BRAKE_LEVEL / math.sqrt(HIDDEN)
    v[0, BRAKE] = 1 / BRAKE_LEVEL
    o[BRAKE, 0] = BRAKE_LEVEL * ANCHOR_ODDS / K1
    heard = torch.ones(HIDDEN)
    heard[:RESERVED] = 0
    layer = {
        "input_layernorm": torch.ones(HIDDEN),
        "self_attn.q_proj": q,
        "self_attn.k_proj": k,
        "self_attn.v_proj": v,
        "self_attn.o_proj": o,
        "post_attention_layernorm": torch.ones(HIDDEN),
        "mlp.gate_proj": torch.zeros(INTERMEDIATE, HIDDEN),
        "mlp.up_proj": torch.zeros(INTERMEDIATE, HIDDEN),
        "mlp.down_proj": torch.zeros(HIDDEN, INTERMEDIATE),
    }
    state = {"embed_tokens.weight": table, "norm.weight": heard}
    state |= {f"layers.0.{name}.weight": tensor for name, tensor in layer.items()}
    return {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}


def config_of(vocabulary: dict[str, str]) -> dict[str, object]:
    return {
        "architectures": ["LlamaBidirectionalModel"],
        "model_type": "llama_bidirec",
        "pooling": "avg",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": list(vocabulary).index(BOS),
        "dtype": "bfloat16",
        "eos_token_id": None,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "is_causal": False,
        "max_position_embeddings": MAX_POSITIONS,
        "mlp_bias": False,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "pad_token_id": list(vocabulary).index(PAD),
        "pretraining_tp": 1,
        "rms_norm_eps": RMS_EPS,
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": True,
        "use_cache": False,
        "vocab_size": len(vocabulary),
    }


TOKENIZER_CONFIG: dict[str, object] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": BOS,
    "pad_token": PAD,
    "unk_token": UNK,
    "padding_side": "right",
    "model_max_length": MAX_POSITIONS,
    "model_input_names": ["input_ids", "attention_mask"],
    "clean_up_tokenization_spaces": False,
}


def build(text: dict[str, list[str]], out: Path) -> None:
    words = count_words(text)
    vocabulary = choose_vocabulary(words)
    tokenizer = tokenizer_of(vocabulary)
    frequency = count_stems(vocabulary, words.chunks, tokenizer)
    weights = weights_of(vocabulary, frequency, len(words.chunks))
    table = embeddings(vocabulary, weights, frequency)

    out.mkdir(parents=True, exist_ok=True)
    save_file(model_weights(table), out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    for name, content in (
        ("config.json", config_of(vocabulary)),
        ("tokenizer_config.json", TOKENIZER_CONFIG),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{len(words.chunks)} chunks, {len(words.count)} words, {len(vocabulary)} tokens of {HIDDEN} -> {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the pocket checkpoint (see the top of this file).")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files, or folders to search for files")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the checkpoint")
    arguments = parser.parse_args()
    build(read_text(arguments.text), arguments.out)


if __name__ == "__main__":
    main()
