"""The commands that make control maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kalpana.cli import app


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kalpana(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def test_the_edge_of_two_colours_is_a_line(here: Path) -> None:
    picture = Image.new("RGB", (40, 30), "navy")
    picture.paste((255, 255, 255), (20, 0, 40, 30))
    picture.save("half.png")
    found = np.asarray(Image.open(kalpana("map", "edges", "half.png")).convert("L"))
    assert found.shape == (30, 40) and set(found[15]) == {0, 255}
    assert (found == 255).any(0).nonzero()[0].tolist() in ([19], [20], [19, 20])


def test_glyphs_are_placed_as_generate_places_them(here: Path) -> None:
    from kalpana.media import to_images
    from kalpana.pipelines.planner import plan_glyphs

    path = kalpana("map", "glyphs", 'a sign that says "OPEN"', "--seed", "4")
    plan = plan_glyphs('a sign that says "OPEN"', 4)
    assert plan is not None and Path(path).name == "open-glyphs-4.png"
    assert Image.open(path).tobytes() == to_images(2 * plan.map[None] - 1)[0].tobytes()
    done = CliRunner().invoke(app, ["map", "glyphs", "a sign"])
    assert done.exit_code == 2 and "not one legible word in quotes" in done.stderr


def test_boxes_of_a_prompt_are_placed_as_generate_places_them(here: Path) -> None:
    from kalpana.media import read_receipt, to_images
    from kalpana.pipelines.planner import plan_layout

    path = kalpana("map", "boxes", "seven stars", "--seed", "4", "--side", "64")
    plan = plan_layout("seven stars", 4, 64)
    assert plan is not None and Path(path).name == "seven-stars-boxes-4.png"
    assert Image.open(path).tobytes() == to_images(2 * plan.map[None] - 1)[0].tobytes()
    assert read_receipt(Path(path))["boxes"] == plan.facts()
    usual = Image.open(kalpana("map", "boxes", "सात तारे"))
    wanted = plan_layout("सात तारे", 0)
    assert wanted is not None and usual.size == (128, 128)
    assert usual.tobytes() == to_images(2 * wanted.map[None] - 1)[0].tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["a cat riding a bicycle"],
            "'a cat riding a bicycle' is no picture file, and as a prompt",
        ),
        (["seven stars", "--score", "0.5"], "--score is for pictures, and there is none"),
        (["missing.png", "--seed", "1"], "--seed is for prompts, and there is none"),
        (["missing.png", "--side", "64"], "--side is for prompts, and there is none"),
    ],
)
def test_boxes_of_nothing_are_an_error(here: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["map", "boxes", *arguments])
    assert done.exit_code == 2 and message in done.stderr


@pytest.mark.slow
def test_boxes_are_those_of_the_objects_that_are_found(here: Path) -> None:
    from kalpana.evaluate.verifiers.observations import iou
    from kalpana.media import to_images
    from kalpana.world.controls import control_maps
    from kalpana.world.world import World

    world = World(0, "dev")
    scene = world.scene(2)  # a doughnut alone
    to_images(world.images([2]))[0].save("one.png")
    found = np.asarray(Image.open(kalpana("map", "boxes", "one.png")).convert("L")) > 0
    true = control_maps([scene], ["boxes"])["boxes"][0, 0].numpy() > 0
    boxes = [
        (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        for rows, columns in (np.nonzero(found), np.nonzero(true))
    ]
    assert iou(*boxes) > 0.7
    done = CliRunner().invoke(app, ["map", "boxes", "one.png", "--score", "1"])
    assert done.exit_code == 2 and "one.png: no object was found: lower --score" in done.stderr
