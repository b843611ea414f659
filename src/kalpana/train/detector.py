"""Detector training: degraded renders with exact labels, and corrupted sprites as negatives."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from pydantic import Field
from torch import Generator, Tensor

from kalpana.media import to_images, to_pixels
from kalpana.models import detector
from kalpana.models.detector import STRIDE, Maps
from kalpana.train import data_cache
from kalpana.train.degradations import Degradations, DegradedRecipe
from kalpana.train.detector_labels import OTHER, facing, label, labels, numbers
from kalpana.train.task import HELD_OUT, Metrics, config_of
from kalpana.world import maps
from kalpana.world.kinds import multi_object
from kalpana.world.kinds.corrupted import breaking
from kalpana.world.lexicon import lexicon
from kalpana.world.render import render
from kalpana.world.scene import COLORS, Broken, Scene
from kalpana.world.video import Videos
from kalpana.world.world import World

# Shares of a batch. "crowd": many objects; "broken": a crowd with some corrupted sprites; "one
# broken": a single corrupted sprite; "rows": many objects of one or two kinds; "frame": a frame of
# a video. The others are kinds of the world.
CROWDS = {
    "crowd": 0.24,
    "broken": 0.12,
    "one broken": 0.06,
    "rows": 0.10,
    "many hands": 0.15,
    "many figures": 0.06,
    "frame": 0.06,
}
KINDS = CROWDS | {"objects": 0.11, "depth": 0.03, "hands": 0.03, "puppets": 0.01, "text": 0.03}
SELDOM = 1 / 3  # share of the pictures in ``downsampled_styles`` that are used
FACINGS = ("", "left", "right")
LARGE = 0.3  # of the side of the picture
SEEN = 0.35  # least visible share of an object's area inside the picture for it to be a target


@cache
def tail() -> dict[str, int]:
    """Number of each concept that is not a core class, by its id, from 0."""
    return {concept.id: k for k, concept in enumerate(c for c in lexicon().values() if not c.core)}


class DetectorRecipe(DegradedRecipe):
    """Recipe of a detector."""

    family: Literal["detector"] = "detector"
    downsampled_styles: tuple[str, ...] = Field(
        default=(),
        description="drawing styles of which only a third of the pictures are trained on",
    )


@dataclass(frozen=True)
class DetectorBatch:
    """Batch of the detector task: pictures and their targets.

    ``pixels`` (b, 3, h, w). ``heat`` (b, classes, h/4, w/4): 1 at the middle of each object, less
    around it. ``painted`` (b, 1, h/4, w/4): share of each cell that is recoloured. ``shows``
    (b, h/4, w/4): 1 + class of the object that covers at least half of a cell, 0 where objects
    cover at most a tenth, -1 (ignored) in between and for a corrupted object. ``objects`` (n, 11):
    picture, row, column, box x0 y0 x1 y1 in cells, colour (0 none), tail number (-1 for a core
    class), 1 for a whole and 0 for a corrupted object, and facing (0 viewer, 1 left, 2 right, -1
    unknown).
    """

    pixels: Tensor
    heat: Tensor
    painted: Tensor
    shows: Tensor
    objects: Tensor

    def rows(self, part: range) -> DetectorBatch:
        """The pictures of a range and their objects."""
        pictures = self.objects[:, 0]
        objects = self.objects[(pictures >= part.start) & (pictures < part.stop)].clone()
        objects[:, 0] -= part.start
        pixels, heat, painted, shows = (
            each[part.start : part.stop]
            for each in (self.pixels, self.heat, self.painted, self.shows)
        )
        return DetectorBatch(pixels, heat, painted, shows, objects)


class DetectorTask:
    """CenterNet (Zhou et al. 2019).

    Losses: a focal loss on the heat map; at the middles of objects a generalised IoU loss of the
    box (Rezatofighi et al. 2019) and cross-entropies of class, colour, name, wholeness and facing;
    and a cross-entropy of the class at every cell. Degradation uses the autoencoder only in the
    second half of the run.
    """

    ahead = False  # batches are rendered and degraded on the device

    def __init__(
        self, recipe: DetectorRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device = recipe, device
        given = {"classes": len(labels()), "concepts": len(tail())}
        config = config_of(detector.Config, recipe, given)
        model, channels_last = detector.Detector(config), torch.channels_last
        self.model = model.to(device, memory_format=channels_last)  # type: ignore[call-overload]
        self.damage = Degradations(recipe, device)
        kinds = ("objects", "objects", "depth", "hands", "puppets", "text")  # in turn
        scenes = [
            World(recipe.seed, "dev", kind=kinds[i % len(kinds)]).scene(i) for i in range(HELD_OUT)
        ]
        self.dev = shown(scenes, device)

    def batch(self, step: int) -> DetectorBatch:
        rng = random.Random(f"{self.recipe.seed}/detect/{step}")
        scenes: list[Scene] = []
        while len(scenes) < self.recipe.batch:
            scene = self._scene(rng.choices(list(KINDS), list(KINDS.values()))[0], rng)
            if scene.style not in self.recipe.downsampled_styles or rng.random() < SELDOM:
                scenes.append(scene)
        batch = shown(scenes, self.device)
        generator = torch.Generator().manual_seed(rng.randrange(1 << 40))
        coded = self.recipe.init is not None or step >= self.recipe.steps // 2
        large = [i for i, scene in enumerate(scenes) if _large(scene)]
        pixels = self.damage(batch.pixels, generator, coded, large)
        pixels, lost = self.damage.lose(pixels, generator)
        return without(replace(batch, pixels=pixels), lost)

    def _scene(self, kind: str, rng: random.Random) -> Scene:
        if kind == "crowd":
            return multi_object.sample(rng)
        if kind == "broken":
            return breaking(multi_object.sample(rng), rng)
        if kind == "one broken":
            return breaking(multi_object.sample(rng, side=1), rng)
        if kind == "rows":
            return multi_object.sample_rows(rng)
        if kind == "many hands":
            return multi_object.sample_hands(rng)
        if kind == "many figures":
            return multi_object.sample_figures(rng)
        if kind == "frame":
            return frame(self.recipe.seed, rng)
        return World(self.recipe.seed, kind=kind).scene(rng.randrange(self.recipe.num_images))

    def loss(self, batch: DetectorBatch, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        out: Maps = self.model(batch.pixels.contiguous(memory_format=torch.channels_last))
        parts = {"heat": focal(out.heat.float(), batch.heat)}
        parts["painted"] = F.binary_cross_entropy_with_logits(out.painted.float(), batch.painted)
        shows = F.cross_entropy(out.shows.float(), batch.shows, reduction="none", ignore_index=-1)
        parts["shows"] = sum(
            (shows[cells].mean() for cells in (batch.shows > 0, batch.shows == 0)),
            torch.zeros(()).to(shows),
        )
        picture, row, column = batch.objects[:, :3].long().unbind(1)
        color, name, whole, facing = batch.objects[:, 7:].long().unbind(1)

        def at(values: Tensor) -> Tensor:
            return values[picture, :, row, column].float()  # n c

        real = whole == 1
        kind = batch.heat[picture, :, row, column].argmax(1)
        parts["class"] = F.cross_entropy(at(out.heat)[real], kind[real])
        middle = torch.stack((column, row), 1) + 0.5
        reach = at(out.reach)[real]
        box = torch.cat((middle[real] - reach[:, :2], middle[real] + reach[:, 2:]), 1)
        parts["box"] = (1 - overlap(box, batch.objects[real, 3:7])).mean()
        parts["color"] = F.cross_entropy(at(out.color)[real], color[real])
        parts["whole"] = F.binary_cross_entropy_with_logits(at(out.whole)[:, 0], whole.float())
        sided = (facing >= 0) & real
        if out.facing is not None and sided.any():
            parts["facing"] = F.cross_entropy(at(out.facing)[sided], facing[sided])
        rare = (name >= 0) & real
        if rare.any():
            logits = at(out.embedding)[rare] @ self.model.names.float().T
            parts["name"] = 0.1 * F.cross_entropy(logits, name[rare])
        return torch.stack(list(parts.values())).sum(), {k: v.item() for k, v in parts.items()}

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Accuracy of class and of colour (where one is given) at the middles of objects, and mean
        generalised IoU of boxes, on undegraded dev pictures; the sheet has 32 of the pictures with
        predicted boxes."""
        right: dict[str, list[Tensor]] = {"class": [], "color": [], "box": []}
        sheet: list[Tensor] = []
        for start in range(0, HELD_OUT, 64):
            pixels = self.dev.pixels[start : start + 64]
            out: Maps = self.model(pixels.contiguous(memory_format=torch.channels_last))
            number = self.dev.objects[:, 0]  # of the picture
            objects = self.dev.objects[(number >= start) & (number < start + 64)]
            place, row, column = objects[:, :3].long().unbind(1)
            picture = place - start
            truth = self.dev.heat[place, :, row, column]
            right["class"].append(out.heat[picture, :, row, column].argmax(1) == truth.argmax(1))
            given = objects[:, 7] > 0
            color = out.color[picture, :, row, column].argmax(1)
            right["color"].append(color[given] == objects[given, 7])
            reach = out.reach[picture, :, row, column].float()
            middle = torch.stack((column, row), 1) + 0.5
            box = torch.cat((middle - reach[:, :2], middle + reach[:, 2:]), 1)
            right["box"].append(overlap(box, objects[:, 3:7]))
            if not start:
                sheet = [draw_boxes(pixels[:32], torch.cat((picture[:, None], box), 1))]
        means = {name: torch.cat(values).float().mean().item() for name, values in right.items()}
        return {f"dev_{name}": mean for name, mean in means.items()}, sheet[0]

    def finish(self) -> None:
        """No final step."""


