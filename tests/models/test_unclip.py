"""Decoder and prior of unCLIP: the start from the image transformer, and what each reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kalpana.models import clip, prior, unclip
from kalpana.models.dit import Config as ImageConfig
from kalpana.models.dit import DiT
from kalpana.models.layers import timestep_embedding
from kalpana.models.prior import Prior, text_cond
from kalpana.models.unclip import Standard, Unclip, with_noise
from kalpana.types import Cond, Tokens

SIZES = {"width": 32, "depth": 2, "heads": 2, "text_depth": 1, "fine": 8, "channels": 4}
TOKENS = Tokens(torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool())
NO_TEXT = Tokens(TOKENS.ids, TOKENS.mask & False)
D = 12


def image_model() -> DiT:
    torch.manual_seed(0)
    network = DiT(ImageConfig(**SIZES))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def trained() -> Unclip:
    network = Unclip.widen(image_model(), features=D)
    torch.manual_seed(3)
    nn.init.normal_(network.vector_time.weight, std=0.2)
    return network.eval()


def inputs(b: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t, z = torch.randn(b, 4, 8, 8, generator=generator), torch.randn(b, D, generator=generator)
    return x_t, torch.linspace(0.3, 0.8, b), z


def vector(z: Tensor, level: float = 0.0) -> Tensor:
    return with_noise(z, torch.zeros_like(z), torch.full((len(z),), level))


def test_standard_vectors_have_mean_0_and_variance_1_and_return() -> None:
    torch.manual_seed(0)
    vectors = nn.functional.normalize(torch.randn(500, D) * torch.arange(1, D + 1) + 3, dim=1)
    standard = Standard(D)
    standard.fit(vectors)
    z = standard(vectors)
    torch.testing.assert_close(z.mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.inverse(z), vectors, atol=1e-5, rtol=0)
    assert {"mean", "deviation"} <= standard.state_dict().keys()  # the weights keep them


def test_noise_mixes_the_vector_and_tells_its_level() -> None:
    z, eps = torch.ones(3, D), torch.full((3, D), 2.0)
    given = with_noise(z, eps, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(given[:, :-1].mean(1), torch.tensor([1.0, 1.25, 2.0]))
    torch.testing.assert_close(given[:, -1], torch.tensor([0.0, 0.25, 1.0]))


@torch.no_grad()
def test_it_starts_as_the_image_transformer() -> None:
    x_t, t, z = inputs()
    network, image = Unclip.widen(image_model(), features=D).eval(), image_model()
    wanted = image(x_t, t, Cond(TOKENS))
    assert torch.equal(network(x_t, t, Cond(TOKENS)), wanted)
    # Without a vector its tokens are masked; with one, their keys are at first biased down.
    none = network(x_t, t, Cond(TOKENS, embedding=vector(z, 1.0)))
    torch.testing.assert_close(none, wanted, atol=1e-3, rtol=1e-3)
    given = network(x_t, t, Cond(TOKENS, embedding=vector(z)))
    assert 0 < (given - wanted).norm() < 0.05 * wanted.norm()


@torch.no_grad()
def test_vector_level_and_text_each_change_the_prediction() -> None:
    x_t, t, z = inputs()
    network = trained()

    def run(cond: Cond) -> Tensor:
        return network(x_t, t, cond)

    full = run(Cond(TOKENS, embedding=vector(z)))
    others = [
        Cond(TOKENS),
        Cond(TOKENS, embedding=vector(z.flip(0))),
        Cond(TOKENS, embedding=torch.cat((z, torch.full((2, 1), 0.3)), 1)),  # another level
        Cond(NO_TEXT, embedding=vector(z)),
    ]
    for other in others:
        assert (run(other) - full).abs().amax((1, 2, 3)).min() > 1e-3


@torch.no_grad()
def test_rows_without_a_vector_or_text_are_those_that_never_had_them() -> None:
    x_t, t, z = inputs()
    network, close = trained(), {"atol": 1e-3, "rtol": 1e-3}
    level = torch.tensor([0.0, 1.0])
    mixed = network(x_t, t, Cond(TOKENS, embedding=with_noise(z, z, level)))
    torch.testing.assert_close(mixed[1], network(x_t, t, Cond(TOKENS))[1], **close)
    null = torch.tensor([True, True])
    nothing = network(x_t, t, Cond(TOKENS, null=null))
    dropped = network(x_t, t, Cond(TOKENS, embedding=vector(z)).dropped())
    torch.testing.assert_close(dropped, nothing, **close)
    torch.testing.assert_close(network(x_t, t, Cond(NO_TEXT)), nothing, **close)


@torch.no_grad()
def test_what_is_added_for_a_row_does_not_depend_on_the_batch() -> None:
    """Bit for bit, with one time for all rows, as the pipelines call networks."""
    _, _, z = inputs(8)
    network, wave, cond = trained(), timestep_embedding(torch.tensor([0.4])), vector(z)

    def added(given: Tensor) -> tuple[Tensor, ...]:
        cond = Cond(embedding=given)
        extra = network._extra(wave, cond)
        assert extra is not None
        return network._time(wave, cond), *extra

    together = added(cond)
    for k in range(8):
        for one, many in zip(added(cond[k : k + 1]), together, strict=True):
            assert torch.equal(one[0], many[k])


def test_every_parameter_learns() -> None:
    x_t, t, z = inputs()
    network = trained().requires_grad_(True)
    network(x_t, t, Cond(TOKENS, embedding=vector(z))).square().mean().backward()
    network(x_t, t, Cond(NO_TEXT)).square().mean().backward()  # the null token
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def tiny_clip() -> clip.CLIP:
    torch.manual_seed(0)
    text = {"text_width": 16, "text_depth": 2, "text_heads": 2, "text_hidden": 32}
    config = clip.Config(
        side=16, patch=8, stem=(), width=16, depth=1, heads=2, hidden=32, features=16, **text
    )
    return clip.CLIP(config).eval()


def tiny_prior() -> Prior:
    torch.manual_seed(1)
    network = Prior(prior.Config(width=16, depth=2, heads=2, hidden=32, features=16))
    nn.init.normal_(network.head.weight, std=0.2)  # by default 0
    return network.eval()


@torch.no_grad()
def test_the_prior_reads_what_the_clip_says_of_the_text() -> None:
    model = tiny_clip()
    cond = text_cond(model.read, TOKENS)
    assert cond.embedding is not None and cond.embedding.shape == (2, 4, 16)
    torch.testing.assert_close(cond.embedding[:, 0], clip.unit(model.text(TOKENS)))
    for k, length in enumerate((3, 2)):  # the feature is the projected mean of the real states
        mean = cond.embedding[k, 1 : 1 + length].mean(0)
        torch.testing.assert_close(model.read.project(mean), model.text(TOKENS)[k])


@torch.no_grad()
def test_states_vector_time_and_noise_each_change_the_prior() -> None:
    model, network = tiny_clip(), tiny_prior()
    x_t, t = torch.randn(2, 16), torch.tensor([0.4, 0.7])
    cond = text_cond(model.read, TOKENS)
    assert cond.embedding is not None
    full = network(x_t, t, cond)
    words, vector = cond.embedding.clone(), cond.embedding.clone()
    words[:, 1] += torch.linspace(-1, 1, 16)
    vector[:, 0] = vector[:, 0].flip(1)
    changed = [
        network(x_t, t, Cond(TOKENS, embedding=words)),
        network(x_t, t, Cond(TOKENS, embedding=vector)),
        network(x_t, t * 0.9, cond),
        network(x_t + 0.1, t, cond),
        network(x_t, t, cond.dropped()),
    ]
    for other in changed:
        assert (other - full).abs().amax(1).min() > 1e-4
    padding = cond.embedding.clone()
    padding[1, 3] += 1  # of a word that is not there
    assert torch.equal(network(x_t, t, Cond(TOKENS, embedding=padding)), full)


@torch.no_grad()
def test_a_dropped_text_says_nothing() -> None:
    model, network = tiny_clip(), tiny_prior()
    x_t, t = torch.randn(1, 16).expand(2, -1), torch.tensor([0.5])
    one, other = network(x_t, t, text_cond(model.read, TOKENS).dropped())
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("t", [0.0, 1.0])
@torch.no_grad()
def test_the_prior_is_finite_at_both_ends_and_keeps_clean_vectors(t: float) -> None:
    x_t = torch.randn(2, 16)
    out = tiny_prior()(x_t, torch.full((2,), t), text_cond(tiny_clip().read, TOKENS))
    assert out.isfinite().all()
    assert torch.allclose(out, x_t, atol=1e-6) == (t == 0)


def test_config_names_the_sizes() -> None:
    assert unclip.Config(features=8, vector_tokens=2).vector_tokens == 2
    network = Unclip.widen(image_model(), features=8, vector_tokens=2)
    assert network.vector.out_features == 2 * 32 and network.key_bias.tolist() == [-1.0, -1.0]
