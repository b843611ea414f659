"""Encoders: preprocessing equal to 🤗 transformers, pictures of all modes, and unit embeddings.

tests/hub/test_clip.py compares the features and logits of public checkpoints with transformers.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from kalpana.hub.card import Card, write_card, write_hashes
from kalpana.hub.clip import Framing
from kalpana.hub.weights import fingerprint, save_weights
from kalpana.media import rgb, to_pixels
from kalpana.models.clip import CLIP, PRESETS, Config, ImageTower
from kalpana.types import KalpanaError
from kalpana.understand.encoder import Encoder, framed, load

TINY = Config(
    side=32,
    stem=(),
    width=32,
    depth=1,
    heads=2,
    hidden=64,
    text_width=32,
    text_depth=1,
    text_heads=2,
    text_hidden=64,
    features=24,
)


def shelve(folder: Path, config: Config = TINY, seed: int = 0) -> Path:
    """Saves a CLIP with random weights, with card and hashes like a trained one."""
    torch.manual_seed(seed)
    save_weights(folder / "clip.safetensors", CLIP(config), "clip", config, {})
    write_card(folder, Card(name=folder.name, family="clip", tasks=("classify", "search")))
    write_hashes(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load(str(shelve(tmp_path_factory.mktemp("tiny-clip"))), "cpu")


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng, bands = np.random.default_rng(seed), len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(
        mode, size, rng.integers(0, 256, size[0] * size[1] * bands, dtype=np.uint8).tobytes()
    )


def dots(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of an RGB picture, row by row."""
    return [tuple(dot) for dot in np.array(image).reshape(-1, 3).tolist()]


# Preprocessing, compared with the Pillow and numpy processors of transformers, with which the
# checkpoints were published.

SIZES = [(1, 1), (3, 200), (64, 43), (33, 32), (31, 33), (500, 61), (32, 32), (20, 20), (7, 5)]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "framing",
    [
        Framing(32, (32, 32)),
        Framing(32, (32, 32), Image.Resampling.BILINEAR),
        Framing(32, (32, 32), Image.Resampling.LANCZOS),
        Framing(36, (32, 32)),
        Framing(19, (32, 32)),  # the picture is smaller than the crop, by an odd number
        Framing((40, 27), (32, 32)),
        Framing(None, (32, 32)),
        Framing((32, 32), None),
        Framing((32, 32), None, Image.Resampling.NEAREST),
    ],
)
def test_pixels_are_those_of_transformers(framing: Framing, size: tuple[int, int]) -> None:
    image = noise(size)
    if isinstance(framing.resize, int):
        area = {"shortest_edge": framing.resize}
    else:
        area = dict(zip(("height", "width"), framing.resize or (1, 1), strict=True))
    crop = dict(zip(("height", "width"), framing.crop or (1, 1), strict=True))
    does = {"do_resize": framing.resize is not None, "do_center_crop": framing.crop is not None}
    usual = PRESETS["vit-b/32"]
    levels = {"image_mean": usual.mean, "image_std": usual.deviation}
    for processor in (CLIPImageProcessorPil, SiglipImageProcessorPil):
        process = processor(size=area, crop_size=crop, resample=framing.resample, **does, **levels)
        wanted = process(image, return_tensors="pt").pixel_values
        found = seen(
            replace(TINY, mean=usual.mean, deviation=usual.deviation), framed(image, framing)
        )
        assert torch.allclose(found, wanted, rtol=0, atol=1e-6)


def seen(config: Config, image: Image.Image) -> torch.Tensor:
    """Input of the image tower's patch embedding: pixels after normalisation."""
    tower, inputs = ImageTower(config), list[torch.Tensor]()
    tower.patches.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with torch.no_grad():
        tower(to_pixels([image]))
    return inputs[0]


def test_a_very_long_picture_is_not_made_longer_still() -> None:
    """At a height of 224, a line of 20,000 pixels would be 4,480,000 pixels long.

    The early crop does not change the result.
    """
    line = Image.new("RGB", (20_000, 1), "blue")
    line.paste("red", (9_990, 0, 10_010, 1))
    image = framed(line, Framing(224, (224, 224)))
    assert image.size == (224, 224) and set(dots(image)) == {(255, 0, 0)}


# Conversion of all picture modes to RGB.


