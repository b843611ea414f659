"""Text-to-image by tokens, and captioning: the three families on one request, folders of public
checkpoints, and errors."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from typer.testing import CliRunner
from typer.testing import Result as Done

import kalpana
from kalpana.cli import app
from kalpana.hub import dalle_mini as public
from kalpana.hub import vqgan as public_vqgan
from kalpana.hub.card import read_card, weights_dir, write_card, write_hashes
from kalpana.hub.weights import save_weights
from kalpana.media import read_receipt, to_images, to_pixels
from kalpana.models import dalle, dalle_mini, vqgan
from kalpana.models.dalle import DALLE, MaskGIT
from kalpana.models.dalle_mini import DalleMini
from kalpana.models.vqgan import VQGAN
from kalpana.pipelines import load, text_to_tokens
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.pipeline import TOGETHER
from kalpana.pipelines.replay import again
from kalpana.pipelines.text_to_tokens import TextToTokens
from kalpana.pipelines.tokens import masked, stream
from kalpana.pipelines.trace import trace
from kalpana.request import Request
from kalpana.types import Cond, KalpanaError, Output, Result, Step, Tokens
from kalpana.understand.encoder import Encoder

PROMPT = "नीली कार के बाईं ओर तीन लाल सेब"
PICTURES = vqgan.Config(stem=4, widths=(8, 16), depth=1, groups=4, latent=8, codebook=(20, 4))
STREAM = dalle.Config(width=32, depth=2, heads=2, length=16, codes=20, rows=4, columns=4)
MINI = dalle_mini.Config(
    length=16,
    width=32,
    heads=2,
    hidden=48,
    text_depth=1,
    depth=2,
    codes=20,
    start=20,
    image_vocabulary=21,
    image_length=16,
)
FILES = {"dalle": "dalle", "maskgit": "maskgit", "dalle-mini": "dalle_mini"}
FAMILIES = tuple(FILES)
STEPS = {"dalle": 4, "maskgit": 10, "dalle-mini": 4}  # rows, or decoding iterations
BLANK = Image.new("RGB", (32, 32))


@torch.no_grad()
def stir(net: nn.Module, much: float = 0.3) -> nn.Module:
    """Adds random numbers to every parameter: as initialised, the heads give equal logits."""
    torch.manual_seed(0)
    for p in net.parameters():
        p.add_(much * torch.randn_like(p))
    return net


def make(
    folder: Path, family: str, config: Any = None, pictures: vqgan.Config | None = PICTURES
) -> Path:
    """A folder with a tiny model of a family and the hashes of its files."""
    torch.manual_seed(0)
    net: Any = {"dalle": DALLE, "maskgit": MaskGIT, "dalle-mini": DalleMini}[family](
        config or (MINI if family == "dalle-mini" else STREAM)
    )
    save_weights(folder / f"{FILES[family]}.safetensors", stir(net), family, net.config, {})
    if pictures:
        make_pictures(folder, pictures)
    write_hashes(folder)
    return folder


def make_pictures(folder: Path, config: vqgan.Config, much: float = 0.1) -> None:
    torch.manual_seed(0)
    save_weights(folder / "vqgan.safetensors", stir(VQGAN(config), much), "vqgan", config, {})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        family: make(tmp_path_factory.mktemp("tokens") / f"tiny-{family}", family)
        for family in FAMILIES
    }


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str, folders: dict[str, Path]) -> TextToTokens:
    return loaded(folders[family])


def loaded(folder: Path) -> TextToTokens:
    model = load(str(folder))
    assert isinstance(model, TextToTokens)
    return model


def result(model: TextToTokens, **fields: Any) -> Result:
    *_, last = model.generate(PROMPT, **fields)
    assert last.result is not None
    return last.result


def generated(model: TextToTokens, **fields: Any) -> Output:
    (picture,) = result(model, **fields).outputs
    return picture


def same(a: Output, b: Output) -> bool:
    return a.seed == b.seed and a.image.tobytes() == b.image.tobytes()


def kalpana_(*arguments: str) -> Done:
    return CliRunner().invoke(app, arguments)


# The stream.


def test_a_stream_counts_its_steps_and_ends_in_a_result(
    model: TextToTokens, family: str, monkeypatch: pytest.MonkeyPatch, second_a_step: None
) -> None:
    monkeypatch.setattr(text_to_tokens, "PREVIEWS", math.inf)  # a preview in every step
    steps, count = list(model.generate(PROMPT, n=TOGETHER + 1, seed=0)), STEPS[family]
    assert [step.index for step in steps] == list(range(1, 2 * count + 3)) and {
        step.total for step in steps
    } == {2 * count + 2}
    assert [step.stage for step in steps] == 2 * [*count * ["tokens"], "decode"]
    assert [step.result is not None for step in steps] == [*(2 * count + 1) * [False], True]
    assert [step.eta for step in steps] == [step.total - step.index for step in steps]
    for k, step in enumerate(steps[: count + 1], start=1):
        if k == count:
            assert step.preview is None  # the next step has the picture itself
            continue
        assert (
            step.preview is not None
            and step.preview.shape == (TOGETHER, 3, 32, 32)
            and step.preview.abs().max() <= 1
        )
        height = 32 if family == "maskgit" or k > count else 8 * k  # of the rows sampled so far
        assert (step.preview[:, :, height:] == 0).all() and step.preview[:, :, :height].std() > 0.01
    whole, pictures = steps[count].preview, steps[-1].result.outputs  # type: ignore[union-attr]
    assert whole is not None and [p.image.tobytes() for p in pictures[:TOGETHER]] == [
        image.tobytes() for image in to_images(whole)
    ]
    assert [picture.seed for picture in pictures] == list(range(TOGETHER + 1))


def test_previews_take_no_more_time_than_they_may(
    model: TextToTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_to_tokens, "PREVIEWS", 0)
    first, *others = model.generate(PROMPT, seed=0)
    # The first step always has one, as no time has been spent yet.
    assert first.preview is not None and all(step.preview is None for step in others)


@pytest.mark.slow
def test_a_preview_is_what_the_vqgan_makes_of_the_rows_there_are(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_to_tokens, "PREVIEWS", math.inf)
    model = loaded(folders["dalle"])
    assert isinstance(model.network, DALLE)
    rows = [each.ids for each in stream(model.network, cond(model), seeded(3), guidance=3.0)]
    for ids, step in zip(rows[:-1], model.generate(PROMPT, seed=3), strict=False):
        assert step.preview is not None
        torch.testing.assert_close(
            step.preview[:, :, : 8 * ids.shape[1]], model.vqgan.decode(ids).clamp(-1, 1)
        )


def cond(model: TextToTokens) -> Cond:
    return Cond(model.words.encode([PROMPT]))


def seeded(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def test_closing_the_stream_cancels(model: TextToTokens) -> None:
    module = (
        model.network.decoder if isinstance(model.network, DalleMini) else model.network.blocks[-1]
    )
    calls: list[int] = []
    counter = module.register_forward_hook(lambda *_: calls.append(1))
    steps = model.generate(PROMPT, seed=1, n=12)
    next(steps)
    next(steps)
    assert torch.is_grad_enabled()  # between steps, the caller's autograd mode is unchanged
    count = len(calls)
    steps.close()  # type: ignore[attr-defined]
    assert list(steps) == [] and len(calls) == count and not torch.is_inference_mode_enabled()
    counter.remove()


# The picture.


@pytest.mark.slow
def test_a_picture_is_the_same_alone_in_a_batch_and_in_another_order(model: TextToTokens) -> None:
    batch = result(model, seed=100, n=8).outputs
    assert len({picture.image.tobytes() for picture in batch}) == 8
    for i, picture in enumerate(batch):
        assert same(picture, generated(model, seed=100 + i))
    assert all(
        same(a, b)
        for a, b in zip(
            batch, reversed(result(model, seeds=tuple(range(107, 99, -1))).outputs), strict=True
        )
    )
    assert all(
        same(a, b) for a, b in zip(batch, result(model, seed=98, n=13).outputs[2:10], strict=True)
    )


def test_a_dalle_and_a_maskgit_draw_the_tokens_that_their_samplers_draw(
    folders: dict[str, Path],
) -> None:
    settings = {"temperature": 0.7, "top_k": 9, "top_p": 0.8, "guidance": 2.0}
    one, other = loaded(folders["dalle"]), loaded(folders["maskgit"])
    assert isinstance(one.network, DALLE) and isinstance(other.network, MaskGIT)
    *_, streamed = stream(one.network, cond(one), seeded(5), **settings)
    *_, unmasked = masked(other.network, cond(other), seeded(5), steps=3, **settings)
    for model, ids, more in ((one, streamed.ids, {}), (other, unmasked.ids, {"steps": 3})):
        (image,) = to_images(model.vqgan.decode(ids))
        assert generated(model, seed=5, **settings, **more).image.tobytes() == image.tobytes()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_likeliest_tokens_of_a_dalle_mini_are_those_of_forward(
    folders: dict[str, Path], guidance: float
) -> None:
    """Reference without a cache: each token from a full forward pass, with the text and without."""
    model = loaded(folders["dalle-mini"])
    assert isinstance(model.network, DalleMini)
    tokens, ids = model.words.encode([PROMPT]), torch.zeros(1, 16, dtype=torch.int64)
    with torch.no_grad():
        for k in range(16):
            with_text, without = (
                model.network(tokens, ids, torch.tensor([null]))[:, k, :20]
                for null in (False, True)
            )
            ids[:, k] = (without + guidance * (with_text - without)).argmax(-1)
    (image,) = to_images(model.vqgan.decode(ids.view(1, 4, 4)))
    assert (
        generated(model, seed=5, temperature=0, guidance=guidance).image.tobytes()
        == image.tobytes()
    )


@pytest.mark.slow
def test_settings_mean_what_they_say(model: TextToTokens, family: str) -> None:
    likeliest = generated(model, seed=1, top_k=1).image.tobytes()
    assert generated(model, seed=1, top_p=1e-9).image.tobytes() == likeliest
    if family != "maskgit":  # in MaskGIT noise also selects the tokens that stay
        assert {generated(model, seed=seed, temperature=0).image.tobytes() for seed in (1, 2)} == {
            likeliest
        }
    others = {
        generated(model, seed=1, **settings).image.tobytes()
        for settings in ({}, {"guidance": 1}, {"guidance": 0}, {"temperature": 3})
    }
    assert len(others | {likeliest}) == 5
    assert generated(model, seed=1, upscale=2).image.size == (64, 64)
    sizes = ("32x32", *(("48x32", "32x48", "64x64") if family == "dalle" else ()))
    assert (
        model.capabilities.defaults.size == "32x32"
        and model.capabilities.sizes == sizes
        and model.capabilities.tokens == 20
    )


def test_the_best_of_several_is_kept_and_comes_again_alone(
    model: TextToTokens, ranker: Encoder
) -> None:
    kept = generated(model, seed=2, best_of=5, rank_by=ranker)
    listed = kept.receipt["best_of"]["candidates"]
    assert kept.seed == max(listed, key=lambda each: each["score"])["seed"] and len(listed) == 5
    assert same(kept, generated(model, seed=kept.seed))
    with pytest.raises(KalpanaError, match="best_of 2 needs a CLIP"):
        model.generate(PROMPT, best_of=2)


def test_a_receipt_says_how_the_picture_was_made_and_makes_it_again(
    model: TextToTokens, family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[family]
    picture = kalpana.generate(PROMPT, model=str(folder), seed=5, n=2, top_k=7).outputs[1]
    receipt = json.loads(json.dumps(picture.receipt))
    request = {"prompt": PROMPT, "seed": 5, "n": 2, "top_k": 7, "model": str(folder)}
    assert receipt == picture.receipt and receipt["request"] == request
    resolved = receipt["resolved"]
    assert (
        resolved["seed"],
        resolved["top_k"],
        resolved["temperature"],
        resolved["top_p"],
        resolved["sampler"],
    ) == (6, 7, 1.0, 1.0, None)
    assert (
        resolved["steps"] == (10 if family == "maskgit" else None)
        and receipt["read"]["prompt"]["language"] == "hi"
    )
    for path in folder.glob("*.safetensors"):
        assert receipt["model"]["files"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(receipt["model"]["files"]) == {
        f"{FILES[family]}.safetensors",
        "vqgan.safetensors",
        "bpe.json",
    }
    *_, last = again(model, receipt)
    assert last.result is not None and same(last.result.outputs[0], picture)


def test_a_cut_prompt_and_unknown_words_are_told(model: TextToTokens) -> None:
    *_, last = model.generate("a red qwertyuiop apple " * 40, seed=1)
    assert last.result is not None
    assert any("prompt: too long; the last" in each for each in last.result.warnings)
    assert any("qwertyuiop" in each for each in last.result.warnings)
    assert last.result.outputs[0].receipt["warnings"] == list(last.result.warnings)


# Errors.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (
            {"top_k": 21},
            r"top_k 21 cannot be used .*: it has 20 tokens \(write from 1 to 20, or leave it out\)",
        ),
        ({"sampler": "euler"}, "sampler 'euler' cannot be used .*: it has no such setting"),
        (
            {"negative_prompt": "blur"},
            "negative_prompt 'blur' cannot be used .*: it has no such setting",
        ),
        ({"size": "40x40"}, "size '40x40' cannot be used .*: it knows 32x32"),
        ({"steps": 3}, "steps 3 cannot be used .*: it has no such setting"),
    ],
)
def test_what_the_model_cannot_do_is_refused_at_once_or_listed(
    fields: dict[str, Any], why: str, model: TextToTokens, family: str
) -> None:
    if family == "maskgit" and "steps" in fields:
        assert len(list(model.generate(PROMPT, seed=1, steps=3))) == 4
        return
    with pytest.raises(KalpanaError, match=why):
        model.generate(PROMPT, **fields)  # raised at the call, not at the first step
    lenient = generated(model, strict=False, seed=1, **fields)
    assert set(lenient.receipt["ignored"]) == set(fields) and same(
        lenient, generated(model, seed=1)
    )


@pytest.mark.parametrize("fields", [{"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.5}])
def test_a_model_that_draws_no_tokens_has_no_such_settings(
    fields: dict[str, Any], folder: Path
) -> None:
    flow, (name,) = load(str(folder)), fields
    with pytest.raises(
        KalpanaError, match=f"{name} .* cannot be used by model 'default': it has no such setting"
    ):
        flow.generate(PROMPT, **fields)
    *_, last = flow.generate(PROMPT, steps=1, strict=False, **fields)
    assert last.result is not None and last.result.outputs[0].receipt["resolved"][name] is None


@pytest.mark.slow
def test_network_and_vqgan_must_be_of_one_codebook(family: str, tmp_path: Path) -> None:
    folder = make(
        tmp_path / "other",
        family,
        pictures=vqgan.Config(
            stem=4, widths=(8, 16), depth=1, groups=4, latent=8, codebook=(24, 4)
        ),
    )
    with pytest.raises(
        KalpanaError,
        match=r"model 'other' draws 20 tokens, "
        r"and the codebook of .*vqgan\.safetensors has 24: put the",
    ):
        load(str(folder))


def test_pickles_are_refused(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    for name in (f"{FILES[family]}.safetensors", "vqgan.safetensors"):
        copy = shutil.copytree(folders[family], tmp_path / name)
        torch.save({"a": torch.ones(1)}, copy / name)
        with pytest.raises(KalpanaError, match=f"{name} is a pickle, which can run code"):
            load(str(copy))


def test_the_vqgan_is_the_models_own_or_the_one_that_comes_with_kalpana(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    monkeypatch.setattr("kalpana.hub.card.weights_dir", lambda: models)
    with pytest.raises(
        KalpanaError,
        match=r"nothing turns the tokens of the model in .*bare into pictures.*: "
        r"put there the vqgan\.safe",
    ):
        make(tmp_path / "bare", "dalle", pictures=None)
    make_pictures(models / "vqgan", PICTURES)
    folder = make(tmp_path / "bare", "dalle", pictures=None)
    card = read_card(folder)
    assert (card.name, card.family, card.tasks) == ("bare", "dalle", ("text-to-image", "caption"))
    assert (
        card.files["vqgan.safetensors"]
        == hashlib.sha256((models / "vqgan" / "vqgan.safetensors").read_bytes()).hexdigest()
    )
    assert same(generated(loaded(folder), seed=1), generated(loaded(folders["dalle"]), seed=1))
    make_pictures(models / "vqgan", PICTURES, 0.2)
    load_anew(folder)
    with pytest.raises(
        KalpanaError,
        match=r"'bare' learned the tokens of another VQGAN than .*: "
        r"put its own vqgan\.safetensors into",
    ):
        load(str(folder))


def load_anew(folder: Path) -> None:
    """Changes the files of a folder, so that its cached model is loaded again."""
    (folder / "note.txt").write_text("")


def test_other_words_and_other_families_are_refused(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(folders[family], tmp_path / "copy")
    card = read_card(copy)
    write_card(copy, card.model_copy(update={"files": card.files | {"bpe.json": "0" * 64}}))
    with pytest.raises(KalpanaError, match="learned to read with another tokenizer"):
        load(str(copy))
    other = {"dalle": "maskgit", "maskgit": "dalle", "dalle-mini": "dalle"}[family]
    write_card(copy, card.model_copy(update={"family": other}))
    with pytest.raises(
        KalpanaError, match=f"{FILES[other]}.safetensors cannot be read: No such file"
    ):
        load(str(copy))
    small = {"vocabulary": 100}
    config: Any = (
        dalle_mini.Config(**vars(MINI) | small)
        if family == "dalle-mini"
        else dalle.Config(**vars(STREAM) | small)
    )
    with pytest.raises(KalpanaError, match="model 'small' reads 100 tokens, not the 8192"):
        load(str(make(tmp_path / "small", family, config)))


def test_a_dalle_mini_draws_squares(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "long", "dalle-mini", dalle_mini.Config(**vars(MINI) | {"image_length": 18})
    )
    with pytest.raises(
        KalpanaError, match="model 'long' draws 18 tokens a picture, which make no square"
    ):
        load(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_that_is_not_there_yet_is_told_beside_those_that_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("work", "models"):
        (tmp_path / folder).mkdir()
    for each in ("default", "upscale"):
        (tmp_path / "models" / each).symlink_to(weights_dir() / each)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("kalpana.hub.card.weights_dir", lambda: tmp_path / "models")
    done = kalpana_("generate", "बेतरतीब फूलों की एक पेंटिंग", "--model", name)
    assert (
        done.exit_code == 2
        and done.stdout == ""
        and done.stderr.count("\n") == 1
        and list((tmp_path / "work").iterdir()) == []
    )
    assert done.stderr.startswith(
        f"error: model '{name}' is not here: "
        "no weights of it come with this version of Kalpana, where"
    )
    assert (
        "default" in done.stderr
        and "upscale" not in done.stderr
        and f"recipes/{name}.yaml" in done.stderr
    )


# Generating a masked part of a picture.


def photo(width: int = 32, height: int = 32) -> Image.Image:
    """A picture without uniform areas."""
    y, x = np.mgrid[:height, :width] / (height, width)[0]
    return Image.fromarray((np.stack((x, y, (x + y) % 0.5), 2) * 200 + 20).astype(np.uint8))


def mask_of(box: tuple[int, int, int, int], size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A mask that is white in a box (left, top, right, bottom)."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


# The cell in the middle, one and a half cells at the edge, and the lower half.
BOXES = [(8, 8, 16, 16), (20, 0, 32, 8), (0, 16, 32, 32)]


@pytest.mark.slow
@pytest.mark.parametrize("box", BOXES)
def test_the_masked_cells_are_sampled_and_all_other_pixels_stay(
    model: TextToTokens, box: tuple[int, int, int, int]
) -> None:
    image, mask = photo(), mask_of(box)
    ids: list[Tensor] = []
    decode = model.vqgan.decode
    try:
        object.__setattr__(model.vqgan, "decode", lambda each: (ids.append(each), decode(each))[1])
        pictures = result(model, seed=1, n=8, image=image, mask=mask).outputs
    finally:
        object.__delattr__(model.vqgan, "decode")
    assert len({picture.image.tobytes() for picture in pictures}) > 1
    kept = np.array(mask) == 0
    for picture in pictures:
        assert np.array_equal(np.array(picture.image)[kept], np.array(image)[kept])
    given = model.vqgan.encode(to_pixels([image]))[0]
    cells = np.array(mask).reshape(4, 8, 4, 8).max((1, 3)) == 0
    assert torch.equal(ids[-1][0][torch.from_numpy(cells)], given[torch.from_numpy(cells)])
    assert same(generated(model, seed=2, image=image, mask=mask), pictures[1])  # alone


@pytest.mark.slow
def test_a_dalle_draws_larger_pictures_than_it_learned(folders: dict[str, Path]) -> None:
    model = loaded(folders["dalle"])
    for size in ("48x32", "32x48", "64x64"):
        steps = list(model.generate(PROMPT, seed=3, size=size))
        width, height = (int(side) for side in size.split("x"))
        assert steps[-1].result is not None
        assert all(
            step.preview.shape == (1, 3, height, width)
            for step in steps
            if step.preview is not None
        )
        (picture,) = steps[-1].result.outputs
        assert picture.image.size == (width, height)
        *_, last = again(model, json.loads(json.dumps(picture.receipt)))
        assert last.result is not None and same(last.result.outputs[0], picture)
    image, mask = photo(48, 32), mask_of((0, 16, 48, 32), (48, 32))
    picture = generated(model, seed=1, size="48x32", image=image, mask=mask)
    assert np.array_equal(np.array(picture.image)[:16], np.array(image)[:16])


def test_an_image_without_a_mask_is_refused(model: TextToTokens) -> None:
    with pytest.raises(KalpanaError, match=r"image cannot be used by model .* without a mask"):
        model.generate(PROMPT, image=photo())


@pytest.mark.slow
def test_the_best_of_several_with_a_mask_and_its_file_again(
    folders: dict[str, Path], ranker: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = loaded(folders["maskgit"])
    photo().save("photo.png")
    mask_of((0, 8, 32, 32)).save("mask.png")
    request = Request(
        prompt=PROMPT,
        model=str(folders["maskgit"]),
        seed=4,
        best_of=3,
        image="photo.png",
        mask="mask.png",
    )
    *_, last = model.generate(request, rank_by=ranker)
    assert last.result is not None
    path = last.result.outputs[0].save("a.png").path
    assert kalpana_("replay", str(path)).stdout == "the same bytes\n"
    Path("photo.png").rename("moved.png")
    failed = kalpana_("replay", str(path))
    assert "photo.png (SHA-256" in failed.stderr and "--input FILE" in failed.stderr
    assert kalpana_("replay", str(path), "--input", "moved.png").stdout == "the same bytes\n"


# Captioning.

CAPTIONS = {"en": ("a red cat", "two blue dogs"), "hi": ("एक लाल बिल्ली", "दो नीले कुत्ते")}
PICTURED = (Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), (0, 80, 255)))


@pytest.fixture(scope="module")
def teller(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a DALL-E that is overfitted to two pictures, each captioned in two
    languages."""
    folder = shutil.copytree(folders["dalle"], tmp_path_factory.mktemp("teller") / "teller")
    model = loaded(folder)
    torch.manual_seed(0)
    network = DALLE(STREAM)
    tokens = model.words.encode([*CAPTIONS["en"], *CAPTIONS["hi"]])
    image = model.vqgan.encode(to_pixels(PICTURED)).repeat(2, 1, 1)
    assert not torch.equal(image[0], image[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(60):
        loss = network.loss(Cond(tokens), image, torch.ones(4, dtype=torch.bool)).text
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_weights(folder / "dalle.safetensors", network, "dalle", network.config, {})
    write_hashes(folder)
    return folder


@pytest.mark.slow
def test_what_was_learned_by_heart_is_said_in_either_language(teller: Path) -> None:
    model = loaded(teller)
    for language, texts in CAPTIONS.items():
        assert model.caption(PICTURED, language) == list(texts)
    free = model.caption([*PICTURED] * 5)
    assert (
        free == free[:2] * 5
        and set(free[:2]) <= {*CAPTIONS["en"], *CAPTIONS["hi"]}
        and model.caption([]) == []
    )
    for k in (0, 1):
        others = PICTURED[k].resize((50, 20)), PICTURED[k].convert("RGBA"), PICTURED[k].quantize(2)
        assert model.caption(others, "en") == 3 * [CAPTIONS["en"][k]]


@pytest.mark.slow
def test_captions_in_python(teller: Path, folder: Path, tmp_path: Path) -> None:
    PICTURED[1].save(tmp_path / "blue.png")
    assert kalpana.caption([PICTURED[0], tmp_path / "blue.png"], "hi", str(teller)) == list(
        CAPTIONS["hi"]
    )
    assert kalpana.caption(PICTURED[0], language="en", model=str(teller)) == [CAPTIONS["en"][0]]
    with pytest.raises(KalpanaError, match="does not speak 'fr'"):
        kalpana.caption(PICTURED[0], "fr", str(teller))
    with pytest.raises(KalpanaError, match="says nothing of pictures: name a DALL-E"):
        kalpana.caption(PICTURED[0], model=str(folder))


def test_captions_from_the_command_line(
    teller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    PICTURED[0].save("a.png")
    PICTURED[1].save("in/b.png")
    done = kalpana_("caption", "a.png", "in", "--model", str(teller), "--language", "hi")
    assert (
        done.exit_code == 0
        and done.stdout == f"a.png: {CAPTIONS['hi'][0]}\nin/b.png: {CAPTIONS['hi'][1]}\n"
    ), done.stderr
    done = kalpana_(
        "caption", "a.png", "gone.png", "--model", str(teller), "--language", "en", "--json"
    )
    assert done.exit_code == 1 and json.loads(done.stdout) == [
        {"path": "a.png", "caption": CAPTIONS["en"][0]}
    ]
    assert done.stderr == "not read: gone.png: No such file or directory\n"
    none = kalpana_("caption", "gone.png", "--model", str(teller))
    assert none.exit_code == 2 and none.stderr.endswith(
        "error: none of the pictures can be read (1 tried)\n"
    )


def test_what_says_nothing_of_pictures_says_so(
    folders: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    for other, family in (
        (folders["maskgit"], "maskgit"),
        (folders["dalle-mini"], "dalle-mini"),
        (folder, "flow"),
    ):
        done = kalpana_("caption", "a.png", "--model", str(other))
        assert done.exit_code == 2 and done.stderr.count("\n") == 1
        assert (
            f"is of family '{family}', which says nothing of pictures: name a DALL-E" in done.stderr
        )
    done = kalpana_("caption", "a.png", "--model", str(folders["dalle"]), "--language", "fr")
    assert done.exit_code == 2 and "does not speak 'fr': write en or hi" in done.stderr


# Public checkpoints.

LAYOUT = """
model:
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: 5
    n_embed: 20
    ddconfig: {z_channels: 6, resolution: 8, in_channels: 3, out_ch: 3, ch: 32, ch_mult: [1, 2], \
num_res_blocks: 1, attn_resolutions: []}
"""


def write_public(folder: Path, words: list[str]) -> tuple[DalleMini, VQGAN]:
    """Writes a folder in min-dalle's layout, with a taming VQGAN in it, and returns both networks.
    Parameter names are converted from ours to theirs."""
    net = stir(
        DalleMini(dalle_mini.Config(**vars(MINI) | {"vocabulary": 200, "width": 64, "heads": 1})),
        0.1,
    )
    assert isinstance(net, DalleMini)
    sides: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    for name, tensor in net.state_dict().items():
        theirs = public._theirs(name)
        for each, part in zip(theirs, tensor.chunk(len(theirs)), strict=True):
            side, _, rest = each.partition(".")
            sides[side][rest] = part.contiguous()
    folder.mkdir()
    for side, state in sides.items():
        save_file(state, folder / f"{side}.safetensors")
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "Ġ", *map(chr, range(97, 123)), *words]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(f"{word[:-1]} {word[-1]}" for word in words) + "\n"
    )

    (folder / "vqgan").mkdir()
    (folder / "vqgan" / "model.yaml").write_text(LAYOUT)
    pictures = VQGAN(public_vqgan.from_yaml(folder / "vqgan" / "model.yaml"))
    stir(pictures, 0.05)
    given = {}
    for name, tensor in pictures.state_dict().items():
        if name not in ("quantiser.sizes", "quantiser.ages"):
            theirs = public_vqgan._theirs(name, pictures.config, public_vqgan.TAMING)
            given |= {
                each: part.contiguous()
                for each, part in zip(theirs, tensor.chunk(len(theirs)), strict=True)
            }
    save_file(given, folder / "vqgan" / "last.safetensors")
    return net.eval(), pictures.eval()


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DalleMini, VQGAN]:
    folder = tmp_path_factory.mktemp("public") / "dalle-nano"
    torch.manual_seed(0)
    return folder, *write_public(folder, ["Ġa", "Ġc", "Ġca", "Ġcat"])


def test_a_public_folder_draws_what_is_in_it(
    mini: tuple[Path, DalleMini, VQGAN], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, net, pictures = mini
    model = loaded(folder)
    assert (model.name, model.family, model.size) == ("dalle-nano", "dalle-mini", (8, 8))
    defaults = model.capabilities.defaults
    settings = defaults.guidance, defaults.top_k, defaults.temperature, defaults.top_p
    assert settings == (16.0, 256, 1.0, 1.0)  # min-dalle's, which has 16,384 tokens
    text_ids = torch.tensor([[0, 31, 34, 2]])  # <s> a cat </s>
    text = Tokens(text_ids, torch.ones(1, 4, dtype=torch.bool))
    generated_ids = list(net.generate(text, lambda logits: logits.argmax(-1), 16.0))
    ids = torch.stack(generated_ids, 1).view(1, 4, 4)
    (image,) = to_images(pictures.decode(ids).detach())
    *_, last = model.generate("A cat", temperature=0, top_k=20)
    assert (
        last.result is not None
        and last.result.outputs[0].image.tobytes() == image.tobytes()
        and not last.result.warnings
    )
    assert len(ids.unique()) > 3

    monkeypatch.chdir(tmp_path)
    done = kalpana_(
        "generate",
        "A cat, लाल",
        "--model",
        str(folder),
        "--seed",
        "3",
        "--top-k",
        "5",
        "--guidance",
        "2",
    )
    assert (
        done.exit_code == 0
        and done.stderr
        == "warning: prompt: no training caption held cat,, लाल; the picture may miss them\n"
    )
    path = Path(done.stdout.strip())
    assert read_receipt(path)["model"]["files"].keys() == {"dalle-nano", "vqgan"}
    assert kalpana_("replay", str(path)).stdout == "the same bytes\n"
    refused = kalpana_("generate", "a cat", "--model", str(folder), "--language", "hi")
    assert (
        "language 'hi' cannot be used" in refused.stderr and "it knows auto, en" in refused.stderr
    )


def test_what_a_public_folder_lacks_is_named_with_its_place(
    mini: tuple[Path, DalleMini, VQGAN], tmp_path: Path
) -> None:
    folder = shutil.copytree(mini[0], tmp_path / "mini")

    def fails(match: str) -> None:
        """Checks that loading fails with a one-line message."""
        with pytest.raises(KalpanaError, match=match) as caught:
            load(str(folder))
        assert "\n" not in str(caught.value)

    (folder / "merges.txt").rename(tmp_path / "merges.txt")
    fails(r"mini lacks its words: put vocab\.json and merges\.txt there, or tokenizer\.json")
    (tmp_path / "merges.txt").rename(folder / "merges.txt")
    (folder / "vqgan").rename(tmp_path / "vqgan")
    fails(
        r"lacks what turns its tokens into pictures: "
        r"put detoker\.safetensors there, .* or a folder vqgan with"
    )
    torch.save({"embedding.weight": torch.ones(2, 2)}, folder / "detoker.pt")
    with pytest.raises(
        KalpanaError,
        match=r"as a pickle alone, detoker\.pt, .*: write detoker\.safetensors with python -c",
    ) as caught:
        load(str(folder))
    message = str(caught.value)
    exec(message[message.index('python -c "') + 11 : message.rindex('"')], {})
    assert public.detokenizer_of(folder) == folder / "detoker.safetensors"
    # It is no VQGAN, and is not confused with the other files in the folder.
    fails(
        r"embedding\.weight in .*detoker\.safetensors is \(2, 2\), "
        r"and its config asks for \(16384, 256\)"
    )
    (folder / "decoder.safetensors").unlink()
    fails(
        r"holds no whole weights of DALL-E mini: "
        r"put encoder\.safetensors and decoder\.safetensors there"
    )


def test_a_public_vqgan_alone_draws_nothing_from_words(
    mini: tuple[Path, DalleMini, VQGAN], tmp_path: Path
) -> None:
    folder = shutil.copytree(mini[0] / "vqgan", tmp_path / "taming")
    with pytest.raises(
        KalpanaError,
        match="taming is a VQGAN, which draws nothing from words: "
        "put it, as a folder vqgan, into that of",
    ):
        load(str(folder))
    with pytest.raises(KalpanaError, match=r"there is no card\.json in"):
        load(str(tmp_path))


def test_without_an_encoder_no_picture_can_be_given(mini: tuple[Path, DalleMini, VQGAN]) -> None:
    model = loaded(mini[0])
    whole, model.vqgan.encoder = model.vqgan.encoder, None
    try:
        with pytest.raises(
            KalpanaError,
            match="have no encoder, they turn tokens into pictures, not back",
        ):
            model.generate("a cat", image=photo(), mask=mask_of((0, 8, 32, 32)), top_k=5)
    finally:
        model.vqgan.encoder = whole


# The command line.


@pytest.mark.slow
def test_pictures_from_the_command_line(
    family: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = ["--steps", "3"] if family == "maskgit" else []
    model = "--model", str(folders[family])
    command = ["generate", PROMPT, *model, "--seed", "3", "-n", "2", *steps]
    done = kalpana_(
        *command, "--temperature", "0.9", "--top-k", "12", "--top-p", "0.95", "--guidance", "2"
    )
    assert done.exit_code == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert len(paths) == 2
    asked = read_receipt(paths[1])["request"]
    assert (asked["temperature"], asked["top_k"], asked["top_p"], asked["guidance"]) == (
        0.9,
        12,
        0.95,
        2.0,
    )
    assert kalpana_("replay", str(paths[1])).stdout == "the same bytes\n"
    shutil.rmtree("pictures")
    for wrong, why in (
        ("21", "it has 20 tokens"),
        ("0", "top_k '0': should be at least 1"),
        ("few", "top_k 'few'"),
    ):
        done = kalpana_(*command, "--top-k", wrong)
        assert (
            done.exit_code == 2
            and why in done.stderr
            and done.stderr.count("\n") == 1
            and not Path("pictures").exists()
        )


def test_there_is_one_way_for_all(folders: dict[str, Path], folder: Path) -> None:
    """Every family answers the same request; each stream ends with one picture."""
    for each in (*folders.values(), folder):
        *steps, last = load(str(each)).generate(Request(prompt=PROMPT, seed=1))
        assert (
            isinstance(last, Step)
            and last.result is not None
            and len(last.result.outputs) == 1
            and steps
        )
    assert isinstance(load(str(folder)), DiffusionPipeline)


def test_a_trace_shows_the_tokens_filling_in(model: TextToTokens) -> None:
    page = trace(model, "a cat", seed=1)
    assert "The tokens as they fill in" in page and "<svg" not in page
    assert page.count("<img") >= 2
