"""Verdicts on videos: each part of a prompt is judged by tracks and camera motion.

A picture verifier observes every frame. Its detections are linked into tracks, and the camera is
estimated from the background. Each part of a prompt is judged separately: class and count, colour,
direction, speed, path, camera, and the identity of an object that was out of sight. A video is
right if no part that its prompt asks for is wrong. Rotating solids are left out, because verifiers
have no class for cubes.

Words state ranges. "slowly" is any speed that the world calls so, with a tolerance of 40 %; a pan
has the length of the world's pans, with a tolerance of 30 %. A part without a word in the prompt is
not judged; a camera motion that the prompt does not name is compensated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from kalpana.evaluate.verifiers.observations import Detection, Observation, best
from kalpana.evaluate.video import motion
from kalpana.evaluate.video.motion import Camera, Track
from kalpana.evaluate.video.suite import PACES, Video, VideoPrompt
from kalpana.types import KalpanaError
from kalpana.world.scene import Group
from kalpana.world.video import DIRECTIONS, VideoScene

STEADY = 0.7  # least share of right frames: a verifier errs in some
PRESENT = 0.25  # the same for an object that leaves the picture or is hidden on its way
SPEED = 0.4  # relative tolerance of speeds
# Ranges of the world's camera motions, as motion.Camera measures them.
AMOUNTS = {
    "x": (0.15, 0.3),
    "y": (0.15, 0.3),
    "zoom": (math.log(1.4), math.log(1.9)),
    "roll": (math.radians(25), math.radians(60)),
}
AMOUNT = 0.3  # relative tolerance of AMOUNTS
MOVED = 0.05  # widths: a shorter displacement is no motion
HOP = 0.1  # widths: least height of a hop; the world's are at least 0.15
GROWN = 1.3  # least ratio of sizes; the world's is at least 1.6
SPUN = 20.0  # least degrees a second of a rotation; the world's are at least 60
PLACE = 0.2  # widths: an object nearer than this to a place has reached it
# Position of an object's centre beyond which it counts as out of view, and its least position at
# the last detection before it is lost.
AWAY, EDGE = (0.95, 0.7)
# Widths a second below which a video is still; the world's slowest pans have 0.05.
DYNAMIC = 0.02


@dataclass(frozen=True)
class Verdict:
    """The verdict on a video by part (None: the prompt does not ask for it), and its measurements.

    ``share``: the share of frames with the right class and count; ``flicker``: of the background,
    see motion.flicker; ``dynamic``: the dynamic degree, the speed of objects and camera in widths
    a second.
    """

    objects: bool  # class and count
    colors: bool | None
    direction: bool | None  # of a motion or of a rotation
    speed: bool | None
    path: bool | None  # hops, grows, leaves and returns, passes behind, or changes places
    camera: bool | None  # kind and direction of the camera motion
    amount: bool | None  # the length, ratio or angle of a camera motion of the right kind
    identity: bool | None  # an object that was out of sight returns as the same
    moving: bool  # the video is not still
    share: float
    flicker: float
    dynamic: float

    def parts(self) -> dict[str, bool]:
        """The parts that the prompt asks for."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    @property
    def right(self) -> bool:
        """Whether all parts that the prompt asks for are right."""
        return all(self.parts().values())


MEASURED = {
    "share": "frames with the right things",
    "flicker": "flicker",
    "dynamic": "dynamic degree",
}
PARTS = tuple(field.name for field in fields(Verdict) if field.name not in MEASURED)