def opened(image: Image.Image, format: str, **options: Any) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def test_grey_pictures() -> None:
    grey = noise((5, 4), "L")
    wanted = np.repeat(np.array(grey)[..., None], 3, 2)
    assert (np.array(rgb(opened(grey, "PNG"))) == wanted).all()
    assert (
        np.array(rgb(opened(grey.point(lambda v: 255 * (v > 90)).convert("1"), "PNG")))
        == 255 * (wanted > 90)
    ).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_is_on_white(mode: str) -> None:
    image = noise((6, 5), "RGBA").convert(mode)
    levels = np.array(image.convert("RGBA")).astype(float)
    wanted = levels[..., :3] * levels[..., 3:] / 255 + 255 - levels[..., 3:]
    assert np.abs(np.array(rgb(image)) - wanted).max() <= 1  # Pillow rounds to bytes
    clear = Image.new("RGBA", (2, 2), (200, 0, 0, 0)).convert(mode)
    assert set(dots(rgb(clear))) == {(255, 255, 255)}


def test_palettes_with_a_transparent_colour() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert dots(rgb(opened(image, "PNG"))) == [(10, 20, 30), (200, 100, 50)]
    assert dots(rgb(opened(image, "PNG", transparency=0))) == [(255, 255, 255), (200, 100, 50)]
    assert dots(rgb(opened(image, "GIF", transparency=1))) == [(10, 20, 30), (255, 255, 255)]


def test_cmyk_pictures() -> None:
    ink = Image.new("CMYK", (1, 1), (255, 0, 51, 0))
    assert dots(rgb(opened(ink, "TIFF"))) == [(0, 255, 204)]  # (1 - ink) (1 - black)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_brought_to_8_and_not_cut_off(format: str) -> None:
    levels = np.array([[0, 257 * 10], [257 * 128, 65535]], dtype=np.uint16)
    image = opened(Image.fromarray(levels), format)
    assert image.mode == "I;16" and [red for red, _, _ in dots(rgb(image))] == [0, 10, 128, 255]
    flat = rgb(Image.fromarray(np.full((3, 3), 777, dtype=np.uint16)))
    assert flat.mode == "RGB" and len(set(dots(flat))) == 1


def test_numbers_without_a_scale_and_holes_in_them() -> None:
    levels = np.array([[-1.0, 0.0], [1.0, np.nan]], dtype=np.float32)
    assert [red for red, _, _ in dots(rgb(Image.fromarray(levels)))] == [0, 128, 255, 128]


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "P",
        "RGB",
        "RGBA",
        "RGBa",
        "RGBX",
        "LA",
        "PA",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "I;16",
        "I;16B",
        "F",
    ],
)
def test_every_mode_can_be_read(mode: str) -> None:
    assert rgb(Image.new(mode, (3, 2))).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_from_a_camera_is_upright(orientation: int) -> None:
    """The inverse transforms of EXIF 2.32, table 6, on a picture with four different corners."""
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = rgb(opened(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif))
    assert (np.array(image)[..., 0] == upright).all()
    assert (np.array(rgb(image)) == np.array(image)).all()  # not rotated twice


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # a warning of Pillow
def test_damaged_exif_does_not_hide_the_picture() -> None:
    image = opened(
        Image.new("RGB", (3, 2), "red"),
        "JPEG",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 20,
    )
    assert rgb(image).size == (3, 2)


# Encoder.

PICTURES = [
    noise((40, 30), seed=1),
    noise((8, 90), "RGBA", seed=2),
    Image.new("L", (1, 1), 200),
    Image.new("RGB", (33, 33), "teal"),
]
TEXTS = ["a cat", "तीन लाल सेब", "", "🐱", "a very long text about apples " * 20, "\ud800 and \x00"]


def test_vectors_are_unit_fp32_and_do_not_depend_on_company(encoder: Encoder) -> None:
    for vectors, one, given in (
        (encoder.images(PICTURES), encoder.images, PICTURES),
        (encoder.texts(TEXTS), encoder.texts, TEXTS),
    ):
        assert vectors.shape == (len(given), encoder.size) and vectors.dtype == torch.float32
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(given)), atol=1e-6)
        for row, each in zip(vectors, given, strict=True):
            assert torch.allclose(one([each])[0], row, atol=1e-6)  # type: ignore[operator]
    assert encoder.images([]).shape == encoder.texts([]).shape == (0, encoder.size)


def test_more_than_one_batch(encoder: Encoder) -> None:
    images = [noise((9, 9), seed=k) for k in range(70)]
    texts = [f"{k} cats" for k in range(300)]
    assert torch.allclose(encoder.images(images)[64:], encoder.images(images[64:]), atol=1e-6)
    assert torch.allclose(encoder.texts(texts)[250:], encoder.texts(texts[250:]), atol=1e-6)


def test_pictures_and_texts_are_left_as_they_were(encoder: Encoder) -> None:
    before = [image.tobytes() for image in PICTURES]
    encoder.images(PICTURES)
    assert [image.tobytes() for image in PICTURES] == before


