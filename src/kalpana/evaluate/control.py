"""Obedience to control maps: how close generated pictures come to the maps they were given.

Each map is that of a dev scene, generated with the scene's own caption. Beside the score stand the
floor (the same caption and seed without the map), the score with the caption of another scene, and
the ceiling (the true picture through the same measure). Depth and bones of a generated picture are
those that the map estimator finds in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kalpana.evaluate.verifiers.observations import Observation, Verifier, iou, truth
from kalpana.inputs import ControlMap
from kalpana.media import to_images, to_pixels
from kalpana.pipelines import last
from kalpana.pipelines.control_maps import SURE, load_map_estimator
from kalpana.pipelines.pipeline import Pipeline
from kalpana.request import ask
from kalpana.types import KalpanaError
from kalpana.world import maps
from kalpana.world.controls import LIMBS, SIDES, box_map, control_maps
from kalpana.world.kinds.puppets import placed
from kalpana.world.render import render
from kalpana.world.scene import Puppet, Scene
from kalpana.world.world import World

TOLERANCE = 2  # pixels between an edge and its match
# The kind of scenes by whose maps a kind of control is measured.
SCENES = {
    "edges": "objects",
    "outlines": "objects",
    "depth": "depth",
    "boxes": "objects",
    "pose": "puppets",
    "glyphs": "text",
}
LOST = (
    32.0  # pixels of 128: the distance of a joint where no bone is found, and the most that counts
)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Obedience:
    """Mean scores of one ``kind`` of map over ``count`` scenes: in [0, 1], or distances in pixels
    of 128 where ``pixels``. ``measure`` names them."""

    kind: str
    measure: str
    count: int
    without: float
    wrong: float
    with_map: float
    true: float
    pixels: bool = False


def measure(
    model: Pipeline,
    verifier: Verifier,
    count: int,
    progress: Progress,
    kinds: Sequence[str] = (),
) -> list[Obedience]:
    """Obedience of a model to these kinds of map, by default each that it reads and that can be
    measured, over ``count`` dev scenes each. Raises KalpanaError for a kind that is neither."""
    known = [kind for kind in model.capabilities.controls if kind in SCENES]
    if wrong := [kind for kind in kinds if kind not in known]:
        raise KalpanaError(f"map {wrong[0]!r} is not measured: take {', '.join(known)}")
    kinds = kinds or known
    rows, done = [], 0
    for kind in kinds:
        world, scenes, i = World(0, "dev", kind=SCENES[kind]), list[tuple[int, Scene]](), 0
        while len(scenes) < count:
            scene = world.scene(i)
            if scene.objects:
                scenes.append((i, scene))
            i += 1
        scores: list[list[float]] = []
        for k, (index, scene) in enumerate(scenes):
            prompt, other = (world.describe(scenes[j % count][0])[0] for j in (k, k + 1))
            given = control_maps([scene], [kind])[kind]
            control = _control(kind, to_images(2 * given - 1)[0])
            drawn = [
                to_pixels([_one(model, prompt, index, None)]),
                to_pixels([_one(model, other, index, control)]),
                to_pixels([_one(model, prompt, index, control)]),
                render([scene]).pixels,
            ]
            scores.append([_score(kind, scene, given[0, 0], each, verifier) for each in drawn])
            done += 1
            progress(done, count * len(kinds))
        without, wrong, with_map, true = torch.tensor(scores).mean(0).tolist()
        means = (without, wrong, with_map, true)
        rows.append(Obedience(kind, MEASURES[kind], count, *means, kind == "pose"))
    return rows


def edge_f1(found: Tensor, wanted: Tensor, tolerance: int = TOLERANCE) -> float:
    """F1 score of edge maps (h, w) bool: an edge pixel counts if the other map has one within
    ``tolerance`` pixels. 1 where both are empty."""
    near = [
        F.max_pool2d(each[None, None].float(), 2 * tolerance + 1, 1, tolerance)[0, 0] > 0
        for each in (found, wanted)
    ]
    if not found.any() or not wanted.any():
        return float(not found.any() and not wanted.any())
    precision, recall = near[1][found].float().mean(), near[0][wanted].float().mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def box_iou(seen: Observation, wanted: Observation) -> float:
    """Mean IoU of the true boxes with the best box of the same concept that was detected."""
    best = [
        max(
            (iou(item.box, each.box) for each in seen.objects if each.concept == item.concept),
            default=0.0,
        )
        for item in wanted.objects
    ]
    return sum(best) / len(best) if best else 0.0


def words_read(seen: Observation, wanted: Observation) -> float:
    """1 if the words on the signs are read as they are, else 0."""
    return float(bool(seen.readings) and seen.readings[0].words == wanted.readings[0].words)


def rank_correlation(found: Tensor, wanted: Tensor) -> float:
    """Spearman's rank correlation of two maps of one shape, in [-1, 1], with mean ranks of equal
    values; 0 where one is constant."""
    ranks = []
    for each in (found, wanted):
        _, place, counts = each.flatten().unique(return_inverse=True, return_counts=True)
        rank = (counts.cumsum(0) - (counts - 1) / 2)[place].double()
        ranks.append(rank - rank.mean())
    one, two = ranks
    norm = one.norm() * two.norm()
    return float(one @ two / norm) if norm else 0.0


def joint_distance(bones: Tensor, scene: Scene) -> float:
    """Mean distance, in pixels of 128, of the joints of the people in a scene to the nearest pixel
    of bones (3, h, w) bool, of the person's left, the middle and the right; at most LOST each.

    It is 0 for the true bones, and a lower bound of the error of the joints themselves.
    """
    side, distances = bones.shape[-1], []
    points = [plane.nonzero().flip(1) + 0.5 for plane in bones]  # n 2: x, y of pixel centres
    for item in scene.objects:
        if not isinstance(item.sprite, Puppet):
            continue
        at = placed(item)
        for name in ("head", "neck", *(f"{s} {part}" for s in SIDES for part in sum(LIMBS, ()))):
            plane = points[{"left": 0, "right": 2}.get(name.split()[0], 1)]
            joint = side * torch.tensor(at[name])
            near = (plane - joint).norm(dim=1).min() if len(plane) else torch.tensor(torch.inf)
            distances.append(min(128 / side * float(near), LOST))
    return sum(distances) / len(distances)


def detected_boxes(verifier: Verifier, picture: Image.Image, score: float) -> Image.Image:
    """Map of the boxes of the objects that a verifier finds in a picture with this score at least,
    in the picture's size. Raises KalpanaError if there are none."""
    (seen,) = verifier.look(to_pixels([picture]))
    width, height = picture.size
    sides = torch.tensor([width, height, width, height])
    found = [torch.tensor(item.box) * sides for item in seen.objects if item.score >= score]
    if not found:
        raise KalpanaError("no object was found: lower --score, or draw the boxes by hand")
    boxes = torch.stack(found).round().int().clamp(min=0).minimum(sides.int())
    plane = box_map(boxes, max(width, height))[:height, :width]
    return to_images(2 * plane.expand(1, 3, -1, -1) - 1)[0]


