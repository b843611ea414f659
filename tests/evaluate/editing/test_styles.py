"""Style references: the probe learns what differs, and cases are of two objects in one style."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from kalpana.evaluate.editing import styles
from kalpana.evaluate.editing.estimate import share
from kalpana.evaluate.editing.styles import LABELS, Styled, StyleProbe, cases, fit, renders, shows
from kalpana.evaluate.verifiers.observations import truth
from kalpana.world.kinds.paintings import PAINTINGS
from kalpana.world.scene import STYLES


def test_renders_have_the_style_of_their_label() -> None:
    for label in LABELS:
        for scene in renders(label, 2, "train"):
            assert (scene.painting or scene.style) == label and len(scene.objects) == 1
    assert list(renders("noto", 2, "train")) != list(renders("noto", 2, "dev"))


def test_cases_cover_the_styles_but_the_house_style() -> None:
    found = list(cases(len(LABELS) - 1))
    labels = Counter(label for label, *_ in found)
    assert (
        set(labels) == {*STYLES, *PAINTINGS} - {"fluent-emoji-flat"} and max(labels.values()) == 1
    )
    for label, prompt, reference, true in found:
        assert (reference.painting or reference.style) == (true.painting or true.style) == label
        assert true.groups == prompt.groups and reference.groups != prompt.groups
        assert shows(truth(reference), reference.groups[0].concept)
        assert not shows(truth(true), reference.groups[0].concept)
    assert found[:3] == list(cases(3))


@pytest.mark.slow
def test_the_probe_learns_a_linear_rule() -> None:
    """Features that hold the label in one direction, plus noise: the probe finds it."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(len(LABELS), 64, generator=generator)
    counter = iter(range(10**6))

    def known(pixels: Tensor) -> Tensor:
        """Features by the order in which ``fit`` asks: all to learn, then those of each label."""
        start, *_ = (next(counter) for _ in pixels)
        if start == 0:
            which = torch.arange(len(LABELS)).repeat_interleave(len(pixels) // len(LABELS))
        else:
            label = (start - learn * len(LABELS)) // check
            which = torch.full((len(pixels),), label)
        return directions[which] + 0.1 * torch.randn(len(which), 64, generator=generator)

    learn, check = 3, 2
    probe = fit(known, learn, check)
    assert probe.accuracy == 1
    blind = fit(lambda pixels: torch.randn(len(pixels), 8, generator=generator), learn, check)
    assert blind.accuracy < 0.5


def test_the_table_names_the_accuracy_of_the_probe() -> None:
    half = share([True, False])
    rows = [Styled("reference", 2, share([True, True]), half, share([False, False]))]
    zero = torch.zeros(1)
    probe = StyleProbe(lambda pixels: pixels, zero, zero, zero, zero, 0.915)
    text = styles.markdown(rows, probe)
    assert "| with the reference | 100 (34 to 100) | 50 (9 to 91) | 0 (0 to 66) | 2 |" in text
    assert "is right on 92 % of 130 other renders" in text or "is right on 91 %" in text
