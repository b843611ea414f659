"""Whether a clip shows what a prompt of Clips-200 asks for, and the report on a clip for each of them.

A verifier of pictures looks at every frame; what it sees is linked into tracks, the camera is estimated from the background, and each
part of the prompt is judged by itself: class and count, colour, direction, speed, path, camera, and whether what left came back as it
was. A clip is right if none of the parts that its prompt asks for is wrong. Turning solids are left out: verifiers know no cubes.

``python -m kalpana.evaluate.video.scores VERIFIER`` judges true clips: what a verifier misses there, nothing that draws clips can be judged by.

Words say ranges, and so does the truth: "slowly" is any speed that the world calls so, give or take 40 %, and a pan is as long as the
world's pans, give or take 30 %. Where no word is said the prompt does not ask; a camera that nobody asked for is undone, not judged.
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
from kalpana.world.video import DIRECTIONS, Clip

BATCH = 64  # frames looked at together
STEADY = 0.7  # share of frames that must hold what is asked for: a verifier errs in some
PRESENT = 0.25  # the same of a thing that leaves the picture, or hides, on its way
SPEED = 0.4  # tolerance of speeds
AMOUNTS = {
    "x": (0.15, 0.3),
    "y": (0.15, 0.3),
    "zoom": (math.log(1.4), math.log(1.9)),
    "roll": (math.radians(25), math.radians(60)),
}
AMOUNT = 0.3  # tolerance of those, the moves of the world's cameras as motion.Camera measures them
MOVED = 0.05  # widths: what is nearer to where it was did not move
HOP = 0.1  # widths: the least height of a hop; those of the world are at least 0.15
GROWN = 1.3  # the least ratio of sizes; that of the world is at least 1.6
SPUN = 20.0  # degrees a second; the world's turns have at least 60
PLACE = 0.2  # widths: what is nearer to a place has come there
AWAY, EDGE = (
    0.95,
    0.7,
)  # where the middle of a thing is when it counts as gone; and when it is seen for the last time before it is
DYNAMIC = (
    0.02  # widths a second below which a clip stands still; the slowest pans of the world have 0.05
)
SHEET = 4  # right clips of each task on the sheet, and wrong ones


# ------------------------------------------------------------------------------------------------------------------ verdict


@dataclass(frozen=True)
class Verdict:
    """Whether each part is right, None where the prompt does not ask for it, and what was measured: ``share`` of the frames in which class
    and count are right; ``flicker`` of the background, see motion.flicker; ``dynamic``, the dynamic degree: widths a second that things
    and the camera go."""

    objects: bool  # class and count
    colors: bool | None
    direction: bool | None  # of the way, or of a turn
    speed: bool | None
    path: (
        bool | None
    )  # it hops, grows, leaves and returns, passes behind, or changes places, as is said
    camera: bool | None  # its move and how far it goes
    identity: bool | None  # what was out of sight comes back as the same
    moving: bool  # the clip does not stand still
    share: float
    flicker: float
    dynamic: float

    def parts(self) -> dict[str, bool]:
        """The parts that the prompt asks for."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    @property
    def right(self) -> bool:
        return all(self.parts().values())


MEASURED = {
    "share": "frames with the right things",
    "flicker": "flicker",
    "dynamic": "dynamic degree",
}
PARTS = tuple(field.name for field in fields(Verdict) if field.name not in MEASURED)


def right(prompt: ClipPrompt, frames: Tensor, fps: float, seen: Sequence[Observation]) -> Verdict:
    """The verdict on a clip (t, 3, h, w) in [-1, 1], in each frame of which a verifier has ``seen`` so much. Raises KalpanaError where
    it is no clip."""
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
    shown = _Shown(prompt, len(frames), fps, paths, spin)
    share, colors = _share(prompt, seen), _colors(prompt, seen)
    asked = {
        part: whole and so(shown)
        for part, so in JUDGES[prompt.clip.event].items()
        if part != "speed" or prompt.pace
    }
    going = (
        camera.motion(fps)
        + float(np.mean([track.motion(fps) for track in paths] or [0.0]))
        + shown.turning
    )
    return Verdict(
        objects=share >= STEADY and whole,
        colors=colors,
        direction=asked.get("direction"),
        speed=asked.get("speed"),
        path=asked.get("path"),
        camera=_filmed(prompt.clip, camera) if prompt.clip.event == "camera" else None,
        identity=asked.get("identity"),
        moving=going >= DYNAMIC,
        share=share,
        flicker=motion.flicker(frames, background, camera),
        dynamic=going,
    )


