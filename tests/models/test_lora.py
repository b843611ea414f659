"""Adapters (LoRA) of a network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kalpana.models import dit
from kalpana.models.lora import LoRA, adapted
from kalpana.types import Cond, KalpanaError, Tokens

CONFIG = dit.Config(width=32, depth=2, heads=2, text_depth=1, channels=4, fine=8)


def network(seed: int = 0) -> dit.DiT:
    torch.manual_seed(seed)
    made = dit.DiT(CONFIG).eval().requires_grad_(False)
    for p in made.parameters():
        nn.init.normal_(p, std=0.1)
    return made


def inputs() -> tuple[torch.Tensor, torch.Tensor, Cond]:
    rng = torch.Generator().manual_seed(1)
    tokens = Tokens(torch.randint(1, 99, (2, 5), generator=rng), torch.ones(2, 5, dtype=torch.bool))
    return torch.randn(2, 4, 8, 8, generator=rng), torch.tensor([0.3, 0.8]), Cond(tokens=tokens)


def trained(base: nn.Module, seed: int, rank: int = 2) -> LoRA:
    """An adapter with random values, as if it had been trained."""
    torch.manual_seed(seed)
    lora = LoRA.of(base, "flow", rank, alpha=4.0)
    for p in lora.parameters():
        nn.init.normal_(p, std=0.1)
    return lora


def test_a_change_is_the_product_of_two_low_rank_matrices() -> None:
    layers = nn.Sequential(nn.Linear(3, 5), nn.Conv2d(2, 4, 3))
    lora = trained(layers, 0)
    changes = lora.changes(0.5)
    assert changes.keys() == {"0.weight", "1.weight"}
    up, down = lora.up["1"], lora.down["1"]
    by_hand = torch.einsum("or,ri->oi", up, down).reshape(4, 2, 3, 3) * 0.5 * 4.0 / 2
    torch.testing.assert_close(changes["1.weight"], by_hand)
    assert torch.linalg.matrix_rank(changes["0.weight"]) == 2
    picture = torch.randn(1, 2, 6, 6)
    conv = nn.Sequential(layers[1])
    torch.testing.assert_close(
        adapted(conv, [(trained(conv, 3), 0.5)])(picture),
        F.conv2d(picture, conv[0].weight + trained(conv, 3).changes(0.5)["0.weight"], conv[0].bias),
    )


def test_an_untrained_adapter_changes_nothing() -> None:
    base = network()
    x, t, cond = inputs()
    out = adapted(base, [(LoRA.of(base, "flow"), 1.0)])(x, t, cond)
    assert torch.equal(out, base(x, t, cond))


def test_an_adapted_network_is_one_with_other_weights_and_the_base_stays() -> None:
    base, other = network(), network()
    one, two = trained(base, 1), trained(base, 2, rank=3)
    x, t, cond = inputs()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    changes = {name: 0.7 * each for name, each in one.changes().items()}
    for name, each in two.changes().items():
        changes[name] = changes[name] - 0.2 * each
    other.load_state_dict(
        {name: value + changes.get(name, 0.0) for name, value in other.state_dict().items()}
    )
    both = adapted(base, [(one, 0.7), (two, -0.2)])
    torch.testing.assert_close(both(x, t, cond), other(x, t, cond))
    assert both.reads == base.reads and both.config == base.config
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())


def test_an_adapter_of_another_network_is_refused() -> None:
    wide = dit.DiT(replace(CONFIG, width=64))
    with pytest.raises(KalpanaError, match=r"another network: its .* has shape"):
        adapted(wide, [(trained(network(), 1), 1.0)])


def test_gradients_reach_the_adapter_alone() -> None:
    base = network()
    lora, (x, t, cond) = trained(base, 1), inputs()
    loss = F.mse_loss(adapted(base, [(lora, 1.0)])(x, t, cond), torch.zeros_like(x))
    loss.backward()
    # A text of one row of tokens has attention, so that every layer has a part in the loss.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lora.parameters())
    assert all(p.grad is None for p in base.parameters())
