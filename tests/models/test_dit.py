"""The DiT: gradients, conditioning, invariances, and its precision-weighted x0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kalpana.hub.weights import load_module, save_weights
from kalpana.models.dit import GUESS, Config, DiT, precision_weighted_x0
from kalpana.models.layers import rope_tables, rotate
from kalpana.types import Cond, Tokens

TINY = Config(
    fine=8, width=32, depth=2, heads=2, text_depth=1, vocabulary=50, length=16, channels=4
)


@pytest.fixture
def net() -> DiT:
    torch.manual_seed(0)
    net = DiT(TINY)
    with torch.no_grad():  # the zero-initialised parts would hide mistakes
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def words(rows: list[list[int]], length: int) -> Tokens:
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return Tokens(ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None])


X = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.1, 0.5, 1.0])
ROWS = [[1, 5, 6, 2], [1, 9, 2], [1, 7, 8, 9, 10, 2]]


def test_shape_and_a_gradient_for_every_parameter(net: DiT) -> None:
    out = net(X, T, Cond(words(ROWS, 8), torch.tensor([False, True, False])))
    assert out.shape == X.shape
    out.square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_a_fresh_network_has_no_guess_of_its_own() -> None:
    """A new network predicts x0 = 0, the mean of latents: at pure noise its estimate is 0."""
    x0 = DiT(TINY)(X, T, Cond(words(ROWS, 8)))
    assert (x0[2] == 0).all()
    assert torch.equal(x0, precision_weighted_x0(torch.zeros_like(X), X, T))


@pytest.mark.parametrize("t", [0.01, 0.05, 0.2, 0.9])
def test_guess_and_x_t_are_weighed_by_their_precisions(t: float) -> None:
    """With errors of standard deviation GUESS in the guess and t / (1 - t) in x_t / (1 - t).

    The variance of the estimate's error is then minimal: 1 / (1 / GUESS² + (1 - t)² / t²).
    """
    rng = torch.Generator().manual_seed(3)
    x0, one, two = (torch.randn(1, 1, 400, 500, generator=rng) for _ in range(3))
    estimate = precision_weighted_x0(x0 + GUESS * one, (1 - t) * x0 + t * two, torch.tensor([t]))
    assert (estimate - x0).square().mean().item() == pytest.approx(
        1 / (1 / GUESS**2 + (1 - t) ** 2 / t**2), rel=0.02
    )
    assert torch.equal(precision_weighted_x0(x0, two, torch.ones(1)), x0)


def test_what_is_said_aside_changes_nothing_else() -> None:
    torch.manual_seed(0)
    net = DiT(replace(TINY, aux_outputs=5))
    cond = Cond(words(ROWS, 8))
    prediction, aux = net.forward_with_aux(X, T, cond)
    assert torch.equal(net(X, T, cond), prediction) and aux.shape == (3, 24, 5)  # 4 x 6 patches
    aux.square().mean().backward()
    # The auxiliary head follows the first third of the two blocks, rounded up: the first.
    assert net.blocks[0].feed.up.weight.grad is not None
    assert net.blocks[1].feed.up.weight.grad is None


def test_padding_does_not_matter(net: DiT) -> None:
    short, long = net(X, T, Cond(words(ROWS, 6))), net(X, T, Cond(words(ROWS, 16)))
    assert torch.allclose(short, long, atol=1e-5)


def test_a_batch_of_three_equals_three_singles(net: DiT) -> None:
    together = net(X, T, Cond(words(ROWS, 8)))
    for i in range(3):
        alone = net(X[i : i + 1], T[i : i + 1], Cond(words(ROWS[i : i + 1], 8)))
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def test_null_rows_equal_no_caption_whatever_they_say(net: DiT) -> None:
    everyone = torch.ones(3, dtype=torch.bool)
    assert torch.allclose(net(X, T, Cond(words(ROWS, 8), everyone)), net(X, T, Cond()), atol=1e-5)


def test_words_time_and_place_matter(net: DiT) -> None:
    base = net(X, T, Cond(words(ROWS, 8)))
    reordered = words([[1, 6, 5, 2], *ROWS[1:]], 8)
    assert not torch.allclose(base, net(X, T, Cond(reordered)), atol=1e-3)
    assert not torch.allclose(base, net(X, T * 0.9, Cond(words(ROWS, 8))), atol=1e-3)
    moved = net(X.roll(2, -1), T, Cond(words(ROWS, 8)))
    assert not torch.allclose(base.roll(2, -1), moved, atol=1e-3)  # not shift-invariant


def test_inputs_are_unchanged(net: DiT) -> None:
    x, t, cond = X.clone(), T.clone(), Cond(words(ROWS, 8), torch.tensor([False, True, False]))
    net(x, t, cond)
    assert cond.tokens is not None
    assert (
        torch.equal(x, X) and torch.equal(t, T) and torch.equal(cond.tokens.ids, words(ROWS, 8).ids)
    )


def test_saved_and_loaded_it_is_the_same_function(net: DiT, tmp_path: Path) -> None:
    # Weight files are in bf16.
    net.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in net.state_dict().items()})
    save_weights(tmp_path / "dit.safetensors", net, "flow", TINY, {})
    again = load_module(tmp_path / "dit.safetensors", "flow").eval()
    assert torch.equal(net(X, T, Cond(words(ROWS, 8))), again(X, T, Cond(words(ROWS, 8))))


def test_bf16_is_close_to_fp32(net: DiT) -> None:
    full = net(X, T, Cond(words(ROWS, 8)))
    with torch.autocast("cpu", torch.bfloat16):
        half = net(X, T, Cond(words(ROWS, 8))).float()
    assert (full - half).abs().max() < 0.05 * full.abs().max()


def test_rotation_keeps_lengths_and_shows_only_differences() -> None:
    """Su et al. 2021: the product of a rotated query and key depends only on their distance."""
    q, k = torch.randn(2, 8).unbind()
    frequency = torch.tensor([1.0, 0.3, 0.1, 0.03])

    def at(x: torch.Tensor, place: float) -> torch.Tensor:
        return rotate(x[None, None, None], rope_tables(place * frequency[None]))[0, 0, 0]

    assert torch.allclose(at(q, 3).norm(), q.norm(), atol=1e-5)
    assert torch.allclose(at(q, 3) @ at(k, 7), at(q, 13) @ at(k, 17), atol=1e-4)
    a, b = q[:4], q[4:]
    # The definition, with complex numbers.
    rotated = torch.complex(a, b) * torch.polar(torch.ones(4), 3 * frequency)
    assert torch.allclose(at(q, 3), torch.cat((rotated.real, rotated.imag)), atol=1e-5)
