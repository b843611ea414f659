"""Seams of inpainting: steps across the border by hand, and a model without its trained input."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from kalpana.cli import app
from kalpana.evaluate.editing import seams
from kalpana.evaluate.editing.seams import WithoutKnown, holes, inside, mask_of, seam
from kalpana.evaluate.verifiers.observations import Observation, truth
from kalpana.hub.card import Card, write_card, write_hashes
from kalpana.hub.weights import save_weights
from kalpana.models import detector, vae
from kalpana.models.control_dit import Config, ControlDiT
from kalpana.models.detector import Detector
from kalpana.pipelines import last, load
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.request import ask
from kalpana.train.detector_labels import labels
from kalpana.types import Cond
from kalpana.world.render import render


def test_a_seam_is_the_error_of_the_steps_across_the_border() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 3:7] = True
    true = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert seam(true, true, mask) == 0
    # The same shift inside of the mask is in every step across the border: 0.2 of 2 is 25.5 of 255.
    assert seam(true + 0.2 * mask, true, mask) == pytest.approx(25.5, rel=1e-4)
    assert seam(true + 0.2, true, mask) == pytest.approx(0, abs=1e-4)  # no step at all
    deep = torch.zeros(8, 8)
    deep[3, 4:6] = 1  # does not touch the border
    assert seam(true + deep, true, mask) == 0
    corner = torch.zeros(8, 8)
    corner[2, 3] = 1  # in 2 of the 2 * (3 + 4) steps across
    assert seam(true + corner, true, mask) == pytest.approx(127.5 * 2 / 14, rel=1e-4)


@pytest.mark.slow
def test_the_object_is_in_the_hole() -> None:
    for hole in holes(4):
        whole = render([hole.scene], masks=True).whole
        assert whole is not None
        at = [item.group for item in hole.scene.objects].index(hole.scene.groups.index(hole.group))
        assert not (whole[0][at] & ~mask_of(hole)).any()
        seen = truth(hole.scene)
        assert inside(hole, seen)
        others = tuple(item for item in seen.objects if item.concept != hole.group.concept)
        assert not inside(hole, Observation(others))
        mine = next(item for item in seen.objects if item.concept == hole.group.concept)
        assert not inside(hole, Observation((replace(mine, color="none"),)))
        assert not inside(hole, Observation((replace(mine, score=0.3),)))
        far = tuple((edge + 0.5) % 1 for edge in mine.box)
        away = replace(mine, box=(far[0], far[1], far[0] + 0.01, far[1] + 0.01))
        assert not inside(hole, Observation((away,)))


@pytest.mark.slow
def test_without_its_trained_input_a_network_does_not_read_it() -> None:
    network = ControlDiT(Config(width=32, depth=2, heads=2, text_depth=1, fine=8))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    free = WithoutKnown(network)
    assert "known" in network.reads and set(free.reads) == set(network.reads) - {"known"}
    assert not getattr(free, "blends", False) and free.config is network.config
    x, t = torch.randn(1, network.config.channels, 4, 4), torch.tensor([0.5])
    null = torch.ones(1, dtype=torch.bool)
    torch.testing.assert_close(free(x, t, Cond(null=null)), network(x, t, Cond(null=null)))


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny control transformer with random weights, also for known latents."""
    folder = tmp_path_factory.mktemp("tiny-control")
    torch.manual_seed(0)
    network = ControlDiT(Config(width=32, depth=2, heads=2, text_depth=1, fine=8))
    decoder = vae.VAE(vae.Config(fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    for parameter in [*network.parameters(), *decoder.parameters()]:
        nn.init.normal_(parameter, std=0.2)
    save_weights(folder / "control_dit.safetensors", network, "control", network.config, {})
    save_weights(folder / "vae.safetensors", decoder, "vae", decoder.config, {})
    capabilities = {"sizes": ("32x32",), "defaults": {"steps": 2, "size": "32x32"}}
    card = Card(
        name="tiny-control", family="control", tasks=("text-to-image",), capabilities=capabilities
    )
    write_card(folder, card)
    write_hashes(folder)
    return folder


@pytest.mark.slow
def test_the_training_free_way_is_that_of_weights_of_zero(control: Path) -> None:
    """Blending stays, and the known latents have no effect: as with their weights at zero."""
    model = load(str(control), "cpu")
    ways = seams.models(model)
    assert list(ways) == ["training-free", "trained"] and ways["trained"] is model
    assert isinstance(model, DiffusionPipeline)
    zero = copy.deepcopy(model.network)
    with torch.no_grad():
        zero.known_stem.weight.zero_()  # type: ignore[attr-defined]
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    request = ask("a cat", image=Image.new("RGB", (32, 32), "red"), mask=mask, seed=1)
    pictures = [
        last(each.generate(request)).outputs[0].image.tobytes()
        for each in (ways["training-free"], replace(model, network=zero), ways["trained"])
    ]
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.slow
def test_the_command_measures_each_part(control: Path, folder: Path, tmp_path: Path) -> None:
    net = Detector(
        detector.Config(classes=len(labels()), fine=8, coarse=8, deep=8, depth=(1, 1, 1, 1))
    )
    save_weights(tmp_path / "detector.safetensors", net, "detector", net.config, {})

    def evaluate(*arguments: object) -> Result:
        asked = ["evaluate", "editing", *arguments, "-n", 1, "--verifier", tmp_path]
        return CliRunner().invoke(app, [*map(str, asked), "--device", "cpu"])

    sheet = tmp_path / "sheet.png"
    done = evaluate(control, "--part", "seams", "--part", "edits", "--sheet", sheet)
    assert done.exit_code == 0, done.stderr
    for row in ("training-free", "trained input", "grey in the mask", "colour: edited"):
        assert f"| {row}" in done.stdout
    with Image.open(sheet) as image:  # the hole, two ways and the true picture
        assert image.width // 256 == 4
    plain = evaluate(folder, "--part", "seams")
    assert "training-free" in plain.stdout and "trained input" not in plain.stdout
    for arguments, message in (
        ((control, "--part", "seam"), "--part 'seam' should be one of edits, seams, styles"),
        ((control, "--part", "edits", "--sheet", sheet), "--sheet shows seams"),
        (("vqgan-clip",), "has no source_prompt"),
    ):
        refused = evaluate(*arguments)
        assert refused.exit_code == 2 and message in refused.stderr, refused.stderr


def test_a_model_without_a_trained_input_has_one_way() -> None:
    class Model:
        pass

    assert list(seams.models(Model())) == ["training-free"]  # type: ignore[arg-type]
