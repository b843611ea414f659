"""The two towers at school: pictures beside what is said of them in both languages, and beside what is nearly true.

Every picture has an English and a Hindi caption; half of them have a third that is wrong in one thing (``world.twist``), a text
that belongs to no picture. Things alone are at times said by the keywords that people look for them by. Where the recipe has cards, some
are drawn as no style draws them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Generator, Tensor
from torch.distributed.nn import functional as across
from torch.utils.checkpoint import checkpoint

from kalpana.models import clip
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache
from kalpana.train.object_augmentation import LOOSE, Cards, caption_for, loosely
from kalpana.train.recipe import Recipe
from kalpana.train.task import HELD_OUT, Metrics, config_of, indices
from kalpana.types import Tokens
from kalpana.world.grammar import FORMS, LANGUAGES
from kalpana.world.hard_negatives import hard_negative
from kalpana.world.scene import Scene
from kalpana.world.world import KINDS, World

WRONG = 0.5  # minimally wrong texts for each picture


@dataclass(frozen=True)
class CLIPBatch:
    """A batch of pairs: pixels (b, 3, h, w) uint8, ``tokens`` of m texts, a number for each text (m,) that equal texts share, and the
    numbers of those that belong to each picture (b, languages)."""

    pixels: Tensor
    tokens: Tokens
    texts: Tensor
    own: Tensor


class CLIPTask:
    """Contrastive learning (Radford et al. 2021; Zhai et al. 2023), with more than one true text for a picture, and texts true of none."""

    file = "clip.safetensors"
    ahead = True

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        self.recipe, self.device = recipe, device
        self.model = clip.CLIP(config_of(clip.Config, recipe)).to(device)
        self.tokenizer, side = Tokenizer.load(), self.model.config.side
        self.world, self.dev = (
            World(recipe.seed, split, side, recipe.kind) for split in ("train", "dev")
        )
        self.pictures = data_cache.pictures(self.world, recipe.num_images, progress)
        self.rows = [
            i
            for i in range(recipe.num_images)
            if not recipe.held_out_styles or self.world.scene(i).style not in recipe.held_out_styles
        ]
        self.cards = Cards(side, recipe.held_out_styles)
        self.dev_pixels = data_cache.floats(
            data_cache.pictures(self.dev, HELD_OUT, progress), device
        )

    def batch(self, step: int) -> CLIPBatch:
        rng, cards = (
            random.Random(f"{self.recipe.seed}/clip/{step}"),
            int(self.recipe.object_augment_share * self.recipe.batch),
        )
        pairs = [
            (self.rows[place], take) for place, take in indices(self.recipe, step, len(self.rows))
        ][: self.recipe.batch - cards]
        scenes = [self.world.scene(i) for i, _ in pairs]
        said = [
            [described(scene, self.recipe.kind, language, rng) for scene in scenes]
            for language in LANGUAGES
        ]
        wrong = [text for scene in scenes if (text := misdescribed(scene, self.recipe.kind, rng))][
            : round(WRONG * len(scenes))
        ]
        pixels = torch.from_numpy(np.stack([self.pictures[i] for i, _ in pairs]))
        if cards:
            drawn, concepts = self.cards(cards, step)
            pixels = torch.cat((pixels, drawn))
            for texts, language in zip(
                said, LANGUAGES, strict=True
            ):  # the same for each card of a concept, so that none is wrong of another
                texts += [
                    caption_for(
                        concept, language, random.Random(f"{self.recipe.seed}/{step}/{concept}")
                    )
                    for concept in concepts
                ]
        every = [*(text for texts in said for text in texts), *wrong]
        numbers = torch.tensor([_number(text) for text in every])
        return CLIPBatch(
            pixels,
            self._tokens(every),
            numbers,
            numbers[: len(LANGUAGES) * len(pixels)].view(len(LANGUAGES), -1).T,
        )

    def loss(self, batch: CLIPBatch, rng: Generator) -> tuple[Tensor, Metrics]:
        """The loss of the whole batch, of all processes where there are several, each of which computes it all."""
        tokens, size = batch.tokens, self.recipe.grad_cache_chunk
        image = cached_gradients(self.model.image, (data_cache.floats(batch.pixels),), size)
        order = (
            tokens.mask.sum(1).argsort()
        )  # so that texts of about one length share a chunk, which then is no longer than they are
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
        """Of the dev pictures, among which each caption looks for its own: the share that is first (R@1) by language, and the share of
        twisted captions that fit the picture less well than the true one; and pictures, each beside the one that its caption finds."""
        rng, scores = random.Random(0), {}
        scenes = [self.dev.scene(i) for i in range(HELD_OUT)]
        image = torch.cat([self.model.image(part) for part in self.dev_pixels.split(64)])
        found: dict[str, Tensor] = {}
        for language in LANGUAGES:
            texts = [
                described(scene, self.recipe.kind, language, rng, strictly=True) for scene in scenes
            ]
            found[language] = self.model.logits(image, self._features(texts)).argmax(0)
            scores[f"dev_r1_{language}"] = sum(
                texts[k] == texts[j] for k, j in enumerate(found[language].tolist())
            ) / len(texts)
        pairs = [
            (k, other[1])
            for k, scene in enumerate(scenes)
            if (other := hard_negative(scene, rng, None))
        ]
        words = [
            (k, language, form)
            for k, _ in pairs
            for language, form in [(rng.choice(list(LANGUAGES)), rng.choice(FORMS))]
        ]
        said = [
            KINDS[self.recipe.kind].caption(scene, language, form, random.Random(k))
            for each in ([scenes[k] for k, _ in pairs], [other for _, other in pairs])
            for scene, (k, language, form) in zip(each, words, strict=True)
        ]
        fit = self.model.logits(image[[k for k, _ in pairs]], self._features(said))
        true, false = (
            fit[torch.arange(len(pairs)), torch.arange(len(pairs)) + shift]
            for shift in (0, len(pairs))
        )
        told = torch.tensor(
            [a != b for a, b in zip(said[: len(pairs)], said[len(pairs) :], strict=True)],
            device=fit.device,
        )
        scores["dev_swap"] = (true > false)[told].float().mean().item()
        sheet = torch.stack((self.dev_pixels[:32], self.dev_pixels[found["en"][:32]]), 1).flatten(
            0, 1
        )
        return scores, sheet

    def finish(self) -> None:
        """Nothing is left to do."""

    def _features(self, texts: list[str]) -> Tensor:
        return torch.cat(
            [
                self.model.text(self._tokens(texts[k : k + 64]).to(self.device))
                for k in range(0, len(texts), 64)
            ]
        )

    def _tokens(self, texts: list[str]) -> Tokens:
        return self.tokenizer.encode(texts, self.model.config.length)


def described(
    scene: Scene, kind: str, language: str, rng: random.Random, strictly: bool = False
) -> str:
    """A caption of the scene in any form, or, of a thing alone in its own colours, its name and some of its keywords."""
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
    """A caption, in either language, with one thing in it that is not so; None where the scene has nothing to be wrong about."""
    other, language, form, words = (
        hard_negative(scene, rng),
        rng.choice(list(LANGUAGES)),
        rng.choice(FORMS),
        rng.random(),
    )
    if other is None:
        return None
    true, false = (
        KINDS[kind].caption(each, language, form, random.Random(words))
        for each in (scene, other[1])
    )
    return false if false != true else None  # "some cats" are three or four


def cached_gradients(tower: Callable[..., Tensor], given: tuple[Tensor, ...], size: int) -> Tensor:
    """What a tower makes of the rows of its arguments, ``size`` rows at a time (0: all at once), keeping nothing of the way but the
    features; backward goes the way again, chunk by chunk. So a batch of any size needs the memory of a chunk, and has the same
    gradients: gradient caching (Gao et al. 2021)."""
    if not size or size >= len(given[0]):
        return tower(*given)
    chunks = zip(*(each.split(size) for each in given), strict=True)
    return torch.cat([checkpoint(tower, *chunk, use_reentrant=False) for chunk in chunks])


def gathered(part: Tensor) -> Tensor:
    """The rows of all processes, by rank, gradients going back to where they came from; this process's where there is no other.

    If every process computes the loss of all and the gradients of their parameters are averaged, as DDP does, they are the
    gradients of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return part
    return torch.cat(across.all_gather(part)) if part.requires_grad else torch.cat(_all(part))


def _all(part: Tensor) -> list[Tensor]:
    rows = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, part)
    return rows


def _number(text: str) -> int:
    """A number of 63 bits that equal texts share."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
