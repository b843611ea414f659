"""DALL-E mini: gradients, invariances, generation with a cache, guidance.

``tests/hub/test_dalle_mini.py`` compares it with min-dalle.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.hub.weights import load_module, save_weights
from kalpana.models.dalle_mini import Config, DalleMini, silence
from kalpana.types import Tokens

TINY = Config(
    vocabulary=50,
    length=16,
    width=32,
    heads=2,
    hidden=48,
    text_depth=2,
    depth=2,
    codes=20,
    start=20,
    image_vocabulary=23,
    image_length=12,
)
ROWS = [[1, 5, 6, 2], [1, 9, 2], [1, 7, 8, 9, 10, 2]]
IMAGE = torch.randint(0, 20, (3, 12), generator=torch.Generator().manual_seed(1))


def words(rows: list[list[int]], length: int) -> Tokens:
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return Tokens(ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None])


@pytest.fixture
def net() -> DalleMini:
    torch.manual_seed(0)
    net = DalleMini(TINY)
    with torch.no_grad():  # a new network gives nearly the same output for all inputs
        for p in net.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return net.eval()


def sampler(seeds: list[int]) -> Callable[[Tensor], Tensor]:
    """Sample each row with its own generator."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda logits: torch.cat(
        [
            row.softmax(0).multinomial(1, generator=rng)
            for row, rng in zip(logits, generators, strict=True)
        ]
    )


def generated(
    net: DalleMini, tokens: Tokens, draw: Callable[[Tensor], Tensor], factor: float = 1.0
) -> Tensor:
    return torch.stack(list(net.generate(tokens, draw, factor)), 1)


def test_shape_and_a_gradient_for_every_parameter(net: DalleMini) -> None:
    logits = net(words(ROWS, 16), IMAGE, torch.tensor([False, True, False]))
    assert logits.shape == (3, 12, 23)
    F.cross_entropy(logits.flatten(0, 1), IMAGE.flatten()).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_a_fresh_network_finds_all_codes_nearly_as_likely() -> None:
    torch.manual_seed(0)
    net = DalleMini(TINY)
    wrong = F.cross_entropy(net(words(ROWS, 8), IMAGE).flatten(0, 1), IMAGE.flatten())
    assert net.loss(words(ROWS, 8), IMAGE).item() == pytest.approx(wrong.item(), rel=1e-5)
    assert wrong.item() == pytest.approx(torch.tensor(23.0).log().item(), abs=0.1)


def test_a_token_changes_what_comes_after_it_alone(net: DalleMini) -> None:
    other = IMAGE.clone()
    other[:, 5] = (other[:, 5] + 1) % 20
    one, two = net(words(ROWS, 8), IMAGE), net(words(ROWS, 8), other)
    assert torch.equal(one[:, :6], two[:, :6])
    assert ((one - two)[:, 6:].abs().amax((0, 2)) > 1e-3).all()


def test_words_and_their_order_matter(net: DalleMini) -> None:
    base = net(words(ROWS, 8), IMAGE)
    assert not torch.allclose(base, net(words([[1, 6, 5, 2], *ROWS[1:]], 8), IMAGE), atol=1e-3)


def test_padding_does_not_matter(net: DalleMini) -> None:
    assert torch.allclose(net(words(ROWS, 6), IMAGE), net(words(ROWS, 16), IMAGE), atol=1e-5)


def test_a_batch_of_three_equals_three_singles(net: DalleMini) -> None:
    together = net(words(ROWS, 8), IMAGE)
    for i in range(3):
        assert torch.allclose(
            together[i : i + 1], net(words(ROWS[i : i + 1], 8), IMAGE[i : i + 1]), atol=1e-5
        )


def test_null_rows_read_an_empty_text_whatever_they_say(net: DalleMini) -> None:
    tokens, null = words(ROWS, 8), torch.tensor([True, False, True])
    assert torch.allclose(
        net(tokens, IMAGE, null), net(words([[1, 2], ROWS[1], [1, 2]], 8), IMAGE), atol=1e-5
    )
    quiet = silence(tokens, null)
    assert [row[mask].tolist() for row, mask in zip(quiet.ids, quiet.mask, strict=True)] == [
        [1, 2],
        ROWS[1],
        [1, 2],
    ]


