"""Transliteration of Hindi in Latin letters to Devanagari: "teen laal seb" to "तीन लाल सेब".

The vocabulary is that of the world's Hindi captions, in ``hindi.txt.gz``; it is written by
``kalpana tokenizer hindi``. Latin spellings and Devanagari words are reduced to the
same phonemes, one character each. A word is looked up by a coarse key (consonants without
aspiration, three classes of vowels) and chosen by a weighted edit distance, in which the usual
variations (aa/a, ee/i, oo/u, sh/s, v/w, doubled consonants, nasals, schwas) cost little.

The spelling may be casual, or scholarly (ISO 15919, IAST, ITRANS), where every schwa is written.
Imports nothing heavy.
"""

from __future__ import annotations

import gzip
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import Final

from kalpana.text.normalize import clean

VOCABULARY = Path(__file__).parent / "hindi.txt.gz"
KNOWN = Path(__file__).parent / "words.txt.gz"  # the words of captions, in both languages
# Words of English that captions of the world do not contain, or that are also spellings of Hindi
# words: बाग, बस, पूल, मोर, पास …
ENGLISH: Final = """
about after am an any apart as ask bad bare be because been before best better came can car
come could dark day did do does down draw each easy even every far fast feel few find first for
from full gave get give go good got great had happy hard hare has have he her here high him his
hot how i if in into it its just keep kind know last late less let life light like lit live long
look lot made main make man many may me mean mere mine more most much must my name near need
never new next nice no none nor not now of off oh old one only open or other our out over own
pair pass per pool poor pure put quite ran read real rest right road run sad safe said same sang
sat saw say see seen self sell she side sit so some soon such sun sure take tale tall tan tar
teen tell than that the their them then there these they thing this those to told too top true
try two up us use very want warm was way we well went were what when where which while who why
will wish with wood word work world would year yes yet you young your mail male mall pan pat pal
hath hat hall kale lap lad gate guru sari bag bus ball bar dali dal gala mala rat rail sale sake
seat sheep shy soft sole tone toy kite kit pear peer bear bird
log zoom bash
"""
_MARKS: Final = frozenset(("a", "an", "the", "of", "in", "on", "is", "and", "to", "at", "for"))
QUOTED: Final = re.compile(r"\"[^\"]*\"")
WORD: Final = re.compile(
    r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f\u0900-\u0903\u093a-\u094f]|~|[.^](?=[^\W\d_]))*"
)

