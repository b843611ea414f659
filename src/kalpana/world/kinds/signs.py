"""Text in pictures: signs of one to six characters or one short word, in Latin or Devanagari.

A sign is alone or above or below an object. raqm shapes the letters, as conjuncts and matras need.
Text is drawn large and then resized to the tile. Captions quote the text, so that OCR can check it
character by character.
"""

from __future__ import annotations

import json
import random
import zlib
from functools import cache, lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from kalpana.types import KalpanaError
from kalpana.world import atlas, grammar_en, grammar_hi, places
from kalpana.world.defaults import background_said, house_style, sprite_of
from kalpana.world.lexicon import ART, lexicon
from kalpana.world.recolor import PAINTS
from kalpana.world.scene import BACKDROPS, COLORS, Background, Group, Scene, SceneObject, Sign

FONTS = {
    "Mukta": "Mukta_400Regular.ttf",
    "Mukta Bold": "Mukta_700Bold.ttf",
    "Hind SemiBold": "Hind_600SemiBold.ttf",
    "Noto Sans Black": "NotoSansDevanagari_900Black.ttf",
}
FONT = "Mukta Bold"  # the usual font
OTHER_FONT = 0.3  # share of signs in another font, which the caption names
FONT_NAMES = {"Mukta": ("thin", "पतला"), "Noto Sans Black": ("heavy", "मोटा")}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
INKS = {name: PAINTS[name][:3] for name in COLORS}
# Letter height in pixels of a 128 px picture: of a capital letter, or of a Devanagari letter
# including its headline.
HEIGHTS = (12.0, 24.0)
TRIES = 200  # scenes that are sampled for a layout
MARGIN = 0.03  # of the picture's side
_DRAWN = 160  # font size in pixels before the text is resized to the tile
_CONTRAST = 0.3  # least difference in luminance between the ink and its ground


def tile(sign: Sign) -> Tensor:
    """Atlas tile (4, SIDE, SIDE) of the sign, uint8: RGB (not premultiplied), then alpha."""
    return _drawn(sign)[0]


def extent(sign: Sign) -> tuple[float, float]:
    """Width and height of the sign as shares of its longer side."""
    return _measured(sign)[:2]


def letter_share(sign: Sign) -> float:
    """Letter height of the sign, as a share of its longer side."""
    return _measured(sign)[2]


@lru_cache(maxsize=1024)
def _measured(sign: Sign) -> tuple[float, float, float]:
    """Width, height and letter height of the sign, as shares of its longer side.

    The size of a board follows from its text; letters without a board are drawn to be measured.
    """
    if not sign.board:
        return _drawn(sign)[1:]
    size = _size(sign)
    width, height = atlas.fitted(*size)
    letter = _letter(sign.font, sign.text.isascii())
    return width / (atlas.SIDE - 2), height / (atlas.SIDE - 2), letter / max(size)


@lru_cache(maxsize=1024)
def _drawn(sign: Sign) -> tuple[Tensor, float, float, float]:
    """The sign's tile, and its width, height and letter height as shares of its longer side."""
    left, top, _, _ = _box(sign.font, sign.text)
    pad_x, pad_y = _padding(sign)
    width, height = _size(sign)
    board = tuple(round(255 * c) for c in places.COLORS[sign.board]) if sign.board else (0, 0, 0)
    ink = tuple(round(255 * c) for c in INKS[sign.ink])
    image = Image.new("RGBA", (width, height), (*ink, 0))
    draw = ImageDraw.Draw(image)
    if sign.board:
        corners, radius, border = (0, 0, width - 1, height - 1), 0.16 * _DRAWN, 0.05 * _DRAWN
        draw.rounded_rectangle(corners, radius, (*board, 255), (*ink, 255), round(border))
    draw.text((pad_x - left, pad_y - top), sign.text, (*ink, 255), _face(sign.font))
    square, w, h = atlas.fit(image)
    content = image.getchannel("A").getbbox() or (0, 0, width, height)
    longer = max(content[2] - content[0], content[3] - content[1])
    letter = _letter(sign.font, sign.text.isascii()) / longer
    return torch.from_numpy(np.array(square)).movedim(-1, 0), w, h, letter


