"""U-Net: its published size, conditions, gradients, its config's errors, and its text encoders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kalpana.models import dit
from kalpana.models.layers import norm
from kalpana.models.text_unet import Config, TextUNet
from kalpana.models.unet import PRESETS, UNet
from kalpana.types import Cond, KalpanaError, Tokens

TINY = Config(
    in_channels=4, out_channels=4, block_out_channels=(16, 32, 32), cross_attention_dim=32,
    attention_head_dim=2, norm_num_groups=8, vocabulary=50, length=16, text_depth=1, text_heads=2,
)  # fmt: skip
X = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.2, 1.0])


def stirred(net: torch.nn.Module) -> torch.nn.Module:
    """With the parts that start at 0 at work."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def tokens(*rows: list[int], length: int = 6) -> Tokens:
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return Tokens(ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sd-1", 859_520_964), ("sd-1-inpainting", 859_535_364), ("sd-2", 865_910_724)],
)
def test_presets_have_the_published_size(name: str, parameters: int) -> None:
    """Stable Diffusion 1.x: 859.52 million parameters in 686 tensors."""
    with torch.device("meta"):
        net = UNet(PRESETS[name])
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == 686


def test_our_own_has_seventeen_million_parameters() -> None:
    with torch.device("meta"):
        net = TextUNet()
    assert round(sum(p.numel() for p in net.unet.parameters()) / 1e6, 1) == 17.5


@pytest.mark.slow
def test_shape_and_a_gradient_for_every_parameter() -> None:
    net = stirred(TextUNet(TINY))
    out = net(X, T, Cond(tokens([1, 5, 2], [1, 2]), torch.tensor([False, True])))
    assert out.shape == X.shape
    out.square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_a_new_network_predicts_nothing() -> None:
    assert (TextUNet(TINY)(X, T, Cond(tokens([1, 5, 2], [1, 2]))) == 0).all()


@torch.no_grad()
def test_rows_are_independent_and_padding_is_not_read() -> None:
    net = stirred(TextUNet(TINY))
    both = net(X, T, Cond(tokens([1, 5, 6, 7, 2], [1, 9, 2])))
    alone = net(X[1:], T[1:], Cond(tokens([1, 9, 2], length=3)))
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)
    shared = net(X, T[1:], Cond(tokens([1, 5, 6, 7, 2], [1, 9, 2])))  # one time for all rows
    torch.testing.assert_close(both[1:], shared[1:], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(both[1:], net(X[1:], T[1:], Cond(tokens([1, 8, 2]))), atol=1e-4)


@torch.no_grad()
def test_null_rows_do_not_depend_on_their_text() -> None:
    net, null = stirred(TextUNet(TINY)), torch.ones(2, dtype=torch.bool)
    one = net(X, T, Cond(tokens([1, 5, 2], [1, 2]), null))
    two = net(X, T, Cond(tokens([1, 7, 8, 2], [1, 9, 2]), null))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one, net(X, T, Cond()), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_class_conditional_network_has_no_text() -> None:
    net = stirred(UNet(replace(PRESETS["sd-1"], **{
        **{name: getattr(TINY, name) for name in PRESETS["sd-1"].__dataclass_fields__},
        "cross_attention_dim": None, "num_class_embeds": 3,
    })))  # fmt: skip
    assert net.reads == ("label",)
    assert not any("attn2" in name for name in net.state_dict())
    outs = [net(X, T, Cond(label=torch.full((2,), k))) for k in range(3)]
    assert not torch.allclose(outs[0], outs[1], atol=1e-4)
    null = torch.tensor([False, True])
    mixed = net(X, T, Cond(label=torch.tensor([1, 2]), null=null))
    torch.testing.assert_close(mixed[0], outs[1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed[1], net(X, T, Cond())[1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_text_encoder_is_that_of_the_diffusion_transformer() -> None:
    """With its weights, the features that go into its shared blocks, normalised."""
    config = dit.Config(width=32, depth=1, heads=2, text_depth=2, vocabulary=50, fine=8, channels=4)
    source = stirred(dit.DiT(config))
    net = TextUNet(replace(TINY, text_depth=2))
    names = net.text.state_dict()
    net.text.load_state_dict({name: source.state_dict()[name] for name in names})
    seen = []
    source.text[-1].register_forward_hook(lambda module, given, out: seen.append(out))
    cond = Cond(tokens([1, 5, 6, 2], [1, 7, 2]), torch.tensor([False, True]))
    source(X, T, cond)
    features, mask = net.text(cond, 2)
    torch.testing.assert_close(features, norm(seen[0]))
    assert mask.tolist() == [[True] * 4 + [False] * 2, [True] + [False] * 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D")}, "AttnDown"),
        ({"up_block_types": ("UpBlock2D",)}, "up_block_types has 1 entries: write 3"),
        ({"attention_head_dim": 5}, "attention_head_dim 5 does not divide 16"),
        ({"attention_head_dim": (1, 2)}, "attention_head_dim has 2 entries"),
        ({"norm_num_groups": 12}, "norm_num_groups 12 does not divide 16"),
        ({"act_fn": "tanh"}, "act_fn 'tanh' is unknown: write silu"),
        ({"mid_block_type": "Middle"}, "mid_block_type 'Middle' is unknown"),
        ({"cross_attention_dim": None}, "write a multiple of 4, twice the text_heads"),
        ({"cross_attention_dim": 34}, "cross_attention_dim is 34"),
        ({"in_channels": 5}, "in_channels 5 is not supported: write 4, the out_channels, or 9"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        TextUNet(replace(TINY, **changes))
