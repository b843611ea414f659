"""The layout planner of quoted words and of counted objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kalpana.media import to_images
from kalpana.pipelines import last, planner
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.planner import plan_glyphs, plan_layout
from kalpana.pipelines.replay import again
from kalpana.request import Request
from kalpana.types import Cond, KalpanaError


@pytest.mark.parametrize(
    ("prompt", "word", "side"),
    [
        ('a sign that says "OPEN"', "OPEN", None),
        ('the word "HI" above a cat', "HI", "above"),
        ('a cat below the word "HI"', "HI", "above"),
        ('a cat above a board with "GO" written on it', "GO", "below"),
        ('a star with the word "UP" below it', "UP", "below"),
        ("“नमस्ते” लिखा हुआ बोर्ड", "नमस्ते", None),
        ('बिल्ली के ऊपर "राम" शब्द', "राम", "above"),
        ('"राम" के ऊपर बिल्ली', "राम", "below"),
    ],
)
def test_a_quoted_word_gets_a_place(prompt: str, word: str, side: str | None) -> None:
    for seed in range(4):
        plan = plan_glyphs(prompt, seed)
        assert plan is not None and plan.word == word
        left, top, right, bottom = plan.box
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        inked = (plan.map[0] > 0.5).nonzero().float() / 128
        assert len(inked) > 20
        (y0, x0), (y1, x1) = inked.amin(0).tolist(), inked.amax(0).tolist()
        assert left - 0.02 <= x0 and x1 <= right + 0.02 and top - 0.02 <= y0 and y1 <= bottom + 0.02
        if side is not None:
            assert ((top + bottom) / 2 < 0.5) == (side == "above")


def test_of_several_layouts_the_one_with_the_largest_letters_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heights: dict[int, list[float]] = {1: [], 6: []}
    for count, found in heights.items():
        monkeypatch.setattr("kalpana.pipelines.planner.LAYOUTS", count)
        for seed in range(6):
            plan = plan_glyphs('a sign that says "OPEN"', seed)
            assert plan is not None
            found.append(plan.box[3] - plan.box[1])
    assert all(few <= many for few, many in zip(heights[1], heights[6], strict=True))
    assert sum(heights[6]) > 1.2 * sum(heights[1])


def test_a_plan_depends_on_the_seed_alone() -> None:
    one, again, other = (plan_glyphs('a sign that says "OPEN"', seed) for seed in (1, 1, 2))
    assert one is not None and again is not None and other is not None
    assert torch.equal(one.map, again.map) and not torch.equal(one.map, other.map)


@pytest.mark.parametrize(
    "prompt", ["a red car", 'a sign "ONE" and a sign "TWO"', 'a sign "SUPERCALIFRAGILISTIC"', '""']
)
def test_no_plan_without_one_legible_word(prompt: str) -> None:
    assert plan_glyphs(prompt, 0) is None


# ------------------------------------------------------------------------------- counted objects


def test_the_map_shows_the_planned_boxes() -> None:
    plan = plan_layout("three cats and a red car", 3, 64)
    assert plan is not None
    assert sorted(plan.names) == ["car", "cat", "cat", "cat"] and plan.map.shape == (3, 64, 64)
    wanted = torch.zeros(64, 64)
    boxes = [[round(64 * side) for side in box] for box in plan.boxes]
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
        wanted[y0:y1, x0:x1] = 1
    assert torch.equal(plan.map[0] > 0, wanted > 0)
    for x0, y0, x1, y1 in boxes:
        assert bool((plan.map[:, [y0, y1 - 1], x0:x1] == 1).all())
        assert bool((plan.map[:, y0:y1, [x0, x1 - 1]] == 1).all())
    again, other = (plan_layout("three cats and a red car", seed, 64) for seed in (3, 4))
    assert again is not None and other is not None
    assert again.boxes == plan.boxes != other.boxes


def test_hindi_in_latin_letters_has_the_layout_of_devanagari() -> None:
    assert plan_layout("saat taare", 1) is not None
    assert plan_layout("saat taare", 1) != plan_layout("saat taare", 2)
    spelled, wanted = plan_layout("saat taare", 1), plan_layout("सात तारे", 1)
    assert spelled is not None and wanted is not None and spelled.boxes == wanted.boxes


class Steered(nn.Module):
    """A network that adds the mean of each control map, and keeps what it was given."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        self.reads = (*network.reads, "control")
        self.given: list[tuple[float, dict[str, Tensor]]] = []

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.given.append((float(t[0]), dict(cond.control or {})))
        y = self.network(x_t, t, replace(cond, control=None))
        for each in (cond.control or {}).values():
            y = y + (each[:, :3] * each[:, 3:]).mean((1, 2, 3), keepdim=True)
        return y


@pytest.fixture
def steered(model: DiffusionPipeline) -> DiffusionPipeline:
    able = model.capabilities
    able = able.model_copy(
        update={"uses": (*able.uses, "control", "image"), "controls": ("boxes", "glyphs")}
    )
    network: Any = Steered(model.network)
    return replace(model, network=network, capabilities=able)


