"""Build the pocket checkpoint: a small, hand-made embedding model that needs no download and no training.

The result has the architecture of NVIDIA's text embedders (``LlamaBidirectionalModel``: a bidirectional Llama whose
token states are averaged) and can be loaded by whatever loads those. It knows no meanings. It matches *words*,
about as BM25 does: rare words count for more than common ones, a word repeated ten times does not count ten times, and
``policies`` finds ``policy``. Nothing is learnt by gradient descent; every number below is written down on purpose.

How a keyword search hides in a transformer
-------------------------------------------
*A word is a random code.* Each stem owns a vector of pseudo-random signs. Two different codes are almost
perpendicular, so the dot product of two sums of codes counts the words that both texts hold. The signs come from a
hash of the stem: the same text gives the same file, and the file compresses to a fraction of its size. Words
that WordNet calls derivations of each other (``insure``, ``insurance``) share half of their code.

*A weight survives the norm.* The final RMSNorm gives every token the same length, which would erase the weights of the
words. So a token's state is longer than its code: the rest is *ballast*, in dimensions for which the final norm has
the weight zero. All states have one length; how much of it is code and how much ballast decides how loud
the token is in the average. The weight follows the inverse document frequency (idf) counted in the text. "The", "what",
the prompt and the beginning-of-sequence token are ballast, but for a trace of code that keeps the vector of an
empty text away from zero.

*Repetition saturates.* One attention head, in one layer, counts how often a token's stem occurs in the text. Part of the
ballast is a short second code, the *key*: a token's query equals its key, so that copies see each other with
the same logit S, and strangers with a logit near 0. Only the slowest pairs of the rotary embedding are used, which turn by
less than a tenth of a radian over the whole context, so position does not matter. The beginning-of-sequence token is
an anchor for the softmax: everybody sees it with the logit S + log(R). Of n copies the attention mass is
n / (R + n), for large R about n / R. The head adds that mass, magnified, to the ballast: the state of each
copy grows from 1 to 1 + n / k1, the final norm divides by that, and n copies together weigh n / (1 + n / k1). This is
the saturation of BM25. The MLP is zero.

*The tokenizer does the spelling.* It lower-cases, strips accents, joins digit groups (``1,000`` is ``1000``) and turns
everything but letters and digits into spaces. A ``query: `` or ``passage: `` at the very beginning of the text, the
prompt of this family of models, becomes one private character; the same words later in the text stay words. The words
are then cut by longest match (WordPiece). A stem's shortest form is a token, and a form that only adds ``s``, ``ed``, ``ing`` to it
costs no second one; forms that change the stem (``policies``) have tokens with the same code. Rare words fall into pieces,
which match the same pieces elsewhere.

What it takes
-------------
Text to count words in, and WordNet's word lists for the derivations. The text decides only which words get tokens,
and their weights. The checkpoint in the package was built from Debian bookworm's packages, all free to use, to change
and to pass on::

    mkdir text && cd text
    apt-get download wordnet-base python3.11-doc postgresql-doc-15 python-django-doc r-cran-janeaustenr
    for package in *.deb; do dpkg -x "$package" .; done && cd ..
    python scripts/build_pocket.py --text text --out backend/nemovlm/pocket

Needs torch, tokenizers, safetensors and snowballstemmer, and takes about two minutes.
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import snowballstemmer
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

# --- sizes ------------------------------------------------------------------------------------------------------------

VOCABULARY = 8_704
HIDDEN = 1088
CODE = 1024  # a power of two
HEAD_DIM = 64
INTERMEDIATE = 32
MAX_POSITIONS = 8192
ROPE_THETA = 1e12  # so that the slow half of the 32 rotary pairs turns by < 0.01 rad over MAX_POSITIONS
RMS_EPS = 1e-5

# --- the layout of a token's state, of length sqrt(HIDDEN) ------------------------------------------------------------

KEYS = 32  # dimensions 0..31: the key, +-KEY_LEVEL
KEY_LEVEL = 2.0
BRAKE = KEYS  # a constant; the head adds the count of copies here
BRAKE_LEVEL = 30.0
ANCHOR = KEYS + 1  # non-zero only in the beginning-of-sequence token
FILLER = KEYS + 2  # whatever is left of the length
RESERVED = HIDDEN - CODE  # the final norm's weight is zero up to here; the code follows
LOUDEST = 4.0  # the length of the code of the heaviest token

# --- the attention head -----------------------------------------------------------------------------------------------

COPY_LOGIT = 24.0  # S: 8192 strangers together stay below a hundredth of one copy
ANCHOR_ODDS = 128.0  # R
K1 = 1.5  # as in BM25

# --- words ------------------------------------------------------------------------------------------------------------

CHUNK_WORDS = 150  # a "document" for the document frequency
IDF_POWER = 0.5
TRACE = 0.01  # the weight of words that carry no topic, relative to the heaviest
PIECES = 2_000  # tokens for the pieces of rare words

BOS, PAD, UNK = "<|begin|>", "<|pad|>", "<|unknown|>"
PROMPT = "\ue000"  # private use: stands for the prompt prefix
CONTINUES = "##"

#: Endings that inflect a word and say nothing about its topic.
ENDINGS = ("s", "es", "d", "ed", "ing", "ly", "er", "ers", "ment", "ments", "ness")

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those such same other another each every either neither both all any some no none few
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves one ones who whom whose which what whatever whichever whoever
    someone somebody something anyone anybody anything everyone everybody everything nobody nothing
    when where why how whether while whenever wherever there here then than
    am is are was were be been being do does did done doing have has had having will would shall should can could may
    might must ought cannot dont doesnt didnt isnt arent wasnt werent havent hasnt hadnt wont wouldnt shouldnt cant couldnt
    im youre hes shes theyre ive youve weve theyve ill youll theyll id youd theyd lets
    whats thats theres heres whos wheres hows its
    and or nor but if because as until unless although though so yet
    of at by for with about against between among into through during before after above below to from up down in out
    on off over under upon within without toward towards onto via per across along around
    not only own too very just also even ever never again further once more most much many less least
    s t e g eg ie etc vs please tell
    """.split()
)

