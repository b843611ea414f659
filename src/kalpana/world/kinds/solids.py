"""Three-dimensional solids: a card or a cube with a picture on its faces, in perspective.

The camera is on the axis through the centre of the solid, at a distance of DISTANCE half-edges. The
projected corners are known exactly, so that a video of a rotation can be checked for rigid motion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.world import atlas, places
from kalpana.world.atlas import SIDE
from kalpana.world.scene import SceneObject, Solid

DISTANCE = 5.0  # from the camera to the centre, in half-edges of the cube
# Tangent of the largest viewing angle at which any corner of a rotating cube can appear.
REACH = math.sqrt(3) / math.sqrt(DISTANCE**2 - 3)
# Faces as corners (x, y, z), clockwise from the upper left as seen from outside; x to the right,
# y down, z away from the camera.
CARD = (((-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)),)
CUBE = (
    ((-1, -1, -1), (1, -1, -1), (1, 1, -1), (-1, 1, -1)),
    ((1, -1, -1), (1, -1, 1), (1, 1, 1), (1, 1, -1)),
    ((1, -1, 1), (-1, -1, 1), (-1, 1, 1), (1, 1, 1)),
    ((-1, -1, 1), (-1, -1, -1), (-1, 1, -1), (-1, 1, 1)),
    ((-1, -1, 1), (1, -1, 1), (1, -1, -1), (-1, -1, -1)),
)


def corners(solid: Solid) -> Tensor:
    """Projected corners of all faces in tile coordinates: (faces, 4, 2) in [-0.5, 0.5], y down."""
    return project(turned(solid))


def turned(solid: Solid) -> Tensor:
    """Corners in three dimensions (faces, 4, 3) after the solid's yaw, then its pitch."""
    faces = torch.tensor(CARD if solid.shape == "card" else CUBE, dtype=torch.float64)
    x, y, z = faces.unbind(-1)
    yaw, pitch = math.radians(solid.yaw), math.radians(solid.pitch)
    x, z = x * math.cos(yaw) - z * math.sin(yaw), x * math.sin(yaw) + z * math.cos(yaw)
    y, z = y * math.cos(pitch) - z * math.sin(pitch), z * math.cos(pitch) + y * math.sin(pitch)
    return torch.stack((x, y, z), -1)


def project(points: Tensor) -> Tensor:
    """Perspective projection of points (..., 3) to tile coordinates (..., 2).

    A rotating cube always stays within [-0.5, 0.5].
    """
    return points[..., :2] / (DISTANCE + points[..., 2:]) / (2 * REACH)


def place(item: SceneObject) -> Tensor:
    """Projected corners (faces, 4, 2) of an object's solid, in the unit square of the picture."""
    assert isinstance(item.sprite, Solid)
    turn = math.radians(item.angle)
    x, y = corners(item.sprite).unbind(-1)
    x = -x if item.flip else x
    return torch.stack(
        (
            item.x + item.size * (x * math.cos(turn) + y * math.sin(turn)),
            item.y + item.size * (y * math.cos(turn) - x * math.sin(turn)),
        ),
        -1,
    )


def facing(solid: Solid) -> Tensor:
    """Mask (faces,), bool, of the faces whose outside is visible.

    A card is visible from both sides; a face seen edge-on is not visible.
    """
    a, b, c = corners(solid)[:, :3].unbind(1)
    area = (b - a)[:, 0] * (c - b)[:, 1] - (b - a)[:, 1] * (c - b)[:, 0]
    return (area.abs() if solid.shape == "card" else area) > 1e-3


def draw(solids: Sequence[Solid], device: torch.device | str = "cpu") -> Tensor:
    """Tiles (n, 4, SIDE, SIDE) of the solids in [0, 1]: RGB (not premultiplied), then alpha."""
    owners, maps, shades = [], [], []
    for i, solid in enumerate(solids):
        projected, rotated = corners(solid), turned(solid)
        for face in facing(solid).nonzero()[:, 0].tolist():
            owners.append(i)
            maps.append(_homography(projected[face]))
            a, b, c = rotated[face, :3]
            normal = torch.linalg.cross(b - a, c - b)
            shades.append(0.72 + 0.28 * abs(float(normal[2] / normal.norm())))
    out = torch.zeros(len(solids), 4, SIDE, SIDE, device=device)
    if not owners:
        return out
    line = (torch.arange(SIDE, device=device, dtype=torch.float32) + 0.5 - SIDE / 2) / (SIDE - 2)
    y, x = torch.meshgrid(line, line, indexing="ij")
    homographies = torch.stack(maps).float().to(device)  # k 3 3
    points = torch.stack((x, y, torch.ones_like(x)), -1).view(1, -1, 3)
    mapped = points @ homographies.transpose(1, 2)  # k s·s 3
    uv = (mapped[..., :2] / mapped[..., 2:]).view(-1, SIDE, SIDE, 2)  # [-1, 1] inside the face
    # The change of uv from one pixel to the next: it makes the edge of a face one pixel soft.
    step = torch.hypot(*torch.gradient(uv, dim=(1, 2)))  # k s s 2
    edge = ((1 - uv.abs()) / step.clamp(min=1e-6) + 0.5).clamp(0, 1).amin(-1)
    # Only pixels near the face count: step has no bound towards the horizon.
    near = (uv.abs().amax(-1) < 1.5) & (mapped[..., 2].view_as(edge) > 0)
    edge = torch.where(near, edge, 0.0)
    texture = torch.stack([_texture(solids[i].face, solids[i].color) for i in owners]).to(device)
    shade = torch.tensor(shades, device=device).view(-1, 1, 1, 1)
    color = F.grid_sample(texture, uv.clamp(-1, 1), align_corners=False) * shade
    for k, i in enumerate(owners):  # a solid is convex: its visible faces do not overlap
        out[i, :3] = torch.where(edge[k] > out[i, 3], color[k], out[i, :3])
        out[i, 3] = torch.maximum(out[i, 3], edge[k])
    return out


def _homography(quad: Tensor) -> Tensor:
    """Homography (3, 3) from tile (x, y, 1) to face coordinates (u, v, 1) in [-1, 1], up to scale.

    Source: Heckbert 1989, section 2.2.3.
    """
    square = torch.tensor([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=torch.float64)
    rows, targets = [], []
    for (x, y), (u, v) in zip(quad.tolist(), square.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        targets += [u, v]
    solution = torch.linalg.lstsq(
        torch.tensor(rows, dtype=torch.float64),
        torch.tensor(targets, dtype=torch.float64).unsqueeze(1),
    ).solution
    return torch.cat((solution[:, 0], torch.ones(1, dtype=torch.float64))).view(3, 3)


@cache
def _texture(face: int, color: str) -> Tensor:
    """Texture (3, SIDE, SIDE) of a face in [0, 1]: the sprite on a plain ground, with a frame."""
    rgba = atlas.load().pixels[face].float() / 255
    ground = torch.tensor(places.COLORS[color]).view(3, 1, 1).expand(3, SIDE, SIDE).clone()
    premultiplied = torch.cat((rgba[:3] * rgba[3:], rgba[3:]))[None]
    small = F.interpolate(premultiplied, scale_factor=0.8, mode="bilinear", antialias=True)[0]
    pad = (SIDE - small.shape[-1]) // 2
    inner = slice(pad, pad + small.shape[-1])
    ground[:, inner, inner] = ground[:, inner, inner] * (1 - small[3:]) + small[:3]
    frame = torch.ones(SIDE, SIDE)
    frame[4:-4, 4:-4] = 0
    return ground * (1 - 0.35 * frame)
