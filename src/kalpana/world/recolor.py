"""Recolouring of sprites: the mask of the pixels with the object's colour, and their repainting.

``recolor_mask`` runs once, when the atlas is built. ``repaint`` runs for every scene and is
elementwise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kalpana.world.scene import COLORS

# For each colour name: sRGB in [0, 1], then the strength with which the sprite's own shades darken
# it and its lights lighten it. Shades are weak where a dark version has another name (dark orange
# is brown, dark white is grey).
PAINTS: dict[str, tuple[float, float, float, float, float]] = {
    "red": (0.88, 0.11, 0.13, 0.75, 0.6),
    "orange": (0.98, 0.54, 0.06, 0.45, 0.6),
    "yellow": (0.99, 0.86, 0.12, 0.45, 0.6),
    "green": (0.14, 0.64, 0.23, 0.75, 0.6),
    "blue": (0.12, 0.36, 0.87, 0.75, 0.6),
    "purple": (0.50, 0.20, 0.72, 0.75, 0.6),
    "pink": (0.99, 0.53, 0.73, 0.5, 0.6),
    "brown": (0.47, 0.28, 0.14, 0.7, 0.4),
    "black": (0.11, 0.11, 0.12, 0.6, 0.3),
    "white": (0.96, 0.96, 0.96, 0.45, 0.6),
}
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB values (..., 3), D65, of sRGB values (..., 3) in [0, 1] (IEC 61966-2-1, CIE 15)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack(
        (116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])), -1
    )


def _ramp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Linear ramp: 0 below ``low``, 1 above ``high``; falling if low > high."""
    return np.clip((x - low) / (high - low), 0, 1)


def recolor_mask(rgba: np.ndarray, hue_of_body: float | None = None) -> np.ndarray:
    """Recolouring mask (h, w) uint8, in sixteen levels, of one sprite (h, w, 4) uint8.

    It selects the hue that covers most of the sprite, in all its shades and tints. If little of the
    sprite has a hue, it selects the grey or white body instead. If ``hue_of_body`` (CIELAB degrees)
    is given, it selects that hue and white. Outlines, eyes, wheels and leaves are excluded: they
    are much darker, colourless, or of another hue.
    """
    opaque = rgba[..., 3] / 255.0
    light, a, b = np.moveaxis(lab(rgba[..., :3] / 255.0), -1, 0)
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360

    def around(center: float) -> np.ndarray:
        distance = np.abs((hue - center + 180) % 360 - 180)
        return _ramp(distance, 52, 38)

    solid = (opaque > 0.6) & (light > 12)
    vivid = solid * _ramp(chroma, 12, 22)
    histogram = np.histogram(hue, bins=72, range=(0, 360), weights=vivid)[0]
    window = np.convolve(np.tile(histogram, 3), np.ones(11), "same")[72:144]  # +-27 degrees
    center = float(np.argmax(window)) * 5 + 2.5 if hue_of_body is None else hue_of_body
    hued = around(center) * _ramp(chroma, 5, 12)
    gray = _ramp(chroma, 22, 14) * _ramp(light, 35, 50)
    largest = hued if (solid * hued).sum() > 0.6 * (solid * gray).sum() else gray
    body = largest if hue_of_body is None else np.maximum(hued, gray)
    inside = body[solid & (body > 0.5)], light[solid & (body > 0.5)]
    median = float(np.median(inside[1])) if len(inside[1]) else 50.0
    mask = body * _ramp(light, 0.3 * median, 0.5 * median) * (opaque > 0.02)
    return (np.round(mask * 15) * 17).astype(np.uint8)


def reference(rgba: np.ndarray, mask: np.ndarray) -> float:
    """Reference luminance of a sprite (h, w, 4), in [0.05, 1]: the median under its mask (h, w).

    ``repaint`` paints this luminance in the pure colour. 0.5 if the mask is empty.
    """
    luma = rgba[..., :3] / 255.0 @ np.array(LUMA)
    chosen = luma[(mask > 127) & (rgba[..., 3] > 127)]
    return float(np.clip(np.median(chosen), 0.05, 1)) if len(chosen) else 0.5


def repaint(rgba: Tensor, mask: Tensor, reference: Tensor, color: Tensor) -> Tensor:
    """Sprites (n, 4, h, w) in [0, 1], not premultiplied, recoloured in COLORS[color].

    ``mask`` (n, h, w) in [0, 1] weights the change; ``reference`` and ``color`` are (n,). A pixel
    of the reference luminance gets the pure colour, a darker one a shade of it, a lighter one a
    tint, so the sprite keeps its light and shade.
    """
    paints = torch.tensor([PAINTS[name] for name in COLORS], dtype=rgba.dtype, device=rgba.device)
    table = paints[color]
    paint = table[:, :3, None, None]
    shades, tints = table[:, 3, None, None, None], table[:, 4, None, None, None]
    ref = reference.to(rgba)[:, None, None, None]
    red, green, blue = rgba[:, :3].split(1, dim=1)
    luma = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    shade = 1 - (1 - luma / ref).clamp_(0, 1) * shades
    tint = ((luma - ref) / (1 - ref).clamp(min=0.25)).clamp_(0, 1) * tints
    out = rgba.clone()
    change = (paint * shade).add_((1 - paint) * tint).sub_(rgba[:, :3]).mul_(mask[:, None])
    out[:, :3] += change
    return out
