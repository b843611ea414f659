"""Verifier of photographs made of a public object detector and a public CLIP, as GenEval's.

The detector finds the 80 COCO classes. The colour of each object is that of the ten whose texts are
nearest to its crop, by CLIP zero-shot classification. GenEval paints the crop grey outside of the
object's mask; a detector of boxes has no masks, and its crops stay whole, as in GenEval's code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from kalpana.evaluate.geneval_prompts import COCO, NAME, name_of
from kalpana.evaluate.score import GENEVAL, Rule
from kalpana.evaluate.verifiers.observations import Detection, Observation
from kalpana.hub import detector as public
from kalpana.hub.detector import EXAMPLE, KIND, Found, PublicDetector
from kalpana.hub.huggingface import name_of as model_name
from kalpana.media import to_images
from kalpana.types import KalpanaError
from kalpana.understand import encoder
from kalpana.understand.encoder import Encoder
from kalpana.world.scene import COLORS

MOST = 16  # objects of one class in a picture, those of the highest scores
COLOR_TEXTS = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)


@dataclass(frozen=True)
class PublicVerifier:
    """Verifier made of a detector and a CLIP for the colours."""

    detector: PublicDetector
    clip: Encoder
    texts: dict[str, Tensor] = field(default_factory=dict, repr=False)  # by class, see _texts

    @classmethod
    def load(cls, detector: str | None, clip: str | None, device: str | None) -> PublicVerifier:
        """Verifier of models given by folders or by names in the Hugging Face cache.

        Raises KalpanaError, one line that names the option, if one is left out or cannot be used.
        """
        if detector is None:
            raise KalpanaError(
                f"suite {NAME} needs --detector: name the folder of {KIND}, or one in the Hugging "
                f"Face cache, such as {EXAMPLE}; nothing is downloaded"
            )
        if clip is None:
            raise KalpanaError(
                f"suite {NAME} needs --clip: name the folder of a public CLIP or SigLIP, or one in "
                "the Hugging Face cache, such as openai/clip-vit-large-patch14; nothing is "
                "downloaded"
            )
        try:
            found = public.read(public.find(detector), COCO, device)
        except KalpanaError as error:
            raise KalpanaError(f"--detector {detector}: {error}") from None
        try:
            folder = public.find(clip)
            judge = replace(encoder.load(str(folder), device), name=model_name(folder.resolve()))
        except KalpanaError as error:
            raise KalpanaError(f"--clip {clip}: {error}") from None
        return cls(found, judge)

    def rule(self) -> Rule:
        """GenEval's rule, with the names and hashes of the models."""
        return Rule(GENEVAL, rendered=False, judges=self.judges())

    def judges(self) -> dict[str, str]:
        """SHA-256 of the weights of the detector and of the CLIP, by name."""
        return {
            f"detector {self.detector.name}": self.detector.fingerprint,
            f"CLIP {self.clip.name}": self.clip.fingerprint,
        }

    def look(self, pixels: Tensor) -> list[Observation]:
        """Observations of pictures (b, 3, h, w) in [-1, 1]."""
        images = to_images(pixels)
        found = self.detector.find(images, GENEVAL.include)
        return [self._observed(image, each) for image, each in zip(images, found, strict=True)]

    def _observed(self, image: Image.Image, found: Found) -> Observation:
        kept = most_certain(found)
        kinds, boxes = [found.kinds[i] for i in kept], [found.boxes[i].tolist() for i in kept]
        colors = self.colors(image, kinds, boxes)
        width, height = image.size
        objects = tuple(
            Detection(
                kind, found.scores[i], (x0 / width, y0 / height, x1 / width, y1 / height), color
            )
            for i, kind, (x0, y0, x1, y1), color in zip(kept, kinds, boxes, colors, strict=True)
        )
        return Observation(objects, aspect=width / height)

    def colors(
        self, image: Image.Image, kinds: Sequence[str], boxes: Sequence[Sequence[float]]
    ) -> list[str]:
        """The colour of the object of each class in each box, in pixels."""
        if not boxes:
            return []
        crops = self.clip.images([image.crop(_whole(box, image.size)) for box in boxes])
        return [
            COLORS[int((self._texts(kind) @ crop).argmax())]
            for kind, crop in zip(kinds, crops, strict=True)
        ]

    def _texts(self, kind: str) -> Tensor:
        """Unit embeddings (colors, d) of a class in each colour: the mean over COLOR_TEXTS."""
        if kind not in self.texts:
            asked = [
                text.format(color=color, name=name_of(kind))
                for color in COLORS
                for text in COLOR_TEXTS
            ]
            each = self.clip.texts(asked).unflatten(0, (len(COLORS), len(COLOR_TEXTS)))
            self.texts[kind] = torch.nn.functional.normalize(each.mean(1), dim=-1)
        return self.texts[kind]


def most_certain(found: Found) -> list[int]:
    """Indices of the MOST objects of each class with the highest scores, by descending score."""
    kept: dict[str, list[int]] = {}
    for i in sorted(range(len(found.scores)), key=lambda i: -found.scores[i]):
        mine = kept.setdefault(found.kinds[i], [])
        if len(mine) < MOST:
            mine.append(i)
    return sorted((i for mine in kept.values() for i in mine), key=lambda i: -found.scores[i])


def _whole(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box in whole pixels inside a picture, one pixel a side at least."""
    low = [min(max(round(box[k]), 0), size[k] - 1) for k in (0, 1)]
    high = [min(max(round(box[k + 2]), low[k] + 1), size[k]) for k in (0, 1)]
    return low[0], low[1], high[0], high[1]
