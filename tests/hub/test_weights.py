"""Weight files: what is written is read back, and errors are one line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from kalpana.hub.weights import (
    Weights,
    family_of,
    files_of,
    find_device,
    fingerprint,
    load_module,
    read_weights,
    save_tensors,
    save_weights,
    shrink,
    whole_of,
)
from kalpana.models import control_dit, dit
from kalpana.models.vae import VAE, Config
from kalpana.types import Cond, KalpanaError, Tokens

TINY = Config(fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1))


def tiny() -> VAE:
    torch.manual_seed(0)
    return VAE(TINY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_weights(
        tmp_path / "vae.safetensors", tiny(), "vae", TINY, {"recipe": "छोटा", "samples": 3}
    )
    return tmp_path / "vae.safetensors"


def build(**config: object) -> VAE:
    return VAE(Config(**config))  # type: ignore[arg-type]


def test_what_is_saved_is_read(path: Path) -> None:
    weights = read_weights(path, "vae")
    assert Config(**weights.config) == TINY and weights.provenance == {
        "recipe": "छोटा",
        "samples": 3,
    }
    for name, tensor in tiny().state_dict().items():
        read = weights.tensors[name]
        assert read.dtype == tensor.dtype and read.shape == tensor.shape
        # Significant bits of bf16, and of fp32.
        bits = 8 if tensor.is_floating_point() and tensor.ndim > 1 else 23
        assert torch.all((read - tensor).abs() <= tensor.abs() * 2.0**-bits)


def test_a_module_comes_back_ready_to_be_asked(path: Path) -> None:
    before, after = tiny().eval(), load_module(path, "vae", {path.name: fingerprint(path)})
    assert not after.training and not any(p.requires_grad for p in after.parameters())
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    # bf16 is coarse.
    torch.testing.assert_close(after.encode(pixels), before.encode(pixels), rtol=0.05, atol=0.05)
    save_weights(path.with_name("again.safetensors"), after, "vae", after.config, {})
    again = load_module(path.with_name("again.safetensors"), "vae")
    assert torch.equal(
        again.encode(pixels), after.encode(pixels)
    )  # the second save does not round again


def test_auxiliary_heads_by_their_old_names_are_read(tmp_path: Path) -> None:
    """The config's field and the module were called "aside"."""
    config = dit.Config(width=32, depth=1, heads=2, text_depth=1, fine=8, aux_outputs=5)
    network, path = dit.DiT(config), tmp_path / "dit.safetensors"
    tensors = {
        name.replace("aux_head.", "aside."): value for name, value in network.state_dict().items()
    }
    old = {"aside" if k == "aux_outputs" else k: v for k, v in asdict(config).items()}
    assert "aside.weight" in tensors
    save_tensors(path, Weights("flow", old, {}, tensors))
    found = load_module(path, "flow")
    assert found.config == config
    assert torch.equal(found.aux_head.bias, network.aux_head.bias)  # type: ignore[union-attr]


def test_weights_of_an_extended_network_are_read_as_those_of_the_plain_one(tmp_path: Path) -> None:
    """The image transformer in a control transformer predicts the same as that without maps."""
    plain = dit.Config(width=32, depth=1, heads=2, text_depth=1, fine=8)
    torch.manual_seed(0)
    image = dit.DiT(plain)
    wide = control_dit.ControlDiT.widen(image, kinds=("edges",), map_width=8)
    path = tmp_path / "control_dit.safetensors"
    save_weights(path, wide, "control", wide.config, {"samples": 3}, {"prediction": "x0"})
    assert family_of(path) == "control"
    weights, found = read_weights(path, "flow"), load_module(path, "flow")
    assert weights.family == "flow" and weights.provenance == {"samples": 3}
    assert type(found) is dit.DiT and found.config == plain
    x, t = torch.randn(2, plain.channels, 16, 16), torch.tensor([0.2, 0.9])
    ids = torch.randint(1, 100, (2, plain.length))
    cond = Cond(Tokens(ids, torch.ones_like(ids).bool()), torch.zeros(2).bool())
    same = load_module(path, "control")(x, t, cond)
    torch.testing.assert_close(found(x, t, cond), same)
    with pytest.raises(KalpanaError, match="holds weights of family 'control', not 'unet'"):
        load_module(path, "unet")
    save_weights(path, image, "flow", image.config, {})
    with pytest.raises(KalpanaError, match="holds weights of family 'flow', not 'control'"):
        load_module(path, "control")  # a plain network has no maps


def test_a_device_is_found_or_named_in_the_error() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert (
        find_device() == torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    for name in ("cuda:99", "gpu", ""):
        with pytest.raises(KalpanaError, match=f"no device '{name}' here: write cpu"):
            find_device(name)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path: Path) -> None:
    old = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(path, tiny(), "vae", TINY, {"not JSON": object()})
    assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_large_weights_are_kept_in_shards_and_come_back_whole(tmp_path: Path) -> None:
    net = nn.Sequential(*[nn.Linear(1500, 1500) for _ in range(9)])  # 40 MB in bf16
    files = save_weights(tmp_path / "big.safetensors", net, "vae", TINY, {"samples": 7})
    assert [file.name for file in files] == [f"big-{k:05}-of-00003.safetensors" for k in (1, 2, 3)]
    assert sorted(tmp_path.iterdir()) == sorted(files) and all(
        file.stat().st_size <= 16 * 2**20 for file in files
    )
    weights = read_weights(
        tmp_path / "big.safetensors", "vae", {file.name: fingerprint(file) for file in files}
    )
    assert weights.provenance == {"samples": 7}
    assert all(
        torch.equal(weights.tensors[name], _rounded(value))
        for name, value in net.state_dict().items()
    )
    assert weights.tensors.keys() == net.state_dict().keys()
    with pytest.raises(KalpanaError, match="is not the file its card describes"):
        read_weights(tmp_path / "big.safetensors", "vae", {files[1].name: "0" * 64})
    files[2].unlink()
    with pytest.raises(KalpanaError, match="in shards and 2 are here"):
        read_weights(tmp_path / "big.safetensors", "vae")
    assert save_weights(tmp_path / "big.safetensors", tiny(), "vae", TINY, {}) == (
        tmp_path / "big.safetensors",
    )
    # The former shards are deleted.
    assert list(tmp_path.iterdir()) == [tmp_path / "big.safetensors"]


