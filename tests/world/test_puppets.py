"""Tests of puppets: joint positions, distinct poses and true captions."""

from __future__ import annotations

import itertools
import math
import random
import re
import unicodedata
from collections import Counter

import pytest
import torch

from kalpana.world import figures, places
from kalpana.world.grammar import FORMS
from kalpana.world.kinds import puppets
from kalpana.world.recolor import PAINTS
from kalpana.world.render import render
from kalpana.world.scene import LOOKS, Background, Puppet, Scene, SceneObject
from kalpana.world.world import World

WORLD = World(seed=5, kind="puppets")
PARTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
NAMES = {"head", "neck", *(f"{side} {part}" for side in ("left", "right") for part in PARTS)}
BONES = [
    (f"{side} {a}", f"{side} {b}")
    for side in ("left", "right")
    for a, b in (PARTS[:2], PARTS[1:3], PARTS[3:5], PARTS[4:])
]

# Patterns that match the captions of one pose only, independent of the module's word tables.
ENGLISH = {
    "standing": "standing",
    "waving": "waving",
    "arms up": "(arms|hands) (up|raised)|raising both arms",
    "arms out": "arms (spread )?wide|arms out|spreading",
    "hands on hips": "hips",
    "jumping": "jumping|leaping",
    "dancing": "dancing|doing a dance",
    "stretching": "stretch",
    "balancing": "balanc",
    "handstand": "handstand",
    "pointing": "pointing",
    "namaste": "namaste|folded hands|palms pressed",
    "walking": "walk|strolling",
    "running": "running|sprinting",
    "kicking": "kick",
    "kneeling": "kneeling|on one knee",
    "sitting": "sitting|seated",
    "crawling": "crawling|all fours",
    "bowing": r"\bbow",
    "lying down": "lying",
}
HINDI = {  # each matches at the beginning of a word
    "standing": "खड़",
    "waving": "हिला",
    "arms up": "ऊपर (किए|उठा)",
    "arms out": "फैला",
    "hands on hips": "कमर पर",
    "jumping": "कूद|उछल|छलाँग",
    "dancing": "नाच|नृत्य",
    "stretching": "अंगड़ाई|स्ट्रेचिंग|तान",
    "balancing": "संतुलन",
    "handstand": "हैंडस्टैंड|हाथों के बल",
    "pointing": "इशारा",
    "namaste": "नमस्ते|हाथ जोड़",
    "walking": "चल(त| रह)|टहल",
    "running": "दौड़|भाग",
    "kicking": "लात|किक",
    "kneeling": "घुटना",
    "sitting": "बैठ",
    "crawling": "रेंग",
    "bowing": "झुक",
    "lying down": "लेट",
}
HINDI_COLORS = {
    "red": "लाल",
    "orange": "नारंगी|संतरी",
    "yellow": "पीली",
    "green": "हरी",
    "blue": "नीली",
    "purple": "बैंगनी|जामुनी",
    "pink": "गुलाबी",
    "brown": "भूरी",
    "black": "काली",
    "white": "सफ़ेद",
}


def cast(scene: Scene) -> list[Puppet]:
    """The puppets, in the order of the scene's groups."""
    objects = sorted(scene.objects, key=lambda item: item.group)
    return [item.sprite for item in objects if isinstance(item.sprite, Puppet)]


def plain(text: str) -> str:
    """Normalised spelling: without nuqta, and with anusvara for chandrabindu."""
    return unicodedata.normalize("NFD", text).replace("\u093c", "").replace("ँ", "ं")


def some_puppet(pose: str, seed: int) -> Puppet:
    return Puppet(pose, "tan", "red", "blue", LOOKS[seed % 3], seed)


def shape(joints: dict[str, tuple[float, float]], mirrored: bool = False) -> list[float]:
    """Joint coordinates relative to the hips, in lengths of the torso."""
    hip = [(joints["left hip"][k] + joints["right hip"][k]) / 2 for k in (0, 1)]
    torso = math.dist(hip, joints["neck"])
    swap = {"left": "right", "right": "left"}
    out = []
    for name in sorted(NAMES):
        side, _, part = name.partition(" ")
        x, y = joints[f"{swap[side]} {part}" if mirrored and part else name]
        out += [(x - hip[0]) / torso * (-1 if mirrored else 1), (y - hip[1]) / torso]
    return out


def test_there_are_twenty_poses_and_fourteen_joints() -> None:
    assert len(puppets.POSES) == 20 and ENGLISH.keys() == HINDI.keys() == puppets.POSES.keys()
    for pose in puppets.POSES:
        assert puppets.joints(some_puppet(pose, 1)).keys() == NAMES


