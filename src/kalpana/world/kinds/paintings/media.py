"""Painting media as filters of rendered scenes: one function of a batch of pictures a medium.

Lengths are in pixels of a 128 px picture and scale with the side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.world.kinds.paintings.filters import (
    Noise,
    border_distance,
    box_blur,
    gaussian_blur,
    gradient,
    hatching,
    kuwahara,
    luma_of,
    sample_lattice,
    slope,
    warp,
    whole_radius,
)

PAINTINGS = ("watercolour", "oil", "pencil", "ink", "pixel art", "neon")


def paint(pixels: Tensor, styles: Sequence[str | None], seeds: Sequence[int]) -> Tensor:
    """Pictures (b, 3, h, w) in [-1, 1], each filtered by its medium.

    Row i has the medium styles[i] and random numbers from seeds[i] alone; None leaves it unchanged.
    """
    if all(style is None for style in styles):
        return pixels
    out = pixels.clone()
    for style, brush in BRUSHES.items():
        rows = [i for i, each in enumerate(styles) if each == style]
        if rows:
            batch = torch.stack([pixels[i] for i in rows]).add_(1).div_(2)
            noise = Noise([seeds[i] for i in rows], batch)
            painted = brush(batch, noise).clamp(0, 1).mul_(2).sub_(1)
            for i, picture in zip(rows, painted, strict=True):
                out[i] = picture
    return out


def _watercolour(x: Tensor, noise: Noise) -> Tensor:
    """Watercolour: washes of thin pigment on grained paper, darker where a wash ends.

    Source: Bousseau et al. 2006, Interactive Watercolor Rendering.
    """
    unit = x.shape[-1] / 128
    wash = kuwahara(warp(x, 0.9 * unit * noise(24), 0.9 * unit * noise(24)), whole_radius(2 * unit))
    wash = 1 - 0.84 * (1 - wash)  # thinned with water
    grain = noise(x.shape[-1])
    edge = (slope(wash) * 1.6).clamp(max=1)
    # Pigment density above its mean.
    density = 0.45 * noise(5) + 0.3 * noise(16) + 0.16 * grain + 0.9 * edge
    wash = wash - wash * (1 - wash) * density  # equation 1 of the paper
    border = border_distance(x) + unit * (1.2 * noise(9) + noise(28))
    covered = ((border - 3 * unit) / unit).clamp(0, 1)  # the rest is bare paper
    rim = 1 - 0.15 * (1 - (border - 4 * unit).abs() / (1.2 * unit)).clamp(0, 1)
    paper = x.new_tensor((0.99, 0.98, 0.955)).view(1, 3, 1, 1)
    return torch.lerp(paper.expand_as(wash), wash * rim, covered) * (1 - 0.025 * (grain + 1))


def _oil(x: Tensor, noise: Noise) -> Tensor:
    """Oil: short thick strokes along the edges, each of the colour at its centre.

    Details that the strokes lose are restored from the smoothed picture.
    """
    unit = x.shape[-1] / 128
    smooth = kuwahara(x, whole_radius(1.5 * unit))
    strokes, relief = _strokes(smooth, max(2, round(4 * unit)), noise)
    lost = ((strokes - smooth).abs().amax(1, keepdim=True) * 5 - 0.4).clamp(0, 1)
    restored = torch.lerp(strokes, smooth, 0.9 * box_blur(lost, whole_radius(unit)))
    return restored * (1 + 0.07 * relief) + 0.02 * relief


def _strokes(x: Tensor, cell: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Strokes (n, 3, h, w) on a jittered lattice of ``cell`` pixels, and their relief (n, 1, h, w).

    The thickest paint is on top; the light comes from the upper left.
    """
    n, _, side, _ = x.shape
    grid = -(-side // cell)
    move_x, move_y, thick, shade = (noise(grid, grid) for _ in range(4))
    middle = ((torch.arange(grid, device=x.device) + 0.5) * cell).clamp(max=side - 0.5)
    colors = sample_lattice(x, middle, 0.3 * cell * move_x, 0.3 * cell * move_y)  # n 3 g g
    colors = colors * (1 + 0.07 * shade)
    angle = _flow(x, cell, grid, noise)
    own = torch.cat(
        (0.3 * move_x, 0.3 * move_y, torch.cos(angle), torch.sin(angle), thick, shade, colors), 1
    )
    padded = F.pad(own, (1, 1, 1, 1), mode="replicate")
    near = padded.unfold(2, grid, 1).unfold(3, grid, 1)  # n 9 3 3 g g: the nine nearest strokes
    near = near.reshape(n, 9, 9, 1, 1, grid, grid)
    step = torch.arange(-1, 2, device=x.device)
    inside = (torch.arange(cell, device=x.device) + 0.5) / cell - 0.5
    step_x = step.repeat(3).view(1, 9, 1, 1, 1, 1)
    step_y = step.repeat_interleave(3).view(1, 9, 1, 1, 1, 1)
    right = inside.view(1, 1, 1, -1, 1, 1) - step_x - near[:, 0]  # n 9 1 c g g, in cells
    down = inside.view(1, 1, -1, 1, 1, 1) - step_y - near[:, 1]  # n 9 c 1 g g
    cos, sin = near[:, 2], near[:, 3]
    along = (right * cos + down * sin).div_(1.5)  # n 9 c c g g, 1 at the end of the stroke
    across = (down * cos - right * sin).div_(0.55)
    height = (1.5 * near[:, 4] - along.square_()).sub_(across * across)
    # Argmax of the height by a maximum with the index in the last four bits: several times faster
    # than argmax.
    index = torch.arange(9, device=x.device, dtype=torch.int32).view(1, 9, 1, 1, 1, 1)
    top = height.mul_(2**16).int().mul_(16).add_(index).amax(1, keepdim=True).long() % 16

    def topmost(values: Tensor) -> Tensor:
        return values.expand(-1, -1, cell, cell, -1, -1).gather(1, top)

    light = topmost((0.6 * sin - 0.8 * cos).sign())
    offset = topmost(across)
    relief = 0.7 * torch.sin(7 * offset + 20 * topmost(near[:, 5])) + offset.clamp(-1, 1) * light
    drawn = torch.cat([*(topmost(near[:, k]) for k in (6, 7, 8)), relief], 1)  # n 4 c c g g
    drawn = drawn.permute(0, 1, 4, 2, 5, 3).reshape(n, 4, grid * cell, grid * cell)
    drawn = drawn[..., :side, :side]
    return drawn[:, :3], drawn[:, 3:]


def _flow(x: Tensor, cell: int, grid: int, noise: Noise) -> Tensor:
    """Edge directions (n, 1, grid, grid) in radians, from the structure tensor.

    In flat regions the direction is smooth noise.
    """
    dx, dy = gradient(luma_of(x))
    swirl = 2.5 * noise(4, side=grid)
    tensor = torch.cat((dx * dx - dy * dy, 2 * dx * dy), 1)
    pad = grid * cell - x.shape[-1]
    tensor = box_blur(F.pad(tensor, (0, pad, 0, pad), mode="replicate"), cell // 2)
    tensor = F.avg_pool2d(tensor, cell)
    sin2 = tensor[:, 1:] + 3e-4 * torch.sin(swirl)
    cos2 = tensor[:, :1] + 3e-4 * torch.cos(swirl)
    return 0.5 * torch.atan2(sin2, cos2) + math.pi / 2


def _pencil(x: Tensor, noise: Noise) -> Tensor:
    """Pencil: graphite on rough paper; outlines, and hatching that is crossed in dark regions."""
    unit = x.shape[-1] / 128
    x = warp(x, 0.6 * unit * noise(20), 0.6 * unit * noise(20))
    smooth = box_blur(x, whole_radius(unit))
    luma = luma_of(smooth)
    dark = (0.9 - luma - 0.35 * (luma - gaussian_blur(luma, 14 * unit))).clamp(0, 0.62)
    line = (slope(smooth).sqrt() * 2.4 - 0.36).clamp(0, 1)
    wobble = 2 * unit * noise(8)
    hatch = (hatching(x, 45, 3.6 * unit, wobble) - 1 + 1.5 * dark).clamp(0, 0.6)
    cross = (hatching(x, -25, 3.6 * unit, wobble) - 1 + 1.5 * (dark - 0.45)).clamp(0, 0.6)
    graphite = 0.2 * dark + 0.5 * hatch + 0.5 * cross + 0.85 * line * (1 + 0.3 * noise(24))
    tooth = noise(x.shape[-1])
    return (0.965 - 0.012 * tooth - graphite * (0.85 + 0.2 * tooth)).clamp(0.12, 1).expand_as(x)


def _ink(x: Tensor, noise: Noise) -> Tensor:
    """Ink: black and white, with grey at soft edges only.

    Outlines, flat black regions with white outlines inside, and some hatching of middle tones.
    """
    unit = x.shape[-1] / 128
    x = warp(x, 0.5 * unit * noise(18), 0.5 * unit * noise(18))
    smooth = box_blur(x, whole_radius(unit))
    luma = luma_of(smooth)
    around = gaussian_blur(luma, 12 * unit)
    tone = luma + 0.6 * (luma - around)
    line = (slope(smooth).sqrt() * 6 - 1.4 + 0.5 * noise(20)).clamp(0, 1)
    lines = hatching(x, 50, 4.2 * unit, 1.2 * unit * noise(10))
    hatch = 4 * lines - 3.2 + 6 * (0.55 - tone).clamp(-1, 0.25)
    flat = torch.maximum(hatch, 14 * (0.3 - tone)).clamp(0, 1)
    dark = (12 * (0.3 - around)).clamp(0, 1)
    black = torch.lerp(torch.maximum(flat, line), torch.minimum(flat, 1 - line), dark)
    return (1 - black).clamp(0.04, 1).expand_as(x)


def _pixel_art(x: Tensor, noise: Noise) -> Tensor:
    """Pixel art: about 32 x 32 square cells in a palette of 16 colours taken from the picture."""
    side = x.shape[-1]
    cell = max(2, round(side / 32))
    grid = -(-side // cell)
    pad = grid * cell - side
    padded = F.pad(kuwahara(x, max(1, cell // 3)), (0, pad, 0, pad), mode="replicate")
    cells = F.avg_pool2d(padded, cell)
    flat = cells.flatten(2)  # n 3 g*g
    palette = flat.mean(2, keepdim=True)
    distance = torch.full_like(flat[:, 0], torch.inf)  # from the nearest colour of the palette
    for _ in range(15):  # each new colour is the farthest from all chosen so far
        distance = torch.minimum(distance, (flat - palette[:, :, -1:]).square().sum(1))
        farthest = distance.argmax(1).view(-1, 1, 1).expand(-1, 3, 1)
        palette = torch.cat((palette, flat.gather(2, farthest)), 2)
    for _ in range(3):  # Lloyd's iterations
        member = F.one_hot(_nearest(flat, palette), 16).to(x)  # n g*g 16
        count = member.sum(1)[:, None]
        mean = (flat[:, :, :, None] * member[:, None]).sum(2) / count.clamp(min=1)
        palette = torch.where(count > 0, mean, palette)
    chosen = palette.gather(2, _nearest(flat, palette)[:, None].expand(-1, 3, -1)).view_as(cells)
    return chosen.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[..., :side, :side]


def _nearest(flat: Tensor, palette: Tensor) -> Tensor:
    """Index (n, cells) of the nearest colour of a palette (n, 3, k), for ``flat`` (n, 3, cells)."""
    return (flat[:, :, :, None] - palette[:, :, None]).square().sum(1).argmin(2)


def _neon(x: Tensor, noise: Noise) -> Tensor:
    """Neon: glowing tubes along the outlines, in the object's saturated hue, on a dark ground."""
    unit = x.shape[-1] / 128
    smooth = box_blur(x, whole_radius(unit))
    tube = (slope(smooth).sqrt() * 2.6 - 0.45).clamp(0, 1)
    behind = (x[..., :1] + x[..., -1:]) / 2  # background estimate: the mean of a row's two ends
    weight = (x - behind).square().sum(1, keepdim=True) + 0.004
    near = box_blur(torch.cat((x * weight, weight), 1), whole_radius(3 * unit))
    near = near[:, :3] / near[:, 3:]
    low = near.amin(1, keepdim=True)
    hue = (near - low + 0.04) / (near.amax(1, keepdim=True) - low + 0.04)
    light = tube * hue
    glow = 0.6 * gaussian_blur(light, 2.5 * unit) + 0.7 * gaussian_blur(light, 8 * unit)
    fill = (10 * weight).clamp(max=1) * x * hue
    return 0.02 + 0.25 * fill + 0.85 * light + 0.3 * tube * tube + glow


BRUSHES: dict[str, Callable[[Tensor, Noise], Tensor]] = {
    "watercolour": _watercolour,
    "oil": _oil,
    "pencil": _pencil,
    "ink": _ink,
    "pixel art": _pixel_art,
    "neon": _neon,
}
