"""How well two towers know which words belong to which picture: ``python -m kalpana.evaluate.retrieval MODEL``.

On scenes of the test split, each with a dense caption in English and in Hindi: how often the right one is first, or among the first five
or ten, both ways; how often both languages find the same picture; how often a caption with one thing wrong fits less well than the
true one, by what is wrong, each on a tenth as many scenes; and which of the core classes a lone thing is, in a drawing style that the
model never saw. Beside each stands what chance gives, and beside the last the nearest neighbour by pixels.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
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
RARE = 600  # scenes looked through at most for one that can be said wrong in a way
EACH = 8  # pictures of a class in the unseen style
TAUGHT = 20  # of a class in the other styles, for the nearest neighbour
TEMPLATES = {"en": ("a picture of {a}", "{a}", "one {b}"), "hi": ("{a} की तस्वीर", "एक {a}", "{a}")}


class Encoder(Protocol):
    """Whatever puts pictures and words into one space, as unit vectors (n, d)."""

    def images(self, images: Sequence[Image.Image]) -> Tensor: ...
    def texts(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True)
class Recall:
    """Of one language: the share of captions whose picture is among the first 1, 5 and 10, and of pictures whose caption is."""

    pictures: tuple[float, ...]  # found by their captions
    captions: tuple[float, ...]  # found by their pictures


def recall(image: Tensor, text: Tensor, same: Tensor) -> Recall:
    """Of features (n, d) each; ``same`` (n, n) says which texts read alike, so that none of them is wrong in another's place."""
    likeness = text @ image.T  # texts pictures

    def among(order: Tensor, rank: int) -> float:
        return same.gather(1, order[:, :rank]).any(1).float().mean().item()

    down, across = (each.argsort(1, descending=True) for each in (likeness, likeness.T))
    return Recall(
        tuple(among(down, rank) for rank in RANKS), tuple(among(across, rank) for rank in RANKS)
    )


@dataclass(frozen=True)
class Report:
    """Recall by language, agreement of the two, the share of each kind of twist that is told and how many there were, with the mean of the
    kinds, and accuracy over the core classes in the unseen style by language, with the pixels' own; shares in [0, 1]."""

    recall: dict[str, Recall]
    agreement: float
    twists: dict[str, tuple[float, int]]
    scenes: int
    style: str | None
    classes: dict[str, float]
    pixels: float

    def markdown(self) -> str:
        lines = ["| over scenes | chance | English | Hindi |", "|---|---:|---:|---:|"]
        for name, which in (
            ("picture found by its caption", "pictures"),
            ("caption found by its picture", "captions"),
        ):
            for k, rank in enumerate(RANKS):
                cells = (f"{100 * getattr(each, which)[k]:.1f} %" for each in self.recall.values())
                lines.append(
                    f"| {name}, R@{rank} of {self.scenes:,} | {100 * rank / self.scenes:.1f} % | {' | '.join(cells)} |"
                )
        lines += [
            "",
            f"Both languages find the same picture for {100 * self.agreement:.1f} % of scenes.",
            "",
        ]
        lines += ["| one thing wrong | captions | chance | told |", "|---|---:|---:|---:|"]
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
                f"| right of {len(core(self.style))} | {chance:.1f} % | {100 * self.pixels:.1f} % | {' | '.join(cells)} |"
            )
        return "\n".join(lines) + "\n"


