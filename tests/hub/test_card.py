"""Model folders: found by name, described by a card, sealed by hashes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kalpana.hub.card import (
    Card,
    differences,
    find_model,
    list_models,
    read_card,
    weights_dir,
    write_card,
    write_hashes,
)
from kalpana.hub.weights import save_weights
from kalpana.models.vae import Config
from kalpana.types import KalpanaError


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    card = Card(
        name="छोटा",
        family="flow",
        tasks=("text-to-image",),
        capabilities={"sizes": ["32x32"]},
        scores={"dev": 0.5},
    )
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card


def test_the_checkpoint_of_a_run_is_no_weights(tmp_path: Path) -> None:
    save_weights(tmp_path / "checkpoint.safetensors", nn.Linear(9, 9), "flow", Config(), {})
    with pytest.raises(KalpanaError, match="there are no"):
        write_hashes(tmp_path)
    save_weights(tmp_path / "vae.safetensors", nn.Linear(3, 2), "vae", Config(), {})
    card = write_hashes(tmp_path)
    assert card.parameters == 8 and "checkpoint.safetensors" not in card.files
    assert differences(tmp_path) == []


def test_sealing_writes_hashes_and_counts(tmp_path: Path) -> None:
    save_weights(tmp_path / "one.safetensors", nn.Linear(3, 2), "flow", Config(), {})
    save_weights(
        tmp_path / "vae.safetensors",
        nn.Linear(1, 1),
        "vae",
        Config(),
        {"scores": {"dev_psnr": 30.5}},
    )
    card = write_hashes(tmp_path)
    assert (card.name, card.family, card.parameters, card.scores) == (
        tmp_path.name,
        "flow",
        8 + 2,
        {"dev_psnr": 30.5},
    )
    for name in ("one.safetensors", "vae.safetensors"):
        assert card.files[name] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    write_card(tmp_path, card.model_copy(update={"licence": "Apache-2.0"}))
    torch.manual_seed(1)
    save_weights(
        tmp_path / "one.safetensors",
        nn.Linear(3, 2),
        "flow",
        Config(),
        {"scores": {"dev_loss": 0.25}},
    )
    again = write_hashes(tmp_path)
    assert again.scores == {"dev_loss": 0.25, "dev_psnr": 30.5}
    assert (
        again.licence == "Apache-2.0"
        and again.files["one.safetensors"] != card.files["one.safetensors"]
    )


@pytest.mark.slow
def test_sealing_can_halve_the_weights_first(tmp_path: Path) -> None:
    save_weights(
        tmp_path / "one.safetensors",
        nn.Linear(2000, 9000),
        "flow",
        Config(),
        {"scores": {"dev_loss": 0.25}},
    )  # three shards
    save_weights(tmp_path / "vae.safetensors", nn.Linear(1, 1), "vae", Config(), {})
    before, size = (
        write_hashes(tmp_path),
        sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")),
    )
    done = subprocess.run(
        [sys.executable, "-m", "kalpana", "weights", "seal", "--int8", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    after = read_card(tmp_path)
    assert json.loads(done.stdout) == after.model_dump(mode="json")
    assert (
        (after.parameters, after.scores)
        == (before.parameters, before.scores)
        == (2001 * 9000 + 2, {"dev_loss": 0.25})
    )
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) == 3 and sum(file.stat().st_size for file in files) < 0.51 * size
    assert set(after.files) == {file.name for file in files} | {"bpe.json"}


def test_verify_finds_what_differs_from_the_card(tmp_path: Path) -> None:
    save_weights(tmp_path / "one.safetensors", nn.Linear(2, 3), "flow", Config(), {})
    write_hashes(tmp_path)
    assert differences(tmp_path) == []
    save_weights(tmp_path / "one.safetensors", nn.Linear(2, 3), "flow", Config(), {})
    save_weights(tmp_path / "two.safetensors", nn.Linear(2, 3), "flow", Config(), {})
    changed, unlisted = differences(tmp_path)
    assert changed.startswith("one.safetensors has sha256 ")
    assert unlisted == "two.safetensors is not in the card"
    (tmp_path / "one.safetensors").unlink()
    assert differences(tmp_path)[0] == "one.safetensors is missing"


def test_a_folder_without_weights_or_card_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match=r"no [.]safetensors files"):
        write_hashes(tmp_path)
    with pytest.raises(KalpanaError, match=r"run `kalpana weights seal"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no JSON"),
        ('{"name": 3}', "name 3: should be"),
        ('{"name": "a", "family": "b", "task": 1}', "did you mean 'tasks'"),
    ],
)
def test_a_damaged_card_names_its_file_and_field(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(KalpanaError, match=told) as caught:
        read_card(tmp_path)
    assert str(tmp_path / "card.json") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_model_is_found_by_name_or_folder(tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == tmp_path
    for card in list_models():
        assert find_model(card.name) == weights_dir() / card.name
    with pytest.raises(KalpanaError, match="there is no model 'no-such-model'"):
        find_model("no-such-model")


@pytest.mark.slow
def test_shipped_files_are_those_the_cards_describe() -> None:
    for path in weights_dir().glob("*/card.json"):
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        assert {file.name for file in path.parent.glob("*.safetensors")} <= set(files)
        for file in path.parent.glob("*.safetensors"):
            assert files[file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
