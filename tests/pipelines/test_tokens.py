"""Token sampling: from logits, autoregressive and masked image generation, and captioning."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Generator, Tensor, nn

from kalpana.models.dalle import DALLE, Config, MaskGIT, random_mask
from kalpana.pipelines.tokens import TokenStep, caption, draw, guide, masked, stream
from kalpana.text.tokenizer import BOS, EOS, NULL, PAD
from kalpana.types import Cond, KalpanaError, Tokens

TINY = Config(width=32, depth=2, heads=2, vocabulary=40, length=10, codes=20, rows=4, columns=4)
IMAGE = torch.randint(0, 20, (4, 4, 4), generator=Generator().manual_seed(1))
ROWS = [[1, 5, 6, 2], [1, 9, 2], [1, 7, 8, 9, 10, 2], [1, 5, 2]]


def words(rows: list[list[int]], length: int = 8) -> Tokens:
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return Tokens(ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None])


COND = Cond(words(ROWS))


def seeded(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def last(steps: Iterator[TokenStep]) -> Tensor:
    *_, step = steps
    return step.ids


@pytest.fixture
def net() -> DALLE:
    net = DALLE(TINY)
    stir(net)
    return net.eval()


@pytest.fixture
def git() -> MaskGIT:
    git = MaskGIT(TINY)
    stir(git)
    return git.eval()


def stir(net: nn.Module) -> None:
    """Adds random numbers to every parameter: the heads are initialised with zeros, and all logits
    would be equal."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))


# Sampling one token.

LOGITS = [0.3, -1.0, 2.0, 1.1, -0.4, 1.9, -3.0]


def probabilities(temperature: float, top_k: int | None, top_p: float) -> list[float]:
    """Reference probabilities by definition: sort, keep the likeliest, and normalise."""
    weight = [math.exp(value / temperature) for value in LOGITS]
    order = sorted(range(7), key=lambda i: -weight[i])[: top_k or 7]
    among, kept = sum(weight[i] for i in order), []
    for i in order:
        if sum(weight[j] for j in kept) / among < top_p:
            kept.append(i)
    return [weight[i] / sum(weight[j] for j in kept) if i in kept else 0.0 for i in range(7)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    "top_k, top_p",
    [(None, 1.0), (3, 1.0), (7, 1.0), (None, 0.5), (None, 0.9), (None, 0.05), (4, 0.8)],
)
def test_tokens_come_as_often_as_they_should(
    temperature: float, top_k: int | None, top_p: float
) -> None:
    count = 20_000
    ids = draw(torch.tensor(LOGITS).expand(1, count, 7), temperature, top_k, top_p, seeded(0))
    assert ids.shape == (1, count) and ids.dtype == torch.int64
    shares = (torch.bincount(ids[0], minlength=7) / count).tolist()
    for found, wanted in zip(shares, probabilities(temperature, top_k, top_p), strict=True):
        assert found == 0 or wanted > 0
        assert abs(found - wanted) < 4.5 * math.sqrt(0.25 / count)


def test_no_temperature_and_no_choice_are_the_likeliest_token() -> None:
    logits = torch.randn(5, 30, generator=Generator().manual_seed(2))
    best = logits.argmax(-1)
    assert torch.equal(draw(logits, 0, None, 1.0, seeded(*range(5))), best)
    assert torch.equal(draw(logits, 1.0, 1, 1.0, seeded(*range(5))), best)
    assert torch.equal(draw(logits, 1.0, None, 1e-9, seeded(*range(5))), best)
    assert torch.equal(draw(logits, 1e-30, None, 1.0, seeded(*range(5))), best)


def test_no_temperature_takes_no_luck() -> None:
    (generator,) = generators = seeded(3)
    draw(torch.tensor([LOGITS]), 0, None, 1.0, generators)
    assert torch.equal(generator.get_state(), Generator().manual_seed(3).get_state())


@pytest.mark.parametrize("top_k, top_p", [(None, 1.0), (5, 0.9)])
def test_a_row_never_depends_on_its_batch(top_k: int | None, top_p: float) -> None:
    logits = torch.randn(6, 30, generator=Generator().manual_seed(2))
    together = seeded(*range(6))
    rows = torch.stack([draw(logits, 1.0, top_k, top_p, together) for _ in range(10)], 1)
    for i in range(6):
        alone = seeded(i)
        row = [draw(logits[i : i + 1], 1.0, top_k, top_p, alone) for _ in range(10)]
        assert torch.equal(torch.stack(row, 1)[0], rows[i])


