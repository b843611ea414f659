"""Error rates of a verifier: none for a perfect one, the expected ones for an imperfect one.

Every reader has its row.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kalpana.evaluate.run import first
from kalpana.evaluate.score import right
from kalpana.evaluate.suites import load
from kalpana.evaluate.verifiers.eye_labels import EyeErrors
from kalpana.evaluate.verifiers.observations import Observation, Reading, truth
from kalpana.evaluate.verifiers.ocr import ENGINES
from kalpana.evaluate.verifiers.probes import (
    Probe,
    blurred,
    noisy,
    of_malformed_hands,
    of_poses,
    of_prompts,
    wrong,
)
from kalpana.evaluate.verifiers.verifier_errors import (
    DRAWN,
    Error,
    attributes,
    errors,
    publish,
    tables,
    verified,
)
from kalpana.hub.weights import fingerprint, save_weights
from kalpana.media import to_images
from kalpana.models import detector, reader, vae
from kalpana.models.detector import Detector
from kalpana.models.reader import Reader
from kalpana.models.vae import VAE
from kalpana.train.detector import tail
from kalpana.train.detector_labels import labels
from kalpana.types import KalpanaError
from kalpana.world.kinds import puppets
from kalpana.world.render import render
from kalpana.world.scene import Hand, Puppet


class Knows:
    """Verifier without error, which knows the pictures of these probes by their pixels.

    It counts the pictures that it looks at.
    """

    def __init__(self, trials: Sequence[Probe]) -> None:
        scenes = [trial.scene for trial in trials]
        self.looks = 0
        self.known = {
            image.tobytes(): truth(scene)
            for image, scene in zip(to_images(render(scenes).pixels), scenes, strict=True)
        }

    def look(self, pixels: Tensor) -> list[Observation]:
        self.looks += len(pixels)
        return [self.known.get(image.tobytes(), Observation()) for image in to_images(pixels)]


class Careless(Knows):
    """Verifier that takes every hand for a whole one and every figure for a standing one."""

    def look(self, pixels: Tensor) -> list[Observation]:
        return [replace(one, fingers=(5,), poses=("standing",)) for one in super().look(pixels)]


# ------------------------------------------------------------------------------------------- probes


@pytest.mark.slow
def test_minimally_wrong_prompts_are_wrong_of_the_true_picture() -> None:
    """A verifier without error accepts none of them, whatever the kind of prompt."""
    rng = random.Random(0)
    prompts = [
        p
        for name in ("spriteeval", "counts58", "facing", "hard", "hands", *ENGINES)
        for p in first(load(name, dev=True), 8)
    ]
    for prompt in prompts:
        other = wrong(prompt, rng)
        assert other is not None and other != prompt
        seen = truth(prompt.scene(rng))
        assert right(prompt, seen) and not right(other, seen), (prompt, other)


def test_figures_strike_every_pose_as_often_and_hands_have_flaws() -> None:
    drawn = [trial.scene.objects for trial in of_poses(3 * len(puppets.POSES))]
    assert Counter(
        item.sprite.pose for (item,) in drawn if isinstance(item.sprite, Puppet)
    ) == dict.fromkeys(puppets.POSES, 3)
    assert len(of_poses(7)) == 7
    for trial in of_malformed_hands(20):
        (item,) = trial.scene.objects
        assert (
            isinstance(item.sprite, Hand)
            and item.sprite.flaw
            and truth(trial.scene).fingers == ()
            and trial.true is None
        )


def test_damage_is_what_it_says() -> None:
    pixels = torch.zeros(1, 3, 64, 64)
    pixels[:, :, 32, 32] = 1.0
    soft = blurred(2.0)(pixels)
    line = torch.arange(64) - 32.0
    spread = ((soft[0, 0].sum(0) * line**2).sum() / soft[0, 0].sum()).sqrt()
    assert abs(spread - 2.0) < 0.05 and soft[0, 0].sum() == pytest.approx(1.0, abs=1e-4)
    assert (noisy(0.1)(torch.zeros(2, 3, 64, 64))).std() == pytest.approx(0.1, rel=0.05)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.slow
@pytest.mark.parametrize("name", attributes())
def test_the_errors_of_a_verifier_without_error_are_none(name: str) -> None:
    trials = attributes()[name](10)
    (found,) = errors(Knows(trials), trials, {})
    assert (
        found == {DRAWN: Error(None if name == "malformed hands" else 1.0, 0.0, 10)}
        and found[DRAWN].verified
    )


def test_a_careless_verifier_is_found_out() -> None:
    """With each pose equally often, it accepts one in twenty; and every malformed hand."""
    figures, flawed = of_poses(2 * len(puppets.POSES)), of_malformed_hands(6)
    (found,) = errors(Careless(figures), figures, {})
    assert (
        found[DRAWN].recall == pytest.approx(1 / len(puppets.POSES)) and not found[DRAWN].verified
    )
    (found,) = errors(Careless(flawed), flawed, {})
    assert found == {DRAWN: Error(None, 1.0, 6)} and not found[DRAWN].verified


@pytest.mark.slow
def test_damage_is_done_to_the_first_fifth_of_the_same_renders() -> None:
    trials = of_prompts("hands", load("hands", dev=True), 70)
    verifier, damaged = Knows(trials), []

    def flipped(pixels: Tensor) -> Tensor:
        damaged.append(pixels)
        return pixels.flip(-1)

    (found,) = errors(verifier, trials, {"flipped": flipped, "none": lambda pixels: pixels})
    assert verifier.looks == 70 + 2 * 14
    assert torch.equal(torch.cat(damaged), render([trial.scene for trial in trials[:14]]).pixels)
    assert found == {DRAWN: Error(1, 0, 70), "flipped": Error(0, 0, 14), "none": Error(1, 0, 14)}


def test_each_reading_has_errors_of_its_own() -> None:
    trials = of_prompts("words", load("words-latin", dev=True), 10)

    class Reads(Knows):
        def look(self, pixels: Tensor) -> list[Observation]:
            return [
                replace(one, readings=(*one.readings, Reading(("?",))))
                for one in super().look(pixels)
            ]

    first, second = errors(Reads(trials), trials, {}, readings=2)
    assert (first, second) == ({DRAWN: Error(1, 0, 10)}, {DRAWN: Error(0, 0, 10)})


def test_tables_say_what_is_verified_and_what_is_missing() -> None:
    good, poor = Error(0.98, 0.01, 2000), Error(0.5, 0.03, 400)
    eye, found = (
        EyeErrors(0.9, 0.25, 10, 20, {"blob": (0.5, 6)}),
        {"single": {DRAWN: good, "blur": poor}, "poses": {DRAWN: poor, "blur": poor}},
    )
    said = tables(found, {"words": "no engine: install it"}, 1.0, 0.9, eye)
    for line in (
        "| single | 98.0 | 1.0 | 2,000 | verified |",
        "| poses | 50.0 | 3.0 | 400 | **not verified** |",
        "| words | | | | **unavailable**: no engine: install it |",
        "| single | 98 / 1 | 50 / 3 |",
        "Generated pictures labelled by eye: accepts 90.0 % of 10 right ones "
        "and 25.0 % of 20 wrong ones (blob 50 % of 6).",
    ):
        assert line in said.splitlines(), said
    assert "| malformed hands | – | 0.0 | 9 | verified |" in tables(
        {"malformed hands": {DRAWN: Error(None, 0, 9)}}, {}, 1.0, 1.0, eye
    )


# ------------------------------------------------------------------------------------------ publish


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Verifier with random weights and without a reader, and an autoencoder."""
    net = Detector(
        detector.Config(
            classes=len(labels()),
            fine=8,
            coarse=8,
            deep=8,
            depth=(1, 1, 1, 1),
            concepts=len(tail()),
        )
    )
    save_weights(tmp_path / "verifier" / "detector.safetensors", net, "detector", net.config, {})
    coder = VAE(vae.Config(4, 8, 8, (1, 1), (1, 1)))
    save_weights(tmp_path / "vae.safetensors", coder, "vae", coder.config, {})
    return tmp_path / "verifier"


