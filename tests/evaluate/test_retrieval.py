"""CLIP evaluation: a perfect encoder, a random encoder at chance, and ranks counted by hand."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kalpana.evaluate import retrieval
from kalpana.evaluate.retrieval import alike, core, lone, measure, recall, small
from kalpana.types import KalpanaError
from kalpana.world.world import World


class Hashes:
    """A random encoder: a vector for each picture and text, seeded by a hash of its bytes."""

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.stack([self._way(image.tobytes()) for image in images])

    def texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._way(text.encode()) for text in texts])

    def _way(self, data: bytes) -> Tensor:
        return F.normalize(
            torch.randn(64, generator=torch.Generator().manual_seed(zlib.crc32(data))), dim=0
        )


def test_recall_of_a_hand_made_order() -> None:
    """Text 0 ranks picture 0 first, text 1 ranks picture 1 second.

    Texts 2 and 3 are equal, and each ranks the other's picture first.
    """
    image = torch.eye(4)
    text = torch.tensor([[1, 0, 0, 0], [1, 0.5, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0.0]])
    same = alike(["a", "b", "c", "c"])
    found = recall(image, text, same)
    assert found.pictures == (0.75, 1.0, 1.0)
    assert recall(image, text, torch.eye(4, dtype=torch.bool)).pictures[0] == 0.25
    # Text 0 is nearer to picture 0 than text 1 is; picture 1 has text 1 alone.
    assert found.captions == (1.0, 1.0, 1.0)


@pytest.mark.slow
def test_what_knows_nothing_is_at_chance() -> None:
    report = measure(Hashes(), scenes=60, kind="objects", style="streamline-emojis")
    for language in report.recall.values():
        assert language.pictures[0] < 0.15 and language.captions[2] < 0.5
    assert report.agreement < 0.15 and 0.25 < report.twists["mean"][0] < 0.75
    assert all(share < 0.08 for share in report.classes.values())
    lines = report.markdown()
    assert "R@10 of 60 | 16.7 % |" in lines and "streamline-emojis, never seen" in lines


class Knows(Hashes):
    """A perfect encoder: each true caption gets the vector of its picture."""

    def __init__(self, kind: str, scenes: int) -> None:
        world = World(1, "test", kind=kind)
        self.home: dict[bytes, bytes] = {}
        twisted = retrieval._twisted(world, scenes // 10).values()
        for i in {*range(scenes), *(i for each in twisted for i, _, _ in each)}:
            (image,) = retrieval.to_images(retrieval.render([world.scene(i)]).pixels)
            for language in ("en", "hi"):
                text = retrieval._said(world.scene(i), kind, language, i)
                self.home[text.encode()] = image.tobytes()

    def _way(self, data: bytes) -> Tensor:
        return super()._way(self.home.get(data, data))


@pytest.mark.slow
def test_what_knows_all_is_right() -> None:
    report = measure(Knows("objects", 40), scenes=40, kind="objects")
    assert all(
        language.pictures[0] == language.captions[0] == 1 for language in report.recall.values()
    )
    assert report.agreement == 1 and all(
        share == 1 and count > 0 for share, count in report.twists.values()
    )
    assert "never seen" not in report.markdown()


@pytest.mark.slow
def test_every_way_to_be_wrong_has_as_many_scenes() -> None:
    world = World(1, "test", kind="everything")
    found = retrieval._twisted(world, 5)
    assert found.keys() == {
        "color",
        "colors",
        "count",
        "facing",
        "fingers",
        "pose",
        "relation",
        "word",
    }
    assert all(len(each) == 5 for each in found.values())
    for each in found.values():
        assert all(other.objects and other != world.scene(i) for i, _, other in each)


def test_a_style_that_nobody_draws_in_is_told() -> None:
    with pytest.raises(
        KalpanaError, match=r"drawn in the style 'nostyle': the styles are fluent-3d, .*, twemoji"
    ):
        core("nostyle")


def test_lone_things_are_in_the_style_that_is_asked_for_and_in_their_own_colours() -> None:
    for concept in core("noto")[:10]:
        scene = lone(concept, "noto", f"{concept}/0")
        assert scene.style == "noto" and len(scene.objects) == 1 and scene.objects[0].color is None
        assert scene == lone(concept, "noto", f"{concept}/0")
    assert small([lone("1f34e", "noto", "x")]).shape == (1, 768)


def test_the_same_picture_is_its_own_nearest_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "EACH", 1)
    monkeypatch.setattr(retrieval, "TAUGHT", 1)
    monkeypatch.setattr(
        retrieval, "lone", lambda concept, style, seed: lone(concept, "noto", concept)
    )
    _, right = retrieval.zero_shot(Hashes(), "noto")
    assert right == 1
