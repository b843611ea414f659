"""Cards: shapes stay, manners change, and nothing that is held out is shown."""

from __future__ import annotations

import random

import pytest
import torch

from kalpana.train.cards import Cards, inked, recoloured, warped, worded
from kalpana.world import atlas
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import COLORS


def luck(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sprites(n: int = 40) -> torch.Tensor:
    """Premultiplied sprites (n, 4, s, s)."""
    pixels = atlas.load().pixels[torch.arange(n) * 37].float() / 255
    pixels[:, :3] *= pixels[:, 3:]
    return pixels


def test_a_hand_of_cards_is_a_function_of_the_step() -> None:
    cards = Cards(32)
    (one, what), (again, same), (other, _) = cards(12, 5), cards(12, 5), cards(12, 6)
    assert torch.equal(one, again) and what == same and not torch.equal(one, other)
    assert one.shape == (12, 3, 32, 32) and one.dtype == torch.uint8 and len({picture.numpy().tobytes() for picture in one}) == 12


def test_a_style_that_is_left_out_is_in_no_hand() -> None:
    every, without = Cards(32), Cards(32, ("noto", "twemoji"))
    styles = {atlas.load().sprites[row].style for rows in without.rows.values() for row in rows}
    assert styles == {sprite.style for sprite in atlas.load().sprites} - {"noto", "twemoji"}
    assert len(without.every) < len(every.every) and all(without.rows[concept] for concept in without.every)


def test_the_rows_of_a_concept_show_it() -> None:
    cards = Cards(32)
    for concept in cards.core:
        assert all(atlas.load().sprites[row].concept == concept for row in cards.rows[concept])


def test_a_sprite_that_is_warped_is_whole_and_no_other() -> None:
    """What there is of it stays within the square for most, and colours are those it had."""
    square = torch.zeros(64, 4, 96, 96)
    square[:, :, 16:80, 16:80] = torch.tensor([0.2, 0.4, 0.8, 1.0]).view(1, 4, 1, 1)
    out = warped(square, 96, luck())
    solid = out[:, 3] > 0.999
    assert torch.allclose(out[:, :3].movedim(1, -1)[solid], torch.tensor([0.2, 0.4, 0.8]), atol=1e-3)
    share = out[:, 3].mean((1, 2))
    assert share.min() > 0.03 and share.max() < 0.6 and share.std() > 0.03  # of 0.44 as it was
    rim = torch.cat((out[:, 3, 0], out[:, 3, -1], out[:, 3, :, 0], out[:, 3, :, -1]), 1)
    assert (rim.amax(1) < 0.5).float().mean() > 0.8


def test_new_colours_keep_to_the_shape() -> None:
    given = sprites()
    out = recoloured(given, luck())
    assert torch.equal(out[:, 3], given[:, 3]) and (out[:, :3] <= out[:, 3:] + 1e-6).all() and (out >= 0).all()
    kept = (out - given).abs().amax((1, 2, 3)) == 0
    assert 0.15 < kept.float().mean() < 0.55  # a third
    gray = (out[:, :3].amax(1) - out[:, :3].amin(1)).amax((1, 2)) < 1e-5
    assert 1 <= (gray & ~kept).sum() < 20  # and some have no colour at all


def test_ink_is_dark_and_on_edges_alone() -> None:
    flat = torch.full((60, 4, 32, 32), 0.6)
    flat[:, 3] = 1.0
    assert torch.equal(inked(flat, luck()), flat)  # nothing ends here
    half = flat.clone()
    half[:, :, :, 16:] = 0.0
    out = inked(half, luck())
    changed = (out - half).abs().amax(1) > 1e-6  # 60 32 32
    some = changed.flatten(1).any(1)
    assert 0.3 < some.float().mean() < 0.7 and not changed[..., :10].any() and not changed[..., 22:].any()
    assert all(out[k, :3, 16, 15].max() < 0.6 and out[k, 3, 16, 16] > 0 for k in some.nonzero().flatten().tolist())
    nothing = torch.zeros(10, 4, 32, 32)
    assert torch.equal(inked(nothing, luck()), nothing)


@pytest.mark.parametrize("language", ["en", "hi"])
def test_words_name_the_thing_and_no_colour(language: str) -> None:
    cat = next(concept for concept in lexicon().values() if concept.en == "cat")
    said = {worded(cat.id, language, random.Random(k)) for k in range(80)}
    assert len(said) > 15 and not any(color in text.lower().split() for color in COLORS for text in said)
    names = (cat.en, *cat.synonyms_en) if language == "en" else (cat.hi.singular, cat.hi.singular_oblique, *cat.synonyms_hi)
    assert all(any(name in text for name in names) for text in said)
