"""Control maps of scenes: what a control network is steered by, exact, from the scene's truth.

Every map is a picture (3, h, w) in [0, 1], black where it says nothing:

- ``edges``: white Sobel edges of the picture
- ``outlines``: white outlines of the objects
- ``depth``: bright is near, black is the background
- ``boxes``: grey whole boxes of the objects, with white borders
- ``pose``: the bones of people, red on their left, blue on their right, green between
- ``glyphs``: the letters of signs, in white
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from kalpana.world import maps
from kalpana.world.kinds import signs
from kalpana.world.kinds.puppets import placed
from kalpana.world.render import render
from kalpana.world.scene import Background, Puppet, Scene, SceneObject, Sign

KINDS = ("edges", "outlines", "depth", "boxes", "pose", "glyphs")
SIDES = {"left": (255, 0, 0), "right": (0, 0, 255)}
MIDDLE = (0, 255, 0)
LIMBS = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
BONE = 3  # pixels of a 128 px picture


def available(scene: Scene) -> tuple[str, ...]:
    """The kinds of map that say something about a scene."""
    arts = {type(item.sprite) for item in scene.objects}
    special = [kind for kind, art in (("pose", Puppet), ("glyphs", Sign)) if art in arts]
    return (*KINDS[:4], *special)


def control_maps(
    scenes: Sequence[Scene], kinds: Sequence[str] = KINDS, side: int = 128
) -> dict[str, Tensor]:
    """The maps of these kinds, (b, 3, side, side) in [0, 1] each, of scenes."""
    found: dict[str, Tensor] = {}
    of_truth = [kind for kind in kinds if kind in KINDS[:4]]
    if of_truth:
        drawn = render(scenes, side, masks=True)
        assert drawn.masks is not None and drawn.whole is not None
        for kind in of_truth:
            if kind == "edges":
                planes = maps.edges(drawn.plain).float()
            else:
                rows = zip(scenes, drawn.masks, drawn.whole, strict=True)
                planes = torch.stack([_of_masks(kind, *row) for row in rows])
            found[kind] = planes[:, None].expand(-1, 3, -1, -1)
    if "pose" in kinds:
        found["pose"] = torch.stack([pose(scene, side) for scene in scenes])
    if "glyphs" in kinds:
        found["glyphs"] = glyphs(scenes, side)
    return found


def _of_masks(kind: str, scene: Scene, masks: Tensor, whole: Tensor) -> Tensor:
    """The map (h, w) of one scene that follows from its masks (n, h, w)."""
    if kind == "outlines":
        return maps.outlines(masks).float()
    if kind == "depth":
        return 1 - maps.depth(masks, [item.depth for item in scene.objects])
    return box_map(maps.boxes(whole), masks.shape[-1])


def object_boxes(scene: Scene, side: int = 128) -> Tensor:
    """Boxes (n, 4) of the whole objects of a scene, in drawing order: x0 y0 x1 y1 in pixels of a
    picture of ``side``, ends excluded."""
    whole = render([scene], side, masks=True).whole
    assert whole is not None
    return maps.boxes(whole[0])


def box_map(boxes: Tensor, side: int) -> Tensor:
    """Map (side, side) of boxes (n, 4), x0 y0 x1 y1 in pixels, ends excluded: 0.5 inside, 1 on
    their borders."""
    plane = torch.zeros(side, side)
    for x0, y0, x1, y1 in boxes.tolist():
        inside = plane[y0:y1, x0:x1]
        inside.clamp_(min=0.5)
    for x0, y0, x1, y1 in boxes.tolist():
        if x1 > x0 and y1 > y0:
            plane[y0, x0:x1] = plane[y1 - 1, x0:x1] = 1
            plane[y0:y1, x0] = plane[y0:y1, x1 - 1] = 1
    return plane


def pose(scene: Scene, side: int = 128) -> Tensor:
    """Map (3, side, side) of the bones of the people in a scene."""
    image = Image.new("RGB", (side, side))
    draw, width = ImageDraw.Draw(image), max(1, round(BONE * side / 128))
    for item in scene.objects:
        if not isinstance(item.sprite, Puppet):
            continue
        at = {name: (x * side, y * side) for name, (x, y) in placed(item).items()}
        bones = [("head", "neck", MIDDLE)]
        for name, color in SIDES.items():
            arm, leg = ([f"{name} {part}" for part in limb] for limb in LIMBS)
            bones += [("neck", arm[0], MIDDLE), (arm[0], leg[0], MIDDLE)]
            for limb in (arm, leg):
                bones += [(limb[k], limb[k + 1], color) for k in (0, 1)]
        for start, stop, color in bones:
            draw.line((*at[start], *at[stop]), color, width)
    return torch.from_numpy(np.array(image)).movedim(-1, 0).float() / 255


def glyphs(scenes: Sequence[Scene], side: int = 128) -> Tensor:
    """Maps (b, 3, side, side) of the letters of the signs in scenes, without their boards."""
    black = Background("flat", "black")
    lettered = [
        replace(
            scene,
            background=black,
            objects=tuple(
                _letters(item) for item in scene.objects if isinstance(item.sprite, Sign)
            ),
            painting=None,
        )
        for scene in scenes
    ]
    pixels = (render([*lettered, Scene((), (), black)], side).pixels + 1) / 2
    levels = (pixels[:-1] - pixels[-1]) / (1 - pixels[-1])
    return levels.mean(1, keepdim=True).clamp(0, 1).expand(-1, 3, -1, -1)


def _letters(item: SceneObject) -> SceneObject:
    """A sign as bare white letters, of the same size and at the same place."""
    assert isinstance(item.sprite, Sign)
    bare = replace(item.sprite, ink="white", board=None)
    ratio = signs.letter_share(item.sprite) / signs.letter_share(bare)
    return replace(item, sprite=bare, size=item.size * ratio, shadow=False)
