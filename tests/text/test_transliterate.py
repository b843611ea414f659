"""Transliteration: Hindi in Latin letters comes back in Devanagari, and English is left alone."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import unicodedata

import pytest

from kalpana.text.normalize import clean
from kalpana.text.transliterate import hint, transliterate
from kalpana.world.grammar import FORMS
from kalpana.world.grammar_hi import casual as informal
from kalpana.world.world import KINDS

HINDI = re.compile("[\u0900-\u0963]+")
# Spellings of the consonants क … ह, and of the vowels अ … ऑ.
CASUAL = (
    "k kh g gh n ch chh j jh n t th d dh n t th d dh n p ph b bh m y r l v sh sh s h",
    "a aa i ee u oo ri e ai o au o",
)
ISO = (
    "k kh g gh ṅ c ch j jh ñ ṭ ṭh ḍ ḍh ṇ t th d dh n p ph b bh m y r l v ś ṣ s h",
    "a ā i ī u ū r̥ ē ai ō au ô",
)


def captions(language: str, count: int, seed: int = 5) -> list[str]:
    """Dev captions of all kinds and forms, without quoted text."""
    rng, found = random.Random(seed), list[str]()
    kinds = ("objects", "everything") if language == "hi" else tuple(KINDS)
    while len(found) < count:
        kind = KINDS[rng.choice(kinds)]
        text = clean(kind.caption(kind.sample(rng, "dev"), language, rng.choice(FORMS), rng))
        if not re.search('["A-Z0-9]' if language == "hi" else '"', text):
            found.append(text)
    return found


def syllables(word: str, table: tuple[str, str]) -> list[list[str]]:
    """The letters of a word as [consonant, vowel, nasal] in a scheme of spelling, with schwas."""
    consonants = dict(zip("कखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसह", table[0].split(), strict=True))
    vowels = table[1].split()
    dotted = {"ph": "f", "j": "z", "ḍ": "ṛ", "ḍh": "ṛh"}
    found: list[list[str]] = []
    for letter in unicodedata.normalize("NFD", word):
        if letter in consonants:
            found.append([consonants[letter], "a", ""])
        elif letter in "अआइईउऊऋएऐओऔऑ":
            found.append(["", vowels["अआइईउऊऋएऐओऔऑ".index(letter)], ""])
        elif letter in "ािीुूृेैोौॉ":
            found[-1][1] = vowels[1 + "ािीुूृेैोौॉ".index(letter)]
        elif letter == "\u094d":
            found[-1][1] = ""
        elif letter == "\u093c":
            found[-1][0] = dotted.get(found[-1][0], found[-1][0])
        else:
            found[-1][2] = "ṁ"
    return found


def iso(word: str, rng: random.Random) -> str:
    """ISO 15919, which writes every schwa."""
    return "".join("".join(parts) for parts in syllables(word, ISO))


def chat(word: str, rng: random.Random) -> str:
    """As people type: without silent schwas, long vowels by one letter or two."""
    found = syllables(word, CASUAL)
    last = len(found) - 1
    if last > 0 and found[-1][1:] == ["a", ""] and found[-2][1]:
        found[-1][1] = ""
    for k in range(last - 1, 0, -1):
        between = found[k - 1][1] and not found[k - 1][2] and all(found[k + 1][:2])
        if found[k][0] and found[k][1:] == ["a", ""] and between:
            found[k][1] = ""
    for k, parts in enumerate(found):
        for two, one in (("aa", "a"), ("ee", "i"), ("oo", "u")):
            if parts[1] == two and (rng.random() < 0.5 or (k == last and two != "oo")):
                parts[1] = one
        parts[0] = (
            {"v": "w", "chh": "ch"}.get(parts[0], parts[0]) if rng.random() < 0.4 else parts[0]
        )
        parts[2] = parts[2] and "n"
    return "".join("".join(parts) for parts in found)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "least"), [(chat, 0.98), (iso, 0.985)])
def test_romanised_captions_come_back(scheme: object, least: float) -> None:
    """Compared without the dots and moons that informal spelling leaves out."""
    rng, right, total = random.Random(0), 0, 0
    for text in captions("hi", 500):
        romanised = HINDI.sub(lambda found: scheme(found[0], rng), text)  # type: ignore[operator]
        assert not HINDI.search(romanised)
        read = transliterate(romanised)
        wanted = HINDI.findall(informal(text))
        found = HINDI.findall(informal(read.text)) if read else []
        total += len(wanted)
        if len(found) == len(wanted):
            right += sum(a == b for a, b in zip(wanted, found, strict=True))
    assert right / total >= least


@pytest.mark.slow
def test_english_is_never_changed() -> None:
    for text in captions("en", 3000, seed=6):
        assert transliterate(text) is None and hint(text) is None, text


@pytest.mark.parametrize(
    "text",
    [
        *("a cat", "the log", "bag", "more pools", "see the sea", "main road", "zoom in", "DALL-E"),
        *("dreams of electric sheep", "Guru in a sari near a gate", "a portrait of Frida Kahlo"),
        *("Taj Mahal at dawn", "ein roter Apfel", "un chat noir", "128 px", "", "123", "!?"),
        *("तीन लाल सेब", 'a sign that says "teen laal seb"', "cyberpunk samurai, octane render"),
    ],
)
def test_other_texts_are_not_hindi(text: str) -> None:
    assert transliterate(text) is None


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("teen laal seb", "तीन लाल सेब"),
        ("tin lal seb", "तीन लाल सेब"),
        ("TEEN LAAL SEB", "तीन लाल सेब"),
        ("tīna lāla sēba", "तीन लाल सेब"),
        ("tIna lAla seba", "तीन लाल सेब"),
        ("ek kutta", "एक कुत्ता"),
        ("seb", "सेब"),
        ("neeli gaadi ke upar chaand", "नीली गाड़ी के ऊपर चाँद"),
        ("nili gari ke oopar chand", "नीली गाड़ी के ऊपर चाँद"),
        ("Do bade kele aur ek chhota kutta", "दो बड़े केले और एक छोटा कुत्ता"),
        ("mere ghar ke paas ek ped hai.", "मेरे घर के पास एक पेड़ है।"),
        ("safed phool, raat mein", "सफ़ेद फूल, रात में"),
        ('ek board jis par "STOP" likha hai', 'एक बोर्ड जिस पर "STOP" लिखा है'),
        ("लाल seb", "लाल सेब"),
        ("3 hare ped", "3 हरे पेड़"),
    ],
)
def test_what_people_type(typed: str, wanted: str) -> None:
    read = transliterate(typed)
    assert read is not None and read.text == wanted
    assert wanted in read.note
    assert transliterate(wanted) is None


def test_words_that_are_not_known_stay_and_are_listed() -> None:
    read = transliterate("ek gulabi zzxq")
    assert read is not None and read.text == "एक गुलाबी zzxq"
    assert read.note.endswith("left as it is: zzxq (write Hindi words in Devanagari)")


def test_a_mixed_prompt_gets_a_hint() -> None:
    text = "ek kutta with a red hat in the garden"
    assert transliterate(text) is None
    assert hint(text) == ("ek, kutta may be Hindi in Latin letters: write the prompt in Devanagari")
    assert hint("teen laal apple") == (
        "laal may be Hindi in Latin letters: write the prompt in Devanagari"
    )
    for other in ("ek kutta", "a red hat", "Taj Mahal at dawn", "तीन सेब", ""):
        assert hint(other) is None


@pytest.mark.slow
def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; from kalpana.text.transliterate import transliterate; transliterate('seb'); "
        "print([n for n in ('torch', 'tokenizers', 'numpy', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