def _size(sign: Sign) -> tuple[int, int]:
    """Width and height of the sign in pixels, before it is resized to the tile."""
    (left, top, right, bottom), (pad_x, pad_y) = _box(sign.font, sign.text), _padding(sign)
    return round(right - left + 2 * pad_x), round(bottom - top + 2 * pad_y)


def _padding(sign: Sign) -> tuple[float, float]:
    return (0.35 * _DRAWN, 0.28 * _DRAWN) if sign.board else (2, 2)


@lru_cache(maxsize=1024)
def _box(font: str, text: str) -> tuple[float, float, float, float]:
    """Bounding box of the text's ink in pixels: left, top, right, bottom."""
    return _face(font).getbbox(text)


def _letter(font: str, latin: bool) -> float:
    """Height in pixels of a capital or Devanagari letter, before resizing to the tile."""
    _, top, _, bottom = _box(font, "H" if latin else "क")
    return bottom - top


@cache
def _face(font: str) -> ImageFont.FreeTypeFont:
    if not features.check("raqm"):
        raise KalpanaError(
            "this Pillow cannot shape Devanagari (no raqm): reinstall it with "
            "'pip install --force-reinstall --only-binary :all: Pillow'"
        )
    return ImageFont.truetype(
        str(ART / "fonts" / FONTS[font]), _DRAWN, layout_engine=ImageFont.Layout.RAQM
    )


@cache
def words() -> dict[str, list[str]]:
    """Dictionary of short words for signs, by language."""
    return json.loads((ART / "words.json").read_text(encoding="utf-8"))


def word(rng: random.Random, split: str) -> str:
    """Random text of a split: a short word, random letters and digits, or Devanagari syllables.

    Texts of dev and test never occur in training, except single characters. "unseen" stands for
    test.
    """
    wanted = "test" if split == "unseen" else split
    while True:
        roll = rng.random()
        if roll < 0.5:
            text = rng.choice(words()[rng.choice(("en", "hi"))])
        elif roll < 0.85:
            text = "".join(rng.choices(LETTERS, k=rng.randint(1, 6)))
        else:
            text = "".join(rng.choices(SYLLABLES, k=rng.randint(1, 3)))
        # There are too few single characters to hold some out.
        if split_of(text) == wanted or len(text) == 1:
            return text


CONSONANTS = "कखगघचछजझटठडढतथदधनपफबभमयरलवशषसह"
CONJUNCTS = ("क्ष", "ज्ञ", "त्र", "श्र", "स्त", "प्र", "क्त", "द्य", "न्त", "म्ब", "ल्ल", "ष्ट", "स्व", "र्म")
SYLLABLES = tuple(
    base + matra
    for base in (*CONSONANTS, *CONJUNCTS)
    for matra in ("", "ा", "ि", "ी", "ु", "ू", "े", "ो", "ं")
)


def split_of(text: str) -> str:
    """The split of a text: 80 % train, 10 % dev, 10 % test, by a hash."""
    slot = zlib.crc32(text.encode()) % 10
    return "dev" if slot == 0 else "test" if slot == 1 else "train"


def sample(rng: random.Random, split: str = "train") -> Scene:
    """Random scene of a sign alone (two thirds), or of an object with a sign above or below it."""
    while True:
        scene = _sample(rng, split)
        if scene is not None:
            return scene


def layout(text: str, side: str | None, board: bool, rng: random.Random) -> Scene | None:
    """Random scene of a sign with this text, on a board or not, from the layouts of ``sample``.

    ``side`` is "above" or "below" an object, or None for a sign alone. None: the text is too long
    to be legible, or the font lacks its characters.
    """
    for _ in range(TRIES):
        scene = _sample(rng, "train", text)
        if scene is None or scene.relation != side:
            continue
        if (sign_of(scene)[1].board is not None) == board:
            return scene
    return None