def _share(prompt: ClipPrompt, seen: Sequence[Observation]) -> float:
    """The share of frames with as many of each thing as are asked for. What leaves or hides may be missing, but not nearly always."""
    counts = torch.tensor([[len(_surest(one, group)) for group in prompt.groups] for one in seen])
    wanted = torch.tensor([group.count for group in prompt.groups])
    so = counts == wanted
    if prompt.clip.event in ("return", "hide"):
        if (counts[:, 0] > 0).float().mean() < PRESENT:
            return 0.0
        so[:, 0] |= counts[:, 0] < wanted[0]
    return float(so.all(1).float().mean())


def _colors(prompt: ClipPrompt, seen: Sequence[Observation]) -> bool | None:
    """Whether each group has its colour in most frames that show it, None where no colour is named."""
    so = []
    for group in prompt.groups:
        if group.color is not None:
            found = [_surest(one, group)[: group.count] for one in seen]
            colored = [
                scene_object.color == group.color for objects in found for scene_object in objects
            ]
            so.append(bool(colored) and sum(colored) / len(colored) >= STEADY)
    return all(so) if so else None


def _surest(seen: Observation, group: Group) -> list[Detection]:
    """The detections of a group that count, surest first."""
    return [
        scene_object
        for scene_object in best(seen.objects, group.concept)
        if scene_object.score > motion.SURE
    ]


@dataclass(frozen=True)
class _Shown:
    """What a clip of so many frames shows: the tracks of its things, camera undone, and how fast the first turns, degrees a second."""

    prompt: ClipPrompt
    frames: int
    fps: float
    paths: list[Track]
    spin: float

    @property
    def turning(self) -> float:
        """The same in widths a second, of the corners of its box."""
        size = (
            (self.paths[0].boxes[:, 2:] - self.paths[0].boxes[:, :2]).norm(dim=1).median() / 2
            if self.paths
            else 0.0
        )
        return abs(math.radians(self.spin)) * float(size)

    @property
    def way(self) -> Tensor:
        """From where the first thing begins to where it ends (2,)."""
        return self.paths[0].centres[-1] - self.paths[0].centres[0]

    @property
    def away(self) -> Tensor:
        """From where it begins to the farthest place at which it is seen (2,)."""
        ways = self.paths[0].centres - self.paths[0].centres[0]
        return ways[ways.norm(dim=1).argmax()]

    @property
    def gap(self) -> int:
        """The number of its sighting after which it is out of sight for longest, -1 where it never is."""
        missed = self.paths[0].frames.diff() - 1
        return int(missed.argmax()) if missed.any() else -1


def _along(way: Tensor, word: str) -> bool:
    """Whether a way (2,) leads where the word says, within 45 degrees."""
    ux, uy = DIRECTIONS[word]
    along, across = float(way[0] * ux + way[1] * uy), abs(float(way[0] * uy - way[1] * ux))
    return along >= max(across, MOVED)


def _goes(shown: _Shown) -> bool:
    return _along(shown.way, shown.prompt.clip.word)


def _leaves(shown: _Shown) -> bool:
    return _along(shown.away, shown.prompt.clip.word)


def _turns(shown: _Shown) -> bool:
    return abs(shown.spin) >= SPUN and (shown.spin < 0) == (shown.prompt.clip.word == "clockwise")


def _paced(shown: _Shown) -> bool:
    frames = shown.paths[0].frames
    speed = float(shown.way.norm()) * shown.fps / max(int(frames[-1] - frames[0]), 1)
    low, high = PACES[shown.prompt.pace]
    return (1 - SPEED) * low <= speed <= (1 + SPEED) * high


def _hops(shown: _Shown) -> bool:
    """Whether it goes up by HOP and down again at least once."""
    rising, turned = False, math.inf
    for height in (-shown.paths[0].centres[:, 1]).tolist():
        turned = max(turned, height) if rising else min(turned, height)
        if rising and turned - height >= HOP:
            return True
        if not rising and height - turned >= HOP:
            rising, turned = True, height
    return False


def _bounces(shown: _Shown) -> bool:
    return _hops(shown) and abs(float(shown.way[0])) < PLACE


