"""Loader of public object detectors of the COCO classes, by the transformers library.

    detector = read(find("PekingU/rtdetr_r50vd"))

A folder holds config.json, preprocessor_config.json and the weights as safetensors, in the layout
of transformers. Everything is read from the disk: nothing is downloaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kalpana.hub.clip import CONFIG, PICTURES, weights_of
from kalpana.hub.huggingface import REPO, name_of, snapshot
from kalpana.hub.public import hashed, misfit, read_object
from kalpana.hub.weights import find_device
from kalpana.types import KalpanaError

EXAMPLE = "PekingU/rtdetr_r50vd"
KIND = "a COCO object detector, a DETR, RT-DETR or YOLOS of the transformers library"
# Other names of COCO classes in public configs: those of Pascal VOC.
ALIASES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
BATCH = 4  # pictures at once, which detectors enlarge to a thousand pixels


@dataclass(frozen=True)
class Found:
    """Objects found in one picture: COCO class, score in [0, 1] and box in pixels, n each."""

    kinds: list[str]
    scores: list[float]
    boxes: Tensor  # n 4: left, top, right, bottom


@dataclass(frozen=True)
class PublicDetector:
    """A loaded detector; ``fingerprint``: SHA-256 of its weights; ``kinds``: class by label."""

    name: str
    fingerprint: str
    kinds: dict[int, str] = field(repr=False)
    model: Any = field(repr=False)
    processor: Any = field(repr=False)

    @torch.inference_mode()
    def find(self, images: Sequence[Image.Image], least: float) -> list[Found]:
        """The objects of the COCO classes in RGB pictures with a score above ``least``."""
        found = []
        for start in range(0, len(images), BATCH):
            batch = list(images[start : start + BATCH])
            inputs = self.processor(images=batch, return_tensors="pt").to(self.model.device)
            sizes = [(image.height, image.width) for image in batch]
            for each in self.processor.post_process_object_detection(
                self.model(**inputs), threshold=least, target_sizes=torch.tensor(sizes)
            ):
                labels = each["labels"].tolist()
                kept = [i for i, label in enumerate(labels) if label in self.kinds]
                scores, boxes = each["scores"].cpu(), each["boxes"].cpu().float()
                found.append(
                    Found([self.kinds[labels[i]] for i in kept], scores[kept].tolist(), boxes[kept])
                )
        return found


def find(name: str) -> Path:
    """Folder of a public model, by its path or by ORG/NAME in the Hugging Face cache.

    Raises KalpanaError if it is not there. Nothing is downloaded.
    """
    if name and Path(name).is_dir():
        return Path(name)
    if not REPO.fullmatch(name):
        raise KalpanaError(f"there is no folder {name!r}: name one, or a model as ORG/NAME")
    return snapshot(name, CONFIG)


def read(folder: Path, classes: Sequence[str], device: str | None = None) -> PublicDetector:
    """Detector in a folder, in fp32.

    Raises KalpanaError, one line, if transformers or a file is missing, the weights are pickles or
    those of another config, the model is no detector, or it lacks one of ``classes``.
    """
    missing = [file for file in (CONFIG, PICTURES) if not (folder / file).is_file()]
    if missing:
        raise KalpanaError(f"{folder} lacks {', '.join(missing)}: name the folder of {KIND}")
    files = weights_of(folder, "AutoModelForObjectDetection")
    try:
        import transformers
        from transformers.models.auto import modeling_auto as auto
    except ModuleNotFoundError as error:
        raise KalpanaError(
            f"a public detector needs {error.name}: pip install 'kalpana[hub]'"
        ) from None
    path = folder / CONFIG
    kind = read_object(path).get("model_type")
    if kind not in auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        raise misfit(path, "model_type", kind, f"it is no object detector: name {KIND}")
    kinds = _kinds(path, classes)
    target = find_device(device)
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        if hasattr(config, "use_pretrained_backbone"):
            config.use_pretrained_backbone = False  # its weights are in the checkpoint
        with _quiet():
            model, info = transformers.AutoModelForObjectDetection.from_pretrained(
                str(folder),
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            processor = transformers.AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True
            )
    except Exception as error:  # of transformers, safetensors and their dependencies
        reason = " ".join(str(error).split())[:300]
        raise KalpanaError(f"{folder} cannot be loaded: {reason}") from None
    if lost := sorted(info["missing_keys"]):
        raise KalpanaError(
            f"the weights in {folder} lack {', '.join(lost[:3])}: "
            f"they are not those of its {CONFIG}"
        )
    return PublicDetector(
        name_of(folder.resolve()), hashed(files), kinds, model.eval().to(target), processor
    )


def _kinds(path: Path, classes: Sequence[str]) -> dict[int, str]:
    """The class of each label in a config. Raises KalpanaError if one of ``classes`` has none."""
    labels = read_object(path).get("id2label")
    if not isinstance(labels, dict) or not all(str(k).isdecimal() for k in labels):
        raise misfit(path, "id2label", labels, "it should name the class of each label")
    names = {int(k): ALIASES.get(str(name), str(name)) for k, name in labels.items()}
    kinds = {k: name for k, name in names.items() if name in classes}
    if lost := [name for name in classes if name not in kinds.values()]:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise KalpanaError(
            f"{path}: field id2label lacks {', '.join(lost[:3])}{more}: name {KIND}, whose "
            f"{len(classes)} classes have these names, such as {EXAMPLE}"
        )
    return kinds


@contextmanager
def _quiet() -> Iterator[None]:
    """Context in which transformers prints neither warnings nor progress."""
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()
