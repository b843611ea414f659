"""Edits by two prompts: changes of one atom alone, and their verdicts on true observations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kalpana.evaluate.editing import edits
from kalpana.evaluate.editing.edits import KINDS, WAYS, changes, kept, kept_psnr, verdict
from kalpana.evaluate.verifiers.observations import Observation, truth
from kalpana.media import to_images
from kalpana.types import Output, Result, Step
from kalpana.world.render import render
from kalpana.world.scene import Scene

COUNT = 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_atom_changes_and_nothing_else(kind: str) -> None:
    found = list(changes(kind, COUNT))
    assert found == list(changes(kind, COUNT)) and len(found) == COUNT
    for change in found:
        assert change.source.text != change.target.text
        assert change.before.groups == change.source.groups
        assert change.after.groups == change.target.groups
        same = [a == b for a, b in zip(change.before.objects, change.after.objects, strict=True)]
        if kind == "ground":
            assert all(same) and change.before.background != change.after.background
            assert change.after.background.name == change.target.place != change.source.place
            continue
        assert same.count(False) == 1 and change.before.background == change.after.background
        old, new = change.source.groups[change.k], change.target.groups[change.k]
        differ = {"colour": (False, True), "class": (True, False)}[kind]
        assert (old.concept != new.concept, old.color != new.color) == differ


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_floor_fails_alone_by_the_asked_atom_and_the_ceiling_by_none(kind: str) -> None:
    for change in changes(kind, COUNT):
        before, after = (render([scene]).pixels for scene in (change.before, change.after))
        left = verdict(change, truth(change.before), before)
        # Where a class changes, the colour of the new object is not there either.
        assert left == (False, kind != "class")
        assert verdict(change, truth(change.after), after) == (True, True)
        assert math.isinf(kept_psnr(change, after))
        if kind != "ground":
            assert math.isinf(kept_psnr(change, before))


@pytest.mark.slow
def test_another_object_that_is_lost_counts_against_the_others() -> None:
    (change,) = changes("colour", 1)
    seen, pixels = truth(change.after), render([change.after]).pixels
    mine = change.target.groups[change.k].concept
    alone = Observation(tuple(item for item in seen.objects if item.concept == mine))
    assert verdict(change, alone, pixels) == (True, False)
    other = Observation(tuple(item for item in seen.objects if item.concept != mine))
    assert verdict(change, other, pixels) == (False, False)


@pytest.mark.slow
def test_the_rest_is_what_the_change_leaves() -> None:
    (colour,), (ground,) = changes("colour", 1), changes("ground", 1)
    for change in (colour, ground):
        true, mask = render([change.after]).pixels, kept(change)
        noise = torch.full_like(true, 0.02)
        inside = true + noise * ~mask
        assert math.isinf(kept_psnr(change, inside))
        # 10 log10(2² / 0.02²) = 40 dB
        assert kept_psnr(change, true + noise * mask) == pytest.approx(40, abs=1e-3)
    differs = (render([colour.before]).pixels != render([colour.after]).pixels).any(1)[0]
    assert differs.any() and not (differs & kept(colour)).any()


class Knows:
    """A verifier without error on the renders that it was shown."""

    def __init__(self, scenes: list[Scene]) -> None:
        self.known = [(render([scene]).pixels, truth(scene)) for scene in scenes]

    def look(self, pixels: Tensor) -> list[Observation]:
        return [
            next((s for true, s in self.known if (true - one).abs().max() < 0.02), Observation())
            for one in pixels
        ]


class Perfect:
    """A model that answers every edit with the true render of the changed scene."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.every = [change for kind in KINDS for change in changes(kind, 2)]

    def generate(self, request: Any) -> Iterator[Step]:
        self.asked.append(request)
        (change,) = [
            each
            for each in self.every
            if (each.source.text, each.target.text) == (request.source_prompt, request.prompt)
        ]
        assert request.image.picture().size == (128, 128)
        image = to_images(render([change.after]).pixels)[0]
        result = Result([Output(image, request.seed, {})], ())
        yield Step(1, 1, "edit", None, 0.0, result)


@pytest.mark.slow
def test_a_perfect_model_has_the_scores_of_the_ceiling() -> None:
    model = Perfect()
    verifier = Knows([scene for each in model.every for scene in (each.before, each.after)])
    done: list[tuple[int, int]] = []
    rows = edits.measure(model, verifier, 2, lambda *each: done.append(each))  # type: ignore[arg-type]
    assert done[-1] == (6, 6) and len(model.asked) == 6
    by_way = {(row.kind, row.way): row for row in rows}
    for kind in KINDS:
        for way in ("edited", "true"):
            assert by_way[kind, way].asked.value == by_way[kind, way].kept.value == 1
        assert by_way[kind, "left alone"].asked.value == 0
    assert "autoencoded" not in {row.way for row in rows}  # this model has none
    text = edits.markdown(rows)
    assert text.count("\n") == len(rows) + 2 and all(WAYS[row.way] in text for row in rows)
    worse = edits.markdown([replace(rows[0], count=99)])
    assert worse.rstrip().endswith("| 99 |")
