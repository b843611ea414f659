"""From logits to tokens: a picture drawn cell by cell or many cells at once, and the words for a picture.

Each row of a batch draws from a generator of its own, on the CPU, and no row takes part in another's sums: the same tokens come
alone and in a batch, up to the rounding of matrix kernels that depend on the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.models.dalle import DALLE, MaskGIT
from kalpana.text.tokenizer import BOS, EOS, NULL, PAD
from kalpana.types import Cond, KalpanaError, Tokens


@dataclass(frozen=True)
class TokenStep:
    """After step ``index`` (from 1) of ``total``: image ids (b, r, columns), the rows there are so far or a guess of all of them."""

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
    """Ids (b, ...) drawn from logits (b, ..., v), row i by luck from ``generators[i]``, which is on the CPU wherever the logits are.

    ``temperature`` 0 takes the likeliest token and needs no luck. Otherwise it is one of the ``top_k`` likeliest (None: of all), and of
    those one of the fewest that together have ``top_p`` of the probability (Holtzman et al. 2020). Every token has luck of its own, and the
    largest log-probability minus the log of an exponential number wins (Gumbel's way): a last bit that another size of batch rounds the
    other way then changes a token once in millions, where along a running sum of probabilities it would change a picture in a hundred.
    Raises KalpanaError as ``check``.
    """
    check(temperature, top_k, top_p, logits.shape[-1])
    if len(generators) != len(logits):
        raise ValueError(
            f"there are {len(generators)} generators for {len(logits)} rows: give one a row"
        )
    if temperature == 0:
        return logits.argmax(-1)
    luck = torch.stack(
        [torch.empty(logits.shape[1:]).exponential_(generator=each) for each in generators]
    ).to(logits.device)
    values, ids = logits, None
    if top_k is not None or top_p < 1:
        values, ids = values.topk(top_k or logits.shape[-1])  # the likeliest first
        luck = luck.gather(-1, ids)
    values = values.double()
    scores = (values - values.amax(-1, keepdim=True)) / temperature
    if top_p < 1:
        chance = scores.softmax(-1)
        scores = scores.masked_fill(
            chance.cumsum(-1) - chance >= top_p, -math.inf
        )  # a token stays unless those before it are enough
    place = (scores - luck.clamp(min=torch.finfo(luck.dtype).tiny).log()).argmax(-1, keepdim=True)
    return (place if ids is None else ids.gather(-1, place)).squeeze(-1)


def check(temperature: float, top_k: int | None, top_p: float, count: int) -> None:
    """Raises KalpanaError where no token, one of ``count``, can be drawn by these settings."""
    if not 0 <= temperature < math.inf:
        raise KalpanaError(
            f"temperature is {temperature}: write 0, for always the likeliest token, or more"
        )
    if top_k is not None and not 1 <= top_k <= count:
        raise KalpanaError(
            f"top_k is {top_k}, and there are {count} tokens: write from 1 to {count}, or leave it out"
        )
    if not 0 < top_p <= 1:
        raise KalpanaError(f"top_p is {top_p}: write more than 0 and at most 1, which is off")


def guide(logits: Tensor, scale: float) -> Tensor:
    """Logits (b, ...) from those of 2b rows, the b with a caption first: ``scale`` times as far from the others as the caption moves
    them. ``scale`` 1 is off, and needs the first b rows alone."""
    if scale == 1:
        return logits
    asked, null = logits.float().chunk(2)  # in bf16 their difference, drawn out, would be coarse
    return null + scale * (asked - null)


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
    """A Drawn after every row of cells, one picture a generator; the last one's ``ids`` are whole. Closing the iterator cancels.

    ``given`` (b, r, columns) are the upper rows of pictures that are to be completed. ``shape`` is rows and columns where the picture is
    larger than the network's: each cell is then drawn as part of a picture of the network's size that lies around it, as nearly in the
    middle as the edges let it (the sliding window of Esser et al. 2021, section 3.3). Raises KalpanaError at once where a setting is out of
    bounds, the shape is smaller than the network's, or something else than upper rows is given.
    """
    c, b, times = network.config, len(generators), 1 if guidance == 1 else 2
    rows, columns = shape or (c.rows, c.columns)
    check(temperature, top_k, top_p, c.codes)
    if rows < c.rows or columns < c.columns:
        raise KalpanaError(
            f"a picture of {rows} x {columns} tokens is smaller than this model's: give {c.rows} x {c.columns} or more"
        )
    upper = (
        torch.empty(b, 0, columns, dtype=torch.int64, device=network.codes.weight.device)
        if given is None
        else given
    )
    _check_ids(upper, (b, upper.shape[1], columns), c.codes)
    if upper.shape[1] >= rows:
        raise KalpanaError(
            f"{upper.shape[1]} rows of {rows} are given, which leaves none to draw: give {rows - 1} at most"
        )

    @torch.no_grad()
    def drawing() -> Iterator[TokenStep]:
        both, ids, window = (
            _beside_null(cond, b, times),
            F.pad(upper, (0, 0, 0, rows - upper.shape[1])),
            None,
        )
        for row in range(upper.shape[1], rows):
            for column in range(columns):
                top, left = around(row, rows, c.rows), around(column, columns, c.columns)
                if window != (
                    top,
                    left,
                ):  # read anew; in a window that has not moved the next cell comes after the last
                    window, cache = (top, left), network.start_image(both, times * b)
                    seen = torch.cat(
                        (
                            ids[:, top:row, left : left + c.columns].flatten(1),
                            ids[:, row, left:column],
                        ),
                        1,
                    )
                    new = F.pad(
                        seen, (1, 0), value=c.codes
                    )  # the begin token, and what of the window there is
                logits = guide(network.step(cache, torch.cat((new,) * times)), guidance)
                new = draw(logits, temperature, top_k, top_p, generators)[:, None]
                ids[:, row, column] = new[:, 0]
            yield TokenStep(
                row + 1 - upper.shape[1], rows - upper.shape[1], ids[:, : row + 1].clone()
            )

    return drawing()


def around(place: int, count: int, window: int) -> int:
    """Where a window begins that lies around a place among so many, as nearly in the middle as the ends let it."""
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
    """A Drawn after each of ``steps`` looks at the whole picture, with a guess of it; the last guess is the picture. One picture a
    generator; closing the iterator cancels (Chang et al. 2022, section 3.2).

    All hidden cells are drawn, and after step k of n floor(cos(pi/2 k/n) m) of the m there were are hidden again: those of the least
    log-probability, to which Gumbel noise is added, ``spread`` (1 - k/n) times, so that the first to stay are not all alike. ``given``
    (b, rows, columns) are pictures to be completed, number ``codes`` where a cell is to be drawn. Raises KalpanaError at once where a
    setting is out of bounds, or something else than pictures is given.
    """
    c, b, times = network.config, len(generators), 1 if guidance == 1 else 2
    check(temperature, top_k, top_p, c.codes)
    if steps < 1:
        raise KalpanaError(f"steps is {steps}: write 1 or more")
    if not 0 <= spread < math.inf:
        raise KalpanaError(f"spread is {spread}: write 0, for always the surest cells, or more")
    begin = (
        torch.full((b, c.rows, c.columns), c.codes, device=network.codes.weight.device)
        if given is None
        else given
    )
    _check_ids(begin, (b, c.rows, c.columns), c.codes + 1)

    @torch.no_grad()
    def looks() -> Iterator[TokenStep]:
        both, ids = _beside_null(cond, b, times), begin
        count = (begin == c.codes).flatten(1).sum(1, keepdim=True)  # b 1
        for step in range(1, steps + 1):
            hidden = ids == c.codes  # b h w
            logits = guide(network(both, ids.repeat(times, 1, 1)), guidance)
            guess = torch.where(hidden, draw(logits, temperature, top_k, top_p, generators), ids)
            noise = torch.stack(
                [
                    -torch.empty(ids.shape[1:]).exponential_(generator=each).log()
                    for each in generators
                ]
            )  # Gumbel's
            sure = logits.float().log_softmax(-1).gather(-1, guess[..., None]).squeeze(-1)
            sure = (sure + spread * (1 - step / steps) * noise.to(sure)).masked_fill(
                ~hidden, math.inf
            )
            rank = sure.flatten(1).argsort(stable=True).argsort(1)  # b hw, the least sure first
            again = rank < (math.cos(math.pi / 2 * step / steps) * count).floor()
            ids = guess.masked_fill(again.view_as(guess), c.codes)
            yield TokenStep(step, steps, guess)

    return looks()


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
    """Words for image ids (b, rows, columns), from the begin token to the end token, or as many as the network's ``length``.

    ``first`` (vocabulary,) bool are the tokens that may come first (None: any). Raises KalpanaError where a setting is out of bounds, or
    something else than image ids is given.
    """
    c, b = network.config, len(image)
    check(temperature, top_k, top_p, c.vocabulary)
    _check_ids(image, (b, c.rows, c.columns), c.codes)
    cache = network.start_text(image)
    ids = new = torch.full((b, 1), BOS, device=image.device)
    mask = going = torch.ones_like(ids, dtype=torch.bool)
    while going.any() and ids.shape[1] < c.length:
        logits = network.step(cache, new)
        logits[:, [PAD, BOS, NULL]] = -math.inf  # no words
        if first is not None and ids.shape[1] == 1:
            logits = logits.masked_fill(~first, -math.inf)
        new = torch.where(going, draw(logits, temperature, top_k, top_p, generators)[:, None], PAD)
        ids, mask = torch.cat((ids, new), 1), torch.cat((mask, going), 1)
        going = going & (new != EOS)
    return Tokens(ids, mask)


def _beside_null(cond: Cond, b: int, times: int) -> Cond:
    """The condition of b rows, alone (``times`` 1) or with as many rows without a caption below it (``times`` 2)."""
    if times == 1 or cond.tokens is None:
        return cond
    ids, mask = cond.tokens.ids, cond.tokens.mask
    null = torch.zeros(b, dtype=torch.bool, device=ids.device) if cond.null is None else cond.null
    return Cond(
        Tokens(ids.repeat(2, 1), mask.repeat(2, 1)), torch.cat((null, torch.ones_like(null)))
    )


def _check_ids(ids: Tensor, shape: tuple[int, int, int], count: int) -> None:
    """Raises KalpanaError where image ids are not of this shape, or not below ``count``."""
    if ids.shape != shape:
        raise KalpanaError(f"the picture is {tuple(ids.shape)} in tokens: give {shape}")
    if (wrong := ids[(ids < 0) | (ids >= count)]).numel():
        raise KalpanaError(
            f"the picture has a token {int(wrong[0])}, of another codebook: give tokens from 0 to {count - 1}"
        )
