"""The video VAE: pictures as videos of one frame, chunked decoding, initial cross-fade."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kalpana.hub.weights import load_module, save_weights
from kalpana.models.vae import VAE
from kalpana.models.video_vae import Config, VideoVAE
from kalpana.types import KalpanaError

TINY = Config(
    latent=4,
    fine=8,
    coarse=16,
    encoder=(1, 1),
    decoder=(1, 1),
    motion=2,
    motion_fine=8,
    motion_coarse=16,
    motion_encoder=(1, 1),
    motion_decoder=(1, 1),
)


def tiny(fresh: bool = False) -> VideoVAE:
    """A tiny network; unless ``fresh``, its residual branches are not zero."""
    torch.manual_seed(0)
    net = VideoVAE(TINY).eval()
    for name, p in net.named_parameters():
        if not fresh or name.startswith("image."):
            torch.nn.init.normal_(p, std=0.1)
    return net


def video(b: int, f: int, h: int = 16, w: int = 24) -> torch.Tensor:
    return torch.rand(b, f, 3, h, w, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes() -> None:
    net = tiny()
    z = net.encode(video(2, 9))
    assert z.shape == (2, 3, net.channels, 2, 3) and net.channels == 6
    assert (net.factor, net.time_factor) == (8, 4)
    assert net.decode(z).shape == (2, 9, 3, 16, 24)
    assert net.preview(z).shape == (2, 3, 3, 2, 3)
    assert net.shape(16, 24, 9) == z.shape[1:] and net.shape(16, 24) == (1, 6, 2, 3)
    assert net.shape(16, 24, 6)[0] == 3, "9 frames hold 6, 5 do not"


def test_a_picture_is_a_video_of_one_frame_bit_for_bit() -> None:
    net, x = tiny(), video(2, 1)
    image = VAE(TINY).eval()
    image.load_state_dict(net.image.state_dict())
    z = net.encode(x)
    assert torch.equal(z[:, 0, :4], image.encode(x[:, 0])) and (z[:, :, 4:] == 0).all()
    assert torch.equal(net.decode(z)[:, 0], image.decode(z[:, 0, :4]))
    assert torch.equal(net.preview(z)[:, 0], image.preview(z[:, 0, :4]))


def test_keyframes_are_coded_as_pictures() -> None:
    net, x = tiny(), video(1, 9)
    z = net.encode(x)
    assert torch.allclose(z[0, :, :4], net.image.encode(x[0, ::4]), atol=1e-5)
    assert torch.allclose(net.decode(z)[0, ::4], net.image.decode(z[0, :, :4]), atol=1e-5)


def test_motion_latents_depend_on_their_own_group_only() -> None:
    net, x = tiny(), video(1, 13)
    changed = x.clone()
    changed[:, 6] += 0.5  # between the keyframes of latent frames 1 and 2
    difference = (net.encode(changed) - net.encode(x)).abs().amax((0, 2, 3, 4))
    assert difference[2] > 1e-3 and (difference[[0, 1, 3]] < 1e-6).all()


def test_decoding_from_any_latent_frame_on_is_exact() -> None:
    """Each chunk needs the latent frame before it and no other."""
    net = tiny()
    z = torch.randn(1, 5, net.channels, 2, 3, generator=torch.Generator().manual_seed(2))
    whole = net.decode(z)
    chunks = list(net.decode_chunks(z.unbind(1)))
    assert [chunk.shape[1] for chunk in chunks] == [1, 4, 4, 4, 4]
    assert torch.equal(torch.cat(chunks, 1), whole)
    tail = torch.cat(list(net.decode_chunks(z[:, 2:].unbind(1))), 1)
    assert torch.equal(tail, whole[:, 8:])
    # All groups at once, as in training.
    keys = [net.keyframe(each[:, :4]) for each in z[0].unfold(0, 2, 1).movedim(-1, 0)]
    between = net.between(*keys, z[0, 1:, 4:])
    groups = whole[0, 1:].unflatten(0, (4, 4))[:, :3]
    assert torch.allclose(between, groups, atol=1e-5)


def test_it_starts_at_the_cross_fade_of_the_decoded_keyframes() -> None:
    net, x = tiny(fresh=True), video(1, 5)
    y = net.decode(net.encode(x))[0]
    for k in (1, 2, 3):
        assert torch.allclose(y[k], y[0] + (y[4] - y[0]) * k / 4, atol=1e-6)


@pytest.mark.parametrize(("frames", "near"), [(2, "1 or 5"), (8, "5 or 9"), (0, "1 or 5")])
def test_other_numbers_of_frames_are_refused(frames: int, near: str) -> None:
    with pytest.raises(KalpanaError, match=f"{frames} frames.*4k.*{near}"):
        tiny().encode(video(1, frames))


def test_only_the_motion_networks_are_trained() -> None:
    net, x = tiny().train(), video(2, 9)
    before = {name: value.clone() for name, value in net.image.state_dict().items()}
    (net.decode(net.encode(x)) - x).square().mean().backward()
    for name, p in net.named_parameters():
        if name.startswith("image."):
            assert p.grad is None, name
        else:
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name
    for name, value in net.image.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_saved_and_loaded_it_is_the_same_function(tmp_path: Path) -> None:
    net = tiny()
    # Weight files are in bf16.
    net.load_state_dict({k: v.to(torch.bfloat16).to(v.dtype) for k, v in net.state_dict().items()})
    save_weights(tmp_path / "v.safetensors", net, "video-vae", TINY, {})
    again = load_module(tmp_path / "v.safetensors", "video-vae").eval()
    x = video(1, 5)
    assert torch.equal(net.encode(x), again.encode(x))
    assert torch.equal(net.decode(net.encode(x)), again.decode(again.encode(x)))
