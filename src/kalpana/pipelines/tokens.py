"""Token samplers: autoregressive (DALL-E) and masked (MaskGIT) image generation, and captioning.

Each row of a batch is sampled with its own generator, on the CPU, and the rows are computed
independently. The tokens of a row are therefore the same alone and in a batch, up to the rounding
of matrix kernels that depend on the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.models.dalle import DALLE, Cache, MaskGIT
from kalpana.models.video_captioner import VideoCaptioner
from kalpana.text.tokenizer import BOS, EOS, NULL, PAD
from kalpana.types import Cond, KalpanaError, Tokens


@dataclass(frozen=True)
class TokenStep:
    """The state after step ``index`` (from 1) of ``total``: image ids (b, r, columns), either the
    r rows sampled so far or an estimate of all rows."""

    index: int
    total: int
    ids: Tensor


def draw(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float,
    generators: Sequence[Generator],
) -> Tensor:
    """Gumbel-max sampling: ids (b, ...) from logits (b, ..., v). Row i takes its random numbers
    from ``generators[i]``, which is on the CPU wherever the logits are.

    ``temperature`` 0 takes the likeliest token and uses no random numbers. Otherwise the token is
    sampled among the ``top_k`` likeliest (None: all), and of these among the fewest that together
    have probability ``top_p`` (nucleus sampling, Holtzman et al. 2020).

    Each candidate token gets its own exponential random number e, and the token with the largest
    log p - log e is taken. A last bit that another batch size rounds the other way then changes a
    token about once in millions; with inverse sampling of the cumulative probabilities it would
    change one picture in a hundred.

    Raises ValueError if the numbers of generators and rows differ, and KalpanaError as ``check``.
    """
    check(temperature, top_k, top_p, logits.shape[-1])
    if len(generators) != len(logits):
        raise ValueError(
            f"there are {len(generators)} generators for {len(logits)} rows: give one a row"
        )
    if temperature == 0:
        return logits.argmax(-1)
    exponential = torch.stack(
        [
            torch.empty(logits.shape[1:], dtype=torch.float32).exponential_(generator=each)
            for each in generators
        ]
    ).to(logits.device)
    values, ids = logits, None
    if top_k is not None or top_p < 1:
        values, ids = values.topk(top_k or logits.shape[-1])  # in descending order
        exponential = exponential.gather(-1, ids)
    values = values.double()
    scores = (values - values.amax(-1, keepdim=True)) / temperature
    if top_p < 1:
        probability = scores.softmax(-1)
        # A token is dropped if the likelier tokens already reach top_p.
        before = probability.cumsum(-1) - probability
        scores = scores.masked_fill(before >= top_p, -math.inf)
    smallest = torch.finfo(exponential.dtype).tiny  # avoids log(0)
    place = (scores - exponential.clamp(min=smallest).log()).argmax(-1, keepdim=True)
    return (place if ids is None else ids.gather(-1, place)).squeeze(-1)


def check(temperature: float, top_k: int | None, top_p: float, count: int) -> None:
    """Validate the sampling parameters for a vocabulary of ``count`` tokens. Raises KalpanaError
    for a parameter out of bounds."""
    if not 0 <= temperature < math.inf:
        raise KalpanaError(
            f"temperature is {temperature}: write 0, for always the likeliest token, or more"
        )
    if top_k is not None and not 1 <= top_k <= count:
        raise KalpanaError(
            f"top_k is {top_k}, and there are {count} tokens: "
            f"write from 1 to {count}, or leave it out"
        )
    if not 0 < top_p <= 1:
        raise KalpanaError(f"top_p is {top_p}: write more than 0 and at most 1, which is off")


def guide(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: logits (b, ...) from those of 2b rows, first the b conditional,
    then the b unconditional: ``null + scale * (conditional - null)``. ``scale`` 1 is off, and then
    the logits have the b conditional rows only."""
    if scale == 1:
        return logits
    conditional, null = logits.float().chunk(2)  # the scaled difference would be coarse in bf16
    return null + scale * (conditional - null)


