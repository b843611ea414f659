"""The normal form of prompts, labels and queries."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalpana.text.normalize import clean, comparable
from kalpana.text.tokenizer import Tokenizer

ODD = (
    "\u200b\u200c\u200d\u200e\u200f\u00ad\u2060\ufeff\u202a\u202e\u2066\ufe0f\u0301\u093c\u094d"
    "\U0001f3f4\U000e0067\U000e0062\U000e007f\U0001f469\U0001f680\U0001f3fd“”‘’\u3000\u2028\r\n\0"
    "ＡｂＣ！＂＇कषسA e"
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.text() | st.text(st.sampled_from(ODD)))
def test_the_normal_form_is_stable_visible_and_on_one_line(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert comparable(comparable(text)) == comparable(text) == comparable(cleaned)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b\u200e\u200f\ufeff\xad]", cleaned)
    assert cleaned == cleaned.strip() and "  " not in cleaned


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("\ufeffa red\u200b apple\u2060", "a red apple"),
        ("a\tred\r\n  apple\0", "a red apple"),
        ("a\u00a0red\u3000apple\u2028", "a red apple"),
        ("straw\u00adberry", "strawberry"),
        ("\u202ea red apple\u202c \u200fتفاحة", "a red apple تفاحة"),
        ("ａ　ｒｅｄ　ａｐｐｌｅ，　３", "a red apple, 3"),
        ("the cat’s “HELLO” and ‘so’ „low‟", 'the cat\'s "HELLO" and \'so\' "low"'),
        ("cafe\u0301", "café"),
        ("cafe\u200d\u0301", "café"),
        ("\u0958", "\u0915\u093c"),  # one form of the nukta
        ("सेब\u200c", "सेब"),
        ("\u200dसेब", "सेब"),
        ("सेब\u200c।", "सेब।"),
        ("सेब \u200cलाल", "सेब लाल"),
        ("a\u200dpple", "apple"),
        ("🍎\u200d", "🍎"),
        ("🍎\u200d apple", "🍎 apple"),
        ("a\U000e0061\U000e0070\U000e007f", "a"),  # letters that nobody sees
    ],
)
def test_what_is_invisible_or_typographic_is_plain(typed: str, wanted: str) -> None:
    assert clean(typed) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "क्\u200dष",  # a half letter
        "क्\u200cष",  # a visible virama
        "می\u200cخواهم",  # Persian
        "👩\u200d🚀",
        "👩🏽\u200d🚀",
        "❤\ufe0f\u200d🔥",
        "🏳\ufe0f\u200d🌈",
        "👨\u200d👩\u200d👧\u200d👦",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # England
        "1\ufe0f\u20e3",
        "नीली कार के बाईं ओर, तीन सेब।",
        'a sign that says "STOP"',
        "5′ 10″ «oui» x̄ é 苹果",
    ],
)
def test_what_scripts_and_emoji_are_made_of_stays(text: str) -> None:
    assert clean(text) == unicodedata.normalize("NFC", text)


def test_no_invisible_character_makes_a_known_word_unknown() -> None:
    tokenizer = Tokenizer.load()
    for word in ("सेब", "apple", "लाल"):
        assert tokenizer.report(word).unknown == ()
        for mark in "\u200b\u200c\u200d\u200e\u2060\ufeff\u00ad":
            for text in (word + mark, mark + word, f"{word} {mark}{word}"):
                assert tokenizer.report(clean(text)).unknown == ()


def test_texts_are_compared_without_case() -> None:
    assert comparable("Ａ Red\u200b  APPLE") == comparable("a red apple")
    assert comparable("STRASSE") == comparable("Straße")
    assert comparable("क़लम") == comparable("\u0958लम")
    assert comparable("a cat") != comparable("a car")


@pytest.mark.slow
def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, kalpana.text.normalize; "
        "print([n for n in ('torch', 'tokenizers', 'numpy', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
