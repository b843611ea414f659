"""Seams of inpainting: steps across the border by hand, and a model without its trained input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from kalpana.evaluate.editing import seams
from kalpana.evaluate.editing.seams import WithoutKnown, holes, inside, mask_of, seam
from kalpana.evaluate.verifiers.observations import Observation, truth
from kalpana.models.control_dit import Config, ControlDiT
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


def test_a_model_without_a_trained_input_has_one_way() -> None:
    class Model:
        pass

    assert list(seams.models(Model())) == ["training-free"]  # type: ignore[arg-type]