#: Letters that decomposition leaves alone.
LETTERS = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ł": "l", "þ": "th", "ð": "d", "ı": "i"}

# --- text -------------------------------------------------------------------------------------------------------------

WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
SKIPPED_PAGES = re.compile(r"genindex|py-modindex|changelog|/search\.html|/whatsnew/|/releases/|copyright|release-")


@dataclass
class Text:
    """What was read: prose for counting, and pairs of words that derive from each other."""

    prose: list[str] = field(default_factory=list)
    derivations: set[tuple[str, str]] = field(default_factory=set)


def read_text(paths: Iterable[Path]) -> Text:
    """Read web pages, plain text, WordNet's data files and R's text data; pass over everything else."""
    text = Text()
    files = sorted({file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])})
    seen: set[str] = set()
    for file in files:
        if not file.is_file() or SKIPPED_PAGES.search(file.as_posix()):
            continue
        if file.name in WORDNET_FILES:
            read_wordnet(file, text)
            continue
        if file.name == "Rdata.rdb":
            prose = strings_of_r(file.read_bytes())
        elif file.name.endswith((".html", ".html.gz")):
            prose = strip_markup(decoded(file))
        elif file.suffix == ".txt" and not file.name.endswith(".rst.txt"):
            prose = decoded(file)
        else:
            continue
        digest = hashlib.sha256(prose.encode()).hexdigest()
        if digest not in seen:  # packages hold the same page twice, as a link or as a copy
            seen.add(digest)
            text.prose.append(prose)
    return text


