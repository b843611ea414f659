"""OCR readers: letters are extracted from any sign and read; a missing engine is reported."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kalpana.evaluate.score import letters, ned
from kalpana.evaluate.suites import load
from kalpana.evaluate.verifiers import ocr
from kalpana.evaluate.verifiers.observations import Reader
from kalpana.evaluate.verifiers.ocr import (
    ENGINES,
    Ocr,
    RapidOcr,
    Tesseract,
    cut,
    devanagari,
    lifted,
    measure,
    reader,
    readers,
    table,
)
from kalpana.evaluate.verifiers.probes import wrong
from kalpana.types import KalpanaError
from kalpana.world import sprites
from kalpana.world.render import render
from kalpana.world.scene import Background, Group, Scene, SceneObject, Sign


def installed(engine: Ocr) -> object:
    """Engine as a test parameter, skipped with the reason if the engine is missing."""
    missing = engine.available()
    return pytest.param(
        engine, id=engine.name, marks=pytest.mark.skipif(missing is not None, reason=str(missing))
    )


REAL = [installed(RapidOcr()), installed(Tesseract())]
WORDS = {"RapidOCR": ("HOTEL", "MILK", "EXIT"), "Tesseract": ("होटल", "राजा", "पुलिस")}


def sign(
    word: str, board: str = "white", ink: str = "black", side: int = 128, size: float = 0.9
) -> Tensor:
    """Single sign on a light blue picture, cut out."""
    item = SceneObject(Sign(word, "Mukta", ink, board), 0.5, 0.5, size)
    half_w, half_h = sprites.half(item)
    scene = Scene((item,), (Group("sign"),), Background("flat", "light blue", 0))
    (one,) = cut(
        render([scene], side).pixels, [(0.5 - half_w, 0.5 - half_h, 0.5 + half_w, 0.5 + half_h)]
    )
    return one


# ------------------------------------------------------------------------------------------ letters


def test_cutting_out_keeps_proportions_and_never_leaves_nothing() -> None:
    pixels = torch.rand(4, 3, 50, 100) * 2 - 1
    before = pixels.clone()
    boxes = [
        (0.2, 0.2, 0.6, 0.6),
        (-0.5, -0.5, 1.5, 1.5),
        (0.3, 0.3, 0.3, 0.3),
        (1.5, 1.5, 1.7, 1.7),
    ]
    shapes = [tuple(one.shape) for one in cut(pixels, boxes)]
    assert shapes == [(3, 24, 44), (3, 50, 100), (3, 1, 1), (3, 1, 1)]
    assert torch.equal(pixels, before)


@pytest.mark.parametrize(
    ("board", "ink"),
    [("white", "black"), ("black", "white"), ("dark blue", "yellow"), ("", "brown")],
)
@pytest.mark.parametrize("word", ["OXO", "पुलिस"])
def test_letters_are_lifted_off_every_board_black_on_white(word: str, board: str, ink: str) -> None:
    one = sign(word, board, ink, size=0.5)
    before = one.clone()
    line = lifted(one, height=40, border=4)
    plain = lifted(sign(word, "white", "black", size=0.5), height=40, border=4)
    assert line is not None and plain is not None and torch.equal(one, before)
    assert line.shape[0] == 48 and -1 <= float(line.min()) < -0.8 and float(line.max()) == 1
    assert (
        torch.all(torch.cat((line[:4], line[-4:])) == 1)
        and torch.all(line[:, :4] == 1)
        and torch.all(line[:, -4:] == 1)
    )
    if board:  # without a board the box is tighter and the letters are rendered larger
        assert abs(line.shape[1] - plain.shape[1]) <= 3
        assert float(
            (line[:, : min(line.shape[1], plain.shape[1])] < 0).float().mean()
        ) == pytest.approx(float((plain < 0).float().mean()), abs=0.05)


def test_nothing_is_lifted_where_nothing_is_written() -> None:
    for blank in (torch.zeros(3, 20, 60), torch.ones(3, 1, 1), 0.01 * torch.randn(3, 9, 200)):
        assert lifted(blank, 40, 4) is None
    framed = torch.ones(3, 40, 90)
    framed[:, 4:6, 4:-4] = framed[:, -6:-4, 4:-4] = framed[:, 4:-4, 4:6] = framed[
        :, 4:-4, -6:-4
    ] = -1
    framed[:, 5:35, :5] = framed[:, :4] = framed[:, -4:] = framed[:, :, :4] = framed[:, :, -4:] = (
        0.2
    )
    assert lifted(framed, 40, 4) is None, "a frame is no letter"


def test_devanagari_is_kept_and_what_no_word_has_is_not() -> None:
    assert (
        devanagari(" होटल.\n") == "होटल"
        and devanagari("केला।") == "केला"
        and devanagari("क््ते") == "क्ते"
    )
    assert devanagari("सड़क") == "सड़क" and devanagari("ॐ") == "ॐ" and devanagari("लोथ॑ंलू") == "लोथंलू"
    assert devanagari("EXIT 12 १") == ""


WORD = st.text(st.sampled_from("AB12कतिी\u094dंॐ"), max_size=6)


@pytest.mark.slow
@given(WORD, WORD, WORD)
def test_edit_distance_is_a_distance(a: str, b: str, c: str) -> None:
    # Not normalised: a share of the longer word need not satisfy the triangle inequality.
    def steps(one: str, two: str) -> float:
        return round(ned(one, two) * max(len(letters(one)), len(letters(two)), 1), 6)

    assert ned(a, b) == ned(b, a) and 0 <= ned(a, b) <= 1
    assert (ned(a, b) == 0) == (letters(a) == letters(b))
    assert steps(a, c) <= steps(a, b) + steps(b, c)


# ------------------------------------------------------------------------------------------ engines


@pytest.mark.parametrize("engine", REAL)
def test_large_clean_words_are_read_exactly(engine: Ocr) -> None:
    words = WORDS[engine.name]
    signs = [sign(word, side=side) for word in words for side in (128, 256)]
    assert engine.read(signs) == [word for word in words for _ in range(2)]


@pytest.mark.parametrize("engine", REAL)
def test_a_batch_is_its_signs_one_by_one_and_blank_ones_are_empty(engine: Ocr) -> None:
    first, second, third = (sign(word) for word in WORDS[engine.name])
    blank, noise = (
        torch.zeros(3, 30, 60),
        (torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5) * 2.0 - 1,
    )
    mixed = [blank, first, noise, second, blank, third, noise]
    assert engine.read([]) == [] and engine.read([blank]) == [""]
    said = engine.read(iter(mixed))
    assert said == [word for one in mixed for word in engine.read([one])]
    assert [said[k] for k in (0, 1, 3, 4, 5)] == [
        "",
        WORDS[engine.name][0],
        WORDS[engine.name][1],
        "",
        WORDS[engine.name][2],
    ]


@pytest.mark.parametrize("engine", REAL)
def test_signs_of_the_suites_are_read(engine: Ocr) -> None:
    suite = next(suite for suite, one in ENGINES.items() if one == engine)
    score = measure(engine, load(suite, dev=True)[:10])
    assert (
        score.signs == 10 and score.alike >= 0.7 and score.distance <= 0.15 and score.fooled == 0
    ), score


@dataclass
class Said:
    """Reader that returns given answers, one list per call."""

    answers: list[list[str]]
    name: str = "said"
    asked: list[int] = field(default_factory=list)

    def available(self) -> str | None:
        return None

    def read(self, signs: Iterable[Tensor]) -> list[str]:
        self.asked.append(len(list(signs)))
        return self.answers.pop(0)


def test_what_is_measured_is_what_it_is_called() -> None:
    prompts = load("words-latin")[:4]
    true = [prompt.word or "" for prompt in prompts]
    rng = random.Random("ocr")
    others = [(wrong(prompt, rng) or prompt).word or "" for prompt in prompts]
    assert all(a != b for a, b in zip(true, others, strict=True))

    perfect = Said([true, others])
    score = measure(perfect, prompts)
    assert (score.exact, score.alike, score.distance, score.fooled, score.mended) == (
        1,
        1,
        0,
        0,
        0,
    ) and perfect.asked == [4, 4]
    fooled = measure(Said([others, true]), prompts)
    assert (fooled.exact, fooled.fooled, fooled.mended) == (0, 1, 1) and 0 < fooled.distance < 1
    mute = measure(Said([[""] * 4, [""] * 4]), prompts)
    assert (mute.exact, mute.distance, mute.fooled, mute.mended) == (0, 1, 0, 0)
    folded = measure(Said([[word.translate(ocr.ALIKE) for word in true], others]), prompts)
    assert folded.alike == 1


# ------------------------------------------------------------------------------------------ missing


def missing(engine: Ocr) -> str:
    reason = engine.available()
    assert reason is not None and "\n" not in reason
    with pytest.raises(KalpanaError, match="install"):
        engine.read([sign("A")])
    return reason


@pytest.mark.parametrize("package", ["onnxruntime", "rapidocr_onnxruntime"])
def test_without_its_packages_rapidocr_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'kalpana[ocr]'" in missing(RapidOcr())


def test_without_tesseract_or_its_data_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install tesseract-ocr " in missing(Tesseract())
    program = tmp_path / "tesseract"
    program.write_text(
        "#!/bin/sh\necho 'List of available languages (2):'\necho eng\necho Devanagari\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    assert (
        "data hin: apt install tesseract-ocr tesseract-ocr-script-deva tesseract-ocr-hin"
        in missing(Tesseract())
    )
    assert Tesseract(data="Devanagari").available() is None


def test_a_tesseract_that_fails_is_an_error_and_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tesseract"
    program.write_text(
        '#!/bin/sh\nif [ "$1" = --list-langs ]; then echo hin; '
        "else echo 'no memory' >&2; exit 1; fi\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KalpanaError, match="gave up: no memory"):
        Tesseract(data="hin").read([sign("हवा")])


def test_the_table_names_what_is_missing_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    lines = table(signs=1).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert all("**not available**" in line and "install" in line for line in lines[2:])


OWN = Reader("own", lambda pixels, boxes: [])


def test_the_verifiers_own_reader_counts_and_the_engine_stands_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RapidOcr, "available", lambda self: None)
    assert [[one.title for one in readers("words-latin", own)[0]] for own in ((), (OWN,))] == [
        ["RapidOCR (0 as O, 1 as I)"],
        ["own", "RapidOCR (0 as O, 1 as I)"],
    ]
    assert readers("hands", (OWN,)) == ((), None), "where no words are asked for, none are read"


def test_an_engine_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    missing = RapidOcr().available()
    assert (
        missing
        and readers("words-latin", ()) == ((), missing)
        and readers("words-latin", (OWN,)) == ((OWN,), missing)
    )


@pytest.mark.parametrize("engine", REAL)
def test_as_a_reader_an_engine_reads_boxes_of_pictures(engine: Ocr) -> None:
    word, *_ = WORDS[engine.name]
    objects = [
        SceneObject(Sign(word, "Mukta", "black", "white"), 0.5, y, 0.8) for y in (0.25, 0.75)
    ]
    scene = Scene(tuple(objects), (Group("sign"),), Background("flat", "light blue", 0))
    halves = [sprites.half(item) for item in objects]
    boxes = [
        (t.x - w, t.y - h, t.x + w, t.y + h) for t, (w, h) in zip(objects, halves, strict=True)
    ]
    pixels = render([scene, replace(scene, objects=())]).pixels
    assert reader(engine).read(pixels[[0, 0, 1]], [*boxes, boxes[0]]) == [word, word, ""]