def right(prompt: VideoPrompt, frames: Tensor, fps: float, seen: Sequence[Observation]) -> Verdict:
    """The verdict on a video (t, 3, h, w) in [-1, 1] with one observation ``seen`` for each frame.

    Raises KalpanaError if the shape is not that of a video, or if observations are missing.
    """
    frames = Video(frames, fps).frames
    if len(seen) != len(frames):
        raise KalpanaError(
            f"{len(frames)} frames, but {len(seen)} were looked at: give what is seen in each"
        )
    background = motion.clear(seen)
    camera = motion.camera(frames, background)
    paths = [
        track.steady(camera)
        for group in prompt.groups
        for track in motion.tracks(seen, group.concept)[:1]
    ]
    whole = len(paths) == len(prompt.groups)
    spin = motion.spin(frames, paths[0], fps) if whole and prompt.video.event == "turn" else 0.0
    measured = _Motion(prompt, len(frames), fps, paths, spin)
    share, colors = _share(prompt, seen), _colors(prompt, seen)
    asked = {
        part: whole and holds(measured)
        for part, holds in JUDGES[prompt.video.event].items()
        if part != "speed" or prompt.pace
    }
    filmed, amount = _filmed(prompt.video, camera)
    speed = float(np.mean([track.motion(fps) for track in paths] or [0.0]))
    dynamic = camera.motion(fps) + speed + measured.turning
    return Verdict(
        objects=share >= STEADY and whole,
        colors=colors,
        direction=asked.get("direction"),
        speed=asked.get("speed"),
        path=asked.get("path"),
        camera=filmed,
        amount=amount,
        identity=asked.get("identity"),
        moving=dynamic >= DYNAMIC,
        share=share,
        flicker=motion.flicker(frames, background, camera),
        dynamic=dynamic,
    )


def _share(prompt: VideoPrompt, seen: Sequence[Observation]) -> float:
    """The share of frames with the right count of each group, in [0, 1].

    An object that leaves or hides may be missing, but must be in PRESENT of the frames.
    """
    counts = torch.tensor([[len(_surest(one, group)) for group in prompt.groups] for one in seen])
    wanted = torch.tensor([group.count for group in prompt.groups])
    correct = counts == wanted
    if prompt.video.event in ("return", "hide"):
        if (counts[:, 0] > 0).float().mean() < PRESENT:
            return 0.0
        correct[:, 0] |= counts[:, 0] < wanted[0]
    return float(correct.all(1).float().mean())


def _colors(prompt: VideoPrompt, seen: Sequence[Observation]) -> bool | None:
    """Whether each group has its colour in the share STEADY of its detections; None: none named."""
    correct = []
    for group in prompt.groups:
        if group.color is not None:
            found = [_surest(one, group)[: group.count] for one in seen]
            colored = [item.color == group.color for objects in found for item in objects]
            correct.append(bool(colored) and sum(colored) / len(colored) >= STEADY)
    return all(correct) if correct else None


def _surest(seen: Observation, group: Group) -> list[Detection]:
    """The detections of a group above motion.SURE, by falling score."""
    return [item for item in best(seen.objects, group.concept) if item.score > motion.SURE]


@dataclass(frozen=True)
class _Motion:
    """The measured motion in a video of ``frames`` frames.

    ``paths`` are the camera-compensated tracks of its objects; ``spin`` is the angular speed of the
    first object in degrees a second, counter-clockwise.
    """

    prompt: VideoPrompt
    frames: int
    fps: float
    paths: list[Track]
    spin: float

    @property
    def turning(self) -> float:
        """The speed of the box's corners by the rotation, in widths a second."""
        if not self.paths:
            return 0.0
        sides = self.paths[0].boxes[:, 2:] - self.paths[0].boxes[:, :2]
        return abs(math.radians(self.spin)) * float(sides.norm(dim=1).median() / 2)

    @property
    def way(self) -> Tensor:
        """The displacement (2,) of the first object from its first to its last detection."""
        return self.paths[0].centres[-1] - self.paths[0].centres[0]

    @property
    def away(self) -> Tensor:
        """The displacement (2,) of the first object to its farthest detection."""
        ways = self.paths[0].centres - self.paths[0].centres[0]
        return ways[ways.norm(dim=1).argmax()]

    @property
    def gap(self) -> int:
        """The index of the detection before the longest gap; -1 without a gap."""
        missed = self.paths[0].frames.diff() - 1
        return int(missed.argmax()) if missed.any() else -1


def _along(way: Tensor, word: str) -> bool:
    """Whether a displacement (2,) has the named direction, within 45 degrees."""
    ux, uy = DIRECTIONS[word]
    along, across = float(way[0] * ux + way[1] * uy), abs(float(way[0] * uy - way[1] * ux))
    return along >= max(across, MOVED)


def _goes(measured: _Motion) -> bool:
    return _along(measured.way, measured.prompt.video.word)


def _leaves(measured: _Motion) -> bool:
    return _along(measured.away, measured.prompt.video.word)


