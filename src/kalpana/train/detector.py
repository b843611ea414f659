"""The detector at school: renders, damaged as a generator would damage them, with exact truth, and things that are none."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Generator, Tensor

from kalpana.media import to_images, to_pixels
from kalpana.models import detector
from kalpana.models.detector import STRIDE, Maps
from kalpana.train import data_cache
from kalpana.train.degradations import Degradations
from kalpana.train.detector_labels import OTHER, facing, label, labels, numbers
from kalpana.train.recipe import Recipe
from kalpana.train.task import HELD_OUT, Metrics, config_of
from kalpana.world import maps
from kalpana.world.kinds import multi_object
from kalpana.world.kinds.corrupted import breaking
from kalpana.world.lexicon import lexicon
from kalpana.world.render import render
from kalpana.world.scene import COLORS, Scene
from kalpana.world.video import Clips
from kalpana.world.world import World

# Of a batch; "crowd" are many things at once, "broken" a crowd in which some are things no longer, "one broken" a lone object so, "rows"
# many of one or two kinds, "frame" is one of a clip; the rest as captions have it.
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
SELDOM = 1 / 3  # of their pictures a verifier sees those in the styles that it is seldom shown
FACINGS = ("", "left", "right")
SEEN = 0.35  # of a thing inside the picture: where less of it can be seen, nobody asks for it


@cache
def tail() -> dict[str, int]:
    """The number of each concept that is no core class, from 0."""
    return {concept.id: k for k, concept in enumerate(c for c in lexicon().values() if not c.core)}


@dataclass(frozen=True)
class DetectorBatch:
    """A batch of the detector: ``pixels`` (b, 3, h, w); ``heat`` (b, classes, h/4, w/4), 1 at the middle of every thing and less around it;
    ``painted`` (b, 1, h/4, w/4); ``shows`` (b, h/4, w/4), 1 + the class of what covers half of a cell or more, 0 where nothing does, -1 in
    between and where it is no thing; and ``things`` (n, 11): picture, row, column, the box x0 y0 x1 y1 in cells, colour (0 none), number in
    the tail (-1 for a core class), 1 for a whole thing or 0 for what is none, and where it faces (0 to the viewer, 1 left, 2 right, -1
    unknown)."""

    pixels: Tensor
    heat: Tensor
    painted: Tensor
    shows: Tensor
    objects: Tensor


class DetectorTask:
    """CenterNet's losses (Zhou et al. 2019): a focal loss on the peaks, and beside them, at the middles of things alone, the box by
    generalised IoU (Rezatofighi et al. 2019), class, colour, name and wholeness by cross-entropy; and the class once more at every cell
    that shows a thing. In the first half of the run pictures are not sent through the autoencoder."""

    file = "detector.safetensors"
    ahead = False  # it is drawn and damaged on the device

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        self.recipe, self.device = recipe, device
        config = replace(
            config_of(detector.Config, recipe), classes=len(labels()), concepts=len(tail())
        )
        self.model = detector.Detector(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.damage = Degradations(recipe, device)
        kinds = ("objects", "objects", "depth", "hands", "puppets", "text")  # by turns
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
        chance, late = (
            torch.Generator().manual_seed(rng.randrange(1 << 40)),
            step >= self.recipe.steps // 2,
        )
        damaged, lost = self.damage.lose(self.damage(batch.pixels, chance, coded=late), chance)
        return without(replace(batch, pixels=damaged), lost)

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

    def loss(self, batch: DetectorBatch, rng: Generator) -> tuple[Tensor, Metrics]:
        said: Maps = self.model(batch.pixels.contiguous(memory_format=torch.channels_last))
        parts = {"heat": focal(said.heat.float(), batch.heat)}
        parts["painted"] = F.binary_cross_entropy_with_logits(said.painted.float(), batch.painted)
        shown = F.cross_entropy(said.shows.float(), batch.shows, reduction="none", ignore_index=-1)
        parts["shows"] = sum(
            (shown[cells].mean() for cells in (batch.shows > 0, batch.shows == 0)),
            torch.zeros(()).to(shown),
        )
        picture, row, column = batch.objects[:, :3].long().unbind(1)
        color, name, whole, facing = batch.objects[:, 7:].long().unbind(1)

        def at(values: Tensor) -> Tensor:
            return values[picture, :, row, column].float()  # n c

        real = whole == 1
        kind = batch.heat[picture, :, row, column].argmax(1)
        parts["class"] = F.cross_entropy(at(said.heat)[real], kind[real])
        middle = torch.stack((column, row), 1) + 0.5
        reach = at(said.reach)[real]
        box = torch.cat((middle[real] - reach[:, :2], middle[real] + reach[:, 2:]), 1)
        parts["box"] = (1 - overlap(box, batch.objects[real, 3:7])).mean()
        parts["color"] = F.cross_entropy(at(said.color)[real], color[real])
        parts["whole"] = F.binary_cross_entropy_with_logits(at(said.whole)[:, 0], whole.float())
        sided = (facing >= 0) & real
        if said.facing is not None and sided.any():
            parts["facing"] = F.cross_entropy(at(said.facing)[sided], facing[sided])
        rare = (name >= 0) & real
        if rare.any():
            parts["name"] = 0.1 * F.cross_entropy(
                at(said.embedding)[rare] @ self.model.names.float().T, name[rare]
            )
        return torch.stack(list(parts.values())).sum(), {k: v.item() for k, v in parts.items()}

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Of dev pictures, undamaged: the share of core things whose strongest class at their middle is right, of given colours that are,
        and the mean overlap of boxes."""
        right: dict[str, list[Tensor]] = {"class": [], "color": [], "box": []}
        sheet: list[Tensor] = []
        for start in range(0, HELD_OUT, 64):
            pixels = self.dev.pixels[start : start + 64]
            said: Maps = self.model(pixels.contiguous(memory_format=torch.channels_last))
            objects = self.dev.objects[
                (self.dev.objects[:, 0] >= start) & (self.dev.objects[:, 0] < start + 64)
            ]
            picture, row, column = (
                (objects[:, 0] - start).long(),
                objects[:, 1].long(),
                objects[:, 2].long(),
            )
            truth = self.dev.heat[objects[:, 0].long(), :, row, column]
            right["class"].append(said.heat[picture, :, row, column].argmax(1) == truth.argmax(1))
            given = objects[:, 7] > 0
            right["color"].append(
                said.color[picture, :, row, column].argmax(1)[given] == objects[given, 7]
            )
            reach, middle = (
                said.reach[picture, :, row, column].float(),
                torch.stack((column, row), 1) + 0.5,
            )
            box = torch.cat((middle - reach[:, :2], middle + reach[:, 2:]), 1)
            right["box"].append(overlap(box, objects[:, 3:7]))
            if not start:
                sheet = [draw_boxes(pixels[:32], torch.cat((picture[:, None], box), 1))]
        return {
            f"dev_{name}": torch.cat(values).float().mean().item() for name, values in right.items()
        }, sheet[0]

    def finish(self) -> None:
        """Nothing is left to do."""


