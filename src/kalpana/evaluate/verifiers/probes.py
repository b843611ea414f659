"""Probes of a verifier: scenes with a true and a minimally wrong question, and degradations.

A minimally wrong question differs in one attribute: a count by one, a relation reversed, colours
exchanged, another class or pose, one finger or one character.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.score import right
from kalpana.evaluate.verifiers.observations import Observation
from kalpana.hub.weights import load_module
from kalpana.world.hard_negatives import OPPOSITE, OTHER_SIDE
from kalpana.world.kinds import hands, puppets, signs
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import COLORS, Group, Puppet, Scene

OTHER_STYLES = 0.5  # share of scenes outside the house style: a verifier has to handle every style
Question = Callable[[Observation], bool]  # whether a statement holds, given an observation
Damage = Callable[[Tensor], Tensor]  # pictures (b, 3, h, w) to degraded ones of the same shape


@dataclass(frozen=True)
class Probe:
    """Scene with a question that is true of its picture and a minimally wrong one.

    None if there is no such question.
    """

    scene: Scene
    true: Question | None
    wrong: Question | None


def of_prompts(name: str, prompts: Sequence[Prompt], count: int) -> list[Probe]:
    """``count`` probes of prompts, each prompt equally often.

    ``name`` seeds the random choices.
    """
    rng, probes = random.Random(f"publish/{name}"), []
    for k in range(count):
        prompt = prompts[k % len(prompts)]
        scene, other = prompt.scene(rng, OTHER_STYLES), wrong(prompt, rng)
        probes.append(
            Probe(scene, partial(right, prompt), partial(right, other) if other else None)
        )
    return probes


def of_poses(count: int) -> list[Probe]:
    """Probes of single figures: each pose equally often, another pose as the wrong question."""
    rng, probes, drawn = random.Random("publish/poses"), list[Probe](), Counter[str]()
    while len(probes) < count:
        scene = puppets.sample(rng, "test")
        art = scene.objects[0].sprite
        if (
            len(scene.objects) == 1
            and isinstance(art, Puppet)
            and drawn[art.pose] * len(puppets.POSES) < count
        ):
            drawn[art.pose] += 1
            other = rng.choice([pose for pose in puppets.POSES if pose != art.pose])
            probes.append(Probe(scene, partial(_has_pose, art.pose), partial(_has_pose, other)))
    return probes


def of_malformed_hands(count: int) -> list[Probe]:
    """Probes of malformed hands, in which no whole hand may be found."""
    rng = random.Random("publish/malformed hands")
    return [Probe(hands.sample_flawed(rng), None, _has_whole_hand) for _ in range(count)]


def _has_pose(pose: str, seen: Observation) -> bool:
    return seen.poses == (pose,)


def _has_whole_hand(seen: Observation) -> bool:
    return bool(seen.fingers)


# ------------------------------------------------------------------------------------ wrong prompts


def wrong(prompt: Prompt, rng: random.Random) -> Prompt | None:
    """Prompt with one attribute changed, so that it is minimally wrong.

    None if prompts of this task have no such change.
    """
    if prompt.fingers is not None:
        counts = [n for n in (prompt.fingers - 1, prompt.fingers + 1) if 0 <= n <= 5]
        return replace(prompt, fingers=rng.choice(counts))
    if prompt.word is not None:
        return replace(prompt, word=_misspelt(prompt.word, rng))
    groups = list(prompt.groups)
    if prompt.task in ("counting", "counts58"):
        groups[0] = replace(groups[0], count=groups[0].count + rng.choice((-1, 1)))
    elif prompt.task == "position":
        return replace(prompt, relation=OPPOSITE[prompt.relation or ""])
    elif prompt.task == "colors":
        colors = [color for color in COLORS if color != groups[0].color]
        groups[0] = replace(groups[0], color=rng.choice(colors))
    elif prompt.task == "color_attr":
        groups = [replace(a, color=b.color) for a, b in zip(groups, groups[::-1], strict=True)]
    elif prompt.task == "facing":
        mirrored = OTHER_SIDE
        groups[0] = replace(groups[0], facing=mirrored[groups[0].facing or "left"])
    elif prompt.task.startswith("hard"):
        return _one_atom_changed(prompt, rng)
    elif prompt.task in ("single", "two"):
        present = {group.concept for group in groups}
        k = rng.randrange(len(groups))
        absent = [c.id for c in lexicon().values() if c.core and c.id not in present]
        groups[k] = replace(groups[k], concept=rng.choice(absent))
    else:
        return None
    return replace(prompt, groups=tuple(groups))


def _one_atom_changed(prompt: Prompt, rng: random.Random) -> Prompt:
    """Prompt with one random atom changed.

    The change is one object more, the relation reversed, the sizes exchanged, or another colour.
    """
    k = rng.randrange(len(prompt.groups))
    chosen = prompt.groups[k]

    def with_group(group: Group) -> Prompt:
        return replace(prompt, groups=(*prompt.groups[:k], group, *prompt.groups[k + 1 :]))

    variants = [with_group(replace(chosen, count=chosen.count + 1))]
    if prompt.relation is not None:
        variants.append(replace(prompt, relation=OPPOSITE[prompt.relation]))
    if chosen.size is not None:
        other = {"small": "large", "large": "small"}
        resized = tuple(replace(group, size=other[group.size or ""]) for group in prompt.groups)
        variants.append(replace(prompt, groups=resized))
    if chosen.color is not None:
        colors = [color for color in COLORS if color != chosen.color]
        variants.append(with_group(replace(chosen, color=rng.choice(colors))))
    return rng.choice(variants)


def _misspelt(word: str, rng: random.Random) -> str:
    """Word with one character replaced by another of its script."""
    at = rng.randrange(len(word))
    letters = signs.LETTERS if word[at].isascii() else signs.CONSONANTS
    others = [letter for letter in letters if letter != word[at]]
    return word[:at] + rng.choice(others) + word[at + 1 :]


# ------------------------------------------------------------------------------------- degradations


def blurred(sigma: float) -> Damage:
    """Gaussian blur with a standard deviation of ``sigma`` pixels."""
    offsets = torch.arange(-8, 9, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)

    def damage(pixels: Tensor) -> Tensor:
        rows = F.conv2d(F.pad(pixels, (8, 8, 0, 0), mode="replicate"), kernel, groups=3)
        return F.conv2d(
            F.pad(rows, (0, 0, 8, 8), mode="replicate"), kernel.transpose(2, 3), groups=3
        )

    return damage


def noisy(sigma: float) -> Damage:
    """Gaussian noise of standard deviation ``sigma``, for values in [-1, 1]; seeded."""

    def damage(pixels: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        return (pixels + sigma * torch.randn(pixels.shape, generator=rng)).clamp(-1, 1)

    return damage


def coded(path: Path) -> Damage:
    """Reconstruction by the autoencoder (VAE) in a file of weights."""
    net = load_module(path, "vae")

    def damage(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return net.decode(net.encode(pixels)).clamp(-1, 1)

    return damage
