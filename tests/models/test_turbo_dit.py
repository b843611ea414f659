"""Turbo DiT: the image transformer at initialisation; the end of the step and the guidance act once
it is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kalpana.models.dit import Config as ImageConfig
from kalpana.models.dit import DiT
from kalpana.models.turbo_dit import Config, TurboDiT, slow_wave
from kalpana.types import Cond, Tokens

SIZES = {"width": 32, "depth": 2, "heads": 2, "text_depth": 1, "fine": 8, "channels": 4}
TOKENS = Tokens(torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool())
T = torch.tensor([0.3, 0.8])


def image_model() -> DiT:
    torch.manual_seed(0)
    network = DiT(ImageConfig(**SIZES))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def trained() -> TurboDiT:
    network = TurboDiT.widen(image_model())
    nn.init.normal_(network.step[2].weight, std=0.2)
    return network.eval()


def noisy() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def run(network: TurboDiT, until: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
    return network(noisy(), T, Cond(TOKENS, until=until, guidance=guidance))


@torch.no_grad()
def test_it_starts_as_the_image_transformer_whatever_it_is_given() -> None:
    network, image = TurboDiT.widen(image_model()).eval(), image_model()
    wanted = image(noisy(), T, Cond(TOKENS))
    for until, guidance in ((None, None), (T / 3, torch.tensor([2.0, 7.0]))):
        assert torch.equal(run(network, until, guidance), wanted)


@torch.no_grad()
def test_the_end_of_the_step_and_the_guidance_act() -> None:
    network, plain = trained(), run(trained())
    # What is left out is a step of length 0 without guidance.
    torch.testing.assert_close(run(network, T, torch.ones(2)), plain)
    for changed in (run(network, until=T / 2), run(network, guidance=torch.full((1,), 4.0))):
        assert torch.all((changed - plain).abs().amax((1, 2, 3)) > 1e-3)


@torch.no_grad()
def test_both_are_of_each_row_or_of_all() -> None:
    network, two, four = trained(), torch.full((1,), 2.0), torch.full((1,), 4.0)
    mixed = run(network, torch.tensor([0.1, 0.2]), torch.cat((two, four)))
    first, second = (
        run(network, torch.tensor([until]), scale) for until, scale in ((0.1, two), (0.2, four))
    )
    torch.testing.assert_close(mixed, torch.stack((first[0], second[1])))


@torch.no_grad()
def test_a_row_is_the_same_alone_and_in_a_batch_to_the_last_bit() -> None:
    torch.manual_seed(0)
    network = TurboDiT(Config(depth=2)).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.03)
    x, tokens = torch.randn(3, 16, 16, 16), Tokens(torch.ones(3, 4).long(), torch.ones(3, 4).bool())
    until, guidance = torch.tensor([0.75]), torch.tensor([4.5])
    together = network(x, torch.ones(1), Cond(tokens, until=until, guidance=guidance))
    for k in range(3):
        row = Tokens(tokens.ids[:1], tokens.mask[:1])
        alone = Cond(row, until=until, guidance=guidance)
        assert torch.equal(network(x[k : k + 1], torch.ones(1), alone)[0], together[k])


def test_every_parameter_learns() -> None:
    network = trained()
    null = torch.tensor([False, True])
    cond = Cond(TOKENS, null, until=T / 2, guidance=torch.tensor([2.0, 3.0]))
    network(noisy(), T, cond).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("gap", [0.01, 0.1])
def test_the_embedding_tells_numbers_apart_smoothly(gap: float) -> None:
    x = torch.linspace(0, 1 - gap, 20)
    apart = (slow_wave(x + gap) - slow_wave(x)).norm(dim=-1) / gap
    assert apart.min() > 1 and apart.max() / apart.min() < 1.01
