"""Shared test setup: the hypothesis profile, a temporary cache folder, and tiny models."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

from kalpana.hub.card import Card, write_card, write_hashes
from kalpana.hub.weights import save_weights
from kalpana.models import clip, dit, prior, unclip, vae, video_dit, video_vae

# No deadline, since a busy machine is not a bug; derandomised, so that failures are reproducible on
# any machine.
settings.register_profile("kalpana", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("kalpana")

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
# A test run in the background, or under nohup, ignores signals, and so would the processes that it
# starts.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (HANGUP, signal.SIG_DFL)):
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of rendered pictures go to a temporary folder, also in processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny flow model: real networks with random weights, saved like trained ones."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    network = dit.DiT(dit.Config(width=32, depth=2, heads=2, text_depth=1, fine=8))
    decoder = vae.VAE(vae.Config(fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    # By default the last layers are zero, and all pictures are equal.
    for parameter in [*network.parameters(), *decoder.parameters()]:
        nn.init.normal_(parameter, std=0.2)
    decoder.fit_preview(torch.rand(4, 3, 32, 32) * 2 - 1)
    save_weights(folder / "dit.safetensors", network, "flow", network.config, {})
    save_weights(folder / "vae.safetensors", decoder, "vae", decoder.config, {})
    capabilities = {"sizes": ("32x32", "64x32"), "defaults": {"steps": 4, "size": "32x32"}}
    write_card(
        folder,
        Card(name="tiny", family="flow", tasks=("text-to-image",), capabilities=capabilities),
    )
    write_hashes(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny CLIP with random weights."""
    folder = tmp_path_factory.mktemp("tiny-clip")
    torch.manual_seed(0)
    towers = {
        "width": 32,
        "depth": 1,
        "heads": 2,
        "hidden": 64,
        "text_width": 32,
        "text_depth": 1,
        "text_heads": 2,
        "text_hidden": 64,
    }
    network = clip.CLIP(clip.Config(side=32, stem=(), features=24, **towers))
    save_weights(folder / "clip.safetensors", network, "clip", network.config, {})
    write_card(folder, Card(name="tiny-clip", family="clip", tasks=("classify", "search")))
    write_hashes(folder)
    return folder


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny video model with random weights."""
    folder = tmp_path_factory.mktemp("tiny-video")
    torch.manual_seed(0)
    codec = video_vae.VideoVAE(
        video_vae.Config(
            latent=4,
            fine=8,
            coarse=8,
            encoder=(1, 1),
            decoder=(1, 1),
            motion_fine=8,
            motion_coarse=8,
            motion_encoder=(1, 1),
            motion_decoder=(1, 1),
        )
    )
    network = video_dit.VideoDiT(
        video_dit.Config(width=32, depth=2, heads=2, text_depth=1, channels=4, fine=8)
    )
    for parameter in [*network.parameters(), *codec.parameters()]:
        nn.init.normal_(parameter, std=0.1)  # by default the last layers are zero
    save_weights(
        folder / "video_dit.safetensors",
        network,
        "video",
        network.config,
        {},
        {"schedule": "flow", "prediction": "x0"},
    )
    save_weights(folder / "video_vae.safetensors", codec, "video-vae", codec.config, {})
    capabilities = {"sizes": ("16x16", "32x16"), "defaults": {"steps": 3, "size": "16x16"}}
    write_card(folder, Card(name="tiny-video", family="video", capabilities=capabilities))
    write_hashes(folder)
    return folder


@pytest.fixture(scope="session")
def unclip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny unCLIP with random weights, and with a CLIP of its own."""
    folder = tmp_path_factory.mktemp("tiny-unclip")
    torch.manual_seed(0)
    network = unclip.Unclip(
        unclip.Config(width=32, depth=2, heads=2, text_depth=1, fine=8, features=24)
    )
    drawing = prior.Prior(prior.Config(width=32, depth=1, heads=2, hidden=64, features=24))
    decoder = vae.VAE(vae.Config(fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    for parameter in [*network.parameters(), *drawing.parameters(), *decoder.parameters()]:
        nn.init.normal_(parameter, std=0.2)  # by default the last layers are zero
    for standard in (network.standard, drawing.standard):
        standard.mean.copy_(torch.linspace(-0.5, 0.5, 24))
        standard.deviation.copy_(torch.linspace(0.5, 1.5, 24))
    decoder.fit_preview(torch.rand(4, 3, 32, 32) * 2 - 1)
    process = {"schedule": "flow", "prediction": "x0"}
    save_weights(folder / "unclip.safetensors", network, "unclip", network.config, {}, process)
    save_weights(
        folder / "unclip_prior.safetensors", drawing, "unclip-prior", drawing.config, {}, process
    )
    save_weights(folder / "vae.safetensors", decoder, "vae", decoder.config, {})
    sizes = {"width": 24, "depth": 1, "heads": 2, "hidden": 48}
    sizes |= {f"text_{name}": size for name, size in sizes.items()}
    seeing = clip.CLIP(clip.Config(side=32, stem=(), features=24, **sizes))
    save_weights(folder / "clip/clip.safetensors", seeing, "clip", seeing.config, {})
    write_card(folder / "clip", Card(name="clip", family="clip"))
    write_hashes(folder / "clip")
    capabilities = {"sizes": ("32x32",), "defaults": {"steps": 4, "size": "32x32"}}
    write_card(folder, Card(name="tiny-unclip", family="unclip", capabilities=capabilities))
    write_hashes(folder)
    return folder
