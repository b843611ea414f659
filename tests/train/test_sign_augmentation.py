"""Sign augmentation: random words, none held out for dev or test, and boxes of the signs."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from kalpana.train import data_cache
from kalpana.train.reader import characters
from kalpana.train.sign_augmentation import (
    CLUSTER,
    MOST,
    SMALL,
    cluster,
    clusters,
    page,
    respelt,
    spelt,
)
from kalpana.world import maps, sprites
from kalpana.world.kinds import signs
from kalpana.world.render import render
from kalpana.world.scene import Sign
from kalpana.world.world import World

SCENES = [World(4, kind="text").scene(i) for i in range(150)]


@pytest.mark.slow
def test_most_words_give_way_to_letters_that_may_be_learned() -> None:
    rng = random.Random(0)
    pairs = [(scene, respelt(scene, rng)) for scene in SCENES for _ in range(4)]
    changed = [(old, new) for old, new in pairs if new is not old]
    new = [signs.sign_of(scene)[1].text for _, scene in changed]
    assert 0.3 < len(changed) / len(pairs) < 0.6
    assert all(signs.split_of(text) == "train" for text in new) and set("".join(new)) <= set(
        characters()
    )
    assert 0.6 < sum(not text.isascii() for text in new) / len(new) < 0.9 and len(
        set(new)
    ) > 0.8 * len(new)
    for old, scene in changed:
        k, sign = signs.sign_of(scene)
        assert (
            SMALL[0] - 0.01
            < 128 * scene.objects[k].size * signs.letter_share(sign)
            < SMALL[1] + 0.01
        )
        x0, y0, x1, y1 = sprites.box(scene.objects[k])
        assert min(x0, y0) >= signs.MARGIN - 1e-6 and max(x1, y1) <= 1 - signs.MARGIN + 1e-6
        assert scene.groups == old.groups and len(scene.objects) == len(old.objects)
        assert sign.font == signs.sign_of(old)[1].font


def test_clusters_are_whole_and_of_words_that_may_be_learned() -> None:
    assert {"क्ति", "ज्ञा", "ट्टी", "ड़"} <= set(clusters()) and not {"स्प", "ॐ"} & set(clusters())
    assert not any(cluster[0] in "ािीुूेोंँ़्" for cluster in clusters())


def test_clusters_at_random_are_what_a_reader_can_write_and_any_that_a_word_may_need() -> None:
    rng = random.Random(0)
    made = {cluster(rng) for _ in range(20000)}
    assert set("".join(made)) <= set(characters()) and all(CLUSTER.fullmatch(each) for each in made)
    assert {"सौ", "भै", "अ", "ड़"} <= made and any(each.startswith("स्प") for each in made)
    texts = [spelt(rng) for _ in range(2000)]
    assert 0.7 < sum(not text.isascii() for text in texts) / 2000 < 0.8
    assert all(
        2 <= len(text) <= 6 and set(text) <= set(signs.LETTERS) for text in texts if text.isascii()
    )


@pytest.mark.slow
def test_signs_of_a_sheet_can_be_read_and_do_not_touch() -> None:
    pages = [page(random.Random(i)) for i in range(60)]
    drawn = render(pages, masks=True)
    assert drawn.whole is not None and drawn.masks is not None
    assert {len(scene.objects) for scene in pages} <= set(range(1, MOST + 1)) and sum(
        len(scene.objects) for scene in pages
    ) > 150
    for scene, whole, seen in zip(pages, drawn.whole, drawn.masks, strict=True):
        assert torch.equal(whole, seen)  # no sign covers another
        for item in scene.objects:
            assert isinstance(item.sprite, Sign) and signs.split_of(item.sprite.text) == "train"
            assert signs.stands_out(item.sprite.ink, item.sprite.board, scene.background.name)
            assert (
                SMALL[0] - 0.01
                < 128 * item.size * signs.letter_share(item.sprite)
                < SMALL[1] + 0.01
            )


def test_boxes_are_where_the_renderer_draws_the_sign() -> None:
    scenes = [respelt(scene, random.Random(i)) for i, scene in enumerate(SCENES[:40])]
    drawn = render(scenes, masks=True)
    assert drawn.whole is not None
    for scene, whole in zip(scenes, drawn.whole, strict=True):
        k, _ = signs.sign_of(scene)
        assert maps.boxes(whole[k : k + 1])[0].tolist() == pytest.approx(
            [128 * edge for edge in sprites.box(scene.objects[k])], abs=2
        )


@pytest.mark.slow
def test_a_pool_of_sheets_is_kept_with_their_boxes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pictures, boxes = data_cache.pages(4, 70)
    scenes = [page(random.Random(f"4/page/{i}")) for i in range(70)]
    for scene, own in zip(scenes, boxes, strict=True):
        assert (
            np.allclose(own[: len(scene.objects)], [sprites.box(item) for item in scene.objects])
            and not own[len(scene.objects) :].any()
        )
    assert torch.equal(
        torch.from_numpy(np.array(pictures)), render(scenes).pixels.add(1).mul(127.5).round().byte()
    )
    monkeypatch.setattr(data_cache, "render", None)
    again, same = data_cache.pages(4, 70)
    assert (again == pictures).all() and (same == boxes).all()
