"""GenEval's kind of prompts and their verdicts, against values computed by hand from its rules."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import stable_diffusion
from toys.detector import QUERIES, write_detector
from typer.testing import CliRunner, Result

from kalpana.cli.main import app
from kalpana.evaluate.geneval_prompts import COCO, geneval_prompts
from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.run import judge
from kalpana.evaluate.score import GENEVAL, Rule, right
from kalpana.evaluate.suites import load
from kalpana.evaluate.verifiers.observations import Detection, Observation
from kalpana.evaluate.verifiers.public_verifier import PublicVerifier, most_certain
from kalpana.hub.detector import Found
from kalpana.media import to_pixels
from kalpana.text.tokenizer import Tokenizer
from kalpana.types import KalpanaError
from kalpana.understand.encoder import load as load_encoder
from kalpana.world.scene import COLORS, Group

WIDTH, HEIGHT = 400, 200  # of the pictures of hand-made detections, in pixels


def test_there_are_553_prompts_by_the_templates() -> None:
    prompts = geneval_prompts()
    assert Counter(prompt.task for prompt in prompts) == {
        "single": 80,
        "two": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }
    assert len({prompt.text for prompt in prompts}) == 553 and prompts == geneval_prompts()
    others = {prompt.text for prompt in geneval_prompts(dev=True)}
    assert len(others) == 553
    assert {prompt.task for prompt in prompts if prompt.text in others} == {"single"}
    texts = {prompt.text for prompt in prompts}
    assert {
        "a photo of a person",
        "a photo of an airplane",
        "a photo of a computer mouse",
        "a photo of a tv remote",
    } <= texts
    for prompt in prompts:
        assert prompt.text.startswith("a photo of ")
        for group in prompt.groups:
            assert group.concept in COCO and group.color in (None, *COLORS)
            assert group.concept.split()[-1] in prompt.text  # the class is named
            assert group.color is None or group.concept != "person"
            assert group.color is None or f"{group.color} " in prompt.text
    counted = [prompt for prompt in prompts if prompt.task == "counting"]
    assert {prompt.groups[0].count for prompt in counted} == {2, 3, 4}
    assert all(prompt.exact and prompt.text.endswith("s") for prompt in counted)
    placed = next(prompt for prompt in prompts if prompt.relation == "left of")
    first, second = placed.text.removeprefix("a photo of ").split(" left of ")
    assert placed.groups[0].concept.split()[-1] in first
    assert placed.groups[1].concept.split()[-1] in second


def test_other_commands_refuse_the_suite() -> None:
    with pytest.raises(KalpanaError, match="kalpana evaluate suite"):
        load("geneval-prompts")


def seen(*objects: tuple[str, float, tuple[float, ...], str | None]) -> Observation:
    """An observation of class, score, box in pixels and colour, each."""
    return Observation(
        tuple(
            Detection(kind, score, (x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT), color)
            for kind, score, (x0, y0, x1, y1), color in objects
        ),
        aspect=WIDTH / HEIGHT,
    )


def verdict(prompt: Prompt, *objects: tuple[str, float, tuple[float, ...], str | None]) -> bool:
    return right(prompt, seen(*objects), thresholds=GENEVAL)


BOX = (10.0, 10.0, 60.0, 60.0)


def ask(task: str, *groups: Group, relation: str | None = None) -> Prompt:
    return Prompt("", "en", task, groups, relation, exact=task == "counting")


@pytest.mark.parametrize(("score", "holds"), [(0.29, False), (0.3, False), (0.31, True)])
def test_an_object_counts_above_point_three(score: float, holds: bool) -> None:
    assert verdict(ask("single", Group("dog")), ("dog", score, BOX, None)) == holds


def test_more_objects_and_other_classes_are_no_error() -> None:
    two = (("dog", 0.9, BOX, None), ("dog", 0.8, BOX, None), ("cat", 0.9, BOX, None))
    assert verdict(ask("single", Group("dog")), *two)
    assert verdict(ask("two", Group("dog"), Group("cat")), *two)
    assert not verdict(ask("two", Group("dog"), Group("cow")), *two)


@pytest.mark.parametrize(
    ("scores", "count", "holds"),
    [
        ((0.95, 0.92, 0.91, 0.89), 3, True),  # the fourth is below the threshold of counting
        ((0.95, 0.92, 0.91, 0.89), 4, False),
        ((0.95, 0.92, 0.91, 0.905), 3, False),  # one too many
        ((0.95, 0.92, 0.9), 3, False),  # 0.9 itself does not count
    ],
)
def test_counts_are_exact_above_point_nine(
    scores: tuple[float, ...], count: int, holds: bool
) -> None:
    objects = [("dog", score, BOX, None) for score in scores]
    assert verdict(ask("counting", Group("dog", count)), *objects) == holds


@pytest.mark.parametrize(
    ("offset", "names"),
    [
        # Both boxes have sides of 50, so that the margin is 0.1 * (50 + 50) = 10 pixels an axis.
        ((-20, 0), set()),  # (20 - 10) / 20 = 0.5, which is not above 0.5
        ((-21, 0), {"left of"}),  # 11 / 21 = 0.52
        ((90, -10), {"right of"}),  # 80 / 90.6 = 0.88, and 0 / 90.6
        ((0, 24), {"below"}),  # 14 / 24 = 0.58
        ((-60, -60), {"left of", "above"}),  # 50 / 84.9 = 0.59 on both axes
        ((60, -90), {"above"}),  # 50 / 108.2 = 0.46 and 80 / 108.2 = 0.74
    ],
)
def test_relations_have_a_margin_in_pixels(offset: tuple[int, int], names: set[str]) -> None:
    box = (150.0, 100.0, 200.0, 150.0)
    moved = tuple(edge + offset[k % 2] for k, edge in enumerate(box))
    for relation in ("left of", "right of", "above", "below"):
        prompt = ask("position", Group("dog"), Group("cat"), relation=relation)
        objects = (("dog", 0.9, moved, None), ("cat", 0.9, box, None))
        assert verdict(prompt, *objects) == (relation in names), relation
    assert not verdict(prompt, objects[0])  # nothing to be below of


def test_the_colour_of_the_surest_object_counts() -> None:
    prompt = ask("colors", Group("dog", color="red"))
    assert verdict(prompt, ("dog", 0.9, BOX, "red"), ("dog", 0.8, BOX, "blue"))
    assert not verdict(prompt, ("dog", 0.8, BOX, "red"), ("dog", 0.9, BOX, "blue"))
    both = ask("color_attr", Group("dog", color="red"), Group("cat", color="blue"))
    assert verdict(both, ("dog", 0.9, BOX, "red"), ("cat", 0.9, BOX, "blue"))
    assert not verdict(both, ("dog", 0.9, BOX, "blue"), ("cat", 0.9, BOX, "red"))


def test_sixteen_of_a_class_are_kept_by_their_scores() -> None:
    scores = [0.5 + k / 100 for k in range(20)]
    found = Found(["dog"] * 20 + ["cat"], [*scores, 0.4], torch.zeros(21, 4))
    assert most_certain(found) == [*range(19, 3, -1), 20]


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path) -> PublicVerifier:
    """A detector whose five queries find a person in every picture, and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("people")
    write_detector(folder, COCO, always="person")
    return PublicVerifier.load(str(folder), str(clip_folder), "cpu")


