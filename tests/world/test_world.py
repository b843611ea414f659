"""Tests of the world: truth, relations, batch independence and held-out combinations."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from kalpana.world import atlas, places
from kalpana.world.render import render
from kalpana.world.sample import sample_scene
from kalpana.world.scene import BACKDROPS, PLACES, RELATIONS, Background, Group, Scene, SceneObject
from kalpana.world.splits import combinations, held_out
from kalpana.world.world import KINDS, MIX, World, kind_of

WORLD = World(seed=3)


def centre(sample_boxes: torch.Tensor) -> tuple[float, float]:
    x0, y0, x1, y1 = sample_boxes.float().mean(0).tolist()
    return (x0 + x1) / 2, (y0 + y1) / 2


def test_same_index_same_sample() -> None:
    one, two = WORLD[11], World(seed=3)[11]
    assert one.caption == two.caption
    assert torch.equal(one.image, two.image)
    assert not torch.equal(one.image, World(seed=4)[11].image)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    together = WORLD.images(range(20))
    for i in range(20):
        assert torch.equal(together[i], WORLD[i].image), f"picture {i} differs alone and in a batch"


def test_pixels_are_in_range_and_finite() -> None:
    pixels = WORLD.images(range(64))
    assert pixels.isfinite().all()
    assert pixels.min() >= -1 and pixels.max() <= 1


def test_a_small_thing_is_small_once() -> None:
    """A single object has its stated size: 0.19 to 0.36 of the image, or over 0.8."""
    seen: dict[str, list[float]] = {"small": [], "large": []}
    for i in range(3000):
        scene = WORLD.scene(i)
        if len(scene.groups) == 1 and scene.groups[0].count == 1 and scene.groups[0].size:
            seen[scene.groups[0].size].append(scene.objects[0].size)
    assert len(seen["small"]) > 30 and len(seen["large"]) > 30
    assert min(seen["small"]) > 0.19 and max(seen["small"]) < 0.36 and min(seen["large"]) > 0.8


def test_masks_are_where_the_picture_changes() -> None:
    """Removal of an object changes the image inside its mask, and hardly outside its box.

    The box is grown by the soft edge. Outside it, only the faint shadows that are part of some
    sprites may change.
    """
    for i in range(30):
        sample = WORLD[i]
        scene, top = sample.truth.scene, len(sample.truth.scene.objects) - 1
        if not scene.objects:  # a place alone
            continue
        fewer = Scene(
            scene.objects[:-1], scene.groups, scene.background, scene.relation, scene.style
        )
        change = (render([fewer]).pixels[0] - sample.image).abs().amax(0)
        x0, y0, x1, y1 = sample.truth.boxes[top].tolist()
        outside = torch.ones_like(change, dtype=torch.bool)
        outside[max(y0 - 6, 0) : y1 + 6, max(x0 - 6, 0) : x1 + 6] = False
        assert not outside.any() or change[outside].max() < 0.3, (
            f"picture {i}: something was drawn outside the box"
        )
        assert (change[sample.truth.masks[top]] > 0.02).float().mean() > 0.5, (
            f"picture {i}: the mask covers what was not drawn"
        )


def test_masks_do_not_overlap_and_fill_their_boxes() -> None:
    for i in range(30):
        truth = WORLD[i].truth
        assert (truth.masks.sum(0) <= 1).all()
        for mask, (x0, y0, x1, y1) in zip(truth.masks, truth.boxes.tolist(), strict=True):
            assert mask.sum() == mask[y0:y1, x0:x1].sum()
            assert (
                mask[:, x0].any()
                and mask[:, x1 - 1].any()
                and mask[y0].any()
                and mask[y1 - 1].any()
            )


def test_counts_and_groups_agree_with_things() -> None:
    for i in range(300):
        scene = WORLD.scene(i)
        drawn = Counter(scene_object.group for scene_object in scene.objects)
        assert [drawn[g] for g in range(len(scene.groups))] == [
            group.count for group in scene.groups
        ]
        assert all(
            scene_object.color == scene.groups[scene_object.group].color
            for scene_object in scene.objects
        )


@pytest.mark.slow
def test_relations_hold_in_the_pixels() -> None:
    """Relations hold by GenEval's rule, with the sign checked.

    The offset of the centres, less a tenth of both sizes, must be mostly along the axis.
    """
    seen: Counter[str] = Counter()
    for i in range(700):
        scene = WORLD.scene(i)
        if scene.relation is None or max(g.count for g in scene.groups) > 1:
            continue
        drawn = render([scene], masks=True)
        assert drawn.masks is not None
        boxes = []
        for group in (0, 1):
            mask = drawn.masks[0][
                [k for k, scene_object in enumerate(scene.objects) if scene_object.group == group]
            ].any(0)
            ys, xs = mask.nonzero().unbind(1)
            boxes.append(
                (xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1)
            )
        a, b = boxes
        dx, dy = ((a[0] + a[2]) - (b[0] + b[2])) / 2, ((a[1] + a[3]) - (b[1] + b[3])) / 2
        rx = (
            max(abs(dx) - 0.1 * (a[2] - a[0] + b[2] - b[0]), 0)
            * (1 if dx > 0 else -1)
            / (dx**2 + dy**2) ** 0.5
        )
        ry = (
            max(abs(dy) - 0.1 * (a[3] - a[1] + b[3] - b[1]), 0)
            * (1 if dy > 0 else -1)
            / (dx**2 + dy**2) ** 0.5
        )
        holds = {
            "left of": rx < -0.5,
            "right of": rx > 0.5,
            "above": ry < -0.5,
            "below": ry > 0.5,
            "next to": abs(rx) > 0.5,
            # Its foot is on the support, above the support's foot.
            "on": b[1] - 4 < a[3] < b[3] and a[0] < b[2] and b[0] < a[2],
        }[scene.relation]
        assert holds, f"scene {i}: {scene.relation} does not hold: {a} {b}"
        seen[scene.relation] += 1
    assert set(seen) == set(RELATIONS)


def test_things_stay_in_the_picture() -> None:
    sprites = atlas.load().sprites
    for i in range(500):
        for scene_object in WORLD.scene(i).objects:
            if scene_object.angle == 0:
                half_w, half_h = (
                    scene_object.size * share / 2
                    for share in (
                        sprites[scene_object.sprite].width,
                        sprites[scene_object.sprite].height,
                    )
                )
                assert scene_object.x - half_w > -0.01 and scene_object.x + half_w < 1.01, (
                    f"scene {i}: {scene_object}"
                )
                assert scene_object.y - half_h > -0.01 and scene_object.y + half_h < 1.01, (
                    f"scene {i}: {scene_object}"
                )


@pytest.mark.slow
def test_training_contains_no_held_out_combination() -> None:
    banned, scenes = held_out(), 100_000
    assert all(any(c[0] == kind for c in banned) for kind in ("color", "pair", "count"))
    for i in range(scenes):
        broken = banned.intersection(combinations(WORLD.scene(i)))
        assert not broken, f"training scene {i} shows {broken}"


@pytest.mark.slow
def test_unseen_scenes_all_hold_one() -> None:
    unseen = World(seed=3, split="unseen")
    kinds = Counter(
        c[0] for i in range(200) for c in held_out().intersection(combinations(unseen.scene(i)))
    )
    assert all(held_out().intersection(combinations(unseen.scene(i))) for i in range(200))
    assert set(kinds) == {"color", "pair", "count"}


@pytest.mark.slow
def test_two_object_scenes_of_dev_and_test_are_never_trained_on() -> None:
    def said(split: str, n: int) -> set[str]:
        """Canonical texts of the two-object scenes: "B right of A" becomes "A left of B".

        Groups without an order are sorted.
        """
        found = set()
        for scene in (World(seed=s, split=split).scene(i) for s in (0, 9) for i in range(n)):
            one = [(group.concept, group.count, group.color, group.size) for group in scene.groups]
            back = scene.relation in ("right of", "below") or (
                scene.relation in (None, "next to") and repr(one) > repr(one[::-1])
            )
            if len(one) == 2:
                found.add(
                    repr(
                        (
                            one[::-1] if back else one,
                            {"right of": "left of", "below": "above"}.get(
                                scene.relation or "", scene.relation
                            ),
                        )
                    )
                )
        return found

    train, dev, test = said("train", 4000), said("dev", 1500), said("test", 1500)
    assert dev and test
    assert train.isdisjoint(dev) and train.isdisjoint(test) and dev.isdisjoint(test)


def test_every_backdrop_and_place_can_be_painted_and_no_other() -> None:
    assert set(places.COLORS) == set(BACKDROPS)
    assert set(places.PLACES) == set(PLACES)


def test_everything_holds_every_kind_and_words_each_as_its_own() -> None:
    world = World(seed=8, kind="everything")
    kinds = Counter(kind_of(world.scene(i)) for i in range(600))
    assert set(kinds) == set(MIX) and all(
        abs(kinds[kind] / 600 - share) < 0.06 for kind, share in MIX.items()
    )
    for i in range(60):
        scene = world.scene(i)
        for language in ("en", "hi"):
            said, own = (
                KINDS[k].caption(scene, language, "dense", random.Random(i))
                for k in ("everything", kind_of(scene))
            )
            assert said == own
    together = world.images(range(24))
    assert all(torch.equal(together[i], world[i].image) for i in range(24))


@pytest.mark.parametrize("kind", list(MIX))
def test_the_kind_of_a_scene_is_told_from_what_it_holds(kind: str) -> None:
    assert {kind_of(World(seed=2, kind=kind).scene(i)) for i in range(50)} == {kind}


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="objects, text, hands"):
        World(kind="ghosts")


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="train, dev, test, unseen"):
        World(split="validation")
    with pytest.raises(ValueError, match="train, dev, test, unseen"):
        sample_scene(random.Random(0), "validation")


def test_a_turned_thing_turns_counter_clockwise() -> None:
    """Rotation of a wide sprite by 90 degrees moves its right end to the top."""
    art = atlas.load()
    row = next(
        i for i, sprite in enumerate(art.sprites) if sprite.width == 1 and sprite.height < 0.5
    )
    plain = render([_alone(row, 0)], masks=True)
    turned = render([_alone(row, 90)], masks=True)
    assert plain.masks is not None and turned.masks is not None
    assert (torch.rot90(plain.masks[0][0]) ^ turned.masks[0][0]).float().mean() < 0.005
    assert (torch.rot90(plain.pixels[0], 1, (1, 2)) - turned.pixels[0]).abs().mean() < 0.01


def _alone(sprite: int, angle: float) -> Scene:
    return Scene(
        (SceneObject(sprite, 0.5, 0.5, 0.6, angle),), (Group("x"),), Background("flat", "gray")
    )
