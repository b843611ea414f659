"""Detector training: targets, losses, labels and degradations."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from kalpana.models.detector import STRIDE, Config, Detector
from kalpana.train.data_cache import silent
from kalpana.train.degradations import Degradations
from kalpana.train.detector import (
    FACINGS,
    DetectorRecipe,
    DetectorTask,
    focal,
    frame,
    overlap,
    shown,
    tail,
    without,
)
from kalpana.train.detector_labels import OTHER, facing, label, labels, numbers
from kalpana.world import atlas
from kalpana.world.defaults import own_facing
from kalpana.world.kinds.corrupted import WAYS, breaking, draw, one
from kalpana.world.lexicon import lexicon, sprites_of
from kalpana.world.render import render
from kalpana.world.scene import Art, Background, Broken, Group, Puppet, Scene, SceneObject
from kalpana.world.world import World

CPU = torch.device("cpu")
RECIPE = DetectorRecipe(
    name="d",
    model={"fine": 8, "coarse": 8, "deep": 8, "depth": [1, 1, 1, 1], "embedding": 4},
    num_images=50,
    steps=4,
    batch=4,
    lr=1e-3,
    bf16=False,
)


def test_targets_lie_where_things_are() -> None:
    scenes = [World(3).scene(i) for i in range(40)]
    batch, drawn = shown(scenes, CPU), render(scenes, masks=True)
    assert drawn.whole is not None
    at = 0
    for i, (scene, whole) in enumerate(zip(scenes, drawn.whole, strict=True)):
        for scene_object, mask in zip(scene.objects, whole, strict=True):
            picture, row, column, x0, y0, x1, y1, color, name, real, faces = batch.objects[
                at
            ].tolist()
            ys, xs = mask.nonzero().unbind(1)
            assert picture == i and real == 1
            group = scene.groups[scene_object.group]
            known = lexicon()[group.concept].facing is not None
            assert faces == (
                -1
                if not known
                else FACINGS.index(
                    group.facing or own_facing(group.concept, scene.style or "") or ""
                )
            )
            assert [STRIDE * e for e in (x0, y0, x1, y1)] == [
                xs.min(),
                ys.min(),
                xs.max() + 1,
                ys.max() + 1,
            ]
            concept = scene.groups[scene_object.group].concept
            called = label(scene, scene_object)
            assert called == (OTHER if concept in tail() else concept)
            assert batch.heat[i, numbers()[called], int(row), int(column)] == 1
            assert (name == tail()[concept]) if concept in tail() else name == -1
            assert (color > 0) == (scene_object.color is not None)
            at += 1
    assert at == len(batch.objects)
    assert int((batch.heat == 1).sum()) <= at and batch.heat.max() == 1 and batch.heat.min() >= 0


def test_cells_show_what_covers_half_of_them() -> None:
    """Compared with the masks, cell by cell: a class where one object covers half, 0 where there is
    nothing, and -1 in between."""
    scenes = [World(3).scene(i) for i in range(6)]
    batch, drawn = shown(scenes, CPU), render(scenes, masks=True)
    assert drawn.masks is not None
    answers = {-1: 0, 0: 0, 1: 0}
    for i, (scene, masks) in enumerate(zip(scenes, drawn.masks, strict=True)):
        for row in range(0, 128 // STRIDE, 3):
            for column in range(0, 128 // STRIDE, 3):
                top, left = row * STRIDE, column * STRIDE
                cell = masks[:, top : top + STRIDE, left : left + STRIDE].float().mean((1, 2))
                target = int(batch.shows[i, row, column])
                most = int(cell.argmax()) if len(cell) else 0
                if len(cell) and cell[most] >= 0.5:
                    assert target == 1 + numbers()[label(scene, scene.objects[most]) or ""]
                else:
                    assert target == (-1 if cell.sum() > 0.1 else 0)
                answers[min(target, 1)] += 1
    assert min(answers.values()) > 5


def test_what_is_hidden_is_not_asked_for() -> None:
    """An apple behind a soccer ball three times as large is no target; beside the ball it is."""
    apple, ball = (
        next(row for row in sprites_of(concept)["noto"]) for concept in ("1f34e", "26bd")
    )
    for x, targets in ((0.5, [0.5]), (0.1, [0.1, 0.5])):
        objects = (SceneObject(apple, x, 0.5, 0.2), SceneObject(ball, 0.5, 0.5, 0.6, group=1))
        batch = shown(
            [Scene(objects, (Group("1f34e"), Group("26bd")), Background("flat", "white"))], CPU
        )
        middles = [(row[3] + row[5]) / 2 * STRIDE / 128 for row in batch.objects.tolist()]
        assert len(middles) == len(targets) and all(
            abs(a - b) < 0.05 for a, b in zip(middles, targets, strict=True)
        )


def test_frames_of_clips_are_turned_and_never_of_solids() -> None:
    scenes = [frame(3, random.Random(i)) for i in range(60)]
    objects = [scene_object for scene in scenes for scene_object in scene.objects]
    assert all(
        0 < scene_object.x < 1 and 0 < scene_object.y < 1 and isinstance(scene_object.sprite, int)
        for scene_object in objects
    )
    assert sum(abs(scene_object.angle) > 20 for scene_object in objects) > 5
    assert scenes[0] == frame(3, random.Random(0)) and frame(4, random.Random(0)) != scenes[0]


@pytest.mark.slow
def test_broken_things_have_no_peak() -> None:
    rng = random.Random(0)
    scenes = [breaking(World(3).scene(i), rng, 1.0) for i in range(80)]
    batch = shown(scenes, CPU)
    assert batch.shows.max() == 0 and batch.shows.min() == -1
    assert (
        batch.heat.max() == 0
        and (batch.objects[:, 9] == 0).all()
        and (batch.objects[:, 7] == 0).all()
    )
    seen = {
        scene_object.sprite.way
        for scene in scenes
        for scene_object in scene.objects
        if isinstance(scene_object.sprite, Broken)
    }
    assert seen == set(WAYS)


@pytest.mark.slow
def test_a_broken_sprite_looks_like_none() -> None:
    """Rendered, a corrupted sprite differs from the whole one on over a tenth of the covered area,
    for every corruption; a corruption that would leave a sprite as it was, such as mirroring a
    ball, is replaced by another."""
    rng, changed = random.Random(0), defaultdict[str, list[float]](list)
    ground = Background("flat", "light green")
    rows = [
        row
        for concept in lexicon().values()
        if concept.core
        for rows in sprites_of(concept.id).values()
        for row in rows
    ]
    for row in rng.sample(rows, 240):
        art = one(row, rng)
        whole, other = (
            render([Scene((SceneObject(sprite, 0.5, 0.5, 0.9),), (), ground)], masks=True)
            for sprite in (row, art)
        )
        assert whole.whole is not None and other.whole is not None
        covered = whole.whole[0][0] | other.whole[0][0]
        different = ((whole.pixels - other.pixels)[0].abs().amax(0) > 0.15) & covered
        changed[art.way].append(float(different.sum() / covered.sum()))
    assert changed.keys() == WAYS.keys() and all(
        min(shares) > 0.1 for shares in changed.values()
    ), changed
    apple = sprites_of("1f34e")["fluent-emoji-flat"][0]
    assert "mirrored" not in {one(apple, rng).way for _ in range(60)}


def test_a_mirrored_animal_has_two_heads() -> None:
    """Half of a dog on the left and its mirror image on the right; the seed chooses the half."""
    dog = sprites_of("1f415")["fluent-emoji-flat"][0]
    art = Broken("mirrored", dog, dog, 1)
    tile, plain = draw([art])[0], atlas.load().pixels[dog].float() / 255
    assert (
        torch.allclose(tile[3, :, :36], tile[3].flip(1)[:, :36], atol=1e-4)
        and tile[3, :, :36].sum() > 300
    )
    sides = [(tile[3, :, :40] - each[3, :, :40]).abs().mean() for each in (plain, plain.flip(2))]
    assert min(sides) < 1e-3 < 0.01 < max(sides)


def test_where_things_face() -> None:
    """Twemoji's dog faces left, and mirrored right; upside down it faces the other way; on its side
    its facing is unknown. Noto's dog faces the viewer. The facing of an apple is not labelled."""
    ground = Background("flat", "white")

    def side(sprite: Art, concept: str, angle: float = 0.0, flip: bool = False) -> str | None:
        scene_object = SceneObject(sprite, 0.5, 0.5, 0.5, angle, flip)
        return facing(Scene((scene_object,), (Group(concept),), ground), scene_object)

    dog, front, apple = (
        sprites_of(concept)[style][0]
        for concept, style in (("1f415", "twemoji"), ("1f415", "noto"), ("1f34e", "noto"))
    )
    assert [
        side(dog, "1f415", angle, flip) for angle in (0, 30, 90, 180) for flip in (False, True)
    ] == [*("left", "right", "left", "right", None, None, "right", "left")]
    assert side(front, "1f415") == "" and side(apple, "1f34e") is None
    running, waving = (Puppet(pose, "tan", "red", "blue", "flat") for pose in ("running", "waving"))
    assert [
        side(art, "puppet", flip=flip) for art in (running, waving) for flip in (False, True)
    ] == ["right", "left", "", ""]