def kinds(model: DiffusionPipeline) -> set[str]:
    assert isinstance(model.network, Steered)
    found = {kind for _, given in model.network.given for kind in given}
    model.network.given.clear()
    return found


SIGN = 'a sign that says "OPEN"'


@pytest.mark.parametrize(
    ("plan", "prompt", "planned"),
    [
        ("words", SIGN, {"glyphs"}),
        ("layout", SIGN, set()),
        ("all", SIGN, {"glyphs"}),
        ("none", SIGN, set()),
        (True, SIGN, {"glyphs"}),
        (False, SIGN, set()),
        ("words", "two cats", set()),
        ("layout", "two cats", {"boxes"}),
        ("all", "two cats", {"boxes"}),
        ("none", "two cats", set()),
    ],
)
def test_plan_says_what_is_planned(
    steered: DiffusionPipeline, plan: Any, prompt: str, planned: set[str]
) -> None:
    result = last(steered.generate(prompt, seed=1, steps=1, guidance=1, plan=plan))
    assert kinds(steered) == planned
    (output,) = result.outputs
    assert set(output.receipt.get("plan", {})) == planned
    asked = plan in ("layout", "all")
    assert len(result.warnings) == int(asked and "boxes" not in planned)
    assert all("no layout is planned" in warning for warning in result.warnings)


def test_the_network_and_the_receipt_hold_the_layout_of_each_seed(
    steered: DiffusionPipeline,
) -> None:
    outputs = last(
        steered.generate("two cats", seed=1, n=2, steps=1, guidance=1, plan="layout")
    ).outputs
    assert isinstance(steered.network, Steered)
    (((_, given),),) = [steered.network.given]
    for seed, output, row in zip((1, 2), outputs, given["boxes"], strict=True):
        plan = plan_layout("two cats", seed, 32)
        assert plan is not None
        assert torch.equal(row, torch.cat((2 * plan.map - 1, torch.ones(1, 32, 32))))
        found = output.receipt["plan"]["boxes"]
        assert [each["box"] for each in found] == [list(box) for box in plan.boxes]
        assert [each["object"] for each in found] == ["cat", "cat"]
        (replayed,) = last(again(steered, output.receipt)).outputs
        assert replayed.image.tobytes() == output.image.tobytes()
    plain = last(steered.generate("two cats", seed=1, steps=1, guidance=1)).outputs[0]
    assert plain.image.tobytes() != outputs[0].image.tobytes() and "plan" not in plain.receipt


def test_strength_and_window_of_the_planned_boxes(
    steered: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(steered.network, Steered)
    monkeypatch.setitem(planner.STRENGTH, "boxes", 0.25)
    monkeypatch.setitem(planner.WINDOW, "boxes", (0.0, 0.5))
    fields: dict[str, Any] = {"seed": 1, "steps": 8, "guidance": 1}
    last(steered.generate("two cats", plan="layout", **fields))
    with_map = [t for t, given in steered.network.given if given]
    without = [t for t, given in steered.network.given if not given]
    assert with_map and without and min(with_map) >= 0.5 > max(without)
    assert all(
        bool((given["boxes"][:, 3] == 0.25).all()) for _, given in steered.network.given if given
    )


def test_a_given_map_another_size_and_an_input_picture_have_no_layout(
    steered: DiffusionPipeline, tmp_path: Path
) -> None:
    plan = plan_layout("two cats", 9, 32)
    assert plan is not None
    image = to_images(2 * plan.map[None] - 1)[0]
    drawn = steered.generate(
        "two cats", seed=1, steps=1, guidance=1, plan="layout", control={"boxes": image}
    )
    result = last(drawn)
    assert "beside the control map of boxes" in result.warnings[0]
    assert "plan" not in result.outputs[0].receipt
    assert isinstance(steered.network, Steered)
    ((_, given),) = steered.network.given
    assert torch.equal(given["boxes"][0, 0] > -1, plan.map[0] > 0)
    for fields, why in (
        ({"image": image, "strength": 0.5}, "for a picture to start from"),
        ({"size": "64x32"}, "at 64x32, but at 32x32"),
    ):
        able = steered.capabilities.model_copy(update={"sizes": ("32x32", "64x32")})
        request = able.resolve(Request(prompt="two cats", seed=1, plan="layout", **fields))[0]
        assert planner.planned(request, able).maps == {}
        assert planner.unplanned(request, able) == (f"plan: no layout is planned {why}",)


def test_a_model_that_reads_no_boxes_plans_no_layout(model: DiffusionPipeline) -> None:
    for able, why in (
        ((), "it has no such setting"),
        (("glyphs",), "it reads no map of boxes"),
    ):
        changes = {"uses": (*model.capabilities.uses, *(("control",) if able else ()))}
        mine = replace(
            model,
            capabilities=model.capabilities.model_copy(update=changes | {"controls": able}),
        )
        for plan in ("layout", "all"):
            with pytest.raises(KalpanaError, match=f"plan '{plan}' cannot be used .*: {why}"):
                mine.generate("two cats", plan=plan)
        result = last(mine.generate("two cats", seed=1, steps=1, plan="layout", strict=False))
        assert result.warnings == (f"plan was ignored: {why}",)
