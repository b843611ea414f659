"""DALL-E in both orders of caption and picture, its cache, and MaskGIT."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kalpana.hub.weights import load_module, save_weights
from kalpana.models import layers
from kalpana.models.dalle import (
    DALLE,
    TEXT,
    Attention,
    Config,
    Loss,
    MaskGIT,
    angles,
    cell_places,
    full,
    random_mask,
    word_places,
)
from kalpana.models.layers import fused_cross_entropy, rope_tables
from kalpana.types import Cond, Tokens

TINY = Config(width=32, depth=2, heads=2, vocabulary=40, length=10, codes=20, rows=3, columns=4)
RNG = torch.Generator().manual_seed(1)
IMAGE = torch.randint(0, 20, (3, 3, 4), generator=RNG)
HIDDEN = torch.rand(3, 3, 4, generator=RNG) < 0.6
ROWS = [[1, 5, 6, 2], [1, 9, 2], [1, 7, 8, 9, 10, 2]]
FIRST, LAST = torch.tensor([False] * 3), torch.tensor([True] * 3)  # the place of the caption
MIXED = torch.tensor([False, True, True])


def words(rows: list[list[int]], length: int = 8) -> Tokens:
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return Tokens(ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None])


COND = Cond(words(ROWS))
NULL = Cond(words(ROWS), torch.tensor([False, True, False]))


def perturb(net: nn.Module) -> None:
    """Add noise to every parameter: heads initialised to zero would hide mistakes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))


@pytest.fixture
def net() -> DALLE:
    net = DALLE(TINY)
    perturb(net)
    return net.eval()


@pytest.fixture
def git() -> MaskGIT:
    git = MaskGIT(TINY)
    perturb(git)
    return git.eval()


def masked(image: Tensor) -> Tensor:
    return image.masked_fill(HIDDEN, TINY.codes)


def change(ids: Tensor, place: int) -> Tensor:
    """The ids with another id at one position of each row."""
    other = ids.clone()
    other.view(len(ids), -1)[:, place] = (other.view(len(ids), -1)[:, place] + 7) % 20
    return other


@pytest.mark.parametrize("swapped", [None, FIRST, LAST, MIXED])
def test_shapes_and_a_gradient_for_every_parameter(net: DALLE, swapped: Tensor | None) -> None:
    text, cells = net(NULL, IMAGE, swapped)
    assert text.shape == (3, 7, 40) and cells.shape == (3, 3, 4, 20)
    net.loss(NULL, IMAGE, swapped).total().backward()
    for name, p in net.named_parameters():
        if name == "captions.null" and swapped is not None and swapped[1]:
            continue  # a null caption after the picture affects no loss
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_a_gradient_for_every_parameter_of_the_masked_one(git: MaskGIT) -> None:
    assert git(NULL, masked(IMAGE)).shape == (3, 3, 4, 20)
    git.loss(NULL, IMAGE, HIDDEN).backward()
    for name, p in git.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_fresh_networks_take_all_tokens_to_be_as_likely() -> None:
    loss = DALLE(TINY).loss(COND, IMAGE)
    assert loss.text.item() == pytest.approx(math.log(40))
    assert loss.image.item() == pytest.approx(math.log(20))
    assert MaskGIT(TINY).loss(COND, IMAGE, HIDDEN).item() == pytest.approx(math.log(20))


@pytest.mark.parametrize("place", [0, 3, 4, 11])
def test_no_cell_is_told_of_itself_or_of_those_after_it(net: DALLE, place: int) -> None:
    real = words(ROWS).mask[:, 1:]
    text, cells = net(COND, IMAGE)
    text_after, cells_after = net(COND, change(IMAGE, place))
    assert torch.equal(text[real], text_after[real])  # the picture comes after the words
    same = (cells == cells_after).all(-1).flatten(1)
    assert same[:, : place + 1].all() and not same[:, place + 1 :].any()

    text, cells = net(COND, IMAGE, LAST)
    text_after, cells_after = net(COND, change(IMAGE, place), LAST)
    same = (cells == cells_after).all(-1).flatten(1)
    assert same[:, : place + 1].all() and not same[:, place + 1 :].any()
    assert not (text == text_after).all(-1).any()  # all words come after the picture


