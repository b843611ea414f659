"""Examples of the world with all their truth, images and videos in one type: what exports write."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kalpana.world import maps
from kalpana.world.grammar import FORMS
from kalpana.world.kinds import hands, puppets
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Hand, Puppet, Scene, SceneObject, Sign, Solid
from kalpana.world.video import Videos, speed
from kalpana.world.video import caption as video_caption
from kalpana.world.world import KINDS, World, kind_of

VIDEO = "video"  # the kind of exports that hold videos
# Names of the concepts that the lexicon lacks, in English and Hindi.
NAMES = {
    "hand": ("hand", "हाथ"),
    "puppet": ("person", "व्यक्ति"),
    "sign": ("sign", "बोर्ड"),
}
SIDES = ("left", "right")
# The order in which exports list the joints of a person, and the pairs that a bone connects.
JOINTS = (
    "head",
    "neck",
    *(
        f"{side} {part}"
        for side in SIDES
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    ),
)
BONES = (
    ("head", "neck"),
    *(
        (one if one == "neck" else f"{side} {one}", f"{side} {two}")
        for side in SIDES
        for one, two in (
            ("neck", "shoulder"),
            ("shoulder", "elbow"),
            ("elbow", "wrist"),
            ("shoulder", "hip"),
            ("hip", "knee"),
            ("knee", "ankle"),
        )
    ),
)
Describe = Callable[[str, str, random.Random], str]  # (language, form, rng) to a caption


@dataclass(frozen=True)
class Example:
    """An image, or a video of f frames, of n objects, with its captions and its truth.

    ``frames`` (f, 3, h, w) in [-1, 1]; of an image, f is 1.
    ``captions``: by language and form; ``caption`` is one of them, as a random draw.
    ``facts``: everything that is not a tensor, ready for JSON; coordinates are in pixels, paths in
    shares of the side.
    ``masks`` (f, n, h, w) bool: the visible part of each object. ``whole`` (n, h, w) bool: the full
    object, occluded parts included; None for a video.
    ``depth`` (f, h, w): 0 at the camera, 1 at the background. ``edges`` and ``outlines``
    (f, h, w) bool: of ``maps.edges`` and ``maps.outlines``.
    """

    index: int
    frames: Tensor
    fps: int | None  # None for an image
    caption: str
    captions: dict[str, dict[str, str]]
    facts: dict[str, Any]
    masks: Tensor
    whole: Tensor | None
    depth: Tensor
    edges: Tensor
    outlines: Tensor

    @property
    def name(self) -> str:
        """The example's file name without its suffix."""
        return f"{self.index:08d}"


def example(world: World | Videos, index: int, languages: Sequence[str]) -> Example:
    """Example ``index`` of a world of images or videos, with captions in these languages."""
    return (
        _image(world, index, languages)
        if isinstance(world, World)
        else _video(world, index, languages)
    )


def _image(world: World, index: int, languages: Sequence[str]) -> Example:
    sample = world[index]
    truth, scene = sample.truth, sample.truth.scene

    def describe(language: str, form: str, rng: random.Random) -> str:
        return KINDS[world.kind].caption(scene, language, form, rng)

    captions = _captions(describe, f"{world.seed}/{world.split}/{index}/{world.kind}", languages)
    chosen = _chosen(sample.caption, sample.language, sample.form, captions)
    objects = [
        _object(item, scene, world.side)
        | {"box": box, "whole_box": whole, "visible": round(seen / max(size, 1), 4)}
        for item, box, whole, seen, size in zip(
            scene.objects,
            truth.boxes.tolist(),
            truth.amodal.tolist(),
            truth.masks.sum((1, 2)).tolist(),
            truth.whole.sum((1, 2)).tolist(),
            strict=True,
        )
    ]
    facts = _facts(index, kind_of(scene), chosen, captions, scene) | {"objects": objects}
    return Example(
        index=index,
        frames=sample.image[None],
        fps=None,
        caption=chosen["caption"],
        captions=captions,
        facts=facts,
        masks=truth.masks[None],
        whole=truth.whole,
        depth=truth.depth[None],
        edges=maps.edges(truth.unpainted[None]),
        outlines=truth.outlines[None],
    )


