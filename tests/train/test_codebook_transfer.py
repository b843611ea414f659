"""Codebook transfer between a VQGAN and a copy with permuted codes: only the order may change."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kalpana.hub.weights import fingerprint, load_module, read_weights, save_weights
from kalpana.models import dalle, dalle_mini
from kalpana.models.vqgan import VQGAN, Config
from kalpana.train import codebook_transfer, data_cache
from kalpana.train.codebook_transfer import cooccurrence, translated
from kalpana.train.task import autocast
from kalpana.types import Cond, KalpanaError, Tokens
from kalpana.world.world import World

CPU = torch.device("cpu")
CODES = 32
CODEC = Config(widths=(8, 8, 8, 8), depth=1, groups=4, latent=8, codebook=(CODES, 4))
GRID = {"vocabulary": 20, "codes": CODES, "rows": 4, "columns": 4}
TOKENS = Tokens(torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool))


@pytest.fixture(scope="module")
def codecs() -> tuple[VQGAN, VQGAN, Tensor]:
    """A VQGAN, a copy with permuted codes, and the old code of each new one."""
    torch.manual_seed(5)
    old = VQGAN(CODEC)
    with torch.no_grad():
        pictures = data_cache.floats(data_cache.pictures(World(0), 32), CPU)
        old.quantiser.start(old.encode_latents(pictures), torch.Generator().manual_seed(0))  # type: ignore[operator]
    new, order = deepcopy(old), torch.randperm(CODES)
    new.quantiser.vectors = old.quantiser.vectors[order]  # type: ignore[index]
    return old, new, order


def test_counts_are_of_codes_that_stand_in_one_cell(codecs: tuple[VQGAN, VQGAN, Tensor]) -> None:
    old, new, order = codecs
    pictures = data_cache.floats(data_cache.pictures(World(0), 32), CPU)
    with autocast(CPU), torch.inference_mode():
        before, after = (
            network.encode(pictures).numpy().astype(np.uint16) for network in (old, new)
        )
    counts = cooccurrence(before, after, CODES)
    assert counts.sum() == 32 * 16 and (counts > 0).sum(1).max() == 1
    wanted = torch.bincount(
        torch.from_numpy(before.astype(np.int64)).flatten(), minlength=CODES
    ).float()
    assert torch.equal(counts[torch.arange(CODES), order], wanted[order])


@pytest.mark.slow
def test_models_say_the_same_in_the_other_order(
    codecs: tuple[VQGAN, VQGAN, Tensor], tmp_path: Path
) -> None:
    """The command writes a file whose model has the same loss on the same picture, for all three
    families."""
    old, new, _ = codecs
    for name, network in (("old", old), ("new", new)):
        save_weights(tmp_path / f"{name}.safetensors", network, "vqgan", network.config, {})
    picture = data_cache.floats(data_cache.pictures(World(1, kind="everything"), 64)[:2], CPU)
    one, two = old.encode(picture), new.encode(picture)
    assert not torch.equal(one, two)
    shape = {**GRID, "width": 16, "depth": 1, "heads": 1}
    mini = dalle_mini.Config(
        vocabulary=20, length=8, width=16, heads=1, hidden=16, text_depth=1, depth=1, codes=CODES,
        start=CODES, image_vocabulary=CODES + 1, image_length=16,
    )  # fmt: skip
    tokens = Tokens(TOKENS.ids.expand(2, 3), TOKENS.mask.expand(2, 3))
    hidden = torch.arange(16).view(1, 4, 4).expand(2, 4, 4) % 3 == 0
    wrong = {
        "dalle": lambda model, ids: model.loss(Cond(tokens), ids).image,
        "maskgit": lambda model, ids: model.loss(Cond(tokens), ids, hidden),
        "dalle-mini": lambda model, ids: model.loss(
            tokens, ids.flatten(1), torch.zeros(2, dtype=torch.bool)
        ),
    }
    models = {
        "dalle": dalle.DALLE(dalle.Config(**shape)),
        "maskgit": dalle.MaskGIT(dalle.Config(**shape)),
        "dalle-mini": dalle_mini.DalleMini(mini),
    }
    for family, model in models.items():
        torch.manual_seed(1)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
        given, made = tmp_path / f"{family}.safetensors", tmp_path / f"{family}-new.safetensors"
        save_weights(given, model, family, model.config, {"name": "before"})
        files = [tmp_path / f"{name}.safetensors" for name in ("old", "new")]
        codebook_transfer.transfer(given, *files, made, pictures=64, device="cpu")
        assert read_weights(made, family).provenance == {
            "init": {"name": "before"},
            "vqgan": {"new.safetensors": fingerprint(tmp_path / "new.safetensors")},
        }
        before, after = (load_module(path, family) for path in (given, made))
        pictures = data_cache.pictures(World(1, kind="everything"), 64)
        seen = old.encode(data_cache.floats(pictures, CPU)).flatten()
        used = torch.bincount(seen, minlength=CODES) > 0
        assert used.all(), "a code that never occurs starts as the mean of all: the loss differs"
        assert torch.allclose(wrong[family](before, one), wrong[family](after, two), atol=0.02), (
            family
        )
        rows = next(
            name for name in read_weights(made, family).tensors if name.endswith("codes.weight")
        )
        table, other = (read_weights(path, family).tensors[rows] for path in (given, made))
        assert torch.allclose(table[one], other[two], atol=0.01) and not torch.allclose(
            table[one], other[one], atol=0.5
        ), family
        assert torch.equal(table[CODES:], other[CODES:])


def test_a_code_that_took_two_places_begins_as_their_mean_and_one_never_seen_as_that_of_all() -> (
    None
):
    rows = torch.arange(8.0).view(4, 2)
    counts = torch.tensor([[1.0, 3, 0, 0], [0, 0, 0, 5], [0, 0, 0, 0], [0, 0, 2, 0]])
    out = translated({"codes.weight": rows, "blocks.0.weight": rows}, counts)
    assert torch.allclose(
        out["codes.weight"],
        torch.stack((0.25 * rows[0] + 0.75 * rows[1], rows[3], rows.mean(0), rows[2])),
    )
    assert out["blocks.0.weight"] is rows


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(KalpanaError, match=r"codes.weight has 9 rows, and the old VQGAN 4 codes"):
        translated({"codes.weight": torch.zeros(9, 2)}, torch.ones(4, 4))
    with pytest.raises(KalpanaError, match="give weights of dalle, maskgit, dalle-mini"):
        translated({"blocks.0.weight": torch.zeros(9, 2)}, torch.ones(4, 4))
    with pytest.raises(
        KalpanaError, match=r"grids of the old VQGAN, \(2, 2\), and the new, \(1, 1\), differ"
    ):
        cooccurrence(np.zeros((1, 2, 2), np.uint16), np.zeros((1, 1, 1), np.uint16), CODES)