def _large(scene: Scene) -> bool:
    """Whether all objects of a scene are large sprites, which SDEdit leaves recognisable."""
    sizes = [item.size for item in scene.objects if isinstance(item.sprite, int | Broken)]
    return len(sizes) == len(scene.objects) > 0 and min(sizes) >= LARGE


def without(batch: DetectorBatch, lost: Tensor) -> DetectorBatch:
    """Batch in which the pictures ``lost`` (k,), made unrecognisable, have no objects as targets.

    Their objects become corrupted ones, and cells that showed one are ignored.
    """
    heat, shows, objects = batch.heat.clone(), batch.shows.clone(), batch.objects.clone()
    heat[lost] = 0
    shows[lost] = -(shows[lost] != 0).long()
    gone = torch.isin(objects[:, 0], lost.to(objects))
    objects[gone, 7], objects[gone, 8], objects[gone, 9], objects[gone, 10] = 0, -1, 0, -1
    return replace(batch, heat=heat, shows=shows, objects=objects)


def frame(seed: int, rng: random.Random) -> Scene:
    """Scene of a random frame of a random video, with all objects' middles inside the picture.

    Its objects are rotated, scaled and occluded as the camera sees them. Videos of solids are left
    out.
    """
    while True:
        video = Videos(seed).video(rng.randrange(1 << 40))
        scene = video.at(rng.random())
        inside = all(0 < item.x < 1 and 0 < item.y < 1 for item in scene.objects)
        if video.event != "solid" and inside:
            return scene