def test_impossible_tokens_are_never_drawn_and_logits_are_unchanged() -> None:
    logits = torch.tensor([LOGITS * 3]).expand(400, -1).clone()
    logits[:, 1::2] = -math.inf
    before = logits.clone()
    for top_k in (None, 21):
        assert (draw(logits, 3.0, top_k, 1.0, seeded(*range(400))) % 2 == 0).all()
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    "temperature, top_k, top_p, message",
    [
        (-0.1, None, 1.0, "temperature is -0.1: write 0"),
        (math.inf, None, 1.0, "temperature is inf"),
        (math.nan, None, 1.0, "temperature is nan"),
        (1.0, 0, 1.0, "top_k is 0, and there are 20 tokens: write from 1 to 20, or leave it out"),
        (1.0, 21, 1.0, "top_k is 21, and there are 20 tokens: write from 1 to 20, or leave it out"),
        (1.0, None, 0.0, "top_p is 0.0: write more than 0 and at most 1"),
        (1.0, None, 1.5, "top_p is 1.5"),
    ],
)
def test_settings_out_of_bounds_are_refused_at_once(
    net: DALLE, git: MaskGIT, temperature: float, top_k: int | None, top_p: float, message: str
) -> None:
    with pytest.raises(KalpanaError, match=message):
        draw(torch.zeros(1, 20), temperature, top_k, top_p, seeded(0))
    with pytest.raises(KalpanaError, match=message):
        # The stream raises at the call, not at its first step.
        stream(net, COND, seeded(*range(4)), temperature, top_k, top_p)
    with pytest.raises(KalpanaError, match=message):
        masked(git, COND, seeded(*range(4)), 8, temperature, top_k, top_p)
    if top_k != 21:  # the vocabulary has 40 tokens
        with pytest.raises(KalpanaError, match=message.replace("20", "40")):
            caption(net, IMAGE, seeded(*range(4)), temperature, top_k, top_p)


def test_one_generator_a_row() -> None:
    with pytest.raises(ValueError, match="there are 1 generators for 2 rows"):
        draw(torch.zeros(2, 20), 1.0, None, 1.0, seeded(0))


def test_guidance() -> None:
    cond, null = torch.randn(2, 3, 20, generator=Generator().manual_seed(0)).unbind()
    both = torch.cat((cond, null))
    assert guide(cond, 1) is cond
    assert torch.equal(guide(both, 0), null)
    assert torch.allclose(guide(both, 1.0000001), cond, atol=1e-5)
    assert torch.allclose(guide(both, 3), 3 * cond - 2 * null, atol=1e-5)
    half = both.bfloat16()
    # Computed in float: the scaled difference is not rounded to bf16.
    assert torch.equal(guide(half, 16), guide(half.float(), 16))


# Autoregressive sampling.


def test_rows_come_one_by_one_and_stay(net: DALLE) -> None:
    steps = list(stream(net, COND, seeded(0, 1, 2, 3)))
    assert [(step.index, step.total, step.ids.shape) for step in steps] == [
        (k, 4, (4, k, 4)) for k in (1, 2, 3, 4)
    ]
    for step in steps:
        assert torch.equal(step.ids, steps[-1].ids[:, : step.index])
        assert step.ids.min() >= 0 and step.ids.max() < 20


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_likeliest_cells_are_those_of_forward(net: DALLE, guidance: float) -> None:
    """Reference without a cache: each token from a full forward pass, with the caption and
    without."""
    ids = torch.zeros_like(IMAGE)
    with torch.no_grad():
        for k in range(16):
            cond, null = (
                net(COND, ids)[1].flatten(1, 2)[:, k],
                net(Cond(), ids)[1].flatten(1, 2)[:, k],
            )
            ids.view(4, -1)[:, k] = (null + guidance * (cond - null)).argmax(-1)
    assert torch.equal(
        last(stream(net, COND, seeded(0, 1, 2, 3), temperature=0, guidance=guidance)), ids
    )
    assert len(ids.unique(dim=0)) > 1


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (6, 9)])
def test_a_larger_picture_is_drawn_cell_by_cell_in_windows_around_each(
    net: DALLE, shape: tuple[int, int]
) -> None:
    """Reference: the likeliest token given the window around it, in which later tokens are 0."""
    rows, columns = shape
    wanted = torch.zeros(4, rows, columns, dtype=torch.int64)
    with torch.no_grad():
        for row in range(rows):
            for column in range(columns):
                top, left = min(max(row - 2, 0), rows - 4), min(max(column - 2, 0), columns - 4)
                logits = net(COND, wanted[:, top : top + 4, left : left + 4])[1]
                wanted[:, row, column] = logits[:, row - top, column - left].argmax(-1)
    steps = list(stream(net, COND, seeded(0, 1, 2, 3), temperature=0, shape=shape))
    assert torch.equal(steps[-1].ids, wanted) and len(steps) == rows and len(wanted.unique()) > 1
    # Sampled rows never change.
    assert all(torch.equal(step.ids, wanted[:, : step.index]) for step in steps)
    completed = last(
        stream(net, COND, seeded(0, 1, 2, 3), temperature=0, given=hidden(wanted, 2), shape=shape)
    )
    assert torch.equal(completed, wanted)