@pytest.mark.slow
def test_the_colour_is_that_of_the_nearest_texts_by_clip(
    verifier: PublicVerifier, clip_folder: Path
) -> None:
    encoder = load_encoder(str(clip_folder), "cpu")
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
    boxes = [(0.2, 3.6, 20.4, 25.0), (30.0, -4.0, 70.0, 39.7), (50.0, 10.0, 50.1, 10.2)]
    crops = [(0, 4, 20, 25), (30, 0, 60, 40), (50, 10, 51, 11)]
    kinds = ["mouse", "dog", "dog"]

    def unit(tokens: str) -> torch.Tensor:
        ids = Tokenizer.load().encode([tokens], encoder.model.config.length)
        return torch.nn.functional.normalize(encoder.model.text(ids)[0], dim=0)

    wanted = []
    with torch.no_grad():
        for (x0, y0, x1, y1), name in zip(crops, ("computer mouse", "dog", "dog"), strict=True):
            crop = Image.fromarray(np.array(image)[y0:y1, x0:x1])
            pixels = to_pixels([crop.resize((32, 32), Image.Resampling.BICUBIC)])
            vector = encoder.model.image(pixels)[0]
            scores = []
            for color in COLORS:
                texts = (f"{color} {name}", f"{color}-colored {name}", f"{color} object")
                mean = sum(unit(f"a photo of a {text}") for text in texts)
                scores.append(float(torch.cosine_similarity(mean, vector, dim=0)))
            wanted.append(COLORS[int(np.argmax(scores))])
    assert verifier.colors(image, kinds, boxes) == wanted