def _sample(rng: random.Random, split: str, text: str | None = None) -> Scene | None:
    board = rng.choice(BACKDROPS) if rng.random() < 0.75 else None
    background = Background(
        rng.choice(("flat", "gradient")), rng.choice(BACKDROPS), rng.randrange(1 << 30)
    )
    ink = rng.choice(COLORS)
    if not stands_out(ink, board, background.name):
        return None
    font = rng.choice(tuple(FONT_NAMES)) if rng.random() < OTHER_FONT else FONT
    sign = Sign(word(rng, split) if text is None else text, font, ink, board)
    width, height = extent(sign)
    size = rng.uniform(*HEIGHTS) / 128 / letter_share(sign)
    beside = rng.random() < 1 / 3
    room_w, room_h = (0.96, 0.4) if beside else (0.96, 0.96)
    size = min(size, room_w / width, room_h / height)
    if size * letter_share(sign) * 128 < HEIGHTS[0]:  # the text is too long to be legible
        return None
    half_w, half_h = size * width / 2, size * height / 2
    x = rng.uniform(half_w + MARGIN, 1 - half_w - MARGIN) if half_w + MARGIN < 0.5 else 0.5
    y = rng.uniform(half_h + MARGIN, 1 - half_h - MARGIN)
    board_group = Group("sign", color=ink)
    if not beside:
        return Scene((SceneObject(sign, x, y, size),), (board_group,), background)
    concept = rng.choice([c for c in lexicon().values() if c.core])
    group = Group(concept.id)
    style = house_style((group,))
    row = sprite_of(concept.id, style or "")
    if row is None:
        return None
    art = atlas.load().sprites[row]
    above = rng.random() < 0.5  # whether the sign is above the object
    y = half_h + MARGIN + 0.02 if above else 1 - half_h - MARGIN - 0.02
    low, high = (y + half_h + 0.02, 0.98) if above else (0.02, y - half_h - 0.02)
    fit = min((high - low) / art.height, 0.9 / art.width) * rng.uniform(0.8, 0.98)
    item = SceneObject(row, rng.uniform(0.4, 0.6), (low + high) / 2, fit, group=1)
    objects = (item, SceneObject(sign, x, y, size))
    relation = "above" if above else "below"
    return Scene(objects, (board_group, group), background, relation, style)


def stands_out(ink: str, board: str | None, ground: str) -> bool:
    """Whether the ink has enough contrast to its board, or else to the ground (one of BACKDROPS).

    A board must also differ from the ground.
    """
    contrast = abs(_luminance(INKS[ink]) - _luminance(places.COLORS[board or ground]))
    return contrast >= _CONTRAST and board != ground


def _luminance(rgb: tuple[float, float, float]) -> float:
    """Luminance by the Rec. 709 weights, without linearisation."""
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def sign_of(scene: Scene) -> tuple[int, Sign]:
    """Index of the scene's only sign among its objects, and the sign."""
    ((k, sign),) = (
        (k, item.sprite) for k, item in enumerate(scene.objects) if isinstance(item.sprite, Sign)
    )
    return k, sign


def caption(scene: Scene, language: str, form: str, rng: random.Random) -> str:
    """Caption of a sign scene, in English ("en") or Hindi.

    It quotes the text and names its ground, any object and, in some captions, the colours.
    """
    _, sign = sign_of(scene)
    return (_english if language == "en" else _hindi)(scene, sign, form, rng)


