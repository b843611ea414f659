"""CLIP and SigLIP towers and losses.

``tests/hub/test_clip.py`` compares them with published implementations.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kalpana.hub.weights import load_module, save_weights
from kalpana.models.clip import (
    CLIP,
    LIMIT,
    PRESETS,
    ROWS,
    Block,
    Config,
    PatchEmbed,
    contrastive,
    sigmoid,
    unit,
    unseen,
)
from kalpana.types import KalpanaError, Tokens

OURS = Config(
    side=16, patch=8, stem=(8, 16), width=32, depth=2, heads=2, hidden=48, vocabulary=50, length=12,
    text_width=24, text_depth=2, text_heads=2, text_hidden=40, features=20,
)  # fmt: skip
TINY = {
    "ours": OURS,
    "clip": replace(
        OURS, stem=(), image_pool="class", text_pool="end", end=2, activation="quick_gelu"
    ),
    "siglip": replace(
        OURS,
        stem=(),
        image_pool="attention",
        text_pool="last",
        features=32,
        activation="gelu_tanh",
        loss="sigmoid",
    ),
}
PIXELS = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
CAPTIONS = [[1, 5, 6, 2], [1, 9, 2], [1, 7, 8, 9, 10, 2]]


def net(kind: str) -> CLIP:
    torch.manual_seed(0)
    return CLIP(TINY[kind]).eval()


def words(rows: list[list[int]], length: int = 12) -> Tokens:
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return Tokens(ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None])


@pytest.mark.parametrize("kind", TINY)
def test_shapes_and_a_gradient_for_every_parameter(kind: str) -> None:
    clip = net(kind)
    image, text = clip.image(PIXELS), clip.text(words(CAPTIONS))
    assert image.shape == text.shape == (3, clip.config.features)
    assert clip.logits(image[:2], text).shape == (2, 3)
    clip.loss(image, text).backward()
    for name, p in clip.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


# Published counts: OpenAI's from open_clip's model profile, SigLIP's from its weight file.
@pytest.mark.parametrize(
    "name, count",
    [
        ("vit-b/32", 151_277_313),
        ("vit-b/16", 149_620_737),
        ("vit-l/14", 427_616_513),
        ("siglip-b/16-224", 203_155_970),
    ],
)
def test_presets_have_as_many_parameters_as_the_models_they_are_named_after(
    name: str, count: int
) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in CLIP(PRESETS[name]).parameters()) == count


@pytest.mark.parametrize("kind", TINY)
def test_a_batch_of_three_equals_three_singles(kind: str) -> None:
    clip = net(kind)
    image, text = clip.image(PIXELS), clip.text(words(CAPTIONS))
    for i in range(3):
        assert torch.allclose(clip.image(PIXELS[i : i + 1])[0], image[i], atol=1e-6)
        assert torch.allclose(clip.text(words(CAPTIONS[i : i + 1]))[0], text[i], atol=1e-6)


@pytest.mark.parametrize("kind", ["ours", "clip"])
def test_padding_does_not_matter(kind: str) -> None:
    clip, long = net(kind), words(CAPTIONS)
    assert torch.allclose(clip.text(words(CAPTIONS, 6)), clip.text(long), atol=1e-6)
    other = Tokens(torch.where(long.mask, long.ids, 33), long.mask)
    assert torch.allclose(clip.text(other), clip.text(long), atol=1e-6)


@pytest.mark.parametrize("kind", TINY)
def test_word_order_and_the_place_of_patches_matter(kind: str) -> None:
    clip = net(kind)
    ordered, swapped = words([[1, 5, 6, 2]]), words([[1, 6, 5, 2]])
    assert not torch.allclose(clip.text(ordered), clip.text(swapped), atol=1e-4)
    assert not torch.allclose(clip.image(PIXELS), clip.image(PIXELS.roll(8, -1)), atol=1e-4)


def test_the_first_end_token_is_read_and_nothing_after_it() -> None:
    clip = net("clip")
    text = clip.text(words([[1, 5, 2]]))
    assert torch.allclose(clip.text(words([[1, 5, 2, 7, 2]])), text, atol=1e-6)
    assert not torch.allclose(text, clip.text(words([[1, 7, 2]])), atol=1e-4)


def test_without_an_end_token_the_highest_id_is_the_end() -> None:
    torch.manual_seed(0)
    highest, named = CLIP(replace(TINY["clip"], end=None)), net("clip")
    highest.load_state_dict(named.state_dict())
    tokens = words([[1, 5, 49, 3]])
    assert torch.equal(highest.text(tokens), with_end(named, 49).text(tokens))


def with_end(clip: CLIP, end: int) -> CLIP:
    other = CLIP(replace(clip.config, end=end))
    other.load_state_dict(clip.state_dict())
    return other


def test_the_last_place_is_read_even_where_it_is_padding() -> None:
    clip = net("siglip")
    assert not torch.allclose(
        clip.text(words(CAPTIONS, 6)), clip.text(words(CAPTIONS, 12)), atol=1e-4
    )


# Omitted and rearranged computations do not change the output.


def words_of_many_lengths() -> Tokens:
    """Enough texts to be encoded in several parts."""
    rng = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 13, (3 * ROWS,), generator=rng).tolist()
    return words(
        [[1, *torch.randint(3, 50, (length - 2,), generator=rng).tolist(), 2] for length in lengths]
    )


def whole(clip: CLIP, tokens: Tokens) -> Tensor:
    """Text features with all positions computed in every block, padding included."""
    tower, pool, (b, length) = clip.read, clip.config.text_pool, tokens.ids.shape
    bias = torch.zeros(b, 1, length, length)
    if pool == "mean":
        bias.masked_fill_(~tokens.mask[:, None, None], -torch.inf)
    if pool == "end":
        bias += torch.full((length, length), -torch.inf).triu(1)
    x = tower.words(tokens.ids) + tower.positions[:length]
    for block in tower.blocks:
        x = block(x, bias)
    x = tower.norm(x)
    if pool == "mean":
        return tower.project(
            torch.stack([row[mask].mean(0) for row, mask in zip(x, tokens.mask, strict=True)])
        )
    return tower.project(x[torch.arange(b), tokens.mask.sum(1) - 1] if pool == "end" else x[:, -1])


@pytest.mark.parametrize("kind", TINY)
def test_texts_are_cut_and_sorted_and_stay_what_they_are(kind: str) -> None:
    clip, tokens = net(kind), words_of_many_lengths()
    wanted = whole(clip, tokens)
    assert torch.allclose(clip.text(tokens), wanted, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(clip.text(tokens), wanted, atol=1e-5)
    assert clip.text(Tokens(tokens.ids[:0], tokens.mask[:0])).shape == (0, clip.config.features)


@pytest.mark.parametrize("kind", ["ours", "clip"])
def test_padding_costs_nothing(kind: str) -> None:
    def cost(length: int) -> int:
        with FlopCounterMode(display=False) as counter:
            clip.text(words(CAPTIONS, length))
        return counter.get_total_flops()

    clip = net(kind)
    assert cost(12) == cost(6) > 0


def test_the_image_tower_reads_the_class_token_of_whole_blocks() -> None:
    clip = net("clip")
    tower = clip.see
    mean, deviation = (
        torch.tensor(levels)[:, None, None] for levels in (clip.config.mean, clip.config.deviation)
    )
    x = tower.patches(((PIXELS + 1) / 2 - mean) / deviation)
    x = tower.before(torch.cat((tower.mark.expand(3, 1, -1), x), 1) + tower.positions)
    for block in tower.blocks:
        x = block(x)
    assert torch.allclose(clip.image(PIXELS), tower.project(tower.norm(x[:, 0])), atol=1e-5)


FUNCTIONS = {
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu_tanh": nn.GELU("tanh"),
}


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_a_block_is_torch_s_own_layer_there_and_back(activation: str) -> None:
    torch.manual_seed(0)
    block = Block(24, 3, 40, activation, 1e-5)
    for p in block.parameters():
        nn.init.normal_(p, 1.0 if p.ndim == 1 else 0.0, 0.3)
    names = {
        "norm_one": "norm1", "norm_two": "norm2", "attention.qkv.": "self_attn.in_proj_",
        "attention.out": "self_attn.out_proj", "feed.up": "linear1", "feed.down": "linear2",
    }  # fmt: skip
    layer = nn.TransformerEncoderLayer(
        24, 3, 40, 0.0, FUNCTIONS[activation], 1e-5, batch_first=True, norm_first=True
    )
    state = block.state_dict()
    for ours, theirs in names.items():
        state = {name.replace(ours, theirs): p for name, p in state.items()}
    layer.load_state_dict(state)

    x, upstream = torch.randn(3, 7, 24, requires_grad=True), torch.randn(3, 7, 24)
    place = torch.tensor([0, 3, 6])
    padding = torch.arange(7) >= torch.tensor([7, 4, 2])[:, None]
    after = torch.ones(7, 7, dtype=torch.bool).triu(1)
    for bias, masks in (
        (None, {}),
        (unseen(padding)[:, None, None], {"src_key_padding_mask": padding}),
        (unseen(after)[None, None], {"src_mask": after}),
    ):
        wanted, found = layer(x, **masks), block(x, bias)
        assert torch.allclose(found, wanted, atol=1e-4)
        with torch.no_grad():
            assert torch.allclose(block(x, bias), wanted, atol=1e-4)
        back = [
            torch.autograd.grad(y, (x, *net.parameters()), upstream)
            for y, net in ((found, block), (wanted, layer))
        ]
        own = {name: p for (name, _), p in zip(block.named_parameters(), back[0][1:], strict=True)}
        theirs = {
            name: p for (name, _), p in zip(layer.named_parameters(), back[1][1:], strict=True)
        }
        assert torch.allclose(back[0][0], back[1][0], atol=1e-4)
        for name, gradient in own.items():
            for a, b in names.items():
                name = name.replace(a, b)
            assert torch.allclose(gradient, theirs[name], atol=1e-3), name
        if bias is None or len(bias) > 1:  # one position a row, without or with padding
            at_place = block(x, bias, place)[:, 0]
            assert torch.allclose(at_place, wanted[torch.arange(3), place], atol=1e-4)


@pytest.mark.parametrize("side", [16, 21])
def test_patches_are_a_convolution(side: int) -> None:
    torch.manual_seed(0)
    patches, pixels = PatchEmbed(3, 5, 8, 8), torch.rand(2, 3, side, side)
    wanted = F.conv2d(pixels, patches.weight, patches.bias, 8).flatten(2).transpose(1, 2)
    assert torch.allclose(patches(pixels), wanted, atol=1e-6)


def test_a_stem_is_what_it_says_and_leaves_a_cell_for_each_patch() -> None:
    tower = net("ours").see
    x = PIXELS
    for width, halve in zip((8, 16), tower.stem, strict=True):
        x = F.conv2d(x, halve.down.weight, halve.down.bias, stride=2, padding=1)
        normed = F.group_norm(x, 8, halve.norm.weight, halve.norm.bias, 1e-6)
        y = normed * normed.sigmoid()
        x = x + F.conv2d(y, halve.around.weight, halve.around.bias, padding=1)
        assert x.shape[1] == width
    assert torch.allclose(tower.stem(PIXELS), x, atol=1e-5) and x.shape == (3, 16, 4, 4)
    assert tower.patches(x).shape == (3, 4, 32) and len(tower.positions) == 4


@pytest.mark.parametrize(("stem", "patch"), [((8, 8, 8, 8), 8), ((12,), 8), ((8, 8), 2)])
def test_a_stem_that_does_not_fit_is_refused(stem: tuple[int, ...], patch: int) -> None:
    with pytest.raises(KalpanaError, match="multiples of 8"):
        CLIP(replace(OURS, stem=stem, patch=patch))


def test_inputs_are_unchanged() -> None:
    clip, pixels, tokens = net("ours"), PIXELS.clone(), words(CAPTIONS)
    clip.logits(clip.image(pixels), clip.text(tokens))
    assert torch.equal(pixels, PIXELS) and torch.equal(tokens.ids, words(CAPTIONS).ids)


@pytest.mark.parametrize("kind", TINY)
def test_saved_and_loaded_it_is_the_same_function(kind: str, tmp_path: Path) -> None:
    clip = net(kind)
    # Weight files are in bf16.
    clip.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in clip.state_dict().items()})
    save_weights(tmp_path / "clip.safetensors", clip, "clip", clip.config, {})
    again = load_module(tmp_path / "clip.safetensors", "clip")
    assert again.config == clip.config
    with torch.no_grad():
        assert torch.equal(clip.image(PIXELS), again.image(PIXELS))
        assert torch.equal(clip.text(words(CAPTIONS)), again.text(words(CAPTIONS)))


@pytest.mark.parametrize("kind", TINY)
def test_bf16_is_close_to_fp32(kind: str) -> None:
    clip = net(kind)
    image, text = unit(clip.image(PIXELS)), unit(clip.text(words(CAPTIONS)))
    with torch.autocast("cpu", torch.bfloat16):
        near = unit(clip.image(PIXELS).float()), unit(clip.text(words(CAPTIONS)).float())
        logits = clip.logits(image, text)
    assert (near[0] - image).abs().max() < 0.02 and (near[1] - text).abs().max() < 0.02
    # The cosines are in fp32: rounding to bf16 before the scale of up to 100 would be visible.
    assert torch.equal(logits, clip.logits(image, text))


@pytest.mark.parametrize("kind", TINY)
def test_towers_kept_in_bf16_are_close_to_fp32(kind: str) -> None:
    clip = net(kind)
    image, text = unit(clip.image(PIXELS)), unit(clip.text(words(CAPTIONS)))
    clip.see.bfloat16(), clip.read.bfloat16()
    near = clip.image(PIXELS), clip.text(words(CAPTIONS))
    assert near[0].dtype == near[1].dtype == torch.bfloat16
    for features, exact in zip(near, (image, text), strict=True):
        assert F.cosine_similarity(features.float(), exact).min() > 0.999


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pixels are \(1, 3, 16, 24\): give \(b, 3, 16, 16\)"):
        net("ours").image(torch.zeros(1, 3, 16, 24))


def test_a_config_that_contradicts_itself() -> None:
    with pytest.raises(KalpanaError, match="features is 20: write 32"):
        CLIP(replace(OURS, stem=(), image_pool="attention"))


# The losses, on 5 pairs of features of length 1.


def pairs(n: int = 5, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(2)
    return unit(torch.randn(n, d, generator=rng)), unit(torch.randn(n, d, generator=rng))


SCALE = torch.tensor(7.0)
TRUE = torch.eye(5, dtype=torch.bool)
TRUE[0, 3] = TRUE[3, 0] = TRUE[1, 4] = True


def test_contrastive_is_the_cross_entropy_both_ways() -> None:
    image, text = pairs()
    logits, own = SCALE * image @ text.T, torch.arange(5)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert contrastive(image, text, SCALE) == pytest.approx(wanted.item(), rel=1e-6)


def test_contrastive_in_closed_form() -> None:
    same = unit(torch.ones(5, 8))  # all logits are equal
    assert contrastive(same, same, SCALE) == pytest.approx(math.log(5), rel=1e-6)
    orthogonal = torch.eye(5)  # the cosine is 1 for every pair and 0 for all others
    loss = contrastive(orthogonal, orthogonal, SCALE)
    assert loss == pytest.approx(math.log(1 + 4 * math.exp(-7)), rel=1e-4)


def test_contrastive_shares_each_row_among_all_that_is_true() -> None:
    image, text = pairs()
    logits, true = (SCALE * image @ text.T).tolist(), TRUE.tolist()
    total = 0.0
    for i in range(5):
        row, column = logits[i], [logits[k][i] for k in range(5)]
        for values, matches in ((row, true[i]), (column, [true[k][i] for k in range(5)])):
            log_sum = math.log(sum(map(math.exp, values)))
            total -= sum(values[j] - log_sum for j in range(5) if matches[j]) / sum(matches)
    assert contrastive(image, text, SCALE, TRUE) == pytest.approx(total / 10, rel=1e-5)


def test_contrastive_of_two_that_are_alike_is_least_where_they_share() -> None:
    """Rows 0 and 1 are equal and match each other's texts.

    With the mask their loss can fall to log 2, and its gradient is zero there.
    """
    image = torch.eye(4)[[0, 0, 2, 3]].requires_grad_()
    true = torch.eye(4, dtype=torch.bool)
    true[0, 1] = true[1, 0] = True
    loss = contrastive(image, image.detach(), torch.tensor(50.0), true)
    assert loss.item() == pytest.approx(math.log(2) / 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, image)
    assert gradient.abs().max() < 1e-6


def test_a_text_of_no_picture_is_only_ever_among_the_wrong_ones() -> None:
    image, text = pairs()
    seven = torch.cat((text, unit(torch.ones(2, 8))))
    true = torch.eye(5, 7, dtype=torch.bool)
    own, logits = torch.arange(5), SCALE * image @ seven.T
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits[:, :5].T, own)) / 2
    assert contrastive(image, seven, SCALE, true).item() == pytest.approx(wanted.item(), rel=1e-6)
    bias = torch.tensor(-3.0)
    alone = sigmoid(image, text, SCALE, bias) - F.logsigmoid(3 - logits[:, 5:]).sum() / 5
    loss = sigmoid(image, seven, SCALE, bias, true)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)


def test_sigmoid_is_the_sum_over_all_pairs() -> None:
    image, text = pairs()
    for true in (None, TRUE):
        total = 0.0
        for i in range(5):
            for j in range(5):
                sign = 1 if (i == j if true is None else true[i, j]) else -1
                total += math.log(1 + math.exp(-sign * (7.0 * (image[i] @ text[j]).item() - 3.0)))
        loss = sigmoid(image, text, SCALE, torch.tensor(-3.0), true)
        assert loss.item() == pytest.approx(total / 5, rel=1e-5)


def test_sigmoid_in_closed_form() -> None:
    image = torch.eye(6)
    loss = sigmoid(image, image, torch.tensor(0.0), torch.tensor(0.0))
    # 6 pairs a picture, each with probability 1/2.
    assert loss.item() == pytest.approx(6 * math.log(2), rel=1e-6)


def test_losses_do_not_depend_on_the_order_of_the_batch() -> None:
    image, text = pairs()
    order = torch.tensor([3, 0, 4, 1, 2])
    bias = torch.tensor(-1.0)
    shuffled = image[order], text[order], SCALE
    assert contrastive(*shuffled, TRUE[order][:, order]).item() == pytest.approx(
        contrastive(image, text, SCALE, TRUE).item(), rel=1e-6
    )
    mixed = sigmoid(*shuffled, bias, TRUE[order][:, order])
    assert mixed.item() == pytest.approx(sigmoid(image, text, SCALE, bias, TRUE).item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["ours", "siglip"])
def test_the_model_s_loss_is_that_of_its_logits(kind: str) -> None:
    clip, own = net(kind), torch.arange(3)
    image, text = clip.image(PIXELS), clip.text(words(CAPTIONS))
    logits = clip.logits(image, text)
    if kind == "ours":
        wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    else:
        wanted = F.binary_cross_entropy_with_logits(logits, torch.eye(3), reduction="sum") / 3
    assert clip.loss(image, text).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_softmax_s_scale_is_kept_at_100_and_can_come_down_again() -> None:
    clip = net("ours")
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(300))
    clip.loss(clip.image(PIXELS), clip.text(words(CAPTIONS))).backward()
    assert clip.logit_scale.exp().item() == pytest.approx(LIMIT) and clip.logit_scale.grad != 0


@pytest.mark.slow
def test_it_learns_to_tell_pictures_apart() -> None:
    clip = net("ours").train()
    optimizer = torch.optim.AdamW(clip.parameters(), lr=3e-3)
    for _ in range(40):
        loss = clip.loss(clip.image(PIXELS), clip.text(words(CAPTIONS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert clip.logits(clip.image(PIXELS), clip.text(words(CAPTIONS))).argmax(1).tolist() == [
        0,
        1,
        2,
    ]
