"""End-to-end tests of the command line, with a tiny model of random weights."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from kalpana.cli import app
from kalpana.evaluate.run import first
from kalpana.evaluate.verifiers.ocr import ENGINES
from kalpana.evaluate.video.suite import load as load_clips
from kalpana.evaluate.video.suite import truth
from kalpana.hub.card import Card, weights_dir, write_card
from kalpana.hub.weights import save_weights
from kalpana.media import read_receipt, save, to_images
from kalpana.models import detector, reader
from kalpana.models.detector import Detector
from kalpana.models.reader import Reader
from kalpana.models.vae import Config as VAEConfig
from kalpana.pipelines import load
from kalpana.request import Request
from kalpana.train.detector_labels import labels
from kalpana.types import KalpanaError, Output
from kalpana.understand.encoder import load as load_encoder

HINDI = "तीन लाल सेब"


@pytest.fixture
def model(folder: Path) -> str:
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kalpana(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


def made(done: Result) -> list[Path]:
    """Paths of the pictures that a successful run has printed."""
    assert done.exit_code == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert all(path.is_file() for path in paths)
    return paths


def test_a_prompt_becomes_a_picture_whose_path_is_printed(model: str) -> None:
    (path,) = made(kalpana("generate", HINDI, "--model", model, "--seed", "7"))
    assert path == Path("pictures") / "तीन-लाल-सेब-tiny-7.png"
    assert read_receipt(path)["request"] == {"prompt": HINDI, "model": model, "seed": 7}
    with Image.open(path) as image:
        assert image.size == (32, 32)


def test_every_option_reaches_the_request(model: str) -> None:
    options = "-n 2 --seed 0 --steps 3 --guidance 2.5 --sampler euler --size 32x32"
    options += " --negative blur --language en --format webp --upscale 2 --lenient"
    paths = made(
        kalpana("generate", "an apple", "--model", model, *options.split(), "--out", "a/b")
    )
    assert [str(path) for path in paths] == [
        "a/b/an-apple-tiny-0.webp",
        "a/b/an-apple-tiny-1.webp",
    ]
    asked = read_receipt(paths[1])["request"]
    assert asked == Request(
        prompt="an apple", model=model, n=2, seed=0, steps=3, guidance=2.5, sampler="euler",
        size="32x32", negative_prompt="blur", language="en", format="webp", upscale=2,
        strict=False,
    ).to_json()  # fmt: skip
    with Image.open(paths[0]) as image:
        assert image.size == (64, 64)


def test_every_field_of_a_request_has_an_option_that_says_what_the_field_says() -> None:
    words = " ".join(kalpana("generate", "--help").stdout.split())
    for name, field in Request.model_fields.items():
        if name not in {"prompt", "strict"}:  # the argument, and --lenient
            option = re.compile(rf"--{name.replace('_', '-')}[ ,]")
            assert option.search(words) and str(field.description) in words, name


@pytest.mark.slow
def test_prompts_come_from_arguments_a_file_and_stdin(model: str, here: Path) -> None:
    text = "# two prompts\n\n नीली कार \n\n  # the second\na dog\n"
    (here / "prompts.txt").write_text(text, encoding="utf-8")
    paths = made(
        kalpana(
            "generate",
            "a cat",
            "-",
            "--file",
            "prompts.txt",
            "--model",
            model,
            "--seed",
            "1",
            stdin="a bus\nफूल\n",
        )
    )
    assert [path.stem for path in paths] == [
        f"{words}-tiny-1" for words in ("a-cat", "a-bus", "फूल", "नीली-कार", "a-dog")
    ]
    assert (
        made(kalpana("generate", "--file", "-", "--model", model, "--seed", "1", stdin="an ant"))[
            0
        ].stem
        == "an-ant-tiny-1"
    )


@pytest.mark.slow
def test_nothing_is_written_over_and_a_seed_is_drawn_anew(model: str) -> None:
    first, second = (
        made(kalpana("generate", "a", "--model", model, "--seed", "1"))[0] for _ in range(2)
    )
    assert (first.name, second.name) == (
        "a-tiny-1.png",
        "a-tiny-1-2.png",
    ) and first.read_bytes() == second.read_bytes()
    names = {
        made(kalpana("generate", "a", "--model", model, "--steps", "1"))[0].name for _ in range(3)
    }
    assert len(names) == 3


@pytest.mark.slow
def test_the_best_of_several_is_kept_and_comes_again_without_the_others(
    model: str, clip_folder: Path
) -> None:
    asking = ["generate", HINDI, "--model", model, "--seed", "4", "-n", "2", "--steps", "2"]
    paths = made(kalpana(*asking, "--best-of", "6", "--rank-by", str(clip_folder)))
    receipts = [read_receipt(path) for path in paths]
    assert [receipt["best_of"]["seed"] for receipt in receipts] == [4, 5]
    for path, receipt in zip(paths, receipts, strict=True):
        kept = max(receipt["best_of"]["candidates"], key=lambda each: each["score"])
        assert path.stem.endswith(f"-{kept['seed']}") and len(receipt["best_of"]["candidates"]) == 6
        assert kalpana("replay", str(path)).stdout == "the same bytes\n"


def test_a_grid_is_a_sheet_of_all_the_pictures(model: str) -> None:
    *pictures, sheet = made(
        kalpana("generate", "a", "--model", model, "-n", "3", "--grid", "--seed", "4")
    )
    assert len(pictures) == 3 and sheet.name == "a-tiny-4-grid.png"
    assert [receipt["seed"] for receipt in read_receipt(sheet)["sheet"]] == [4, 5, 6]
    assert "replay the pictures of a sheet one by one" in kalpana("replay", str(sheet)).stderr


def test_json_is_all_of_stdout(model: str) -> None:
    done = kalpana(
        "generate", HINDI, "--model", model, "-n", "2", "--seed", "4", "--grid", "--json"
    )
    first, second = json.loads(done.stdout)
    assert (first["seed"], second["seed"]) == (4, 5) and HINDI in done.stdout
    assert first["receipt"] == read_receipt(Path(first["path"]))


def test_the_json_before_an_error_is_of_the_finished_pictures(
    model: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate", "a", "b", "--model", model, "--seed", "4", "--lenient", "--json"]
    (here / "bad.safetensors").write_bytes(b"damaged")
    done = kalpana(*words, "--adapter", str(here / "bad.safetensors"))
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    save, count = Output.save, iter(range(9))

    def full(output: Output, path: str, *, metadata: bool = True) -> Output:
        if next(count):
            raise KalpanaError("the disk is full")
        return save(output, path, metadata=metadata)

    monkeypatch.setattr(Output, "save", full)
    done = kalpana(*words)
    assert done.exit_code == 2 and done.stderr == "error: the disk is full\n"
    assert [Path(each["path"]).name for each in json.loads(done.stdout)] == ["a-tiny-4.png"]


@pytest.mark.slow
def test_pictures_of_one_seed_are_numbered(unclip_folder: Path, here: Path) -> None:
    ends = []
    for name in ("red", "blue"):
        Image.new("RGB", (32, 32), name).save(here / f"{name}.png")
        ends.append(str(here / f"{name}.png"))
    words = ["generate", "--model", str(unclip_folder), "--image", ends[0], "--last-image", ends[1]]
    paths = made(kalpana(*words, "-n", "3", "--seed", "1", "--steps", "1"))
    assert [path.name for path in paths] == [f"red-tiny-unclip-1-{k}of3.png" for k in (1, 2, 3)]
    alone = made(kalpana(*words, "--seed", "1", "--steps", "1"))
    assert [path.name for path in alone] == ["red-tiny-unclip-1.png"]


def test_file_names_follow_a_pattern(model: str) -> None:
    paths = made(
        kalpana(
            "generate", "a cat", "❤️", "--model", model, "--seeds", "7,5", "--name", "{n:03}-{seed}"
            "-{prompt} by {model}", "--steps", "1",
        )
    )  # fmt: skip
    assert [path.stem for path in paths] == [
        "001-7-a-cat by tiny",
        "002-5-a-cat by tiny",
        "003-7-heavy-black-heart by tiny",
        "004-5-heavy-black-heart by tiny",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{promt}", "there is no placeholder {promt}, only {prompt}, {model}, {seed}, {n}"),
        ("{prompt.x}", "there is no placeholder {prompt.x}"),
        ("{}", "there is no placeholder {}"),
        ("{n", "expected '}'"),
        ("{prompt:03d}", "write a number as {n:03}"),
        ("a/{n}", "give the folder by --out"),
        ("{n}.png", "leave out .png; --format sets the suffix"),
        ("", "empty or too long"),
        ("x" * 300, "empty or too long"),
    ],
)
def test_a_pattern_that_gives_no_names_is_an_error(
    pattern: str, message: str, model: str, here: Path
) -> None:
    done = kalpana("generate", "a", "--model", model, "--name", pattern)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (here / "pictures").exists()


@pytest.mark.slow
def test_without_metadata_the_receipt_is_in_the_json_alone(model: str, here: Path) -> None:
    done = kalpana(
        "generate", "a", "-n", "2", "--model", model, "--no-metadata", "--grid", "--json"
    )
    (first, second) = json.loads(done.stdout)
    assert first["receipt"]["request"]["prompt"] == "a"
    assert len([*here.glob("pictures/*")]) == 3
    for path in here.glob("pictures/*"):
        with Image.open(path) as image:
            assert image.info == {} and not image.getexif()
    assert "no receipt" in kalpana("metadata", second["path"]).stderr


def test_strict_and_lenient_are_one_pair(model: str) -> None:
    arguments = ["generate", "a", "--model", model, "--top-k", "5", "--steps", "1"]
    assert "top_k 5 cannot be used" in kalpana(*arguments, "--strict").stderr
    assert "top_k was ignored" in kalpana(*arguments, "--strict", "--lenient").stderr
    assert kalpana(*arguments, "--lenient", "--strict").exit_code == 2


@pytest.mark.slow
def test_metadata_and_replay_take_many_files(model: str, here: Path) -> None:
    paths = [str(p) for p in made(kalpana("generate", "a", "b", "--model", model, "--seed", "1"))]
    Image.new("RGB", (8, 8)).save("bare.png")
    done = kalpana("metadata", *paths, "--json")
    assert json.loads(done.stdout) == [
        {"path": path, "receipt": read_receipt(Path(path))} for path in paths
    ]
    done = kalpana("metadata", paths[0], "bare.png", paths[1])
    assert done.exit_code == 1 and done.stderr.startswith(
        "not read: there is no receipt in bare.png"
    )
    assert set(yaml.safe_load(done.stdout)) == set(paths)
    done = kalpana("replay", *paths)
    assert (done.exit_code, done.stdout) == (0, "".join(f"{p}: the same bytes\n" for p in paths))
    done = kalpana("replay", "bare.png", paths[1], "--out", "again")
    assert done.exit_code == 1 and done.stderr.startswith("not replayed: bare.png: ")
    assert done.stdout == f"{paths[1]}: the same bytes\nagain/{Path(paths[1]).name}\n"


@pytest.mark.slow
def test_metadata_prints_the_receipt(model: str) -> None:
    (path,) = made(kalpana("generate", HINDI, "--model", model))
    assert json.loads(kalpana("metadata", str(path), "--json").stdout) == read_receipt(path)
    assert f"prompt: {HINDI}" in kalpana("metadata", str(path)).stdout


@pytest.mark.slow
def test_replay_makes_a_picture_of_a_batch_again_alone(model: str, here: Path) -> None:
    path = made(kalpana("generate", HINDI, "--model", model, "-n", "3", "--format", "jpeg"))[2]
    done = kalpana("replay", str(path), "--out", "again")
    assert done.exit_code == 0 and done.stdout.splitlines() == [
        "the same bytes",
        f"again/{path.name}",
    ]
    assert (here / "again" / path.name).read_bytes() != b""
    with Image.open(path) as image:
        edited = save(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), path, read_receipt(path))
    done = kalpana("replay", str(edited))
    assert done.exit_code == 1 and done.stdout.startswith("other pixels")


def test_models_are_listed_by_task_with_the_state_of_their_weights(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, family, tasks in (
        ("default", "flow", ("text-to-image",)),
        ("both", "dalle", ("text-to-image", "caption")),
        ("film", "video", ("text-to-video",)),
        ("judge", "detector", ()),
        ("codec", "vae", ("reconstruct",)),
    ):
        (here / name).mkdir()
        save_weights(here / name / f"{name}.safetensors", nn.Linear(2, 3), family, VAEConfig(), {})
        write_card(here / name, Card(name=name, family=family, tasks=tasks, licence="MIT"))
    monkeypatch.setattr("kalpana.hub.card.weights_dir", lambda: here)
    listed = kalpana("models").stdout
    assert listed == (
        "text to image:\n"
        "  both: dalle, en and hi, 0.0 million parameters, MIT, inside\n"
        "  default: flow, en and hi, 0.0 million parameters, MIT, the default, inside\n"
        "text to video:\n"
        "  film: video, en and hi, 0.0 million parameters, MIT, inside\n"
        "captions and classification:\n"
        "  both: dalle, en and hi, 0.0 million parameters, MIT, inside\n"
        "verifiers:\n"
        "  judge: detector, 0.0 million parameters, MIT, inside\n"
        "helpers:\n"
        "  codec: vae, 0.0 million parameters, MIT, inside\n"
    )
    card = Card(
        name="default", family="flow", tasks=("text-to-image",), files={"d.safetensors": "0"}
    )
    write_card(here / "default", card)
    assert (
        "the default, missing d.safetensors: run `kalpana weights pull default`, or name a folder "
        "that holds them by KALPANA_WEIGHTS" in kalpana("models").stdout
    )


@pytest.mark.slow
def test_the_json_of_models_is_their_cards() -> None:
    cards = json.loads(kalpana("models", "--json").stdout)
    on_disk = [json.loads(path.read_text()) for path in weights_dir().glob("*/card.json")]
    assert {card["name"]: card["files"] for card in cards} == {
        card["name"]: card["files"] for card in on_disk
    }
    assert {card["weights"] for card in cards} == {"inside"}
    names = re.findall(r"^  (\S+):", kalpana("models").stdout, re.M)
    assert set(names) == {card["name"] for card in cards}


def test_the_repr_of_a_loaded_model_is_one_short_line(folder: Path, clip_folder: Path) -> None:
    for loaded in (load(str(folder)), load_encoder(str(clip_folder))):
        assert len(repr(loaded)) < 150 and repr(loaded.name) in repr(loaded)


def test_tokens_are_shown() -> None:
    shown = json.loads(kalpana("tokens", "3 लाल qwertyuiop", "--json").stdout)
    assert "".join(shown["tokens"]).replace(" ", "") == "3लालqwertyuiop" and shown["unknown"] == [
        "qwertyuiop"
    ]


@pytest.mark.slow
def test_warnings_go_to_stderr(model: str) -> None:
    done = kalpana("generate", "a qwertyuiop " * 5000, "--model", model, "--steps", "1")
    assert len(made(done)) == 1
    assert "warning: prompt: too long" in done.stderr and "qwertyuiop" in done.stderr
    assert (
        "put quotes around words"
        in kalpana("generate", "a", "red", "apple", "--model", model, "--steps", "1").stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "there is no prompt"),
        (["generate", ""], "there is no prompt"),
        (["generate", "a", "--steps", "0"], "steps '0'"),
        (["generate", "a", "--steps", "-1"], "steps '-1'"),
        (["generate", "a", "--steps", "10000"], "steps '10000'"),
        (["generate", "a", "--steps"], "--steps"),
        (["generate", "a", "-n", "x"], "n 'x'"),
        (["generate", "a", "--guidance", "nan"], "guidance 'nan'"),
        (["generate", "a", "--size", "500x500", "--model", "MODEL"], "try 496x496"),
        (["generate", "a", "--size", "100x100"], "try 128x128"),
        (["generate", "a", "--size", "0x0"], "size '0x0'"),
        (["generate", "a", "--size", "99999999x99999999"], "size '99999999x99999999'"),
        (["generate", "a", "--size", "40x32", "--model", "MODEL"], "size '40x32' cannot be used"),
        (
            ["generate", "a", "--sampler", "plms", "--model", "MODEL"],
            "it knows euler, heun, dpmpp-2m",
        ),
        (["generate", "a", "--model", "no-such"], "there is no model 'no-such'"),
        (["generate", "a", "--best-of", "65"], "best_of '65'"),
        (
            ["generate", "a", "--best-of", "2", "--rank-by", "clop", "--model", "MODEL"],
            "--rank-by FOLDER: there is no checkpoint 'clop'",
        ),
        (
            ["generate", "a", "--best-of", "2", "--rank-by", "MODEL", "--model", "MODEL"],
            "does not compare pictures with words",
        ),
        (["generate", "a", "--rank-by", "clip", "--model", "MODEL"], "such as --best-of 8"),
        (["generate", "a", "--language", "fr"], "language 'fr'"),
        (["generate", "a", "--plan", "maps"], "plan 'maps'"),
        (["generate", "a", "--plan", "all", "--no-plan"], "--plan and --no-plan contradict"),
        (["generate", "a", "--plan", "layout", "--model", "MODEL"], "plan 'layout' cannot be used"),
        (["generate", "a", "--no-plan", "--model", "MODEL"], "plan 'none' cannot be used"),
        (["generate", "a", "--seed", "9223372036854775808"], "seed '9223372036854775808'"),
        (
            ["generate", "a", "--out", "file/x", "--model", "MODEL"],
            "nothing can be written to the folder file/x",
        ),
        (
            ["generate", "a", "--out", "/proc/kalpana", "--model", "MODEL"],
            "nothing can be written to the folder /proc/kalpana",
        ),
        (["generate", "a", "--file", "absent.txt"], "prompts cannot be read from absent.txt"),
        (["generate", "--file", "latin1"], "not UTF-8"),
        (["generate", "a", "--colour", "red"], "No such option"),
        (["paint", "a"], "No such command 'paint'"),
        (["world"], "Missing command"),
        (["world", "show", "--split", "exam"], "split 'exam'"),
        (["world", "show", "-n", "0"], "-n"),
        (["world", "show", "--kind", "ghosts"], "kind 'ghosts'"),
        (["world", "show", "--kind", "clips", "--split", "exam"], "split 'exam'"),
        (["world", "show", "--format", "mp4"], "format 'mp4' of objects is not one of png, webp"),
        (["world", "show", "--kind", "video", "--format", "gif"], "of video is not one of mp4"),
        (["world", "show", "--out", "file/x"], "nothing can be written to the folder file/x"),
        (["world", "export", "--format", "coco", "-n", "1"], "--out"),
        (["world", "export", "--format", "coco", "-n", "0", "--out", "x"], "-n"),
        (["world", "export", "--format", "zip", "-n", "1", "--out", "x"], "format 'zip'"),
        (["world", "export", "--format", "coco", "-n", "1", "--out", "file"], "file"),
        (["train", "absent.yaml"], "there is no recipe 'absent.yaml'"),
        (["train", "file"], "file holds no fields"),
        (["metadata", "absent.png"], "absent.png cannot be read"),
        (["metadata", "file"], "no picture"),
        (["replay", "bare.png"], "no receipt"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, model: str, here: Path
) -> None:
    (here / "file").write_text("words")
    (here / "latin1").write_bytes("é".encode("latin-1"))
    Image.new("RGB", (8, 8)).save("bare.png")
    before = sorted(here.iterdir())
    done = kalpana(*(model if argument == "MODEL" else argument for argument in arguments))
    assert done.exit_code == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: ")
        and done.stderr.count("\n") == 1
        and message in done.stderr
    ), done.stderr
    assert sorted(here.iterdir()) == before


def test_without_a_clip_on_the_shelf_one_is_asked_for(
    model: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kalpana.hub.card.weights_dir", lambda: here)
    done = kalpana("generate", "a", "--best-of", "2", "--model", model)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1) and not (
        here / "pictures"
    ).exists()
    assert done.stderr.startswith(
        "error: --best-of needs a CLIP, as by --rank-by FOLDER: "
        "no weights of a CLIP come with this version"
    )


def test_a_mistake_in_the_last_prompt_is_found_before_the_first_is_drawn(
    model: str, here: Path
) -> None:
    (here / "prompts.txt").write_text("a cat\n\x07\n")
    done = kalpana("generate", "a dog", "--file", "prompts.txt", "--model", model)
    assert done.exit_code == 2 and done.stdout == "" and not (here / "pictures").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["objects", "text", "hands", "puppets", "depth", "paintings", "clips"]
)
def test_every_kind_of_the_world_can_be_shown(kind: str, here: Path) -> None:
    done = kalpana("world", "show", "--kind", kind, "-n", "2", "--out", "sheets")
    assert done.exit_code == 0, done.stderr
    written = [Path(line) for line in done.stdout.splitlines()]
    assert [path.suffix for path in written] == ([".png", ".mp4"] if kind == "clips" else [".png"])
    kind = "video" if kind == "clips" else kind
    assert read_receipt(written[0])["world"]["kind"] == kind and all(
        path.stat().st_size > 2000 for path in written
    )


def test_without_pyav_a_video_is_refused_before_any_work_or_drawn_as_webp(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    show = ("world", "show", "--kind", "video", "-n", "1", "--out", "sheets")
    done = kalpana(*show)
    assert (done.exit_code, done.stdout) == (2, "") and not (here / "sheets").exists()
    assert "pip install 'kalpana[video]'; or write --format webp" in done.stderr
    done = kalpana(*show, "--format", "webp")
    assert done.exit_code == 0, done.stderr
    _, moving = map(Path, done.stdout.splitlines())
    with Image.open(moving) as image:
        assert image.n_frames > 8 and read_receipt(moving)["world"]["kind"] == "video"


def test_an_export_is_written_and_goes_on(here: Path) -> None:
    export = ("world", "export", "--format", "webdataset", "-n", "2", "--side", "32", "--out", "e")
    for _ in range(2):
        done = kalpana(*export)
        assert (done.exit_code, done.stdout) == (0, "e\n"), done.stderr
    done = kalpana(*export, "--languages", "hi")
    assert done.exit_code == 2 and "holds another export: languages is" in done.stderr


def test_no_command_is_a_call_for_help() -> None:
    done = kalpana()
    assert (
        done.exit_code == 0
        and "generate" in done.stdout
        and done.stdout == kalpana("--help").stdout
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_what_is_finished_and_says_so(model: str, here: Path) -> None:
    (here / "prompts.txt").write_text("a qwertyuiop\na dog\n")
    command = [
        sys.executable,
        "-m",
        "kalpana",
        "generate",
        "--file",
        "prompts.txt",
        "--model",
        model,
        "--steps",
        "1000",
        "--json",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        # At this warning, the first picture is finished but not yet written.
        assert run.stderr is not None and "qwertyuiop" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        stdout, stderr = run.communicate()
    assert (run.returncode, stderr) == (
        130,
        "stopped: 1 of 2 pictures were finished, and are in pictures\n",
    )
    (picture,) = here.glob("pictures/*")
    assert read_receipt(picture)["request"]["prompt"] == "a qwertyuiop"
    assert json.loads(stdout)[0]["path"] == str(picture.relative_to(here))


def test_ctrl_c_before_the_first_picture_is_an_empty_list(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("kalpana.pipelines.load", interrupted)
    done = kalpana("generate", "a cat", "-n", "2", "--json")
    assert done.exit_code == 130 and json.loads(done.stdout) == []
    assert done.stderr == "stopped: 0 of 2 pictures were finished, and are in pictures\n"
    assert kalpana("generate", "a cat").stdout == ""


@pytest.mark.slow
def test_the_installed_command_is_this_one(here: Path) -> None:
    command = Path(sys.executable).with_name("kalpana")
    done = subprocess.run(
        [command, "generate", "a", "--steps", "0"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: steps '0': should be at least 1\n"


@pytest.fixture
def verifier(tmp_path: Path) -> str:
    """Folder of a tiny verifier with random weights."""
    net = Detector(
        detector.Config(classes=len(labels()), fine=8, coarse=8, deep=8, depth=(1, 1, 1, 1))
    )
    (tmp_path / "verifier").mkdir()
    save_weights(tmp_path / "verifier" / "detector.safetensors", net, "detector", net.config, {})
    return str(tmp_path / "verifier")


@pytest.mark.slow
def test_a_suite_is_drawn_judged_and_goes_on(model: str, verifier: str, clip_folder: Path) -> None:
    asking = [
        "evaluate",
        model,
        "--suite",
        "spriteeval",
        "--dev",
        "--limit",
        "1",
        "--verifier",
        verifier,
        "--steps",
        "1",
        "--out",
        "run",
    ]
    done = kalpana(*asking)
    assert done.exit_code == 0, done.stderr
    assert (
        "| overall (not verified) |" in done.stdout
        and "Strict" in done.stdout
        and "report.json" in done.stderr
    )
    pictures = {path: path.stat().st_mtime_ns for path in Path("run").glob("0*.png")}
    assert len(pictures) == 6 * 4
    assert kalpana(*asking).stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in Path("run").glob("0*.png")} == pictures
    scored = kalpana(
        "evaluate",
        "--from-folder",
        "run",
        "--dev",
        "--limit",
        "1",
        "--verifier",
        verifier,
        "--out",
        "again",
    )
    assert scored.stdout == done.stdout
    near = kalpana(*asking, "--clip-score", str(clip_folder))
    assert (
        near.exit_code == 0
        and near.stdout.startswith(done.stdout)
        and "CLIP score by tiny-clip (100 cos" in near.stdout
    ), near.stderr
    assert (
        "| task | floor | baseline | score (95 %) | ceiling | any seed | prompts |"
        in near.stdout.removeprefix(done.stdout)
    )
    assert {path: path.stat().st_mtime_ns for path in Path("run").glob("0*.png")} == pictures
    planned = kalpana(*asking[:-1], "other", "--plan", "layout")
    assert planned.exit_code == 2 and "plan 'layout' cannot be used" in planned.stderr
    refused = kalpana(*asking[:-3], "2", "--out", "run")
    assert refused.exit_code == 2 and "holds a run with steps 1, not 2" in refused.stderr


@pytest.mark.slow
def test_models_are_compared_by_their_steps(model: str, verifier: str) -> None:
    asking = ["evaluate", "compare", model, "--dev", "--limit", "1", "--verifier", verifier]
    done = kalpana(*asking, "--steps", "1,2", "--out", "table")
    assert done.exit_code == 0, done.stderr
    assert (
        done.stdout == Path("table/compare.md").read_text()
        and done.stdout.count("\n| tiny | ") == 2
    )
    assert done.stdout.count(" (not verified) | ") == 2


@pytest.mark.slow
def test_a_model_may_be_compared_by_its_own_number_of_steps(model: str, verifier: str) -> None:
    done = kalpana(
        "evaluate",
        "compare",
        model,
        "--dev",
        "--limit",
        "1",
        "--verifier",
        verifier,
        "--default-steps",
        "--out",
        "own",
    )
    assert done.exit_code == 0, done.stderr
    own = json.loads(Path(model, "card.json").read_text())["capabilities"]["defaults"]["steps"]
    assert done.stdout.count(f"\n| tiny | {own} | ") == done.stdout.count("\n| tiny | ") == 1


@pytest.mark.parametrize("suite", ENGINES)
def test_words_are_read_by_the_engine_of_their_script(
    suite: str, model: str, verifier: str
) -> None:
    asking = [
        "evaluate",
        model,
        "--suite",
        suite,
        "--dev",
        "--limit",
        "2",
        "--verifier",
        verifier,
        "--steps",
        "1",
        "--out",
        "words",
    ]
    if missing := ENGINES[suite].available():
        pytest.skip(missing)
    done = kalpana(*asking)
    assert done.exit_code == 0, done.stderr
    assert (
        f"Words as read by {ENGINES[suite].name}" in done.stdout
        and "Mean edit distance" in done.stdout
    )
    assert ("(0 as O, 1 as I):" in done.stdout) == (suite == "words-latin")
    assert done.stdout == Path("words/report.md").read_text()

    add_reader(verifier)
    done = kalpana(*asking[:-1], "both")
    assert done.exit_code == 0 and done.stdout.startswith(
        "Words as read by the verifier's reader:"
    ), done.stderr
    assert (
        done.stdout.count("| overall (not verified) |") == 2
        and f"Words as read by {ENGINES[suite].name}" in done.stdout
    )


def add_reader(verifier: str) -> None:
    net = Reader(reader.Config("AB", 8, 8))
    save_weights(Path(verifier) / "reader.safetensors", net, "reader", net.config, {})


@pytest.mark.slow
def test_without_the_engine_words_need_the_verifiers_own_reader(
    model: str, verifier: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setenv("PATH", str(here))
    for suite, install in (
        ("words-latin", "pip install 'kalpana[ocr]'"),
        ("words-devanagari", "apt install tesseract-ocr "),
    ):
        done = kalpana(
            "evaluate", model, "--suite", suite, "--dev", "--limit", "1", "--verifier", verifier
        )
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1) and not Path(
            "runs"
        ).exists()
        assert "words cannot be read: " in done.stderr and install in done.stderr
    add_reader(verifier)
    asking = [
        "evaluate",
        model,
        "--suite",
        "words-latin",
        "--dev",
        "--limit",
        "1",
        "--verifier",
        verifier,
        "--steps",
        "1",
        "--out",
        "words",
    ]
    done = kalpana(*asking)
    assert done.exit_code == 0 and done.stdout.startswith(
        "Words as read by the verifier's reader:"
    ), done.stderr
    assert (
        "warning: no second reader: RapidOCR needs onnxruntime: pip install" in done.stderr
        and done.stdout.count("| overall (not verified) |") == 1
    )


@pytest.mark.slow
def test_a_folder_of_clips_is_judged(verifier: str, here: Path) -> None:
    for prompt in first(load_clips(dev=True), 1):
        (here / "films" / f"{prompt.number:04d}").mkdir(parents=True)
        for k, image in enumerate(to_images(truth(prompt.video).frames[::4])):
            image.save(here / "films" / f"{prompt.number:04d}" / f"{k}.png")
    done = kalpana(
        "evaluate",
        "video",
        "--from-folder",
        "films",
        "--dev",
        "--limit",
        "1",
        "--verifier",
        verifier,
    )
    assert done.exit_code == 0, done.stderr
    assert (
        "| task | shuffled | frozen | nearest | score (95 %) | ceiling |" in done.stdout
        and "| dynamic degree |" in done.stdout
    )
    folder = here / "runs" / "clips-dev-films"
    assert (
        done.stderr == f"{folder.relative_to(here)}/report.json\n"
        and done.stdout == (folder / "report.md").read_text()
    )
    assert (folder / "sheet.png").exists() and json.loads((folder / "report.json").read_text())[
        "ceiling"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "clips"], "write kalpana evaluate video MODEL, or"),
        (["compare", "default", "--suite", "clips"], "write kalpana evaluate video MODEL, or"),
        (["video", "--from-folder", "nowhere"], "no video in nowhere is of prompt 0"),
        (["default", "--suite", "nonsense"], "no suite 'nonsense'"),
        (["default", "default"], "unexpected extra argument"),
        (["compare"], "Missing argument 'MODEL...'"),
        (["compare", "default", "--steps", "0"], "--steps '0' should be numbers"),
        (["compare", "default", "--steps", "2", "--default-steps"], "leave one out"),
        (["default", "--steps", "1,4"], "evaluate compare default --steps 1,4"),
        (["--from-folder", "nowhere"], "no pictures in nowhere"),
        (["default", "--from-folder", "nowhere"], "leave out the model, --steps and --plan"),
        (
            ["default", "--clip-score", "nowhere"],
            "--clip-score nowhere: there is no checkpoint 'nowhere'",
        ),
        (["compare", "default", "--clip-score", "clip"], "No such option"),
    ],
)
def test_a_wrong_way_to_evaluate_is_one_line(
    arguments: list[str], message: str, verifier: str
) -> None:
    done = kalpana("evaluate", *arguments, "--verifier", verifier)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
