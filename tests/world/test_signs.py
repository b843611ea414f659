"""Tests of signs: captions quote the drawn text, text is legible, and splits share no words."""

from __future__ import annotations

import random
import re

import pytest
import torch
from PIL import ImageFont

from kalpana.world import atlas
from kalpana.world.kinds import signs
from kalpana.world.lexicon import ART
from kalpana.world.render import render
from kalpana.world.scene import BACKDROPS, Background, Group, Scene, SceneObject, Sign
from kalpana.world.world import World

WORLD = World(seed=5, kind="text")


def written(scene: Scene) -> Sign:
    (sign,) = (
        scene_object.sprite
        for scene_object in scene.objects
        if isinstance(scene_object.sprite, Sign)
    )
    return sign


@pytest.mark.slow
def test_every_caption_quotes_the_writing_and_nothing_else() -> None:
    for i in range(300):
        scene = WORLD.scene(i)
        for language in ("en", "hi"):
            for form in ("short", "natural", "dense"):
                said = signs.caption(scene, language, form, random.Random(i))
                assert re.findall('"([^"]*)"', said) == [written(scene).text], said


@pytest.mark.slow
def test_words_of_dev_and_test_are_never_trained_on() -> None:
    words = {
        split: {written(World(5, split, kind="text").scene(i)).text for i in range(250)}
        for split in ("train", "dev", "test", "unseen")
    }
    longer = {split: {text for text in said if len(text) > 1} for split, said in words.items()}
    assert all(len(said) > 40 for said in longer.values())
    assert longer["train"].isdisjoint(longer["dev"] | longer["test"] | longer["unseen"]) and longer[
        "dev"
    ].isdisjoint(longer["test"])


def test_letters_are_as_tall_as_promised() -> None:
    """A bare H in each font has the height in pixels that the sampler computes."""
    for font in signs.FONTS:
        sign = Sign("H", font, "black", None)
        size = 20 / 128 / signs.letter_share(sign)
        drawn = render(
            [
                Scene(
                    (SceneObject(sign, 0.5, 0.5, size),),
                    (Group("sign"),),
                    Background("flat", "white"),
                )
            ],
            128,
            masks=True,
        )
        assert drawn.masks is not None
        rows = drawn.masks[0][0].any(1).sum().item()
        assert abs(rows - 20) <= 1.5, f"{font}: {rows} pixels"


def test_letters_are_between_12_and_24_pixels_and_inside_the_picture() -> None:
    for i in range(300):
        scene = WORLD.scene(i)
        for scene_object in scene.objects:
            if isinstance(scene_object.sprite, Sign):
                low, high = signs.HEIGHTS
                assert (
                    low - 0.01
                    <= scene_object.size * signs.letter_share(scene_object.sprite) * 128
                    <= high + 0.01
                )
                width, height = signs.extent(scene_object.sprite)
                assert (
                    abs(scene_object.x - 0.5) + scene_object.size * width / 2 < 0.5
                    and abs(scene_object.y - 0.5) + scene_object.size * height / 2 < 0.5
                )


@pytest.mark.slow
def test_a_board_is_measured_as_it_is_drawn() -> None:
    """The extent of a board, computed by ``atlas.fitted`` without drawing, is that of its tile."""
    for sign in (written(WORLD.scene(i)) for i in range(100)):
        if sign.board:
            seen = signs.tile(sign)[3] > 0
            drawn = (
                seen.any(0).sum().item() / (atlas.SIDE - 2),
                seen.any(1).sum().item() / (atlas.SIDE - 2),
            )
            assert signs.extent(sign) == pytest.approx(drawn), sign


@pytest.mark.parametrize("text", ["क्षमा", "श्री", "त्योहार"])
def test_conjuncts_are_shaped(text: str) -> None:
    """Shaped conjuncts are narrower than the same code points set by an engine without shaping."""
    face = ImageFont.truetype(
        str(ART / "fonts" / signs.FONTS["Mukta"]), 100, layout_engine=ImageFont.Layout.BASIC
    )
    unshaped = face.getbbox(text)
    shaped = signs._face("Mukta").getbbox(text)
    assert shaped[2] - shaped[0] < (unshaped[2] - unshaped[0]) * signs._DRAWN / 100 * 0.95


@pytest.mark.slow
def test_ink_stands_out_in_the_pixels() -> None:
    """Lettering and board differ in the tile by 2/3 of the sampler's least luminance contrast."""
    seen = set()
    for i in range(200):
        sign = written(WORLD.scene(i))
        if sign.board is None:
            continue
        rgba = signs.tile(sign).float() / 255
        luminance = (rgba[:3] * torch.tensor([0.2126, 0.7152, 0.0722]).view(3, 1, 1)).sum(0)[
            rgba[3] > 0.9
        ]
        assert luminance.max() - luminance.min() > 0.2
        seen.add(sign.board)
    assert seen == set(BACKDROPS)


def test_pictures_do_not_depend_on_their_batch() -> None:
    together = WORLD.images(range(12))
    assert all(torch.equal(together[i], WORLD[i].image) for i in range(12))