def test_guidance_of_1_is_none_and_of_0_is_no_caption(net: DALLE, git: MaskGIT) -> None:
    seeds, none = (0, 1, 2, 3), Cond(COND.tokens, torch.ones(4, dtype=torch.bool))
    for plain, almost, null in (
        [
            last(stream(net, cond, seeded(*seeds), guidance=scale))
            for cond, scale in ((COND, 1), (COND, 1 + 1e-9), (none, 1))
        ],
        [
            last(masked(git, cond, seeded(*seeds), guidance=scale))
            for cond, scale in ((COND, 1), (COND, 1 + 1e-9), (none, 1))
        ],
    ):
        assert torch.equal(plain, almost) and not torch.equal(plain, null)
    assert torch.equal(
        last(stream(net, COND, seeded(*seeds), guidance=0)),
        last(stream(net, Cond(), seeded(*seeds))),
    )
    assert torch.equal(
        last(masked(git, COND, seeded(*seeds), guidance=0)),
        last(masked(git, Cond(), seeded(*seeds))),
    )
    assert torch.equal(
        last(stream(net, Cond(), seeded(*seeds), guidance=2)),
        last(stream(net, Cond(), seeded(*seeds))),
    )


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_pictures_do_not_depend_on_their_batch(net: DALLE, git: MaskGIT, guidance: float) -> None:
    streamed = last(stream(net, COND, seeded(5, 6, 7, 8), guidance=guidance))
    unmasked = last(masked(git, COND, seeded(5, 6, 7, 8), guidance=guidance))
    captions = caption(net, IMAGE, seeded(5, 6, 7, 8))
    for i, seed in enumerate((5, 6, 7, 8)):
        alone = Cond(words([ROWS[i]], len(ROWS[i])))
        assert torch.equal(
            last(stream(net, alone, seeded(seed), guidance=guidance))[0], streamed[i]
        )
        assert torch.equal(
            last(masked(git, alone, seeded(seed), guidance=guidance))[0], unmasked[i]
        )
        own = caption(net, IMAGE[i : i + 1], seeded(seed))
        assert own.ids[own.mask].tolist() == captions.ids[i][captions.mask[i]].tolist()
    assert torch.equal(last(stream(net, COND, seeded(5, 6, 7, 8), guidance=guidance)), streamed)
    assert not torch.equal(last(stream(net, COND, seeded(1, 2, 3, 4), guidance=guidance)), streamed)


CODES = 20  # id of a token that is to be sampled


def hidden(image: Tensor, rows: int) -> Tensor:
    """A picture with the tokens below its first rows to be sampled."""
    return torch.cat((image[:, :rows], torch.full_like(image[:, rows:], CODES)), 1)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_given_rows_stay_and_the_rest_follows_from_them(
    net: DALLE, rows: int, guidance: float
) -> None:
    given = hidden(IMAGE, rows)
    copy = given.clone()
    steps = list(
        stream(net, COND, seeded(0, 1, 2, 3), temperature=0, guidance=guidance, given=given)
    )
    assert [(step.index, step.total) for step in steps] == [
        (k, 4 - rows) for k in range(1, 5 - rows)
    ]
    whole = steps[-1].ids
    assert torch.equal(whole[:, :rows], IMAGE[:, :rows]) and torch.equal(given, copy)
    # Its own first rows, given to it, are completed in the same way.
    more = last(
        stream(
            net, COND, seeded(0, 1, 2, 3), temperature=0, guidance=guidance, given=hidden(whole, 3)
        )
    )
    assert torch.equal(more, whole)


def test_given_tokens_between_sampled_ones_are_read_in_their_turn(net: DALLE) -> None:
    """Reference: the whole network, run again for every token on all tokens before it."""
    free = torch.zeros(4, 4, dtype=torch.bool)
    free[1, 2] = free[2, 0] = free[3, 3] = True
    given = IMAGE.masked_fill(free, CODES)
    wanted = IMAGE.clone()
    with torch.no_grad():
        for row, column in free.nonzero().tolist():
            later = torch.arange(16).view(4, 4) >= 4 * row + column
            logits = net(COND, wanted.masked_fill(later, 0))[1]
            wanted[:, row, column] = logits[:, row, column].argmax(-1)
    got = last(stream(net, COND, seeded(0, 1, 2, 3), temperature=0, given=given))
    assert torch.equal(got, wanted) and not torch.equal(got, IMAGE)