def _turns(measured: _Motion) -> bool:
    clockwise = measured.prompt.video.word == "clockwise"
    return abs(measured.spin) >= SPUN and (measured.spin < 0) == clockwise


def _paced(measured: _Motion) -> bool:
    frames = measured.paths[0].frames
    speed = float(measured.way.norm()) * measured.fps / max(int(frames[-1] - frames[0]), 1)
    low, high = PACES[measured.prompt.pace]
    return (1 - SPEED) * low <= speed <= (1 + SPEED) * high


def _hops(measured: _Motion) -> bool:
    """Whether the object goes up by HOP and down again at least once."""
    rising, turned = False, math.inf
    for height in (-measured.paths[0].centres[:, 1]).tolist():
        turned = max(turned, height) if rising else min(turned, height)
        if rising and turned - height >= HOP:
            return True
        if not rising and height - turned >= HOP:
            rising, turned = True, height
    return False


def _bounces(measured: _Motion) -> bool:
    return _hops(measured) and abs(float(measured.way[0])) < PLACE


def _grows(measured: _Motion) -> bool:
    sizes = measured.paths[0].sizes
    return float(sizes[-1] / sizes[0]) >= GROWN


def _shrinks(measured: _Motion) -> bool:
    sizes = measured.paths[0].sizes
    return float(sizes[0] / sizes[-1]) >= GROWN


def _returns(measured: _Motion) -> bool:
    """Whether the object leaves at an edge and ends where it began."""
    axis = 0 if DIRECTIONS[measured.prompt.video.word][0] else 1
    place = (measured.paths[0].centres[0] + measured.away)[axis].item()
    out = max(place, 1 - place)
    left = out >= AWAY or (measured.gap >= 0 and out >= EDGE)
    return left and float(measured.way.norm()) <= PLACE


def _hides(measured: _Motion) -> bool:
    """Whether the object is hidden within the other's width and visible on both sides of it."""
    (x0, _), *_, (x1, _) = measured.paths[0].centres.tolist()
    left, _, right, _ = measured.paths[1].boxes.median(0).values.tolist()
    if measured.gap < 0:
        return False
    lost, found = measured.paths[0].centres[measured.gap : measured.gap + 2, 0].tolist()
    return left <= (lost + found) / 2 <= right and min(x0, x1) < (left + right) / 2 < max(x0, x1)


def _swaps(measured: _Motion) -> bool:
    (a, b), (c, d) = ((path.centres[0], path.centres[-1]) for path in measured.paths)
    return bool((b - c).norm() <= PLACE and (d - a).norm() <= PLACE and (a - c).norm() > PLACE)


def _same(measured: _Motion) -> bool:
    """Whether the object is present at the start and the end, with the same colour if known."""
    path, cut = measured.paths[0], measured.gap + 1 or len(measured.paths[0].frames) // 2
    before, after = (_usual(colors) for colors in (path.colors[:cut], path.colors[cut:]))
    last = (1 - PRESENT) * (measured.frames - 1)
    ends = path.frames[0] < PRESENT * measured.frames and path.frames[-1] >= last
    return bool(ends) and (before == after or None in (before, after))


def _usual(colors: Sequence[str | None]) -> str | None:
    """The most frequent colour."""
    return Counter(colors).most_common(1)[0][0] if colors else None


def _filmed(video: VideoScene, camera: Camera) -> tuple[bool | None, bool | None]:
    """Whether the camera motion is the video's, and whether it is and its amount is in the world's
    range; None where the video has another event."""
    if video.event != "camera":
        return None, None
    if camera.word != video.word:
        return False, False
    low, high = AMOUNTS[camera.kind]
    return True, (1 - AMOUNT) * low <= abs(float(camera.way[-1])) <= (1 + AMOUNT) * high


JUDGES: dict[str, dict[str, Callable[[_Motion], bool]]] = {
    "move": {"direction": _goes, "speed": _paced},
    "arc": {"direction": _goes, "speed": _paced, "path": _hops},
    "bounce": {"path": _bounces},
    "grow": {"path": _grows},
    "shrink": {"path": _shrinks},
    "turn": {"direction": _turns},
    "return": {"direction": _leaves, "path": _returns, "identity": _same},
    "hide": {"direction": _goes, "path": _hides, "identity": _same},
    "swap": {"path": _swaps},
    "camera": {},
}
