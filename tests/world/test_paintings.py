"""Tests of paintings: measured properties of each medium, and captions that name it."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kalpana.world import grammar_hi
from kalpana.world.kinds import paintings
from kalpana.world.kinds.paintings import PAINTINGS, paint
from kalpana.world.lexicon import lexicon, sprites_of
from kalpana.world.recolor import lab
from kalpana.world.render import render
from kalpana.world.sample import sample_scene
from kalpana.world.scene import COLORS, Background, Group, Scene, SceneObject
from kalpana.world.world import World

PLAIN = World(seed=5)
WORLD = World(seed=5, kind="paintings")
N = 12
COLOURFUL = ("watercolour", "oil", "pixel art")
SAID = {
    "watercolour": re.compile(r"water.?colou?r|aquarelle|जलरंग|वॉटरकलर", re.IGNORECASE),
    "oil": re.compile(r"\boil\b|तैल|ऑयल", re.IGNORECASE),
    "pencil": re.compile(r"pencil|graphite|पेंसिल", re.IGNORECASE),
    "ink": re.compile(r"\bink\b|स्याही", re.IGNORECASE),
    "pixel art": re.compile(r"pixel|पिक्सेल", re.IGNORECASE),
    "neon": re.compile(r"neon|नियॉन", re.IGNORECASE),
}
OTHER = re.compile(
    r"photo|illustration|render|icon|cartoon|emoji|फ़ोटो|फोटो|3D|3डी|इमोजी|कार्टून", re.IGNORECASE
)
COLOUR_WORDS = set(COLORS) | {"grey", "gray", "violet", "beige", "lavender", "navy", "cream"}
COLOUR_WORDS |= {
    "लाल",
    "नारंगी",
    "संतरी",
    "संतरा",
    "संतरे",
    "पीला",
    "पीले",
    "पीली",
    "हरा",
    "हरे",
    "हरी",
    "नीला",
    "नीले",
    "नीली",
    "बैंगनी",
    "जामुनी",
    "गुलाबी",
    "भूरा",
    "भूरे",
    "भूरी",
    "काला",
    "काले",
    "काली",
    "सफ़ेद",
    "सफेद",
    "स्लेटी",
}


def pictures(side: int = 128) -> Tensor:
    return World(seed=5, side=side).images(range(N))


def all_in(medium: str, pixels: Tensor, seed: int = 0) -> Tensor:
    return paint(pixels, [medium] * len(pixels), [seed + i for i in range(len(pixels))])


def lab_of(pixels: Tensor) -> np.ndarray:
    return lab(pixels.add(1).div(2).clamp(0, 1).movedim(-3, -1).double().numpy())


def detail(pixels: Tensor) -> float:
    """The mean absolute difference of neighbouring pixels."""
    return float(pixels.diff(dim=-1).abs().mean() + pixels.diff(dim=-2).abs().mean())


def test_no_style_leaves_every_bit() -> None:
    pixels = pictures()
    assert torch.equal(paint(pixels, [None] * N, range(N)), pixels)
    some = paint(pixels, [None, "oil"] * (N // 2), range(N))
    assert torch.equal(some[::2], pixels[::2])
    assert not any(torch.equal(a, b) for a, b in zip(some[1::2], pixels[1::2], strict=True))


@pytest.mark.parametrize("side", [64, 100, 128, 256])
def test_any_side_gives_finite_pixels_in_range_and_does_not_touch_its_input(side: int) -> None:
    pixels = pictures(side)[:3]
    before = pixels.clone()
    for medium in PAINTINGS:
        painted = all_in(medium, pixels)
        assert painted.shape == pixels.shape and painted.isfinite().all(), medium
        assert painted.min() >= -1 and painted.max() <= 1, medium
        assert (painted - pixels).abs().mean() > 0.02, f"{medium} changes nothing"
    assert torch.equal(pixels, before)


def test_a_row_depends_on_its_picture_style_and_seed_alone() -> None:
    pixels = pictures()
    styles = [PAINTINGS[i % len(PAINTINGS)] for i in range(N)]
    together = paint(pixels, styles, range(N))
    for i in range(N):
        assert torch.equal(paint(pixels[i : i + 1], [styles[i]], [i])[0], together[i]), (
            f"{styles[i]} differs alone and in a batch"
        )
    one_medium = all_in("oil", pixels)
    assert torch.equal(paint(pixels[5:6], ["oil"], [5])[0], one_medium[5])


@pytest.mark.parametrize("medium", ["watercolour", "oil", "pencil", "ink"])
def test_another_seed_is_another_hand(medium: str) -> None:
    pixels = pictures()[:2]
    assert torch.equal(all_in(medium, pixels, 3), all_in(medium, pixels, 3))
    assert not torch.equal(all_in(medium, pixels, 3), all_in(medium, pixels, 4))


def test_pencil_and_ink_have_no_colour() -> None:
    for medium in ("pencil", "ink"):
        chroma = np.hypot(*np.moveaxis(lab_of(all_in(medium, pictures()))[..., 1:], -1, 0))
        assert chroma.max() < 2, medium


def test_ink_is_black_and_white_and_pencil_is_grey_on_paper() -> None:
    light = lab_of(all_in("ink", pictures()))[..., 0]
    assert ((light < 15) | (light > 90)).mean() > 0.85
    bright = torch.ones(2, 3, 128, 128) * 0.9
    assert lab_of(all_in("pencil", bright))[..., 0].min() > 80, "white paper stays white"
    dark = lab_of(all_in("pencil", -bright))[..., 0]
    assert dark.mean() < 75 and dark.min() > 10


@pytest.mark.parametrize("side", [64, 128, 256])
def test_pixel_art_is_cells_in_a_small_palette(side: int) -> None:
    cell = side // 32
    for picture in all_in("pixel art", pictures(side)):
        cells = picture.unfold(1, cell, cell).unfold(2, cell, cell).flatten(3)  # 3 32 32 cell²
        assert torch.equal(cells.amin(3), cells.amax(3)), "a cell has one colour"
        assert 2 <= len(cells[..., 0].flatten(1).unique(dim=1).T) <= 16


def test_neon_glows_on_a_dark_ground() -> None:
    light = lab_of(all_in("neon", pictures()))[..., 0]
    assert np.median(light) < 12 and (light > 50).mean() < 0.35
    # For a single red apple on white, the brightest pixels are at the outline and red.
    painted = lab_of(all_in("neon", render([_lone("red")]).pixels))[0]
    brightest = painted[painted[..., 0] > np.quantile(painted[..., 0], 0.97)]
    assert (
        _hue_apart(
            np.median(brightest[:, 1:], 0), lab_of(render([_lone("red")]).pixels)[0, 64, 64, 1:]
        )
        < 40
    )


def _lone(color: str, backdrop: str = "white") -> Scene:
    """A scene of one large apple in this colour."""
    apple = next(c.id for c in lexicon().values() if c.en == "apple")
    row = sprites_of(apple)["twemoji"][0]
    return Scene(
        (SceneObject(row, 0.5, 0.5, 0.8, color=color),),
        (Group(apple, color=color),),
        Background("flat", backdrop),
    )


def _hue_apart(one: np.ndarray, two: np.ndarray) -> float:
    """Difference of hue in degrees of two (a, b) pairs of CIELAB."""
    turn = np.degrees(np.arctan2(one[1], one[0]) - np.arctan2(two[1], two[0]))
    return float(abs((turn + 180) % 360 - 180))


@pytest.mark.parametrize("medium", COLOURFUL)
def test_colours_can_still_be_named(medium: str) -> None:
    """The median colour of a recoloured object keeps its hue, lightness and most of its chroma."""
    scenes = [_lone(color, backdrop) for backdrop in ("light blue", "beige") for color in COLORS]
    drawn = render(scenes, masks=True)
    assert drawn.masks is not None
    before, after = lab_of(drawn.pixels), lab_of(all_in(medium, drawn.pixels))
    for i, scene in enumerate(scenes):
        where = drawn.masks[i][0].numpy()
        was, now = np.median(before[i][where], 0), np.median(after[i][where], 0)
        if np.hypot(*was[1:]) > 15:
            assert _hue_apart(was[1:], now[1:]) < 18, (medium, scene.groups[0].color, was, now)
            assert np.hypot(*now[1:]) > 0.6 * np.hypot(*was[1:]), (
                medium,
                scene.groups[0].color,
                was,
                now,
            )
        assert abs(now[0] - was[0]) < 20, (medium, scene.groups[0].color, was, now)


def test_washes_and_brushes_lose_fine_detail() -> None:
    """A faint checkerboard of single pixels is smoothed away; a large square stays."""
    fine = 0.3 * torch.tensor([1.0, -1.0]).repeat(64)
    board = (fine.view(1, 1, 1, -1) * fine.view(1, 1, -1, 1).sign()).expand(2, 3, 128, 128)
    for medium in ("watercolour", "oil"):
        assert detail(all_in(medium, board)) < 0.3 * detail(board), medium
    square = -0.8 * torch.ones(1, 3, 128, 128)
    square[..., 32:96, 32:96] = 0.8
    for medium in ("watercolour", "oil"):
        painted = all_in(medium, square)
        assert painted[..., 40:88, 40:88].mean() - painted[..., 8:24, 8:120].mean() > 0.9, medium


def test_things_stay_where_they_are() -> None:
    """Painting moves the edge of a square by at most three pixels."""
    square = torch.ones(1, 3, 128, 128) * 0.8
    square[:, :2, 32:96, 32:96] = -0.6
    for medium in PAINTINGS:
        painted = lab_of(all_in(medium, square))[0]
        rise = np.abs(np.diff(painted[40:88], axis=1)).sum(-1).mean(0)  # over the square's rows
        column = 16 + int(np.argmax(rise[16:48]))
        assert abs(column - 31) <= 3, (medium, column)


def test_captions_name_the_medium_and_no_other() -> None:
    rng = random.Random(1)
    for k in range(900):
        scene = paintings.sample(rng)
        objects = " ".join(name for group in scene.groups for name in _names(group))
        # Skip objects whose own names match a pattern: a pencil may be painted in oil.
        if any(pattern.search(objects) for pattern in (*SAID.values(), OTHER)):
            continue
        language, form = ("en", "hi")[k % 2], ("short", "natural", "dense")[k % 3]
        words = paintings.caption(scene, language, form, rng)
        assert {medium for medium, said in SAID.items() if said.search(words)} == {
            scene.painting
        }, words
        assert not OTHER.search(words), words
        assert (
            "  " not in words and " ," not in words and not re.search(r"[{}]|\.\.|।।|None", words)
        ), words
        if language == "hi":
            assert not re.search(
                r"का (?:एक )?\S+ (?:पेंटिंग|ड्रॉइंग|तस्वीर)|की (?:एक )?\S+ (?:चित्र|स्केच)\b", words
            ), words


def _names(group: Group) -> list[str]:
    concept = lexicon()[group.concept]
    return [concept.en, *concept.synonyms_en, *grammar_hi.names(concept)]


@pytest.mark.slow
def test_captions_of_pencil_and_ink_speak_of_no_colour() -> None:
    rng = random.Random(2)
    checked = 0
    while checked < 500:
        scene = paintings.sample(rng)
        if scene.painting not in ("pencil", "ink"):
            continue
        checked += 1
        for language in ("en", "hi"):
            words = paintings.caption(
                scene, language, rng.choice(("short", "natural", "dense")), rng
            )
            assert not COLOUR_WORDS & set(re.split(r"[\s,.।:-]+", words.lower())), words


def test_every_medium_comes_equally_often() -> None:
    rng = random.Random(3)
    drawn = [paintings.sample(rng).painting for _ in range(600)]
    assert all(70 < drawn.count(medium) < 135 for medium in PAINTINGS)


def test_the_world_paints_its_scenes_and_keeps_them_unpainted() -> None:
    for i in range(8):
        sample = WORLD[i]
        scene = sample.truth.scene
        assert scene.painting in PAINTINGS
        plain = render([replace(scene, painting=None)], masks=True)
        assert plain.masks is not None
        assert torch.equal(sample.truth.unpainted, plain.pixels[0])
        assert torch.equal(sample.truth.masks, plain.masks[0]), "paint hides nothing"
        assert torch.equal(
            sample.image, paint(plain.pixels, [scene.painting], [scene.background.seed])[0]
        )
    assert torch.equal(WORLD.images(range(8)), torch.stack([WORLD[i].image for i in range(8)]))
    assert torch.equal(PLAIN[0].truth.unpainted, PLAIN[0].image)


def test_only_this_kind_is_painted() -> None:
    assert all(sample_scene(random.Random(seed)).painting is None for seed in range(50))
