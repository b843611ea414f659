"""Video accuracy on Clips-200: verdicts on videos, one for each prompt, and the report.

A picture verifier observes every frame. Its detections are linked into tracks, and the camera is
estimated from the background. Each part of a prompt is judged separately: class and count, colour,
direction, speed, path, camera, and the identity of an object that was out of sight. A video is
right if no part that its prompt asks for is wrong. Rotating solids are left out, because verifiers
have no class for cubes.

``python -m kalpana.evaluate.video.scores VERIFIER`` scores the true videos: the ceiling. Where a
verifier misses a part there, it cannot judge a model on it.

Words state ranges. "slowly" is any speed that the world calls so, with a tolerance of 40 %; a pan
has the length of the world's pans, with a tolerance of 30 %. A part without a word in the prompt is
not judged; a camera motion that the prompt does not name is compensated.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kalpana.evaluate import score
from kalpana.evaluate.run import Progress, boxed, exchanged, first, progress_to_stderr
from kalpana.evaluate.score import RESAMPLES, Share, Table
from kalpana.evaluate.verifiers.observations import Detection, Observation, Verifier, best
from kalpana.evaluate.verifiers.verifier import DetectorVerifier
from kalpana.evaluate.video import motion
from kalpana.evaluate.video.motion import Camera, Track
from kalpana.evaluate.video.suite import PACES, ClipPrompt, Video, load, truth
from kalpana.media import decode_clip, grid, read_picture, to_images, to_pixels, write
from kalpana.types import KalpanaError
from kalpana.world.scene import Group
from kalpana.world.sheet import captioned
from kalpana.world.video import DIRECTIONS, VideoScene

BATCH = 64  # frames in a verifier batch
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
SHEET = 4  # right videos of each task on the sheet, and as many wrong ones


# ------------------------------------------------------------------------------------------ verdict


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
    camera: bool | None  # kind and amount of the camera motion
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


def right(prompt: ClipPrompt, frames: Tensor, fps: float, seen: Sequence[Observation]) -> Verdict:
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
    spin = motion.spin(frames, paths[0], fps) if whole and prompt.clip.event == "turn" else 0.0
    measured = _Motion(prompt, len(frames), fps, paths, spin)
    share, colors = _share(prompt, seen), _colors(prompt, seen)
    asked = {
        part: whole and holds(measured)
        for part, holds in JUDGES[prompt.clip.event].items()
        if part != "speed" or prompt.pace
    }
    speed = float(np.mean([track.motion(fps) for track in paths] or [0.0]))
    dynamic = camera.motion(fps) + speed + measured.turning
    return Verdict(
        objects=share >= STEADY and whole,
        colors=colors,
        direction=asked.get("direction"),
        speed=asked.get("speed"),
        path=asked.get("path"),
        camera=_filmed(prompt.clip, camera) if prompt.clip.event == "camera" else None,
        identity=asked.get("identity"),
        moving=dynamic >= DYNAMIC,
        share=share,
        flicker=motion.flicker(frames, background, camera),
        dynamic=dynamic,
    )


def _share(prompt: ClipPrompt, seen: Sequence[Observation]) -> float:
    """The share of frames with the right count of each group, in [0, 1].

    An object that leaves or hides may be missing, but must be in PRESENT of the frames.
    """
    counts = torch.tensor([[len(_surest(one, group)) for group in prompt.groups] for one in seen])
    wanted = torch.tensor([group.count for group in prompt.groups])
    correct = counts == wanted
    if prompt.clip.event in ("return", "hide"):
        if (counts[:, 0] > 0).float().mean() < PRESENT:
            return 0.0
        correct[:, 0] |= counts[:, 0] < wanted[0]
    return float(correct.all(1).float().mean())


def _colors(prompt: ClipPrompt, seen: Sequence[Observation]) -> bool | None:
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

    prompt: ClipPrompt
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
    return _along(measured.way, measured.prompt.clip.word)


def _leaves(measured: _Motion) -> bool:
    return _along(measured.away, measured.prompt.clip.word)


def _turns(measured: _Motion) -> bool:
    clockwise = measured.prompt.clip.word == "clockwise"
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
    axis = 0 if DIRECTIONS[measured.prompt.clip.word][0] else 1
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


def _filmed(clip: VideoScene, camera: Camera) -> bool:
    """Whether the camera motion is the clip's, and its amount in the world's range."""
    if camera.word != clip.word:
        return False
    low, high = AMOUNTS[camera.kind]
    return (1 - AMOUNT) * low <= abs(float(camera.way[-1])) <= (1 + AMOUNT) * high


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


# ------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval over prompts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClipTable:
    """The accuracy on videos.

    ``tasks``: the share of right videos by task and overall; ``parts``: the share of right parts
    among the prompts that ask for them; ``measured``: the means of the share of frames with the
    right objects, of flicker, and of the dynamic degree.
    """

    tasks: Table
    parts: Table
    measured: dict[str, Mean]


def table(prompts: Sequence[ClipPrompt], verdicts: Sequence[Verdict]) -> ClipTable:
    """The tables of verdicts, one for each prompt, with intervals as in score.table.

    Raises KalpanaError if there are none.
    """
    pairs = list(zip(prompts, verdicts, strict=True))
    parts = [
        (prompt.of(name), verdict.parts()[name])
        for name in PARTS
        for prompt, verdict in pairs
        if name in verdict.parts()
    ]
    return ClipTable(
        score.table(
            [prompt.of(prompt.task) for prompt in prompts],
            {i: [verdict.right] for i, verdict in enumerate(verdicts)},
        ),
        score.table(
            [prompt for prompt, _ in parts], {i: [correct] for i, (_, correct) in enumerate(parts)}
        ),
        {name: _mean([getattr(verdict, name) for verdict in verdicts]) for name in MEASURED},
    )


def _mean(values: Sequence[float]) -> Mean:
    """The mean of the values that are not nan, with a bootstrap interval."""
    known = np.array([value for value in values if not math.isnan(value)] or [math.nan])
    rows = np.random.default_rng(0).integers(len(known), size=(RESAMPLES, len(known)))
    low, high = np.percentile(known[rows].mean(1), (2.5, 97.5))
    return Mean(float(known.mean()), float(low), float(high))


@dataclass(frozen=True)
class Report:
    """The report on videos, with floors and a ceiling by the same verifier.

    Floors: ``other``, the true video of another prompt of the task, and ``frozen``, the first frame
    of the true video, repeated. ``ceiling``: the true videos.
    """

    score: ClipTable
    other: ClipTable
    frozen: ClipTable
    ceiling: ClipTable

    def markdown(self) -> str:
        """The shares in per cent by task and by part, then the means of the measurements."""
        every = (self.score, self.other, self.frozen, self.ceiling)
        tasks = [{**table.tasks.tasks, "overall": table.tasks.overall} for table in every]
        lines = [_line(name, *(table[name] for table in tasks)) for name in tasks[0]]
        parts = [
            _line(name, *(table.parts.tasks[name] for table in every))
            for name in self.score.parts.tasks
        ]
        measured = [
            f"| {MEASURED[name]} | {mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f}) "
            f"| {self.ceiling.measured[name].value:.3f} |\n"
            for name, mean in self.score.measured.items()
        ]
        heads = [
            f"| {head} | other clip | frozen | score (95 %) | ceiling | prompts |\n"
            f"|{' --- |' * 6}\n"
            for head in ("task", "part")
        ]
        return "\n".join(
            "".join(rows)
            for rows in (
                [heads[0], *lines],
                [heads[1], *parts],
                ["| mean | score (95 %) | ceiling |\n| --- | --- | --- |\n", *measured],
            )
        )


def _line(name: str, score: Share, other: Share, frozen: Share, ceiling: Share) -> str:
    shares = [f"{100 * share.right:.1f}" for share in (other, frozen, score, ceiling)]
    shares[2] += f" ({100 * score.low:.1f} to {100 * score.high:.1f})"
    return f"| {' | '.join((name, *shares, str(score.prompts)))} |\n"


def judge(
    prompts: Sequence[ClipPrompt],
    videos: Iterable[Video],
    verifier: Verifier,
    out: Path,
    progress: Progress,
) -> Report:
    """The report on videos, one for each prompt and in their order.

    Writes report.json, report.md and sheet.png into ``out``.
    """
    mine, true, frozen, other = [], [], [], dict[int, Verdict]()
    tasks = dict.fromkeys(prompt.task for prompt in prompts)
    shown: dict[tuple[str, str], list[tuple[Image.Image, str]]] = {
        (task, result): [] for task in tasks for result in ("right", "wrong")
    }
    for i, (prompt, video, k) in enumerate(zip(prompts, videos, exchanged(prompts), strict=True)):
        seen = look(verifier, video)
        mine.append(right(prompt, video.frames, video.fps, seen))
        result, color = ("right", "green") if mine[i].right else ("wrong", "red")
        if len(shown[prompt.task, result]) < SHEET:
            shown[prompt.task, result].append(
                (tile(video, seen, color), f"{result}: {prompt.text}")
            )
        video = truth(prompt.clip)
        seen, n = look(verifier, video), len(video.frames)
        true.append(right(prompt, video.frames, video.fps, seen))
        frozen.append(
            right(prompt, video.frames[:1].expand(n, -1, -1, -1), video.fps, seen[:1] * n)
        )
        other[k] = right(prompts[k], video.frames, video.fps, seen)
        progress(i + 1, len(prompts))
    others = [other[k] for k in range(len(prompts))]
    report = Report(*(table(prompts, verdicts) for verdicts in (mine, others, frozen, true)))
    out.mkdir(parents=True, exist_ok=True)
    write(out / "report.json", json.dumps(asdict(report, dict_factory=_known), indent=1).encode())
    write(out / "report.md", report.markdown().encode())
    tiles, texts = zip(*(pair for pairs in shown.values() for pair in pairs), strict=True)
    captioned(tiles, texts, columns=2 * SHEET).save(out / "sheet.png")
    return report


def _known(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields for JSON, with None for nan, which JSON cannot express."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in fields
    }


def tile(video: Video, seen: Sequence[Observation], color: str) -> Image.Image:
    """Four evenly spaced frames of a video in a grid, with the detections in boxes of a colour."""
    chosen = [round(k * (len(seen) - 1) / 3) for k in range(4)]
    frames = to_images(video.frames[chosen])
    return grid([boxed(frame, seen[k], color) for frame, k in zip(frames, chosen, strict=True)])


def look(verifier: Verifier, video: Video) -> list[Observation]:
    """The verifier's observation of each frame."""
    return [seen for batch in video.frames.split(BATCH) for seen in verifier.look(batch)]