def test_nothing_is_asked_of_a_picture_that_is_lost() -> None:
    scenes = [World(3).scene(i) for i in range(6)]
    batch = shown(scenes, CPU)
    gone = without(batch, torch.tensor([1, 4]))
    for i in range(6):
        mine = batch.objects[:, 0] == i
        if i in (1, 4):
            assert (
                gone.heat[i].max() == 0
                and gone.shows[i].max() <= 0
                and (gone.shows[i] == 0).equal(batch.shows[i] == 0)
            )
            assert (
                (gone.objects[mine, 9] == 0).all()
                and (gone.objects[mine, 10] == -1).all()
                and (gone.objects[mine, 8] == -1).all()
            )
        else:
            assert gone.heat[i].equal(batch.heat[i]) and gone.objects[mine].equal(
                batch.objects[mine]
            )
    assert batch.heat[1].max() == 1, "the batch itself stays as it was"


@pytest.mark.slow
def test_the_facing_loss_is_the_cross_entropy_at_the_middles_of_what_faces_somewhere() -> None:
    task = DetectorTask(
        RECIPE.model_copy(update={"model": {**RECIPE.model, "facing": True}}), CPU, silent
    )
    task.model.eval()
    batch = shown([World(3).scene(i) for i in range(24)], CPU)
    with torch.no_grad():
        out = task.model(batch.pixels)
    worth = []
    for picture, row, column, *_, real, faces in batch.objects.tolist():
        if faces >= 0 and real:
            logits = out.facing[int(picture), :, int(row), int(column)]
            worth.append(float(logits.exp().sum().log() - logits[int(faces)]))
    assert len(worth) > 3
    _, parts = task.loss(batch, torch.Generator(), 0.0)
    assert parts["facing"] == pytest.approx(sum(worth) / len(worth), rel=1e-4)
    _, without_it = DetectorTask(RECIPE, CPU, silent).loss(batch, torch.Generator(), 0.0)
    assert "facing" not in without_it


