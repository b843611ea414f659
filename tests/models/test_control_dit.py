"""Control DiT: the image transformer at initialisation, steered by maps once trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kalpana.models.control_dit import Config, ControlDiT
from kalpana.models.dit import Config as ImageConfig
from kalpana.models.dit import DiT
from kalpana.types import Cond, KalpanaError, Tokens

SIZES = {"width": 32, "depth": 2, "heads": 2, "text_depth": 1, "fine": 8, "channels": 4}
TOKENS = Tokens(torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool())


def image_model() -> DiT:
    torch.manual_seed(0)
    network = DiT(ImageConfig(**SIZES))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([0.3, 0.8])


def a_map(strength: float = 1.0) -> Tensor:
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return torch.cat((picture, torch.full((2, 1, 64, 64), strength)), 1)


def trained() -> ControlDiT:
    network = ControlDiT.widen(image_model())
    torch.manual_seed(3)
    for parameter in (network.join.weight, network.known_stem.weight):
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


@torch.no_grad()
def test_it_starts_as_the_image_transformer_whatever_it_is_given() -> None:
    x_t, t = inputs()
    network, image = ControlDiT.widen(image_model()).eval(), image_model()
    known = torch.rand(2, 5, 8, 8)
    for cond in (Cond(TOKENS), Cond(TOKENS, control={"edges": a_map()}, known=known)):
        assert torch.equal(network(x_t, t, cond), image(x_t, t, Cond(TOKENS)))


@torch.no_grad()
def test_maps_act_by_their_strength_and_add_up() -> None:
    x_t, t = inputs()
    network = trained()

    def run(**control: Tensor) -> Tensor:
        return network(x_t, t, Cond(TOKENS, control=control or None))

    without, full = run(), run(edges=a_map())
    assert torch.equal(run(edges=a_map(0.0)), without)
    assert not torch.allclose(run(edges=a_map(0.5)), full)
    # Before anything non-linear, the features of two maps are the sum of theirs.
    stem = lambda **maps: network._stem(x_t, Cond(TOKENS, control=maps or None))  # noqa: E731
    both = stem(edges=a_map(), depth=a_map())
    torch.testing.assert_close(both, stem(edges=a_map()) + stem(depth=a_map()) - stem())
    half = stem(edges=a_map(0.5))
    torch.testing.assert_close(half, (stem() + stem(edges=a_map())) / 2)


@torch.no_grad()
def test_strength_is_of_each_row() -> None:
    x_t, t = inputs()
    network, given = trained(), a_map()
    given[1, 3] = 0
    mixed = network(x_t, t, Cond(TOKENS, control={"pose": given}))
    full, none = (network(x_t, t, Cond(TOKENS, control=c)) for c in ({"pose": a_map()}, None))
    torch.testing.assert_close(mixed, torch.stack((full[0], none[1])))


@torch.no_grad()
def test_known_latents_act_and_no_known_latents_do_not() -> None:
    x_t, t = inputs()
    network = trained()
    without = network(x_t, t, Cond(TOKENS))
    assert torch.equal(network(x_t, t, Cond(TOKENS, known=torch.zeros(2, 5, 8, 8))), without)
    assert not torch.allclose(network(x_t, t, Cond(TOKENS, known=torch.ones(2, 5, 8, 8))), without)


def test_every_parameter_learns() -> None:
    x_t, t = inputs()
    network = trained()
    control = {kind: a_map() for kind in network.config.kinds}
    known = torch.rand(2, 5, 8, 8)
    null = torch.tensor([False, True])
    network(x_t, t, Cond(TOKENS, null, control=control, known=known)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_another_kind_of_map_is_named() -> None:
    x_t, t = inputs()
    with pytest.raises(KalpanaError, match="no control map 'scribble': the kinds are edges, "):
        ControlDiT(Config(**SIZES))(x_t, t, Cond(TOKENS, control={"scribble": a_map()}))
