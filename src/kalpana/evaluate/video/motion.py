"""Motion in a video: the camera, from the background alone, and object tracks, from detections.

Lengths are in widths of the picture, y points down, videos are square. A camera pans along one
axis, zooms or rolls, one of these at a time, like the cameras of ``world/video/``. Each motion is
fitted to the background by Gauss-Newton steps, coarse to fine (Lucas and Kanade 1981; Bergen et al.
1992); the one that aligns all frames best with the first is returned.
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

KINDS = ("x", "y", "zoom", "roll")  # the motions of the picture, one parameter each
# Camera motion for a falling and for a rising parameter; the picture moves the other way.
WORDS = {
    "x": ("pan right", "pan left"),
    "y": ("pan down", "pan up"),
    "zoom": ("zoom out", "zoom in"),
    "roll": ("clockwise", "counter-clockwise"),
}
SIDE = 64  # pixels: side to which frames are resized to measure flicker
COARSE, FINE = 16, 32  # pixels: sides of the frames in the camera fit
KEYS = 9  # evenly spaced frames of a video in the camera fit
# Scale of the robust weight: differences of pixels (in [-1, 1]) above it get little weight, since
# the two pixels probably show different objects.
SCATTER = 0.2
# (0.05 / 0.1)²: pixel noise over a usual shift. Where the background has no texture, the prior
# keeps the parameter at its usual value.
RIDGE = 0.25
GAIN = 0.15  # share of a still camera's misfit that a moving camera must remove,
CLEAR = 0.004  # and its least amount, so that an encoder's noise is not taken for a motion
SURE = THRESHOLDS.counting  # score above which a detection counts
JUMP = 0.25  # largest step of an object between two frames, in widths
# Seconds between the points of a path whose distances are summed: a shorter step would sum the
# jitter of the boxes.
STEP = 0.25
LAG = 0.125  # seconds between the two frames that are compared to measure a rotation
# Points on a circle around an object, number of circles, and the largest rotation within LAG, in
# points.
RING, RINGS, FARTHEST = (72, 12, 12)


# ------------------------------------------------------------------------------------------- camera


@dataclass(frozen=True)
class Camera:
    """The motion of a camera: ``kind`` is "still" or one of KINDS.

    ``way`` (t,) is the displacement of the picture from the first frame: widths to the right (x) or
    down (y), the logarithm of the zoom, or radians clockwise (roll).
    """

    kind: str
    way: Tensor

    @property
    def word(self) -> str:
        """One of world.video.CAMERAS; "" for a still camera."""
        return WORDS[self.kind][int(self.way[-1] > 0)] if self.kind != "still" else ""

    def maps(self) -> Tensor:
        """Affine maps (t, 2, 3) from points of the first frame to each frame; the centre is 0."""
        q = torch.zeros(len(self.way), len(KINDS))
        if self.kind != "still":
            q[:, KINDS.index(self.kind)] = self.way
        return _maps(q)

    def undo(self, places: Tensor) -> Tensor:
        """Camera-compensated positions (t, n, 2) of the points ``places`` (t, n, 2) in [0, 1]."""
        maps = self.maps()
        return torch.linalg.solve(maps[:, :, :2], (places - 0.5 - maps[:, None, :, 2]).mT).mT + 0.5

    def motion(self, fps: float) -> float:
        """Mean speed of 25 points of the picture, in widths a second."""
        line = torch.linspace(0.1, 0.9, 5) - 0.5
        points = torch.cartesian_prod(line, line)
        maps = self.maps()
        return _length(
            points @ maps[:, :, :2].mT + maps[:, None, :, 2], torch.arange(len(maps)), fps
        )


def clear(seen: Sequence[Observation], side: int = SIDE) -> Tensor:
    """The background mask (t, 1, side, side): 0 in discs around detections, else 1.

    Detections of a frame and of its two neighbours are masked.
    """
    line = (torch.arange(side) + 0.5) / side
    out = torch.ones(len(seen), 1, side, side)
    for frame, one in zip(out, seen, strict=True):
        for x0, y0, x1, y1 in (item.box for item in one.objects if item.score > SURE):
            distance = torch.hypot(
                line.view(1, side) - (x0 + x1) / 2, line.view(side, 1) - (y0 + y1) / 2
            )
            frame[:, distance < math.hypot(x1 - x0, y1 - y0) / 2 + 2 / SIDE] = 0
    around = torch.cat((out[:1], out, out[-1:]))
    return torch.minimum(torch.minimum(around[:-2], around[2:]), out)


def camera(frames: Tensor, background: Tensor) -> Camera:
    """The camera motion of a video (t, 3, h, w) in [-1, 1].

    ``background`` (t, 1, h, w) is 1 in the background and 0 on objects.
    """
    keys = torch.linspace(0, len(frames) - 1, min(KEYS, len(frames))).round().long()
    coarse, fine = (_Pictures.of(frames[keys], background[keys], side) for side in (COARSE, FINE))
    # Shape: kind, key, parameter. Only a kind's own parameter differs from 0.
    q = torch.zeros(len(KINDS), len(keys) - 1, len(KINDS))
    for pictures, steps in ((coarse, 4), (fine, 3)):
        q = _fit(pictures[:-1], pictures[1:], q, torch.zeros_like(q), steps)
    q = q.cumsum(1)
    first = fine[:1].repeated(len(keys) - 1)
    q = _fit(first, fine[1:], q, q, 3)
    # Interpolation between pixels smooths noise, and this alone makes pictures more similar. A
    # shift of half a pixel therefore also counts as still.
    shifts = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    rest = shifts.unsqueeze(1).expand(-1, len(keys) - 1, -1) / FINE
    misfit, still = _misfit(first, fine[1:], q), float(_misfit(first, fine[1:], rest).min())
    best = int(misfit.argmin())
    if float(misfit[best]) > still - max(GAIN * still, CLEAR):
        return Camera("still", torch.zeros(len(frames)))
    way = torch.cat((torch.zeros(1), q[best, :, best]))
    return Camera(KINDS[best], _between(way, keys, len(frames)))


def flicker(frames: Tensor, background: Tensor, seen_by: Camera) -> float:
    """Mean absolute change of background pixels between frames, camera compensated; in [0, 2].

    nan if no part of the background is visible in two consecutive frames.
    """
    pictures = _Pictures.of(frames, background, SIDE)
    to = _whole(seen_by.maps())
    between = (to[1:] @ torch.linalg.inv(to[:-1]))[:, :2]
    difference, weight = _difference(pictures[:-1], pictures[1:], between)
    if not weight.any():
        return math.nan
    return float((difference.abs().mean(1) * weight).sum() / weight.sum())


@dataclass(frozen=True)
class _Pictures:
    """Pictures (n, 3, s, s) with background masks (n, 1, s, s)."""

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
    """Affine maps (n, 2, 3) of parameters (n, 4) in the order of KINDS."""
    x, y, zoom, roll = q.unbind(1)
    cos, sin = torch.cos(roll) * zoom.exp(), torch.sin(roll) * zoom.exp()
    return torch.stack((torch.stack((cos, -sin, x), 1), torch.stack((sin, cos, y), 1)), 1)


def _whole(maps: Tensor) -> Tensor:
    """Affine maps (n, 2, 3) as matrices (n, 3, 3)."""
    return torch.cat((maps, torch.tensor([0.0, 0.0, 1.0]).expand(len(maps), 1, 3)), 1)


def _difference(one: _Pictures, two: _Pictures, maps: Tensor) -> tuple[Tensor, Tensor]:
    """The second pictures, warped by ``maps``, minus the first: (n, 3, s, s), and a mask (n, s, s).

    The mask is 1 where both are background.
    """
    grid = F.affine_grid(
        maps * torch.tensor([1.0, 1.0, 2.0]), list(one.pixels.shape), align_corners=False
    )
    found = F.grid_sample(
        torch.cat((two.pixels, two.background), 1), grid, padding_mode="border", align_corners=False
    )
    both = (found[:, 3] > 0.99) & (one.background[:, 0] > 0.99) & (grid.abs() <= 1).all(-1)
    return found[:, :3] - one.pixels, both.float()


def _fit(one: _Pictures, two: _Pictures, start: Tensor, usual: Tensor, steps: int) -> Tensor:
    """Gauss-Newton fit of the parameters (kind, n, 4) from the first n pictures to the second.

    All kinds are fitted at once, with one parameter each. Each step minimises
    sum w (d + slope dq)² + ridge (q + dq - usual)² with the difference d and the weights
    w = 1 / (1 + (d / s)²)² of Geman and McClure; slope is the mean of both pictures' (Malis 2004).
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
        prior = ((q - usual.flatten(0, 1)) * own).sum(1)
        pull = (weight[:, None] * slope * difference).sum((1, 2, 3)) + ridge * prior
        stiff = (weight[:, None] * slope**2).sum((1, 2, 3)) + ridge
        q = q - (pull / stiff).clamp(-0.1, 0.1)[:, None] * own
    return q.unflatten(0, (kinds, n))