# Latin spellings, longest first, as phonemes: aspirates are capitals, long vowels A, I and U, ai E,
# au O; dental and retroflex are one; x and X are ड़ and ढ़; M is a nasalisation.
_LATIN: Final = {
    **{"chh": "C", "ksh": "kS", "kh": "K", "gh": "G", "ch": "c", "jh": "J", "th": "T", "dh": "D"},
    **{"ph": "P", "bh": "B", "sh": "S", "f": "P", "q": "k", "w": "v", "x": "kS", "gy": "gy"},
    **{"aa": "A", "ee": "I", "ii": "I", "oo": "U", "uu": "U", "ai": "E", "au": "O", "ou": "O"},
    **{"ei": "e", "ea": "I", "c": "c"},
    **{"ā": "A", "ī": "I", "ū": "U", "ē": "e", "ō": "o", "ô": "o", "ê": "E", "r̥": "ri"},
    **{"ś": "S", "ṣ": "S", "ṭh": "T", "ḍh": "D", "ṭ": "t", "ḍ": "d", "ṇ": "n", "ñ": "n", "ṅ": "n"},
    **{"ṛh": "X", "ṛ": "x", "r̤h": "X", "r̤": "x", "m̐": "M", "ṁ": "M", "ṃ": "M", "~": "M", "ġ": "g"},
    **{"A": "A", "I": "I", "U": "U", ".dh": "X", ".d": "x", ".n": "M", "~n": "n", "ḵẖ": "K"},
}
_SPELLING: Final = re.compile(
    "|".join(map(re.escape, sorted(_LATIN, key=len, reverse=True))) + "|."
)
_CONSONANTS: Final = dict(
    zip(
        "कखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसहळ",
        "kKgGncCjJntTdDntTdDnpPbBmyrlvSSshl",
        strict=True,
    )
)
_SOUNDS: Final = ("a", "A", "i", "I", "u", "U", "ri", "e", "E", "o", "O", "o", "E", "o")
_VOWELS: Final = dict(zip("अआइईउऊऋएऐओऔऑऍऒ", _SOUNDS, strict=True))
_SIGNS: Final = dict(zip("ािीुूृेैोौॉॅॊ", _SOUNDS[1:], strict=True))
_NUKTA: Final = {"d": "x", "D": "X", "j": "z"}
_VOWEL: Final = frozenset("aAiIuUeEoO")
_COARSE: Final = str.maketrans("KGCJTDPBSzIeEyUoO", "kgcjtdpbsjiiiiuuu", "aA")
_NEAR: Final[dict[frozenset[str], float]] = {
    frozenset(pair): cost
    for cost, pairs in {
        0.0: "Mn",
        0.1: "iI uU xr xd XD zj zs",
        0.12: "aA",
        0.15: "Mm",
        0.2: "Ss cC",
        0.35: "kK gG jJ tT dD pP bB",
        0.3: "eE oO Xr Xd yi yI xD",
        0.4: "ei uo oU eI vU vu ya",
        0.6: "nm vb aE aO iE ao ae",
    }.items()
    for pair in pairs.split()
}
_SMALL: Final = {"a": 0.2, "M": 0.35, "y": 0.4, "h": 0.5}  # cost of leaving a phoneme out


@dataclass(frozen=True)
class Transliteration:
    """A prompt in Devanagari, and a ``note`` for the user that states how it was read."""

    text: str
    note: str


def transliterate(text: str) -> Transliteration | None:
    """The text with its Hindi in Latin letters in Devanagari; None if it is not such a text.

    Quoted text, and words of a Hindi text that the vocabulary does not have, remain as they are.
    English is never changed: a text is read as Hindi if it has Hindi words that are no English
    words, and at most half as many words of English or of neither language.
    """
    text = clean(text)
    reading = _read(text)
    if not reading.is_hindi:
        return None

    def devanagari(part: str) -> str:
        part = WORD.sub(lambda found: reading.words.get(found[0], found[0]), part)
        return re.sub(r"(?<=[\u0900-\u097f])\s?[.|](?=\s|$)", "।", part)

    written = _outside_quotes(text, devanagari)
    note = f"read as Hindi: {written}"
    if reading.left:
        note += f"; left as it is: {', '.join(reading.left)} (write Hindi words in Devanagari)"
    return Transliteration(written, note)


def hint(text: str) -> str | None:
    """Advice for a text with Hindi words in Latin letters that ``transliterate`` leaves as it is;
    None for other texts."""
    text = clean(text)
    reading = _read(text)
    mostly = len(reading.words) > len(reading.left) and not _MARKS & {*text.lower().split()}
    if reading.is_hindi or len(reading.hindi) < (1 if mostly else 2):
        return None
    return (
        f"{', '.join(reading.hindi)} may be Hindi in Latin letters: write the prompt in Devanagari"
    )


@dataclass(frozen=True)
class _Reading:
    """The words of a text: ``words``, Latin spellings of Hindi words, with these; ``left``, other
    Latin words; ``hindi``, those of ``words`` that are no English words."""

    words: dict[str, str]
    left: tuple[str, ...]
    hindi: tuple[str, ...]
    is_hindi: bool