def test_no_word_is_told_of_itself_or_of_those_after_it(net: DALLE) -> None:
    assert COND.tokens is not None
    other = Cond(Tokens(change(COND.tokens.ids, 2), COND.tokens.mask))
    for swapped in (FIRST, LAST):
        text, cells = net(COND, IMAGE, swapped)
        text_after, cells_after = net(other, IMAGE, swapped)
        same = (text == text_after).all(-1)
        assert same[:, :2].all()  # logits of the words at 1 and 2
        assert not same[[0, 2], 2].any()  # of the word at 3, in the rows that have one
        same = (cells == cells_after).all(-1)
        assert same.all() if swapped is LAST else not same.any()


def test_each_row_has_its_own_order(net: DALLE) -> None:
    mixed, first, last = (net(NULL, IMAGE, swapped) for swapped in (MIXED, FIRST, LAST))
    for k in range(2):
        assert torch.allclose(mixed[k][0], first[k][0], atol=1e-5)
        assert torch.allclose(mixed[k][2], last[k][2], atol=1e-5)
    assert not torch.allclose(mixed[0][2], first[0][2], atol=1e-2)


@pytest.mark.parametrize("swapped", [FIRST, LAST, MIXED])
def test_a_row_alone_without_padding_is_the_row_in_a_padded_batch(
    net: DALLE, swapped: Tensor
) -> None:
    text, cells = net(COND, IMAGE, swapped)
    for i, row in enumerate(ROWS):
        for length in (len(row), 10):
            cond = Cond(words([row], length))
            own_text, own_cells = net(cond, IMAGE[i : i + 1], swapped[i : i + 1])
            assert torch.allclose(own_cells[0], cells[i], atol=1e-5)
            assert torch.allclose(own_text[0, : len(row) - 1], text[i, : len(row) - 1], atol=1e-5)


def test_what_padding_says_does_not_matter(net: DALLE, git: MaskGIT) -> None:
    tokens = words(ROWS)
    other = Cond(Tokens(torch.where(tokens.mask, tokens.ids, 33), tokens.mask))
    for swapped in (FIRST, LAST):
        assert torch.equal(net(other, IMAGE, swapped)[1], net(COND, IMAGE, swapped)[1])
        before, after = net.loss(COND, IMAGE, swapped), net.loss(other, IMAGE, swapped)
        assert torch.equal(before.text, after.text) and torch.equal(before.image, after.image)
    assert torch.equal(git(other, masked(IMAGE)), git(COND, masked(IMAGE)))


def test_the_masked_one_a_row_alone_without_padding(git: MaskGIT) -> None:
    together = git(COND, masked(IMAGE))
    for i, row in enumerate(ROWS):
        alone = git(Cond(words([row], len(row))), masked(IMAGE)[i : i + 1])[0]
        assert torch.allclose(alone, together[i], atol=1e-5)


def test_null_rows_equal_no_caption_whatever_they_say(net: DALLE, git: MaskGIT) -> None:
    everyone = Cond(words(ROWS), torch.ones(3, dtype=torch.bool))
    assert torch.allclose(net(everyone, IMAGE)[1], net(Cond(), IMAGE)[1], atol=1e-5)
    assert torch.allclose(git(everyone, masked(IMAGE)), git(Cond(), masked(IMAGE)), atol=1e-5)
    assert net.loss(everyone, IMAGE).text == net.loss(Cond(), IMAGE).text == 0


def test_the_masked_one_looks_both_ways(git: MaskGIT) -> None:
    for place in (0, 11):
        changed = git(COND, change(IMAGE, place))
        assert not torch.isclose(git(COND, IMAGE), changed, atol=1e-4).all(-1).any()


def test_order_and_place_matter(net: DALLE, git: MaskGIT) -> None:
    other = Cond(words([[1, 6, 5, 2], *ROWS[1:]]))  # two words exchanged
    assert not torch.allclose(net(COND, IMAGE)[1][0], net(other, IMAGE)[1][0], atol=1e-3)
    assert not torch.allclose(git(COND, masked(IMAGE))[0], git(other, masked(IMAGE))[0], atol=1e-3)
    # With every cell masked, the logits still differ by position.
    all_masked = torch.full((1, 3, 4), TINY.codes)
    logits = git(Cond(), all_masked)[0].flatten(0, 1)
    assert ((logits[:, None] - logits).abs().amax(-1) + torch.eye(12) > 1e-3).all()


