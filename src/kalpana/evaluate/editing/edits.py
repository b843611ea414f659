"""Edits by two prompts (FlowEdit), judged atom by atom.

A true picture of two coloured objects is edited so that one atom changes: a colour, a class or the
ground. Verifier A says whether the asked atom is right, and whether all others stay. The ground is
that of the eight places whose true render is nearest. The floor is the picture left alone, and the
ceiling the true render of the changed scene.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from kalpana.evaluate.editing.estimate import Estimate, mean, share, table
from kalpana.evaluate.prompts import Groups, Prompt
from kalpana.evaluate.score import atoms
from kalpana.evaluate.suites import core, english, places_for, spriteeval
from kalpana.evaluate.verifiers.observations import Observation, Verifier
from kalpana.media import to_images, to_pixels
from kalpana.metrics import psnr
from kalpana.pipelines import last
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.pipeline import Pipeline
from kalpana.request import Request, ask
from kalpana.world import maps
from kalpana.world.defaults import sprite_of
from kalpana.world.render import render
from kalpana.world.scene import COLORS, PLACES, Scene

KINDS = ("colour", "class", "ground")
ATOMS = 3  # of a group with a colour: object, count, colour; see score.atoms
SOFT = 2  # pixels around an object's box in which its soft edge may lie
WAYS = {
    "left alone": "left alone (floor)",
    "autoencoded": "left alone, autoencoded",
    "edited": "edited",
    "true": "true render (ceiling)",
}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Change:
    """A change of one atom of group ``k``, or of the ground: prompts and scenes of both sides."""

    kind: str
    k: int
    source: Prompt
    target: Prompt
    before: Scene
    after: Scene


@dataclass(frozen=True)
class Edited:
    """Scores of one ``way``, a key of WAYS, over the changes of one ``kind``: shares of pictures
    with the asked atom and with all others, and the PSNR in dB of the pixels to be kept."""

    kind: str
    way: str
    count: int
    asked: Estimate
    kept: Estimate
    psnr: Estimate


def measure(model: Pipeline, verifier: Verifier, count: int, progress: Progress) -> list[Edited]:
    """Scores of a model's edits, ``count`` of each kind."""
    rows = []
    for number, kind in enumerate(KINDS):
        scores: dict[str, list[tuple[bool, bool, float]]] = {}
        for i, change in enumerate(changes(kind, count)):
            for way, pixels in _pictures(model, change):
                (seen,) = verifier.look(pixels)
                asked, kept = verdict(change, seen, pixels)
                scores.setdefault(way, []).append((asked, kept, kept_psnr(change, pixels)))
            progress(number * count + i + 1, len(KINDS) * count)
        for way, each in scores.items():
            asked_all, kept_all, levels = zip(*each, strict=True)
            rows.append(Edited(kind, way, count, share(asked_all), share(kept_all), mean(levels)))
    return rows


def changes(kind: str, count: int) -> Iterator[Change]:
    """``count`` changes of a kind on different dev scenes, the same for the same number."""
    prompts = [prompt for prompt in spriteeval(dev=True) if prompt.task == "color_attr"]
    rng = random.Random(f"editing/{kind}")
    for prompt in rng.sample(prompts, count):
        place = rng.choice(places_for(prompt.groups)) if kind == "ground" else None
        source = asking(prompt.groups, place)
        k = rng.randrange(2)
        scene = source.scene(rng)
        yield _changed(rng, kind, k, source, scene)


def asking(groups: Groups, place: str | None = None) -> Prompt:
    """The English prompt for groups in a place."""
    return Prompt(english(groups, None, place), "en", "editing", groups, None, place)


def _changed(rng: random.Random, kind: str, k: int, source: Prompt, scene: Scene) -> Change:
    """The scene with another colour or class of group k, or another ground."""
    if kind == "ground":
        places = [place for place in places_for(source.groups) if place != source.place]
        place = rng.choice(places)
        target = asking(source.groups, place)
        after = replace(scene, background=replace(scene.background, name=place))
        return Change(kind, k, source, target, scene, after)
    group, others = source.groups[k], {each.concept for each in source.groups}
    at = next(i for i, item in enumerate(scene.objects) if item.group == k)
    item, style = scene.objects[at], scene.style
    assert style is not None
    if kind == "colour":
        taken = {each.color for each in source.groups}
        color = rng.choice([color for color in COLORS if color not in taken])
        group, item = replace(group, color=color), replace(item, color=color)
    else:
        rows = {
            concept: row
            for concept in core(recolor=True)
            if concept not in others and (row := sprite_of(concept, style, group.color)) is not None
        }
        concept = rng.choice(list(rows))
        group = replace(group, concept=concept)
        item = replace(item, sprite=rows[concept], flip=False)
    groups = tuple(group if i == k else each for i, each in enumerate(source.groups))
    objects = tuple(item if i == at else each for i, each in enumerate(scene.objects))
    after = replace(scene, groups=groups, objects=objects)
    return Change(kind, k, source, asking(groups), scene, after)