def _video(world: Videos, index: int, languages: Sequence[str]) -> Example:
    sample = world[index]
    truth, video = sample.truth, sample.truth.video
    scenes = video.scenes()

    def describe(language: str, form: str, rng: random.Random) -> str:
        return video_caption(video, language, form, rng)

    captions = _captions(describe, f"{world.seed}/{world.split}/{index}/{VIDEO}", languages)
    chosen = _chosen(sample.caption, sample.language, sample.form, captions)
    objects = [
        _object(item, video.scene, world.side)
        | {
            "boxes": truth.boxes[:, k].tolist(),
            "path": [_rounded(_spot(scene.objects[k])) for scene in scenes],
        }
        for k, item in enumerate(video.scene.objects)
    ]
    facts = _facts(index, VIDEO, chosen, captions, video.scene) | {
        "frames": video.frames,
        "fps": video.fps,
        "event": video.event,
        "direction": video.word or None,
        "speed": speed(video) or None,
        "camera": [_rounded(view) for view in truth.views.tolist()],
        "objects": objects,
    }
    depths = [[item.depth for item in scene.objects] for scene in scenes]
    return Example(
        index=index,
        frames=sample.frames,
        fps=video.fps,
        caption=chosen["caption"],
        captions=captions,
        facts=facts,
        masks=truth.masks,
        whole=None,
        depth=torch.stack([maps.depth(*pair) for pair in zip(truth.masks, depths, strict=True)]),
        edges=maps.edges(sample.frames),
        outlines=torch.stack([maps.outlines(masks) for masks in truth.masks]),
    )


def _captions(describe: Describe, name: str, languages: Sequence[str]) -> dict[str, dict[str, str]]:
    """One caption for each of the languages and each form; ``name`` seeds the random numbers."""
    return {
        language: {
            form: describe(language, form, random.Random(f"{name}/export/{language}/{form}"))
            for form in FORMS
        }
        for language in languages
    }


def _chosen(
    caption: str, language: str, form: str, captions: dict[str, dict[str, str]]
) -> dict[str, str]:
    """The example's own caption, or if its language is not exported, one in the first that is."""
    if language not in captions:
        language = next(iter(captions))
        caption = captions[language][form]
    return {"caption": caption, "language": language, "form": form}


def _facts(
    index: int,
    kind: str,
    chosen: dict[str, str],
    captions: dict[str, dict[str, str]],
    scene: Scene,
) -> dict[str, Any]:
    """The facts that images and videos share, without the objects."""
    return {
        "index": index,
        "kind": kind,
        **chosen,
        "captions": captions,
        "style": scene.style,
        "painting": scene.painting,
        "relation": scene.relation,
        "background": {"kind": scene.background.kind, "name": scene.background.name},
        "groups": [asdict(group) for group in scene.groups],
    }


def _object(item: SceneObject, scene: Scene, side: int) -> dict[str, Any]:
    """The facts of an object, without its boxes: class, properties, and those of its art."""
    concept, art = scene.groups[item.group].concept, item.sprite
    facts: dict[str, Any] = {
        "concept": concept,
        "name": dict(zip(("en", "hi"), names(concept), strict=True)),
        "group": item.group,
        "color": item.color,
        "depth": round(item.depth, 4),
        "angle": round(item.angle, 4),
        "mirrored": item.flip,
    }
    if isinstance(art, Sign):
        facts |= {"text": art.text, "font": art.font, "ink": art.ink, "board": art.board}
    elif isinstance(art, Hand):
        facts |= {"fingers": hands.count(art), "raised": list(art.raised), "skin": art.skin}
    elif isinstance(art, Puppet):
        at = puppets.placed(item)
        joints = {name: _rounded(share * side for share in at[name]) for name in JOINTS}
        facts |= {"pose": art.pose, "joints": joints, "skin": art.skin}
        facts |= {"shirt": art.shirt, "trousers": art.trousers}
    elif isinstance(art, Solid):
        facts |= {"solid": art.shape, "yaw": round(art.yaw, 4), "pitch": round(art.pitch, 4)}
    if isinstance(art, Hand | Puppet):
        facts["look"] = art.look
    return facts


def names(concept: str) -> tuple[str, str]:
    """The English and the Hindi name of a concept."""
    if concept in NAMES:
        return NAMES[concept]
    named = lexicon()[concept]
    return named.en, named.hi.singular


def _spot(item: SceneObject) -> tuple[float, float, float, float]:
    """Centre, size and angle of an object: one point of its path."""
    return item.x, item.y, item.size, item.angle


def _rounded(numbers: Any) -> list[float]:
    return [round(number, 4) for number in numbers]