def _read(text: str) -> _Reading:
    """The reading of a text in its normal form."""
    tokens = WORD.findall(QUOTED.sub(" ", text))
    latin = [token for token in tokens if _is_latin(token)]
    # The most frequent case, English, is decided without a look at the vocabulary.
    if all(token.lower() in _english() for token in latin):
        return _Reading({}, tuple(dict.fromkeys(latin)), (), False)
    scholarly = any(_is_scholarly(token) for token in latin)
    found = {token: _word(token, scholarly) for token in dict.fromkeys(latin)}
    words = {token: match[0] for token, match in found.items() if match is not None}
    left = tuple(token for token, match in found.items() if match is None)
    hindi = tuple(token for token in words if token.lower() not in _english())
    sure = sum(token in hindi or "\u0900" <= token[0] <= "\u097f" for token in tokens)
    others = sum(token in left for token in latin)
    both = sum(token in words and token not in hindi for token in latin)
    if not hindi:
        is_hindi = False
    elif sure > 1:
        is_hindi = sure + both >= 2 * others
    else:  # a short text of one word of Hindi: only if nothing in it is doubtful
        doubtful = others > 0 or both > 2 or any(token.lower() in _MARKS for token in latin)
        match = found[hindi[0]]
        is_hindi = not doubtful and match is not None and match[1] <= 0.25
    return _Reading(words, left, hindi, is_hindi)


def _is_latin(token: str) -> bool:
    return "a" <= unicodedata.normalize("NFD", token[0].lower())[0] <= "z"


def _is_scholarly(token: str) -> bool:
    """Whether a spelling marks long vowels by macrons (ISO, IAST) or capitals (ITRANS)."""
    marked = bool(re.search("[\u0304\u0323\u0310\u0324]", unicodedata.normalize("NFD", token)))
    return marked or bool(re.search("[a-z.~][A-Z]", token))


def _outside_quotes(text: str, function: Callable[[str], str]) -> str:
    """The text with a function applied to the parts outside quotes."""
    parts, end = list[str](), 0
    for quoted in QUOTED.finditer(text):
        parts += [function(text[end : quoted.start()]), quoted[0]]
        end = quoted.end()
    return "".join([*parts, function(text[end:])])


@cache
def _english() -> frozenset[str]:
    """Words of English, in lower case."""
    known = gzip.decompress(KNOWN.read_bytes()).decode("utf-8").split("\n")
    return frozenset(ENGLISH.split()) | {word for word in known if word.isascii()}


