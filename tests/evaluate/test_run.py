"""Evaluation runs: true pictures score as the ceiling, exchanged ones as the floor.

An interrupted run resumes, and a folder refuses a different run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from kalpana.capabilities import Capabilities
from kalpana.evaluate.compare import Clock, compare, markdown
from kalpana.evaluate.cost import Cost
from kalpana.evaluate.nearest_caption import retrieve
from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.run import SEEDS, exchanged, first, judge, pictures_of, run
from kalpana.evaluate.score import ALIKE
from kalpana.evaluate.suites import load
from kalpana.evaluate.verifiers.observations import Observation, Reading, truth
from kalpana.hub.card import Card, write_card, write_hashes
from kalpana.hub.weights import save_weights
from kalpana.media import save, to_images, to_pixels
from kalpana.models import clip
from kalpana.text.tokenizer import Tokenizer
from kalpana.types import KalpanaError, Output
from kalpana.understand.encoder import load as load_encoder
from kalpana.world.render import render
from kalpana.world.scene import Scene
from kalpana.world.world import World

PROMPTS = first(load("spriteeval", dev=True), 3)


class Knows:
    """A verifier without error: it identifies every picture that it rendered by its pixels."""

    def __init__(self) -> None:
        self.known: dict[bytes, Scene] = {}

    def learn(self, scenes: Sequence[Scene]) -> list[Image.Image]:
        images = to_images(render(scenes).pixels)
        self.known.update(zip((image.tobytes() for image in images), scenes, strict=True))
        return images

    def look(self, pixels: Tensor) -> list[Observation]:
        return [
            truth(self.known[image.tobytes()]) if image.tobytes() in self.known else Observation()
            for image in to_images(pixels)
        ]


def teach(verifier: Knows, prompts: Sequence[Prompt]) -> None:
    """Render all pictures of the reference scores with the verifier."""
    for prompt in prompts:
        verifier.learn(
            [prompt.scene(random.Random(f"ceiling/{seed}")) for seed in prompt.seeds(SEEDS)]
        )
    verifier.learn([World().scene(k) for k in retrieve([prompt.text for prompt in prompts])])


@pytest.mark.slow
def test_true_pictures_score_as_the_ceiling_and_a_run_goes_on(tmp_path: Path) -> None:
    verifier, drawn = Knows(), []
    teach(verifier, PROMPTS)

    def draw(prompt: Prompt, seeds: Sequence[int]) -> list[Output]:
        drawn.append((prompt.text, tuple(seeds)))
        images = verifier.learn([prompt.scene(random.Random(seed)) for seed in seeds])
        return [
            Output(image, seed, {"request": {"prompt": prompt.text}})
            for image, seed in zip(images, seeds, strict=True)
        ]

    about = {"model": "truth", "suite": "spriteeval-dev"}
    report = run(PROMPTS, draw, about, verifier, tmp_path, lambda done, total: None)
    assert (
        report.score.overall.right
        == report.ceiling.overall.right
        == report.strict.overall.right
        == 1
    )
    assert report.floor.overall.right < 0.35 and report.baseline.overall.right < 1
    assert json.loads((tmp_path / "report.json").read_text())["score"]["overall"]["right"] == 1
    assert (tmp_path / "report.md").read_text() == report.markdown()
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 1000
    assert drawn == [(prompt.text, tuple(prompt.seeds(SEEDS))) for prompt in PROMPTS]

    (tmp_path / "0001-2.png").unlink()
    again = run(PROMPTS, draw, about, verifier, tmp_path, lambda done, total: None)
    assert (
        again == report
        and drawn[-1] == (PROMPTS[1].text, (PROMPTS[1].seeds(SEEDS)[2],))
        and len(drawn) == len(PROMPTS) + 1
    )
    with pytest.raises(KalpanaError, match="model 'truth', not 'lies'"):
        run(PROMPTS, draw, about | {"model": "lies"}, verifier, tmp_path, lambda done, total: None)


def test_pictures_made_elsewhere_are_found_by_number_or_receipt(tmp_path: Path) -> None:
    image = Image.new("RGB", (128, 128), "red")
    with pytest.raises(KalpanaError, match="no pictures"):
        list(pictures_of(tmp_path, PROMPTS[:2]))
    image.save(tmp_path / "0000-0.png")
    image.save(tmp_path / "0000-1.png")
    with pytest.raises(KalpanaError, match="call it 0001-0"):
        list(pictures_of(tmp_path, PROMPTS[:2]))
    save(image, tmp_path / "any-name.png", {"request": {"prompt": PROMPTS[1].text}})
    assert [len(found) for found in pictures_of(tmp_path, PROMPTS[:2])] == [2, 1]
    (tmp_path / "0000-0.png").write_bytes(b"no picture")
    with pytest.raises(KalpanaError, match="cannot be read"):
        list(pictures_of(tmp_path, PROMPTS[:2]))


def test_every_prompt_is_exchanged_for_another_of_its_task() -> None:
    prompts = first(load("spriteeval", dev=True), 5)
    other = exchanged(prompts)
    assert sorted(other) == list(range(len(prompts))) and all(k != i for i, k in enumerate(other))
    assert [prompts[k].task for k in other] == [prompt.task for prompt in prompts]


def test_a_prompt_alone_in_its_task_is_exchanged_for_one_of_another_task() -> None:
    prompts = first(load("spriteeval", dev=True), 2)
    one_each = first(prompts, 1)
    # Six tasks of one prompt; two of two and one of one; a single prompt.
    for asked in (one_each, [*prompts[:4], prompts[4]], [prompts[0], *prompts[2:4]]):
        other = exchanged(asked)
        assert sorted(other) == list(range(len(asked)))
        assert all(k != i for i, k in enumerate(other))
    assert exchanged(prompts[:1]) == []


@pytest.mark.slow
def test_a_single_prompt_has_no_floor_and_few_have_no_interval(tmp_path: Path) -> None:
    asked, verifier = PROMPTS[:1], Knows()
    true = [verifier.learn([asked[0].scene(random.Random(0))])]
    report = judge(asked, true, verifier, tmp_path)
    assert report.floor is None and "| floor |" not in report.markdown()
    share = report.score.overall
    assert (share.low, share.high) == (None, None) and share.percent() == "100.0"
    assert "Strict (nothing else in the picture): 100.0." in report.markdown()


@pytest.mark.slow
def test_a_training_caption_is_its_own_nearest() -> None:
    world = World()
    asked = [world.describe(i)[0] for i in (5, 77, 901)]
    found = retrieve(asked)
    assert [world.describe(k)[0] for k in found] == asked


class Reads(Knows):
    """The same with three text readers.

    The first is exact; the second reads O for 0 and I for 1, and declares it; the third omits the
    last letter.
    """

    def look(self, pixels: Tensor) -> list[Observation]:
        return [
            replace(one, readings=tuple(self.readings(one.readings)))
            for one in super().look(pixels)
        ]

    def readings(self, true: tuple[Reading, ...]) -> Iterator[Reading]:
        words = true[0].words if true else ()
        yield Reading(words, "exact")
        yield Reading(tuple(word.translate(ALIKE) for word in words), "plain", alike=True)
        yield Reading(tuple(word[:-1] for word in words), "short")


@pytest.mark.slow
def test_words_are_judged_by_the_first_reader_and_beside_it_by_the_others(tmp_path: Path) -> None:
    numbered = [
        prompt for prompt in load("words-latin", dev=True) if set("01") & set(prompt.word or "")
    ]
    prompts = first(
        [replace(prompt, task=f"words {k}") for k, prompt in enumerate(numbered[:4])], 1
    )
    verifier = Reads()
    teach(verifier, prompts)
    images = [
        verifier.learn([prompt.scene(random.Random(seed)) for seed in prompt.seeds(2)])
        for prompt in prompts
    ]
    report = judge(prompts, images, verifier, tmp_path)
    assert (report.reader, *(other.reader for other in report.others)) == (
        "exact",
        "plain",
        "short",
    )
    for one in (report, report.others[0]):
        assert one.score.overall.right == one.strict.overall.right == one.ceiling.overall.right == 1
        assert one.score.distance == one.ceiling.distance == 0
    short = report.others[1]
    assert short.score.overall.right == 0
    assert short.score.distance == pytest.approx(
        sum(1 / len(prompt.word or "") for prompt in prompts) / len(prompts)
    )
    assert report.baseline.distance is not None and report.baseline.distance > 0.5
    assert report.floor is not None and report.floor.distance is not None
    assert report.floor.distance > 0.5, "the words of another prompt"
    output = report.markdown()
    for words in (
        "Words as read by exact:",
        "Words as read by plain:",
        f"alike): floor {report.floor.distance:.3f}, baseline",
        "score 0.000, ceiling 0.000.",
    ):
        assert words in output, output
    assert output.count("| overall |") == 3 and (tmp_path / "report.md").read_text() == output
    kept = json.loads((tmp_path / "report.json").read_text())
    assert (
        kept["others"][1]["score"]["distance"] == short.score.distance
        and kept["others"][0]["reader"] == "plain"
    )
    deaf = judge(prompts, [[Image.new("RGB", (128, 128))]] * len(prompts), Knows(), tmp_path)
    assert (deaf.score.distance, deaf.score.overall.right, deaf.others) == (
        1,
        0,
        (),
    ) and "read by no reader" in deaf.markdown()


def turned(folder: Path, made: Path) -> Path:
    """The CLIP of a folder with negated text features: all cosines change their sign."""
    network = clip.CLIP(load_encoder(str(folder), "cpu").model.config)
    network.load_state_dict(load_encoder(str(folder), "cpu").model.state_dict())
    with torch.no_grad():
        network.read.project.weight.neg_()
    save_weights(made / "clip.safetensors", network, "clip", network.config, {})
    write_card(made, Card(name="turned", family="clip"))
    write_hashes(made)
    return made


@pytest.mark.slow
def test_the_clip_score_is_the_mean_cosine_where_it_is_positive(
    clip_folder: Path, tmp_path: Path
) -> None:
    prompts, verifier = first(load("spriteeval", dev=True), 2), Knows()
    encoder = load_encoder(str(clip_folder), "cpu")
    teach(verifier, prompts)
    colours = random.Random(0)
    images = [
        [Image.new("RGB", (64, 64), tuple(colours.randbytes(3))) for _ in range(1 + i % 3)]
        for i in range(len(prompts))
    ]

    def cosine(image: Image.Image, text: str) -> float:
        pixels = to_pixels([image.resize((32, 32), Image.Resampling.BICUBIC)])
        tokens = Tokenizer.load().encode([text], encoder.model.config.length)
        with torch.no_grad():
            return torch.cosine_similarity(
                encoder.model.image(pixels), encoder.model.text(tokens)
            ).item()

    def overall(scores: list[list[float]]) -> float:
        """The mean over tasks of the mean over prompts of the mean over pictures, in per cent."""
        tasks = {prompt.task: [] for prompt in prompts}  # type: dict[str, list[float]]
        for prompt, row in zip(prompts, scores, strict=True):
            tasks[prompt.task].append(sum(row) / len(row))
        return 100 * sum(sum(each) / len(each) for each in tasks.values()) / len(tasks)

    for name in ("run", "bare"):
        (tmp_path / name).mkdir()
    report = judge(prompts, images, verifier, tmp_path / "run", encoder=encoder)
    back = judge(
        prompts,
        images,
        verifier,
        tmp_path / "run",
        encoder=load_encoder(str(turned(clip_folder, tmp_path / "turned")), "cpu"),
    )
    assert report.clip is not None and back.clip is not None
    true = [
        to_images(
            render(
                [prompt.scene(random.Random(f"ceiling/{seed}")) for seed in prompt.seeds(SEEDS)]
            ).pixels
        )
        for prompt in prompts
    ]
    shuffled = [images[k] for k in exchanged(prompts)]
    for pictures, forth, other in (
        (images, report.clip.score, back.clip.score),
        (shuffled, report.clip.floor, back.clip.floor),
        (true, report.clip.ceiling, back.clip.ceiling),
    ):
        cosines = [
            [cosine(image, prompt.text) for image in row]
            for prompt, row in zip(prompts, pictures, strict=True)
        ]
        for table, sign in ((forth, 1), (other, -1)):
            wanted = overall([[max(sign * each, 0) for each in row] for row in cosines])
            assert 100 * table.overall.right == pytest.approx(wanted, abs=1e-3)
            assert table.overall.low <= table.overall.right <= table.overall.high <= 1
    best = [
        max(cosine(image, prompt.text) for image in row)
        for prompt, row in zip(prompts, images, strict=True)
    ]
    assert max(report.clip.score.overall.right, back.clip.score.overall.right) > 0.01, (
        "there is something to see"
    )
    assert report.clip.score.overall.any_right == pytest.approx(
        sum(max(each, 0) for each in best) / len(best), abs=1e-5
    )
    assert report.clip.score.overall.prompts == len(prompts)

    assert (report.clip.name, report.clip.sha256) == (
        "tiny-clip",
        encoder.fingerprint,
    ) and back.clip.sha256 != encoder.fingerprint
    assert (
        replace(back, clip=None)
        == replace(report, clip=None)
        == judge(prompts, images, verifier, tmp_path / "bare")
    )
    output = back.markdown()
    assert (
        output.count("| overall |") == 2
        and "CLIP score by turned (100 cos, 0 where it is negative" in output
    )
    assert (
        json.loads((tmp_path / "run/report.json").read_text())["clip"]["sha256"] == back.clip.sha256
    ), "the last CLIP asked for"


@dataclass
class Named:
    name: str
    capabilities: Capabilities = field(default_factory=Capabilities)
    files: dict[str, str] = field(default_factory=dict)


def quiet(label: str) -> Callable[[int, int], None]:
    return lambda done, total: None


@pytest.mark.slow
def test_the_truth_beats_a_blank_sheet_and_a_stopped_comparison_goes_on(tmp_path: Path) -> None:
    verifier, drawn = Knows(), []
    teach(verifier, PROMPTS)

    def true(prompt: Prompt, seeds: Sequence[int], steps: int | None) -> list[Output]:
        drawn.append(("true", steps))
        images = verifier.learn([prompt.scene(random.Random(f"{seed}/{steps}")) for seed in seeds])
        return [Output(image, seed, {}) for image, seed in zip(images, seeds, strict=True)]

    def blank(prompt: Prompt, seeds: Sequence[int], steps: int | None) -> list[Output]:
        drawn.append(("blank", steps))
        return [Output(Image.new("RGB", (128, 128)), seed, {}) for seed in seeds]

    one_shot = Named("blank", Capabilities(uses=("guidance",)))
    models = [
        (Named("true"), true, Cost(14_400_000, 7.25e15, 2**29)),
        (one_shot, blank, Cost(None, None, None)),
    ]
    entries = compare(models, PROMPTS, (1, 4), {"suite": "twin"}, verifier, tmp_path, quiet)
    assert [(entry.model, entry.steps, entry.score.right) for entry in entries] == [
        ("true", 1, 1.0),
        ("true", 4, 1.0),
        ("blank", None, 0.0),
    ]
    assert all(entry.seconds > 0 and entry.ceiling == 1 for entry in entries)
    assert len(drawn) == 3 * len(PROMPTS)
    output = (tmp_path / "compare.md").read_text()
    assert "not verified" not in output, "nobody asked"
    assert (
        "| true | 4 | 100.0 (100.0 to 100.0) |" in output
        and "| blank |  | 0.0" in output
        and "read by" not in output
    )
    assert (
        output.count(" | 0.50 GiB | 14.4 M | 7.25 PFLOP |\n") == 2
        and output.count(" | – | – | – |\n") == 1
    )
    assert markdown([replace(entries[0], reader="Tesseract")]).endswith(
        "Words are as read by Tesseract.\n"
    )

    (own, _) = compare(
        models, PROMPTS, (None,), {"suite": "twin"}, verifier, tmp_path / "own", quiet
    )
    assert (
        own.steps == models[0][0].capabilities.defaults.steps == 20
        and ("true", None) in drawn[-2 * len(PROMPTS) :]
    )
    del drawn[-2 * len(PROMPTS) :]

    assert compare(models, PROMPTS, (1, 4), {"suite": "twin"}, verifier, tmp_path, quiet) == entries
    assert len(drawn) == 3 * len(PROMPTS), "what was drawn is not drawn again"
    with pytest.raises(KalpanaError, match="another folder"):
        compare(models, PROMPTS, (1, 4), {"suite": "other"}, verifier, tmp_path, quiet)
    with pytest.raises(KalpanaError, match="two of the models are called 'true'"):
        compare([models[0], models[0]], PROMPTS, (1,), {}, verifier, tmp_path / "twice", quiet)


def test_a_clock_goes_on_from_its_file(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "seconds.json")
    with clock:
        pass
    clock.note(3)
    again = Clock(tmp_path / "seconds.json")
    assert (again.pictures, again.seconds) == (3, clock.seconds) and again.each == clock.seconds / 3
    with again:
        pass
    assert again.seconds > clock.seconds