def _grows(shown: _Shown) -> bool:
    sizes = shown.paths[0].sizes
    return float(sizes[-1] / sizes[0]) >= GROWN


def _shrinks(shown: _Shown) -> bool:
    sizes = shown.paths[0].sizes
    return float(sizes[0] / sizes[-1]) >= GROWN


def _returns(shown: _Shown) -> bool:
    """Whether it goes out of view at an edge, and ends where it began."""
    axis = 0 if DIRECTIONS[shown.prompt.clip.word][0] else 1
    place = (shown.paths[0].centres[0] + shown.away)[axis].item()
    out = max(place, 1 - place)
    return (out >= AWAY or (shown.gap >= 0 and out >= EDGE)) and float(shown.way.norm()) <= PLACE


def _hides(shown: _Shown) -> bool:
    """Whether it is out of sight within the other's width, and seen on either side of it."""
    (x0, _), *_, (x1, _) = shown.paths[0].centres.tolist()
    left, _, right, _ = shown.paths[1].boxes.median(0).values.tolist()
    if shown.gap < 0:
        return False
    lost, found = shown.paths[0].centres[shown.gap : shown.gap + 2, 0].tolist()
    return left <= (lost + found) / 2 <= right and min(x0, x1) < (left + right) / 2 < max(x0, x1)


def _swaps(shown: _Shown) -> bool:
    (a, b), (c, d) = ((path.centres[0], path.centres[-1]) for path in shown.paths)
    return bool((b - c).norm() <= PLACE and (d - a).norm() <= PLACE and (a - c).norm() > PLACE)


def _same(shown: _Shown) -> bool:
    """Whether it is there in the beginning and in the end, of one colour as far as that can be told."""
    path, cut = shown.paths[0], shown.gap + 1 or len(shown.paths[0].frames) // 2
    before, after = (_usual(colors) for colors in (path.colors[:cut], path.colors[cut:]))
    ends = path.frames[0] < PRESENT * shown.frames and path.frames[-1] >= (1 - PRESENT) * (
        shown.frames - 1
    )
    return bool(ends) and (before == after or None in (before, after))


def _usual(colors: Sequence[str | None]) -> str | None:
    """What is said most often."""
    return Counter(colors).most_common(1)[0][0] if colors else None


def _filmed(clip: Clip, camera: Camera) -> bool:
    """Whether the camera moves as the clip's does, about as far as cameras of the world do."""
    if camera.word != clip.word:
        return False
    low, high = AMOUNTS[camera.kind]
    return (1 - AMOUNT) * low <= abs(float(camera.way[-1])) <= (1 + AMOUNT) * high


JUDGES: dict[str, dict[str, Callable[[_Shown], bool]]] = {
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


# ------------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval over prompts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClipTable:
    """The share of right clips by task and overall, the share of right parts among the prompts that ask for them, and the means of what
    was measured: the share of frames with the right things, flicker, dynamic degree."""

    tasks: Table
    parts: Table
    measured: dict[str, Mean]


def table(prompts: Sequence[ClipPrompt], verdicts: Sequence[Verdict]) -> ClipTable:
    """The tables of these verdicts, one for each prompt, with intervals as in score.table. Raises KalpanaError where there are none."""
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
        score.table([prompt for prompt, _ in parts], {i: [so] for i, (_, so) in enumerate(parts)}),
        {name: _mean([getattr(verdict, name) for verdict in verdicts]) for name in MEASURED},
    )


def _mean(values: Sequence[float]) -> Mean:
    """The mean of those that are numbers."""
    known = np.array([value for value in values if not math.isnan(value)] or [math.nan])
    draws = known[np.random.default_rng(0).integers(len(known), size=(RESAMPLES, len(known)))].mean(
        1
    )
    return Mean(float(known.mean()), *(float(edge) for edge in np.percentile(draws, (2.5, 97.5))))


