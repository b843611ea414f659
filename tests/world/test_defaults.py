"""Tests of the defaults: a property that a caption does not state has its default value."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from kalpana.world import atlas, grammar
from kalpana.world.defaults import (
    BACKGROUNDS,
    FACING,
    OTHER_STYLE,
    PLACE_SAID,
    STYLE_ORDER,
    house_style,
    own_facing,
    sprite_of,
    styles_of,
)
from kalpana.world.grammar_en import PLACES, STYLES, TINTS
from kalpana.world.grammar_hi import STYLES as HINDI_STYLES
from kalpana.world.lexicon import lexicon
from kalpana.world.render import render
from kalpana.world.sample import scene_of
from kalpana.world.scene import BACKDROPS, Group, Scene
from kalpana.world.video import Videos
from kalpana.world.video import caption as video_caption
from kalpana.world.world import KINDS, World

N = 1500
SCENES = [World(5).scene(i) for i in range(N)]
HOUSE = STYLE_ORDER[0]


def words(scene: Scene, language: str, form: str, seed: int = 0) -> str:
    return grammar.caption(scene, language, form, random.Random(seed))


def test_the_house_style_draws_every_core_class_in_every_colour_that_any_style_does() -> None:
    for concept in (c for c in lexicon().values() if c.core):
        assert sprite_of(concept.id, HOUSE) is not None, concept.en
        painted = any(sprite_of(concept.id, style, "red") is not None for style in STYLE_ORDER)
        assert painted == (sprite_of(concept.id, HOUSE, "red") is not None), concept.en


def test_the_house_style_is_the_first_that_draws_all() -> None:
    assert house_style((Group("1f415"), Group("1f697", color="red"))) == HOUSE
    rare = next(
        c
        for c in lexicon().values()
        if HOUSE not in {s for s in STYLE_ORDER if sprite_of(c.id, s) is not None}
    )
    assert (
        house_style((Group(rare.id), Group("1f415")))
        == styles_of((Group(rare.id), Group("1f415")))[0]
        != HOUSE
    )


@pytest.mark.slow
def test_a_quarter_of_the_scenes_are_in_another_style_and_only_these_must_say_it() -> None:
    drawn = [scene for scene in SCENES if scene.groups and len(styles_of(scene.groups)) > 1]
    other = [scene for scene in drawn if scene.style != house_style(scene.groups)]
    assert abs(len(other) / len(drawn) - OTHER_STYLE) < 0.04
    said = [names for names in STYLES.values()]
    for k, scene in enumerate(other[:150]):
        for form in grammar.FORMS:
            text = words(scene, "en", form, k).lower()
            mine = [name.lower() for names in STYLES[scene.style or ""] for name in names]
            assert any(name in text for name in mine), text
            text = words(scene, "hi", form, k)
            assert any(
                name.replace("ँ", "ं").replace("़", "") in text.replace("ँ", "ं").replace("़", "")
                for name in HINDI_STYLES[scene.style or ""]
            ), text
    silent = [
        not any(n in words(s, "en", "natural", k) for names in said for both in names for n in both)
        for k, s in enumerate(drawn)
        if s not in other
    ]
    assert sum(silent) / len(silent) > 0.8


def test_no_two_styles_share_a_name() -> None:
    for table in (
        {s: [n for both in names for n in both] for s, names in STYLES.items()},
        HINDI_STYLES,
    ):
        every = Counter(name for names in table.values() for name in set(names))
        assert max(every.values()) == 1, every.most_common(1)


def test_unsaid_facing_is_the_drawings_own_and_every_mirrored_object_is_said_to_face_so() -> None:
    stated = Counter[str]()
    for k, scene in enumerate(SCENES):
        for item in scene.objects:
            group = scene.groups[item.group]
            own = own_facing(group.concept, scene.style or "")
            assert item.flip == (group.facing is not None and group.facing != own)
            assert item.angle == 0
        for group in scene.groups:
            stated[
                group.facing
                or ("unsaid" if own_facing(group.concept, scene.style or "") else "none")
            ] += 1
            if group.facing:
                assert re.search(
                    rf"(facing|looking|turned to the|facing to the) {group.facing}|"
                    rf"{group.facing}-facing",
                    words(scene, "en", "short", k),
                )
                assert re.search(
                    "बा[ईयएँ]" if group.facing == "left" else "दा[ईयएह]",
                    words(scene, "hi", "short", k),
                )
    share = (stated["left"] + stated["right"]) / (
        stated["left"] + stated["right"] + stated["unsaid"]
    )
    assert abs(share - FACING) < 0.06 and 0.6 < stated["left"] / stated["right"] < 1.6


def test_an_object_that_faces_right_is_the_mirror_image_of_one_that_faces_left() -> None:
    left, right, plain = (
        scene_of(random.Random(1), (Group("1f415", facing=facing),))
        for facing in ("left", "right", None)
    )
    assert left and right and plain
    assert left == Scene(plain.objects, left.groups, left.background, None, plain.style), (
        "the drawing itself faces left"
    )
    item = right.objects[0]
    tile = atlas.load().pixels[item.sprite][3].float()  # type: ignore[index]
    # The upper half of a dog has more pixels at the head than at the thin tail.
    head = tile[:48, :48].sum() - tile[:48, 48:].sum()
    assert head > 0 and item.flip and not left.objects[0].flip
    masks = render([left, right], masks=True).masks
    assert masks is not None
    one, two = masks[0][0].float(), masks[1][0].float()
    mirror = two.flip(1).roll(round(128 * (2 * item.x - 1)), 1)
    assert (one - mirror).abs().mean() < 0.02 < (one - two).abs().mean()


def test_facing_that_was_checked_by_eye_is_of_core_classes_and_drawn_as_said() -> None:
    known = [concept for concept in lexicon().values() if concept.facing]
    assert len(known) == 16 and all(concept.core and concept.facing == "left" for concept in known)
    assert (
        own_facing("1f415", HOUSE) == "left"
        and own_facing("1f415", "noto") is None
        and own_facing("1f34e", HOUSE) is None
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["short", "natural"])
def test_a_caption_that_names_no_place_means_a_plain_ground_four_times_of_five(form: str) -> None:
    places = [text for where, what in PLACES.values() for text in (*where, *what)]
    unsaid = [
        s
        for k, s in enumerate(SCENES)
        if s.groups and not any(text in words(s, "en", form, k) for text in places)
    ]
    plain = sum(scene.background.kind != "place" for scene in unsaid) / len(unsaid)
    expected = (1 - BACKGROUNDS["place"]) / (1 - BACKGROUNDS["place"] * PLACE_SAID)
    assert abs(plain - expected) < 0.03 and plain > 0.8
    grounds = {tint for name in BACKDROPS for tint in TINTS.get(name, (name,))}
    silent = [
        s
        for k, s in enumerate(SCENES)
        if s in unsaid
        and not any(f"{g} " in words(s, "en", form, k).replace(".", " ") for g in grounds)
    ]
    assert sum(scene.background.kind != "place" for scene in silent) / len(silent) > 0.75


def test_one_arrangement_of_each_count() -> None:
    """A count has one arrangement: about as many rows as columns, the fuller rows on top."""
    expected = {2: [2], 3: [2, 1], 4: [2, 2], 5: [3, 2], 6: [3, 3], 7: [3, 2, 2], 8: [3, 3, 2]}
    for n, rows in expected.items():
        for seed in range(12):
            scene = scene_of(random.Random(seed), (Group("1f34e", n),))
            assert scene is not None
            seen = Counter(int((item.y - 0.02) / 0.96 * len(rows)) for item in scene.objects)
            assert [seen[k] for k in range(len(rows))] == rows, (n, seen)


def test_lone_objects_of_no_said_size_are_of_medium_size() -> None:
    sizes = [
        s.objects[0].size
        for s in SCENES
        if len(s.objects) == 1 and s.groups[0].size is None and len(s.groups) == 1
    ]
    assert len(sizes) > 100 and min(sizes) > 0.4 and max(sizes) < 0.8


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_is_turned(kind: str) -> None:
    assert all(item.angle == 0 for i in range(60) for item in World(1, kind=kind).scene(i).objects)


def test_moving_objects_face_where_they_go() -> None:
    ahead = Counter[bool]()
    for i in range(900):
        clip = Videos(3).video(i)
        own = own_facing(clip.scene.groups[0].concept, clip.scene.style or "")
        if (
            clip.event in ("move", "arc", "return", "hide")
            and clip.word in ("left", "right")
            and own
        ):
            ahead[clip.scene.objects[0].flip == (own != clip.word)] += 1
        elif clip.event != "solid":
            assert not clip.scene.objects[0].flip
    assert ahead[True] > 20 and not ahead[False]


@pytest.mark.parametrize("language", ["en", "hi"])
def test_captions_of_videos_name_a_style_that_is_not_the_house_style(language: str) -> None:
    table = (
        {style: [n for both in names for n in both] for style, names in STYLES.items()}
        if language == "en"
        else HINDI_STYLES
    )
    found = 0
    for i in range(300):
        clip = Videos(3).video(i)
        if clip.scene.style != house_style(clip.scene.groups):
            text = video_caption(
                clip, language, ("short", "natural", "dense")[i % 3], random.Random(i)
            ).lower()
            assert any(name.lower() in text for name in table[clip.scene.style or ""]), text
            found += 1
    assert found > 30


def test_one_caption_means_one_drawing() -> None:
    """Sixteen scenes of "a dog" use one sprite and differ only in position, size and background."""
    tiles = {
        item.sprite
        for seed in range(16)
        for scene in [scene_of(random.Random(seed), (Group("1f415"),))]
        if scene
        for item in scene.objects
    }
    assert len(tiles) == 1
