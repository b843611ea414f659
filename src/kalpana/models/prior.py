"""Prior of unCLIP: from a text to CLIP image vectors, by diffusion of the vector itself.

A transformer reads, in one sequence, the CLIP's states of the words, its text vector, the time, the
noisy image vector and a learned query, and predicts the clean vector at the query (Ramesh et al.
2022, section 2.2). Simplified: flow matching in place of a discrete process, and attention in both
directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.models.clip import Block, TextTower, unit, unseen
from kalpana.models.dit import precision_weighted_x0
from kalpana.models.layers import timestep_embedding
from kalpana.models.unclip import Standard
from kalpana.types import Cond, KalpanaError, Tokens

EPS = 1e-6  # of the layer norms
# Assumed standard deviation of the error of the predicted vector, whose numbers have one of 1: a
# text leaves much of its picture open. See ``precision_weighted_x0``.
GUESS = 0.6
PRIOR_STEPS, PRIOR_GUIDANCE = 20, 2.0  # of the sampling


@dataclass(frozen=True)
class Config:
    width: int = 192
    depth: int = 4
    heads: int = 3
    hidden: int = 768
    features: int = 192  # of the CLIP: its vectors and the states of its words


class Prior(nn.Module):
    """Prior: ``network(x_t, t, cond) -> prediction`` on standardised vectors x_t (b, features).

    ``cond.embedding`` (b, 1 + l, features) holds the unit text vector and then the states of the
    words, of which ``cond.tokens.mask`` (b, l) says which are real; null rows have no text.
    """

    reads: tuple[str, ...] = ("tokens", "embedding")

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.standard = Standard(c.features)
        self.words = nn.Linear(c.features, c.width)
        self.text = nn.Linear(c.features, c.width)
        self.null = nn.Parameter(torch.randn(c.width))
        self.time = nn.Linear(256, c.width)
        self.noisy = nn.Linear(c.features, c.width)
        self.query = nn.Parameter(torch.randn(c.width))
        self.blocks = nn.ModuleList(
            [Block(c.width, c.heads, c.hidden, "gelu", EPS) for _ in range(c.depth)]
        )
        self.norm = nn.LayerNorm(c.width, EPS)
        self.head = nn.Linear(c.width, c.features)
        self._init()

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Prediction (b, features) of the clean vectors."""
        assert cond.embedding is not None and cond.tokens is not None
        vector, states = cond.embedding[:, 0], cond.embedding[:, 1:]
        masked = ~cond.tokens.mask  # b l
        text = self.text(vector * vector.shape[1] ** 0.5)  # b d
        if cond.null is not None:
            text = torch.where(cond.null[:, None], self.null, text)
            masked = masked | cond.null[:, None]
        time = self.time(timestep_embedding(t)).expand(len(x_t), -1)
        query = self.query.expand(len(x_t), -1)
        last = torch.stack((text, time, self.noisy(x_t), query), 1)  # b 4 d
        x = torch.cat((self.words(states), last), 1)  # b l+4 d
        bias = unseen(F.pad(masked, (0, 4)))[:, None, None]  # b 1 1 l+4
        for block in self.blocks:
            x = block(x, bias)
        return precision_weighted_x0(self.head(self.norm(x[:, -1])), x_t, t, GUESS)

    def _init(self) -> None:
        """Initialise as the towers of CLIP; the prediction starts at 0, the mean of the vectors."""
        c = self.config
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attention.qkv.weight, std=c.width**-0.5)
            nn.init.normal_(block.feed.up.weight, std=(2 * c.width) ** -0.5)
            for last in (block.attention.out, block.feed.down):
                nn.init.normal_(last.weight, std=c.width**-0.5 * (2 * c.depth) ** -0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


def text_cond(tower: TextTower, tokens: Tokens, null: Tensor | None = None) -> Cond:
    """Condition of the prior: texts as the text tower of a CLIP reads them; no text in the rows
    where ``null`` (b,) is True. Raises KalpanaError for a CLIP whose states have another width than
    its features."""
    c = tower.config
    if c.text_width != c.features or c.text_pool != "mean":
        raise KalpanaError(
            "the prior reads the words of a CLIP with mean pooling, whose text_width is its number "
            f"of features, {c.features}, not {c.text_pool!r} and {c.text_width}"
        )
    states = tower.states(tokens).float()  # b l d
    vector = unit(tower.pooled(states, tokens.mask).float())  # b d
    return Cond(tokens=tokens, null=null, embedding=torch.cat((vector[:, None], states), 1))