def decoded(file: Path) -> str:
    raw = file.read_bytes()
    return (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8", "replace")


def strip_markup(page: str) -> str:
    page = re.sub(r"(?is)<(script|style|pre|nav|head|footer)\b.*?</\1>", " ", page)
    page = re.sub(r'(?is)<div class="(?:sphinxsidebar|related|navheader|navfooter)".*?</div>', " ", page)
    return html.unescape(re.sub(r"(?s)<[^>]*>", " ", page))


def strings_of_r(database: bytes) -> str:
    """The strings in a database of R objects: zlib streams, in which a string is a header, a length and its bytes."""
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


def read_wordnet(file: Path, text: Text) -> None:
    """Words and glosses as prose, and the "derivationally related" pointers between single words."""
    suffix_of = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
    words_at: dict[tuple[str, str], list[str]] = {}

    def synsets(name: str) -> Iterator[tuple[str, list[str], list[str], str]]:
        for line in decoded(file.with_name(f"data.{name}")).splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, _, gloss = line.partition("|")
            parts = fields.split()
            end = 4 + 2 * int(parts[3], 16)
            words = [re.sub(r"\(.*\)$", "", word) for word in parts[4:end:2]]
            yield parts[0], words, parts[end + 1 : end + 1 + 4 * int(parts[end])], gloss

    for name in {*suffix_of.values()}:
        for offset, words, _, _ in synsets(name):
            words_at[name, offset] = words
    glosses: list[str] = []
    for _, words, pointers, gloss in synsets(file.name.removeprefix("data.")):
        glosses.append(" ".join(words).replace("_", " ") + ": " + gloss)
        for symbol, target, part, ends in zip(*[iter(pointers)] * 4, strict=False):
            if symbol == "+":
                source_word = words[int(ends[:2], 16) - 1].lower()
                target_word = words_at[suffix_of[part], target][int(ends[2:], 16) - 1].lower()
                if source_word.isalpha() and target_word.isalpha():
                    text.derivations.add((source_word, target_word))
    text.prose.append("\n".join(glosses))


# --- tokenizer --------------------------------------------------------------------------------------------------------


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


def tokenizer_of(vocabulary: list[str]) -> Tokenizer:
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


@dataclass
class Words:
    """The words of the text, counted, and grouped by stem."""

    chunks: list[str]  # normalised, of CHUNK_WORDS words each
    count: Counter[str]  # in how many chunks a word occurs
    forms: dict[str, list[str]]  # the words of a stem


def count_words(prose: Iterable[str]) -> Words:
    normalize = normalizer().normalize_str
    chunks: list[str] = []
    count: Counter[str] = Counter()
    for document in prose:
        words = normalize(document).split()
        for start in range(0, len(words), CHUNK_WORDS):
            chunk = words[start : start + CHUNK_WORDS]
            chunks.append(" ".join(chunk))
            count.update(word for word in set(chunk) if word.isascii())
    forms: defaultdict[str, list[str]] = defaultdict(list)
    stem = snowballstemmer.stemmer("english").stemWord
    for word in sorted(count):
        if word.isalpha():
            forms[stem(word)].append(word)
    return Words(chunks, count, dict(forms))


def choose_vocabulary(words: Words, size: int = VOCABULARY, pieces: int = PIECES) -> list[str]:
    """Special tokens, characters, numbers; then stems by frequency; the rest for pieces of what has no token."""
    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = dict.fromkeys([BOS, PAD, UNK, PROMPT, *characters, *(CONTINUES + c for c in characters)])
    vocabulary |= dict.fromkeys(CONTINUES + ending for ending in ENDINGS)
    vocabulary |= dict.fromkeys(str(number) for number in [*range(10, 100), *range(1900, 2050)])
    vocabulary |= dict.fromkeys(f"{CONTINUES}{number:02}" for number in range(100))
    vocabulary |= dict.fromkeys(sorted(FUNCTION_WORDS))
    numbers = sorted((w for w in words.count if w.isdigit() and len(w) <= 4), key=lambda w: (-words.count[w], w))
    vocabulary |= dict.fromkeys(numbers[:300])

    frequency = {stem: sum(words.count[form] for form in forms) for stem, forms in words.forms.items()}
    for stem in sorted(frequency, key=lambda stem: (-frequency[stem], stem)):
        tokens: list[str] = []
        # Shortest first; a form seen in fewer than three chunks gets no token beside its sister's.
        for form in sorted(words.forms[stem], key=lambda form: (len(form), form)):
            covered = any(form.startswith(token) and form[len(token) :] in ENDINGS for token in tokens)
            if form not in vocabulary and not covered and (words.count[form] >= 3 or not tokens):
                tokens.append(form)
        if len(vocabulary) + len(tokens) > size - pieces:
            break
        vocabulary |= dict.fromkeys(tokens)

    rest = {word: 1 for word in sorted(words.count) if word not in vocabulary and word.isalpha()}
    model = Tokenizer(models.WordPiece(unk_token=UNK, continuing_subword_prefix=CONTINUES))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[UNK], continuing_subword_prefix=CONTINUES, show_progress=False
    )
    model.train_from_iterator(rest, trainer)
    for token, _ in sorted(model.get_vocab().items(), key=lambda item: item[1]):  # in the order they were learnt
        if len(vocabulary) == size:
            break
        vocabulary.setdefault(token)
    return list(vocabulary)


