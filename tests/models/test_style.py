"""Shared attention with a reference picture, against closed forms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from kalpana.models.dit import Config, DiT
from kalpana.models.layers import rope_tables
from kalpana.models.style import Reference, reference_bias
from kalpana.types import Cond, Tokens


def network() -> DiT:
    torch.manual_seed(0)
    net = DiT(Config(width=32, depth=4, heads=2, text_depth=1, channels=4, fine=8))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


def cond(b: int, style: torch.Tensor | None = None) -> Cond:
    ids = torch.arange(3).expand(b, 3)
    return Cond(tokens=Tokens(ids, torch.ones(b, 3, dtype=torch.bool)), style=style)


def styled(latents: torch.Tensor, strength: float) -> torch.Tensor:
    return F.pad(latents, (0, 0, 0, 0, 0, 1), value=strength)


def test_adain_gives_patches_the_statistics_of_the_reference_and_leaves_words() -> None:
    q, k, v = torch.randn(3, 3, 2, 2 + 5, 8)
    bias = reference_bias(3, 2, 5, 1.0)
    reference = Reference(2, 1.0, rope_tables(torch.zeros(12, 4)), bias)
    new_q, new_k, new_v, scores = reference.share(q, k, v, torch.zeros(3, 1, 1, 7))
    for old, new in ((q, new_q), (k, new_k[:, :, :7])):
        assert torch.equal(new[:, :, :2], old[:, :, :2])
        for statistic in (torch.mean, torch.std):
            own, other = statistic(new[:, :, 2:], 2), statistic(old[-1:, :, 2:], 2)
            torch.testing.assert_close(own, other.expand_as(own), rtol=1e-3, atol=1e-4)
    assert torch.equal(new_v[:, :, 7:], v[-1:, :, 2:].expand(3, -1, -1, -1))
    weights = scores.softmax(-1)  # of equal scores
    assert weights[:, :, :2, 7:].max() == 0 and weights[-1, ..., 7:].max() == 0
    assert weights[:-1, :, 2:, 7:].min() > 0


def test_the_strength_is_the_share_of_attention() -> None:
    """Where all scores are equal and no words are there, half and half at 0.5, odds s / (1 - s)."""
    for strength in (0.2, 0.5, 0.8):
        scores = torch.cat((torch.zeros(2, 1, 4, 4), reference_bias(2, 0, 4, strength)), -1)
        share = scores.softmax(-1)[0, 0, :, 4:].sum(-1)
        torch.testing.assert_close(share, torch.full((4,), strength))


@torch.no_grad()
def test_a_styled_row_does_not_depend_on_its_batch() -> None:
    net, x, t = network(), torch.randn(3, 4, 8, 8), torch.tensor([0.5])
    style = styled(torch.randn(1, 4, 8, 8), 0.5)
    together = net(x, t, cond(3, style))
    assert together.shape == x.shape
    for k in range(3):
        torch.testing.assert_close(net(x[k : k + 1], t, cond(1, style)), together[k : k + 1])
    assert not torch.allclose(together, net(x, t, cond(3)), atol=1e-3)


@torch.no_grad()
def test_a_weak_style_is_none() -> None:
    net, x, t = network(), torch.randn(2, 4, 8, 8), torch.tensor([0.5])
    plain = net(x, t, cond(2))
    weak, strong = (
        (net(x, t, cond(2, styled(torch.randn(1, 4, 8, 8), s))) - plain).abs().mean()
        for s in (1e-6, 0.5)
    )
    assert weak < 1e-3 * strong