def measure(
    encoder: Encoder, scenes: int = SCENES, kind: str = "everything", style: str | None = None
) -> Report:
    """Measure an encoder on test scenes of a kind, and, where it never saw a style, on lone things in that style."""
    world = World(1, "test", kind=kind)
    every = [world.scene(i) for i in range(scenes)]
    image = image_features(encoder, every)
    said = {
        language: [_said(scene, kind, language, i) for i, scene in enumerate(every)]
        for language in LANGUAGES
    }
    text = {language: text_features(encoder, captions) for language, captions in said.items()}
    found = [(text[language] @ image.T).argmax(1) for language in LANGUAGES]
    classes, pixels = zero_shot(encoder, style) if style else ({}, 0.0)
    return Report(
        {language: recall(image, text[language], alike(said[language])) for language in LANGUAGES},
        (found[0] == found[1]).float().mean().item(),
        swaps(encoder, world, max(scenes // 10, 1)),
        scenes,
        style,
        classes,
        pixels,
    )


def swaps(encoder: Encoder, world: World, each: int) -> dict[str, tuple[float, int]]:
    """How often, of how many, the true caption fits a picture better than one with this or that wrong, by what is wrong: of ``each`` scenes
    at most that can be said wrong so; then the mean."""
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
        told = [
            so
            for so, one, two in zip(
                (((true - false) * image).sum(1) > 0).tolist(), *both, strict=True
            )
            if one != two
        ]
        scores[way] = (sum(told) / len(told), len(told))
    shares, counts = zip(*scores.values(), strict=True)
    return scores | {"mean": (sum(shares) / len(shares), sum(counts))}


def _twisted(world: World, each: int) -> dict[str, list[tuple[int, Scene, Scene]]]:
    """The first scenes that can be said wrong in a way, each with its number and what is said then, by the way."""
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
    """Accuracy over the core classes on lone things in a style, by the language of the labels; and that of the nearest neighbour by pixels
    among pictures in all other styles."""
    classes = core(style)
    asked = [lone(concept, style, f"{concept}/{k}") for concept in classes for k in range(EACH)]
    taught = [
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
    image = image_features(encoder, asked)
    scores = {}
    for language in LANGUAGES:
        labels = torch.stack([_label(encoder, concept, language) for concept in classes])
        scores[language] = ((image @ labels.T).argmax(1) == truth).float().mean().item()
    one, two = (small(scenes) for scenes in (asked, taught))
    nearest = torch.cdist(one, two).argmin(1) // TAUGHT
    return scores, (nearest == truth).float().mean().item()


def core(style: str) -> list[str]:
    """The core classes that are drawn in a style and in others. Raises KalpanaError where there are none."""
    drawn = {c.id: sprites_of(c.id) for c in lexicon().values() if c.core}
    found = [concept for concept, sprites in drawn.items() if style in sprites and len(sprites) > 1]
    if not found:
        styles = sorted({each for sprites in drawn.values() for each in sprites})
        raise KalpanaError(
            f"nothing is drawn in the style {style!r}: the styles are {', '.join(styles)}"
        )
    return found


def lone(concept: str, style: str, seed: str) -> Scene:
    """A scene of one such thing in its own colours."""
    scene = scene_of(random.Random(f"lone/{seed}"), (Group(concept),), style=style)
    assert scene is not None, f"{style} draws no {concept}"
    return scene


def image_features(encoder: Encoder, scenes: Sequence[Scene]) -> Tensor:
    """The features (n, d) of the pictures of scenes."""
    return torch.cat([encoder.images(to_images(pixels)) for pixels in _drawn(scenes)])


def text_features(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """The features (n, d) of texts."""
    return torch.cat([encoder.texts(texts[k : k + BATCH]) for k in range(0, len(texts), BATCH)])


def alike(texts: Sequence[str]) -> Tensor:
    """Which texts (n, n) are the same."""
    number = {text: k for k, text in enumerate(texts)}
    numbers = torch.tensor([number[text] for text in texts])
    return numbers[:, None] == numbers


def small(scenes: Sequence[Scene]) -> Tensor:
    """The pictures of scenes as 16 x 16 pixels (n, 768)."""
    return torch.cat(
        [F.interpolate(pixels, (16, 16), mode="area").flatten(1) for pixels in _drawn(scenes)]
    )


def _drawn(scenes: Sequence[Scene]) -> Iterator[Tensor]:
    return (render(scenes[k : k + BATCH]).pixels for k in range(0, len(scenes), BATCH))


def _label(encoder: Encoder, concept: str, language: str) -> Tensor:
    """The class's direction (d,): the mean over templates (Radford et al. 2021, section 3.1.4)."""
    named = lexicon()[concept]
    a = (
        f"{'an' if named.en[0] in 'aeiou' else 'a'} {named.en}"
        if language == "en"
        else named.hi.singular
    )
    texts = [template.format(a=a, b=named.en) for template in TEMPLATES[language]]
    return F.normalize(text_features(encoder, texts).mean(0), dim=0)


def _said(scene: Scene, kind: str, language: str, i: int) -> str:
    return KINDS[kind].caption(scene, language, "dense", random.Random(f"pairs/{i}/{language}"))


if __name__ == "__main__":
    from kalpana.understand.encoder import load

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model",
        nargs="?",
        default="clip",
        help="a name from `kalpana models` or a folder of weights",
    )
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--kind", default="everything", help="a kind of the world's pictures")
    parser.add_argument(
        "--style",
        help="a drawing style that the model never saw, for its accuracy over the core classes there",
    )
    options = parser.parse_args()
    try:
        print(
            measure(load(options.model), options.scenes, options.kind, options.style).markdown(),
            end="",
        )
    except KalpanaError as error:
        sys.exit(f"error: {error}")
