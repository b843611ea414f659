"""CLIP evaluation: ``kalpana evaluate retrieval MODEL``.

On scenes of the test split, each with a dense caption in English and in Hindi:

- retrieval: R@1, R@5 and R@10 in both directions;
- agreement: how often both languages retrieve the same picture;
- hard negatives: how often the true caption scores higher than one with a single fact wrong, by
  kind of fact, each on a tenth as many scenes;
- zero-shot accuracy over the core classes, on single objects in a drawing style that the model was
  not trained on.

Chance is given with each, and for zero-shot accuracy also the nearest neighbour by pixels.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kalpana.evaluate.run import BATCH
from kalpana.media import to_images
from kalpana.types import KalpanaError
from kalpana.world.grammar import LANGUAGES
from kalpana.world.hard_negatives import WAYS, hard_negative
from kalpana.world.lexicon import lexicon, sprites_of
from kalpana.world.render import render
from kalpana.world.sample import scene_of
from kalpana.world.scene import Group, Scene
from kalpana.world.world import KINDS, World, kind_of

SCENES = 1000
RANKS = (1, 5, 10)
RARE = 600  # scenes searched at most for each one that has a hard negative of a kind
EACH = 8  # pictures of a class in the unseen style
TAUGHT = 20  # pictures of a class in the other styles, for the nearest neighbour
TEMPLATES = {"en": ("a picture of {a}", "{a}", "one {b}"), "hi": ("{a} की तस्वीर", "एक {a}", "{a}")}


class Encoder(Protocol):
    """A joint encoder of pictures and texts: unit vectors (n, d) in one space."""

    def images(self, images: Sequence[Image.Image]) -> Tensor: ...
    def texts(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True)
class Recall:
    """R@1, R@5 and R@10 of one language, in [0, 1], in both directions."""

    pictures: tuple[float, ...]  # pictures retrieved by their captions
    captions: tuple[float, ...]  # captions retrieved by their pictures


def recall(image: Tensor, text: Tensor, same: Tensor) -> Recall:
    """Recall of image and text features (n, d); row i of both belongs to the same scene.

    ``same`` (n, n) marks equal texts: each of them is accepted in the place of the other.
    """
    similarity = text @ image.T  # texts pictures

    def recall_at(order: Tensor, rank: int) -> float:
        return same.gather(1, order[:, :rank]).any(1).float().mean().item()

    by_text, by_image = (each.argsort(1, descending=True) for each in (similarity, similarity.T))
    return Recall(
        tuple(recall_at(by_text, rank) for rank in RANKS),
        tuple(recall_at(by_image, rank) for rank in RANKS),
    )


@dataclass(frozen=True)
class Report:
    """The results of a CLIP evaluation; all shares are in [0, 1].

    ``recall`` by language; ``agreement`` of the two languages; ``twists``: for each kind of hard
    negative, and for their mean, the share of cases that prefer the true caption and their number;
    ``classes``: zero-shot accuracy by language in the unseen ``style``; ``pixels``: the same by
    nearest neighbour.
    """

    recall: dict[str, Recall]
    agreement: float
    twists: dict[str, tuple[float, int]]
    scenes: int
    style: str | None
    classes: dict[str, float]
    pixels: float

    def markdown(self) -> str:
        """The report as Markdown tables."""
        lines = ["| over scenes | chance | English | Hindi |", "|---|---:|---:|---:|"]
        for name, which in (
            ("picture found by its caption", "pictures"),
            ("caption found by its picture", "captions"),
        ):
            for k, rank in enumerate(RANKS):
                cells = (f"{100 * getattr(each, which)[k]:.1f} %" for each in self.recall.values())
                chance = 100 * rank / self.scenes
                lines.append(
                    f"| {name}, R@{rank} of {self.scenes:,} | {chance:.1f} % "
                    f"| {' | '.join(cells)} |"
                )
        lines += [
            "",
            f"Both languages find the same picture for {100 * self.agreement:.1f} % of scenes.",
            "",
        ]
        lines += ["| one fact wrong | captions | chance | true one preferred |"]
        lines += ["|---|---:|---:|---:|"]
        lines += [
            f"| {way} | {count} | 50.0 % | {100 * share:.1f} % |"
            for way, (share, count) in self.twists.items()
        ]
        if self.style:
            lines += [
                "",
                f"| core classes in {self.style}, never seen | chance | pixels | English | Hindi |",
                "|---|---:|---:|---:|---:|",
            ]
            chance = 100 / len(core(self.style))
            cells = (f"{100 * share:.1f} %" for share in self.classes.values())
            lines.append(
                f"| right of {len(core(self.style))} | {chance:.1f} % "
                f"| {100 * self.pixels:.1f} % | {' | '.join(cells)} |"
            )
        return "\n".join(lines) + "\n"


def measure(
    encoder: Encoder, scenes: int = SCENES, kind: str = "everything", style: str | None = None
) -> Report:
    """The report on an encoder: test scenes of a kind, and single objects in an unseen ``style``.

    Without a ``style`` the zero-shot part is left out.
    """
    world = World(1, "test", kind=kind)
    every = [world.scene(i) for i in range(scenes)]
    image = image_features(encoder, every)
    captions = {
        language: [_said(scene, kind, language, i) for i, scene in enumerate(every)]
        for language in LANGUAGES
    }
    text = {language: text_features(encoder, texts) for language, texts in captions.items()}
    found = [(text[language] @ image.T).argmax(1) for language in LANGUAGES]
    classes, pixels = zero_shot(encoder, style) if style else ({}, 0.0)
    return Report(
        {
            language: recall(image, text[language], alike(captions[language]))
            for language in LANGUAGES
        },
        (found[0] == found[1]).float().mean().item(),
        swaps(encoder, world, max(scenes // 10, 1)),
        scenes,
        style,
        classes,
        pixels,
    )


def swaps(encoder: Encoder, world: World, each: int) -> dict[str, tuple[float, int]]:
    """Hard-negative accuracy: how often the true caption scores higher than one with a wrong fact.

    Returns by kind of wrong fact the share in [0, 1] and the number of cases, from at most ``each``
    scenes; the last entry is the mean.
    """
    scores: dict[str, tuple[float, int]] = {}
    for way, found in _twisted(world, each).items():
        image = image_features(encoder, [scene for _, scene, _ in found])
        both = [
            [
                _said(pair[k], world.kind, language, i)
                for (i, *pair), language in zip(found, itertools.cycle(LANGUAGES), strict=False)
            ]
            for k in (0, 1)
        ]
        true, false = (text_features(encoder, captions) for captions in both)
        higher = (((true - false) * image).sum(1) > 0).tolist()
        preferred = [so for so, one, two in zip(higher, *both, strict=True) if one != two]
        scores[way] = (sum(preferred) / len(preferred), len(preferred))
    shares, counts = zip(*scores.values(), strict=True)
    return scores | {"mean": (sum(shares) / len(shares), sum(counts))}


def _twisted(world: World, each: int) -> dict[str, list[tuple[int, Scene, Scene]]]:
    """The first ``each`` scenes with a hard negative of each kind, as (index, scene, negative)."""
    found: dict[str, list[tuple[int, Scene, Scene]]] = defaultdict(list)
    rng, ways = random.Random("swaps"), {way for kind in WAYS.values() for way in kind}
    for i in range(RARE * each):
        scene = world.scene(i)
        for way in sorted(ways & WAYS[kind_of(scene)].keys()):
            other = hard_negative(scene, rng, None, (way,))
            if other and other[0] == way:
                found[way].append((i, scene, other[1]))
        ways -= {way for way, pairs in found.items() if len(pairs) == each}
        if not ways:
            break
    return dict(sorted(found.items()))


def zero_shot(encoder: Encoder, style: str) -> tuple[dict[str, float], float]:
    """Zero-shot accuracy over the core classes on single objects in a style.

    Returns the accuracy by language of the labels, and that of the nearest neighbour by pixels
    among pictures in all other styles; in [0, 1].
    """
    classes = core(style)
    queries = [lone(concept, style, f"{concept}/{k}") for concept in classes for k in range(EACH)]
    references = [
        lone(concept, other, f"{concept}/{other}/{k}")
        for concept in classes
        for k in range(TAUGHT)
        for other in [
            random.Random(f"{concept}/{k}").choice(
                [each for each in sorted(sprites_of(concept)) if each != style]
            )
        ]
    ]
    truth = torch.arange(len(classes)).repeat_interleave(EACH)
    image = image_features(encoder, queries)
    scores = {}
    for language in LANGUAGES:
        labels = torch.stack([_label(encoder, concept, language) for concept in classes])
        scores[language] = ((image @ labels.T).argmax(1) == truth).float().mean().item()
    one, two = (small(scenes) for scenes in (queries, references))
    nearest = torch.cdist(one, two).argmin(1) // TAUGHT
    return scores, (nearest == truth).float().mean().item()


def core(style: str) -> list[str]:
    """The core classes with sprites in a style and in others; KalpanaError if there are none."""
    drawn = {c.id: sprites_of(c.id) for c in lexicon().values() if c.core}
    found = [concept for concept, sprites in drawn.items() if style in sprites and len(sprites) > 1]
    if not found:
        styles = sorted({each for sprites in drawn.values() for each in sprites})
        raise KalpanaError(
            f"nothing is drawn in the style {style!r}: the styles are {', '.join(styles)}"
        )
    return found


def lone(concept: str, style: str, seed: str) -> Scene:
    """A scene of a single object of a concept in its own colours."""
    scene = scene_of(random.Random(f"lone/{seed}"), (Group(concept),), style=style)
    assert scene is not None, f"{style} draws no {concept}"
    return scene


def image_features(encoder: Encoder, scenes: Sequence[Scene]) -> Tensor:
    """The image features (n, d) of rendered scenes."""
    return torch.cat([encoder.images(to_images(pixels)) for pixels in _drawn(scenes)])


def text_features(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """The text features (n, d)."""
    return torch.cat([encoder.texts(texts[k : k + BATCH]) for k in range(0, len(texts), BATCH)])


def alike(texts: Sequence[str]) -> Tensor:
    """A mask (n, n) of equal texts."""
    number = {text: k for k, text in enumerate(texts)}
    numbers = torch.tensor([number[text] for text in texts])
    return numbers[:, None] == numbers


def small(scenes: Sequence[Scene]) -> Tensor:
    """Rendered scenes, area-averaged to 16 x 16 pixels and flattened: (n, 768)."""
    return torch.cat(
        [F.interpolate(pixels, (16, 16), mode="area").flatten(1) for pixels in _drawn(scenes)]
    )


def _drawn(scenes: Sequence[Scene]) -> Iterator[Tensor]:
    return (render(scenes[k : k + BATCH]).pixels for k in range(0, len(scenes), BATCH))


def _label(encoder: Encoder, concept: str, language: str) -> Tensor:
    """The class embedding (d,): the mean over templates (Radford et al. 2021, section 3.1.4)."""
    names = lexicon()[concept]
    english = f"{'an' if names.en[0] in 'aeiou' else 'a'} {names.en}"
    a = english if language == "en" else names.hi.singular
    texts = [template.format(a=a, b=names.en) for template in TEMPLATES[language]]
    return F.normalize(text_features(encoder, texts).mean(0), dim=0)


def _said(scene: Scene, kind: str, language: str, i: int) -> str:
    """The dense caption of scene i."""
    return KINDS[kind].caption(scene, language, "dense", random.Random(f"pairs/{i}/{language}"))
