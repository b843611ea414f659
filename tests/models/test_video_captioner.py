"""The video captioner: shapes, causality, its loss by hand, and the cache against all at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kalpana.models import dalle
from kalpana.models.video_captioner import Config, VideoCaptioner
from kalpana.types import Tokens

SMALL = Config(
    width=32, depth=2, heads=2, vocabulary=40, length=9, codes=16, frames=3, grid=4, patch=2
)


@pytest.fixture
def network() -> VideoCaptioner:
    torch.manual_seed(0)
    network = VideoCaptioner(SMALL)
    with torch.no_grad():  # the head of zeros would hide mistakes
        for p in network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return network


def videos(b: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Keyframes, durations and text ids."""
    rng = torch.Generator().manual_seed(1)
    frames = torch.randint(16, (b, 3, 4, 4), generator=rng)
    return frames, torch.linspace(0.5, 2, b), torch.randint(4, 40, (b, 6), generator=rng)


def test_shapes_and_gradients(network: VideoCaptioner) -> None:
    frames, seconds, ids = videos()
    assert network(frames, seconds, ids).shape == (2, 6, 40)
    network.loss(frames, seconds, Tokens(ids, torch.ones_like(ids, dtype=torch.bool))).backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name
    with pytest.raises(ValueError, match=r"give \(b, 3, 4, 4\)"):
        network(frames[:, :2], seconds, ids)


def test_a_token_sees_no_later_one_and_each_keyframe_cell_by_place(
    network: VideoCaptioner,
) -> None:
    frames, seconds, ids = videos()
    before = network(frames, seconds, ids)
    for place in range(6):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % 40
        after = network(frames, seconds, changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.allclose(after[:, place], before[:, place])
    # Keyframes in another order, tokens in another order within a cell, another duration.
    for other in (frames.flip(1), frames.flip(3)):
        assert not torch.allclose(network(other, seconds, ids), before, atol=1e-3)
    swapped = frames.clone()
    swapped[:, :, 0, :2] = frames[:, :, 0, :2].flip(2)
    assert not torch.allclose(network(swapped, seconds, ids), before, atol=1e-3)
    assert not torch.allclose(network(frames, seconds * 4, ids), before, atol=1e-3)


def test_the_loss_is_the_mean_over_all_text_tokens_but_the_first_and_padding(
    network: VideoCaptioner,
) -> None:
    frames, seconds, ids = videos()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 4:] = False
    loss = network.loss(frames, seconds, Tokens(ids, mask))
    probability = network(frames, seconds, ids).log_softmax(-1)
    wanted = [
        -probability[row, k, ids[row, k + 1]]
        for row, length in ((0, 6), (1, 4))
        for k in range(length - 1)
    ]
    torch.testing.assert_close(loss, torch.stack(wanted).mean())


def test_token_by_token_is_as_all_at_once(network: VideoCaptioner) -> None:
    frames, seconds, ids = videos()
    cache = network.start_text(frames, seconds)
    one = [network.step(cache, ids[:, k : k + 1]) for k in range(6)]
    torch.testing.assert_close(torch.stack(one, 1), network(frames, seconds, ids))


def test_a_fresh_network_predicts_all_tokens_equally() -> None:
    frames, seconds, ids = videos()
    logits = VideoCaptioner(SMALL)(frames, seconds, ids)
    assert torch.equal(logits, torch.zeros_like(logits))


def test_a_start_from_dalle_takes_its_words_codes_and_blocks() -> None:
    torch.manual_seed(2)
    other = dalle.DALLE(dalle.Config(width=32, depth=2, heads=2, vocabulary=40, codes=16))
    network = VideoCaptioner(SMALL)
    network.start_from(other)
    assert torch.equal(network.words.weight, other.captions.words.weight)
    assert torch.equal(network.codes.weight, other.codes.weight[:16])
    assert torch.equal(network.say.weight, other.say.weight)
    for name, value in other.blocks.state_dict().items():
        assert torch.equal(network.blocks.state_dict()[name], value)
    # A cell of equal tokens is near their embedding, times the square root of their number.
    with torch.no_grad():
        network.merge.weight.copy_(torch.eye(32).repeat(1, 4) / 2)
        network.moments.zero_()
    seen = network._embed_video(torch.full((1, 3, 4, 4), 5), torch.ones(1))
    torch.testing.assert_close(seen[0, 1], 2 * other.codes.weight[5])
    assert F.cosine_similarity(seen[0, 1], seen[0, -1], 0) > 0.999