def stream(
    network: DALLE,
    cond: Cond,
    generators: Sequence[Generator],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    guidance: float = 1.0,
    given: Tensor | None = None,
    shape: tuple[int, int] | None = None,
) -> Iterator[TokenStep]:
    """Autoregressive sampling of b pictures, one for each generator: a stream with a TokenStep
    after every row; the ``ids`` of the last one are complete. Closing the iterator cancels.

    ``given`` (b, rows, columns) are pictures to be completed, with id ``codes`` at the tokens to be
    sampled, at the same places in each; the others are read in their turn. ``shape`` is (rows,
    columns) of a picture larger than that of the network. Each token is then sampled in a window of
    the network's size around it, as close to its centre as the picture's edges allow (the sliding
    window of Esser et al. 2021, section 3.3).

    Raises KalpanaError at the call if a parameter is out of bounds, the shape is smaller than that
    of the network, or ``given`` has another shape or other ids, or leaves nothing to sample.
    """
    c, b, times = network.config, len(generators), 1 if guidance == 1 else 2
    rows, columns = shape or (c.rows, c.columns)
    check(temperature, top_k, top_p, c.codes)
    if rows < c.rows or columns < c.columns:
        raise KalpanaError(
            f"a picture of {rows} x {columns} tokens is smaller than this model's: "
            f"give {c.rows} x {c.columns} or more"
        )
    begin = _begun(network, given, (b, rows, columns))
    hidden = (begin == c.codes).any(0)  # rows columns
    if not hidden.any():
        raise KalpanaError("the whole picture is given, which leaves nothing to sample")
    first = int(hidden.any(1).nonzero()[0])  # the first row with a token to be sampled

    @torch.no_grad()
    def steps() -> Iterator[TokenStep]:
        doubled, window = _doubled(cond, times), None
        ids = begin.clone()
        for row in range(first, rows):
            for column in range(columns):
                top, left = around(row, rows, c.rows), around(column, columns, c.columns)
                # In a window that has moved, all tokens before this one are read again; otherwise
                # the cache holds them except the last.
                if window != (top, left):
                    window, cache = (top, left), network.start_image(doubled, times * b)
                    above = ids[:, top:row, left : left + c.columns].flatten(1)
                    seen = torch.cat((above, ids[:, row, left:column]), 1)
                    new = F.pad(seen, (1, 0), value=c.codes)  # after the begin token
                logits = guide(network.step(cache, torch.cat((new,) * times)), guidance)
                if hidden[row, column]:
                    ids[:, row, column] = draw(logits, temperature, top_k, top_p, generators)
                new = ids[:, row, column, None]
            yield TokenStep(row + 1 - first, rows - first, ids[:, : row + 1].clone())

    return steps()