def test_pictures_of_a_person_are_judged(verifier: PublicVerifier, tmp_path: Path) -> None:
    prompts = [
        ask("single", Group("person")),
        ask("single", Group("dog")),
        ask("counting", Group("person", QUERIES)),
    ]
    prompts = [Prompt(f"{i}", "en", each.task, each.groups, exact=each.exact)
               for i, each in enumerate(prompts)]  # fmt: skip
    colours = random.Random(0)
    images = [[Image.new("RGB", (64, 32), tuple(colours.randbytes(3)))] for _ in prompts]
    report = judge(prompts, images, verifier, tmp_path, rule=verifier.rule())
    assert {task: share.right for task, share in report.score.tasks.items()} == {
        "single": 0.5,
        "counting": 1.0,
    }
    assert report.baseline is None and report.ceiling is None and report.floor is not None
    assert "| task | floor | score (95 %) | any seed | prompts |" in report.markdown()
    for name, sha256 in verifier.judges().items():
        assert f"{name} (sha256 {sha256[:12]})" in report.markdown()
    assert json.loads((tmp_path / "report.json").read_text())["judges"] == verifier.judges()
    (one,) = verifier.look(to_pixels(images[0]))
    assert one.aspect == 2 and len(one.objects) == QUERIES
    other = judge(prompts, images, verifier, tmp_path, rule=Rule(rendered=False))
    assert other.judges == {}


def test_a_missing_model_is_one_line_with_its_option(clip_folder: Path, tmp_path: Path) -> None:
    for given, words in (
        ((None, None), ("--detector", "DETR", "PekingU/rtdetr_r50vd", "nothing is downloaded")),
        (("x", None), ("--clip", "CLIP", "openai/clip-vit-large-patch14", "nothing is downloaded")),
        ((str(clip_folder), str(clip_folder)), (f"--detector {clip_folder}: ", "config.json")),
    ):
        with pytest.raises(KalpanaError) as raised:
            PublicVerifier.load(*given, "cpu")
        assert all(word in str(raised.value) for word in words), raised.value
        assert "\n" not in str(raised.value)
    write_detector(tmp_path, COCO)
    with pytest.raises(KalpanaError, match=r"--clip nothing: there is no folder 'nothing'"):
        PublicVerifier.load(str(tmp_path), "nothing", "cpu")


def kalpana(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people-by-command")
    write_detector(folder, COCO, always="person")
    return folder


@pytest.mark.slow
def test_the_command_scores_ours_and_public_models(
    people: Path, clip_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    public = stable_diffusion.write(tmp_path / "sd")
    asked = ["--suite", "geneval-prompts", "--limit", 1, "--device", "cpu", "--steps", 1]
    judges = ["--detector", people, "--clip", clip_folder]
    for model in (folder, public):
        done = kalpana(model, *asked, *judges, "--out", f"run-{model.name}")
        assert done.exit_code == 0, done.stderr
        assert "| single | " in done.stdout and "ceiling" not in done.stdout
        assert f"detector {people.name} (sha256 " in done.stdout
        report = json.loads(Path(f"run-{model.name}/report.json").read_text())
        assert report["score"]["tasks"]["single"]["right"] == 1  # "a photo of a person"
        assert report["score"]["tasks"]["two"]["right"] == 0
        about = json.loads(Path(f"run-{model.name}/run.json").read_text())
        assert about["verifier"] == report["judges"] and len(about["verifier"]) == 2
    again = kalpana("--from-folder", f"run-{public.name}", *asked[:-2], *judges, "--out", "again")
    assert again.stdout == done.stdout
    near = kalpana(folder, *asked, *judges, "--clip-score", clip_folder, "--out", "near")
    assert near.exit_code == 0 and "CLIP score by tiny-clip" in near.stdout
    table = kalpana("compare", folder, *asked, *judges, "--out", "table")
    assert table.exit_code == 0 and "ceiling –; 6 prompts" in table.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "geneval-prompts"], "geneval-prompts needs --detector"),
        (["--detector", "x"], "--detector and --clip are for --suite geneval-prompts"),
        (["--clip", "x"], "--detector and --clip are for --suite geneval-prompts"),
        (["--suite", "geneval-prompts", "--verifier", "x"], "write --detector and --clip"),
    ],
)
@pytest.mark.parametrize("command", [[], ["compare", "default"]])
def test_options_without_effect_are_refused(
    command: list[str], options: list[str], message: str
) -> None:
    done = kalpana(*command, *options)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
