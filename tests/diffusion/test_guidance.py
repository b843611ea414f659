"""Guidance around a small real network that reads its tokens, their mask and the null rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoiser
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import euler, sample
from kalpana.diffusion.schedule import Flow, times
from kalpana.types import Cond, Tokens

NULL = -0.5


@dataclass
class Network:
    """x0 = the masked mean of the row's token ids / 10 (NULL for null rows), plus a little of x_t; it counts the rows of each call."""

    calls: list[int] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert len(x_t) == len(t)
        self.calls.append(len(x_t))
        if cond.tokens is None:
            return NULL + 0.1 * x_t
        mean = (cond.tokens.ids * cond.tokens.mask).sum(1) / cond.tokens.mask.sum(1) / 10
        if cond.null is not None:
            mean = torch.where(cond.null, NULL, mean)
        return mean[:, None, None, None] + 0.1 * x_t


def words(*rows: list[int]) -> Cond:
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    return Cond(Tokens(ids, mask))


@pytest.fixture
def network() -> Network:
    return Network()


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
COND = words([3, 5], [7, 8, 9])
T = torch.tensor(0.5, dtype=torch.float64)


def denoiser(network: Network) -> Denoiser:
    return Denoiser(network, Flow())


def test_guidance_one_is_the_bare_denoiser_in_one_call(network: Network) -> None:
    bare = denoiser(network)(X, T, COND)
    assert torch.equal(guide(denoiser(network), COND, 1.0, negative=words([1], [1]))(X, T), bare)
    assert network.calls == [2, 2]


def test_guidance_one_needs_no_tokens(network: Network) -> None:
    assert torch.equal(guide(denoiser(network), Cond())(X, T), NULL + 0.1 * X)
    with pytest.raises(ValueError, match="null=True"):
        guide(denoiser(network), Cond(), 2.0)


def test_guided_estimates_extrapolate_from_the_null_condition_in_one_call_of_both(network: Network) -> None:
    guided = guide(denoiser(network), COND, 3.0)(X, T)
    assert network.calls == [4]
    prompted, null = network(X, T.expand(2), COND), network(X, T.expand(2), Cond())
    torch.testing.assert_close(guided, 3 * prompted - 2 * null)


def test_guidance_zero_is_the_null_condition(network: Network) -> None:
    torch.testing.assert_close(guide(denoiser(network), COND, 0.0)(X, T), network(X, T.expand(2), Cond()))


def test_rows_already_null_stay_null(network: Network) -> None:
    cond = Cond(COND.tokens, torch.tensor([True, False]))
    guided = guide(denoiser(network), cond, 4.0)(X, T)
    torch.testing.assert_close(guided[0], (NULL + 0.1 * X)[0])
    torch.testing.assert_close(guided[1], guide(denoiser(network), COND, 4.0)(X, T)[1])


def test_the_interval_is_open_below_and_closed_above(network: Network) -> None:
    denoise = guide(denoiser(network), COND, 3.0, interval=(0.25, 0.75))
    for t, rows in [(1.0, 2), (0.7501, 2), (0.75, 4), (0.5, 4), (0.2501, 4), (0.25, 2), (0.1, 2)]:
        network.calls.clear()
        denoise(X, torch.tensor(t, dtype=torch.float64))
        assert network.calls == [rows], t


def test_the_whole_interval_guides_every_step(network: Network) -> None:
    list(sample(guide(denoiser(network), COND, 3.0), X, times(5), euler))
    assert network.calls == [4] * 5


@pytest.mark.parametrize("negative", [words([1, 2], [2, 2, 2, 2, 6]), words([1], [2])], ids=["longer", "shorter"])
def test_a_negative_prompt_takes_the_place_of_null(network: Network, negative: Cond) -> None:
    guided = guide(denoiser(network), COND, 3.0, negative=negative)(X, T)
    assert network.calls == [4]
    torch.testing.assert_close(guided, 3 * network(X, T.expand(2), COND) - 2 * network(X, T.expand(2), negative))
    swapped = guide(denoiser(network), negative, -2.0, negative=COND)(X, T)  # n + w (c - n) = c + (1 - w)(n - c)
    torch.testing.assert_close(swapped, guided)


def test_inputs_are_unchanged_by_a_call(network: Network) -> None:
    x, ids, mask = X.clone(), COND.tokens.ids.clone(), COND.tokens.mask.clone()
    null = torch.tensor([False, False])
    list(sample(guide(denoiser(network), Cond(COND.tokens, null), 3.0, negative=words([1], [2])), X, times(3), euler))
    assert torch.equal(X, x) and torch.equal(COND.tokens.ids, ids) and torch.equal(COND.tokens.mask, mask) and not null.any()
