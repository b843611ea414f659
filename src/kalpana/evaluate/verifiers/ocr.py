"""OCR engines as readers of words in pictures: RapidOCR for Latin, Tesseract for Devanagari.

They are the second readers of a verifier that has a reader of its own, and the only ones of a
verifier that has none. Both were trained on print and photographs unrelated to this world, so a
score on which readers agree does not depend on a single one. Neither is trained on letters of 12
pixels, in colours, in a frame: a sign is cut out, and its letters are extracted, black on white,
and enlarged (``lifted``). The resulting accuracy is measured by

    kalpana evaluate ocr

Of RapidOCR only the recogniser is used (PP-OCRv4, an SVTR with a CTC head). Its text detector is
left out: it lost one word in ten on dev signs. The enlargement of the letters, and Tesseract's data
and page segmentation mode, were chosen on dev signs too.
"""

from __future__ import annotations

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

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.score import ALIKE, ned, right
from kalpana.evaluate.suites import load
from kalpana.evaluate.verifiers.observations import Observation, Reader, Reading
from kalpana.evaluate.verifiers.probes import Damage, blurred, wrong
from kalpana.media import to_images
from kalpana.types import KalpanaError
from kalpana.world import sprites
from kalpana.world.render import render
from kalpana.world.sprites import Box

AIR = 0.08  # margin cut out around a box, as a share of its height
RIM = 0.15  # width of the rim in which a frame begins, as a share of the cut-out's height
MIDDLE = 0.13  # share of the height left out on every side to find the colours of the sign alone
INK = 0.35  # least ink value (0 ground, 1 letters) of a pixel that counts as written
FAINT = 0.2  # colours in [-1, 1] that are closer than this are no writing
PLAIN = 0.9  # least share of the ground colour along the middle's edge, if the middle is all board
NEAR = 0.25  # surroundings have a colour if they are this near to it, relative to the contrast
FRAMED = 0.75  # least share of each side that is inked, if the ink there is a frame
BATCH = 16  # signs per batch of the recogniser
LEAST = 320  # least columns of the recogniser's input, padded as in its training
SIGNS = 200  # measured signs of each script
# Lower-case letters that differ from capitals in size only. Signs are in capitals.
CAPITALS = str.maketrans("cosuvwxz", "COSUVWXZ")


class Ocr(Protocol):
    """Interface of an OCR engine that may not be installed."""

    @property
    def name(self) -> str: ...

    @property
    def script(self) -> str: ...

    @property
    def alike(self) -> bool:
        """Whether the engine takes 0 for O and 1 for I."""
        ...

    def available(self) -> str | None:
        """None if the engine can read, else one line that says what to install."""
        ...

    def read(self, signs: Iterable[Tensor]) -> list[str]:
        """Text on each sign (3, h, w), in [-1, 1], cut out by ``cut``; "" if there is none.

        Raises KalpanaError if the engine is not available.
        """
        ...


# ------------------------------------------------------------------------------------------ letters


def cut(pixels: Tensor, boxes: Sequence[Box]) -> list[Tensor]:
    """Box k of picture k (b, 3, h, w), cut out with a margin: each (3, h', w').

    Boxes are in the unit square and may reach outside it.
    """
    h, w = pixels.shape[-2:]
    signs = []
    for picture, (x0, y0, x1, y1) in zip(pixels, boxes, strict=True):
        margin = AIR * (y1 - y0) * h
        top, left = (
            min(max(round(edge - margin), 0), side - 1) for edge, side in ((y0 * h, h), (x0 * w, w))
        )
        bottom, right = max(round(y1 * h + margin), top + 1), max(round(x1 * w + margin), left + 1)
        signs.append(picture[:, top:bottom, left:right])
    return signs


@torch.no_grad()
def lifted(sign: Tensor, height: int, border: int) -> Tensor | None:
    """Letters of a sign (3, h, w), black on white, ``height`` pixels tall, with a white border.

    Returns (height + 2 border, w') in [-1, 1], or None if nothing is written.
    """
    ink = _unframed(_inked(sign.float().cpu()))
    rows, columns = ((ink > INK).any(axis).nonzero() for axis in (1, 0))
    if not len(rows):
        return None
    h, w = ink.shape
    top, bottom = max(int(rows[0]) - 1, 0), min(int(rows[-1]) + 2, h)
    left, last = max(int(columns[0]) - 1, 0), min(int(columns[-1]) + 2, w)
    ink = ink[None, None, top:bottom, left:last]
    width = max(round(height * (last - left) / (bottom - top)), 1)
    size = (height, width)
    ink = F.interpolate(ink, size, mode="bicubic", align_corners=False, antialias=True)
    return 1 - 2 * F.pad(ink.clamp(0, 1)[0, 0], (border,) * 4)