def without(batch: DetectorBatch, lost: Tensor) -> DetectorBatch:
    """The batch when nothing is left that can be recognised in the pictures ``lost`` (k,): what stands there is none of it."""
    heat, shows, objects = batch.heat.clone(), batch.shows.clone(), batch.objects.clone()
    heat[lost] = 0
    shows[lost] = -(shows[lost] != 0).long()
    gone = torch.isin(objects[:, 0], lost.to(objects))
    objects[gone, 7], objects[gone, 8], objects[gone, 9], objects[gone, 10] = 0, -1, 0, -1
    return replace(batch, heat=heat, shows=shows, objects=objects)


def frame(seed: int, rng: random.Random) -> Scene:
    """A frame of some clip: things on their way, turned, near and far, behind another, as its camera sees them. Solids are left out."""
    while True:
        clip = Clips(seed).clip(rng.randrange(1 << 40))
        scene = clip.at(rng.random())
        if clip.event != "solid" and all(
            0 < scene_object.x < 1 and 0 < scene_object.y < 1 for scene_object in scene.objects
        ):
            return scene


def shown(scenes: list[Scene], device: torch.device, side: int = 128) -> DetectorBatch:
    """The pictures of scenes and what a detector should say of them."""
    drawn, cells = render(scenes, side, masks=True, device=device), side // STRIDE
    assert drawn.whole is not None and drawn.masks is not None and drawn.painted is not None
    shows = torch.zeros(len(scenes), cells, cells, dtype=torch.long)
    heat = torch.zeros(len(scenes), len(labels()), cells, cells)
    rows: list[list[float]] = []
    for i, (scene, whole, masks) in enumerate(zip(scenes, drawn.whole, drawn.masks, strict=True)):
        names = [label(scene, scene_object) for scene_object in scene.objects]
        if scene.objects:
            covered = F.avg_pool2d(masks[:, None].float(), STRIDE)[:, 0].cpu()  # n h/4 w/4
            most, which = covered.max(0)
            kinds = torch.tensor([-1 if name is None else 1 + numbers()[name] for name in names])
            shows[i] = torch.where(most >= 0.5, kinds[which], -(covered.sum(0) > 0.1).long())
        visible = masks.flatten(1).sum(1) >= SEEN * whole.flatten(1).sum(1)
        for scene_object, name, seen, box in zip(
            scene.objects, names, visible.tolist(), maps.boxes(whole.cpu()).tolist(), strict=True
        ):
            x0, y0, x1, y1 = (edge / STRIDE for edge in box)
            if x1 <= x0 or not seen:
                continue
            row, column = (min(int((a + b) / 2), cells - 1) for a, b in ((y0, y1), (x0, x1)))
            if name is not None:
                kind = numbers()[name]
                heat[i, kind] = torch.maximum(
                    heat[i, kind], _bump(cells, row, column, x1 - x0, y1 - y0)
                )
            color = 1 + COLORS.index(scene_object.color) if scene_object.color else 0
            rare = tail()[scene.groups[scene_object.group].concept] if name == OTHER else -1
            where = facing(scene, scene_object)
            faces = -1 if where is None else FACINGS.index(where)
            rows.append(
                [i, row, column, x0, y0, x1, y1, color, rare, float(name is not None), faces]
            )
    objects = torch.tensor(rows).view(-1, 11)
    painted = F.avg_pool2d(drawn.painted.unsqueeze(1), STRIDE)
    return DetectorBatch(
        drawn.pixels, heat.to(device), painted, shows.to(device), objects.to(device)
    )