@pytest.mark.parametrize(
    ("angle", "flip", "size"),
    [(0, False, 0.9), (0, True, 0.6), (5, False, 0.75), (-30, True, 0.7), (150, False, 0.55)],
)
def test_joints_lie_in_the_figure(angle: float, flip: bool, size: float) -> None:
    """Every joint lies in the rendered mask."""
    objects = [
        SceneObject(some_puppet(pose, 7), 0.48, 0.53, size, angle, flip) for pose in puppets.POSES
    ]
    scenes = [Scene((item,), (), Background("flat", "light green")) for item in objects]
    masks = render(scenes, 128, masks=True).masks
    assert masks is not None
    for item, mask in zip(objects, masks, strict=True):
        assert isinstance(item.sprite, Puppet)
        for name, (x, y) in puppets.placed(item).items():
            assert mask[0, int(y * 128), int(x * 128)], (
                f"{item.sprite.pose}: the {name} is outside the figure"
            )


@pytest.mark.parametrize(("angle", "flip"), [(0, False), (0, True), (35, True), (-35, False)])
def test_a_joint_is_at_the_end_of_its_limb(
    angle: float, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dots rendered at two joints of a figure are at the positions that ``placed`` returns."""
    for pose, seed in itertools.product(("waving", "running", "lying down"), (1, 2)):
        puppet = some_puppet(pose, seed)
        at = puppets.joints(puppet)
        (ax, ay), (bx, by) = at["right wrist"], at["left ankle"]
        dots = (
            figures.Stroke(ax, ay, ax, ay, 0.1, 0.1, (1, 0, 0)),
            figures.Stroke(bx, by, bx, by, 0.1, 0.1, (0, 0, 1), 1),
        )
        item = SceneObject(
            Puppet(pose, "tan", "red", "blue", "flat", seed), 0.5, 0.5, 0.6, angle, flip
        )
        with monkeypatch.context() as patch:
            for module in (puppets, puppets.drawing):
                patch.setattr(module, "figure", lambda _, dots=dots: dots)
            where = puppets.placed(item)
            pixels = render([Scene((item,), (), Background("flat", "black"))], 128).pixels[0]
        for channel, names in (
            (0, ("right wrist", "left wrist")),
            (2, ("left ankle", "right ankle")),
        ):
            y, x = (pixels[channel] > 0.5).nonzero().float().add(0.5).mean(0).div(128).tolist()
            expected = where[names[1] if flip else names[0]]  # a mirror image exchanges the sides
            assert math.dist((x, y), expected) < 0.01, (
                f"{pose}: {names[0]} at {(x, y)}, said {expected}"
            )


def test_own_left_is_on_the_right_of_a_picture_from_the_front() -> None:
    for flip in (False, True):
        at = puppets.placed(SceneObject(some_puppet("waving", 3), 0.5, 0.5, 0.8, flip=flip))
        assert (
            at["left shoulder"][0] > at["right shoulder"][0]
            and at["left hip"][0] > at["right hip"][0]
        )
        assert (at["right wrist"][1] < at["right shoulder"][1]) != flip


def test_bones_keep_their_lengths_in_every_pose() -> None:
    for seed in range(5):
        every = []
        for pose in puppets.POSES:
            at = puppets.joints(some_puppet(pose, seed))
            middle = [(at["left hip"][k] + at["right hip"][k]) / 2 for k in (0, 1)]
            every.append(
                [math.dist(at[a], at[b]) for a, b in BONES]
                + [math.dist(middle, at["neck"]), math.dist(at["neck"], at["head"])]
            )
        assert torch.tensor(every).std(0).max() < 1e-6
    lengths = [
        math.dist(at["left hip"], at["left knee"])
        for at in (puppets.joints(some_puppet("waving", s)) for s in range(20))
    ]
    assert max(lengths) > 1.05 * min(lengths), "puppets should differ in build"


def test_any_two_poses_differ_by_a_limb() -> None:
    """Two poses differ by over a third of a torso at some joint, mirrored or not, for all seeds."""
    for one, two in itertools.combinations(puppets.POSES, 2):
        for seed in range(3):
            a = puppets.joints(some_puppet(one, seed))
            b = puppets.joints(some_puppet(two, seed + 50))
            first = torch.tensor(shape(a)).view(-1, 2)
            for mirrored in (False, True):
                apart = first - torch.tensor(shape(b, mirrored)).view(-1, 2)
                assert apart.norm(dim=1).max() > 0.35, f"{one} and {two} are alike"


def test_the_joints_tell_the_pose() -> None:
    models = [
        (pose, shape(puppets.joints(some_puppet(pose, 999)), mirrored))
        for pose in puppets.POSES
        for mirrored in (False, True)
    ]
    table, right, total = torch.tensor([model for _, model in models]), 0, 0
    for i in range(250):
        for item in WORLD.scene(i).objects:
            assert isinstance(item.sprite, Puppet)
            nearest = (table - torch.tensor(shape(puppets.placed(item)))).norm(dim=1).argmin()
            right, total = right + (models[nearest][0] == item.sprite.pose), total + 1
    assert total >= 250 and right == total


def test_same_index_same_sample() -> None:
    for i in range(5):
        one, two = WORLD[i], World(seed=5, kind="puppets")[i]
        assert (
            one.caption == two.caption
            and one.truth.scene == two.truth.scene
            and torch.equal(one.image, two.image)
        )


def test_a_picture_does_not_depend_on_its_batch() -> None:
    together = WORLD.images(range(12))
    for i in range(12):
        assert torch.equal(together[i], render([WORLD.scene(i)]).pixels[0]), (
            f"picture {i} differs alone and in a batch"
        )


def test_figures_are_whole_and_two_do_not_touch() -> None:
    """No mask reaches the border of the image, and two puppets share no column."""
    counts = {1: 0, 2: 0}
    for i in range(300):
        scene = WORLD.scene(i)
        counts[len(scene.objects)] += 1
        assert all(0.55 <= item.size <= 0.95 for item in scene.objects)
    assert 30 < counts[2] < 100
    scenes = [WORLD.scene(i) for i in range(60)]
    masks = render(scenes, 128, masks=True).masks
    assert masks is not None
    for scene, mask in zip(scenes, masks, strict=True):
        assert not mask[:, [0, -1]].any() and not mask[:, :, [0, -1]].any()
        if len(scene.objects) == 2:
            assert not (mask[0].any(0) & mask[1].any(0)).any(), "the two share a column"
            assert scene.objects[0].x < scene.objects[1].x
            assert scene.relation == ("left of" if scene.objects[0].group == 0 else "right of")


def test_clothes_stand_out_from_a_flat_background() -> None:
    for i in range(200):
        scene = WORLD.scene(i)
        if scene.background.kind != "flat":
            continue
        behind = torch.tensor(places.COLORS[scene.background.name])
        for puppet in cast(scene):
            for color in (PAINTS[puppet.shirt][:3], PAINTS[puppet.trousers][:3]):
                assert (torch.tensor(color) - behind).abs().max() > 0.15, (puppet, scene.background)


@pytest.mark.slow
def test_splits_share_no_pose_in_the_same_clothes() -> None:
    seen: dict[str, set[tuple[str, str, str]]] = {}
    for split in ("train", "dev", "test", "unseen"):
        rng = random.Random(split)
        scenes = [puppets.sample(rng, split) for _ in range(300)]
        seen[split] = {(p.pose, p.shirt, p.trousers) for scene in scenes for p in cast(scene)}
        assert len({pose for pose, _, _ in seen[split]}) == len(puppets.POSES)
    assert (
        not seen["train"] & seen["dev"]
        and not seen["train"] & seen["test"]
        and not seen["dev"] & seen["test"]
    )
    assert not seen["unseen"] & (seen["train"] | seen["dev"]) and seen["unseen"] & seen["test"]


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "hi"])
@pytest.mark.parametrize("form", FORMS)
def test_captions_name_the_poses_and_nothing_else(language: str, form: str) -> None:
    table = (
        ENGLISH
        if language == "en"
        else {pose: rf"(?<!\S)({plain(words)})" for pose, words in HINDI.items()}
    )
    wordings = set()
    for i in range(500):
        scene, rng = WORLD.scene(i), random.Random(i)
        text = puppets.caption(scene, language, form, rng)
        assert text == puppets.caption(scene, language, form, random.Random(i))
        assert not re.search(r"[{}*]|  | ,|,,|\.\.", text), text
        text = plain(text) if language == "hi" else text.lower()
        named = {pose for pose, words in table.items() if re.search(words, text)}
        assert named == {puppet.pose for puppet in cast(scene)}, text
        wordings.add(text)
    assert len(wordings) > (150 if form == "short" else 300)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "hi"])
@pytest.mark.parametrize("form", FORMS)
def test_captions_give_the_clothes_their_colours(language: str, form: str) -> None:
    """Captioned shirts and trousers have the colours of the puppets; dense captions name all."""
    if language == "en":
        colors = {name: name for name in PAINTS} | {"purple": "purple|violet"}
        garments, clean = ("(?:t-)?shirt", "(?:trousers|pants)"), str.lower
    else:
        colors = {name: plain(words) for name, words in HINDI_COLORS.items()}
        garments, clean = (plain("(?:कमीज़|टी-शर्ट)"), plain("(?:पैंट|पतलून)")), plain
    said = 0
    for i in range(300):
        scene = WORLD.scene(i)
        text = clean(puppets.caption(scene, language, form, random.Random(i)))
        for garment, attribute in zip(garments, ("shirt", "trousers"), strict=True):
            found = re.findall(rf"(\S+) {garment}", text)
            worn = [getattr(puppet, attribute) for puppet in cast(scene)]
            for word in found:
                assert any(re.fullmatch(colors[color], word) for color in worn), text
            said += len(found)
            if form == "dense":
                assert len(found) == len(worn), text
                assert all(
                    any(re.fullmatch(colors[color], word) for word in found) for color in worn
                ), text
    assert said > 50


def test_a_dense_caption_of_two_says_who_is_where() -> None:
    """The puppet that the caption places on the left is on the left of the image."""
    pairs = [
        scene
        for scene in map(WORLD.scene, range(600))
        if len({puppet.pose for puppet in cast(scene)}) == 2
    ]
    assert len(pairs) > 50
    for k, scene in enumerate(pairs):
        text = puppets.caption(scene, "en", "dense", random.Random(k)).lower()
        left, right = (
            item.sprite.pose for item in scene.objects if isinstance(item.sprite, Puppet)
        )
        at = {
            pose: match.start()
            for pose in (left, right)
            if (match := re.search(ENGLISH[pose], text))
        }
        first, second = sorted(at, key=lambda pose: at[pose])
        # Either each puppet has its side, before or after it, or the caption has one relation.
        if re.search(r"on the (left|right)", text):
            starts = text.index("on the left") < text.index("on the right")
            assert (first, second) == ((left, right) if starts else (right, left)), text
        else:
            (side,) = re.findall(r"(?:to the |, )(left|right)", text)
            after = re.search(r"(left|right) of", text)
            is_left = (side == "left") == bool(after)  # "a, left of b"; "a and, to the right, b"
            assert (first == left) == is_left, text


def test_a_dense_caption_of_two_says_in_hindi_who_is_where() -> None:
    pairs = [
        scene
        for scene in map(WORLD.scene, range(600))
        if len({puppet.pose for puppet in cast(scene)}) == 2
    ]
    for k, scene in enumerate(pairs):
        text = plain(puppets.caption(scene, "hi", "dense", random.Random(k)))
        left, right = (
            item.sprite.pose for item in scene.objects if isinstance(item.sprite, Puppet)
        )
        where = {pose: re.search(rf"(?<!\S)({plain(HINDI[pose])})", text) for pose in (left, right)}
        first, second = sorted(where, key=lambda pose: where[pose].start() if where[pose] else -1)  # type: ignore[union-attr]
        side = re.search(r"(?<!\S)(के |की )?(बा[ईएय]|दा[ईएयह])", text)
        assert side and all(where.values()), text
        # "b के बाईं ओर a": the second is on that side of the first; otherwise "बाईं ओर a, ...".
        assert (second if side[1] else first) == (left if side[2].startswith("बा") else right), text


def test_a_symmetric_pose_is_its_own_mirror_image() -> None:
    alike = {pose for pose in puppets.POSES if puppets.POSES[pose].symmetric}
    assert alike == {"standing", "arms up", "arms out", "hands on hips", "jumping", "handstand"}
    for scene in map(WORLD.scene, range(400)):
        mirrored = {scene.groups[item.group].facing for item in scene.objects if item.flip}
        assert mirrored <= {"left"}, "only a figure that is said to face left is mirrored"
        assert all(item.flip for item in scene.objects if scene.groups[item.group].facing == "left")


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "hi"])
def test_captions_say_where_a_figure_faces_and_its_skin_and_look_if_unusual(language: str) -> None:
    """A caption omits only the default skin (yellow), look (flat) and facing (right)."""
    skins = {
        "pale": "pale|light-skinned|fair-skinned|गोर",
        "tan": "tan|गेहु",
        "brown": "brown-skinned|सा[ँं]वल",
        "dark": "dark-skinned|गहर",
    }
    looks = {"outlined": "outline|रेख", "shaded": "shad|छाय"}
    sides = {"left": "left|बा[ईयएँ]", "right": "right|दा[ईयएह]"}
    stated = Counter[str]()
    for i in range(600):
        scene = WORLD.scene(i)
        text = puppets.caption(
            scene, language, ("short", "natural", "dense")[i % 3], random.Random(i)
        )
        for figure in cast(scene):
            assert figure.skin == "yellow" or re.search(skins[figure.skin], text), (
                figure.skin,
                text,
            )
        assert figure.look == "flat" or re.search(looks[figure.look], text), (figure.look, text)
        if len(scene.groups) == 1 and (facing := scene.groups[0].facing):
            assert re.search(sides[facing], text), (facing, text)
            stated[facing] += 1
    assert min(stated["left"], stated["right"]) > 10
