"""Zero-shot classification of pictures with given labels (Radford et al. 2021, section 3.1).

A label's embedding is the mean of the embeddings of a few sentences that contain the label; a
picture's embedding is compared with that of each label.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kalpana.errors import shorten
from kalpana.media import Picture, as_images
from kalpana.models.clip import unit
from kalpana.text.normalize import clean, comparable
from kalpana.text.tokenizer import language
from kalpana.types import KalpanaError
from kalpana.understand.encoder import Encoder, load

# Labels are inserted unchanged: English ones with their article ("a cat"), Hindi ones in the direct
# case, which a preceding "में" does not change.
TEMPLATES = {
    "en": ("{}", "a photo of {}", "a picture of {}", "a drawing of {}"),
    "hi": ("{}", "तस्वीर में {}", "चित्र में {}"),
    "mixed": ("{}",),
}


def classify(
    images: Picture | Sequence[Picture],
    labels: Sequence[str],
    model: str | Encoder = "clip",
    templates: Sequence[str] | None = None,
    sigmoid: bool | None = None,
    device: str | None = None,
) -> Tensor:
    """Probabilities (images, labels) of each label for each picture, in the given order.

    ``images`` are PIL images, paths or bytes of picture files, or one of these.

        probabilities = kalpana.classify(["one.png", "two.png"], ["a cat", "a car"])

    The probabilities of a picture sum to 1 (softmax) or are independent (sigmoid), as the model was
    trained unless ``sigmoid`` is given. ``templates`` are sentences with {} in place of the label;
    None: templates of the label's language.
    Raises: KalpanaError where a picture cannot be read, labels are missing, blank or repeated,
    where a softmax gets one label only, and as ``load`` and ``Encoder`` do.
    """
    encoder = load(model, device) if isinstance(model, str) else model
    pictures = encoder.images(as_images(images))
    texts = directions(encoder, labels, templates, sigmoid)
    return encoder.probabilities(pictures, texts, sigmoid)


def directions(
    encoder: Encoder,
    labels: Sequence[str],
    templates: Sequence[str] | None = None,
    sigmoid: bool | None = None,
) -> Tensor:
    """Unit embeddings (labels, size) of the labels. Raises: KalpanaError as ``classify``."""
    labels = checked(labels)
    if sigmoid is None:
        sigmoid = encoder.model.config.loss == "sigmoid"
    if len(labels) == 1 and not sigmoid:
        raise KalpanaError(
            f"one label, {shorten(labels[0])}, answers nothing: by a softmax it is 100 % of any "
            "picture. Write two or more, such as what else it might be, or take a model that was "
            "trained by a sigmoid, such as google/siglip-base-patch16-224"
        )
    for template in templates or ():
        if template.count("{}") != 1:
            raise KalpanaError(
                f"template {shorten(template)} should have one {{}} where the label goes, "
                "such as 'a photo of {}'"
            )
    prompts = [sentences(label, templates) for label in labels]
    vectors = encoder.texts([prompt for group in prompts for prompt in group])
    groups = vectors.split([len(group) for group in prompts])
    return unit(torch.stack([group.mean(0) for group in groups]))


def sentences(label: str, templates: Sequence[str] | None = None) -> list[str]:
    """The label inserted into each template, by default into those of its language."""
    return [template.replace("{}", label) for template in templates or TEMPLATES[language(label)]]


def checked(labels: Sequence[str]) -> list[str]:
    """The labels in their normal form (``clean``).

    Raises: KalpanaError where there are none, one is blank, or two differ in case at most.
    """
    labels = [clean(label) for label in ([labels] if isinstance(labels, str) else labels)]
    if not labels:
        raise KalpanaError(
            "there are no labels: write what a picture may show, such as 'a cat, a dog, a person'"
        )
    if "" in labels:
        raise KalpanaError(f"label {labels.index('') + 1} of {len(labels)} is blank: leave it out")
    by_folded = dict[str, list[str]]()
    for label in labels:
        by_folded.setdefault(comparable(label), []).append(label)
    if repeated := [group[0] for group in by_folded.values() if len(group) > 1]:
        more = f" and {len(repeated) - 3} more" if len(repeated) > 3 else ""
        raise KalpanaError(
            f"labels are there more than once: {', '.join(map(shorten, repeated[:3]))}{more}; "
            "write each once"
        )
    return labels