def _inked(sign: Tensor) -> Tensor:
    """Ink map of a sign (3, h, w): the distance of each pixel from the ground colour.

    Returns (h, w): 0 at the ground colour, 1 at the colour of the letters and at any other colour
    as far from the ground. All 0 if there is only one colour.
    """
    h, w = sign.shape[1:]
    edge = round(MIDDLE * h)
    inner = sign[:, edge : h - edge, edge : w - edge] if min(h, w) > 2 * edge else sign
    ground, ink = _two_colors(inner.flatten(1))
    border, around = _edge(inner), _edge(sign).median(1).values
    plain = _nearer(border, ground, ink).float().mean()
    if plain < PLAIN and (around - ink).norm() < NEAR * (ground - ink).norm():
        ground, ink = ink, ground  # no board: the letters are large and on the picture itself
    contrast = (ink - ground)[:, None, None]
    if contrast.norm() < FAINT:
        return torch.zeros(h, w)
    offset = sign - ground[:, None, None]
    # A pixel that is half ink is a mix of both colours: 0.5 along the contrast.
    along = (offset * contrast).sum(0) / contrast.square().sum()
    across = (offset - along * contrast).norm(dim=0) / contrast.norm()
    return (along.abs() + across).clamp(0, 1)


def _two_colors(points: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (3,) of the larger and the smaller part of points (3, n), by 2-medians."""
    distances = (points - points.median(1, keepdim=True).values).norm(dim=0)
    a, b = points[:, distances.argmin()], points[:, distances.argmax()]
    for _ in range(8):
        near_a = _nearer(points, a, b)
        if near_a.all() or not near_a.any():
            break
        a, b = points[:, near_a].median(1).values, points[:, ~near_a].median(1).values
    return (a, b) if _nearer(points, a, b).float().mean() >= 0.5 else (b, a)


def _nearer(points: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Which of points (3, n) are no farther from a than from b: (n,) bool."""
    return (points - a[:, None]).norm(dim=0) <= (points - b[:, None]).norm(dim=0)


def _edge(sign: Tensor) -> Tensor:
    """Outermost pixels of a sign (3, h, w): (3, n)."""
    return torch.cat((sign[:, 0], sign[:, -1], sign[:, :, 0], sign[:, :, -1]), 1)


def _unframed(ink: Tensor) -> Tensor:
    """Ink map (h, w) without a frame and the area outside it.

    If ink runs along all four sides, all ink connected to it is removed.
    """
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
    frame, grown = torch.zeros(0), outer * written
    while not torch.equal(frame, grown):
        frame, grown = grown, F.max_pool2d(grown, 3, 1, 1) * written
    soft = F.max_pool2d(frame, 3, 1, 1)  # with the antialiased pixels beside it
    return ink * (1 - torch.maximum(soft, outer))[0, 0]


# ------------------------------------------------------------------------------------------ engines


@dataclass(frozen=True)
class RapidOcr:
    """RapidOCR: PP-OCRv4's recogniser, restricted to Latin letters and digits."""

    name: str = "RapidOCR"
    script: str = "Latin"
    alike: bool = True

    def available(self) -> str | None:
        try:
            import onnxruntime  # noqa: F401
        except ImportError:
            return f"{self.name} needs onnxruntime: pip install 'kalpana[ocr]'"
        if _weights():
            return None
        package = "rapidocr-onnxruntime (Python 3.11 or 3.12)"
        return f"{self.name} needs {package}: pip install 'kalpana[ocr]'"

    def read(self, signs: Iterable[Tensor]) -> list[str]:
        _require(self)
        session, characters, latin = _recogniser()
        texts, lines = _lines(signs, height=32, border=8)
        order = sorted(lines, key=lambda k: lines[k].shape[1])
        for start in range(0, len(order), BATCH):
            chosen = [lines[k] for k in order[start : start + BATCH]]
            width = max(LEAST, chosen[-1].shape[1])
            padded = torch.stack([F.pad(line, (0, width - line.shape[1])) for line in chosen])
            batch = padded[:, None].expand(-1, 3, -1, -1)  # b 3 48 w
            inputs = {session.get_inputs()[0].name: batch.numpy()}
            (probabilities,) = session.run(None, inputs)  # b l characters
            paths = latin[probabilities[..., latin].argmax(-1)].tolist()
            for k, path in zip(order[start : start + BATCH], paths, strict=True):
                word = "".join(  # CTC: without blanks (0) and repetitions
                    characters[n] for i, n in enumerate(path) if n and (i == 0 or n != path[i - 1])
                )
                texts[k] = word.translate(CAPITALS)
        return texts


def _weights() -> Path | None:
    """File of RapidOCR's recogniser, None if it is not installed.

    The package is not imported, because it would import OpenCV.
    """
    spec = find_spec("rapidocr_onnxruntime")
    if not spec or not spec.origin:
        return None
    path = Path(spec.origin).parent / "models/ch_PP-OCRv4_rec_infer.onnx"
    return path if path.exists() else None


@cache
def _recogniser() -> tuple[Any, list[str], np.ndarray]:
    """Recogniser session, its characters by id (0 is the blank), and the ids of blank and Latin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    session = onnxruntime.InferenceSession(
        str(_weights()), options, providers=["CPUExecutionProvider"]
    )
    characters = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    latin = set(string.ascii_letters + string.digits)
    ids = [0, *(n for n, character in enumerate(characters) if character in latin)]
    return session, characters, np.array(ids)


@dataclass(frozen=True)
class Tesseract:
    """Tesseract with two networks for Devanagari: the script's and that of Hindi."""

    name: str = "Tesseract"
    script: str = "Devanagari"
    alike: bool = False
    data: str = "Devanagari+hin"
    page: int = 8  # page segmentation mode: a single word

    def available(self) -> str | None:
        packages = {"hin": "tesseract-ocr-hin", "Devanagari": "tesseract-ocr-script-deva"}
        names = self.data.split("+")
        needed = (packages.get(name, f"tesseract-ocr-{name}") for name in names)
        command = f"apt install {' '.join(('tesseract-ocr', *needed))}"
        if shutil.which("tesseract") is None:
            return f"{self.name} is not installed: {command}"
        listed = subprocess.run(
            ["tesseract", "--list-langs"], capture_output=True, text=True, check=False
        )
        installed = listed.stdout.split()
        missing = [name for name in names if name not in installed]
        return f"{self.name} lacks its data {' and '.join(missing)}: {command}" if missing else None

    def read(self, signs: Iterable[Tensor]) -> list[str]:
        _require(self)
        texts, lines = _lines(signs, height=60, border=10)
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{k}.png" for k in lines]
            for line, path in zip(lines.values(), paths, strict=True):
                (image,) = to_images(line[None, None].expand(-1, 3, -1, -1))
                image.convert("L").save(path, dpi=(300, 300))
            for k, text in zip(lines, self._pages(paths), strict=True):
                texts[k] = text
        return texts

    def _pages(self, paths: Sequence[Path]) -> list[str]:
        """Words in the pictures, read by one call of the program, a page each."""
        if not paths:
            return []
        command = ["tesseract", "stdin", "stdout", "-l", self.data, "--psm", str(self.page)]
        environment = {**os.environ, "OMP_THREAD_LIMIT": str(torch.get_num_threads())}
        names = "".join(f"{path}\n" for path in paths)
        result = subprocess.run(
            command,
            input=names,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        texts = result.stdout.split("\f")  # pages are separated by form feeds
        if result.returncode or len(texts) != len(paths):
            raise KalpanaError(f"{self.name} gave up: {' '.join(result.stderr.split())[:200]}")
        return [devanagari(text) for text in texts]


def devanagari(text: str) -> str:
    """Text without characters that no Devanagari word contains.

    These are spaces, full stops, stress marks and a repeated virama.
    """
    return re.sub(
        "\u094d+", "\u094d", re.sub(r"[^\u0900-\u0950\u0955-\u0963\u0971-\u097f]", "", text)
    )


def _lines(
    signs: Iterable[Tensor], height: int, border: int
) -> tuple[list[str], dict[int, Tensor]]:
    """An empty text per sign, and the ``lifted`` letters, by index, of those that have any."""
    lines = [lifted(sign, height, border) for sign in signs]
    return [""] * len(lines), {k: line for k, line in enumerate(lines) if line is not None}


def _require(ocr: Ocr) -> None:
    """Raise KalpanaError if the engine is not available."""
    missing = ocr.available()
    if missing:
        raise KalpanaError(missing)


# By suite.
ENGINES: dict[str, Ocr] = {"words-latin": RapidOcr(), "words-devanagari": Tesseract()}


def readers(suite: str, own: Sequence[Reader]) -> tuple[tuple[Reader, ...], str | None]:
    """Readers of the words of a suite, and how to install its engine if that is missing, else None.

    The readers are the verifier's own, then the engine for the script; none if the suite asks for
    no words.
    """
    if suite not in ENGINES:
        return (), None
    engine = ENGINES[suite]
    missing = engine.available()
    return (tuple(own) if missing else (*own, reader(engine))), missing


def reader(engine: Ocr) -> Reader:
    """Reader that cuts signs out by their boxes for the engine."""
    return Reader(engine.name, lambda pixels, boxes: engine.read(cut(pixels, boxes)), engine.alike)


# ----------------------------------------------------------------------------------------- accuracy


@dataclass(frozen=True)
class Score:
    """Accuracy of a reader on true renders.

    ``exact``: share of words read exactly. ``alike``: the same with 0 taken for O and 1 for I.
    ``distance``: mean normalised edit distance (see score.ned). ``fooled``: share of words accepted
    although the prompt has one character wrong (see probes.wrong). ``mended``: share of words read
    as in the prompt although the picture has one character wrong. ``signs``: number of signs.
    """

    exact: float
    alike: float
    distance: float
    fooled: float
    mended: float
    signs: int


def measure(
    ocr: Ocr, prompts: Sequence[Prompt], damage: Damage | None = None, off: float = 0.0
) -> Score:
    """Accuracy of a reader on a true render of every prompt, its sign cut out by its true box.

    Each edge of the box is shifted at random by up to ``off`` of the box's side. Raises
    KalpanaError if the engine is not available.
    """
    rng = random.Random("ocr")
    others = [other for prompt in prompts if (other := wrong(prompt, rng)) is not None]
    read, read_wrong = (_read(ocr, shown, damage, off) for shown in (prompts, others))
    seen, misspelt = (
        [Observation(readings=(Reading((word,)),)) for word in words]
        for words in (read, read_wrong)
    )
    wanted = [prompt.word or "" for prompt in prompts]

    def share(values: Iterable[bool]) -> float:
        return sum(values) / len(prompts)

    return Score(
        exact=share(map(right, prompts, seen)),
        alike=share(
            word.translate(ALIKE) == text.translate(ALIKE)
            for word, text in zip(wanted, read, strict=True)
        ),
        distance=sum(map(ned, wanted, read)) / len(prompts),
        fooled=share(map(right, others, seen)),
        mended=share(map(right, prompts, misspelt)),
        signs=len(prompts),
    )


def _read(ocr: Ocr, prompts: Sequence[Prompt], damage: Damage | None, off: float) -> list[str]:
    """Texts read on the sign of each prompt's first true render (see run.ReferenceScores)."""
    scenes = [prompt.scene(random.Random(f"ceiling/{prompt.seeds(1)[0]}")) for prompt in prompts]
    rng, signs = random.Random("boxes"), []
    for start in range(0, len(scenes), 64):
        batch = scenes[start : start + 64]
        pixels = render(batch).pixels
        boxes = []
        for (item,) in (scene.objects for scene in batch):
            half_w, half_h = sprites.half(item)
            dx0, dy0, dx1, dy1 = (
                2 * half * off * rng.uniform(-1, 1) for half in (half_w, half_h, half_w, half_h)
            )
            left, top = item.x - half_w + dx0, item.y - half_h + dy0
            right_edge, bottom = item.x + half_w + dx1, item.y + half_h + dy1
            boxes.append((left, top, right_edge, bottom))
        signs += cut(damage(pixels) if damage else pixels, boxes)
    return ocr.read(signs)


def table(signs: int = SIGNS, dev: bool = False) -> str:
    """Markdown table of every engine in every condition, or of how to install the engine."""
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