def around(place: int, count: int, window: int) -> int:
    """The start of a window of length ``window`` around index ``place`` of ``count``, as close to
    the centre of the window as the ends allow."""
    return min(max(place - window // 2, 0), count - window)


def masked(
    network: MaskGIT,
    cond: Cond,
    generators: Sequence[Generator],
    steps: int = 10,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    guidance: float = 1.0,
    spread: float = 4.5,
    given: Tensor | None = None,
) -> Iterator[TokenStep]:
    """Masked sampling of b pictures, one for each generator (MaskGIT, Chang et al. 2022, section
    3.2): a stream with a TokenStep after each of ``steps`` decoding iterations, with an estimate of
    the whole picture; the last estimate is the result. Closing the iterator cancels.

    Iteration k of n samples all masked tokens, then masks floor(cos(pi/2 k/n) m) of them again,
    where m is the number masked at the start. These are the tokens with the lowest log-probability
    plus ``spread * (1 - k/n)`` times Gumbel noise; the noise keeps the first tokens that stay from
    being all alike. ``given`` (b, rows, columns) are pictures to be completed, with id ``codes``
    where a token is masked.

    Raises KalpanaError at the call if a parameter is out of bounds, or ``given`` has another shape
    or other ids.
    """
    c, b, times = network.config, len(generators), 1 if guidance == 1 else 2
    check(temperature, top_k, top_p, c.codes)
    if steps < 1:
        raise KalpanaError(f"steps is {steps}: write 1 or more")
    if not 0 <= spread < math.inf:
        raise KalpanaError(f"spread is {spread}: write 0, for always the surest cells, or more")
    begin = _begun(network, given, (b, c.rows, c.columns))

    @torch.no_grad()
    def iterations() -> Iterator[TokenStep]:
        doubled, ids = _doubled(cond, times), begin
        count = (begin == c.codes).flatten(1).sum(1, keepdim=True)  # b 1
        for step in range(1, steps + 1):
            hidden = ids == c.codes  # b h w
            logits = guide(network(doubled, ids.repeat(times, 1, 1)), guidance)
            guess = torch.where(hidden, draw(logits, temperature, top_k, top_p, generators), ids)
            gumbel = torch.stack(
                [
                    -torch.empty(ids.shape[1:], dtype=torch.float32)
                    .exponential_(generator=each)
                    .log()
                    for each in generators
                ]
            )
            confidence = logits.float().log_softmax(-1).gather(-1, guess[..., None]).squeeze(-1)
            noise = spread * (1 - step / steps) * gumbel.to(confidence)
            confidence = (confidence + noise).masked_fill(~hidden, math.inf)
            rank = confidence.flatten(1).argsort(stable=True).argsort(1)  # b hw, ascending
            again = rank < (math.cos(math.pi / 2 * step / steps) * count).floor()
            ids = guess.masked_fill(again.view_as(guess), c.codes)
            yield TokenStep(step, steps, guess)

    return iterations()


@torch.no_grad()
def caption(
    network: DALLE,
    image: Tensor,
    generators: Sequence[Generator],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    first: Tensor | None = None,
) -> Tokens:
    """Captions of pictures: tokens for image ids (b, rows, columns), from the begin token to the
    end token, or at most the ``length`` of the network.

    ``first`` (vocabulary,) bool is True for the tokens that may begin a caption (None: any). Raises
    KalpanaError if a parameter is out of bounds, or ``image`` has another shape or other ids.
    """
    c, b = network.config, len(image)
    check(temperature, top_k, top_p, c.vocabulary)
    _check_ids(image, (b, c.rows, c.columns), c.codes)
    return write(network, network.start_text(image), generators, temperature, top_k, top_p, first)


@torch.no_grad()
def write(
    network: DALLE | VideoCaptioner,
    cache: Cache,
    generators: Sequence[Generator],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    first: Tensor | None = None,
) -> Tokens:
    """Captions after what a cache holds, one for each generator, as by ``caption``."""
    ids = new = torch.full((len(generators), 1), BOS, device=cache.mask.device)
    mask = unfinished = torch.ones_like(ids, dtype=torch.bool)
    while unfinished.any() and ids.shape[1] < network.config.length:
        logits = network.step(cache, new)
        logits[:, [PAD, BOS, NULL]] = -math.inf  # never part of a caption
        if first is not None and ids.shape[1] == 1:
            logits = logits.masked_fill(~first, -math.inf)
        sampled = draw(logits, temperature, top_k, top_p, generators)[:, None]
        new = torch.where(unfinished, sampled, PAD)
        ids, mask = torch.cat((ids, new), 1), torch.cat((mask, unfinished), 1)
        unfinished = unfinished & (new != EOS)
    return Tokens(ids, mask)


def _doubled(cond: Cond, times: int) -> Cond:
    """The conditioning of b rows (``times`` 1), or of 2b rows, of which the last b are
    unconditional (``times`` 2). The empty condition, of any number of rows, stays."""
    return Cond.cat(cond, cond.dropped()) if times == 2 and len(cond) else cond


def _begun(network: DALLE | MaskGIT, given: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    """The ids ``given``, checked, or those of pictures of which nothing is given."""
    c = network.config
    if given is None:
        return torch.full(shape, c.codes, device=network.codes.weight.device)
    _check_ids(given, shape, c.codes + 1)
    return given


def _check_ids(ids: Tensor, shape: tuple[int, int, int], count: int) -> None:
    """Validate image ids. Raises KalpanaError if they have another shape or are not from 0 to
    ``count`` - 1."""
    if ids.shape != shape:
        raise KalpanaError(f"the picture is {tuple(ids.shape)} in tokens: give {shape}")
    if (wrong := ids[(ids < 0) | (ids >= count)]).numel():
        raise KalpanaError(
            f"the picture has a token {int(wrong[0])}, of another codebook: "
            f"give tokens from 0 to {count - 1}"
        )
