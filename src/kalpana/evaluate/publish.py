"""What a verifier gets wrong, measured on renders it never saw and published with it: ``python -m kalpana.evaluate.publish FOLDER``.

For every attribute the share of true pictures it accepts (recall) and the share of minimally wrong prompts it accepts as well: a count
one off, a relation turned round, colours exchanged, another class, one finger or one character more or less. An attribute is
verified where recall is at least 0.97 and no more than 0.02 of the wrong ones pass; every table says so of every other.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.evaluate.score import right
from kalpana.evaluate.seen import Seen, Verifier, truth
from kalpana.evaluate.suites import Prompt, load
from kalpana.evaluate.verifier import Trained, iou
from kalpana.hub.weights import fingerprint, load_module
from kalpana.media import write
from kalpana.models import vae
from kalpana.world.kinds import signs
from kalpana.world.lexicon import lexicon
from kalpana.world.render import render
from kalpana.world.scene import COLORS, Scene
from kalpana.world.world import World

RENDERS = 2000  # of each attribute, at least
RECALL, FALSE = 0.97, 0.02  # the bar
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
Damage = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Error:
    """Of one attribute: the share of true pictures accepted, of minimally wrong prompts accepted, and how many pictures there were."""

    recall: float
    false_accepts: float
    renders: int

    @property
    def verified(self) -> bool:
        return self.recall >= RECALL and self.false_accepts <= FALSE


def wrong(prompt: Prompt, rng: random.Random) -> Prompt | None:
    """The same prompt with one thing about it wrong, None where it has nothing of the kind."""
    if prompt.fingers is not None:
        return replace(prompt, fingers=rng.choice([n for n in (prompt.fingers - 1, prompt.fingers + 1) if 0 <= n <= 5]))
    if prompt.word is not None:
        return replace(prompt, word=_misspelt(prompt.word, rng))
    groups = list(prompt.groups)
    if prompt.task == "counting":
        groups[0] = replace(groups[0], count=groups[0].count + rng.choice((-1, 1)))
    elif prompt.task == "position":
        return replace(prompt, relation=OPPOSITE[prompt.relation or ""])
    elif prompt.task == "colors":
        groups[0] = replace(groups[0], color=rng.choice([color for color in COLORS if color != groups[0].color]))
    elif prompt.task == "color_attr":
        groups = [replace(a, color=b.color) for a, b in zip(groups, groups[::-1], strict=True)]
    elif prompt.task in ("single", "two"):
        there = {group.concept for group in groups}
        k = rng.randrange(len(groups))
        groups[k] = replace(groups[k], concept=rng.choice([c.id for c in lexicon().values() if c.core and c.id not in there]))
    else:
        return None
    return replace(prompt, groups=tuple(groups))


def _misspelt(word: str, rng: random.Random) -> str:
    """The word with one character exchanged for another of its script."""
    at = rng.randrange(len(word))
    others = signs.LETTERS if word[at].isascii() else signs.CONSONANTS
    return word[:at] + rng.choice([letter for letter in others if letter != word[at]]) + word[at + 1 :]


def errors(verifier: Verifier, prompts: Sequence[Prompt], renders: int = RENDERS, damage: Damage | None = None) -> dict[str, Error]:
    """The errors by task, on true renders of the prompts, each task's as often as ``renders`` asks."""
    out = {}
    for task in dict.fromkeys(prompt.task for prompt in prompts):
        mine = [prompt for prompt in prompts if prompt.task == task]
        rng = random.Random(f"publish/{task}")
        asked = [mine[k % len(mine)] for k in range(renders)]
        seen = look(verifier, [prompt.scene(rng) for prompt in asked], damage)
        accepted = [right(prompt, one) for prompt, one in zip(asked, seen, strict=True)]
        others = [(wrong(prompt, rng), one) for prompt, one in zip(asked, seen, strict=True)]
        fooled = [right(prompt, one) for prompt, one in others if prompt is not None]
        out[task] = Error(sum(accepted) / len(accepted), sum(fooled) / max(len(fooled), 1), len(accepted))
    return out