# -------------------------------------------------------------------------------------------- files


def clips_of(
    folder: Path, prompts: Sequence[ClipPrompt], fps: float | None = None
) -> Iterator[Video]:
    """The video of each prompt in a folder of videos from elsewhere.

    For prompt 7 of the suite: 0007.mp4, or a folder 0007 with frames in the order of their names.
    ``fps`` is the frame rate of folders; None: that of the prompt's true video. Raises KalpanaError
    if a prompt has no video, before any is read, or if a video cannot be read.
    """
    paths = []
    for prompt in prompts:
        name = f"{prompt.number:04d}"
        candidates = (folder / f"{name}.mp4", folder / name)
        path = next((path for path in candidates if path.exists()), None)
        if path is None:
            raise KalpanaError(
                f"no clip in {folder} is of prompt {prompt.number}, {prompt.text!r}: "
                f"call it {name}.mp4, or put its frames into {name}/000.png, ..."
            )
        paths.append(path)
    for path, prompt in zip(paths, prompts, strict=True):
        rate = prompt.clip.fps if fps is None else fps
        try:
            yield Video(_frames(path), rate) if path.is_dir() else _video(path)
        except KalpanaError as error:
            raise KalpanaError(f"{path}: {error}") from None


def _video(path: Path) -> Video:
    """The video in an MP4 file."""
    try:
        import av
    except ImportError:
        raise KalpanaError(
            "reading MP4 needs PyAV: install it with pip install 'kalpana[video]'"
        ) from None
    try:
        images, rate, _ = decode_clip(path.read_bytes())
        frames = to_pixels(images)
    except (OSError, ValueError, IndexError, av.error.FFmpegError) as error:
        raise KalpanaError(
            f"it is no MP4, or a damaged one ({error}): give H.264 in an MP4 file"
        ) from None
    return Video(frames, rate)


