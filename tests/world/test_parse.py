"""The inverse grammar; tests/evaluate/test_caption_accuracy.py checks it on captions of scenes."""

from __future__ import annotations

import pytest

from kalpana.world.lexicon import lexicon
from kalpana.world.parse import language_rules, mentions, read, words_of

HORSE, APPLE = (
    next(c.id for c in lexicon().values() if c.en == name) for name in ("horse", "apple")
)


@pytest.mark.parametrize(
    "text",
    ["बाईं ओर मुँह किए दो घोड़े", "दाहिनी तरफ़ मुँह किए दो घोड़े", "बायीं ओर मुंह किए हुए दो घोड़े", "दो घोड़े"],
)
def test_a_facing_names_no_mouth(text: str) -> None:
    (mention,) = read(text, "hi").mentions
    assert mention.count == 2 and (HORSE, None) in mention.means


def test_mentions_have_their_place_among_the_tokens() -> None:
    tokens = words_of("three small red apples next to a horse.")
    found = [(*span, m.count) for *span, m in mentions(tokens, language_rules("en"))]
    assert found == [(0, 4, 3), (6, 8, 1)]
    one, two = read("three small red apples next to a horse.", "en").mentions
    assert (APPLE, "red") in one.means and (HORSE, None) in two.means
