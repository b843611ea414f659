"""What a picture shows, out of labels that are given: zero-shot classification (Radford et al. 2021, section 3.1).

A label's vector is the mean of the vectors of a few sentences with the label in them; the picture is compared with each label's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from kalpana.models.clip import unit
from kalpana.request import clean, shorten
from kalpana.text.tokenizer import language
from kalpana.types import KalpanaError
from kalpana.understand.encoder import Encoder, load

# A label stands as it was written: "a cat" with its article, and in Hindi in the direct case, which "में" before it leaves alone.
TEMPLATES = {
    "en": ("{}", "a photo of {}", "a picture of {}", "a drawing of {}"),
    "hi": ("{}", "तस्वीर में {}", "चित्र में {}"),
    "mixed": ("{}",),
}


def classify(
    images: Sequence[Image.Image],
    labels: Sequence[str],
    model: str | Encoder = "clip",
    templates: Sequence[str] | None = None,
    sigmoid: bool | None = None,
    device: str | None = None,
) -> Tensor:
    """How likely each label is of each picture: (images, labels), in the order given.

    Probabilities of a picture add up to 1 (a softmax), or each is of its own (a sigmoid), as the model was trained unless ``sigmoid`` says.
    ``templates`` are sentences with {} in the label's place; those of the label's language where None. Raises KalpanaError where labels
    are missing, blank or twice there, where one label is asked of a softmax, and as ``load`` and ``Encoder`` do.
    """
    encoder = load(model, device) if isinstance(model, str) else model
    return encoder.probabilities(
        encoder.images(images), directions(encoder, labels, templates, sigmoid), sigmoid
    )


def directions(
    encoder: Encoder,
    labels: Sequence[str],
    templates: Sequence[str] | None = None,
    sigmoid: bool | None = None,
) -> Tensor:
    """A vector of length 1 for each label (labels, size). Raises KalpanaError as ``classify``."""
    labels = checked(labels)
    if len(labels) == 1 and not (
        encoder.model.config.loss == "sigmoid" if sigmoid is None else sigmoid
    ):
        raise KalpanaError(
            f"one label, {shorten(labels[0])}, answers nothing: by a softmax it is 100 % of any picture. Write two or more, such as what "
            "else it might be, or take a model that was trained by a sigmoid, such as google/siglip-base-patch16-224"
        )
    for template in templates or ():
        if template.count("{}") != 1:
            raise KalpanaError(
                f"template {shorten(template)} should have one {{}} where the label goes, such as 'a photo of {{}}'"
            )
    said = [sentences(label, templates) for label in labels]
    vectors = encoder.texts([sentence for each in said for sentence in each]).split(
        [len(each) for each in said]
    )
    return unit(torch.stack([each.mean(0) for each in vectors]))


def sentences(label: str, templates: Sequence[str] | None = None) -> list[str]:
    """The label in each of the templates, or in those of its language."""
    return [template.replace("{}", label) for template in templates or TEMPLATES[language(label)]]


def checked(labels: Sequence[str]) -> list[str]:
    """The labels with single spaces. Raises KalpanaError where there are none, one is blank, or two are the same but for capitals."""
    labels = [clean(label) for label in ([labels] if isinstance(labels, str) else labels)]
    if not labels:
        raise KalpanaError(
            "there are no labels: write what a picture may show, such as 'a cat, a dog, a person'"
        )
    if "" in labels:
        raise KalpanaError(f"label {labels.index('') + 1} of {len(labels)} is blank: leave it out")
    met = dict[str, list[str]]()
    for label in labels:
        met.setdefault(label.casefold(), []).append(label)
    if twice := [each[0] for each in met.values() if len(each) > 1]:
        more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise KalpanaError(
            f"labels are there more than once: {', '.join(map(shorten, twice[:3]))}{more}; write each once"
        )
    return labels
