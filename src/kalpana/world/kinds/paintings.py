"""Painting media as filters of rendered scenes: watercolour, oil, pencil, ink, pixel art, neon.

Each medium is one function of a batch of pictures and a few seeded noise fields. Lengths are in
pixels of a 128 px picture and scale with the side. Captions always name the medium. Pencil and ink
have no colours, so their captions name none.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.world import grammar, grammar_en, grammar_hi
from kalpana.world.defaults import background_said
from kalpana.world.lexicon import lexicon
from kalpana.world.recolor import LUMA
from kalpana.world.sample import sample_scene
from kalpana.world.scene import COLORS, Group, Scene

PAINTINGS = ("watercolour", "oil", "pencil", "ink", "pixel art", "neon")

# ------------------------------------------------------------------------------------------ media


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
    wash = _kuwahara(_warp(x, 0.9 * unit * noise(24), 0.9 * unit * noise(24)), _whole(2 * unit))
    wash = 1 - 0.84 * (1 - wash)  # thinned with water
    grain = noise(x.shape[-1])
    edge = (_slope(wash) * 1.6).clamp(max=1)
    # Pigment density above its mean.
    density = 0.45 * noise(5) + 0.3 * noise(16) + 0.16 * grain + 0.9 * edge
    wash = wash - wash * (1 - wash) * density  # equation 1 of the paper
    border = _border(x) + unit * (1.2 * noise(9) + noise(28))
    covered = ((border - 3 * unit) / unit).clamp(0, 1)  # the rest is bare paper
    rim = 1 - 0.15 * (1 - (border - 4 * unit).abs() / (1.2 * unit)).clamp(0, 1)
    paper = x.new_tensor((0.99, 0.98, 0.955)).view(1, 3, 1, 1)
    return torch.lerp(paper.expand_as(wash), wash * rim, covered) * (1 - 0.025 * (grain + 1))


def _oil(x: Tensor, noise: Noise) -> Tensor:
    """Oil: short thick strokes along the edges, each of the colour at its centre.

    Details that the strokes lose are restored from the smoothed picture.
    """
    unit = x.shape[-1] / 128
    smooth = _kuwahara(x, _whole(1.5 * unit))
    strokes, relief = _strokes(smooth, max(2, round(4 * unit)), noise)
    lost = ((strokes - smooth).abs().amax(1, keepdim=True) * 5 - 0.4).clamp(0, 1)
    restored = torch.lerp(strokes, smooth, 0.9 * _box(lost, _whole(unit)))
    return restored * (1 + 0.07 * relief) + 0.02 * relief


def _strokes(x: Tensor, cell: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Strokes (n, 3, h, w) on a jittered lattice of ``cell`` pixels, and their relief (n, 1, h, w).

    The thickest paint is on top; the light comes from the upper left.
    """
    n, _, side, _ = x.shape
    grid = -(-side // cell)
    move_x, move_y, thick, shade = (noise(grid, grid) for _ in range(4))
    middle = ((torch.arange(grid, device=x.device) + 0.5) * cell).clamp(max=side - 0.5)
    colors = _sample(x, middle, 0.3 * cell * move_x, 0.3 * cell * move_y)  # n 3 g g
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
    dx, dy = _gradient(_luma(x))
    swirl = 2.5 * noise(4, side=grid)
    tensor = torch.cat((dx * dx - dy * dy, 2 * dx * dy), 1)
    pad = grid * cell - x.shape[-1]
    tensor = _box(F.pad(tensor, (0, pad, 0, pad), mode="replicate"), cell // 2)
    tensor = F.avg_pool2d(tensor, cell)
    sin2 = tensor[:, 1:] + 3e-4 * torch.sin(swirl)
    cos2 = tensor[:, :1] + 3e-4 * torch.cos(swirl)
    return 0.5 * torch.atan2(sin2, cos2) + math.pi / 2


def _pencil(x: Tensor, noise: Noise) -> Tensor:
    """Pencil: graphite on rough paper; outlines, and hatching that is crossed in dark regions."""
    unit = x.shape[-1] / 128
    x = _warp(x, 0.6 * unit * noise(20), 0.6 * unit * noise(20))
    smooth = _box(x, _whole(unit))
    luma = _luma(smooth)
    dark = (0.9 - luma - 0.35 * (luma - _blur(luma, 14 * unit))).clamp(0, 0.62)
    line = (_slope(smooth).sqrt() * 2.4 - 0.36).clamp(0, 1)
    wobble = 2 * unit * noise(8)
    hatch = (_hatch(x, 45, 3.6 * unit, wobble) - 1 + 1.5 * dark).clamp(0, 0.6)
    cross = (_hatch(x, -25, 3.6 * unit, wobble) - 1 + 1.5 * (dark - 0.45)).clamp(0, 0.6)
    graphite = 0.2 * dark + 0.5 * hatch + 0.5 * cross + 0.85 * line * (1 + 0.3 * noise(24))
    tooth = noise(x.shape[-1])
    return (0.965 - 0.012 * tooth - graphite * (0.85 + 0.2 * tooth)).clamp(0.12, 1).expand_as(x)


def _ink(x: Tensor, noise: Noise) -> Tensor:
    """Ink: black and white, with grey at soft edges only.

    Outlines, flat black regions with white outlines inside, and some hatching of middle tones.
    """
    unit = x.shape[-1] / 128
    x = _warp(x, 0.5 * unit * noise(18), 0.5 * unit * noise(18))
    smooth = _box(x, _whole(unit))
    luma = _luma(smooth)
    around = _blur(luma, 12 * unit)
    tone = luma + 0.6 * (luma - around)
    line = (_slope(smooth).sqrt() * 6 - 1.4 + 0.5 * noise(20)).clamp(0, 1)
    lines = _hatch(x, 50, 4.2 * unit, 1.2 * unit * noise(10))
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
    padded = F.pad(_kuwahara(x, max(1, cell // 3)), (0, pad, 0, pad), mode="replicate")
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
    smooth = _box(x, _whole(unit))
    tube = (_slope(smooth).sqrt() * 2.6 - 0.45).clamp(0, 1)
    behind = (x[..., :1] + x[..., -1:]) / 2  # background estimate: the mean of a row's two ends
    weight = (x - behind).square().sum(1, keepdim=True) + 0.004
    near = _box(torch.cat((x * weight, weight), 1), _whole(3 * unit))
    near = near[:, :3] / near[:, 3:]
    low = near.amin(1, keepdim=True)
    hue = (near - low + 0.04) / (near.amax(1, keepdim=True) - low + 0.04)
    light = tube * hue
    glow = 0.6 * _blur(light, 2.5 * unit) + 0.7 * _blur(light, 8 * unit)
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


# ------------------------------------------------------------------------------------------ tools
# Blurs are sums of shifted slices: faster here than pooling, and bit-identical for any batch size.


class Noise:
    """Random fields of a batch from one generator a row: each call returns the next field."""

    def __init__(self, seeds: Sequence[int], like: Tensor) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.like = like

    def __call__(self, cells: int, side: int | None = None) -> Tensor:
        """Random field (n, 1, side, side): uniform in [-1, 1] on a lattice, interpolated between.

        The lattice has ``cells`` points a side.
        """
        side = side or self.like.shape[-1]
        rows = [torch.rand(cells, cells, generator=generator) for generator in self.generators]
        if cells != side:
            weights = _spread(cells, side)
            rows = [weights @ row @ weights.T for row in rows]
        return torch.stack(rows)[:, None].to(self.like) * 2 - 1


@cache
def _spread(cells: int, side: int) -> Tensor:
    """Weights (side, cells) of cubic interpolation."""
    identity = torch.eye(cells)[None, None]
    return F.interpolate(identity, size=(side, cells), mode="bicubic", align_corners=False)[0, 0]


def _whole(radius: float) -> int:
    """The radius in whole pixels, at least 1."""
    return max(1, round(radius))


def _luma(x: Tensor) -> Tensor:
    return LUMA[0] * x[:, :1] + LUMA[1] * x[:, 1:2] + LUMA[2] * x[:, 2:]


def _box(x: Tensor, radius: int) -> Tensor:
    """Box blur: the mean over a square of side 2 radius + 1 pixels."""
    return _windows(F.pad(x, (radius,) * 4, mode="replicate"), 2 * radius + 1)


def _windows(x: Tensor, size: int) -> Tensor:
    """Box filter without padding: the mean over each square of side ``size`` pixels."""
    h, w = x.shape[-2] - size + 1, x.shape[-1] - size + 1
    for axis, length in ((2, h), (3, w)):
        total = x.narrow(axis, 0, length).clone()
        for k in range(1, size):
            total += x.narrow(axis, k, length)
        x = total
    return x.div_(size**2)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Approximate Gaussian blur of ``sigma`` pixels, computed at a quarter of the resolution."""
    side = x.shape[-1]
    small = F.interpolate(x, scale_factor=0.25, mode="area")
    radius = _whole(sigma / 4)
    for _ in range(2):
        small = _box(small, radius)
    return F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)


def _gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences (dx, dy) to the right and down, in values per pixel."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (p[..., 1:-1, 2:] - p[..., 1:-1, :-2]) / 2, (p[..., 2:, 1:-1] - p[..., :-2, 1:-1]) / 2


def _slope(x: Tensor) -> Tensor:
    """Gradient magnitude (n, 1, h, w), the maximum over channels.

    The maximum, not the luma's gradient, so that two hues of equal lightness have an outline too.
    """
    dx, dy = _gradient(x)
    return (dx * dx + dy * dy).amax(1, keepdim=True).sqrt() * max(1.0, x.shape[-1] / 128)


def _kuwahara(x: Tensor, radius: int) -> Tensor:
    """Kuwahara filter: smooth regions with sharp edges.

    The mean of the four squares that have the pixel at a corner, each weighted by the inverse cube
    of its luma variance.
    """
    h, w = x.shape[-2:]
    p = F.pad(x, (radius,) * 4, mode="replicate")
    mean = _windows(torch.cat((p, _luma(p).square()), 1), radius + 1)
    mean, square = mean[:, :3], mean[:, 3:]
    weight = (square - _luma(mean).square()).clamp(min=0).add(2e-4).pow(-3)
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for i in (0, radius):
        for j in (0, radius):
            each = weight[..., i : i + h, j : j + w]
            total += mean[..., i : i + h, j : j + w] * each
            weights += each
    return total / weights


def _warp(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Picture warped by offsets: each pixel is read ``right`` and ``down`` pixels away.

    The offsets are (n, 1, h, w) each.
    """
    return _sample(x, torch.arange(x.shape[-1], device=x.device) + 0.5, right, down)


def _sample(x: Tensor, line: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Colours at the lattice ``line`` x ``line``, moved by offsets (n, 1, g, g), all in pixels."""
    side = x.shape[-1]
    grid = torch.stack((line + right[:, 0], line.view(-1, 1) + down[:, 0]), 3) * (2 / side) - 1
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _hatch(x: Tensor, degrees: float, period: float, wobble: Tensor) -> Tensor:
    """Parallel lines (n, 1, h, w): 1 at the centre of a line and 0 between two lines.

    ``period`` in pixels; ``wobble`` (n, 1, h, w) shifts the lines, in pixels.
    """
    side = x.shape[-1]
    line, angle = torch.arange(side, device=x.device) + 0.5, math.radians(degrees)
    across = line * math.cos(angle) + line.view(-1, 1) * math.sin(angle) + wobble
    return 0.5 + 0.5 * torch.sin(across * (2 * math.pi / max(period, 3)))


def _border(x: Tensor) -> Tensor:
    """Distance (1, 1, h, w) of each pixel from the nearest border, in pixels."""
    side = x.shape[-1]
    line = torch.arange(side, device=x.device) + 0.5
    line = torch.minimum(line, side - line)
    return torch.minimum(line, line.view(-1, 1)).view(1, 1, side, side)


# ------------------------------------------------------------------------------------------ words

PICTURES = {  # medium: (noun phrases for a picture, phrases for its manner)
    "watercolour": (
        (
            "a watercolour",
            "a watercolor",
            "a watercolour painting",
            "a watercolor painting",
            "an aquarelle",
        ),
        (
            "watercolour",
            "in watercolour",
            "in watercolor",
            "watercolor style",
            "watercolour painting",
            "painted in watercolours",
        ),
    ),
    "oil": (
        ("an oil painting", "an oil painting", "an oil painting on canvas", "an oil picture"),
        (
            "oil painting",
            "in oil",
            "painted in oil",
            "oil on canvas",
            "in the style of an oil painting",
            "oil painting style",
        ),
    ),
    "pencil": (
        ("a pencil sketch", "a pencil drawing", "a graphite drawing", "a sketch in pencil"),
        (
            "pencil sketch",
            "in pencil",
            "drawn in pencil",
            "sketched with a pencil",
            "pencil drawing",
            "pencil style",
        ),
    ),
    "ink": (
        ("an ink drawing", "a pen and ink drawing", "an ink sketch", "a drawing in ink"),
        (
            "ink drawing",
            "in ink",
            "drawn in ink",
            "pen and ink",
            "in the style of an ink drawing",
            "ink style",
        ),
    ),
    "pixel art": (
        ("pixel art", "a pixel art picture", "a piece of pixel art", "a pixel art image"),
        (
            "pixel art",
            "pixel art style",
            "as pixel art",
            "in pixel art",
            "in the style of pixel art",
        ),
    ),
    "neon": (
        ("a neon picture", "a neon drawing", "a glowing neon picture", "neon art"),
        (
            "in neon lights",
            "in neon",
            "neon style",
            "glowing in neon",
            "drawn in neon light",
            "neon lights",
        ),
    ),
}
HINDI_PICTURES = {  # medium: (nouns for a picture, each with its gender; phrases for its manner)
    "watercolour": (
        (("जलरंग चित्र", "m"), ("वॉटरकलर चित्र", "m"), ("जलरंग पेंटिंग", "f")),
        ("जलरंग में", "जलरंग शैली में", "जलरंगों में", "वॉटरकलर में", "वॉटरकलर शैली में"),
    ),
    "oil": (
        (("तैल चित्र", "m"), ("तैलचित्र", "m"), ("ऑयल पेंटिंग", "f"), ("तैल पेंटिंग", "f")),
        ("तैल रंगों में", "तैल चित्र शैली में", "ऑयल पेंटिंग शैली में", "तैल चित्र के रूप में"),
    ),
    "pencil": (
        (("पेंसिल स्केच", "m"), ("पेंसिल चित्र", "m"), ("पेंसिल ड्रॉइंग", "f")),
        ("पेंसिल रेखाओं में", "पेंसिल स्केच में", "पेंसिल शैली में", "पेंसिल स्केच शैली में"),
    ),
    "ink": (
        (("स्याही चित्र", "m"), ("स्याही स्केच", "m"), ("स्याही ड्रॉइंग", "f")),
        ("स्याही में", "स्याही शैली में", "स्याही के चित्र के रूप में", "कलम और स्याही शैली में"),
    ),
    "pixel art": (
        (("पिक्सेल चित्र", "m"), ("पिक्सेल आर्ट चित्र", "m"), ("पिक्सेल तस्वीर", "f")),
        ("पिक्सेल आर्ट में", "पिक्सेल आर्ट शैली में", "पिक्सेल शैली में", "पिक्सेल आर्ट के रूप में"),
    ),
    "neon": (
        (("नियॉन चित्र", "m"), ("नियॉन आर्ट चित्र", "m"), ("नियॉन तस्वीर", "f")),
        ("नियॉन शैली में", "नियॉन रोशनी में", "नियॉन लाइट में", "चमकती नियॉन शैली में"),
    ),
}
# Media without background colours: the ground is always paper, or black.
TINTLESS = {"pencil", "ink", "neon"}
# Colours of objects that a medium cannot show.
LOST = {"pencil": COLORS, "ink": COLORS, "neon": ("black", "white", "brown")}

_TINT = re.compile(
    r"\b(?:red|orange|yellow|green|blue|purple|violet|lavender|pink|brown|beige|cream|black"
    r"|white|gr[ae]y|gold|golden|silver)\b"
    r"|(?:^|\s)(?:लाल|नारंगी|संतर[ाेी]|पील[ाेी]|हर[ाेी]|नील[ाेी]|बैंगनी|जामुनी|लैवेंडर|गुलाबी|भूर[ाेी]|काल[ाेी]|सफ़?ेद|स्लेटी|धूसर|बेज|सुनहर[ाेी]|सुनहली)(?=[\s,।]|$)",
    re.IGNORECASE,
)


def sample(rng: random.Random, split: str = "train") -> Scene:
    """Random scene of objects in a medium that can show every colour its captions may name.

    A scene without objects never has a tintless medium: a place alone has too few outlines.
    """
    medium = rng.choice(PAINTINGS)
    while True:
        scene = sample_scene(rng, split, other_style=0.0)
        if (scene.groups or medium not in TINTLESS) and all(
            _shows(medium, group) for group in scene.groups
        ):
            return replace(scene, painting=medium)


def _shows(medium: str, group: Group) -> bool:
    """Whether a medium can show the group's colour and any colour in its names."""
    concept = lexicon()[group.concept]
    names = (concept.en, *concept.synonyms_en, *grammar_hi.names(concept))
    return medium not in LOST or (
        group.color not in LOST[medium] and not any(_TINT.search(name) for name in names)
    )


def caption(scene: Scene, language: str, form: str, rng: random.Random) -> str:
    """Caption of a painted scene; it always names the medium and never the (house) style."""
    return (_english if language == "en" else _hindi)(scene, form, rng)


def _omits_background(scene: Scene, form: str, rng: random.Random) -> bool:
    """Whether the caption omits the background.

    It does for a tintless medium unless the background is a place, else at random by form.
    """
    hidden = scene.painting in TINTLESS and scene.background.kind != "place"
    return hidden or not background_said(rng, scene.background, form)


def _surroundings(scene: Scene, describe: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """Background phrases from ``describe``; of a place in a tintless medium, without a colour.

    Phrases such as "in a green field" are rejected, and ``describe`` is called again.
    """
    while True:
        where, what = describe()
        if (
            scene.painting not in TINTLESS
            or scene.background.kind != "place"
            or not (_TINT.search(where) or _TINT.search(what))
        ):
            return where, what


def _english(scene: Scene, form: str, rng: random.Random) -> str:
    medium, manner = (rng.choice(words) for words in PICTURES[scene.painting or ""])
    if not scene.groups:
        _, what = _surroundings(scene, lambda: grammar_en.surroundings(scene.background, rng))
        return rng.choice((f"{medium} of {what}", f"{what}, {manner}"))
    pattern = rng.choice(grammar_en.patterns(scene, form))
    alone = len(scene.groups) == 1
    phrases = [
        grammar_en.phrase(group, lexicon()[group.concept], rng, alone=alone)
        for group in scene.groups
    ]
    text = pattern.format(
        **dict(zip("ab", phrases, strict=False)), **grammar_en.SIDES.get(scene.relation or "", {})
    )
    where, what = _surroundings(scene, lambda: grammar_en.surroundings(scene.background, rng, text))
    if _omits_background(scene, form, rng):
        where = what = ""
    if pattern.endswith("."):
        background = f" The background is {what}." if what else ""
        return f"{grammar_en.capital(text)}{background} This is {medium}."
    after = f"{rng.choice((' ', ', ')) if where[:1] != ',' else ''}{where}" if where else ""
    noun_first = pattern.startswith(("{a}", "{b}", "{a.plain}", "{a.exact}"))
    if (noun_first or pattern in grammar_en.VAGUE[1:]) and rng.random() < 0.5:
        text = f"{medium} of {text}{after}"
    else:
        text = f"{text}{after}, {manner}"
    if form != "dense":
        return text
    regions = [grammar.region(scene, k) for k in range(len(scene.groups))]
    places = [
        f"{p.the} {p.are} {grammar_en.REGIONS[r]}"
        for p, r in zip(phrases, regions, strict=True)
        if r in grammar_en.REGIONS
    ]
    regions_text = f" {grammar_en.capital(' and '.join(places))}." if places else ""
    return f"{grammar_en.capital(text)}.{regions_text}"


def _hindi(scene: Scene, form: str, rng: random.Random) -> str:
    nouns, manners = HINDI_PICTURES[scene.painting or ""]
    (noun, gender), manner = rng.choice(nouns), rng.choice(manners)
    where, what = _surroundings(scene, lambda: grammar_hi.surroundings(scene.background, rng))
    if not scene.groups:
        return rng.choice((f"{what}, {manner}", f"{manner} {what}", f"{what}, {noun}"))
    pattern = rng.choice(grammar_hi.patterns(scene, form))
    if pattern == "{a}" and rng.random() < 0.4:
        pattern = "{a.oblique} {picture}"
    phrases = [grammar_hi.phrase(group, lexicon()[group.concept], rng) for group in scene.groups]
    picture = f"{grammar_hi.inflect('का', gender, False)} {rng.choice(('', '', 'एक '))}{noun}"
    text = pattern.format(
        **dict(zip("ab", phrases, strict=False)),
        **grammar_hi.sides(scene.relation, rng),
        picture=picture,
    )
    if _omits_background(scene, form, rng):
        where = what = ""
    if pattern.endswith("।"):
        text = " ".join(
            part for part in (text, f"पृष्ठभूमि: {what}।" if what else "", f"यह एक {noun} है।") if part
        )
    else:
        if "{picture}" not in pattern:
            first = pattern.startswith(("{a", "{b")) and rng.random() < 0.5
            text = f"{manner} {text}" if first else f"{text}, {rng.choice((manner, noun))}"
        text += f", {where}" if where else ""
    if form == "dense":
        regions = [grammar.region(scene, k) for k in range(len(scene.groups))]
        places = [
            f"{p.bare} {grammar_hi.REGIONS[r]} {p.hai}"
            for p, r in zip(phrases, regions, strict=True)
            if r in grammar_hi.REGIONS
        ]
        text += "।" + (f" {' और '.join(places)}।" if places else "")
    return grammar_hi.casual(text) if rng.random() < 0.15 else text
