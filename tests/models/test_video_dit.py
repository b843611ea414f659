"""The video DiT: equal to the image transformer on one frame, frames at their own times."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kalpana.hub.weights import load_module, save_weights
from kalpana.models.dit import Config as ImageConfig
from kalpana.models.dit import DiT
from kalpana.models.video_dit import VideoDiT, _place
from kalpana.types import Cond, KalpanaError, Tokens

SIZES = {"width": 64, "depth": 2, "heads": 2, "text_depth": 1, "channels": 4, "fine": 8}


@pytest.fixture
def image() -> DiT:
    torch.manual_seed(0)
    net = DiT(ImageConfig(**SIZES)).eval()
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.1)
    return net


@pytest.fixture
def trained(image: DiT) -> VideoDiT:
    """A network in which no weight is zero."""
    torch.manual_seed(1)
    net = VideoDiT.inflate(image).eval()
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.1)
    return net


def cond(b: int, **fields: Tensor) -> Cond:
    ids = torch.arange(5 * b).view(b, 5) + 7
    return Cond(Tokens(ids, torch.tensor([[True] * 4 + [False]]).expand(b, -1)), **fields)


def noisy(b: int, f: int) -> Tensor:
    return torch.randn(b, f, 12, 4, 6, generator=torch.Generator().manual_seed(2))


def test_one_frame_gives_the_image_transformers_output_bit_for_bit(image: DiT) -> None:
    net, x, t = VideoDiT.inflate(image).eval(), noisy(2, 1), torch.tensor([0.4, 0.9])
    known = image(x[:, 0, :4], t, cond(2))
    assert torch.equal(net(x, t, cond(2))[:, 0, :4], known)
    camera = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).expand(2, 1, -1)
    assert torch.equal(net(x, t[:, None], cond(2, camera=camera))[:, 0, :4], known)


def test_shape_and_a_gradient_for_every_parameter(trained: VideoDiT) -> None:
    x, camera = noisy(2, 3), torch.rand(2, 3, 4)
    y = trained(x, torch.rand(2, 3, 2), cond(2, camera=camera, null=torch.tensor([True, False])))
    assert y.shape == x.shape
    y.square().mean().backward()
    for name, p in trained.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_equal_frames_are_predicted_nearly_as_one_frame_at_initialisation(image: DiT) -> None:
    net, x, t = VideoDiT.inflate(image).eval(), noisy(1, 1), torch.tensor([0.9])
    alone = net(x, t, cond(1))
    still = net(x.expand(-1, 5, -1, -1, -1), t, cond(1, seconds=torch.zeros(1, 5)))
    assert torch.allclose(still, still[:, :1].expand_as(still), atol=1e-5)
    error = (still[:, :1] - alone).square().mean().sqrt() / alone.square().mean().sqrt()
    assert error < 0.05


def test_other_frames_matter_little_at_initialisation(image: DiT) -> None:
    net, x = VideoDiT.inflate(image).eval(), noisy(1, 4)
    changed = x.clone()
    changed[:, 2] = torch.randn_like(changed[:, 2])
    t = torch.tensor([0.9])
    change = (net(changed, t, cond(1)) - net(x, t, cond(1))).square().mean((0, 2, 3, 4)).sqrt()
    assert 0 < change[[0, 1, 3]].max() < 0.2 * change[2]
    with torch.no_grad():
        for block in net.blocks:
            block.other.zero_()  # full attention
    full = (net(changed, t, cond(1)) - net(x, t, cond(1))).square().mean((0, 2, 3, 4)).sqrt()
    assert (full[[0, 1, 3]] > 1.5 * change[[0, 1, 3]]).all()


def test_words_see_f_equal_frames_as_one(image: DiT) -> None:
    """With no bias against other frames, equal frames of equal time are one frame's keys, f times;
    -log f makes up for it for words, which here are all that reaches the output."""
    net, x, t = VideoDiT.inflate(image).eval(), noisy(1, 1), torch.tensor([0.8])
    with torch.no_grad():
        for block in net.blocks:
            block.other.fill_(-1e4)  # frames see themselves and the words
    one = net(x, t, cond(1))
    five = net(x.expand(-1, 5, -1, -1, -1), t, cond(1, seconds=torch.zeros(1, 5)))
    assert torch.allclose(five, one.expand_as(five), atol=1e-5)


def test_each_frame_has_its_own_time(trained: VideoDiT) -> None:
    x, t = noisy(1, 3), torch.full((1, 3), 0.8)
    same = trained(x, t, cond(1))
    assert torch.allclose(trained(x, torch.tensor([0.8]), cond(1)), same, atol=1e-5)
    assert torch.allclose(trained(x, t[..., None].expand(-1, -1, 2), cond(1)), same, atol=1e-5)
    two = noisy(2, 3)  # one time for all rows, as samplers have it
    both = trained(two, torch.tensor([0.8, 0.8]), cond(2))
    assert torch.allclose(trained(two, torch.tensor([0.8]), cond(2)), both, atol=1e-5)
    lower = t.clone()
    lower[:, 1] = 0.1
    change = (trained(x, lower, cond(1)) - same).abs().amax((0, 2, 3, 4))
    assert change[1] > 3 * change[[0, 2]].max() > 0


@pytest.mark.parametrize("channels", [4, 12])
def test_given_frames_come_back_and_shape_the_others(trained: VideoDiT, channels: int) -> None:
    x, t = noisy(1, 3), torch.tensor([0.9])
    known = torch.zeros(1, 3, channels + 1, 4, 6)
    known[:, 0] = 1
    known[:, 0, :-1] = torch.randn(channels, 4, 6)
    y = trained(x, t, cond(1, known=known))
    assert torch.equal(y[:, 0, :channels], known[:, 0, :-1])
    # What x_t holds there does not matter.
    other = x.clone()
    other[:, 0, :channels] = 5.0
    assert torch.equal(trained(other, t, cond(1, known=known)), y)
    free = trained(x, t, cond(1))
    assert (y - free)[:, 1:].abs().max() > 1e-3
    # The same as clean frames at time 0.
    clean, times = x.clone(), torch.full((1, 3, 2), 0.9)
    clean[:, 0, :channels] = known[:, 0, :-1]
    times[:, 0, : (1 if channels == 4 else 2)] = 0
    assert torch.allclose(trained(clean, times, cond(1)), y, atol=1e-5)


def test_known_frames_of_other_channels_are_refused(trained: VideoDiT) -> None:
    with pytest.raises(KalpanaError, match=r"5 channels do not fit: give 12, or 4"):
        trained(noisy(1, 2), torch.tensor([0.5]), cond(1, known=torch.zeros(1, 2, 6, 4, 6)))


def test_the_place_of_a_frame_by_hand() -> None:
    place = _place(torch.tensor([[1.0, 1.5, 3.0]]))[0]
    assert place.shape == (3, 18)
    shares, k = torch.tensor([0.0, 0.25, 1.0])[:, None], torch.arange(8)
    assert torch.allclose(place[:, :8], (math.pi * k * shares).cos(), atol=1e-6)
    assert torch.allclose(place[:, 8:16], (math.pi * k * shares).sin(), atol=1e-6)
    assert place[:, 16:].tolist() == [[0.0, 2.0], [0.5, 2.0], [2.0, 2.0]]
    assert _place(torch.zeros(1, 1)).isfinite().all(), "a picture"


def test_seconds_and_camera_matter(trained: VideoDiT) -> None:
    x, t = noisy(1, 3), torch.tensor([0.8])
    plain = trained(x, t, cond(1))
    third = torch.arange(3)[None] / 3
    assert torch.equal(trained(x, t, cond(1, seconds=third)), plain), "12 frames a second"
    assert not torch.allclose(trained(x, t, cond(1, seconds=3 * third)), plain, atol=1e-4)
    # The place of a frame in the video matters beside its seconds.
    with torch.no_grad():
        clock = trained.clock[-1].weight.clone()
        trained.clock[-1].weight.zero_()
        without = trained(x, t, cond(1))
        trained.clock[-1].weight.copy_(clock)
    assert not torch.allclose(without, plain, atol=1e-4)
    # A camera path counts from its first frame.
    still, pan = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
    pan[0, :, 0] = torch.arange(3) * 0.1
    a, b = (trained(x, t, cond(1, camera=each)) for each in (still, pan))
    assert not torch.allclose(a, b, atol=1e-4)
    assert torch.allclose(trained(x, t, cond(1, camera=pan + 0.3)), b, atol=1e-4)


def test_a_batch_of_three_equals_three_singles(trained: VideoDiT) -> None:
    x, t, whole = noisy(3, 2), torch.rand(3, 2), cond(3)
    assert whole.tokens is not None
    y = trained(x, t, whole)
    for k in range(3):
        tokens = Tokens(whole.tokens.ids[k : k + 1], whole.tokens.mask[k : k + 1])
        single = trained(x[k : k + 1], t[k : k + 1], Cond(tokens))
        assert torch.allclose(single, y[k : k + 1], atol=1e-5)


def test_saved_and_loaded_it_is_the_same_function(trained: VideoDiT, tmp_path: Path) -> None:
    # Weight files are in bf16; vectors, which stay fp32, are rounded here too.
    trained.load_state_dict(
        {k: v.to(torch.bfloat16).to(v.dtype) for k, v in trained.state_dict().items()}
    )
    save_weights(tmp_path / "v.safetensors", trained, "video", trained.config, {})
    again = load_module(tmp_path / "v.safetensors", "video").eval()
    x, t = noisy(1, 3), torch.tensor([0.7])
    assert torch.equal(trained(x, t, cond(1)), again(x, t, cond(1)))
