"""Object augmentation: shapes are kept, styles vary, and held-out styles are not used."""

from __future__ import annotations

import random

import pytest
import torch

from kalpana.train.object_augmentation import (
    PATCHED,
    Cards,
    apply_to_share,
    caption_for,
    inked,
    loosely,
    patched,
    recoloured,
    warped,
)
from kalpana.world import atlas
from kalpana.world.lexicon import keywords, lexicon
from kalpana.world.scene import COLORS


def seeded(seed: int = 0) -> torch.Generator:
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
    assert (
        one.shape == (12, 3, 32, 32)
        and one.dtype == torch.uint8
        and len({picture.numpy().tobytes() for picture in one}) == 12
    )


def test_a_style_that_is_left_out_is_in_no_hand() -> None:
    every, without = Cards(32), Cards(32, ("noto", "twemoji"))
    styles = {
        atlas.load().sprites[row].style
        for hands in without.rows.values()
        for rows in hands
        for row in rows
    }
    assert styles == {sprite.style for sprite in atlas.load().sprites} - {"noto", "twemoji"}
    assert len(without.every) < len(every.every) and all(
        without.rows[concept] for concept in without.every
    )


def test_the_rows_of_a_concept_show_it() -> None:
    cards = Cards(32)
    for concept in cards.core:
        assert all(
            atlas.load().sprites[row].concept == concept
            for rows in cards.rows[concept]
            for row in rows
        )


def test_the_finishes_of_a_drawing_are_one_hand() -> None:
    cards = Cards(32)
    for concept in cards.core:
        hands = [{atlas.load().sprites[row].style for row in rows} for rows in cards.rows[concept]]
        assert {"fluent-3d", "fluent-emoji", "fluent-emoji-flat"} in hands
        assert (
            all(len({style.split("-")[0] for style in styles}) == 1 for styles in hands)
            and len(hands) >= 3
        )


def test_a_sprite_that_is_warped_is_whole_and_no_other() -> None:
    """Most warped sprites lie inside the square, and colours are unchanged."""
    square = torch.zeros(64, 4, 96, 96)
    square[:, :, 16:80, 16:80] = torch.tensor([0.2, 0.4, 0.8, 1.0]).view(1, 4, 1, 1)
    out = warped(square, 96, seeded())
    solid = out[:, 3] > 0.999
    assert torch.allclose(
        out[:, :3].movedim(1, -1)[solid], torch.tensor([0.2, 0.4, 0.8]), atol=1e-3
    )
    share = out[:, 3].mean((1, 2))
    assert share.min() > 0.03 and share.max() < 0.6 and share.std() > 0.03  # 0.44 before
    rim = torch.cat((out[:, 3, 0], out[:, 3, -1], out[:, 3, :, 0], out[:, 3, :, -1]), 1)
    assert (rim.amax(1) < 0.5).float().mean() > 0.8


def test_new_colours_keep_to_the_shape() -> None:
    given = sprites()
    out = recoloured(given, seeded())
    assert (
        torch.equal(out[:, 3], given[:, 3])
        and (out[:, :3] <= out[:, 3:] + 1e-6).all()
        and (out >= 0).all()
    )
    gray = (out[:, :3].amax(1) - out[:, :3].amin(1)).amax((1, 2)) < 1e-5
    assert 1 <= gray.sum() < 20  # some become grey


def test_a_share_of_the_sprites_is_painted_and_the_rest_are_as_they_were() -> None:
    given = sprites().repeat(8, 1, 1, 1)
    out = apply_to_share(0.3, lambda part, generator: part + 1, given, seeded())
    painted = (out != given).flatten(1).any(1)
    assert 0.22 < painted.float().mean() < 0.38
    assert torch.equal(out[painted], given[painted] + 1) and torch.equal(
        out[~painted], given[~painted]
    )
    assert apply_to_share(0.0, lambda part, generator: part + 1, given, seeded()) is given


def test_a_patch_is_of_the_other_drawing_and_the_rest_of_the_first() -> None:
    one, two = torch.zeros(300, 4, 24, 24), torch.ones(300, 4, 24, 24)
    out = patched(one, two, seeded())
    assert ((out == 0) | (out == 1)).all() and torch.equal(out[:, 0], out[:, 3])
    share = out[:, 0].mean((1, 2))
    assert abs((share > 0).float().mean() - PATCHED) < 0.1  # some patches are empty
    assert 0.3 < share[share > 0].mean() < 0.7 and share[share > 0].std() > 0.1


def test_ink_is_dark_and_on_edges_alone() -> None:
    flat = torch.full((60, 4, 32, 32), 0.6)
    flat[:, 3] = 1.0
    assert torch.equal(inked(flat, seeded()), flat)  # there are no edges
    half = flat.clone()
    half[:, :, :, 16:] = 0.0
    out = inked(half, seeded())
    changed = (out - half).abs().amax(1) > 1e-6  # 60 32 32
    assert (
        changed.flatten(1).any(1).all()
        and not changed[..., :10].any()
        and not changed[..., 22:].any()
    )
    assert (out[:, :3, 16, 15].amax(1) < 0.6).all() and (out[:, 3, 16, 16] > 0).all()
    nothing = torch.zeros(10, 4, 32, 32)
    assert torch.equal(inked(nothing, seeded()), nothing)


@pytest.mark.parametrize("language", ["en", "hi"])
def test_words_name_the_thing_or_what_it_is_for_and_no_colour(language: str) -> None:
    cat = next(concept for concept in lexicon().values() if concept.en == "cat")
    captions = {caption_for(cat.id, language, random.Random(k)) for k in range(120)}
    assert len(captions) > 15 and not any(
        color in text.lower().split() for color in COLORS for text in captions
    )
    names = (
        (cat.en, *cat.synonyms_en)
        if language == "en"
        else (cat.hi.singular, cat.hi.singular_oblique, *cat.synonyms_hi)
    )
    words = keywords()[cat.id][language]
    assert all(
        any(name in text for name in names) or all(word in words for word in text.split(", "))
        for text in captions
    )
    assert any(text in words for text in captions)


@pytest.mark.parametrize(
    ("language", "colours"),
    [("en", COLORS), ("hi", ("लाल", "हरा", "हरी", "हरे", "नीला", "पीला", "काला", "सफ़ेद", "भूरा"))],
)
def test_keywords_that_name_a_colour_are_not_said(language: str, colours: tuple[str, ...]) -> None:
    """A card of an apple may be blue, and "red" is among an apple's keywords."""
    colour = {
        word
        for words in keywords().values()
        for word in words[language]
        if set(word.lower().split()) & set(colours)
    }
    assert len(colour) > 8
    for concept in lexicon().values():
        names = {concept.en, *concept.synonyms_en, concept.hi.singular, *concept.synonyms_hi}
        used = {
            word
            for k in range(6)
            for word in loosely(concept.id, language, random.Random(k)).split(", ")
        }
        assert not used & colour - names
