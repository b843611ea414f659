"""Readers of words in pictures that were made elsewhere: RapidOCR for Latin, Tesseract for Devanagari. Where a verifier has a reader of
its own they are the second ones; where it has none they are the only ones.

Both learned from print and photographs that have nothing to do with this world, so a score of words that they agree with does not
hang on one reader. Neither is used to letters of 12 pixels, in colours, in a frame: a sign is cut out, its letters are lifted off
it, black on white, and enlarged (``lifted``). How well they read then is measured by ``python -m kalpana.evaluate.verifiers.ocr``.

Of RapidOCR only the weights of its recogniser are used (PP-OCRv4, an SVTR with a CTC head). Its text detector is left out: on dev
signs it lost one word in ten. How letters are enlarged, and Tesseract's data and kind of page, were chosen on dev signs too.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import string
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.evaluate.score import ALIKE, ned, right
from kalpana.evaluate.suites import Prompt, load
from kalpana.evaluate.verifiers.observations import Observation, Reader, Reading
from kalpana.evaluate.verifiers.probes import Damage, blurred, wrong
from kalpana.media import to_images
from kalpana.types import KalpanaError
from kalpana.world import sprites
from kalpana.world.render import render
from kalpana.world.sprites import Box

AIR = 0.08  # of a sign's height, that is cut out around its box
RIM = 0.15  # of a cut-out's height: a frame, and all that lies around it, begins within this of the edge
MIDDLE = 0.13  # of its height is cut away on every side to look at the colours of the sign alone
INK = 0.35  # of the way from the ground's colour to the letters': from here on a pixel counts as written
FAINT = 0.2  # distance of two colours in [-1, 1] that are no writing
PLAIN = 0.9  # the share that its ground has of the middle's edge, if that is all board
NEAR = 0.25  # of the way between both colours: so near to one of them its surroundings have that colour
FRAMED = 0.75  # of each side, that must be inked to be taken for a frame
BATCH = 16  # signs read together by the recogniser
LEAST = 320  # columns of the recogniser's input, padded if there are fewer, as it was trained
SIGNS = 200  # of each script that are measured
CAPITALS = str.maketrans(
    "cosuvwxz", "COSUVWXZ"
)  # small letters that only their size tells from capitals, and signs are in capitals


class Ocr(Protocol):
    """A reader that comes with an engine of its own, which may be missing."""

    @property
    def name(self) -> str: ...

    @property
    def script(self) -> str: ...

    @property
    def alike(self) -> bool:
        """Whether it takes 0 for O and 1 for I."""
        ...

    def available(self) -> str | None:
        """None where it can read; else one line that says what is missing and how to install it."""
        ...

    def read(self, signs: Iterable[Tensor]) -> list[str]:
        """What is written on each sign (3, h, w), in [-1, 1], cut out of its picture (see ``cut``); "" where that is nothing.

        Raises KalpanaError where the engine is not available.
        """
        ...


# ------------------------------------------------------------------------------------------------------------------ letters


def cut(pixels: Tensor, boxes: Sequence[Box]) -> list[Tensor]:
    """Box k (in the unit square; it may reach outside) of picture k (b, 3, h, w) with some air around it: each (3, h', w')."""
    h, w = pixels.shape[-2:]
    signs = []
    for picture, (x0, y0, x1, y1) in zip(pixels, boxes, strict=True):
        air = AIR * (y1 - y0) * h
        top, left = (
            min(max(round(edge - air), 0), side - 1) for edge, side in ((y0 * h, h), (x0 * w, w))
        )
        signs.append(
            picture[
                :,
                top : max(round(y1 * h + air), top + 1),
                left : max(round(x1 * w + air), left + 1),
            ]
        )
    return signs


@torch.no_grad()
def lifted(sign: Tensor, height: int, border: int) -> Tensor | None:
    """The letters of a sign (3, h, w), black on white and ``height`` pixels tall with a white border: (height + 2 border, w') in
    [-1, 1]. None where nothing is written."""
    ink = _unframed(_inked(sign.float().cpu()))
    rows, columns = ((ink > INK).any(axis).nonzero() for axis in (1, 0))
    if not len(rows):
        return None
    h, w = ink.shape
    top, bottom = max(int(rows[0]) - 1, 0), min(int(rows[-1]) + 2, h)
    left, last = max(int(columns[0]) - 1, 0), min(int(columns[-1]) + 2, w)
    ink = ink[None, None, top:bottom, left:last]
    width = max(round(height * (last - left) / (bottom - top)), 1)
    ink = F.interpolate(
        ink, (height, width), mode="bicubic", align_corners=False, antialias=True
    ).clamp(0, 1)
    return 1 - 2 * F.pad(ink[0, 0], (border,) * 4)


def _inked(sign: Tensor) -> Tensor:
    """How far each pixel of a sign (3, h, w) is from the colour of its ground: (h, w), 0 there, 1 at the colour of the letters and
    wherever else it is as far. All 0 where there is but one colour."""
    h, w = sign.shape[1:]
    edge = round(MIDDLE * h)
    inner = sign[:, edge : h - edge, edge : w - edge] if min(h, w) > 2 * edge else sign
    ground, ink = _two_colors(inner.flatten(1))
    border, around = _edge(inner), _edge(sign).median(1).values
    plain = _nearer(border, ground, ink).float().mean()
    if (
        plain < PLAIN and (around - ink).norm() < NEAR * (ground - ink).norm()
    ):  # no board, but large letters on the picture itself
        ground, ink = ink, ground
    way = (ink - ground)[:, None, None]
    if way.norm() < FAINT:
        return torch.zeros(h, w)
    off = sign - ground[:, None, None]
    along = (off * way).sum(
        0
    ) / way.square().sum()  # an edge that is half ink has half of both colours: 0.5
    beside = (off - along * way).norm(dim=0) / way.norm()
    return (along.abs() + beside).clamp(0, 1)


def _two_colors(points: Tensor) -> tuple[Tensor, Tensor]:
    """The colour (3,) of the larger part of points (3, n), and that of the rest: k-medians with k = 2."""
    away = (points - points.median(1, keepdim=True).values).norm(dim=0)
    a, b = points[:, away.argmin()], points[:, away.argmax()]
    for _ in range(8):
        first = _nearer(points, a, b)
        if first.all() or not first.any():
            break
        a, b = points[:, first].median(1).values, points[:, ~first].median(1).values
    return (a, b) if _nearer(points, a, b).float().mean() >= 0.5 else (b, a)


def _nearer(points: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Which of points (3, n) are no farther from a than from b: (n,) bool."""
    return (points - a[:, None]).norm(dim=0) <= (points - b[:, None]).norm(dim=0)


def _edge(sign: Tensor) -> Tensor:
    """The outermost pixels of a sign (3, h, w): (3, n)."""
    return torch.cat((sign[:, 0], sign[:, -1], sign[:, :, 0], sign[:, :, -1]), 1)


def _unframed(ink: Tensor) -> Tensor:
    """Ink (h, w) without a frame and what lies outside of it: if ink runs along all four sides, what hangs together with it goes."""
    h, w = ink.shape
    rim = max(round(RIM * h), 1)
    written = ink > INK
    sides = (
        written[:rim].any(0),
        written[-rim:].any(0),
        written[:, :rim].any(1),
        written[:, -rim:].any(1),
    )
    if min(float(side.float().mean()) for side in sides) < FRAMED:
        return ink
    outer = torch.ones(1, 1, h, w)
    outer[..., rim : h - rim, rim : w - rim] = 0
    gone, grown = torch.zeros(0), outer * written
    while not torch.equal(gone, grown):
        gone, grown = grown, F.max_pool2d(grown, 3, 1, 1) * written
    soft = F.max_pool2d(gone, 3, 1, 1)  # and the pale pixels beside it
    return ink * (1 - torch.maximum(soft, outer))[0, 0]


# ------------------------------------------------------------------------------------------------------------------ engines


@dataclass(frozen=True)
class RapidOcr:
    """PP-OCRv4's recogniser, held to Latin letters and digits."""

    name: str = "RapidOCR"
    script: str = "Latin"
    alike: bool = True

    def available(self) -> str | None:
        try:
            import onnxruntime  # noqa: F401
        except ImportError:
            return f"{self.name} needs onnxruntime: pip install 'kalpana[ocr]'"
        return (
            None
            if _weights()
            else f"{self.name} needs rapidocr-onnxruntime (Python 3.11 or 3.12): pip install 'kalpana[ocr]'"
        )

    def read(self, signs: Iterable[Tensor]) -> list[str]:
        _insist(self)
        session, characters, ours = _recogniser()
        said, lines = _lines(signs, height=32, border=8)
        order = sorted(lines, key=lambda k: lines[k].shape[1])
        for start in range(0, len(order), BATCH):
            some = [lines[k] for k in order[start : start + BATCH]]
            width = max(LEAST, some[-1].shape[1])
            batch = torch.stack([F.pad(line, (0, width - line.shape[1])) for line in some])[
                :, None
            ].expand(-1, 3, -1, -1)  # b 3 48 w
            (chances,) = session.run(
                None, {session.get_inputs()[0].name: batch.numpy()}
            )  # b l characters
            for k, best in zip(
                order[start : start + BATCH],
                ours[chances[..., ours].argmax(-1)].tolist(),
                strict=True,
            ):
                word = "".join(
                    characters[n] for i, n in enumerate(best) if n and (i == 0 or n != best[i - 1])
                )
                said[k] = word.translate(CAPITALS)
        return said


def _weights() -> Path | None:
    """The file of RapidOCR's recogniser, found without loading the package, which would load OpenCV; None where there is none."""
    spec = find_spec("rapidocr_onnxruntime")
    path = (
        Path(spec.origin).parent / "models/ch_PP-OCRv4_rec_infer.onnx"
        if spec and spec.origin
        else None
    )
    return path if path and path.exists() else None


@cache
def _recogniser() -> tuple[Any, list[str], np.ndarray]:
    """The recogniser, its characters by their number (0 is the blank), and the numbers of those that are Latin, with the blank."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    session = onnxruntime.InferenceSession(
        str(_weights()), options, providers=["CPUExecutionProvider"]
    )
    characters = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    latin = set(string.ascii_letters + string.digits)
    return (
        session,
        characters,
        np.array([0, *(n for n, character in enumerate(characters) if character in latin)]),
    )


@dataclass(frozen=True)
class Tesseract:
    """Tesseract's networks for Devanagari, the script's and Hindi's."""

    name: str = "Tesseract"
    script: str = "Devanagari"
    alike: bool = False
    data: str = "Devanagari+hin"
    page: int = 8  # a page that is one word

    def available(self) -> str | None:
        packages = {"hin": "tesseract-ocr-hin", "Devanagari": "tesseract-ocr-script-deva"}
        every = " ".join(
            (
                "tesseract-ocr",
                *(packages.get(name, f"tesseract-ocr-{name}") for name in self.data.split("+")),
            )
        )
        if shutil.which("tesseract") is None:
            return f"{self.name} is not installed: apt install {every}"
        there = subprocess.run(
            ["tesseract", "--list-langs"], capture_output=True, text=True, check=False
        ).stdout.split()
        missing = [name for name in self.data.split("+") if name not in there]
        return (
            f"{self.name} lacks its data {' and '.join(missing)}: apt install {every}"
            if missing
            else None
        )

    def read(self, signs: Iterable[Tensor]) -> list[str]:
        _insist(self)
        said, lines = _lines(signs, height=60, border=10)
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{k}.png" for k in lines]
            for line, path in zip(lines.values(), paths, strict=True):
                (image,) = to_images(line[None, None].expand(-1, 3, -1, -1))
                image.convert("L").save(path, dpi=(300, 300))
            for k, text in zip(lines, self._pages(paths), strict=True):
                said[k] = text
        return said

    def _pages(self, paths: Sequence[Path]) -> list[str]:
        """The words in these pictures, all read by one start of the program."""
        if not paths:
            return []
        command = ["tesseract", "stdin", "stdout", "-l", self.data, "--psm", str(self.page)]
        environment = {**os.environ, "OMP_THREAD_LIMIT": str(torch.get_num_threads())}
        names = "".join(f"{path}\n" for path in paths)
        done = subprocess.run(
            command,
            input=names,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        texts = done.stdout.split("\f")  # a form feed lies between pages
        if done.returncode or len(texts) != len(paths):
            raise KalpanaError(f"{self.name} gave up: {' '.join(done.stderr.split())[:200]}")
        return [devanagari(text) for text in texts]


def devanagari(text: str) -> str:
    """A text less all that no word of Devanagari is written with: spaces, full stops, marks of stress, a second virama."""
    return re.sub(
        "\u094d+", "\u094d", re.sub(r"[^\u0900-\u0950\u0955-\u0963\u0971-\u097f]", "", text)
    )


def _lines(
    signs: Iterable[Tensor], height: int, border: int
) -> tuple[list[str], dict[int, Tensor]]:
    """An empty word for every sign, and the letters of those, by number, that have any (see ``lifted``)."""
    lines = [lifted(sign, height, border) for sign in signs]
    return [""] * len(lines), {k: line for k, line in enumerate(lines) if line is not None}


def _insist(ocr: Ocr) -> None:
    missing = ocr.available()
    if missing:
        raise KalpanaError(missing)


ENGINES: dict[str, Ocr] = {"words-latin": RapidOcr(), "words-devanagari": Tesseract()}  # by suite


def readers(suite: str, own: Sequence[Reader]) -> tuple[tuple[Reader, ...], str | None]:
    """Who reads the words of a suite (none where it asks for no words): a verifier's own reader, if it has one, then the engine for the
    script. Second, the line that says how to install the engine, if that is missing."""
    if suite not in ENGINES:
        return (), None
    engine = ENGINES[suite]
    missing = engine.available()
    return (tuple(own) if missing else (*own, reader(engine))), missing


def reader(engine: Ocr) -> Reader:
    """The engine as a verifier's reader: it is given signs cut out by their boxes."""
    return Reader(engine.name, lambda pixels, boxes: engine.read(cut(pixels, boxes)), engine.alike)


# ----------------------------------------------------------------------------------------------------------------- measured


@dataclass(frozen=True)
class Score:
    """How a reader does on true renders. Shares in [0, 1] of words: ``exact``; ``alike``, with 0 taken for O and 1 for I; accepted
    though one character asked for is another (``fooled``, see trials.wrong); read as they should be, where the picture has one
    character wrong (``mended``). ``distance`` is the mean normalised edit distance (see score.ned)."""

    exact: float
    alike: float
    distance: float
    fooled: float
    mended: float
    signs: int


def measure(
    ocr: Ocr, prompts: Sequence[Prompt], damage: Damage | None = None, off: float = 0.0
) -> Score:
    """How the reader does on a true render of every prompt, its sign cut out by its true box, each edge ``off`` by up to that much.

    Raises KalpanaError where the engine is not available.
    """
    rng = random.Random("ocr")
    others = [other for prompt in prompts if (other := wrong(prompt, rng)) is not None]
    said, mended = (_read(ocr, these, damage, off) for these in (prompts, others))
    seen, misspelt = (
        [Observation(readings=(Reading((word,)),)) for word in words] for words in (said, mended)
    )
    asked = [prompt.word or "" for prompt in prompts]

    def share(so: Iterable[bool]) -> float:
        return sum(so) / len(prompts)

    return Score(
        exact=share(map(right, prompts, seen)),
        alike=share(
            word.translate(ALIKE) == read.translate(ALIKE)
            for word, read in zip(asked, said, strict=True)
        ),
        distance=sum(map(ned, asked, said)) / len(prompts),
        fooled=share(map(right, others, seen)),
        mended=share(map(right, prompts, misspelt)),
        signs=len(prompts),
    )


def _read(ocr: Ocr, prompts: Sequence[Prompt], damage: Damage | None, off: float) -> list[str]:
    """What the reader says is on the lone sign of each prompt's first true render, as in run.Bounds."""
    scenes = [prompt.scene(random.Random(f"ceiling/{prompt.seeds(1)[0]}")) for prompt in prompts]
    rng, signs = random.Random("boxes"), []
    for start in range(0, len(scenes), 64):
        some = scenes[start : start + 64]
        pixels = render(some).pixels
        boxes = []
        for (item,) in (scene.objects for scene in some):
            half_w, half_h = sprites.half(item)
            dx0, dy0, dx1, dy1 = (
                2 * half * off * rng.uniform(-1, 1) for half in (half_w, half_h, half_w, half_h)
            )
            boxes.append(
                (
                    item.x - half_w + dx0,
                    item.y - half_h + dy0,
                    item.x + half_w + dx1,
                    item.y + half_h + dy1,
                )
            )
        signs += cut(damage(pixels) if damage else pixels, boxes)
    return ocr.read(signs)


def table(signs: int = SIGNS, dev: bool = False) -> str:
    """Every engine in every condition, as Markdown; of an engine that is not available, how to install it."""
    heads = ["reader", "script", "pictures", "exact", "0 as O, 1 as I", "edit distance"]
    heads += ["accepts one character wrong", "mends one character wrong", "signs"]
    lines = [heads, ["---"] * 3 + ["---:"] * 6]
    conditions = {
        "as drawn": (None, 0.0),
        "blur 1 px": (blurred(1.0), 0.0),
        "box off by 1/24": (None, 1 / 24),
    }
    for suite, ocr in ENGINES.items():
        missing = ocr.available()
        if missing:
            lines.append([ocr.name, ocr.script, f"**not available**: {missing}", *[""] * 6])
            continue
        prompts = load(suite, dev)[:signs]
        for condition, (damage, off) in conditions.items():
            s = measure(ocr, prompts, damage, off)
            shares = [f"{100 * share:.1f} %" for share in (s.exact, s.alike)]
            shares += [
                f"{s.distance:.3f}",
                f"{100 * s.fooled:.1f} %",
                f"{100 * s.mended:.1f} %",
                str(s.signs),
            ]
            lines.append([ocr.name, ocr.script, condition, *shares])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--signs", type=int, default=SIGNS, help="signs of each script, at most 200"
    )
    parser.add_argument(
        "--dev",
        action="store_true",
        help="the signs that the readers were set up on, not those of the test",
    )
    arguments = parser.parse_args()
    print(table(arguments.signs, arguments.dev))