def test_the_loss_by_hand() -> None:
    """Object by object: class, colour, wholeness and name; cell by cell: what it shows and whether
    it is recoloured; the loss is the sum of all parts."""
    torch.manual_seed(1)
    task = DetectorTask(RECIPE.model_copy(update={"batch": 24}), CPU, silent)
    task.model.eval()
    batch = task.batch(0)
    with torch.no_grad():
        out = task.model(batch.pixels)
    names = ("class", "color", "whole", "name", "box")
    parts: dict[str, list[float]] = {name: [] for name in names}

    def cross(logits: Tensor, k: int) -> float:
        return float(logits.exp().sum().log() - logits[k])

    for values in batch.objects.tolist():
        i, row, column, color, name, whole = (int(values[k]) for k in (0, 1, 2, 7, 8, 9))
        chance = float(out.whole[i, 0, row, column].sigmoid())
        parts["whole"].append(-math.log(chance if whole else 1 - chance))
        if not whole:
            continue
        parts["class"].append(
            cross(out.heat[i, :, row, column], int(batch.heat[i, :, row, column].argmax()))
        )
        parts["color"].append(cross(out.color[i, :, row, column], color))
        left, top, right, bottom = out.reach[i, :, row, column].tolist()
        x, y = column + 0.5, row + 0.5
        box = torch.tensor([[x - left, y - top, x + right, y + bottom]])
        parts["box"].append(1 - float(overlap(box, torch.tensor([values[3:7]]))))
        if name >= 0:
            logits = task.model.names.detach() @ out.embedding[i, :, row, column]
            parts["name"].append(0.1 * cross(logits, name))
    loss, found = task.loss(batch, torch.Generator(), 0.0)
    assert min(len(values) for values in parts.values()) > 2
    for part, values in parts.items():
        assert found[part] == pytest.approx(sum(values) / len(values), rel=1e-4), part
    shows = {True: list[float](), False: list[float]()}
    for i, row, column in (batch.shows >= 0).nonzero().tolist():
        k = int(batch.shows[i, row, column])
        shows[k > 0].append(cross(out.shows[i, :, row, column], k))
    wanted = sum(sum(values) / len(values) for values in shows.values())
    assert found["shows"] == pytest.approx(wanted, rel=1e-4)
    p, truth = out.painted.sigmoid(), batch.painted
    wanted = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean().item()
    assert found["painted"] == pytest.approx(wanted, rel=1e-4)
    assert found["heat"] == pytest.approx(focal(out.heat, batch.heat).item(), rel=1e-5)
    assert loss.item() == pytest.approx(sum(found.values()), rel=1e-5)