def _pictures(model: Pipeline, change: Change) -> Iterator[tuple[str, Tensor]]:
    """The pictures (1, 3, h, w) of a change by way."""
    before = render([change.before]).pixels
    yield "left alone", before
    if (coded := autoencoded(model, before)) is not None:
        yield "autoencoded", coded
    request = ask(
        change.target.text,
        source_prompt=change.source.text,
        image=to_images(before)[0],
        seed=change.target.seeds(1)[0],
    )
    yield "edited", to_pixels([generated(model, request)])
    yield "true", render([change.after]).pixels


def generated(model: Pipeline, request: Request) -> Image.Image:
    """The picture of a request for one, resized to the 128 px of the world."""
    image = last(model.generate(request)).outputs[0].image
    return image if image.size == (128, 128) else image.resize((128, 128), Image.Resampling.LANCZOS)


def autoencoded(model: Pipeline, pixels: Tensor) -> Tensor | None:
    """Pictures through the autoencoder of a diffusion model; None of another model."""
    if not isinstance(model, DiffusionPipeline):
        return None
    with torch.inference_mode():
        return model.codec.decode(model.codec.encode(pixels.to(model.device))).cpu().clamp(-1, 1)


def verdict(change: Change, seen: Observation, pixels: Tensor) -> tuple[bool, bool]:
    """Whether the asked atom is right in a picture, and whether all others are."""
    holds, first = atoms(change.target, seen), ATOMS * change.k
    if change.kind == "ground":
        return nearest_place(change, pixels) == change.target.place, all(holds)
    # The count of a new class is no other atom: it says that the class is there.
    mine = {first + 2} if change.kind == "colour" else {first, first + 1}
    asked = all(holds[i] for i in mine)
    return asked, all(hold for i, hold in enumerate(holds) if i not in mine)


def nearest_place(change: Change, pixels: Tensor) -> str:
    """The place whose true render differs least from a picture, outside of the objects."""
    after = change.after
    scenes = [replace(after, background=replace(after.background, name=name)) for name in PLACES]
    true, ground = render(scenes).pixels, ~_whole(after).any(0)
    far = (true - pixels)[..., ground].abs().mean((1, 2))
    return PLACES[int(far.argmin())]


def kept_psnr(change: Change, pixels: Tensor) -> float:
    """PSNR in dB to the true render of the changed scene, of the pixels that the change leaves: of
    all outside of the boxes of the changed object, or of the objects where the ground changes;
    infinite where they are equal."""
    square = (render([change.after]).pixels - pixels)[..., kept(change)].square().mean()
    return float("inf") if square == 0 else psnr(float(square))


def kept(change: Change) -> Tensor:
    """The pixels (h, w) that a change leaves as they are."""
    if change.kind == "ground":
        return _whole(change.after).any(0)
    at = next(i for i, item in enumerate(change.after.objects) if item.group == change.k)
    both = torch.stack([_whole(scene)[at] for scene in (change.before, change.after)])
    outside = torch.ones(both.shape[1:], dtype=torch.bool)
    for x0, y0, x1, y1 in maps.boxes(both).tolist():
        rows, columns = (slice(max(a - SOFT, 0), b + SOFT) for a, b in ((y0, y1), (x0, x1)))
        outside[rows, columns] = False
    return outside


def _whole(scene: Scene) -> Tensor:
    """The masks (n, h, w) of the objects of a scene."""
    whole = render([scene], masks=True).whole
    assert whole is not None
    return whole[0]


def markdown(rows: Sequence[Edited]) -> str:
    """The scores as a Markdown table: shares in per cent, PSNR in dB."""
    lines = [
        [
            f"{row.kind}: {WAYS[row.way]}",
            row.asked.text(100),
            row.kept.text(100),
            row.psnr.text(digits=1),
            str(row.count),
        ]
        for row in rows
    ]
    return table(("change", "asked atom", "all others", "PSNR of the rest, dB", "pictures"), lines)
