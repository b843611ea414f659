"""What moves in a clip, measured: the camera from the background alone, and things from what a verifier saw of every frame.

Lengths are in widths of the picture, y runs down, clips are square. A camera pans along one axis, zooms or rolls, one of these at a
time, as the cameras of ``world/video.py`` do: each is fitted to the background by Gauss-Newton steps from a coarse picture to a finer
one (Lucas and Kanade 1981; Bergen et al. 1992), and the one that best makes all frames look like the first is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.evaluate.score import THRESHOLDS
from kalpana.evaluate.verifiers.observations import Detection, Observation

KINDS = ("x", "y", "zoom", "roll")  # what a camera can do to the picture, one number each
WORDS = {  # what the camera does where that number falls, and where it rises: the picture goes the other way
    "x": ("pan right", "pan left"),
    "y": ("pan down", "pan up"),
    "zoom": ("zoom out", "zoom in"),
    "roll": ("clockwise", "counter-clockwise"),
}
SIDE = 64  # pixels: clips of other sizes are brought to it to measure how they flicker
COARSE, FINE = 16, 32  # pixels, in which the camera is fitted
KEYS = 9  # frames of a clip, evenly spaced, to which it is fitted
SCATTER = 0.2  # difference of pixels in [-1, 1] above which they show something else, and count less and less
RIDGE = 0.25  # (0.05 / 0.1)²: noise of pixels over a usual shift; where nothing can be told the camera stays where it was
GAIN = 0.15  # share of the misfit of a camera that stands still which any other must explain,
CLEAR = 0.004  # and how much of it at least, so that no camera is read into an encoder's noise
SURE = THRESHOLDS.counting  # score above which a detection counts
JUMP = 0.25  # widths that a thing may go between two frames
STEP = 0.25  # seconds between the places whose distances add up to the way of a thing: shorter ones would add up its box's trembling
LAG = 0.125  # seconds between frames of which a turn is told
RING, RINGS, FARTHEST = (
    72,
    12,
    12,
)  # points around a thing, circles of them, and by how many points it may turn in that time


# ------------------------------------------------------------------------------------------------------------------ camera


@dataclass(frozen=True)
class Camera:
    """What a camera does: ``kind`` is "still" or one of KINDS, and ``way`` (t,) how far the picture is from the first frame: widths to
    the right (x) or down (y), the logarithm of its zoom, or radians clockwise (roll)."""

    kind: str
    way: Tensor

    @property
    def word(self) -> str:
        """One of clips.CAMERAS, "" where it stands still."""
        return WORDS[self.kind][int(self.way[-1] > 0)] if self.kind != "still" else ""

    def maps(self) -> Tensor:
        """From places in the first frame to places in every frame: (t, 2, 3), the middle of the picture at 0."""
        q = torch.zeros(len(self.way), len(KINDS))
        if self.kind != "still":
            q[:, KINDS.index(self.kind)] = self.way
        return _maps(q)

    def undo(self, places: Tensor) -> Tensor:
        """Where things seen at ``places`` (t, n, 2) in [0, 1], in every frame, would be if the camera had not moved."""
        maps = self.maps()
        return torch.linalg.solve(maps[:, :, :2], (places - 0.5 - maps[:, None, :, 2]).mT).mT + 0.5

    def motion(self, fps: float) -> float:
        """Widths a second that the points of the picture move, in the mean over 25 of them."""
        line = torch.linspace(0.1, 0.9, 5) - 0.5
        points = torch.cartesian_prod(line, line)
        maps = self.maps()
        return _length(
            points @ maps[:, :, :2].mT + maps[:, None, :, 2], torch.arange(len(maps)), fps
        )


def clear(seen: Sequence[Observation], side: int = SIDE) -> Tensor:
    """Where the background is (t, 1, side, side): 1 outside of discs around all things seen in a frame and its neighbours, else 0."""
    line = (torch.arange(side) + 0.5) / side
    out = torch.ones(len(seen), 1, side, side)
    for frame, one in zip(out, seen, strict=True):
        for x0, y0, x1, y1 in (item.box for item in one.objects if item.score > SURE):
            away = torch.hypot(
                line.view(1, side) - (x0 + x1) / 2, line.view(side, 1) - (y0 + y1) / 2
            )
            frame[:, away < math.hypot(x1 - x0, y1 - y0) / 2 + 2 / SIDE] = 0
    around = torch.cat((out[:1], out, out[-1:]))
    return torch.minimum(torch.minimum(around[:-2], around[2:]), out)


def camera(frames: Tensor, background: Tensor) -> Camera:
    """The camera of a clip (t, 3, h, w) in [-1, 1] whose ``background`` (t, 1, h, w) is 1, and things are 0."""
    keys = torch.linspace(0, len(frames) - 1, min(KEYS, len(frames))).round().long()
    coarse, fine = (_Pictures.of(frames[keys], background[keys], side) for side in (COARSE, FINE))
    q = torch.zeros(
        len(KINDS), len(keys) - 1, len(KINDS)
    )  # kind, key, number: only its own number is not 0
    for pictures, steps in ((coarse, 4), (fine, 3)):
        q = _fit(pictures[:-1], pictures[1:], q, torch.zeros_like(q), steps)
    q = q.cumsum(1)
    first = fine[:1].repeated(len(keys) - 1)
    q = _fit(first, fine[1:], q, q, 3)
    # To look up between pixels smooths noise, which alone makes pictures more alike: half a pixel aside is as good as still.
    rest = (
        torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
        .unsqueeze(1)
        .expand(-1, len(keys) - 1, -1)
        / FINE
    )
    misfit, still = _misfit(first, fine[1:], q), float(_misfit(first, fine[1:], rest).min())
    best = int(misfit.argmin())
    if float(misfit[best]) > still - max(GAIN * still, CLEAR):
        return Camera("still", torch.zeros(len(frames)))
    way = torch.cat((torch.zeros(1), q[best, :, best]))
    return Camera(KINDS[best], _between(way, keys, len(frames)))


def flicker(frames: Tensor, background: Tensor, seen_by: Camera) -> float:
    """How much the background changes between frames, in the mean over its pixels, in [0, 2], after the camera is undone; nan where none
    of it is seen twice."""
    pictures = _Pictures.of(frames, background, SIDE)
    to = _whole(seen_by.maps())
    between = (to[1:] @ torch.linalg.inv(to[:-1]))[:, :2]
    difference, weight = _difference(pictures[:-1], pictures[1:], between)
    return (
        float((difference.abs().mean(1) * weight).sum() / weight.sum())
        if weight.any()
        else math.nan
    )


@dataclass(frozen=True)
class _Pictures:
    """Pictures (n, 3, s, s) with where their background is (n, 1, s, s)."""

    pixels: Tensor
    background: Tensor

    @classmethod
    def of(cls, frames: Tensor, background: Tensor, side: int) -> _Pictures:
        return cls(
            *(F.interpolate(x.float(), (side, side), mode="area") for x in (frames, background))
        )

    def __getitem__(self, index: slice) -> _Pictures:
        return _Pictures(self.pixels[index], self.background[index])

    def repeated(self, n: int) -> _Pictures:
        return _Pictures(self.pixels.repeat(n, 1, 1, 1), self.background.repeat(n, 1, 1, 1))


def _maps(q: Tensor) -> Tensor:
    """The maps (n, 2, 3) of numbers (n, 4) in the order of KINDS."""
    x, y, zoom, roll = q.unbind(1)
    cos, sin = torch.cos(roll) * zoom.exp(), torch.sin(roll) * zoom.exp()
    return torch.stack((torch.stack((cos, -sin, x), 1), torch.stack((sin, cos, y), 1)), 1)


def _whole(maps: Tensor) -> Tensor:
    """Maps (n, 2, 3) as matrices (n, 3, 3)."""
    return torch.cat((maps, torch.tensor([0.0, 0.0, 1.0]).expand(len(maps), 1, 3)), 1)


def _difference(one: _Pictures, two: _Pictures, maps: Tensor) -> tuple[Tensor, Tensor]:
    """What the second pictures, looked up where ``maps`` leads, have more than the first (n, 3, s, s), and where both are background
    (n, s, s)."""
    grid = F.affine_grid(
        maps * torch.tensor([1.0, 1.0, 2.0]), list(one.pixels.shape), align_corners=False
    )
    found = F.grid_sample(
        torch.cat((two.pixels, two.background), 1), grid, padding_mode="border", align_corners=False
    )
    both = (found[:, 3] > 0.99) & (one.background[:, 0] > 0.99) & (grid.abs() <= 1).all(-1)
    return found[:, :3] - one.pixels, both.float()


def _fit(one: _Pictures, two: _Pictures, start: Tensor, usual: Tensor, steps: int) -> Tensor:
    """The numbers (kind, n, 4) that lead from the first pictures (n) to the second: of every kind at once, one number each.

    Each step minimises sum w (d + slope dq)² + ridge (q + dq - usual)², d the difference, with the weights w = 1 / (1 + (d / s)²)² of
    Geman and McClure, and as slope the mean of both pictures' (Malis 2004).
    """
    kinds, n, side = len(start), start.shape[1], one.pixels.shape[-1]
    own = torch.eye(kinds).repeat_interleave(n, 0)  # kind x n, 4
    one, two = one.repeated(kinds), two.repeated(kinds)
    line = (torch.arange(side) + 0.5) / side - 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    flow = torch.stack(
        (torch.stack((x * 0 + 1, x * 0, x, -y)), torch.stack((x * 0, x * 0 + 1, y, x))), 1
    )  # kind, axis, s, s
    across, down = flow.repeat_interleave(n, 0)[:, :, None].unbind(1)  # kind x n, 1, s, s each
    q, ridge = start.flatten(0, 1), RIDGE * (side / SIDE) ** 2
    for _ in range(steps):
        difference, weight = _difference(one, two, _maps(q))
        dx, dy = _slopes(one.pixels + difference / 2)
        slope = dx * across + dy * down
        weight = weight / (1 + (difference.abs().amax(1) / SCATTER) ** 2) ** 2
        pull = (weight[:, None] * slope * difference).sum((1, 2, 3)) + ridge * (
            (q - usual.flatten(0, 1)) * own
        ).sum(1)
        stiff = (weight[:, None] * slope**2).sum((1, 2, 3)) + ridge
        q = q - (pull / stiff).clamp(-0.1, 0.1)[:, None] * own
    return q.unflatten(0, (kinds, n))


def _slopes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes to the right and down (n, 3, s, s each), a width."""
    padded, side = F.pad(pixels, (1, 1, 1, 1), mode="replicate"), pixels.shape[-1]
    return (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * side / 2, (
        padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    ) * side / 2


def _misfit(one: _Pictures, two: _Pictures, q: Tensor) -> Tensor:
    """How unlike the background is under the numbers (kind, n, 4): (kind,) in [0, 1]."""
    kinds = len(q)
    difference, weight = _difference(
        one.repeated(kinds), two.repeated(kinds), _maps(q.flatten(0, 1))
    )
    square = difference.abs().amax(1) ** 2
    unlike = (weight * square / (square + SCATTER**2)).sum((1, 2)).view(kinds, -1).sum(1)
    return unlike / weight.sum((1, 2)).view(kinds, -1).sum(1).clamp(min=1)


def _between(way: Tensor, keys: Tensor, n: int) -> Tensor:
    """Values at ``keys`` (k,), and on straight lines between them: (n,)."""
    at = torch.arange(n)
    right = torch.searchsorted(keys, at).clamp(1, len(keys) - 1)
    start, stop = keys[right - 1], keys[right]
    return torch.lerp(way[right - 1], way[right], (at - start) / (stop - start))


# ------------------------------------------------------------------------------------------------------------------ things


@dataclass(frozen=True)
class Track:
    """One thing through a clip: the numbers of the ``frames`` (k,) in which it is seen, its ``boxes`` (k, 4: x0 y0 x1 y1 in the unit
    square) and its ``colors`` there."""

    frames: Tensor
    boxes: Tensor
    colors: tuple[str | None, ...]

    @property
    def centres(self) -> Tensor:
        """Its middles (k, 2)."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def sizes(self) -> Tensor:
        """The longer sides of its boxes (k,)."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).amax(1)

    def steady(self, seen_by: Camera) -> Track:
        """The same as a camera at rest would see it: boxes keep their shape, and lose the zoom."""
        maps = seen_by.maps()
        centres = seen_by.undo(_spread(self.centres, self.frames, len(maps))[:, None])[
            self.frames, 0
        ]
        half = (
            (self.boxes[:, 2:] - self.boxes[:, :2])
            / 2
            / torch.linalg.det(maps[self.frames, :, :2]).sqrt()[:, None]
        )
        return replace(self, boxes=torch.cat((centres - half, centres + half), 1))

    def motion(self, fps: float) -> float:
        """Widths a second that the corners of its box go in the mean."""
        x0, y0, x1, y1 = self.boxes.unbind(1)
        corners = torch.stack(
            (
                torch.stack((x0, y0), 1),
                torch.stack((x1, y0), 1),
                torch.stack((x0, y1), 1),
                torch.stack((x1, y1), 1),
            ),
            1,
        )
        return _length(corners, self.frames, fps)


def tracks(seen: Sequence[Observation], concept: str) -> list[Track]:
    """Everything of a concept that is seen in the frames, each thing by itself, the one seen in most frames first.

    From frame to frame the nearest are linked first, and what was just seen before what was lost; that may come back, the farther away
    the longer it was gone.
    """
    paths: list[list[tuple[int, Detection]]] = []
    for frame, found in enumerate(_confirmed(seen, concept)):
        gone = [frame - path[-1][0] for path in paths]
        pairs = (
            (gone[i] > 2, _apart(path[-1][1], item), i, k)
            for i, path in enumerate(paths)
            for k, item in enumerate(found)
        )
        grown: set[int] = set()
        taken: set[int] = set()
        for _, away, i, k in sorted(pairs):
            if i not in grown and k not in taken and away <= JUMP * gone[i]:
                paths[i].append((frame, found[k]))
                grown.add(i)
                taken.add(k)
        paths += [[(frame, item)] for k, item in enumerate(found) if k not in taken]
    return [_track(path) for path in sorted(paths, key=len, reverse=True)]


def _confirmed(seen: Sequence[Observation], concept: str) -> list[list[Detection]]:
    """The sure detections of a concept in every frame, less those that have none near in the two frames before and after: errors."""
    sure = [
        [item for item in one.objects if item.concept == concept and item.score > SURE]
        for one in seen
    ]

    def again(item: Detection, frame: int) -> bool:
        around = [
            other for k in (-2, -1, 1, 2) if 0 <= frame + k < len(sure) for other in sure[frame + k]
        ]
        return any(_apart(item, other) <= 2 * JUMP for other in around)

    return [[item for item in found if again(item, frame)] for frame, found in enumerate(sure)]


def _track(path: Sequence[tuple[int, Detection]]) -> Track:
    frames, objects = zip(*path, strict=True)
    return Track(
        torch.tensor(frames),
        torch.tensor([item.box for item in objects]),
        tuple(item.color for item in objects),
    )


def _apart(one: Detection, two: Detection) -> float:
    """How far the middles of two boxes are apart."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = one.box, two.box
    return math.hypot(x0 + x1 - u0 - u1, y0 + y1 - v0 - v1) / 2


def _spread(values: Tensor, frames: Tensor, n: int) -> Tensor:
    """Values (k, ...) at their frames among n, 0 elsewhere."""
    return torch.zeros(n, *values.shape[1:]).index_copy(0, frames, values)


def _length(points: Tensor, frames: Tensor, fps: float) -> float:
    """Widths a second that points (k, n, 2) go in the mean, on lines between places STEP apart in time."""
    kept, last = [0], int(frames[0])
    for i, frame in enumerate(frames.tolist()):
        if frame - last >= STEP * fps or (i == len(frames) - 1 and frame > last):
            kept.append(i)
            last = frame
    seconds = float(frames[-1] - frames[0]) / fps
    return float(points[kept].diff(dim=0).norm(dim=-1).mean(1).sum()) / seconds if seconds else 0.0


def spin(frames: Tensor, track: Track, fps: float) -> float:
    """Degrees a second, counter-clockwise, that a thing turns in its place; 0 where it does not, or cannot be seen to.

    Circles of pixels around its middle are compared with the same a moment later, by their correlation over all turns; what does not
    change through the clip is left out, and so are the background and a thing at rest.
    """
    lag = max(1, round(fps * LAG))
    if len(frames) <= lag or len(track.frames) == 0:
        return 0.0
    radii = (
        (torch.arange(RINGS) + 1)
        / RINGS
        * (track.boxes[:, 2:] - track.boxes[:, :2]).norm(dim=1).median()
        / 2
    )
    angle = torch.arange(RING) * 2 * math.pi / RING
    points = (
        torch.stack((radii[:, None] * angle.cos(), radii[:, None] * angle.sin()), -1)
        + track.centres.median(0).values
    )
    moving = frames.float() - frames.float().median(0).values
    rings = (
        F.grid_sample(moving, (points * 2 - 1).expand(len(frames), -1, -1, -1), align_corners=False)
        * radii.sqrt()[:, None]
    )
    waves = torch.fft.rfft(rings)  # t 3 rings waves
    alike = torch.fft.irfft((waves[:-lag].conj() * waves[lag:]).sum((0, 1, 2)), n=RING)
    energy = float((rings[:-lag].square().sum() * rings[lag:].square().sum()).sqrt())
    around = alike[torch.arange(-FARTHEST - 1, FARTHEST + 2) % RING]
    best = int(around[1:-1].argmax()) + 1
    if energy < 1e-6 or float(around[best]) < 0.3 * energy:
        return 0.0
    before, top, after = around[best - 1 : best + 2].tolist()
    peak = (
        best - FARTHEST - 1 + (before - after) / (2 * min(before - 2 * top + after, -1e-9))
    )  # of the parabola through three
    return -peak * 360 / RING * fps / lag