# --- weights ----------------------------------------------------------------------------------------------------------


def signs(name: str, size: int) -> torch.Tensor:
    """`size` pseudo-random signs that depend on the name alone."""
    bits = int.from_bytes(hashlib.shake_256(name.encode()).digest(size // 8 + 1), "big")
    return torch.tensor([1.0 if bits >> index & 1 else -1.0 for index in range(size)])


def codes_of(stems: list[str], loudness: dict[str, float]) -> dict[str, torch.Tensor]:
    """A code for each stem: the loudest stems of the text share an orthogonal basis, the next ones another, and so on."""
    index = torch.arange(CODE)
    parity = index[:, None] & index[None, :]
    for shift in (8, 4, 2, 1):
        parity ^= parity >> shift
    hadamard = 1.0 - 2.0 * (parity & 1)
    codes: dict[str, torch.Tensor] = {}
    for rank, stem in enumerate(sorted(set(stems), key=lambda stem: (-loudness[stem], stem))):
        basis, row = divmod(rank, CODE)
        if row == 0:
            flips = signs(f"basis {basis}", CODE)
        codes[stem] = hadamard[row] * flips
    return codes


def stems_of(vocabulary: list[str]) -> list[str]:
    stem = snowballstemmer.stemmer("english").stemWord
    return [stem(token) if token.isalpha() and token != PROMPT else token for token in vocabulary]


def weights_of(vocabulary: list[str], frequency: dict[str, int], chunks: int) -> list[float]:
    """From 0 to 1 for each token: its stem's idf in the text."""
    silent = {BOS, PAD, UNK, PROMPT, *FUNCTION_WORDS, *(CONTINUES + ending for ending in ENDINGS)}
    weights: list[float] = []
    for token, stem in zip(vocabulary, stems_of(vocabulary), strict=True):
        idf = math.log(chunks / max(frequency.get(stem, 0), 1)) / math.log(chunks)
        weights.append(TRACE if token in silent else max(TRACE, idf**IDF_POWER))
    return weights


def count_stems(vocabulary: list[str], chunks: list[str], tokenizer: Tokenizer) -> dict[str, int]:
    """In how many chunks a stem occurs, once the tokenizer has cut the words."""
    stems = stems_of(vocabulary)
    frequency: Counter[str] = Counter()
    for start in range(0, len(chunks), 1000):
        for encoding in tokenizer.encode_batch_fast(chunks[start : start + 1000], add_special_tokens=False):
            frequency.update({stems[index] for index in encoding.ids})
    return frequency


def embeddings(vocabulary: list[str], weights: list[float], frequency: dict[str, int]) -> torch.Tensor:
    stems = stems_of(vocabulary)
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
            row[RESERVED:] = code * TRACE
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


def config_of(vocabulary: list[str]) -> dict[str, object]:
    return {
        "architectures": ["LlamaBidirectionalModel"],
        "model_type": "llama_bidirec",
        "pooling": "avg",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": vocabulary.index(BOS),
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
        "pad_token_id": vocabulary.index(PAD),
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


def build(text: Text, out: Path) -> None:
    words = count_words(text.prose)
    vocabulary = choose_vocabulary(words)
    tokenizer = tokenizer_of(vocabulary)
    frequency = count_stems(vocabulary, words.chunks, tokenizer)
    weights = weights_of(vocabulary, frequency, len(words.chunks))
    table = embeddings(vocabulary, weights, frequency)

    out.mkdir(parents=True, exist_ok=True)
    save_file(model_weights(table), out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    for name, content in (("config.json", config_of(vocabulary)), ("tokenizer_config.json", TOKENIZER_CONFIG)):
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
