"""What a verifier is tried on: scenes, each with a question about its picture that is right and one that is minimally wrong (a count one
off, a relation turned round, colours exchanged, another class or pose, one finger or one character other); and damage to pictures."""

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

from kalpana.evaluate.score import right
from kalpana.evaluate.suites import Prompt
from kalpana.evaluate.verifiers.observations import Observation
from kalpana.hub.weights import load_module
from kalpana.models import vae
from kalpana.world.hard_negatives import OPPOSITE
from kalpana.world.kinds import hands, puppets, signs
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import COLORS, Group, Puppet, Scene

OTHER_STYLES = (
    0.5  # share of scenes that are not in the house style: a verifier has to know every style
)
Question = Callable[[Observation], bool]  # is it so, by what was seen?
Damage = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Probe:
    """A scene with a question that its picture answers by yes (``true``), and one that it answers by no, but nearly by yes (``wrong``);
    None where there is none."""

    scene: Scene
    true: Question | None
    wrong: Question | None


def of_prompts(name: str, prompts: Sequence[Prompt], count: int) -> list[Probe]:
    """So many trials of prompts, all as often; chance depends on their ``name``."""
    rng, trials = random.Random(f"publish/{name}"), []
    for k in range(count):
        prompt = prompts[k % len(prompts)]
        scene, other = prompt.scene(rng, OTHER_STYLES), wrong(prompt, rng)
        trials.append(
            Probe(scene, partial(right, prompt), partial(right, other) if other else None)
        )
    return trials


def of_poses(count: int) -> list[Probe]:
    """A figure alone, in every pose as often, and asked for in another."""
    rng, trials, drawn = random.Random("publish/poses"), list[Probe](), Counter[str]()
    while len(trials) < count:
        scene = puppets.sample(rng, "test")
        art = scene.objects[0].sprite
        if (
            len(scene.objects) == 1
            and isinstance(art, Puppet)
            and drawn[art.pose] * len(puppets.POSES) < count
        ):
            drawn[art.pose] += 1
            other = rng.choice([pose for pose in puppets.POSES if pose != art.pose])
            trials.append(Probe(scene, partial(_poses, art.pose), partial(_poses, other)))
    return trials


def of_malformed_hands(count: int) -> list[Probe]:
    """A hand with something wrong about it, in which no whole hand may be found."""
    rng = random.Random("publish/malformed hands")
    return [Probe(hands.sample_flawed(rng), None, _whole_hand) for _ in range(count)]


def _poses(pose: str, seen: Observation) -> bool:
    return seen.poses == (pose,)


def _whole_hand(seen: Observation) -> bool:
    return bool(seen.fingers)


# ------------------------------------------------------------------------------------------------------------ wrong prompts


def wrong(prompt: Prompt, rng: random.Random) -> Prompt | None:
    """The same prompt with one thing about it wrong, None where it has nothing of the kind."""
    if prompt.fingers is not None:
        return replace(
            prompt,
            fingers=rng.choice(
                [n for n in (prompt.fingers - 1, prompt.fingers + 1) if 0 <= n <= 5]
            ),
        )
    if prompt.word is not None:
        return replace(prompt, word=_misspelt(prompt.word, rng))
    groups = list(prompt.groups)
    if prompt.task in ("counting", "counts58"):
        groups[0] = replace(groups[0], count=groups[0].count + rng.choice((-1, 1)))
    elif prompt.task == "position":
        return replace(prompt, relation=OPPOSITE[prompt.relation or ""])
    elif prompt.task == "colors":
        groups[0] = replace(
            groups[0], color=rng.choice([color for color in COLORS if color != groups[0].color])
        )
    elif prompt.task == "color_attr":
        groups = [replace(a, color=b.color) for a, b in zip(groups, groups[::-1], strict=True)]
    elif prompt.task == "facing":
        groups[0] = replace(
            groups[0], facing={"left": "right", "right": "left"}[groups[0].facing or "left"]
        )
    elif prompt.task.startswith("hard"):
        return _said_otherwise(prompt, rng)
    elif prompt.task in ("single", "two"):
        there = {group.concept for group in groups}
        k = rng.randrange(len(groups))
        groups[k] = replace(
            groups[k],
            concept=rng.choice([c.id for c in lexicon().values() if c.core and c.id not in there]),
        )
    else:
        return None
    return replace(prompt, groups=tuple(groups))


def _said_otherwise(prompt: Prompt, rng: random.Random) -> Prompt:
    """The prompt with one of its atoms another: one thing more, the relation turned round, the sizes exchanged, or another colour."""
    k = rng.randrange(len(prompt.groups))
    one = prompt.groups[k]

    def instead(other: Group) -> Prompt:
        return replace(prompt, groups=(*prompt.groups[:k], other, *prompt.groups[k + 1 :]))

    ways = [instead(replace(one, count=one.count + 1))]
    if prompt.relation is not None:
        ways.append(replace(prompt, relation=OPPOSITE[prompt.relation]))
    if one.size is not None:
        other = {"small": "large", "large": "small"}
        ways.append(
            replace(
                prompt,
                groups=tuple(
                    replace(group, size=other[group.size or ""]) for group in prompt.groups
                ),
            )
        )
    if one.color is not None:
        ways.append(
            instead(
                replace(one, color=rng.choice([color for color in COLORS if color != one.color]))
            )
        )
    return rng.choice(ways)


def _misspelt(word: str, rng: random.Random) -> str:
    """The word with one character exchanged for another of its script."""
    at = rng.randrange(len(word))
    others = signs.LETTERS if word[at].isascii() else signs.CONSONANTS
    return (
        word[:at] + rng.choice([letter for letter in others if letter != word[at]]) + word[at + 1 :]
    )


# ---------------------------------------------------------------------------------------------------------- damaged pictures


def blurred(sigma: float) -> Damage:
    """Gaussian blur of so many pixels."""
    line = torch.arange(-8, 9, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (line / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)

    def damage(pixels: Tensor) -> Tensor:
        across = F.conv2d(F.pad(pixels, (8, 8, 0, 0), mode="replicate"), kernel, groups=3)
        return F.conv2d(
            F.pad(across, (0, 0, 8, 8), mode="replicate"), kernel.transpose(2, 3), groups=3
        )

    return damage


def noisy(sigma: float) -> Damage:
    """Gaussian noise of this deviation, of a range of 2."""

    def damage(pixels: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        return (pixels + sigma * torch.randn(pixels.shape, generator=rng)).clamp(-1, 1)

    return damage


def coded(path: Path) -> Damage:
    """Through an autoencoder and back."""
    net = load_module(path, "vae", lambda **config: vae.VAE(vae.Config(**config)))

    def damage(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return net.decode(net.encode(pixels)).clamp(-1, 1)

    return damage