@dataclass(frozen=True)
class Report:
    """The tables of clips beside what costs nothing (the true clip of another prompt of the task; the first frame of the true clip, held
    still) and what can be had at all (the true clips), all through one verifier."""

    score: ClipTable
    other: ClipTable
    frozen: ClipTable
    ceiling: ClipTable

    def markdown(self) -> str:
        """Shares in per cent by task and by part, then the means of what was measured."""
        every = (self.score, self.other, self.frozen, self.ceiling)
        tasks = [{**table.tasks.tasks, "overall": table.tasks.overall} for table in every]
        lines = [_line(name, *(table[name] for table in tasks)) for name in tasks[0]]
        parts = [
            _line(name, *(table.parts.tasks[name] for table in every))
            for name in self.score.parts.tasks
        ]
        measured = [
            f"| {MEASURED[name]} | {mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f}) | {self.ceiling.measured[name].value:.3f} |\n"
            for name, mean in self.score.measured.items()
        ]
        heads = [
            f"| {head} | other clip | frozen | score (95 %) | ceiling | prompts |\n|{' --- |' * 6}\n"
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
    """The report on clips, one for each prompt and in their order; report.json, report.md and sheet.png are written into ``out``."""
    mine, true, frozen, other = [], [], [], dict[int, Verdict]()
    tasks = dict.fromkeys(prompt.task for prompt in prompts)
    shown: dict[tuple[str, str], list[tuple[Image.Image, str]]] = {
        (task, so): [] for task in tasks for so in ("right", "wrong")
    }
    for i, (prompt, video, k) in enumerate(zip(prompts, videos, exchanged(prompts), strict=True)):
        seen = look(verifier, video)
        mine.append(right(prompt, video.frames, video.fps, seen))
        so = "right" if mine[i].right else "wrong"
        if len(shown[prompt.task, so]) < SHEET:
            shown[prompt.task, so].append(
                (tile(video, seen, "green" if mine[i].right else "red"), f"{so}: {prompt.text}")
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
    tiles, texts = zip(*(each for some in shown.values() for each in some), strict=True)
    captioned(tiles, texts, columns=2 * SHEET).save(out / "sheet.png")
    return report


def _known(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields for JSON, which has no word for what is not a number."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in fields
    }


def tile(video: Video, seen: Sequence[Observation], color: str) -> Image.Image:
    """Four frames of a clip, from the first to the last, with what is seen in boxes of this colour."""
    chosen = [round(k * (len(seen) - 1) / 3) for k in range(4)]
    frames = to_images(video.frames[chosen])
    return grid([boxed(frame, seen[k], color) for frame, k in zip(frames, chosen, strict=True)])


def look(verifier: Verifier, video: Video) -> list[Observation]:
    """What the verifier sees in each frame."""
    return [seen for some in video.frames.split(BATCH) for seen in verifier.look(some)]


# -------------------------------------------------------------------------------------------------------------------- files


def clips_of(
    folder: Path, prompts: Sequence[ClipPrompt], fps: float | None = None
) -> Iterator[Video]:
    """The clip of each prompt among clips made elsewhere: 0007.mp4, or frames in a folder 0007 in the order of their names, for prompt 7
    of the suite.

    Folders say no frame rate: ``fps`` does, or else it is that of the prompt's true clip. Raises KalpanaError where a prompt has no
    clip, before any is read, or where one cannot be read.
    """
    paths = []
    for prompt in prompts:
        name = f"{prompt.number:04d}"
        path = next(
            (path for path in (folder / f"{name}.mp4", folder / name) if path.exists()), None
        )
        if path is None:
            raise KalpanaError(
                f"no clip in {folder} is of prompt {prompt.number}, {prompt.text!r}: "
                f"call it {name}.mp4, or put its frames into {name}/000.png, ..."
            )
        paths.append(path)
    for path, prompt in zip(paths, prompts, strict=True):
        try:
            yield (
                Video(_frames(path), prompt.clip.fps if fps is None else fps)
                if path.is_dir()
                else _video(path)
            )
        except KalpanaError as error:
            raise KalpanaError(f"{path}: {error}") from None


def _video(path: Path) -> Video:
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
    """The pictures in a folder (t, 3, h, w) in the order of their names, 2 before 10."""
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
        description="True clips judged by a verifier: the ceiling of Clips-200."
    )
    parser.add_argument("verifier", type=Path, help="a verifier's folder of weights")
    parser.add_argument("--limit", type=int, help="prompts of each task, all by default")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/clips-true"), help="where the report goes"
    )
    asked = parser.parse_args(given)

    try:
        prompts = first(load(), asked.limit)
        verifier = DetectorVerifier(
            DetectorVerifier.load(asked.verifier).net
        )  # nothing is to be read
        print(
            judge(
                prompts,
                (truth(prompt.clip) for prompt in prompts),
                verifier,
                asked.out,
                progress_to_stderr("clips"),
            ).markdown(),
            end="",
        )
    except KalpanaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