def test_where_tokens_stand() -> None:
    assert word_places(3, torch.device("cpu")).tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    places = cell_places(TINY, torch.device("cpu"))
    assert places.tolist() == [
        [0, 0, 0],
        *([0, row, column] for row in (1, 2, 3) for column in (1, 2, 3, 4)),
    ]
    # 8 pairs: 2 for words, 3 each for rows and columns.
    rotary = angles(torch.cat((word_places(3, places.device), places)), TINY)
    assert rotary.shape == (16, 8)
    assert torch.equal(rotary[:3, 2:], torch.zeros(3, 6))
    assert torch.equal(rotary[3:, :2], torch.zeros(13, 2))
    # Cell 7 is the third of the second row.
    assert rotary[2, 0] == 2 and rotary[3 + 7, [2, 5]].tolist() == [2, 3]


def test_blocks_are_told_where_each_token_stands(net: DALLE, git: MaskGIT) -> None:
    rotations: list[tuple[Tensor, Tensor]] = []
    for each in (net, git):
        each.blocks[0].register_forward_pre_hook(lambda block, inputs: rotations.append(inputs[1]))
    net(COND, IMAGE, MIXED)
    git(COND, IMAGE)
    caption = [[k, 0, 0] for k in range(8)]
    picture = [[0, row, column] for row in (1, 2, 3) for column in (1, 2, 3, 4)]
    begin, real = [[0, 0, 0]], [len(row) for row in ROWS]
    streams = [
        caption[: real[0]] + begin + picture,
        begin + picture + caption[: real[1]],
        begin + picture + caption[: real[2]],
    ]
    for i, stream in enumerate(streams):
        cos, sin = rope_tables(angles(torch.tensor(stream), TINY))
        assert torch.equal(rotations[0][0][i, 0, : len(stream)], cos)
        assert torch.equal(rotations[0][1][i, 0, : len(stream)], sin)
    cos, _ = rope_tables(angles(torch.tensor(caption + picture), TINY))
    assert torch.equal(rotations[1][0], cos)


