"""Human labels of generated pictures: the stored set is unchanged, and the shares are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from kalpana.evaluate.verifiers.eye_labels import (
    EYE,
    FAULTS,
    RIGHT,
    EyeErrors,
    Label,
    agreement,
    labels,
    pack,
    pictures,
)
from kalpana.evaluate.verifiers.observations import Detection, Observation
from kalpana.media import to_pixels
from kalpana.types import KalpanaError
from kalpana.world.world import World

APPLE, DOG = "1f34e", "1f415"


class Says:
    """Verifier that detects the same objects in every picture."""

    def __init__(self, *objects: Detection) -> None:
        self.objects = objects

    def look(self, pixels: Tensor) -> list[Observation]:
        return [Observation(self.objects)] * len(pixels)


class Knows(Says):
    """Verifier that agrees with the labels: it finds the class asked for in the right pictures."""

    def __init__(self) -> None:
        self.answers = {
            to_pixels([image]).numpy().tobytes(): label
            for label, image in zip(labels(), pictures(), strict=True)
        }

    def look(self, pixels: Tensor) -> list[Observation]:
        found = [self.answers[one[None].numpy().tobytes()] for one in pixels]
        return [
            Observation(
                (Detection(label.concept, 0.9, (0, 0, 1, 1)),) if label.eye == RIGHT else ()
            )
            for label in found
        ]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """CSV of three labelled pictures."""
    for k, pixels in enumerate(World(1).images(range(3))):
        Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()).save(
            tmp_path / f"{k}.png"
        )
    path = tmp_path / "labels.csv"
    path.write_text(
        f"picture,concept,eye,model\n0.png,{APPLE},right,old\n"
        f"1.png,{DOG},two heads,old\n2.png,{DOG},blob,new\n"
    )
    return path


def test_a_set_comes_back_as_it_was_packed(table: Path, tmp_path: Path) -> None:
    assert pack(table, tmp_path / "eye") == 3
    assert labels(tmp_path / "eye") == [
        Label(APPLE, "right", "old"),
        Label(DOG, "two heads", "old"),
        Label(DOG, "blob", "new"),
    ]
    for k, image in enumerate(pictures(tmp_path / "eye")):
        assert image.tobytes() == Image.open(tmp_path / f"{k}.png").tobytes()


@pytest.mark.parametrize("line", ["0.png,nothing,right,old", f"0.png,{DOG},three heads,old"])
def test_a_wrong_line_is_named(table: Path, line: str) -> None:
    table.write_text(f"picture,concept,eye,model\n0.png,{DOG},right,old\n{line}\n")
    with pytest.raises(KalpanaError, match="line 3: write a lexicon id"):
        pack(table)


def test_shares_are_counted_by_hand(table: Path, tmp_path: Path) -> None:
    pack(table, tmp_path / "eye")
    box = (0.0, 0.0, 1.0, 1.0)
    dog = agreement(Says(Detection(DOG, 0.9, box)), tmp_path / "eye")
    assert dog == EyeErrors(0.0, 1.0, 1, 2, {"two heads": (1.0, 1), "blob": (1.0, 1)})
    both = agreement(Says(Detection(DOG, 0.2, box), Detection(APPLE, 0.9, box)), tmp_path / "eye")
    assert both == EyeErrors(1.0, 0.0, 1, 2, {"two heads": (0.0, 1), "blob": (0.0, 1)}), (
        "0.2 is not sure enough"
    )


@pytest.mark.slow
def test_the_set_is_balanced_and_a_verifier_with_the_eyes_answers_is_right() -> None:
    every = labels()
    right = sum(label.eye == RIGHT for label in every)
    assert len(every) == 200 and right == 100 and {label.eye for label in every} <= {RIGHT, *FAULTS}
    found = agreement(Knows())
    assert (found.recall, found.false_accepts, found.right, found.wrong) == (1.0, 0.0, 100, 100)
    assert (EYE / "pictures.webp").stat().st_size < 6 * 2**20
