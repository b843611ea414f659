"""Style references: is the style taken on, does the content stay right, does the reference leak?

The reference is a true picture of one object in one of the world's styles, the seven art sets and
the paintings; the prompt asks for another object. The style is classified by a linear probe on
EfficientNet-Lite0's features, trained on true renders with exact labels. The floor is the same
prompt and seed without a reference, and the ceiling a true render of the prompt in the style.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.evaluate.editing.edits import generated
from kalpana.evaluate.editing.estimate import Estimate, share, table
from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.score import THRESHOLDS, atoms
from kalpana.evaluate.suites import core, spriteeval
from kalpana.evaluate.verifiers.observations import Observation, Verifier
from kalpana.hub.card import find_model
from kalpana.hub.weights import load_module
from kalpana.media import to_images, to_pixels
from kalpana.pipelines.pipeline import Pipeline
from kalpana.request import ask
from kalpana.world.defaults import STYLE_ORDER
from kalpana.world.kinds.paintings import PAINTINGS
from kalpana.world.render import render
from kalpana.world.sample import scene_of
from kalpana.world.scene import STYLES, Group, Scene

LABELS = (*STYLES, *PAINTINGS)
LEARN, CHECK = 60, 10  # renders of each style that the probe is trained on, and tested on
DECAY = 1e-3  # weight of the squared weights of the probe
BATCH = 32
WAYS = {
    "none": "no reference (floor)",
    "reference": "with the reference",
    "true": "true render in the style (ceiling)",
}
Progress = Callable[[int, int], None]
Features = Callable[[Tensor], Tensor]  # pictures (b, 3, h, w) in [-1, 1] to features (b, d)


@dataclass(frozen=True)
class Styled:
    """Scores of one ``way``, a key of WAYS: shares of pictures with the style of the reference,
    with the object of the prompt, and with the object of the reference."""

    way: str
    count: int
    style: Estimate
    content: Estimate
    leak: Estimate


@dataclass(frozen=True)
class StyleProbe:
    """Linear classifier of LABELS on standardised features; ``accuracy`` on other renders."""

    features: Features
    mean: Tensor  # d
    std: Tensor  # d
    weight: Tensor  # styles d
    bias: Tensor  # styles
    accuracy: float = 0.0

    def __call__(self, pixels: Tensor) -> list[str]:
        """The style of each picture."""
        standard = (self.features(pixels) - self.mean) / self.std
        return [LABELS[int(k)] for k in F.linear(standard, self.weight, self.bias).argmax(1)]


def lite0() -> Features:
    """The features (b, 1280) of EfficientNet-Lite0."""
    network = load_module(find_model("lite0") / "lite0.safetensors", "lite0")

    @torch.inference_mode()
    def features(pixels: Tensor) -> Tensor:
        return torch.cat([network(part.float()) for part in pixels.split(BATCH)]).clone()

    return features


def fit(features: Features, learn: int = LEARN, check: int = CHECK) -> StyleProbe:
    """Multinomial logistic regression by L-BFGS on ``learn`` renders of each style, tested on
    ``check`` others."""
    pixels = render([scene for label in LABELS for scene in renders(label, learn, "train")]).pixels
    x, y = features(pixels), torch.arange(len(LABELS)).repeat_interleave(learn)
    mean, std = x.mean(0), x.std(0).clamp(min=1e-4)
    x = (x - mean) / std
    weight = torch.zeros(len(LABELS), x.shape[1], requires_grad=True)
    bias = torch.zeros(len(LABELS), requires_grad=True)
    optimizer = torch.optim.LBFGS((weight, bias), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), y) + DECAY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    probe = StyleProbe(features, mean, std, weight.detach(), bias.detach())
    right = [
        guess == label
        for label in LABELS
        for guess in probe(render(list(renders(label, check, "dev"))).pixels)
    ]
    return replace(probe, accuracy=sum(right) / len(right))


def renders(label: str, count: int, split: str) -> Iterator[Scene]:
    """Scenes of one object of a core class in a style."""
    rng = random.Random(f"style probe/{label}/{split}")
    while count:
        scene = in_style(rng, rng.choice(core()), label)
        if scene is not None:
            count -= 1
            yield scene


def in_style(rng: random.Random, concept: str, label: str) -> Scene | None:
    """A scene of one object in a style; None if the style has no drawing of it."""
    painted = label in PAINTINGS
    scene = scene_of(rng, (Group(concept),), style=None if painted else label)
    return scene and replace(scene, painting=label if painted else None)


def cases(count: int) -> Iterator[tuple[str, Prompt, Scene, Scene]]:
    """``count`` cases, always the same: a style that is not the house style, a dev prompt for one
    object, the reference of another object and the true render of the prompt, both in the style."""
    rng = random.Random("style references")
    labels = [label for label in LABELS if label != STYLE_ORDER[0]]
    prompts = [prompt for prompt in spriteeval(dev=True) if prompt.task == "single"]
    order: list[str] = []
    while count:
        order = order or rng.sample(labels, len(labels))
        prompt, other = rng.sample(prompts, 2)
        both = [in_style(rng, each.groups[0].concept, order[-1]) for each in (other, prompt)]
        if both[0] and both[1]:
            count -= 1
            yield order.pop(), prompt, both[0], both[1]


def measure(
    model: Pipeline, verifier: Verifier, probe: StyleProbe, count: int, progress: Progress
) -> list[Styled]:
    """Scores of a model's style references, ``count`` pictures with and without one."""
    scores: dict[str, list[tuple[bool, bool, bool]]] = {way: [] for way in WAYS}
    for i, (label, prompt, reference, true) in enumerate(cases(count)):
        seed, shown = prompt.seeds(1)[0], to_images(render([reference]).pixels)[0]
        plain, styled = (ask(prompt.text, seed=seed, style_image=i) for i in (None, shown))
        pictures = {
            "none": to_pixels([generated(model, plain)]),
            "reference": to_pixels([generated(model, styled)]),
            "true": render([true]).pixels,
        }
        for way, pixels in pictures.items():
            (seen,), (style,) = verifier.look(pixels), probe(pixels)
            leaked = shows(seen, reference.groups[0].concept)
            scores[way].append((style == label, all(atoms(prompt, seen)), leaked))
        progress(i + 1, count)
    return [
        Styled(way, count, *(share(column) for column in zip(*each, strict=True)))
        for way, each in scores.items()
    ]


def shows(seen: Observation, concept: str) -> bool:
    """Whether an object of a concept is detected."""
    return any(item.concept == concept and item.score > THRESHOLDS.include for item in seen.objects)


def markdown(rows: Sequence[Styled], probe: StyleProbe) -> str:
    """The scores as a Markdown table, in per cent, and the accuracy of the probe."""
    lines = [
        [
            WAYS[row.way],
            *(each.text(100) for each in (row.style, row.content, row.leak)),
            str(row.count),
        ]
        for row in rows
    ]
    head = ("picture", "style of the reference", "object right", "reference leaks", "pictures")
    said = f"The probe of {len(LABELS)} styles is right on {100 * probe.accuracy:.0f} % of "
    return f"{table(head, lines)}\n{said}{CHECK * len(LABELS)} other renders.\n"