def _english(scene: Scene, sign: Sign, form: str, rng: random.Random) -> str:
    quoted = f'"{sign.text}"'
    board = rng.choice(grammar_en.TINTS.get(sign.board, (sign.board,))) if sign.board else ""
    painted = form == "dense" or rng.random() < 0.4
    weight = FONT_NAMES[sign.font][0] if sign.font in FONT_NAMES else ""
    adjectives = " ".join(filter(None, (weight, sign.ink if painted else "")))
    letters = f" in {adjectives} letters" if weight or painted else ""
    if sign.board:
        noun = rng.choice(("sign", "sign", "board", "label"))
        named = f"{board} {noun}" if painted else noun
        what = f"{grammar_en.article(named)} {named} " + rng.choice(
            (
                f"that says {quoted}",
                f"that reads {quoted}",
                f"with the word {quoted}",
                f"saying {quoted}",
                f"with {quoted} written on it",
            )
        )
    else:
        what = rng.choice(
            (
                f"the word {quoted}",
                f"the text {quoted}",
                f"the writing {quoted}",
                f"the characters {quoted}",
            )
        )
    text = what + letters
    if len(scene.groups) > 1:
        item = str(grammar_en.phrase(scene.groups[1], lexicon()[scene.groups[1].concept], rng))
        other = {"above": "below", "below": "above"}[scene.relation or "above"]
        text = rng.choice(
            (
                f"{text} {scene.relation} {item}",
                f"{item} {other} {text}",
                f"{item} with {text} {scene.relation} it",
            )
        )
    elif rng.random() < 0.15:
        verb = "make " if sign.board else "write "
        text = rng.choice(("a picture of ", "draw ", verb)) + text
    if background_said(rng, scene.background, form):
        where, _ = grammar_en.surroundings(scene.background, rng, text)
        text += where if where.startswith(",") else f", {where}"
    return grammar_en.capital(text) + "." if form == "dense" else text


def _hindi(scene: Scene, sign: Sign, form: str, rng: random.Random) -> str:
    quoted = f'"{sign.text}"'
    painted = form == "dense" or rng.random() < 0.4
    ink = " ".join(
        grammar_hi.inflect(word, "m", True, oblique=True)
        for word in rng.choice(grammar_hi.COLORS[sign.ink]).split()
    )
    weight = ""
    if sign.font in FONT_NAMES:
        weight = grammar_hi.inflect(FONT_NAMES[sign.font][1], "m", True, oblique=True)
    adjectives = " ".join(filter(None, (weight, ink if painted else "")))
    letters = f"{adjectives} अक्षरों में " if weight or painted else ""
    if sign.board:
        noun = rng.choice(("बोर्ड", "बोर्ड", "साइनबोर्ड", "लेबल"))
        tint = rng.choice(grammar_hi.TINTS[sign.board]).split()
        bent = " ".join(grammar_hi.inflect(part, "m", False, oblique=True) for part in tint)
        plain = " ".join(tint)
        text = rng.choice(
            (
                f"एक {plain + ' ' if painted else ''}{noun} जिस पर {letters}{quoted} लिखा है",
                f"{bent + ' ' if painted else ''}{noun} पर {letters}लिखा {quoted}",
                f"{letters}{quoted} लिखा हुआ {plain + ' ' if painted else ''}{noun}",
            )
        )
    else:
        text = rng.choice(
            (f"{letters}लिखा हुआ {quoted}", f"{letters}{quoted} शब्द", f"{letters}{quoted} लिखा है")
        )
    if len(scene.groups) > 1:
        item = grammar_hi.phrase(scene.groups[1], lexicon()[scene.groups[1].concept], rng)
        side, other = ("ऊपर", "नीचे") if scene.relation == "above" else ("नीचे", "ऊपर")
        text = rng.choice(
            (
                f"{item.oblique} के {side} {text}",
                f"{item}, और उसके {side} {text}",
                f"{other} {item}, {side} {text}",
            )
        )
    if background_said(rng, scene.background, form):
        where, _ = grammar_hi.surroundings(scene.background, rng)
        text = rng.choice((f"{where} {text}", f"{text}, {where}"))
    return text + "।" if form == "dense" else text