def test_what_is_cut_or_unknown_is_told(encoder: Encoder) -> None:
    assert encoder.words.cut("a cat") == "" and encoder.unknown("a cat") == ()
    long = "a red apple, " * 40
    assert long.endswith(encoder.words.cut(long)) and len(encoder.words.cut(long)) > 100
    assert torch.equal(encoder.texts([long]), encoder.texts([long + " and a dog"]))
    assert encoder.unknown("a zzyzx") == ("zzyzx",)


def test_the_fingerprint_is_that_of_the_file_of_weights(encoder: Encoder, tmp_path: Path) -> None:
    folder = shelve(tmp_path / "other", seed=1)
    other = load(str(folder), "cpu")
    assert (
        other.name == "other"
        and other.fingerprint == fingerprint(folder / "clip.safetensors") != encoder.fingerprint
    )


def test_probabilities_of_a_softmax(encoder: Encoder) -> None:
    image, text = encoder.images(PICTURES), encoder.texts(TEXTS)
    found = encoder.probabilities(image, text)
    raised = (image @ text.T / 0.07).double().exp()  # 0.07: the initial temperature
    assert torch.allclose(found.double(), raised / raised.sum(1, keepdim=True), atol=1e-5)
    with pytest.raises(
        KalpanaError,
        match="learned by a softmax, and knows which label fits best but not whether any does",
    ):
        encoder.probabilities(image, text, sigmoid=True)


def test_probabilities_of_a_sigmoid(tmp_path: Path) -> None:
    encoder = load(str(shelve(tmp_path / "sigmoid", replace(TINY, loss="sigmoid"))), "cpu")
    image, text = encoder.images(PICTURES[:2]), encoder.texts(TEXTS[:3])
    cosines, found = (image @ text.T).tolist(), encoder.probabilities(image, text)
    for row, line in zip(found.tolist(), cosines, strict=True):
        assert row == pytest.approx(
            [1 / (1 + math.exp(10 - 10 * cosine)) for cosine in line], rel=1e-4
        )
    assert torch.allclose(encoder.probabilities(image, text, sigmoid=False).sum(1), torch.ones(2))


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU does not compute in bfloat16"
)
def test_in_bf16_vectors_are_nearly_the_same(tmp_path: Path) -> None:
    folder = str(shelve(tmp_path / "model"))
    half, exact = load(folder, "cpu", bf16=True), load(folder, "cpu")
    assert half.model.see.positions.dtype == torch.bfloat16
    assert exact.model.see.positions.dtype == half.model.logit_scale.dtype == torch.float32
    assert half.fingerprint == exact.fingerprint  # embeddings of both are comparable
    for near, wanted in (
        (half.images(PICTURES), exact.images(PICTURES)),
        (half.texts(TEXTS), exact.texts(TEXTS)),
    ):
        assert near.dtype == torch.float32 and torch.allclose(
            near.norm(dim=1), torch.ones(len(near)), atol=1e-6
        )
        assert (near * wanted).sum(1).min() > 0.999


def test_bf16_where_the_cpu_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(KalpanaError, match="this CPU does not compute in bfloat16: leave out bf16"):
        load(str(shelve(tmp_path / "model")), "cpu", bf16=True)


def test_asked_again_it_is_the_same_and_after_a_change_another(tmp_path: Path) -> None:
    folder = shelve(tmp_path / "model")
    first = load(str(folder), "cpu")
    assert load(str(folder), "cpu") is first
    shelve(folder, seed=5)
    assert load(str(folder), "cpu").fingerprint != first.fingerprint


@pytest.mark.slow
def test_there_is_no_clip_yet_or_it_is_another_family(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kalpana.hub.card.weights_dir", lambda: tmp_path / "weights")
    with pytest.raises(
        KalpanaError,
        match=r"no weights of a CLIP come with this version of Kalpana: name a public one, "
        r"such as openai/",
    ):
        load()
    shelve(tmp_path / "weights/clip")
    assert load(device="cpu").name == "clip"
    with pytest.raises(
        KalpanaError,
        match="model 'tiny' is of family 'flow', which does not compare pictures with words",
    ):
        load(str(folder))
    for name in ("clop", ""):
        with pytest.raises(KalpanaError, match=f"there is no checkpoint '{name}'"):
            load(name)
    with pytest.raises(KalpanaError, match="there is no device 'gpu9'"):
        load("clip", "gpu9")


def test_a_model_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match="reads 100 tokens, not the 8192"):
        load(str(shelve(tmp_path / "old", replace(TINY, vocabulary=100))), "cpu")


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    folder = shelve(tmp_path / "model")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"files": {"clip.safetensors": "0" * 64}}))
    with pytest.raises(KalpanaError, match="is not the file its card describes"):
        load(str(folder), "cpu")