def test_full_attention_is_torchs() -> None:
    q, k, v = torch.randn(3, 2, 2, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    seen = torch.tensor([[True, True, True, False, False], [True] * 5])[:, None, None]
    wanted = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    assert torch.allclose(full(q, k, v, torch.where(seen, 0.0, -1e4)), wanted, atol=1e-6)


def test_queries_and_keys_are_of_one_length_but_for_the_gain() -> None:
    attention, seen = Attention(32, 2), []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append((q, k))
        return v

    with torch.no_grad():
        attention.gain[:] = torch.tensor([1.0, 3.0])
        attention(torch.randn(2, 5, 32), rope_tables(torch.randn(5, 8)), attend)
    ((q, k),) = seen
    assert torch.allclose(k.norm(dim=-1), torch.full((2, 2, 5), 4.0), atol=1e-3)
    expected = torch.tensor([4.0, 12.0])[:, None].expand(2, 2, 5)
    assert torch.allclose(q.norm(dim=-1), expected, atol=1e-3)


# The loss.


def nats(logits: Tensor, wanted: int) -> float:
    row = logits.tolist()
    return math.log(sum(math.exp(value) for value in row)) - row[wanted]


def test_the_loss_by_hand(net: DALLE) -> None:
    text, cells = net(NULL, IMAGE, MIXED)
    text_nats = [
        nats(text[i, k - 1], row[k])
        for i, row in enumerate(ROWS)
        if i != 1  # row 1 is null
        for k in range(1, len(row))
    ]
    image_nats = [
        nats(logits, wanted)
        for logits, wanted in zip(cells.flatten(0, 2), IMAGE.flatten().tolist(), strict=True)
    ]
    loss = net.loss(NULL, IMAGE, MIXED)
    assert loss.text.item() == pytest.approx(sum(text_nats) / 8, rel=1e-5)
    assert loss.image.item() == pytest.approx(sum(image_nats) / 36, rel=1e-5)
    assert loss.total().item() == pytest.approx(
        sum(text_nats) / 8 / 8 + sum(image_nats) / 36 * 7 / 8, rel=1e-5
    )
    assert TEXT == 1 / 8 and Loss(torch.tensor(2.0), torch.tensor(4.0)).total(0.5) == 3


def test_cross_entropies_by_parts_are_those_of_torch() -> None:
    torch.manual_seed(0)
    head, wanted = nn.Linear(8, 50, bias=False), torch.randint(50, (2 * layers.ROWS + 7,))
    x = torch.randn(len(wanted), 8, requires_grad=True)
    for dtype, near in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        found = []
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses = (
                fused_cross_entropy(x, head, wanted) / 3,
                F.cross_entropy(head(x).float(), wanted, reduction="sum") / 3,
            )
        for loss in losses:
            found.append((loss.detach(), *torch.autograd.grad(loss, (x, head.weight))))
        for ours, torchs in zip(*found, strict=True):
            tolerance = near * torchs.abs().max().item()
            assert ours.dtype == torchs.dtype
            assert torch.allclose(ours, torchs, rtol=near, atol=tolerance)
    with torch.no_grad():
        assert torch.allclose(fused_cross_entropy(x, head, wanted), 3 * found[1][0], rtol=0.02)
    double = head.double()
    assert torch.autograd.gradcheck(
        lambda y: fused_cross_entropy(y, double, wanted[:5]),
        x[:5].detach().double().requires_grad_(),
    )
    assert fused_cross_entropy(x[:0].double(), double, wanted[:0]) == 0


def test_the_loss_of_hidden_cells_by_hand(git: MaskGIT) -> None:
    cells = git(NULL, masked(IMAGE))
    losses = [nats(cells[i, r, c], int(IMAGE[i, r, c])) for i, r, c in HIDDEN.nonzero().tolist()]
    mean = sum(losses) / len(losses)
    assert git.loss(NULL, IMAGE, HIDDEN).item() == pytest.approx(mean, rel=1e-5)


def test_cells_are_hidden_by_the_cosine_schedule() -> None:
    """Between one cell and all; a count of at most x has probability 1 - 2/pi arccos(x / hw).

    All positions are equally likely.
    """
    hidden = random_mask(4000, TINY, torch.Generator().manual_seed(0))
    assert hidden.shape == (4000, 3, 4) and hidden.dtype == torch.bool
    count = hidden.sum((1, 2))
    assert count.min() == 1 and count.max() == 12
    for below in range(1, 12):
        expected = 1 - 2 / math.pi * math.acos(below / 12)
        share = (count <= below).float().mean().item()
        assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 4000))
    each = hidden.float().mean(0)
    assert each.max() - each.min() < 0.05
    assert torch.equal(hidden, random_mask(4000, TINY, torch.Generator().manual_seed(0)))


# The cache.


@pytest.mark.parametrize("chunk", [1, 5])
def test_drawing_by_the_cache_says_what_forward_says(net: DALLE, chunk: int) -> None:
    wanted = net(NULL, IMAGE)[1].flatten(1, 2)  # 3 12 20
    ids = torch.cat((torch.full((3, 1), TINY.codes), IMAGE.flatten(1)), 1)[:, :12]
    cache = net.start_image(NULL, 3)
    for start in range(0, 12, chunk):
        part = ids[:, start : start + chunk]
        logits = net.step(cache, part)
        assert torch.allclose(logits, wanted[:, start + part.shape[1] - 1], atol=1e-5)
    assert cache.length == 8 + 12
    net.step(cache, IMAGE.flatten(1)[:, -1:])  # the last cell fits
    with pytest.raises(ValueError, match="the stream ends after 21 tokens: give 0 more at most"):
        net.step(cache, ids[:, :1])


def test_drawing_without_a_caption_by_the_cache(net: DALLE) -> None:
    wanted, cache = net(Cond(), IMAGE)[1], net.start_image(Cond(), 3)
    assert torch.allclose(
        net.step(cache, torch.full((3, 1), TINY.codes)), wanted[:, 0, 0], atol=1e-5
    )
    assert torch.allclose(net.step(cache, IMAGE.flatten(1)[:, :6]), wanted[:, 1, 2], atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3])
def test_speaking_by_the_cache_says_what_forward_says(net: DALLE, chunk: int) -> None:
    assert COND.tokens is not None
    wanted, cache = net(COND, IMAGE, LAST)[0], net.start_text(IMAGE)
    for start in range(0, 7, chunk):
        part = COND.tokens.ids[:, start : min(start + chunk, 7)]
        logits, last = net.step(cache, part), start + part.shape[1] - 1
        real = COND.tokens.mask[:, last]
        assert logits.shape == (3, 40)
        assert torch.allclose(logits[real], wanted[real, last], atol=1e-5)


