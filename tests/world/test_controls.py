"""Control maps against the truth that they are made from."""

from __future__ import annotations

import pytest
import torch

from kalpana.world import maps
from kalpana.world.controls import KINDS, available, box_map, control_maps, pose
from kalpana.world.kinds.puppets import placed
from kalpana.world.kinds.signs import sign_of
from kalpana.world.render import render
from kalpana.world.scene import Puppet
from kalpana.world.world import World


@pytest.mark.parametrize("kind", ["objects", "text", "puppets", "paintings"])
def test_maps_are_pictures_of_the_truth(kind: str) -> None:
    world = World(0, "dev", kind=kind)
    scenes = [world.scene(i) for i in range(3)]
    found = control_maps(scenes)
    assert set(found) == set(KINDS)
    for name, each in found.items():
        assert each.shape == (3, 3, 128, 128) and each.min() >= 0 and each.max() <= 1, name
    for i in range(3):
        truth = world[i].truth
        assert torch.equal(found["outlines"][i, 0] > 0, truth.outlines)
        torch.testing.assert_close(found["depth"][i, 0], 1 - truth.depth)
        assert torch.equal(found["edges"][i, 0] > 0, maps.edges(truth.unpainted[None])[0])
        inside = truth.whole.any(0)
        assert torch.all(found["boxes"][i, 0][inside] >= 0.5)


def test_only_scenes_with_people_or_signs_have_their_maps() -> None:
    for kind, extra in (("objects", ()), ("text", ("glyphs",)), ("puppets", ("pose",))):
        scene = World(0, "dev", kind=kind).scene(1)
        assert available(scene) == (*KINDS[:4], *extra)
        found = control_maps([scene], ["pose", "glyphs"])
        assert [name for name in ("pose", "glyphs") if found[name].any()] == list(extra)


def test_glyphs_lie_where_the_letters_are() -> None:
    """The letters of the map cover the pixels whose colour is the ink's, and no others."""
    world = World(0, "dev", kind="text")
    for i in range(12):
        scene = world.scene(i)
        if scene.objects[sign_of(scene)[0]].sprite.board is None:  # type: ignore[union-attr]
            glyphs = control_maps([scene], ["glyphs"])["glyphs"][0, 0]
            picture = render([scene], 128, masks=True)
            assert picture.whole is not None
            letters = picture.whole[0][sign_of(scene)[0]]
            assert ((glyphs > 0.5) == letters).float().mean() > 0.99


def test_bones_join_the_joints() -> None:
    scene = World(0, "dev", kind="puppets").scene(0)
    image = pose(scene)
    (person, *_) = [item for item in scene.objects if isinstance(item.sprite, Puppet)]
    for name, (x, y) in placed(person).items():
        if 0.02 < x < 0.98 and 0.02 < y < 0.98:
            row, column = round(y * 128), round(x * 128)
            assert image[:, row - 3 : row + 4, column - 3 : column + 4].any(), name
    left, right = placed(person)["left wrist"], placed(person)["right wrist"]
    for (x, y), channel in ((left, 0), (right, 2)):
        row, column = round(y * 128), round(x * 128)
        around = image[:, row - 2 : row + 3, column - 2 : column + 3].amax((1, 2))
        assert around.argmax() == channel


def test_a_box_map_by_hand() -> None:
    plane = box_map(torch.tensor([[1, 1, 4, 4], [0, 0, 0, 0]]), 5)
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = 1
    expected[2, 2] = 0.5
    assert torch.equal(plane, expected)
