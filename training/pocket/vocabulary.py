"""The tokenizer, which does the spelling, and how much each of its tokens weighs.

It lower-cases, strips accents, joins digit groups (``1,000`` is ``1000``) and turns everything but letters and digits
into spaces. A ``query: `` or ``passage: `` at the very beginning of the text, the prompt of this family of models,
becomes one private character; the same words later in the text stay words. The words are then cut by longest match
(WordPiece). What the forms of a stem have in common is a token (``polic`` for policy and policies), and endings
(``##y``, ``##ies``) weigh nothing; a form that cannot be cut so has a token with the same stem. Rare words fall into
pieces."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import snowballstemmer  # type: ignore[import-untyped]
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from .corpus import Document

VOCABULARY = 13_312
CHUNK_WORDS = 150  # a "document" for the document frequency
IDF_POWER = 0.5
TRACE = 0.01  # the weight of words that carry no topic, relative to the heaviest
RARE_FORM = 0.03  # a form with a smaller share of its stem's occurrences gets no token of its own
PIECES = 3_500  # tokens for the pieces of rare words

BOS, PAD, UNK = "<|begin|>", "<|pad|>", "<|unknown|>"
IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>")
PROMPT = "\ue000"  # private use: stands for the prompt prefix
SPECIAL = (BOS, PAD, UNK, *IMAGE_TOKENS, PROMPT)
CONTINUES = "##"

#: Kinds of text count alike, however long they are; what is none of these is a page of documentation.
_KINDS = {"wordnet-base": "dictionary", "r-cran-janeaustenr": "book"}


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
    tokenizer.add_special_tokens([BOS, PAD, UNK, *IMAGE_TOKENS])
    return tokenizer


@dataclass(frozen=True)
class Words:
    """The words of the text, counted, and grouped by stem."""

    chunks: list[str]  # normalised, of CHUNK_WORDS words each
    count: Counter[str]  # in how many chunks a word occurs
    spread: dict[str, float]  # the same, so that no kind of text drowns the others
    forms: dict[str, list[str]]  # the words of a stem


@dataclass(frozen=True)
class Vocabulary:
    """The tokens with all that follows from the text that was counted."""

    stems: dict[str, str]  # the stem of each token, in the order of their numbers
    tokenizer: Tokenizer
    weights: list[float]  # from 0 to 1
    frequency: dict[str, int]  # in how many chunks a stem occurs
    count: Counter[str]  # in how many chunks a word occurs

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Vocabulary:
        """The vocabulary of the training documents."""
        words = words_of(documents)
        stems = choose_vocabulary(words)
        tokenizer = tokenizer_of(stems)
        frequency = count_stems(stems, words.chunks, tokenizer)
        weights = weights_of(stems, frequency, len(words.chunks))
        return cls(stems, tokenizer, weights, frequency, words.count)


def words_of(documents: Iterable[Document]) -> Words:
    """The words of the training documents."""
    text: defaultdict[str, list[str]] = defaultdict(list)
    for document in documents:
        text[_KINDS.get(document.package, "page")].append(document.text)
    return count_words(text)


def count_words(text: Mapping[str, list[str]]) -> Words:
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
    tokens = [*SPECIAL, *characters, *(CONTINUES + character for character in characters)]
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


def weights_of(vocabulary: dict[str, str], frequency: dict[str, int], chunks: int) -> list[float]:
    """From 0 to 1 for each token: its stem's idf in the text."""
    silent = {*SPECIAL, *FUNCTION_WORDS, *(CONTINUES + ending for ending in ENDINGS)}
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
