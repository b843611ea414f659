"""Best-of-n: which candidate is kept, its receipt, and its replay without the other candidates."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kalpana
from kalpana.media import read_receipt, save
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.pipeline import TOGETHER
from kalpana.pipelines.replay import compare, request_of
from kalpana.request import Request
from kalpana.types import KalpanaError, Output, Result
from kalpana.understand.encoder import Encoder

PROMPT = "नीली कार के बाईं ओर तीन लाल सेब"


def result(model: DiffusionPipeline, ranker: Encoder | None = None, **fields: Any) -> Result:
    *_, last = model.generate(PROMPT, rank_by=ranker, **fields)
    assert last.result is not None
    return last.result


def pixels(picture: Output) -> np.ndarray:
    return np.asarray(picture.image).astype(int)


def same(a: Output, b: Output) -> bool:
    """Equal up to 1 of 255, as text_to_image guarantees for other batch sizes."""
    return a.seed == b.seed and int(np.abs(pixels(a) - pixels(b)).max()) <= 1


def test_the_picture_whose_cosine_is_largest_is_kept(
    model: DiffusionPipeline, ranker: Encoder
) -> None:
    for seed in range(3):
        (kept,) = result(model, ranker, seed=seed, best_of=5).outputs
        seeds = (seed, *(zlib.crc32(f"{seed}/{k}".encode()) for k in (1, 2, 3, 4)))
        candidates = [result(model, seed=each).outputs[0] for each in seeds]
        scores = [
            torch.cosine_similarity(ranker.images([each.image]), ranker.texts([PROMPT])).item()
            for each in candidates
        ]
        assert np.ptp(scores) > 1e-3, "they differ"
        assert same(kept, candidates[int(np.argmax(scores))])
        listed = kept.receipt["best_of"]["candidates"]
        assert [each["seed"] for each in listed] == list(seeds)
        assert [each["score"] for each in listed] == pytest.approx(scores, abs=1e-4)


def test_each_picture_has_candidates_of_its_own_and_is_the_same_whatever_is_drawn_beside_it(
    model: DiffusionPipeline, ranker: Encoder
) -> None:
    many = result(model, ranker, seed=7, n=5, best_of=3).outputs  # two pictures in a batch
    assert [picture.receipt["best_of"]["seed"] for picture in many] == [7, 8, 9, 10, 11]
    assert (
        len({each["seed"] for picture in many for each in picture.receipt["best_of"]["candidates"]})
        == 15
    )
    for k, picture in enumerate(many):
        assert same(picture, result(model, ranker, seed=7 + k, best_of=3).outputs[0])
    others = result(model, ranker, seeds=(11, 7), best_of=3).outputs
    assert same(others[0], many[4]) and same(others[1], many[0])


def test_one_of_one_is_the_picture_itself_and_more_are_never_worse(
    model: DiffusionPipeline, ranker: Encoder
) -> None:
    (plain,) = result(model, seed=4).outputs
    assert (
        same(plain, result(model, ranker, seed=4, best_of=1).outputs[0])
        and "best_of" not in plain.receipt
    )
    best = [
        max(each["score"] for each in listed(result(model, ranker, seed=4, best_of=count)))
        for count in (2, 4, 12)
    ]
    assert best == sorted(best)


def listed(result: Result) -> list[dict[str, Any]]:
    """The candidates in the receipt of the first picture."""
    return result.outputs[0].receipt["best_of"]["candidates"]


def test_the_receipt_names_the_ranker_and_the_seed_that_draws_the_picture_alone(
    model: DiffusionPipeline, ranker: Encoder, folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    request = Request(prompt=PROMPT, seed=0, n=2, best_of=6, model=str(folder))
    for seed, picture in enumerate(kalpana.generate(request, rank_by=ranker).outputs):
        receipt = picture.receipt
        assert receipt == json.loads(json.dumps(receipt))
        assert receipt["request"] == request.to_json()
        kept = max(receipt["best_of"]["candidates"], key=lambda each: each["score"])
        assert kept["seed"] == receipt["seed"] == picture.seed == receipt["resolved"]["seed"]
        assert (
            receipt["best_of"]["seed"] == seed
            and receipt["resolved"]["best_of"] == receipt["resolved"]["n"] == 1
        )
        hashed = hashlib.sha256((clip_folder / "clip.safetensors").read_bytes()).hexdigest()
        assert receipt["best_of"]["ranked_by"] == {"name": "tiny-clip", "sha256": hashed}
        path = save(picture.image, tmp_path / "a.png", receipt)
        # Replayed without a ranker.
        (replayed,) = kalpana.generate(request_of(read_receipt(path))).outputs
        difference = compare(path, replayed)
        assert difference.largest <= 1 and difference.changed == ()
        assert replayed.seed == picture.seed


@pytest.mark.parametrize(("n", "best_of"), [(1, 3), (3, 4), (2, TOGETHER + 1)])
def test_the_stream_counts_on_over_all_that_is_drawn(
    model: DiffusionPipeline, ranker: Encoder, n: int, best_of: int, second_a_step: None
) -> None:
    steps = list(model.generate(PROMPT, rank_by=ranker, seed=0, n=n, best_of=best_of, steps=2))
    # Steps of one stream: two denoising steps and a decoding for each TOGETHER pictures.
    each = 3 * (1 + (best_of > TOGETHER))
    parts = {(1, 3): 1, (3, 4): 2, (2, TOGETHER + 1): 2}[n, best_of]
    assert [step.index for step in steps] == list(range(1, parts * each + 1)) and {
        step.total for step in steps
    } == {parts * each}
    assert [step.stage for step in steps].count("rank") == parts and steps[-1].stage == "rank"
    assert [step.eta for step in steps] == [step.total - step.index for step in steps]
    assert [step.result is not None for step in steps] == [*(parts * each - 1) * [False], True]
    assert steps[-1].result is not None and len(steps[-1].result.outputs) == n


def test_closing_the_stream_cancels(model: DiffusionPipeline, ranker: Encoder) -> None:
    calls: list[int] = []
    counter = model.network.register_forward_hook(lambda *_: calls.append(1))
    stream = model.generate(PROMPT, rank_by=ranker, seed=1, n=9, best_of=2, steps=50)
    next(stream), next(stream)
    stream.close()  # type: ignore[attr-defined]
    counter.remove()
    assert (
        len(calls) == 2
        and list(stream) == []
        and torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
    )


def test_what_the_ranker_does_not_read_is_told(model: DiffusionPipeline, ranker: Encoder) -> None:
    *_, last = model.generate("a zzyzx apple " * 60, rank_by=ranker, seed=1, best_of=2, steps=1)
    assert last.result is not None
    warnings = [warning for warning in last.result.warnings if warning.startswith("best_of: ")]
    assert (
        "too long for model 'tiny-clip', which ranks without" in warnings[0]
        and "never met 'zzyzx'" in warnings[1]
        and len(warnings) == 2
    )
    assert (
        last.result.outputs[0].receipt["warnings"] == list(last.result.warnings)
        and len(last.result.warnings) == 4
    )


def test_mistakes_are_found_before_the_first_step(
    model: DiffusionPipeline, ranker: Encoder, folder: Path
) -> None:
    for no_ranker in (None, "clip"):
        with pytest.raises(
            KalpanaError, match=r"best_of 8 needs a CLIP to rank by: give rank_by=load\('clip'\)"
        ):
            model.generate(PROMPT, rank_by=no_ranker, best_of=8)  # type: ignore[arg-type]
    with pytest.raises(KalpanaError, match="best_of 8 needs a CLIP"):
        kalpana.generate(PROMPT, model=str(folder), best_of=8)
    with pytest.raises(KalpanaError, match="size '40x32' cannot be used"):
        model.generate(PROMPT, rank_by=ranker, best_of=2, size="40x32")
    request = Request(prompt=PROMPT, best_of=64, n=256, seed=1)
    assert [len(part.each_seed()) for part in request.parts(TOGETHER)] == [1] * 256
    assert len(set(request.candidates(1))) == 64