@pytest.mark.parametrize(
    "given, message",
    [
        (IMAGE, "the whole picture is given, which leaves nothing to sample"),
        (IMAGE[:2], r"the picture is \(2, 4, 4\) in tokens: give \(4, 4, 4\)"),
        (IMAGE[..., :3], r"the picture is \(4, 4, 3\) in tokens: give \(4, 4, 4\)"),
        (IMAGE + 21, "of another codebook: give tokens from 0 to 20"),
        (IMAGE - 21, "of another codebook: give tokens from 0 to 20"),
    ],
)
def test_given_tokens_of_another_shape_or_codebook(net: DALLE, given: Tensor, message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        stream(net, COND, seeded(0, 1, 2, 3), given=given)


def test_a_picture_smaller_than_the_models(net: DALLE) -> None:
    with pytest.raises(
        KalpanaError, match=r"4 x 3 tokens is smaller than this model's: give 4 x 4 or more"
    ):
        stream(net, COND, seeded(0, 1, 2, 3), shape=(4, 3))


def test_closed_in_the_middle_it_draws_no_more(net: DALLE) -> None:
    generators = seeded(0, 1, 2, 3)
    steps = stream(net, COND, generators)
    first = next(steps)
    state = generators[0].get_state()
    steps.close()
    assert list(steps) == [] and torch.equal(generators[0].get_state(), state)
    assert torch.equal(first.ids, last(stream(net, COND, seeded(0, 1, 2, 3)))[:, :1])


# Masked sampling.


@pytest.mark.parametrize("steps", [1, 8, 12, 30])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_each_look_leaves_as_many_cells_hidden_as_the_cosine_says(
    git: MaskGIT, steps: int, guidance: float
) -> None:
    seen: list[Tensor] = []  # the ids passed to the network
    git.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].clone()))
    every = list(masked(git, COND, seeded(0, 1, 2, 3), steps, guidance=guidance))
    assert [(step.index, step.total) for step in every] == [(k, steps) for k in range(1, steps + 1)]
    assert len(seen) == steps and every[-1].ids.max() < 20
    for k, ids in enumerate(seen):
        assert ((ids == 20).sum((1, 2)) == math.floor(math.cos(math.pi / 2 * k / steps) * 16)).all()
        if k:  # a token once fixed never changes, and is that of the previous estimate
            fixed = seen[k - 1] != 20
            assert torch.equal(ids[fixed], seen[k - 1][fixed])
            assert torch.equal(ids[:4][ids[:4] != 20], every[k - 1].ids[ids[:4] != 20])
        if guidance != 1:
            assert torch.equal(ids[:4], ids[4:])


def test_given_cells_stay(git: MaskGIT) -> None:
    free = (
        torch.rand(4, 4, 4, generator=Generator().manual_seed(3))
        < torch.tensor([0.0, 0.2, 0.7, 1.0])[:, None, None]
    )
    given = IMAGE.masked_fill(free, 20)
    for step in masked(git, COND, seeded(0, 1, 2, 3), 8, given=given.clone()):
        assert torch.equal(step.ids[~free], IMAGE[~free]) and step.ids.max() < 20
    assert torch.equal(step.ids[0], IMAGE[0])  # none of its tokens was masked


