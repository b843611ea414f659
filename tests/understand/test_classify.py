"""Zero-shot classification in Python and on the command line, with an encoder of random weights."""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from kalpana.cli import app
from kalpana.hub.card import Card, write_card, write_hashes
from kalpana.hub.weights import save_weights
from kalpana.models.clip import CLIP, Config, unit
from kalpana.types import KalpanaError
from kalpana.understand.classify import TEMPLATES, classify, directions, sentences
from kalpana.understand.encoder import Encoder, load

TINY = Config(
    side=16,
    width=16,
    depth=1,
    heads=1,
    hidden=16,
    text_width=16,
    text_depth=1,
    text_heads=1,
    text_hidden=16,
    features=12,
)
PICTURES = [Image.new("RGB", (20, 30), color) for color in ("red", "green", "blue")]
LABELS = ["a cat", "एक कुत्ता", "a red car 🚗"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of two models, one for a softmax loss and one for a sigmoid loss."""
    weights = tmp_path_factory.mktemp("models")
    for loss in ("softmax", "sigmoid"):
        torch.manual_seed(0)
        config = replace(TINY, loss=loss)  # type: ignore[arg-type]
        clip = CLIP(config)
        if clip.logit_bias is not None:
            torch.nn.init.constant_(clip.logit_bias, -1.0)
        save_weights(weights / loss / "clip.safetensors", clip, "clip", config, {})
        write_card(weights / loss, Card(name=loss, family="clip", tasks=("classify",)))
        write_hashes(weights / loss)
    return {loss: str(weights / loss) for loss in ("softmax", "sigmoid")}


@pytest.fixture
def encoder(models: dict[str, str]) -> Encoder:
    return load(models["softmax"], "cpu")


@dataclass(frozen=True)
class Counting:
    """Tokenizer wrapper that records the batch sizes of texts."""

    words: object
    given: list[int]

    def encode(self, texts: list[str]) -> object:
        self.given.append(len(texts))
        return self.words.encode(texts)  # type: ignore[attr-defined]


def test_probabilities_are_those_of_the_mean_sentence(encoder: Encoder) -> None:
    found = classify(PICTURES, LABELS, encoder, ["a photo of a {}", "{} again"])
    rows = [
        unit(encoder.texts([f"a photo of a {label}", f"{label} again"]).mean(0)) for label in LABELS
    ]
    wanted = (encoder.images(PICTURES) @ torch.stack(rows).T / 0.07).softmax(1)
    assert found.shape == (3, 3) and torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(3))


def test_pictures_may_be_files_and_one_alone(models: dict[str, str], tmp_path: Path) -> None:
    PICTURES[0].save(tmp_path / "red.png")
    data = (tmp_path / "red.png").read_bytes()
    expected = classify(PICTURES[:1], LABELS, models["softmax"])
    for given in (PICTURES[0], tmp_path / "red.png", str(tmp_path / "red.png"), data):
        assert torch.equal(classify(given, LABELS, model=models["softmax"]), expected)
    mixed = classify([data, PICTURES[1]], LABELS, models["softmax"])
    assert torch.allclose(mixed, classify(PICTURES[:2], LABELS, models["softmax"]), atol=1e-6)
    with pytest.raises(KalpanaError, match=r"none\.png cannot be read"):
        classify(tmp_path / "none.png", LABELS, models["softmax"])


def test_pictures_and_labels_do_not_disturb_each_other(encoder: Encoder) -> None:
    found = classify(PICTURES, LABELS, encoder)
    assert torch.allclose(classify(PICTURES[1:2], LABELS, encoder), found[1:2], atol=1e-6)
    assert torch.allclose(classify(PICTURES, LABELS[::-1], encoder), found.flip(1), atol=1e-6)
    assert classify([], LABELS, encoder).shape == (0, 3)


def test_a_sigmoid_answers_for_every_label_by_itself(models: dict[str, str]) -> None:
    found = classify(PICTURES, LABELS, models["sigmoid"], device="cpu")
    for k, label in enumerate(LABELS):
        assert torch.allclose(
            classify(PICTURES, [label], models["sigmoid"], device="cpu")[:, 0],
            found[:, k],
            atol=1e-6,
        )
    among = classify(PICTURES, LABELS, models["sigmoid"], sigmoid=False, device="cpu")
    assert torch.allclose(among, found.logit().softmax(1), atol=1e-5)


def test_templates_are_of_the_label_s_language() -> None:
    assert sentences("a cat") == [
        "a cat",
        "a photo of a cat",
        "a picture of a cat",
        "a drawing of a cat",
    ]
    assert "तस्वीर में एक कुत्ता" in sentences("एक कुत्ता")
    assert sentences("एक cat") == ["एक cat"]
    assert sentences("{} {0} %s", ["the {}"]) == ["the {} {0} %s"]
    assert all(
        template.count("{}") == 1 for templates in TEMPLATES.values() for template in templates
    )


@pytest.mark.slow
def test_ten_thousand_labels_go_in_batches(encoder: Encoder) -> None:
    counting = Counting(encoder.words, [])
    labels = [f"thing {k}" for k in range(10_000)]
    found = directions(replace(encoder, words=counting), labels, ["{}"])  # type: ignore[arg-type]
    assert (
        found.shape == (10_000, 12) and max(counting.given) <= 256 and sum(counting.given) == 10_000
    )
    assert torch.allclose(found[9_000:9_003], unit(encoder.texts(labels[9_000:9_003])), atol=1e-6)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([], "there are no labels: write what a picture may show"),
        (["a cat", "  \n"], "label 2 of 2 is blank"),
        (["a cat", "a dog", "A  cat"], "labels are there more than once: 'a cat'; write each once"),
        (["a cat’s", "A\u200b cat's"], 'more than once: "a cat\'s"'),
        ([*"abcdabcd"], "more than once: 'a', 'b', 'c' and 1 more"),
        (["a cat"], "one label, 'a cat', answers nothing: by a softmax it is 100 %"),
        # A string is one label, not a sequence of letters.
        ("a cat, a dog", "one label, 'a cat, a dog', answers nothing"),
    ],
)
def test_labels_that_cannot_be_asked(labels: list[str], message: str, encoder: Encoder) -> None:
    with pytest.raises(KalpanaError, match=message):
        classify(PICTURES, labels, encoder)


def test_templates_without_a_place_for_the_label(encoder: Encoder) -> None:
    for template in ("a photo", "{} and {}"):
        with pytest.raises(KalpanaError, match=r"should have one \{\} where the label goes"):
            classify(PICTURES, LABELS, encoder, [template])


def test_a_sigmoid_cannot_be_asked_of_a_softmax(encoder: Encoder) -> None:
    with pytest.raises(KalpanaError, match="learned by a softmax"):
        classify(PICTURES, ["a cat"], encoder, sigmoid=True)


# Command line.


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kalpana(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["classify", *arguments, "--device", "cpu"], input=stdin)


def draw(*names: str) -> list[Path]:
    for k, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        PICTURES[k % 3].save(name)
    return [Path(name) for name in names]


def test_a_line_for_each_picture_the_likeliest_first(
    models: dict[str, str], encoder: Encoder
) -> None:
    draw("a.png", "b.png")
    done = kalpana(
        "a.png",
        "b.png",
        "--labels",
        "a cat, एक कुत्ता ,a red car 🚗,",
        "--model",
        models["softmax"],
        "--top",
        "2",
    )
    assert done.exit_code == 0, done.stderr
    for line, name, row in zip(
        done.stdout.splitlines(),
        ("a.png", "b.png"),
        classify(PICTURES[:2], LABELS, encoder),
        strict=True,
    ):
        first, second, _ = row.argsort(descending=True).tolist()
        assert (
            line == f"{name}: {LABELS[first]} {row[first]:.1%}, {LABELS[second]} {row[second]:.1%}"
        )


def test_json_and_labels_from_a_file_and_stdin(
    models: dict[str, str], encoder: Encoder, here: Path
) -> None:
    draw("a.png")
    (here / "labels.txt").write_text("\ufeffa cat\n\nएक कुत्ता\n a red car 🚗 \n", encoding="utf-8")
    found = json.loads(
        kalpana(
            "a.png", "--labels-file", "labels.txt", "--model", models["softmax"], "--json"
        ).stdout
    )
    assert [each["path"] for each in found] == ["a.png"]
    predicted = {each["label"]: each["probability"] for each in found[0]["labels"]}
    assert list(predicted.values()) == sorted(predicted.values(), reverse=True)
    assert [predicted[label] for label in LABELS] == pytest.approx(
        classify(PICTURES[:1], LABELS, encoder)[0].tolist(), abs=1e-6
    )
    done = kalpana(
        "a.png",
        "--labels-file",
        "-",
        "--model",
        models["softmax"],
        stdin="a cat\na dog, a large one\n",
    )
    assert "a dog, a large one" in done.stdout
    assert (
        "labels cannot be read from absent.txt"
        in kalpana("a.png", "--labels-file", "absent.txt").stderr
    )


def png(width: int, height: int) -> bytes:
    """A PNG whose header declares this size, without pixels."""
    parts = (
        b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(b""),
    )
    chunks = (
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_folder_with_broken_files_in_it(models: dict[str, str], here: Path) -> None:
    draw("in/b.png", "in/deeper/c.webp", "in/A.JPG")
    (here / "in/notes.txt").write_text("no picture, nor named like one")
    (here / "in/d.png").write_text("no picture, though named like one")
    (here / "in/e.png").write_bytes((here / "in/b.png").read_bytes()[:60])
    (here / "in/bomb.png").write_bytes(png(20_000, 20_000))
    done = kalpana("in", "absent.png", "--labels", "a cat,a dog", "--model", models["softmax"])
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "in/A.JPG",
        "in/b.png",
        "in/deeper/c.webp",
    ]
    broken = dict(
        line.removeprefix("not read: ").split(": ", 1) for line in done.stderr.splitlines()
    )
    assert broken.keys() == {"in/bomb.png", "in/d.png", "in/e.png", "absent.png"}
    assert (
        broken["in/d.png"] == "it is no picture"
        and broken["absent.png"] == "No such file or directory"
    )
    assert broken["in/bomb.png"] == f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"


def test_nothing_that_can_be_read(models: dict[str, str], here: Path) -> None:
    (here / "empty").mkdir()
    done = kalpana("empty", "absent.png", "--labels", "a cat,a dog", "--model", models["softmax"])
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "not read: empty: there are no pictures in it",
        "not read: absent.png: No such file or directory",
        "error: none of the pictures can be read (2 tried)",
    ]


def test_strange_names_of_files(models: dict[str, str], here: Path) -> None:
    names = ['it\'s "quoted".png', "two\nlines.png", "सेब 🍎.png", "-dash.png"]
    draw(*(f"in/{name}" for name in names))
    os.rename(b"in/-dash.png", b"in/\xff.png")
    done = kalpana("in", "--labels", "a cat,a dog", "--model", models["softmax"])
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 4
    found = json.loads(
        kalpana("in", "--labels", "a cat,a dog", "--model", models["softmax"], "--json").stdout
    )
    assert {each["path"] for each in found} == {
        *(f"in/{name}" for name in names[:3]),
        "in/\\udcff.png",
    }


def test_pictures_of_one_pixel_and_turned_ones(models: dict[str, str], encoder: Encoder) -> None:
    Image.new("L", (1, 1), 90).save("one.png")
    exif, half = Image.Exif(), Image.new("RGB", (40, 20), "red")
    half.paste("blue", (20, 0, 40, 20))
    exif[0x0112] = 6
    half.save("turned.png", exif=exif)
    found = json.loads(
        kalpana(
            "one.png",
            "turned.png",
            "--labels",
            "a cat,a dog",
            "--model",
            models["softmax"],
            "--json",
        ).stdout
    )
    upright = classify(
        [Image.new("L", (1, 1), 90), half.transpose(Image.Transpose.ROTATE_270)],
        ["a cat", "a dog"],
        encoder,
    )
    for each, row in zip(found, upright.tolist(), strict=True):
        predicted = {entry["label"]: entry["probability"] for entry in each["labels"]}
        assert predicted == pytest.approx(dict(zip(["a cat", "a dog"], row, strict=True)), abs=1e-6)


def test_more_pictures_than_a_batch(models: dict[str, str]) -> None:
    draw(*(f"in/{k:02}.png" for k in range(40)))
    done = kalpana("in", "--labels", "a cat,a dog", "--model", models["softmax"])
    assert [line[:9] for line in done.stdout.splitlines()] == [f"in/{k:02}.png" for k in range(40)]


def test_what_the_model_does_not_read_of_a_label_is_told(models: dict[str, str]) -> None:
    draw("a.png")
    long = "a zzyzx " + "and a red apple " * 30
    done = kalpana("a.png", "--labels", f"{long},a dog", "--model", models["softmax"])
    cut, unknown = done.stderr.splitlines()
    assert cut.startswith("warning: label 'a zzyzx and a red") and "which does not read" in cut
    assert unknown.endswith("never met zzyzx; it may miss them")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "there are no labels"),
        (["--labels", " , ,"], "there are no labels"),
        (["--labels", "a cat,a dog,a cat"], "labels are there more than once: 'a cat'"),
        (["--labels", "a cat", "--sigmoid"], "learned by a softmax"),
        (["--labels", "a cat"], "one label, 'a cat', answers nothing"),
        (
            ["--labels", "a cat,a dog", "--model", "someone/of no such name"],
            "there is no checkpoint",
        ),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, models: dict[str, str]) -> None:
    draw("a.png")
    arguments = arguments if "--model" in arguments else [*arguments, "--model", models["softmax"]]
    done = kalpana("a.png", *arguments)
    assert done.exit_code == 2 and done.stdout == ""
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_one_label_of_a_sigmoid(models: dict[str, str]) -> None:
    draw("a.png")
    done = kalpana("a.png", "--labels", "a cat", "--model", models["sigmoid"])
    assert done.exit_code == 0 and done.stdout.startswith("a.png: a cat ")
