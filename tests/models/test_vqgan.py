"""The VQGAN, its two quantisers, and the discriminator's losses.

They are compared with closed forms and brute force.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from kalpana.hub.weights import load_module, save_weights
from kalpana.models.discriminator import (
    Discriminator,
    LeCamEMA,
    adaptive_gan_weight,
    generator_loss,
    hinge,
    lecam,
)
from kalpana.models.vqgan import (
    FSQ,
    PRESETS,
    ROWS,
    VQGAN,
    Codebook,
    Config,
    count,
    perplexity,
    used,
)
from kalpana.types import KalpanaError

TINY = Config(widths=(8, 16), depth=1, groups=4, latent=8, codebook=(32, 4))
CONFIGS = {
    "small": TINY,
    "attends": replace(TINY, attend=(0,)),
    "euclidean": replace(TINY, unit=False),
    "fsq": replace(TINY, fsq=(5, 4, 3)),
    "taming": Config(
        stem=1,
        widths=(8, 8, 16),
        depth=2,
        attend=(2,),
        groups=4,
        latent=8,
        codebook=(32, 8),
        unit=False,
    ),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=rng(seed))


def pictures(b: int, h: int = 32, w: int = 48) -> Tensor:
    return torch.rand(b, 3, h, w, generator=rng(2)) * 2 - 1


def build(config: Config = TINY) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(config)


# The whole network.


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_shapes_and_a_gradient_for_every_parameter(config: Config) -> None:
    net, x = build(config), pictures(2)
    before, f = x.clone(), config.factor
    found = net(x)
    assert found.pixels.shape == x.shape and torch.equal(x, before)
    assert found.indices.shape == (2, 32 // f, 48 // f) and found.indices.dtype == torch.int64
    assert found.latents.shape == (2, len(config.fsq) or config.codebook[1], 32 // f, 48 // f)
    assert found.indices.min() >= 0 and found.indices.max() < net.quantiser.size
    ((found.pixels - x).square().mean() + 0.25 * found.loss).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_tokens_alone_are_enough_to_draw(config: Config) -> None:
    net, x = build(config).eval(), pictures(2)
    with torch.no_grad():
        found, tokens = net(x), net.encode(x)
        assert torch.equal(tokens, found.indices)
        assert torch.allclose(net.decode(tokens), found.pixels, atol=1e-5)
        assert torch.allclose(net.decode(tokens.int()), found.pixels, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_batch_of_three_is_three_singles(config: Config) -> None:
    net, x = build(config).eval(), pictures(3)
    with torch.no_grad():
        whole, parts = net(x), [net(one) for one in x.split(1)]
    assert torch.equal(whole.indices, torch.cat([part.indices for part in parts]))
    assert torch.allclose(whole.pixels, torch.cat([part.pixels for part in parts]), atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_saved_and_loaded_it_is_the_same_function(config: Config, tmp_path: Path) -> None:
    net = build(config).eval()
    # Weight files are in bf16.
    net.load_state_dict({k: v.to(torch.bfloat16).to(v.dtype) for k, v in net.state_dict().items()})
    save_weights(tmp_path / "vqgan.safetensors", net, "vqgan", config, {})
    again = load_module(tmp_path / "vqgan.safetensors", "vqgan")
    x = pictures(1)
    assert again.config == config
    assert torch.equal(net.encode(x), again.encode(x))
    assert torch.equal(net(x).pixels, again(x).pixels)


def test_bf16_is_close_to_fp32_and_the_nearest_code_is_found_in_fp32() -> None:
    net, x = build(CONFIGS["attends"]).eval(), pictures(2)
    with torch.no_grad():
        latents = net.encode_latents(x)
        full = net.decode_latents(latents)
        with torch.autocast("cpu", torch.bfloat16):
            half = net.decode_latents(latents).float()
            in_double = net.quantiser(latents.double())
            assert torch.equal(net.quantiser(latents).indices, in_double.indices)
    assert (full - half).abs().max() < 0.05 * full.abs().max() + 0.02


def test_presets() -> None:
    """Codebook sizes, downsampling factors and numbers of parameters.

    All have at least 1,024 codes. ``small`` maps 128 px to 16 x 16 tokens with 1 to 10 million
    parameters; the published networks have known sizes.
    """
    sizes = {}
    for name, config in PRESETS.items():
        with torch.device("meta"):
            net = VQGAN(config)
        sizes[name] = sum(p.numel() for p in net.parameters())
        assert net.quantiser.size >= 1024
    assert PRESETS["small"].factor == 8
    assert PRESETS["f16-1024"].factor == PRESETS["f16-16384"].factor == 16
    assert 1e6 < sizes["small"] < 1e7
    assert sizes["f16-1024"] == sizes["f16-16384"] == 71_879_555
    with torch.no_grad():
        assert build(PRESETS["small"]).encode(pictures(1, 128, 128)).shape == (1, 16, 16)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 3, 30, 32), r"height 30 is not a multiple of 8: try 24 or 32"),
        ((1, 3, 32, 65), r"width 65 is not a multiple of 8: try 64 or 72"),
        ((1, 3, 5, 32), r"height 5 is not a multiple of 8: try 8$"),
        ((1, 3, 0, 32), r"height 0 is not a multiple of 8: try 8$"),
        ((1, 4, 32, 32), r"\(1, 4, 32, 32\): give \(b, 3, h, w\)"),
        ((3, 32, 32), r"\(3, 32, 32\): give"),
    ],
)
def test_pictures_of_another_size_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        build().encode(torch.zeros(shape))


@pytest.mark.parametrize(
    "tokens, message",
    [
        (torch.full((1, 2, 2), 32), r"from 32 to 32: this codebook has 0 to 31"),
        (torch.full((1, 2, 2), -1), r"from -1"),
        (torch.zeros(1, 4, dtype=torch.int64), r"\(1, 4\): give integers"),
        (torch.zeros(1, 2, 2), r"float32"),
        (torch.zeros(1, 0, 2, dtype=torch.int64), r"\(1, 0, 2\): give integers"),
    ],
)
def test_tokens_that_are_none_are_refused(tokens: Tensor, message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        build().decode(tokens)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"groups": 5}, r"groups is 5: it should divide every width, \(8, 16\)"),
        ({"attend": (2,)}, r"attend is \(2,\): the levels are 0 to 1"),
        ({"fsq": (8, 1)}, r"fsq is \(8, 1\): every number needs 2"),
    ],
)
def test_configs_that_cannot_be_built_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        VQGAN(replace(TINY, **change))


def test_a_decoder_alone_draws_and_says_that_it_cannot_look() -> None:
    net = build(replace(TINY, encoder=False))
    assert not any(name.startswith("encoder") for name in net.state_dict())
    assert net.decode(torch.zeros(1, 2, 3, dtype=torch.int64)).shape == (1, 3, 16, 24)
    with pytest.raises(KalpanaError, match="have no encoder"):
        net.encode(pictures(1))


@pytest.mark.slow
def test_it_learns_two_pictures_by_heart() -> None:
    """Training works: straight-through gradient, commitment loss and codebook update together."""
    net = build(replace(TINY, codebook=(16, 4)))
    x = torch.stack(
        [
            torch.linspace(-1, 1, 16).expand(3, 16, 16),
            torch.linspace(1, -1, 16)[:, None].expand(3, 16, 16),
        ]
    )
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    generator, losses = rng(), []
    assert isinstance(net.quantiser, Codebook)
    net.quantiser.start(net.encode_latents(x.repeat(2, 1, 1, 1)), generator)
    for _ in range(40):
        found = net(x)
        losses.append((found.pixels - x).square().mean())
        optimizer.zero_grad()
        (losses[-1] + 0.25 * found.loss).backward()
        optimizer.step()
        net.quantiser.learn(found.latents, found.indices, generator)
    assert losses[-1] < 0.2 * losses[0]


# The codebook.


def codebook(unit: bool, size: int = 20, numbers: int = 3) -> Codebook:
    torch.manual_seed(0)
    return Codebook(size, numbers, unit)


@pytest.mark.parametrize("unit", [True, False])
def test_the_code_is_the_nearest(unit: bool) -> None:
    book, z = codebook(unit), 0.5 * noise(2, 3, 60, 50)
    assert ROWS < 2 * 60 * 50  # so that the vectors are compared in parts
    found = book(z)
    vectors = z.movedim(1, -1).reshape(-1, 3).double()
    codes = book.vectors.double()
    if unit:  # Yu et al. 2021, section 3.2
        distance = 1 - F.cosine_similarity(vectors[:, None], codes[None], dim=-1)
    else:
        distance = (vectors[:, None] - codes[None]).square().sum(-1)
    chosen = found.indices.flatten()
    assert len(chosen.unique()) > 10  # so that the comparison covers many codes
    assert (distance[torch.arange(len(chosen)), chosen] - distance.min(1).values).max() < 1e-6
    assert torch.allclose(found.codes, book.codes(found.indices), atol=1e-6)
    assert torch.allclose(book.codes(found.indices).norm(dim=1), torch.tensor(1.0)) == unit


@pytest.mark.parametrize("unit", [True, False])
def test_gradients_go_straight_through(unit: bool) -> None:
    book, z = codebook(unit), noise(2, 3, 4, 5).requires_grad_()
    upstream = noise(2, 3, 4, 5, seed=3)
    (through,) = torch.autograd.grad((book(z).codes * upstream).sum(), z)
    (identity,) = torch.autograd.grad(((F.normalize(z, dim=1) if unit else z) * upstream).sum(), z)
    assert torch.allclose(through, identity, atol=1e-6)
    loss = book(z).loss
    measured, codes = (F.normalize(z, dim=1) if unit else z), book.codes(book(z).indices)
    assert torch.allclose(loss, (measured - codes).square().mean())
    (pull,) = torch.autograd.grad(loss, z)
    (wanted,) = torch.autograd.grad((measured - codes).square().mean(), z)
    assert torch.allclose(pull, wanted, atol=1e-7) and pull.abs().sum() > 0


def test_asking_changes_nothing() -> None:
    book = codebook(True).train()
    before = {name: tensor.clone() for name, tensor in book.state_dict().items()}
    book(noise(2, 3, 4, 5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in book.state_dict().items())


def test_codes_are_running_means() -> None:
    """Euclidean codes, compared over several batches with van den Oord et al. 2017, eq. 6 to 8."""
    book, decay = codebook(False, size=6), 0.8
    weights, sums = torch.ones(6).double(), book.vectors.double()
    for k in range(5):
        z = noise(2, 3, 4, 4, seed=10 + k)
        indices = book(z).indices
        rows, chosen = z.movedim(1, -1).reshape(-1, 3).double(), indices.flatten()
        assert book.learn(z, indices, rng(), decay, patience=99) == 0
        for i in range(6):
            weights[i] = decay * weights[i] + (1 - decay) * (chosen == i).sum()
            sums[i] = decay * sums[i] + (1 - decay) * rows[chosen == i].sum(0)
        assert torch.allclose(book.sizes.double(), weights, atol=1e-5)
        assert torch.allclose(book.vectors.double(), sums / weights[:, None], atol=1e-5)


def test_unit_codes_follow_the_direction_of_the_mean() -> None:
    book, z, decay = codebook(True, size=5), noise(2, 3, 4, 4), 0.7
    old, indices = F.normalize(book.vectors.clone(), dim=1), book(z).indices
    unit, chosen = F.normalize(z.movedim(1, -1).reshape(-1, 3), dim=1), indices.flatten()
    book.learn(z, indices, rng(), decay)
    for i in range(5):
        mean = decay * old[i] + (1 - decay) * unit[chosen == i].sum(0)
        code = book.codes(torch.tensor([[[i]]])).flatten()
        assert torch.allclose(code, mean / mean.norm(), atol=1e-5)


@pytest.mark.parametrize("unit", [True, False])
def test_codes_that_nothing_chooses_stay(unit: bool) -> None:
    book, z = codebook(unit), noise(1, 3, 2, 2)
    idle = count(book(z).indices, book.size) == 0
    before = book.codes(torch.arange(20).view(1, 1, 20))
    for _ in range(200):  # so many that their running count is rounded to 0
        book.learn(z, book(z).indices, rng(), decay=0.3, patience=10**6)
    after = book.codes(torch.arange(20).view(1, 1, 20))
    assert after.isfinite().all() and idle.sum() > 10
    assert torch.allclose(before[..., idle], after[..., idle], atol=1e-6)


@pytest.mark.parametrize("unit", [True, False])
def test_k_means_lowers_the_error(unit: bool) -> None:
    centers = noise(12, 3, seed=5)
    points = centers[torch.randint(12, (400,), generator=rng(6))] + 0.05 * noise(400, 3, seed=7)
    z = points.T.reshape(1, 3, 20, 20)
    errors = []
    for rounds in (0, 1, 3, 10):
        book = codebook(unit, size=16)
        before = book(z).loss
        book.start(z, rng(), rounds)
        errors.append(book(z).loss)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * errors[0] and errors[-1] < 0.2 * before
    assert used(count(book(z).indices, book.size)) == 1
    again = codebook(unit, size=16)
    again.start(z, rng(), 10)
    assert torch.equal(again.vectors, book.vectors)  # deterministic given the generator


def test_k_means_on_as_many_points_as_codes_finds_them() -> None:
    book, z = codebook(False), noise(1, 3, 4, 5)
    book.start(z, rng())
    assert book(z).loss == 0 and used(count(book(z).indices, book.size)) == 1


def test_too_few_vectors_to_start_from() -> None:
    with pytest.raises(KalpanaError, match="19 vectors are too few to start 20 codes"):
        codebook(True).start(noise(1, 3, 1, 19), rng())


def test_exactly_the_dead_codes_are_replaced() -> None:
    book, patience = codebook(False, size=8), 3
    book.vectors.copy_(100.0 * torch.arange(8.0)[:, None].expand(8, 3))
    # Codes 5, 6 and 7 are never used, and code 4 only in the last batch.
    near = torch.tensor([0.0, 100, 200, 300, 400])
    for k in range(patience):
        chosen = near if k == patience - 1 else near[:4]
        exact = chosen.repeat(4)[None, None, None, :].expand(1, 3, 1, -1)
        z = exact + noise(1, 3, 1, 4 * len(chosen), seed=k)
        before = book.vectors.clone()
        replaced = book.learn(z, book(z).indices, rng(k), patience=patience)
        assert replaced == (3 if k == patience - 1 else 0)
        if not replaced:
            assert torch.equal(book.vectors[4:], before[4:])
    rows = z.movedim(1, -1).reshape(-1, 3)
    places = [(rows == vector).all(1).nonzero().flatten().tolist() for vector in book.vectors]
    # The replaced codes are three different vectors of the batch.
    assert [len(place) for place in places] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert len({place[0] for place in places[5:]}) == 3
    assert (book.vectors[:5] - 100.0 * torch.arange(5.0)[:, None]).abs().max() < 5
    assert book.ages.tolist() == [0] * 8 and book.sizes[5:].tolist() == [1, 1, 1]
    other, same = codebook(False, size=8), codebook(False, size=8)
    for each, seed in ((other, 1), (same, 2)):
        each.load_state_dict({**book.state_dict(), "ages": torch.full((8,), 5)})
        each.learn(z[..., :8], torch.zeros(1, 1, 8, dtype=torch.int64), rng(seed), patience=3)
    assert not torch.equal(other.vectors[1:], same.vectors[1:])  # the seeds differ


def test_more_dead_codes_than_vectors() -> None:
    book, z = codebook(False), noise(1, 3, 1, 4)
    indices = torch.zeros(1, 1, 4, dtype=torch.int64)
    assert book.learn(z, indices, rng(), patience=1) == 4
    assert book.vectors.isfinite().all()


def test_usage_and_perplexity() -> None:
    counts = count(torch.tensor([[[0, 0, 2], [2, 5, 5]]]), 8)
    assert counts.tolist() == [2, 0, 2, 0, 0, 2, 0, 0]
    assert used(counts) == 3 / 8
    assert math.isclose(perplexity(counts).item(), 3, rel_tol=1e-6)
    assert perplexity(torch.tensor([7.0, 0, 0])) == 1
    shares = torch.tensor([0.5, 0.25, 0.25])
    assert math.isclose(perplexity(8 * shares).item(), 2**1.5, rel_tol=1e-6)


# Finite scalar quantisation.

LEVELS = [(5,), (2, 2), (8, 5, 5, 5), (7, 5, 4), (3, 2, 6)]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_every_index_has_a_code_of_its_own_and_every_code_its_index(
    levels: tuple[int, ...],
) -> None:
    book = FSQ(levels)
    assert book.size == math.prod(levels)
    indices = torch.arange(book.size).view(1, 1, -1)
    codes = book.codes(indices)  # 1 d 1 n
    points = [[(i - n // 2) / (n // 2) for i in range(n)] for n in levels]
    expected = {tuple(point[::-1]) for point in product(*points[::-1])}
    assert {tuple(row) for row in codes[0, :, 0].T.tolist()} == {
        tuple(torch.tensor(point).tolist()) for point in expected
    }
    assert codes.min() == -1 and codes.max() <= 1
    # The latent at the centre of each code's cell, by the inverse of the bounding function.
    n = torch.tensor(levels, dtype=torch.float64)[:, None, None]
    half, offset = (n - 1) * 1.001 / 2, torch.where(n % 2 == 0, 0.5, 0.0)
    z = ((codes.double() * (n // 2) + offset) / half).atanh() - (offset / half).atanh()
    found = book(z.float())
    assert torch.equal(found.indices, indices)
    assert torch.allclose(found.codes, codes, atol=1e-5) and found.loss == 0


@given(st.sampled_from(LEVELS), st.integers(0, 1000))
def test_fsq_rounds_to_the_nearest_level_within_bounds(levels: tuple[int, ...], seed: int) -> None:
    book, z = FSQ(levels), 10 ** (seed % 4 - 1) * noise(2, len(levels), 3, 4, seed=seed)
    found = book(z)
    assert found.codes.min() >= -1 - 1e-6 and found.codes.max() <= 1 + 1e-6
    assert torch.allclose(book.codes(found.indices), found.codes, atol=1e-5)
    n = torch.tensor(levels, dtype=torch.float64)[:, None, None]
    half, offset = (n - 1) * 1.001 / 2, torch.where(n % 2 == 0, 0.5, 0.0)
    exact = ((z.double() + (offset / half).atanh()).tanh() * half - offset) / (n // 2)
    assert ((found.codes - exact).abs() * (n // 2)).max() < 0.501 + 1e-3


def test_fsq_takes_zero_for_zero_and_passes_the_gradient_of_its_bound() -> None:
    levels = (8, 5, 2)
    book, z, upstream = FSQ(levels), noise(2, 3, 4, 5).requires_grad_(), noise(2, 3, 4, 5, seed=3)
    assert book(torch.zeros(1, 3, 1, 1)).codes.flatten().tolist() == [0, 0, 0]
    (through,) = torch.autograd.grad((book(z).codes * upstream).sum(), z)
    for i, n in enumerate(levels):
        half, offset = (n - 1) * 1.001 / 2, (n % 2 == 0) / 2
        slope = half * (1 - (z[:, i] + math.atanh(offset / half)).tanh() ** 2) / (n // 2)
        assert torch.allclose(through[:, i], upstream[:, i] * slope, atol=1e-5)


# The discriminator and its losses.


def test_the_discriminator_judges_patches_and_each_picture_alone() -> None:
    torch.manual_seed(0)
    discriminator, x = Discriminator(width=8, depth=3), pictures(3, 64, 48)
    logits = discriminator(x)
    assert logits.shape == (3, 1, 6, 4)
    assert torch.allclose(logits, torch.cat([discriminator(one) for one in x.split(1)]), atol=1e-6)
    hinge(logits, discriminator(-x)).backward()
    for name, p in discriminator.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name
    # A change in one corner changes the logits there; the far corner is affected only through the
    # norms.
    other = x.clone()
    other[:, :, :8, :8] = 1
    change = (discriminator(other) - logits).abs().mean((0, 1))
    assert change[0, 0] > 5 * change[-1, -1]


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert math.isclose(
        hinge(real, fake).item(), ((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3) / 2, rel_tol=1e-6
    )
    assert math.isclose(generator_loss(fake).item(), 2 / 3, rel_tol=1e-6)
    assert hinge(torch.tensor([1.0]), torch.tensor([-1.0])) == 0


def test_lecam_pulls_towards_the_other_sides_anchor() -> None:
    anchors = LeCamEMA(torch.tensor(0.0), torch.tensor(0.0))
    batches = [
        (torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -2.0])),
        (torch.tensor([0.0, 1.0]), torch.tensor([2.0, 0.0])),
    ]
    for real, fake in batches:
        anchors = anchors.follow(real, fake, decay=0.9)
    assert math.isclose(anchors.real.item(), 0.9 * 0.1 * 2 + 0.1 * 0.5, rel_tol=1e-6)
    assert math.isclose(anchors.fake.item(), 0.9 * 0.1 * -1.5 + 0.1 * 1, rel_tol=1e-6)
    anchors = LeCamEMA(torch.tensor(1.0), torch.tensor(-1.0))
    real = torch.tensor([1.0, -2.0], requires_grad=True)
    fake = torch.tensor([-1.0, 3.0], requires_grad=True)
    loss = lecam(real, fake, anchors)
    assert math.isclose(loss.item(), ((1 + 1) ** 2 + 0) / 2 + ((1 + 1) ** 2 + 0) / 2, rel_tol=1e-6)
    loss.backward()
    # Logits of real pictures are pulled down, those of generated pictures up.
    assert real.grad.tolist() == [2, 0] and fake.grad.tolist() == [-2, 0]
    assert not anchors.follow(real, fake).real.requires_grad


def test_balance_is_the_ratio_of_the_gradients() -> None:
    last = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    pull, push = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.6], [0.8, 0.0]])
    loss, against = (last * pull).sum(), (last * push).sum()
    weight = adaptive_gan_weight(loss, against, last)
    assert math.isclose(weight.item(), 5 / (1 + 1e-4), rel_tol=1e-6) and not weight.requires_grad
    assert adaptive_gan_weight(loss, 0 * against, last, limit=30) == 30
    (loss + weight * against).backward()  # both graphs are retained
    assert torch.allclose(last.grad, pull + weight * push)


def test_balance_at_the_last_layer_of_the_decoder() -> None:
    net, discriminator, x = build(), Discriminator(width=8, depth=2), pictures(1)
    found = net(x)
    loss, against = (found.pixels - x).abs().mean(), generator_loss(discriminator(found.pixels))
    weight = adaptive_gan_weight(loss, against, net.last)
    assert isinstance(net.last, nn.Parameter)
    one, two = (
        torch.autograd.grad(each, net.last, retain_graph=True)[0]
        for each in (loss, weight * against)
    )
    assert math.isclose(one.norm().item(), two.norm().item(), rel_tol=0.05)
