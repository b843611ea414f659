"""Tests of hands: rendered finger counts, visible malformations and captions with true counts."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from kalpana.world import figures, grammar_en, grammar_hi
from kalpana.world.kinds import hands
from kalpana.world.render import render
from kalpana.world.scene import LOOKS, Background, Group, Hand, Scene, SceneObject
from kalpana.world.world import World

GESTURES = [
    tuple(digit == "1" for digit in digits) for gestures in hands.GESTURES for digits in gestures
]
SKINS = tuple(figures.SKINS)
LANGUAGES, FORMS = ("en", "hi"), ("short", "natural", "dense")


def fingers_seen(mask: Tensor) -> int:
    """Number of fingers in a hand's mask: the connected pieces in a band around its palm.

    The palm is the part of the mask that a disc of 0.6 palm radii can reach; fingers are too thin
    for such a disc.
    """
    inside = ndimage.binary_fill_holes(torch.nn.functional.pad(mask, (8, 8, 8, 8)).numpy())
    depth = ndimage.distance_transform_edt(inside)
    radius = depth.max()
    palm = ndimage.distance_transform_edt(depth < 0.6 * radius) <= 0.6 * radius
    beyond = inside & (ndimage.distance_transform_edt(~palm) > 0.6 * radius)
    pieces, n = ndimage.label(beyond)
    sizes = ndimage.sum_labels(beyond, pieces, range(1, n + 1))
    return sum(size > 0.05 * radius**2 for size in sizes)


def tiles(drawn: Sequence[Hand]) -> Tensor:
    return figures.paint([hands.figure(hand) for hand in drawn], [hand.look for hand in drawn])


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS)
def test_as_many_fingers_as_asked(look: str) -> None:
    drawn = [
        Hand(raised, SKINS[(k + seed) % 5], look, 100 * k + seed)
        for k, raised in enumerate(GESTURES)
        for seed in range(4)
    ]
    for hand, tile in zip(drawn, tiles(drawn), strict=True):
        assert fingers_seen(tile[3] > 0.5) == hands.count(hand) == sum(hand.raised), hand


def test_fingers_can_be_counted_when_small() -> None:
    """Fingers can be counted at 60 pixels, rotated and mirrored."""
    rng = random.Random(0)
    drawn = [Hand(raised, "tan", LOOKS[seed], seed) for raised, seed in product(GESTURES, range(3))]
    scenes = [
        Scene(
            (SceneObject(hand, 0.5, 0.5, 60 / 128, rng.uniform(-15, 15), rng.random() < 0.5),),
            (Group("hand"),),
            Background("flat", "white"),
        )
        for hand in drawn
    ]
    masks = render(scenes, masks=True).masks
    assert masks is not None
    for hand, mask in zip(drawn, masks, strict=True):
        assert fingers_seen(mask[0]) == sum(hand.raised), hand


@pytest.mark.slow
@pytest.mark.parametrize(
    "flaw, more", [("extra finger", 1), ("fused fingers", -1), ("missing finger", -1)]
)
def test_a_flaw_shows(flaw: str, more: int) -> None:
    able = [raised for raised in GESTURES if flaw in hands.flaws_of(raised)]
    drawn = [
        Hand(raised, SKINS[seed % 5], LOOKS[seed % 3], seed, flaw)
        for raised in able
        for seed in range(4)
    ]
    assert len(able) >= 7
    for hand, tile in zip(drawn, tiles(drawn), strict=True):
        assert fingers_seen(tile[3] > 0.5) == sum(hand.raised) + more, hand


def test_a_flaw_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="fused fingers"):
        hands.figure(Hand((False, True, False, False, False), "tan", "flat", 0, "fused fingers"))


@pytest.mark.parametrize("look, skin", list(product(LOOKS, SKINS)))
def test_folded_fingers_can_be_seen(look: str, skin: str) -> None:
    """Along a row below the knuckles of a fist, the colour is darker between the fingers."""
    tile = tiles([Hand((False,) * 5, skin, look, seed) for seed in range(2)])
    for rgb, alpha in zip(tile[:, :3], tile[:, 3], strict=True):
        rows = (alpha > 0.5).any(1).nonzero()
        top = int(rows[0])
        row = rgb[:, top + 16].mean(0)[alpha[top + 16] > 0.99][2:-2]
        dark = row < row.max() - 0.15 * row.median()
        assert int((dark[1:] & ~dark[:-1]).sum()) >= 2, "the fingers of a fist run into each other"


def test_seeds_vary_a_hand_and_repeat_it() -> None:
    raised = (False, True, True, False, False)
    one, same, other = (hands.figure(Hand(raised, "tan", "flat", seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_sampling_is_repeatable_and_covers_every_gesture() -> None:
    scenes = [hands.sample(random.Random(seed), "train") for seed in range(1000)]
    assert scenes[:50] == [hands.sample(random.Random(seed), "train") for seed in range(50)]
    seen = [
        item.sprite for scene in scenes for item in scene.objects if isinstance(item.sprite, Hand)
    ]
    assert {hand.raised for hand in seen} == set(GESTURES)
    assert {hand.skin for hand in seen} == set(SKINS) and {hand.look for hand in seen} == set(LOOKS)
    assert all(hand.flaw is None for hand in seen)
    counts = Counter(sum(hand.raised) for hand in seen)
    assert min(counts.values()) > 0.6 * max(counts.values()), counts
    assert 0.1 < sum(len(scene.objects) == 2 for scene in scenes) / len(scenes) < 0.2
    assert all(
        [item.group for item in scene.objects] == list(range(len(scene.groups))) for scene in scenes
    )


def test_what_is_held_out_is_shown_in_unseen_alone() -> None:
    def held(split: str) -> set[bool]:
        scenes = [hands.sample(random.Random(seed), split) for seed in range(150)]
        return {
            any(
                hands.held_out(item.sprite)
                for item in scene.objects
                if isinstance(item.sprite, Hand)
            )
            for scene in scenes
        }

    assert held("train") == held("dev") == held("test") == {False}
    assert held("unseen") == {True}


def test_flawed_scenes_hold_one_flawed_hand() -> None:
    scenes = [hands.sample_flawed(random.Random(seed)) for seed in range(200)]
    seen = [scene.objects[0].sprite for scene in scenes if len(scene.objects) == 1]
    assert {hand.flaw for hand in seen if isinstance(hand, Hand)} == set(hands.FLAWS)
    assert scenes[3] == hands.sample_flawed(random.Random(3))


def test_hands_stay_whole_apart_and_plain_to_see() -> None:
    scenes = [hands.sample(random.Random(seed), "train") for seed in range(70)]
    drawn, bare = (
        render(scenes, masks=True),
        render([Scene((), (), scene.background) for scene in scenes]),
    )
    assert drawn.masks is not None
    for k, (scene, masks) in enumerate(zip(scenes, drawn.masks, strict=True)):
        edge = torch.cat((masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]), 1)
        assert not edge.any(), f"hand {k} leaves the picture"
        change = (drawn.pixels[k] - bare.pixels[k]).abs().amax(0)
        for mask in masks:
            assert mask.sum() > 0.02 * mask.numel()
            assert (change[mask] > 0.2).float().mean() > 0.75, (
                f"hand {k} is lost in its background: {scene}"
            )
        if len(masks) == 2:
            left, right = (mask.any(0).nonzero() for mask in masks)
            assert scene.relation == "left of" and left.max() < right.min()


def test_a_picture_does_not_depend_on_its_batch() -> None:
    world = World(seed=5, kind="hands")
    together = world.images(range(12))
    for i in range(12):
        assert torch.equal(together[i], world[i].image), f"picture {i} differs alone and in a batch"


# Patterns for the counts that a caption claims, independent of the module's word tables.
# Each match is removed from the text before the next pattern is applied.
NUMBERS = {
    "en": {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
    | {str(n): n for n in range(9)},
    "hi": {"एक": 1, "दो": 2, "तीन": 3, "चार": 4, "पांच": 5, "पांचों": 5}
    | {str(n): n for n in range(9)}
    | {"०१२३४५६७८"[n]: n for n in range(9)},
}
COUNTED = {
    "en": r"(?<!\w)({}) (?:raised )?fingers?\b|(?:number|counting to) ({})\b",
    "hi": r"(?<!\S)({}) (?:उठी हुई |उठी )?उंगल(?:ी|ियां|ियों)(?!\S*[\u0900-\u0963])"
    r"|(?<!\S)({}) (?:का इशारा|की संख्या)",
}
NAMED = {
    "en": (
        (r"\bfist|no fingers|all fingers folded", 0),
        (r"all fingers up but the thumb|thumb folded in", 4),
        (r"open [\w -]*(hand|palm)|all fingers spread|high five|open fingers", 5),
        (r"I love you", 3),
        (
            r"peace sign|victory sign|V sign|making an L|(thumb and (index finger|pinky) out)"
            r"|call me|shaka|horns|rock on",
            2,
        ),
        (r"thumbs[- ]up|thumb up|thumb pointing up", 1),
        (
            r"index finger pointing up|raised [\w -]*index finger|its index finger up|pointing up"
            r"|little finger up|pinky",
            1,
        ),
    ),
    "hi": (
        (r"मुट्ठी|सभी उंगलियां मोड़े|कोई उंगली नहीं", 0),
        (r"अंगूठे को छोड़कर|अंगूठा मोड़े", 4),
        (r"खुला हाथ|फैला हुआ हाथ|खुली हथेली|उंगलियां फैलाए|सारी उंगलियां खुली", 5),
        (r"आई लव यू", 3),
        (r"विजय|जीत|शांति|वी का निशान|एल का|फोन का|शाका|अंगूठा और (तर्जनी|छोटी उंगली) फैलाए|रॉक|सींग", 2),
        (r"अंगूठा ऊपर|ऊपर उठा [^,]*अंगूठा|थम्स अप", 1),
        (
            r"तर्जनी से ऊपर इशारा|ऊपर (की ओर )?इशारा|तर्जनी उठाए|ऊपर उठी [^,]*तर्जनी"
            r"|(छोटी उंगली|कनिष्ठा) (उठाए|उठी)",
            1,
        ),
    ),
}
LISTED = {
    "en": r"(?:with|\()(?: ?the)((?:,| and|\b ?thumb| ?index| ?middle| ?ring| ?little)+)"
    r"(?: fingers?)?(?= up| raised| held|\))",
    "hi": r"((?:(?:, | और )?(?:अंगूठा|तर्जनी|मध्यमा|अनामिका|कनिष्ठा))+)(?= उठाए|\))",
}
FINGERS = r"thumb|index|middle|ring|little|अंगूठा|तर्जनी|मध्यमा|अनामिका|कनिष्ठा"


def claims(text: str, language: str) -> set[int]:
    """The finger counts that a caption claims."""
    text = grammar_hi.casual(text) if language == "hi" else text
    found: set[int] = set()

    def take(pattern: str, value: int | None = None) -> None:
        nonlocal text
        for match in re.finditer(pattern, text, re.IGNORECASE):
            words = [group for group in match.groups() if group]
            found.add(
                len(re.findall(FINGERS, match[0]))
                if pattern == LISTED[language]
                else NUMBERS[language][words[0].lower()]
                if value is None
                else value
            )
        text = re.sub(pattern, "#", text, flags=re.IGNORECASE)

    take(LISTED[language])
    numbers = "|".join(sorted(NUMBERS[language], key=len, reverse=True))
    take(COUNTED[language].format(numbers, numbers))
    for pattern, value in NAMED[language]:
        take(pattern, value)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("language, form", list(product(LANGUAGES, FORMS)))
def test_captions_claim_the_right_count_and_no_other(language: str, form: str) -> None:
    for seed in range(500):
        rng = random.Random(seed)
        scene = hands.sample(rng, "train")
        text = hands.caption(scene, language, form, rng)
        asked = {sum(item.sprite.raised) for item in scene.objects if isinstance(item.sprite, Hand)}
        assert claims(text, language) == asked, text
        assert "{" not in text and "  " not in text and " ," not in text


def test_the_parser_of_claims_reads_what_it_should() -> None:
    assert claims("a hand with 3 raised fingers", "en") == {3}
    assert claims("two hands: a fist and one finger held up by a hand", "en") == {0, 1}
    assert claims("दो हाथ: बंद मुट्ठी और पाँच उँगलियाँ दिखाता एक हाथ", "hi") == {0, 5}


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_vary(language: str) -> None:
    scene = Scene(
        (SceneObject(Hand(GESTURES[4], "tan", "flat"), 0.5, 0.5, 0.6),),
        (Group("hand"),),
        Background("flat", "white"),
    )
    said = {hands.caption(scene, language, "natural", random.Random(seed)) for seed in range(300)}
    assert len(said) > 80
    assert hands.caption(scene, language, "natural", random.Random(7)) == hands.caption(
        scene, language, "natural", random.Random(7)
    )


SAID = {
    "en": {
        "yellow": "yellow",
        "pale": "pale|light-skinned|fair-skinned",
        "tan": r"\btan",
        "brown": "brown",
        "dark": "dark",
        "flat": "flat",
        "outlined": "outline",
        "shaded": "shaded",
    },
    "hi": {
        "yellow": "पील",
        "pale": "गोर",
        "tan": "गेहुंआ|गेहुंए|गेहुंई",
        "brown": "भूर|सांवल",
        "dark": "गहर[ाेी] (भूर|सांवल)",
        "flat": "सपाट",
        "outlined": "रेखांकित",
        "shaded": "छाया",
    },
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_dense_captions_say_skin_look_background_and_sides(language: str) -> None:
    grammar = grammar_en if language == "en" else grammar_hi
    for seed in range(400):
        rng = random.Random(seed)
        scene = hands.sample(rng, "train")
        text = hands.caption(scene, language, "dense", rng)
        plain = grammar_hi.casual(text) if language == "hi" else text
        hand = scene.objects[0].sprite
        assert isinstance(hand, Hand)
        assert re.search(SAID[language][hand.skin], plain) and re.search(
            SAID[language][hand.look], plain
        ), text
        name = scene.background.name
        if scene.background.kind == "place":
            words = [word for table in grammar.PLACES[name] for word in table]
        else:
            words = [tint.split()[-1].rstrip("ा") for tint in grammar.TINTS.get(name, (name,))]
        assert any(
            (grammar_hi.casual(word) if language == "hi" else word) in plain for word in words
        ), text
        assert len(scene.objects) == 1 or re.search("left|right|बाई|बाएं|दाई", plain), text
        assert text.endswith("." if language == "en" else "।")


def test_hindi_agrees() -> None:
    """Agreement: feminine fingers and fists, plural verbs, oblique hands before a postposition."""
    wrong = (
        r"(?<!\S)(एक|1|१) (उठी हुई )?उंगलियां",
        r"(दो|तीन|चार|पांच|[2-5२-५]) (उठी हुई )?उंगली(?!\S)",
        r"(?<!\S)(एक|1|१) उंगली \S+ हैं",
        r"उंगलियां (उठी|ऊपर|उठाई) है(?!ं)",
        r"(ा|आ) हाथ (की|से|ने)(?!\S)",
        r"(भूरा|पीला|गोरा|सांवला|गेहुंआ) (त्वचा|बंद |भिंची हुई |बंधी हुई |खुली )?(मुट्ठी|हथेली|तर्जनी)",
        r"(भूरी|पीली|गोरी|सांवली|गेहुंई) (खुला |फैला हुआ )?(हाथ|अंगूठा)",
        r"(भूरे|पीले|गोरे|सांवले|गेहुंए|वाले) हाथ(?! (की|से|ने)(?!\S))",
        r"(ा|आ) त्वचा",
        r"त्वचा वाल[ाे] (?!हाथ|अंगूठा|खुला|फैला)",
    )
    for seed in range(900):
        rng = random.Random(seed)
        text = grammar_hi.casual(
            hands.caption(hands.sample(rng, "train"), "hi", rng.choice(FORMS), rng)
        )
        for pattern in wrong:
            assert not re.search(pattern, text), (pattern, text)