def _frames(folder: Path) -> Tensor:
    """The pictures of a folder (t, 3, h, w), in numerical order of their names: 2 before 10."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".png", ".webp", ".jpg", ".jpeg")
    ]
    if not files:
        raise KalpanaError(
            "there are no frames in it: put PNG, WebP or JPEG files there, 000.png and so on"
        )
    images = [
        read_picture(path) for path in sorted(files, key=lambda path: (len(path.stem), path.stem))
    ]
    if len({image.size for image in images}) > 1:
        raise KalpanaError("its frames are of unlike sizes: give all of one size")
    return to_pixels(images)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Score the true videos of Clips-200 by a verifier: the ceiling."
    )
    parser.add_argument("verifier", type=Path, help="a verifier's folder of weights")
    parser.add_argument("--limit", type=int, help="prompts of each task (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/clips-true"), help="where the report goes"
    )
    options = parser.parse_args(given)

    try:
        prompts = first(load(), options.limit)
        # Without text readers: no prompt of Clips-200 asks for words.
        verifier = DetectorVerifier(DetectorVerifier.load(options.verifier).net)
        videos = (truth(prompt.clip) for prompt in prompts)
        report = judge(prompts, videos, verifier, options.out, progress_to_stderr("clips"))
        print(report.markdown(), end="")
    except KalpanaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