def shown(scenes: list[Scene], device: torch.device, side: int = 128) -> DetectorBatch:
    """Batch of the pictures (b, 3, side, side) of scenes and the targets of a detector."""
    drawn, cells = render(scenes, side, masks=True, device=device), side // STRIDE
    assert drawn.whole is not None and drawn.masks is not None and drawn.painted is not None
    shows = torch.zeros(len(scenes), cells, cells, dtype=torch.long)
    heat = torch.zeros(len(scenes), len(labels()), cells, cells)
    rows: list[list[float]] = []
    for i, (scene, whole, masks) in enumerate(zip(scenes, drawn.whole, drawn.masks, strict=True)):
        names = [label(scene, item) for item in scene.objects]
        if scene.objects:
            covered = F.avg_pool2d(masks[:, None].float(), STRIDE)[:, 0].cpu()  # n h/4 w/4
            most, which = covered.max(0)
            kinds = torch.tensor([-1 if name is None else 1 + numbers()[name] for name in names])
            shows[i] = torch.where(most >= 0.5, kinds[which], -(covered.sum(0) > 0.1).long())
        visible = masks.flatten(1).sum(1) >= SEEN * whole.flatten(1).sum(1)
        boxes = maps.boxes(whole.cpu()).tolist()
        objects = zip(scene.objects, names, visible.tolist(), boxes, strict=True)
        for item, name, seen, box in objects:
            x0, y0, x1, y1 = (edge / STRIDE for edge in box)
            if x1 <= x0 or not seen:
                continue
            row, column = (min(int((a + b) / 2), cells - 1) for a, b in ((y0, y1), (x0, x1)))
            if name is not None:
                kind, bump = numbers()[name], _bump(cells, row, column, x1 - x0, y1 - y0)
                heat[i, kind] = torch.maximum(heat[i, kind], bump)
            color = 1 + COLORS.index(item.color) if item.color else 0
            rare = tail()[scene.groups[item.group].concept] if name == OTHER else -1
            where = facing(scene, item)
            faces = -1 if where is None else FACINGS.index(where)
            real = float(name is not None)
            rows.append([i, row, column, x0, y0, x1, y1, color, rare, real, faces])
    table = torch.tensor(rows).view(-1, 11).to(device)
    painted = F.avg_pool2d(drawn.painted.unsqueeze(1), STRIDE)
    return DetectorBatch(drawn.pixels, heat.to(device), painted, shows.to(device), table)


