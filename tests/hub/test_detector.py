"""Loader of public detectors: the objects of a DETR, and one clear line for each wrong folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys.detector import QUERIES, write_detector

from kalpana.evaluate.geneval_prompts import COCO
from kalpana.hub.detector import find, read
from kalpana.hub.weights import fingerprint
from kalpana.types import KalpanaError

LABELS = ("N/A", *("sofa" if name == "couch" else name for name in COCO))


def picture(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels)


def test_boxes_are_in_pixels_and_scores_are_those_of_the_softmax(tmp_path: Path) -> None:
    model = write_detector(tmp_path, LABELS)
    detector = read(tmp_path, COCO, "cpu")
    image = picture(64, 128)  # the shorter side is that of the processor: nothing is resized
    (found,) = detector.find([image], 0.0)

    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy((np.array(image) / 255 - mean) / deviation).float().movedim(-1, 0)
    with torch.no_grad():
        out = model(pixels[None])
    shares = out.logits[0].softmax(-1)[:, :-1]
    wanted = [
        (LABELS[int(row.argmax())], float(row.max()), box.tolist())
        for row, box in zip(shares, out.pred_boxes[0], strict=True)
        if row.argmax() > 0  # a label that is no class
    ]
    assert len(wanted) == len(found.kinds) <= QUERIES and wanted
    for kind, score, box, (label, share, (x, y, w, h)) in zip(
        found.kinds, found.scores, found.boxes.tolist(), wanted, strict=True
    ):
        assert kind == ("couch" if label == "sofa" else label)
        assert score == pytest.approx(share, abs=1e-4)
        corners = [64 * (x - w / 2), 128 * (y - h / 2), 64 * (x + w / 2), 128 * (y + h / 2)]
        assert box == pytest.approx(corners, abs=0.05)
    assert detector.fingerprint == fingerprint(tmp_path / "model.safetensors")
    least = sorted(found.scores)[0]
    assert all(score > least for score in detector.find([image], least)[0].scores)


def test_pictures_of_one_batch_are_found_alone(tmp_path: Path) -> None:
    write_detector(tmp_path, LABELS)
    detector = read(tmp_path, COCO, "cpu")
    images = [picture(64, 64).rotate(90 * k) for k in range(5)]
    together, alone = detector.find(images, 0.0), [detector.find([i], 0.0)[0] for i in images]
    for one, other in zip(together, alone, strict=True):
        assert one.kinds == other.kinds
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=0)


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def configured(**fields: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("config.json"), "lacks config.json: name the folder of a COCO object detector"),
        (without("preprocessor_config.json"), "lacks preprocessor_config.json"),
        (without("model.safetensors"), "holds no weights: put its model.safetensors there"),
        (pickled, "import AutoModelForObjectDetection as M"),
        (configured(model_type="clip"), 'field model_type is "clip": it is no object detector'),
        (configured(id2label={"0": "cat"}), "id2label lacks person, bicycle, car and 76 more"),
        (configured(id2label=None), "field id2label is null"),
        (configured(d_model=32), "cannot be loaded"),
        (configured(decoder_layers=2), "lack model.decoder.layers.1"),
    ],
)
def test_a_wrong_folder_is_one_clear_line(
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write_detector(tmp_path, LABELS)
    spoil(tmp_path)
    with pytest.raises(KalpanaError) as raised:
        read(tmp_path, COCO, "cpu")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_name_is_looked_up_without_any_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        KalpanaError, match=r"no such model with a config\.json in the Hugging Face"
    ):
        find("org/detector")
    with pytest.raises(KalpanaError, match="there is no folder 'nothing'"):
        find("nothing")
    place = tmp_path / "models--org--detector"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    folder = place / "snapshots" / "abc"
    write_detector(folder, LABELS)
    assert find("org/detector") == folder
    assert read(folder, COCO, "cpu").name == "org/detector"