def test_caches_do_not_know_of_each_other(net: DALLE) -> None:
    one, two = net.start_image(COND, 3), net.start_text(IMAGE)
    begin = torch.full((3, 1), TINY.codes)
    first = net.step(one, begin)
    net.step(two, torch.ones_like(begin))
    assert torch.equal(net.step(net.start_image(COND, 3), begin), first)


# Saving and loading, bf16, and refused inputs.


def test_saved_and_loaded_they_are_the_same_functions(
    net: DALLE, git: MaskGIT, tmp_path: Path
) -> None:
    for each in (net, git):
        each.load_state_dict(
            {
                k: v.to(torch.bfloat16).float() if v.ndim > 1 else v
                for k, v in each.state_dict().items()
            }
        )
    save_weights(tmp_path / "dalle.safetensors", net, "dalle", TINY, {})
    save_weights(tmp_path / "maskgit.safetensors", git, "maskgit", TINY, {})
    dalle = load_module(tmp_path / "dalle.safetensors", "dalle")
    maskgit = load_module(tmp_path / "maskgit.safetensors", "maskgit")
    assert dalle.config == maskgit.config == TINY
    assert all(
        torch.equal(*pair)
        for pair in zip(net(COND, IMAGE, MIXED), dalle(COND, IMAGE, MIXED), strict=True)
    )
    assert torch.equal(git(COND, masked(IMAGE)), maskgit(COND, masked(IMAGE)))


def test_bf16_is_close_to_fp32(net: DALLE, git: MaskGIT) -> None:
    ids = torch.cat((torch.full((3, 1), TINY.codes), IMAGE.flatten(1)), 1)[:, :12]
    exact = [*net(COND, IMAGE, MIXED), git(COND, masked(IMAGE)), net(COND, IMAGE)[1][:, -1, -1]]
    with torch.autocast("cpu", torch.bfloat16):
        cache = net.start_image(COND, 3)
        net.step(cache, ids[:, :4])
        half = [*net(COND, IMAGE, MIXED), git(COND, masked(IMAGE)), net.step(cache, ids[:, 4:])]
        loss = net.loss(COND, IMAGE)
    for one, two in zip(exact, half, strict=True):
        assert (one - two.float()).abs().max() < 0.1 * one.abs().max()
    assert loss.text.dtype == loss.image.dtype == torch.float32
    assert loss.total().item() == pytest.approx(net.loss(COND, IMAGE).total().item(), rel=0.02)


def test_weights_in_bf16_say_nearly_the_same(net: DALLE, git: MaskGIT) -> None:
    ids = torch.cat((torch.full((3, 1), TINY.codes), IMAGE.flatten(1)), 1)

    def outputs() -> list[Tensor]:
        image_cache, text_cache = net.start_image(NULL, 3), net.start_text(IMAGE)
        net.step(image_cache, ids[:, :4])
        return [
            *net(NULL, IMAGE, MIXED),
            git(NULL, masked(IMAGE)),
            net.step(image_cache, ids[:, 4:5]),
            net.step(text_cache, ids[:, :2] % 4),
        ]

    exact = outputs()
    for each in (net, git):
        each.to(torch.bfloat16)
    for one, two in zip(exact, outputs(), strict=True):
        assert two.dtype == torch.bfloat16 and (one - two).abs().max() < 0.1 * one.abs().max()


def test_inputs_are_unchanged(net: DALLE, git: MaskGIT) -> None:
    image, cond = IMAGE.clone(), Cond(words(ROWS), torch.tensor([False, True, False]))
    net.loss(cond, image, MIXED)
    net.step(net.start_image(cond, 3), image.flatten(1))
    git.loss(cond, image, HIDDEN)
    assert cond.tokens is not None
    assert torch.equal(image, IMAGE) and torch.equal(cond.tokens.ids, words(ROWS).ids)


def test_pictures_of_another_size_are_refused(net: DALLE, git: MaskGIT) -> None:
    for call in (
        lambda: net(COND, IMAGE[:, :2]),
        lambda: net.start_text(IMAGE[:, :2]),
        lambda: git(COND, IMAGE[:, :2]),
    ):
        with pytest.raises(ValueError, match=r"image ids are \(3, 2, 4\): give \(b, 3, 4\)"):
            call()
