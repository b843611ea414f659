"""CLIP training on pictures with captions in two languages, and on hard negative captions.

Every picture has an English and a Hindi caption. For up to half of them there is a hard negative, a
caption that is wrong in one detail (``world.hard_negatives``) and is a text of no picture. Some
captions of single objects are search keywords. With ``object_augment_share`` a part of the batch
are cards, see ``train/object_augmentation.py``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Generator, Tensor
from torch.distributed.nn import functional as across
from torch.utils.checkpoint import checkpoint

from kalpana.models import clip
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache
from kalpana.train.object_augmentation import LOOSE, Cards, caption_for, loosely
from kalpana.train.recipe import PoolRecipe
from kalpana.train.task import HELD_OUT, Metrics, config_of, indices
from kalpana.types import Tokens
from kalpana.world.grammar import FORMS, LANGUAGES
from kalpana.world.hard_negatives import hard_negative
from kalpana.world.scene import Scene
from kalpana.world.world import KINDS, World

WRONG = 0.5  # hard negative captions per picture of the pool, at most


class CLIPRecipe(PoolRecipe):
    """Recipe of a CLIP."""

    family: Literal["clip"] = "clip"
    held_out_styles: tuple[str, ...] = Field(
        default=(), description="drawing styles kept out of training"
    )
    object_augment_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of a batch that are single objects, randomly warped, recoloured and "
        "inked (domain randomisation)",
    )
    grad_cache_chunk: int = Field(
        default=0,
        ge=0,
        description="pairs whose activations are kept at a time (gradient caching): saves memory; "
        "0: all",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.grad_accum > 1:
            yield (
                "grad_accum",
                "the contrastive loss needs the whole batch at once: write grad_cache_chunk "
                "instead",
            )


@dataclass(frozen=True)
class CLIPBatch:
    """Batch of the CLIP task: b pictures and m texts."""

    pixels: Tensor  # (b, 3, h, w) uint8
    tokens: Tokens  # of the m texts
    texts: Tensor  # (m,) a number for each text, equal for equal texts
    own: Tensor  # (b, languages) numbers of the texts of each picture


class CLIPTask:
    """Contrastive learning (Radford et al. 2021; Zhai et al. 2023) with several true texts per
    picture, and with texts that are true of no picture."""

    ahead = True

    def __init__(
        self, recipe: CLIPRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device = recipe, device
        self.model = clip.CLIP(config_of(clip.Config, recipe)).to(device)
        self.tokenizer, side = Tokenizer.load(), self.model.config.side
        self.world, self.dev = (
            World(recipe.seed, split, side, recipe.kind) for split in ("train", "dev")
        )
        self.pictures = data_cache.pictures(self.world, recipe.num_images, progress)
        held_out = recipe.held_out_styles
        self.rows = [
            i
            for i in range(recipe.num_images)
            if not held_out or self.world.scene(i).style not in held_out
        ]
        self.cards = Cards(side, held_out)
        dev_pictures = data_cache.pictures(self.dev, HELD_OUT, progress)
        self.dev_pixels = data_cache.floats(dev_pictures, device)

    def batch(self, step: int) -> CLIPBatch:
        """Pictures of the pool, then cards; the texts are their captions in one language after the
        other, then the hard negatives."""
        recipe, rng = self.recipe, random.Random(f"{self.recipe.seed}/clip/{step}")
        cards = int(recipe.object_augment_share * recipe.batch)
        places = indices(recipe, step, len(self.rows))[: recipe.batch - cards]
        rows = [self.rows[place] for place, _ in places]
        scenes = [self.world.scene(i) for i in rows]
        captions = [
            [described(scene, recipe.kind, language, rng) for scene in scenes]
            for language in LANGUAGES
        ]
        negatives = [text for scene in scenes if (text := misdescribed(scene, recipe.kind, rng))]
        negatives = negatives[: round(WRONG * len(scenes))]
        pixels = torch.from_numpy(np.stack([self.pictures[i] for i in rows]))
        if cards:
            pictures, concepts = self.cards(cards, step)
            pixels = torch.cat((pixels, pictures))
            # Cards of one concept share a caption, so that no caption is a false negative.
            for texts, language in zip(captions, LANGUAGES, strict=True):
                for concept in concepts:
                    seeded = random.Random(f"{recipe.seed}/{step}/{concept}")
                    texts.append(caption_for(concept, language, seeded))
        every = [*(text for texts in captions for text in texts), *negatives]
        numbers = torch.tensor([_number(text) for text in every])
        own = numbers[: len(LANGUAGES) * len(pixels)].view(len(LANGUAGES), -1).T
        return CLIPBatch(pixels, self._tokens(every), numbers, own)

    def loss(self, batch: CLIPBatch, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        """Contrastive loss of the whole batch; of several processes each computes that of all."""
        tokens, size = batch.tokens, self.recipe.grad_cache_chunk
        image = cached_gradients(self.model.image, (data_cache.floats(batch.pixels),), size)
        # Sorted by length, so that the chunks have little padding.
        order = tokens.mask.sum(1).argsort()
        text = cached_gradients(
            lambda ids, mask: self.model.text(Tokens(ids, mask)),
            (tokens.ids[order], tokens.mask[order]),
            size,
        )
        text = text[order.argsort()]
        image, text, texts, own = (gathered(part) for part in (image, text, batch.texts, batch.own))
        loss = self.model.loss(image, text, (own[:, :, None] == texts).any(1))
        return loss, {"scale": self.model.logit_scale.exp().item()}

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Text-to-image retrieval R@1 among the dev pictures, by language, and the share of hard
        negatives that score below the true caption.

        The sheet has 32 pictures, each followed by the one retrieved for its English caption.
        """
        rng, scores = random.Random(0), {}
        scenes = [self.dev.scene(i) for i in range(HELD_OUT)]
        image = torch.cat([self.model.image(part) for part in self.dev_pixels.split(64)])
        found: dict[str, Tensor] = {}
        for language in LANGUAGES:
            texts = [
                described(scene, self.recipe.kind, language, rng, strictly=True) for scene in scenes
            ]
            found[language] = self.model.logits(image, self._features(texts)).argmax(0)
            hits = sum(texts[k] == texts[j] for k, j in enumerate(found[language].tolist()))
            scores[f"dev_r1_{language}"] = hits / len(texts)
        pairs = [
            (k, other[1])
            for k, scene in enumerate(scenes)
            if (other := hard_negative(scene, rng, None))
        ]
        wordings = [
            (k, language, form)
            for k, _ in pairs
            for language, form in [(rng.choice(list(LANGUAGES)), rng.choice(FORMS))]
        ]
        captions = [
            KINDS[self.recipe.kind].caption(scene, language, form, random.Random(k))
            for each in ([scenes[k] for k, _ in pairs], [other for _, other in pairs])
            for scene, (k, language, form) in zip(each, wordings, strict=True)
        ]
        n = len(pairs)
        logits = self.model.logits(image[[k for k, _ in pairs]], self._features(captions))
        true, false = (logits[torch.arange(n), torch.arange(n) + shift] for shift in (0, n))
        # Captions of the two scenes may be equal, such as "some cats" for three or four.
        differs = [a != b for a, b in zip(captions[:n], captions[n:], strict=True)]
        counted = torch.tensor(differs, device=logits.device)
        scores["dev_swap"] = (true > false)[counted].float().mean().item()
        first, second = self.dev_pixels[:32], self.dev_pixels[found["en"][:32]]
        return scores, torch.stack((first, second), 1).flatten(0, 1)

    def finish(self) -> None:
        """No final step."""

    def _features(self, texts: list[str]) -> Tensor:
        parts = [texts[k : k + 64] for k in range(0, len(texts), 64)]
        return torch.cat([self.model.text(self._tokens(part).to(self.device)) for part in parts])

    def _tokens(self, texts: list[str]) -> Tokens:
        return self.tokenizer.encode(texts, self.model.config.length)