MEASURES = {
    "edges": "edge F1 (2 px)",
    "outlines": "outline recall (2 px)",
    "depth": "rank correlation",
    "boxes": "box IoU, verifier",
    "pose": "joint to bone, px (less is better)",
    "glyphs": "words read, verifier",
}


def _score(kind: str, scene: Scene, given: Tensor, pixels: Tensor, verifier: Verifier) -> float:
    """The score of a picture (1, 3, h, w) for a map (h, w) of a scene."""
    if kind == "edges":
        return edge_f1(maps.edges(pixels)[0], given > 0.5)
    if kind == "outlines":
        near = F.max_pool2d(maps.edges(pixels, 0.15)[None].float(), 2 * TOLERANCE + 1, 1, TOLERANCE)
        return float((near[0, 0] > 0)[given > 0.5].float().mean()) if (given > 0.5).any() else 1.0
    if kind in ("depth", "pose"):
        found = load_map_estimator().maps(pixels)[kind][0]
        if kind == "depth":
            return rank_correlation(found[0], given)
        return joint_distance(found > SURE, scene)
    (seen,) = verifier.look(pixels)
    return (box_iou if kind == "boxes" else words_read)(seen, truth(scene))


def _one(model: Pipeline, prompt: str, seed: int, control: ControlMap | None) -> Image.Image:
    """A picture by a prompt, a seed and a map; without one, no map is planned either."""
    request = ask(prompt, seed=seed, plan=False)
    if control is not None:
        request = request.updated(control=(control,))
    return last(model.generate(request)).outputs[0].image


def _control(kind: str, image: Image.Image) -> ControlMap:
    return ControlMap.model_validate({"kind": kind, "image": image})


def markdown(rows: Sequence[Obedience]) -> str:
    """The scores as a Markdown table, in per cent or in pixels."""
    lines = [
        "| map | measure | scenes | no map (floor) | other caption | with map | true (ceiling) |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = (row.without, row.wrong, row.with_map, row.true)
        texts = (f"{each:.1f}" if row.pixels else f"{100 * each:.0f}" for each in cells)
        numbers = " | ".join(texts)
        lines.append(f"| {row.kind} | {row.measure} | {row.count} | {numbers} |")
    return "\n".join(lines) + "\n"