def test_inputs_are_unchanged(net: DalleMini) -> None:
    tokens, image = words(ROWS, 8), IMAGE.clone()
    net(tokens, image, torch.tensor([False, True, False]))
    generated(net, tokens, lambda logits: logits.argmax(1), 2.0)
    assert (
        torch.equal(tokens.ids, words(ROWS, 8).ids)
        and torch.equal(tokens.mask, words(ROWS, 8).mask)
        and torch.equal(image, IMAGE)
    )


@pytest.mark.parametrize("factor", [1.0, 0.0, 3.5])
def test_token_by_token_the_logits_are_those_of_the_whole(factor: float, net: DalleMini) -> None:
    """Generation with the cache: the logits are null + factor (prompted - null)."""
    collected: list[Tensor] = []

    def draw(logits: Tensor) -> Tensor:
        collected.append(logits)
        return IMAGE[:, len(collected) - 1]

    tokens = words(ROWS, 8)
    assert torch.equal(generated(net, tokens, draw, factor), IMAGE)
    with torch.no_grad():
        prompted, null = net(tokens, IMAGE), net(tokens, IMAGE, torch.ones(3, dtype=torch.bool))
    # Only the codes, without start token and padding.
    wanted = (null + factor * (prompted - null))[..., :20]
    assert (prompted - null).abs().max() > 0.1
    assert torch.allclose(torch.stack(collected, 1), wanted, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_a_row_is_the_same_in_any_batch(factor: float, net: DalleMini) -> None:
    together = generated(net, words(ROWS, 16), sampler([3, 4, 5]), factor)
    assert together.shape == (3, 12) and len(together.unique()) > 5
    assert together.min() >= 0 and together.max() < 20
    for i in range(3):
        alone = generated(net, words(ROWS[i : i + 1], 8), sampler([3 + i]), factor)
        assert torch.equal(alone[0], together[i])


def test_tokens_come_one_by_one_and_leave_gradients_as_they_were(net: DalleMini) -> None:
    collected = []
    stream = net.generate(
        words(ROWS, 8), lambda logits: collected.append(logits) or logits.argmax(1)
    )
    assert not collected
    for count, ids in zip(range(1, 4), stream, strict=False):
        assert len(collected) == count and ids.shape == (3,)
        assert torch.is_grad_enabled() and not collected[-1].requires_grad
    stream.close()


@pytest.mark.slow
def test_it_learns_which_picture_a_text_asks_for() -> None:
    torch.manual_seed(0)
    net, tokens = DalleMini(TINY), words(ROWS, 8)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    rng = torch.Generator().manual_seed(2)
    for _ in range(120):
        null = torch.rand(3, generator=rng) < 0.1
        optimizer.zero_grad()
        F.cross_entropy(net(tokens, IMAGE, null).flatten(0, 1), IMAGE.flatten()).backward()
        optimizer.step()
    for factor in (1.0, 2.0):
        assert torch.equal(generated(net, tokens, lambda logits: logits.argmax(1), factor), IMAGE)


def test_saved_and_loaded_it_is_the_same_function(net: DalleMini, tmp_path: Path) -> None:
    # Weight files hold matrices in bf16.
    net.load_state_dict(
        {k: v.to(torch.bfloat16).float() if v.ndim > 1 else v for k, v in net.state_dict().items()}
    )
    net.requires_grad_(False)  # as in the loaded network: with gradients, the kernel is another
    save_weights(tmp_path / "dalle-mini.safetensors", net, "dalle-mini", TINY, {})
    again = load_module(tmp_path / "dalle-mini.safetensors", "dalle-mini")
    assert torch.equal(net(words(ROWS, 8), IMAGE), again(words(ROWS, 8), IMAGE))


def test_bf16_is_close_to_fp32(net: DalleMini) -> None:
    full = net(words(ROWS, 8), IMAGE)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(words(ROWS, 8), IMAGE).float()
        assert generated(net, words(ROWS, 8), lambda logits: logits.argmax(1), 2.0).shape == (3, 12)
    assert (full - half).abs().max() < 0.05 * full.abs().max()


def test_weights_in_bf16_say_nearly_the_same(net: DalleMini) -> None:
    """With guidance too; the logits given to ``draw`` are in fp32."""

    def generation_logits() -> Tensor:
        logits: list[Tensor] = []
        generated(
            net, words(ROWS, 8), lambda each: logits.append(each) or IMAGE[:, len(logits) - 1], 2.0
        )
        return torch.stack(logits)

    full = generation_logits()
    net.to(torch.bfloat16)
    assert generation_logits().dtype == torch.float32
    assert (full - generation_logits()).abs().max() < 0.1 * full.abs().max()