def _bump(cells: int, row: int, column: int, width: float, height: float) -> Tensor:
    """1 at the cell and a Gaussian around it, a tenth of the box wide (cells, cells)."""
    line = torch.arange(cells)
    across = ((line - column) / max(0.1 * width, 0.6)) ** 2
    down = ((line - row) / max(0.1 * height, 0.6)) ** 2
    return torch.exp(-0.5 * (across[None, :] + down[:, None]))


def focal(logits: Tensor, heat: Tensor) -> Tensor:
    """The penalty-reduced focal loss of CornerNet (Law and Deng 2018, eq. 1), over the number of peaks."""
    peaks = logits[heat == 1]
    hit = (-peaks).sigmoid().square() * F.logsigmoid(peaks)
    miss = (
        (1 - heat).square().square() * logits.sigmoid().square() * F.softplus(logits)
    )  # nothing at the peaks
    return (miss.sum() - hit.sum()) / max(len(peaks), 1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (n,) of boxes (n, 4: x0 y0 x1 y1), in [-1, 1]: the IoU less the empty share of the box around both."""
    inner = (
        (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    )
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return inner / union.clamp(min=1e-6) - (around - union) / around.clamp(min=1e-6)


def draw_boxes(pixels: Tensor, boxes: Tensor) -> Tensor:
    """The pictures with boxes (n, 5: picture, then x0 y0 x1 y1 in cells) drawn on them."""
    images: list[Image.Image] = to_images(pixels)
    for picture, *box in boxes.tolist():
        if picture < len(images):
            ImageDraw.Draw(images[int(picture)]).rectangle(
                [STRIDE * edge for edge in box], outline="red"
            )
    return to_pixels(images)
