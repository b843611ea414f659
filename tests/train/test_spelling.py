"""Signs to learn letters from: what is spelt anew, that it is nothing dev or test may say, and where the signs are."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from kalpana.train import pool
from kalpana.train.reader import characters
from kalpana.train.spelling import SMALL, box_of, clusters, respelt
from kalpana.world import maps
from kalpana.world.kinds import signs
from kalpana.world.render import render
from kalpana.world.scene import Scene, Sign
from kalpana.world.world import World

SCENES = [World(4, kind="text").scene(i) for i in range(150)]


def sign_of(scene: Scene) -> Sign:
    (sign,) = (thing.sprite for thing in scene.things if isinstance(thing.sprite, Sign))
    return sign


def test_words_of_the_dictionary_give_way_to_letters_that_may_be_learned() -> None:
    rng, known = random.Random(0), {word for words in signs.words().values() for word in words}
    pairs = [(scene, respelt(scene, rng)) for scene in SCENES for _ in range(4)]
    changed = [(old, new) for old, new in pairs if new is not old]
    words = [old for old, _ in pairs if sign_of(old).text in known]
    assert all(sign_of(old).text in known for old, _ in changed) and 0.5 < len(changed) / len(words) < 0.8
    new = [sign_of(scene).text for _, scene in changed]
    assert all(signs.split_of(text) == "train" for text in new) and set("".join(new)) <= set(characters())
    assert 0.6 < sum(not text.isascii() for text in new) / len(new) < 0.9 and len(set(new)) > 0.9 * len(new)
    for old, scene in changed:
        (thing,) = (thing for thing in scene.things if isinstance(thing.sprite, Sign))
        assert SMALL[0] - 0.01 < 128 * thing.size * signs.letter_share(sign_of(scene)) < SMALL[1] + 0.01
        x0, y0, x1, y1 = box_of(scene)
        assert min(x0, y0) >= signs.MARGIN - 1e-6 and max(x1, y1) <= 1 - signs.MARGIN + 1e-6
        assert scene.groups == old.groups and len(scene.things) == len(old.things)
        assert sign_of(scene).font == sign_of(old).font


def test_clusters_are_whole_and_of_words_that_may_be_learned() -> None:
    assert {"क्ति", "ज्ञा", "ट्टी", "ड़"} <= set(clusters()) and not {"स्प", "ॐ"} & set(clusters())
    assert not any(cluster[0] in "ािीुूेोंँ़्" for cluster in clusters())


def test_boxes_are_where_the_renderer_draws_the_sign() -> None:
    scenes = [respelt(scene, random.Random(i)) for i, scene in enumerate(SCENES[:40])]
    drawn = render(scenes, masks=True)
    assert drawn.whole is not None
    for scene, whole in zip(scenes, drawn.whole, strict=True):
        (k,) = (k for k, thing in enumerate(scene.things) if isinstance(thing.sprite, Sign))
        assert maps.boxes(whole[k : k + 1])[0].tolist() == pytest.approx([128 * edge for edge in box_of(scene)], abs=2)


def test_a_pool_of_signs_is_kept_with_their_boxes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pictures, boxes = pool.signs(4, 70)
    scenes = [respelt(World(4, kind="text").scene(i), random.Random(f"4/respelt/{i}")) for i in range(70)]
    assert np.allclose(boxes, [box_of(scene) for scene in scenes])
    assert torch.equal(torch.from_numpy(np.array(pictures)), render(scenes).pixels.add(1).mul(127.5).round().byte())
    monkeypatch.setattr(pool, "render", None)
    again, same = pool.signs(4, 70)
    assert (again == pictures).all() and (same == boxes).all()