@cache
def _vocabulary() -> dict[str, list[tuple[str, float, str, str]]]:
    """Hindi words by key, each as (word, cost of its rarity, casual phonemes, all phonemes)."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    by_key: dict[str, list[tuple[str, float, str, str]]] = {}
    for line in lines:
        word, _, count = line.partition(" ")
        written = phonemes(word)
        entry = (
            word,
            0.035 * math.log(1e6 / int(count)),
            _as_spelled(_without_schwas(written)),
            written,
        )
        for key in _keys(written):
            by_key.setdefault(key, []).append(entry)
    return by_key


@lru_cache(maxsize=10_000)
def _word(token: str, scholarly: bool) -> tuple[str, float] | None:
    """The Hindi word of a Latin spelling and its distance; None if none is near."""
    typed = _typed(token, scholarly)
    if len(typed) < 2 or not _VOWEL & {*typed}:
        return None
    best, least = None, math.inf
    most = 0.3 + 0.07 * len(typed)
    for key in dict.fromkeys(_keys(typed)):
        for word, rarity, casual, full in _vocabulary().get(key, ()):
            cost = _distance(typed, full if scholarly else casual)
            if cost <= most and cost + rarity < least:
                best, least = (word, cost), cost + rarity
    return best


def _typed(token: str, scholarly: bool) -> str:
    """The phonemes of a Latin spelling."""
    if token.isupper() or not scholarly:
        token = token.lower()
    text = unicodedata.normalize("NFC", token).replace("\u035f", "")  # ISO: k͟h is ख़
    if scholarly:  # ITRANS: capitals other than A, I and U are retroflex letters, and M a nasal
        text = re.sub(r"RRi|R\^i|R(?=[b-df-hj-np-tv-zST])|ṛ(?=[b-df-hj-np-tv-zśṣṭḍṇñ])", "ri", text)
        text = re.sub("M|[.]N", "ṁ", text)
        text = re.sub("[B-HJ-TV-Z]", lambda found: found[0].lower(), text)
    result = "".join(_LATIN.get(found, found) for found in _SPELLING.findall(text))
    result = re.sub(r"[^a-zA-Z]", "", result)
    if scholarly:
        return result
    # Casual spelling writes a final schwa after a cluster alone: chitra, but ghar.
    return _as_spelled(re.sub("(?<=[aAiIuUeEoO][^aAiIuUeEoO])a$", "A", result))


def phonemes(word: str) -> str:
    """The phonemes of a word in Devanagari, with all schwas."""
    result = ""
    for letter in unicodedata.normalize("NFD", word):
        if letter in _CONSONANTS:
            result += _CONSONANTS[letter] + "a"
        elif letter in _VOWELS:
            result += _VOWELS[letter]
        elif letter in _SIGNS:
            result = result[:-1] + _SIGNS[letter]
        elif letter == "\u094d":  # virama
            result = result[:-1]
        elif letter == "\u093c" and result[-2:-1] in _NUKTA:
            result = result[:-2] + _NUKTA[result[-2]] + "a"
        elif letter in "ंँ":
            result += "M"
    return result


def _without_schwas(written: str) -> str:
    """The phonemes as spoken: the final schwa, and those between vowel-consonant and
    consonant-vowel, from the right, are silent (Ohala 1983)."""
    spoken = list(written)
    if len(spoken) > 2 and spoken[-1] == "a":
        spoken.pop()
    for k in range(len(spoken) - 3, 1, -1):
        before, after = spoken[k - 2 : k], spoken[k + 1 : k + 3]
        if (
            spoken[k] == "a"
            and [sound in _VOWEL for sound in before] == [True, False]
            and [sound in _VOWEL for sound in after] == [False, True]
            and "M" not in (*before, *after)
        ):
            del spoken[k]
    return "".join(spoken)


def _as_spelled(spoken: str) -> str:
    """The phonemes as casual spelling tells them apart: not two vowels from a diphthong, nor a
    consonant and h from an aspirate."""
    spoken = re.sub("[aA][iI]", "E", re.sub("[aA][uU]", "O", spoken))
    return re.sub("([kgcjtdpb])h", lambda found: found[1].upper(), spoken)


def _keys(written: str) -> list[str]:
    """The keys of phonemes: coarse, without doubled letters; x, X and M may be heard in ways."""
    ways = [{"x": "rd", "X": "rd", "M": ("n", "m", "")}.get(sound, (sound,)) for sound in written]
    if math.prod(map(len, ways)) > 64:
        return []
    keys = ("".join(choice).translate(_COARSE) for choice in product(*ways))
    return [re.sub(r"([kgcjtdpb])h", r"\1", re.sub(r"(.)\1+", r"\1", key)) for key in keys]


def _distance(typed: str, word: str) -> float:
    """Weighted edit distance between two strings of phonemes."""
    row = [0.0]
    for j, sound in enumerate(word):
        row.append(row[-1] + _dropped(word, j, sound))
    for i, sound in enumerate(typed):
        previous, row = row, [row[0] + _dropped(typed, i, sound)]
        for j, other in enumerate(word):
            change = 0.0 if sound == other else _NEAR.get(frozenset((sound, other)), 1.0)
            row.append(
                min(
                    previous[j] + change,
                    previous[j + 1] + _dropped(typed, i, sound),
                    row[j] + _dropped(word, j, other),
                )
            )
    return row[-1]


def _dropped(text: str, k: int, sound: str) -> float:
    """The cost of leaving out phoneme k of a text; the first one is never small."""
    if not k:
        return 1.0
    return 0.1 if text[k - 1] == sound else _SMALL.get(sound, 1.0)