def described(
    scene: Scene, kind: str, language: str, rng: random.Random, strictly: bool = False
) -> str:
    """A caption of the scene in a random form.

    Unless ``strictly``, a single object in its own colours gets names and keywords instead, with
    probability LOOSE.
    """
    if (
        not strictly
        and len(scene.objects) == 1
        and isinstance(scene.objects[0].sprite, int)
        and not scene.objects[0].color
        and rng.random() < LOOSE
    ):
        return loosely(scene.groups[0].concept, language, rng)
    return KINDS[kind].caption(scene, language, rng.choice(FORMS), rng)


def misdescribed(scene: Scene, kind: str, rng: random.Random) -> str | None:
    """Hard negative: a caption in a random language with one wrong detail.

    None if the scene has no hard negative, or the same words describe both scenes.
    """
    other = hard_negative(scene, rng)
    language, form, seed = rng.choice(list(LANGUAGES)), rng.choice(FORMS), rng.random()
    if other is None:
        return None
    true, false = (
        KINDS[kind].caption(each, language, form, random.Random(seed)) for each in (scene, other[1])
    )
    return false if false != true else None  # "some cats" are three or four


def cached_gradients(tower: Callable[..., Tensor], given: tuple[Tensor, ...], size: int) -> Tensor:
    """Gradient caching (Gao et al. 2021): features of a tower, computed ``size`` rows at a time.

    Only the features are kept; the backward pass recomputes the activations chunk by chunk. Any
    batch thus needs the memory of one chunk, with the same gradients. ``size`` 0: all rows at once.
    """
    if not size or size >= len(given[0]):
        return tower(*given)
    chunks = zip(*(each.split(size) for each in given), strict=True)
    return torch.cat([checkpoint(tower, *chunk, use_reentrant=False) for chunk in chunks])


def gathered(part: Tensor) -> Tensor:
    """Rows of all processes in order of rank, with gradients to the process they came from.

    If every process computes the loss of all rows and the parameters' gradients are averaged, as
    DDP does, they equal those of one process with the whole batch. Without other processes the rows
    are returned as they are.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return part
    return torch.cat(across.all_gather(part)) if part.requires_grad else torch.cat(_all(part))


def _all(part: Tensor) -> list[Tensor]:
    rows = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, part)
    return rows


def _number(text: str) -> int:
    """63-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