def _slopes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives to the right and down (n, 3, s, s each), per width."""
    padded, side = F.pad(pixels, (1, 1, 1, 1), mode="replicate"), pixels.shape[-1]
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * side / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * side / 2
    return dx, dy


def _misfit(one: _Pictures, two: _Pictures, q: Tensor) -> Tensor:
    """The robust misfit of the background under the parameters (kind, n, 4): (kind,) in [0, 1]."""
    kinds = len(q)
    difference, weight = _difference(
        one.repeated(kinds), two.repeated(kinds), _maps(q.flatten(0, 1))
    )
    square = difference.abs().amax(1) ** 2
    misfit = (weight * square / (square + SCATTER**2)).sum((1, 2)).view(kinds, -1).sum(1)
    return misfit / weight.sum((1, 2)).view(kinds, -1).sum(1).clamp(min=1)


def _between(way: Tensor, keys: Tensor, n: int) -> Tensor:
    """Linear interpolation (n,) of the values ``way`` (k,) at the frames ``keys`` (k,)."""
    at = torch.arange(n)
    right = torch.searchsorted(keys, at).clamp(1, len(keys) - 1)
    start, stop = keys[right - 1], keys[right]
    return torch.lerp(way[right - 1], way[right], (at - start) / (stop - start))


# ------------------------------------------------------------------------------------------ objects


@dataclass(frozen=True)
class Track:
    """One object through a video.

    ``frames`` (k,) are the indices of the frames with a detection, ``boxes`` (k, 4) its boxes
    there, x0 y0 x1 y1 in the unit square, and ``colors`` its colours there.
    """

    frames: Tensor
    boxes: Tensor
    colors: tuple[str | None, ...]

    @property
    def centres(self) -> Tensor:
        """The centres of the boxes (k, 2)."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def sizes(self) -> Tensor:
        """The longer sides of the boxes (k,)."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).amax(1)

    def steady(self, seen_by: Camera) -> Track:
        """The camera-compensated track; boxes keep their shape, and the zoom is removed."""
        maps = seen_by.maps()
        places = _spread(self.centres, self.frames, len(maps))[:, None]
        centres = seen_by.undo(places)[self.frames, 0]
        zoom = torch.linalg.det(maps[self.frames, :, :2]).sqrt()[:, None]
        half = (self.boxes[:, 2:] - self.boxes[:, :2]) / 2 / zoom
        return replace(self, boxes=torch.cat((centres - half, centres + half), 1))

    def motion(self, fps: float) -> float:
        """Mean speed of the corners of the box, in widths a second."""
        x0, y0, x1, y1 = self.boxes.unbind(1)
        points = ((x0, y0), (x1, y0), (x0, y1), (x1, y1))
        corners = torch.stack([torch.stack(point, 1) for point in points], 1)
        return _length(corners, self.frames, fps)


def tracks(seen: Sequence[Observation], concept: str) -> list[Track]:
    """The tracks of all objects of a concept, by falling number of frames.

    From frame to frame the nearest detections are linked first, and objects of the last two frames
    before lost ones. A lost object may return at a distance that grows with the time it was lost.
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
        for _, distance, i, k in sorted(pairs):
            if i not in grown and k not in taken and distance <= JUMP * gone[i]:
                paths[i].append((frame, found[k]))
                grown.add(i)
                taken.add(k)
        paths += [[(frame, item)] for k, item in enumerate(found) if k not in taken]
    return [_track(path) for path in sorted(paths, key=len, reverse=True)]