def _bump(cells: int, row: int, column: int, width: float, height: float) -> Tensor:
    """Gaussian (cells, cells) that is 1 at a cell; its standard deviation is a tenth of the box, or
    at least 0.6 cells."""
    line = torch.arange(cells)
    across = ((line - column) / max(0.1 * width, 0.6)) ** 2
    down = ((line - row) / max(0.1 * height, 0.6)) ** 2
    return torch.exp(-0.5 * (across[None, :] + down[:, None]))


def focal(logits: Tensor, heat: Tensor) -> Tensor:
    """Penalty-reduced focal loss (CornerNet, Law and Deng 2018, eq. 1), divided by the number of
    peaks; a scalar."""
    peaks = logits[heat == 1]
    hit = (-peaks).sigmoid().square() * F.logsigmoid(peaks)
    # Zero at the peaks, where heat is 1.
    miss = (1 - heat).square().square() * logits.sigmoid().square() * F.softplus(logits)
    return (miss.sum() - hit.sum()) / max(len(peaks), 1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (n,), in [-1, 1], of boxes (n, 4), x0 y0 x1 y1.

    The IoU minus the empty share of the smallest box around both.
    """
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inner = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return inner / union.clamp(min=1e-6) - (around - union) / around.clamp(min=1e-6)


def draw_boxes(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Pictures with boxes (n, 5), picture and x0 y0 x1 y1 in cells, drawn on them."""
    images: list[Image.Image] = to_images(pixels)
    for picture, *box in boxes.tolist():
        if picture < len(images):
            canvas = ImageDraw.Draw(images[int(picture)])
            canvas.rectangle([STRIDE * edge for edge in box], outline="red")
    return to_pixels(images)