@pytest.mark.slow
def test_damage_loses_a_share_of_the_pictures_only_with_a_transformer() -> None:
    pixels = World(1).images(range(40))
    same, rows = Degradations(RECIPE, CPU).lose(pixels, torch.Generator().manual_seed(1))
    assert torch.equal(same, pixels) and not len(rows)
    weights = {
        "vae": Path("weights/default/vae.safetensors"),
        "sdedit_model": Path("weights/default/control_dit.safetensors"),
    }
    lost, rows = Degradations(RECIPE.model_copy(update=weights), CPU).lose(
        pixels, torch.Generator().manual_seed(1)
    )
    assert len(rows) == 2
    changed = (lost - pixels).abs().mean((1, 2, 3))
    assert changed[rows].min() > 0.02 and changed.count_nonzero() == 2


def test_painted_is_where_a_change_of_colour_shows() -> None:
    found = 0
    for i in range(1000):
        scene = World(3).scene(i)
        if found > 8 or len(scene.objects) != 1 or scene.objects[0].color not in ("red", "green"):
            continue
        scene_object = scene.objects[0]
        other = type(scene_object)(
            scene_object.sprite,
            scene_object.x,
            scene_object.y,
            scene_object.size,
            scene_object.angle,
            scene_object.flip,
            "blue",
            scene_object.group,
        )
        a, b = (
            render([scene], masks=True),
            render([type(scene)((other,), scene.groups, scene.background)]),
        )
        assert a.painted is not None
        changed = (a.pixels - b.pixels)[0].abs().amax(0) > 0.2
        near = torch.from_numpy(
            ndimage.binary_dilation((a.painted[0] > 0.05).numpy(), iterations=1)
        )
        assert not (changed & ~near).any() and changed[a.painted[0] > 0.9].float().mean() > 0.8
        found += 1
    assert found > 5


def test_overlap_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0, 2, 2]]).repeat(3, 1)
    b = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [3, 0, 5, 2]])
    assert torch.allclose(overlap(a, b), torch.tensor([1.0, 1 / 3, -0.2]), atol=1e-5)


def test_the_focal_loss_of_one_cell() -> None:
    """A peak at p = 0.5 costs 0.25 ln 2; a cell with heat 0.5 at p = 0.5 costs (1/2)^4 · 0.25 ln 2
    more."""
    logits, heat = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.5]]]])
    assert focal(logits, heat).item() == pytest.approx(0.25 * 0.693147 * (1 + 1 / 16), rel=1e-5)


@pytest.mark.slow
def test_every_parameter_learns_and_a_step_helps() -> None:
    task = DetectorTask(RECIPE, CPU, silent)
    task.model.train()
    batch = task.batch(0)
    assert (batch.shows > 0).any()
    optimizer = torch.optim.SGD(task.model.parameters(), 0.02)
    first = None
    for _ in range(8):
        optimizer.zero_grad()
        loss, parts = task.loss(batch, torch.Generator(), 0.0)
        loss.backward()
        assert all(
            p.grad is not None and p.grad.isfinite().all()
            for n, p in task.model.named_parameters()
            if n != "names"
        )
        optimizer.step()
        first = first or loss.item()
    assert loss.item() < first
    assert set(parts) >= {"heat", "shows", "class", "box", "color", "painted", "whole"}


@pytest.mark.parametrize("depthwise", [False, True])
def test_the_network_is_small_and_its_maps_are_a_quarter_of_the_side(depthwise: bool) -> None:
    net = Detector(Config(classes=len(labels()), depthwise=depthwise)).eval()
    assert sum(p.numel() for p in net.parameters()) <= 1_000_000
    with torch.no_grad():
        out = net(torch.zeros(2, 3, 64, 96))
    assert (
        out.heat.shape == (2, len(labels()), 16, 24)
        and out.reach.shape == (2, 4, 16, 24)
        and (out.reach >= 0).all()
    )


def test_damage_is_chance_by_its_seed_alone_and_keeps_the_range() -> None:
    pixels = World(1).images(range(12))
    damage = Degradations(RECIPE, CPU)
    one, two, other = (damage(pixels, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.abs().max() <= 1 and one.isfinite().all()
    same = (one == pixels).flatten(1).all(1)
    assert 2 <= int(same.sum()) < 12 and (one - pixels).abs().mean() < 0.1