def detections(verifier: Verifier, renders: int = RENDERS, least: float = 0.3) -> tuple[float, float]:
    """Precision and recall of core things in ordinary test scenes: the class is right and the boxes overlap by half."""
    world = World(1, "test")
    scenes = [world.scene(i) for i in range(renders)]
    hits = said = there = 0
    for scene, one in zip(scenes, look(verifier, scenes), strict=True):
        left = [thing for thing in one.things if thing.score > least and lexicon()[thing.concept].core]
        wanted = [thing for thing in truth(scene).things if lexicon()[thing.concept].core]
        said, there = said + len(left), there + len(wanted)
        for thing in wanted:
            match = next((other for other in left if other.concept == thing.concept and iou(other.box, thing.box) > 0.5), None)
            if match is not None:
                left.remove(match)
                hits += 1
    return hits / max(said, 1), hits / max(there, 1)


def look(verifier: Verifier, scenes: Sequence[Scene], damage: Damage | None = None) -> list[Seen]:
    """What the verifier sees in the pictures of scenes, damaged first if so asked."""
    out = []
    for start in range(0, len(scenes), 64):
        pixels = render(scenes[start : start + 64]).pixels
        out += verifier.look(damage(pixels) if damage else pixels)
    return out


def blurred(sigma: float) -> Damage:
    """Gaussian blur of so many pixels."""
    line = torch.arange(-8, 9, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (line / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)

    def damage(pixels: Tensor) -> Tensor:
        across = F.conv2d(F.pad(pixels, (8, 8, 0, 0), mode="replicate"), kernel, groups=3)
        return F.conv2d(F.pad(across, (0, 0, 8, 8), mode="replicate"), kernel.transpose(2, 3), groups=3)

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


def publish(folder: Path, renders: int = RENDERS, autoencoder: Path = Path("weights/default/vae.safetensors")) -> str:
    """Measure the verifier in a folder, write errors.json there, and give back the tables as Markdown."""
    verifier = Trained.load(folder)
    prompts = load("spriteeval") + load("hands")
    if verifier.reader is not None:
        prompts += load("words-latin") + load("words-devanagari")
    clean = errors(verifier, prompts, renders)
    precision, recall = detections(verifier, renders)
    curves = {"as drawn": clean}
    damages = {f"blur {s} px": blurred(s) for s in (0.5, 1.0, 1.5, 2.0)} | {f"noise {s}": noisy(s) for s in (0.05, 0.1, 0.2)}
    damages["through the autoencoder"] = coded(autoencoder)
    for name, damage in damages.items():
        curves[name] = errors(verifier, prompts, max(renders // 5, 1), damage)
    hashes = {path.name: fingerprint(path) for path in sorted(folder.glob("*.safetensors"))}
    record = {name: {task: vars(error) for task, error in each.items()} for name, each in curves.items()}
    about = {"files": hashes, "renders": renders, "precision": precision, "recall": recall, "errors": record}
    write(folder / "errors.json", json.dumps(about, indent=1).encode())
    return tables(curves, precision, recall)


def tables(curves: dict[str, dict[str, Error]], precision: float, recall: float) -> str:
    """The errors of every attribute as drawn, then the recall and the false accepts under each kind of damage."""
    clean = curves["as drawn"]
    lines = ["| attribute | accepts the true | accepts the minimally wrong | renders | |", "|---|---:|---:|---:|---|"]
    for task, error in clean.items():
        verdict = "verified" if error.verified else "**not verified**"
        lines.append(f"| {task} | {100 * error.recall:.1f} % | {100 * error.false_accepts:.1f} % | {error.renders:,} | {verdict} |")
    lines += ["", f"Core things in ordinary test scenes: precision {100 * precision:.1f} %, recall {100 * recall:.1f} %.", ""]
    lines += ["| damage | " + " | ".join(clean) + " |", "|---|" + "---:|" * len(clean)]
    for name, each in curves.items():
        cells = (f"{100 * each[task].recall:.0f} / {100 * each[task].false_accepts:.0f}" for task in clean)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a verifier's folder of weights")
    parser.add_argument("--renders", type=int, default=RENDERS, help="pictures of each attribute")
    arguments = parser.parse_args()
    print(publish(arguments.folder, arguments.renders))