@pytest.mark.slow
def test_without_engines_their_rows_say_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = publish(folder, 2, folder.parent / "vae.safetensors")
    assert (
        "| words-latin by RapidOCR | | | | **unavailable**: "
        "RapidOCR needs onnxruntime: pip install 'kalpana[ocr]' |"
    ) in said
    assert (
        "| words-devanagari by Tesseract | | | | **unavailable**: "
        "Tesseract is not installed: apt install tesseract-ocr "
    ) in said
    kept = json.loads((folder / "errors.json").read_text())
    assert (
        list(kept["errors"]) == [name for name in attributes() if name not in ENGINES]
        and len(kept["unavailable"]) == 2
    )
    assert kept["errors"]["poses"][DRAWN]["renders"] == 2 and len(kept["errors"]["poses"]) == 9

    own = Reader(reader.Config("AB", 8, 8))
    save_weights(folder / "reader.safetensors", own, "reader", own.config, {})
    said = publish(folder, 1, folder.parent / "vae.safetensors")
    assert (
        said.count("| words-latin by the verifier's reader |") == 2
        and said.count("**unavailable**") == 2
    )


@pytest.mark.skipif(
    any(engine.available() for engine in ENGINES.values()),
    reason=str([e.available() for e in ENGINES.values()]),
)
def test_every_reader_there_is_has_its_row(folder: Path) -> None:
    own = Reader(reader.Config("AB", 8, 8))
    save_weights(folder / "reader.safetensors", own, "reader", own.config, {})
    said = publish(folder, 1, folder.parent / "vae.safetensors")
    for row in (
        "latin by the verifier's reader",
        "latin by RapidOCR (0 as O, 1 as I)",
        "devanagari by Tesseract",
    ):
        assert said.count(f"| words-{row} |") == 2, said
    assert "unavailable" not in said