def _confirmed(seen: Sequence[Observation], concept: str) -> list[list[Detection]]:
    """The detections of a concept above SURE in every frame, without isolated ones.

    A detection without a near one in the two frames before and after is taken for an error.
    """
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
    """The distance of the centres of two boxes."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = one.box, two.box
    return math.hypot(x0 + x1 - u0 - u1, y0 + y1 - v0 - v1) / 2


def _spread(values: Tensor, frames: Tensor, n: int) -> Tensor:
    """Values (k, ...) at their frames among n, 0 elsewhere: (n, ...)."""
    return torch.zeros(n, *values.shape[1:]).index_copy(0, frames, values)


def _length(points: Tensor, frames: Tensor, fps: float) -> float:
    """Mean speed of points (k, n, 2) in widths a second, on lines between positions STEP apart."""
    kept, last = [0], int(frames[0])
    for i, frame in enumerate(frames.tolist()):
        if frame - last >= STEP * fps or (i == len(frames) - 1 and frame > last):
            kept.append(i)
            last = frame
    seconds = float(frames[-1] - frames[0]) / fps
    return float(points[kept].diff(dim=0).norm(dim=-1).mean(1).sum()) / seconds if seconds else 0.0


def spin(frames: Tensor, track: Track, fps: float) -> float:
    """Angular speed of an object about its centre, in degrees a second, counter-clockwise.

    0 if it does not rotate, or if no rotation can be measured. Circles of pixels around the centre
    are correlated over all rotations with the same circles LAG later. The median over time is
    subtracted first, which removes the background and objects at rest.
    """
    lag = max(1, round(fps * LAG))
    if len(frames) <= lag or len(track.frames) == 0:
        return 0.0
    diagonal = (track.boxes[:, 2:] - track.boxes[:, :2]).norm(dim=1).median()
    radii = (torch.arange(RINGS) + 1) / RINGS * diagonal / 2
    angle = torch.arange(RING) * 2 * math.pi / RING
    circles = torch.stack((radii[:, None] * angle.cos(), radii[:, None] * angle.sin()), -1)
    points = circles + track.centres.median(0).values
    moving = frames.float() - frames.float().median(0).values
    places = (points * 2 - 1).expand(len(frames), -1, -1, -1)
    rings = F.grid_sample(moving, places, align_corners=False) * radii.sqrt()[:, None]
    spectrum = torch.fft.rfft(rings)  # t 3 rings frequencies
    product = (spectrum[:-lag].conj() * spectrum[lag:]).sum((0, 1, 2))
    correlation = torch.fft.irfft(product, n=RING)
    energy = float((rings[:-lag].square().sum() * rings[lag:].square().sum()).sqrt())
    around = correlation[torch.arange(-FARTHEST - 1, FARTHEST + 2) % RING]
    best = int(around[1:-1].argmax()) + 1
    if energy < 1e-6 or float(around[best]) < 0.3 * energy:
        return 0.0
    before, top, after = around[best - 1 : best + 2].tolist()
    # The peak of the parabola through three values.
    peak = best - FARTHEST - 1 + (before - after) / (2 * min(before - 2 * top + after, -1e-9))
    return -peak * 360 / RING * fps / lag