@pytest.mark.parametrize("spread", [0.0, 4.5])
def test_the_surest_cells_stay_but_for_noise_that_fades(git: MaskGIT, spread: float) -> None:
    seen: list[Tensor] = []  # the ids passed to the network
    hook = git.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].clone()))
    list(masked(git, COND, seeded(0, 1, 2, 3), 5, temperature=0, spread=spread))
    hook.remove()
    (generator,) = seeded(2)
    for k in range(1, 5):  # reference for the third picture
        noise = -torch.empty(4, 4).exponential_(generator=generator).log()
        with torch.no_grad():
            probability, best = git(COND, seen[k - 1])[2].softmax(-1).max(-1)
        score = probability.log() + spread * (1 - k / 5) * noise
        before = seen[k - 1][2]
        free = sorted(
            (before == 20).nonzero().tolist(), key=lambda cell: -float(score[tuple(cell)])
        )
        after = before.clone()
        for cell in free[: len(free) - math.floor(math.cos(math.pi / 2 * k / 5) * 16)]:
            after[tuple(cell)] = best[tuple(cell)]
        assert torch.equal(seen[k][2], after)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"steps": 0}, "steps is 0: write 1 or more"),
        ({"spread": -1.0}, "spread is -1.0: write 0"),
        ({"given": IMAGE[:, :3]}, r"the picture is \(4, 3, 4\) in tokens: give \(4, 4, 4\)"),
        (
            {"given": torch.full((4, 4, 4), 21)},
            "the picture has a token 21, of another codebook: give tokens from 0 to 20",
        ),
    ],
)
def test_what_cannot_be_filled_in(git: MaskGIT, fields: dict[str, object], message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        masked(git, COND, seeded(0, 1, 2, 3), **fields)  # type: ignore[arg-type]


# Captions.


def test_captions_begin_and_end_and_hold_nothing_after(net: DALLE) -> None:
    with torch.no_grad():
        net.say.weight[EOS] *= 3  # so that some end early
    ends = set()
    for seed in range(5):
        tokens = caption(net, IMAGE, seeded(*range(4 * seed, 4 * seed + 4)))
        assert tokens.ids.shape == tokens.mask.shape and tokens.ids.shape[1] <= TINY.length
        assert (tokens.ids[:, 0] == BOS).all() and (tokens.ids[~tokens.mask] == PAD).all()
        for ids, mask in zip(tokens.ids, tokens.mask, strict=True):
            row = ids[mask].tolist()
            ends.add(len(row))
            assert mask[: len(row)].all() and not {PAD, BOS, NULL} & set(row[1:])
            assert EOS not in row[:-1] and (row[-1] == EOS or len(row) == TINY.length)
        assert tokens.mask.any(0).all()  # not wider than its longest row
    assert min(ends) < TINY.length and max(ends) == TINY.length


def test_the_likeliest_words_are_those_of_forward(net: DALLE) -> None:
    ids = torch.full((4, 10), PAD)
    ids[:, 0] = BOS
    with torch.no_grad():
        for k in range(9):
            logits = net(
                Cond(Tokens(ids, torch.ones_like(ids, dtype=torch.bool))),
                IMAGE,
                torch.ones(4, dtype=torch.bool),
            )[0][:, k]
            logits[:, [PAD, BOS, NULL]] = -math.inf
            ids[:, k + 1] = logits.argmax(-1)
    tokens = caption(net, IMAGE, seeded(0, 1, 2, 3), temperature=0)
    for i in range(4):
        row = ids[i].tolist()
        wanted = row[: row.index(EOS) + 1 if EOS in row else 10]
        assert tokens.ids[i][tokens.mask[i]].tolist() == wanted


def test_a_picture_of_another_codebook_has_no_caption(net: DALLE) -> None:
    with pytest.raises(
        KalpanaError,
        match="the picture has a token 20, of another codebook: give tokens from 0 to 19",
    ):
        caption(net, torch.full((1, 4, 4), 20), seeded(0))
    with pytest.raises(
        KalpanaError, match=r"the picture is \(4, 2, 4\) in tokens: give \(4, 4, 4\)"
    ):
        caption(net, IMAGE[:, :2], seeded(0, 1, 2, 3))


# Training.


@pytest.mark.slow
def test_four_pictures_are_learned_by_heart_both_ways() -> None:
    torch.manual_seed(0)
    net = DALLE(TINY)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(100):
        swapped = torch.tensor([True, False, True, False]) ^ (step % 2 == 1)
        optimizer.zero_grad()
        net.loss(COND, IMAGE, swapped).total(0.3).backward()
        optimizer.step()
    assert torch.equal(last(stream(net, COND, seeded(0, 1, 2, 3), temperature=0)), IMAGE)
    assert torch.equal(
        last(stream(net, COND, seeded(0, 1, 2, 3), temperature=0.3, top_k=5, guidance=2)), IMAGE
    )
    tokens = caption(net, IMAGE, seeded(0, 1, 2, 3), temperature=0)
    assert [tokens.ids[i][tokens.mask[i]].tolist() for i in range(4)] == ROWS


@pytest.mark.slow
def test_four_pictures_are_learned_by_heart_with_cells_hidden() -> None:
    torch.manual_seed(0)
    git, rng = MaskGIT(TINY), Generator().manual_seed(0)
    optimizer = torch.optim.Adam(git.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        git.loss(COND, IMAGE, random_mask(4, TINY, rng)).backward()
        optimizer.step()
    assert torch.equal(last(masked(git, COND, seeded(0, 1, 2, 3), 8, temperature=0)), IMAGE)