@pytest.mark.slow
def test_a_row_alone_is_measured_anew_where_the_detector_is_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    coder, row, own = (
        folder.parent / "vae.safetensors",
        "words-latin by the verifier's reader",
        Reader(reader.Config("AB", 8, 8)),
    )
    with pytest.raises(KalpanaError, match=r"nothing is published .*leave out --only"):
        publish(folder, 1, coder, only=["single"])
    save_weights(folder / "reader.safetensors", own, "reader", own.config, {})
    publish(folder, 1, coder)
    before = json.loads((folder / "errors.json").read_text())
    own.write.bias.data += 1
    save_weights(folder / "reader.safetensors", own, "reader", own.config, {})
    with pytest.raises(KalpanaError, match=r"there is no row 'words'.*single"):
        publish(folder, 2, coder, only=["words"])
    said = publish(folder, 2, coder, only=[row])
    after = json.loads((folder / "errors.json").read_text())
    renders = {name: error[DRAWN]["renders"] for name, error in after["errors"].items()}
    assert renders == {name: 2 if name == row else 1 for name in before["errors"]} and list(
        renders
    ) == list(before["errors"])
    assert (
        after["files"] != before["files"]
        and after["unavailable"] == before["unavailable"]
        and after["recall"] == before["recall"]
    )
    assert (
        said.count("unavailable") == 2
        and verified(folder, "single", ["single"])["single"]
        == Error(**after["errors"]["single"][DRAWN]).verified
    )

    (folder / "detector.safetensors").write_bytes(b"another")
    with pytest.raises(KalpanaError):
        publish(folder, 1, coder, only=[row])


def test_what_is_verified_is_what_was_published_of_these_weights(folder: Path) -> None:
    asked = ("single", "counting", "position")
    nothing = dict.fromkeys(asked, False)
    assert verified(folder, "spriteeval", asked) == nothing
    good, poor = vars(Error(0.98, 0.01, 2000)), vars(Error(0.96, 0.0, 2000))
    published = {
        name: {DRAWN: good}
        for name in ("single", "two", "counting", "colors", "color_attr", "words-latin by RapidOCR")
    }
    published |= {"position": {DRAWN: poor}}
    about = {
        "files": {"detector.safetensors": fingerprint(folder / "detector.safetensors")},
        "errors": published,
    }
    (folder / "errors.json").write_text(json.dumps(about))
    assert verified(folder, "spriteeval", asked) == {
        "single": True,
        "counting": True,
        "position": False,
    }
    assert verified(folder, "unseen", ["unseen color", "unseen count"]) == {
        "unseen color": True,
        "unseen count": False,
    }
    assert verified(folder, "counts58", ["counts58"]) == {"counts58": False}, (
        "larger counts have errors of their own"
    )
    assert verified(folder, "hard", ["hard 3"]) == {"hard 3": False}, (
        "sizes have errors of their own"
    )
    assert verified(folder, "words-latin", ["words"]) == {"words": False, "words by RapidOCR": True}
    (folder / "errors.json").write_text(
        json.dumps(about | {"files": {"detector.safetensors": "another"}})
    )
    assert verified(folder, "spriteeval", asked) == nothing
