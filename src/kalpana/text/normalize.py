"""Normal form of texts that people type: prompts, labels and queries.

Text from documents and chats has invisible characters, typographic quotes and full-width letters. A
tokenizer would read each as another word. Imports nothing heavy.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

ZWNJ, ZWJ = "\u200c", "\u200d"  # zero-width non-joiner and joiner
# Scripts in which joiners change the shape of letters: Arabic, Syriac, N'Ko, the Indic scripts,
# Myanmar, Khmer, Mongolian.
_JOINING: Final = re.compile(
    "[\u0600-\u07ff\u0860-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\ua8e0-\ua8ff]"
)
_EMOJI_MODIFIERS: Final = "\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
# A flag of a region is a black flag, tag letters and the cancel tag (Unicode TS 51, ED-14a). Tags
# elsewhere are invisible.
_TAGS: Final = re.compile("(\U0001f3f4[\U000e0030-\U000e007a]+\U000e007f)|[\U000e0000-\U000e007f]")
_INVISIBLE: Final = (  # soft hyphen, marks of direction, zero-width space, word joiner, BOM, …
    *(0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *(0xFEFF, 0xFFF9, 0xFFFA, 0xFFFB),
)
_TABLE: Final[dict[int, str | None]] = {
    **{code: " " for code in (*range(0x20), *range(0x7F, 0xA0))},  # control characters
    **dict.fromkeys(_INVISIBLE),
    **{0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)},  # full-width ASCII
    **dict.fromkeys(map(ord, "‘’‚‛"), "'"),
    **dict.fromkeys(map(ord, "“”„‟"), '"'),
}


def clean(text: str) -> str:
    """The normal form of a text.

    - NFC; control characters, line breaks and runs of spaces are one space
    - invisible characters are dropped: byte order mark, zero-width space, word joiner, soft hyphen,
      marks of direction
    - full-width ASCII and curly quotes become plain ones
    - joiners stay between letters of scripts that use them, and inside emoji

    ``clean(clean(text)) == clean(text)``.
    """
    text = unicodedata.normalize("NFC", text.translate(_TABLE))
    if ZWJ in text or ZWNJ in text:
        text = re.sub(f"[{ZWNJ}{ZWJ}]", _joiner, text)
    text = _TAGS.sub(lambda found: found[1] or "", text)
    return unicodedata.normalize("NFC", " ".join(text.split()))


def comparable(text: str) -> str:
    """The form in which texts are compared: ``clean``, without case."""
    return clean(clean(text).casefold())


def _joiner(found: re.Match[str]) -> str:
    """The joiner if it is between two letters that it may join, else nothing."""
    before = found.string[max(found.start() - 1, 0) : found.start()]
    after = found.string[found.end() : found.end() + 1]
    if not before or not after:
        return ""
    if _JOINING.match(before) and _JOINING.match(after):
        is_letter = (
            unicodedata.category(before)[0] in "LM" and unicodedata.category(after)[0] == "L"
        )
        return found[0] if is_letter else ""
    joins = found[0] == ZWJ and unicodedata.category(after) in ("So", "Sm")
    emoji = before in _EMOJI_MODIFIERS or unicodedata.category(before) == "So"
    return ZWJ if joins and emoji else ""
