"""The shipped model does what it is for: the colour that was asked for, in either language, on the background that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import kalpana
from kalpana.world.recolor import PAINTS, lab

HINDI = {"red": "लाल", "green": "हरा", "blue": "नीला", "yellow": "पीला", "purple": "बैंगनी", "pink": "गुलाबी"}


def draw(prompt: str) -> np.ndarray:
    return np.asarray(kalpana.generate(prompt, seed=0, steps=12).pictures[0].image) / 255


def nearest_paint(pixels: np.ndarray) -> str:
    """The paint nearest in CIELAB to the median of what differs from the corner."""
    colors = lab(pixels).reshape(-1, 3)
    away = np.linalg.norm(colors - colors[0], axis=1)
    thing = np.median(colors[away > 0.6 * away.max()], axis=0)
    return min(PAINTS, key=lambda name: float(np.linalg.norm(lab(np.array(PAINTS[name][:3])) - thing)))


@pytest.mark.parametrize(("pattern", "names"), [("a {} {} on a white background", "en"), ("सफ़ेद पृष्ठभूमि पर {} {}", "hi")])
def test_things_have_the_colour_asked_for(pattern: str, names: str) -> None:
    """At least 70 % of eighteen pictures; chance is 10 %, and a model deaf to either language has no more."""
    things = {"heart": "दिल", "balloon": "गुब्बारा", "hat": "टोपी"}
    right = 0
    for thing, hindi in things.items():
        for color in HINDI:
            words = (
                (color, thing)
                if names == "en"
                else (HINDI[color].removesuffix("ा") + "ी" if thing == "hat" and HINDI[color].endswith("ा") else HINDI[color], hindi)
            )
            right += nearest_paint(draw(pattern.format(*words))) == color
    assert right >= 0.7 * len(things) * len(HINDI)


def test_the_ruler_knows_its_colours() -> None:
    for name, paint in PAINTS.items():
        if name != "white":
            paper = Image.new("RGB", (64, 64), "white")
            paper.paste(tuple(round(255 * v) for v in paint[:3]), (16, 16, 48, 48))
            assert nearest_paint(np.asarray(paper) / 255) == name


def test_places_are_told_apart() -> None:
    """Night is dark, a beach is sand below and sky above."""
    night, beach = draw("a starry night"), draw("a sandy beach")
    assert night.mean() < 0.35 < beach.mean()
    top, bottom = beach[:20].mean((0, 1)), beach[-20:].mean((0, 1))
    assert top[2] > top[0] and bottom[0] > bottom[2]


def test_both_languages_draw_nearly_the_same() -> None:
    same = np.abs(draw("three red apples") - draw("तीन लाल सेब")).mean()
    other = np.abs(draw("three red apples") - draw("एक नीली कार")).mean()
    assert same < 0.5 * other, f"{same:.3f} against {other:.3f}"