def test_shrunk_matrices_are_off_by_half_a_step_of_their_row_at_most(path: Path) -> None:
    before, size = read_weights(path, "vae"), path.stat().st_size
    shrink(path, "vae")
    after = read_weights(path, "vae")
    assert (after.config, after.provenance) == (
        before.config,
        before.provenance,
    ) and after.tensors.keys() == before.tensors.keys()
    for name, tensor in before.tensors.items():
        off = (after.tensors[name] - tensor).abs()
        if tensor.ndim < 2 or not tensor.is_floating_point():
            assert torch.equal(after.tensors[name], tensor)
        else:
            step = tensor.flatten(1).abs().amax(1) / 127
            assert (off.flatten(1) <= step[:, None] * 0.5001).all() and (
                off.any() or not tensor.any()
            )
            # The largest number of a row is exact.
            assert torch.allclose(after.tensors[name].flatten(1).abs().amax(1), step * 127)
    assert path.stat().st_size < 0.7 * size  # the header is large in so small a file
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(
        load_module(path, "vae").encode(pixels),
        tiny().eval().encode(pixels),
        rtol=0.1,
        atol=0.1,
    )


def test_shrinking_keeps_rows_of_nothing_and_numbers_that_are_whole(tmp_path: Path) -> None:
    net = nn.Linear(3, 2, bias=False)
    net.register_buffer("ids", torch.tensor([[1, 300], [2, 7]]))
    nn.init.zeros_(net.weight)
    save_weights(tmp_path / "a.safetensors", net, "vae", TINY, {})
    shrink(tmp_path / "a.safetensors", "vae")
    read = read_weights(tmp_path / "a.safetensors", "vae").tensors
    assert torch.equal(read["weight"], torch.zeros(2, 3)) and torch.equal(read["ids"], net.ids)  # type: ignore[arg-type]


@pytest.mark.slow
def test_shards_shrink_into_fewer_and_each_row_stays_with_its_scale(tmp_path: Path) -> None:
    net = nn.Sequential(*[nn.Linear(1500, 1500) for _ in range(9)])
    path, before = (
        tmp_path / "big.safetensors",
        save_weights(tmp_path / "big.safetensors", net, "vae", TINY, {}),
    )
    assert {whole_of(file) for file in before} == {path} == {whole_of(path)}
    assert (
        len(shrink(path, "vae")) == 2 == len(list(tmp_path.iterdir()))
        and files_of(path)[0].stat().st_size <= 16 * 2**20
    )
    read = read_weights(path, "vae").tensors
    assert read.keys() == net.state_dict().keys()
    assert all(
        torch.allclose(read[name], value, atol=2e-4) for name, value in net.state_dict().items()
    )


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().float() if tensor.ndim > 1 else tensor


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 2000, -1])
def test_a_file_cut_short(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(KalpanaError, match=r"vae\.safetensors is damaged or cut short"):
        read_weights(path, "vae")


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    for name, old in (("zip.safetensors", False), ("legacy.safetensors", True)):
        torch.save({"a": torch.ones(2)}, tmp_path / name, _use_new_zipfile_serialization=not old)
        with pytest.raises(KalpanaError, match="is a pickle, which can run code"):
            read_weights(tmp_path / name, "vae")


@pytest.mark.parametrize("length", [0x10280, 0x10480, 0x4B50])
def test_weights_whose_first_bytes_are_those_of_a_pickle_are_none(length: int, path: Path) -> None:
    """These bytes are the length of the header, which is padded with spaces."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(length.to_bytes(8, "little") + data[8:end].ljust(length) + data[end:])
    assert (
        path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"PK")
        and read_weights(path, "vae").tensors
    )


def test_a_file_of_another_family(path: Path) -> None:
    with pytest.raises(KalpanaError, match="holds weights of family 'vae', not 'flow'"):
        read_weights(path, "flow")


def test_a_file_of_another_program(tmp_path: Path) -> None:
    safetensors.torch.save_file(
        {"a": torch.ones(2)}, tmp_path / "other.safetensors", {"format": "pt"}
    )
    with pytest.raises(KalpanaError, match="was not written by Kalpana"):
        read_weights(tmp_path / "other.safetensors", "vae")


def test_a_file_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match=r"absent\.safetensors cannot be read: No such file"):
        read_weights(tmp_path / "absent.safetensors", "vae")


def test_a_file_with_one_bit_turned(path: Path) -> None:
    sha256, data = fingerprint(path), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(KalpanaError, match="is not the file its card describes"):
        read_weights(path, "vae", {path.name: sha256})


def test_tensors_that_do_not_fit_the_config(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Strange:
        wide: int = 3

    save_weights(tmp_path / "a.safetensors", nn.Linear(2, 2), "vae", TINY, {})
    save_weights(tmp_path / "b.safetensors", tiny(), "vae", Strange(), {})
    for name in ("a", "b"):
        with pytest.raises(KalpanaError, match="does not fit family 'vae'") as caught:
            load_module(tmp_path / f"{name}.safetensors", "vae")
        assert "\n" not in str(caught.value)
