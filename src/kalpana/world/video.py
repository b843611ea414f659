"""Videos of the world: scenes with moving objects and a moving camera, captions and ground truth.

A video (``Clip``) is a scene, a motion for each of its objects and a camera. ``Clip.at(t)`` is the
ordinary scene at time t, so videos use the renderer of images. Speeds are constant, so the speed
that a caption states can be measured.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kalpana.world import atlas, grammar_en, grammar_hi, maps, sprites
from kalpana.world.defaults import (
    background_for,
    background_said,
    choose_color,
    choose_style,
    house_style,
    own_facing,
    sprite_of,
    style_said,
)
from kalpana.world.grammar import FORMS
from kalpana.world.lexicon import lexicon
from kalpana.world.render import render
from kalpana.world.scene import (
    BACKDROPS,
    PLACES,
    STILL,
    Background,
    Group,
    Scene,
    SceneObject,
    Solid,
    View,
)
from kalpana.world.splits import SPLITS, belongs

EVENTS = (
    "move",
    "arc",
    "bounce",
    "grow",
    "shrink",
    "turn",
    "return",
    "hide",
    "swap",
    "camera",
    "solid",
)
CAMERAS = (
    "pan left",
    "pan right",
    "pan up",
    "pan down",
    "zoom in",
    "zoom out",
    "clockwise",
    "counter-clockwise",
)
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
# Ranges of speed in image widths a second. Captions have no word for speeds between the two.
SLOW, FAST = (0.12, 0.22), (0.45, 0.8)


@dataclass(frozen=True)
class Motion:
    """Motion of an object over the whole video. The defaults are no motion."""

    dx: float = 0.0  # displacement in image widths, at constant speed
    dy: float = 0.0
    back: bool = False  # moves there in the first half and back in the second
    hop: float = 0.0  # height of the arcs on the way, in image widths
    hops: int = 1  # number of these arcs
    grow: float = 1.0  # final size over initial size
    turn: float = 0.0  # degrees, counter-clockwise
    yaw: float = 0.0  # degrees, of a solid, to the right as seen from the front

    def at(self, item: SceneObject, t: float) -> SceneObject:
        """The object at time t in [0, 1], in scene coordinates."""
        progress = 1 - abs(2 * t - 1) if self.back else t
        sprite = item.sprite
        if isinstance(sprite, Solid):
            sprite = replace(sprite, yaw=sprite.yaw + self.yaw * t)
        return replace(
            item,
            sprite=sprite,
            x=item.x + self.dx * progress,
            y=item.y + self.dy * progress - self.hop * abs(math.sin(math.pi * self.hops * t)),
            size=item.size * self.grow**t,
            angle=item.angle + self.turn * t,
        )


@dataclass(frozen=True)
class Camera:
    """Motion of the camera over the whole video. The defaults are no motion."""

    dx: float = 0.0  # displacement in image widths
    dy: float = 0.0
    zoom: float = 1.0  # final zoom; the initial one is 1
    # Degrees, counter-clockwise, of the image; the camera itself turns clockwise.
    turn: float = 0.0
    parallax: bool = False  # near objects shift more than far ones, the background least

    def at(self, t: float) -> View:
        """The camera view at time t in [0, 1]."""
        x, y, _, _ = STILL
        return x + self.dx * t, y + self.dy * t, self.zoom**t, self.turn * t

    def see(self, item: SceneObject, t: float) -> SceneObject:
        """The object at time t in image coordinates."""
        cx, cy, zoom, angle = self.at(t)
        nearer = 2 - item.depth if self.parallax else 1.0
        x, y = item.x - 0.5 - (cx - 0.5) * nearer, item.y - 0.5 - (cy - 0.5) * nearer
        cos, sin = math.cos(math.radians(angle)) * zoom, math.sin(math.radians(angle)) * zoom
        return replace(
            item,
            x=0.5 + x * cos + y * sin,
            y=0.5 + y * cos - x * sin,
            size=item.size * zoom,
            angle=item.angle + angle,
        )


@dataclass(frozen=True)
class Clip:
    """Complete description of a video."""

    scene: Scene  # at time 0
    motions: tuple[Motion, ...]  # one for each object of the scene
    camera: Camera
    frames: int  # number of frames
    fps: int
    event: str  # one of EVENTS
    word: str = ""  # direction of the event, or one of CAMERAS; "" if the event has none

    @property
    def seconds(self) -> float:
        """Duration from the first to the last frame."""
        return (self.frames - 1) / self.fps

    def at(self, t: float) -> Scene:
        """The scene at time t in [0, 1], as the camera sees it."""
        objects = [
            self.camera.see(motion.at(item, t), t)
            for item, motion in zip(self.scene.objects, self.motions, strict=True)
        ]
        return replace(
            self.scene,
            objects=tuple(objects),
            background=replace(self.scene.background, view=self.camera.at(t)),
        )

    def scenes(self) -> list[Scene]:
        """The scenes of all frames."""
        return [self.at(k / (self.frames - 1)) for k in range(self.frames)]


@dataclass(frozen=True)
class ClipTruth:
    """Ground truth of a video with f frames and n objects.

    ``masks`` (f, n, h, w) bool and ``boxes`` (f, n, 4): the visible part of each object in each
    frame; a hidden object has a box of zeros. ``views`` (f, 4): the camera view of each frame, see
    ``scene.View``.
    """

    clip: Clip
    masks: Tensor
    boxes: Tensor
    views: Tensor


@dataclass(frozen=True)
class ClipSample:
    """One example: a video, its caption and its ground truth."""

    frames: Tensor  # f 3 h w in [-1, 1]
    caption: str
    language: str  # "en" or "hi"
    form: str  # one of grammar.FORMS
    truth: ClipTruth


@dataclass(frozen=True)
class Clips:
    """An endless data set of videos, as ``World`` is of images.

    ``Clips(seed, split)[i]``, ``i`` >= 0, depends only on (seed, split, i). Raises ValueError for
    an unknown split.
    """

    seed: int = 0
    split: str = "train"  # one of splits.SPLITS
    side: int = 64  # pixels

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is not one of {', '.join(SPLITS)}")

    def clip(self, index: int) -> Clip:
        """The description of video ``index``, not rendered."""
        return sample(random.Random(f"{self.seed}/{self.split}/{index}/clip"), self.split)

    def describe(self, index: int, take: int = 0) -> tuple[str, str, str]:
        """(caption, language, form) of video ``index``; another ``take``, another caption."""
        rng = random.Random(f"{self.seed}/{self.split}/{index}/clip/words/{take}")
        language, form = rng.choice(("en", "hi")), rng.choice(FORMS)
        return caption(self.clip(index), language, form, rng), language, form

    def frames(self, index: int, device: torch.device | str = "cpu") -> Tensor:
        """The frames (f, 3, side, side) of video ``index``, in [-1, 1]."""
        return render(self.clip(index).scenes(), self.side, device=device).pixels

    def __getitem__(self, index: int) -> ClipSample:
        if index < 0:
            raise IndexError("an endless world has no last video: use an index of 0 or more")
        clip = self.clip(index)
        drawn = render(clip.scenes(), self.side, masks=True)
        assert drawn.masks is not None
        masks = torch.stack(drawn.masks)
        views = torch.tensor([clip.camera.at(k / (clip.frames - 1)) for k in range(clip.frames)])
        words, language, form = self.describe(index)
        truth = ClipTruth(clip, masks, torch.stack([maps.boxes(m) for m in masks]), views)
        return ClipSample(drawn.pixels, words, language, form, truth)


# --------------------------------------------------------------------------------------- sampling


def sample(rng: random.Random, split: str = "train") -> Clip:
    """Random video of a split; all its events are equally likely."""
    event = rng.choice(EVENTS)
    while split == "unseen" and event == "solid":  # it shows no combination that is held out
        event = rng.choice(EVENTS)
    while True:
        clip = _sample(rng, event)
        if clip is not None and belongs(clip.scene, split):
            return clip


def _sample(rng: random.Random, event: str) -> Clip | None:
    """One attempt at a random video with this event; None if it is to be rejected."""
    fps = rng.choice((8, 12, 16, 24))
    frames = max(8, min(64, round(fps * rng.uniform(1.0, 3.0)) + 1))
    seconds = (frames - 1) / fps
    two = event in ("hide", "swap") or (event == "camera" and rng.random() < 0.6)
    scene = _solid(rng) if event == "solid" else _things(rng, 2 if two else 1, event)
    if scene is None:
        return None
    motions, word, camera = [Motion() for _ in scene.objects], "", Camera()
    if event in ("move", "arc", "return"):
        word = rng.choice(("left", "right") if event == "arc" else tuple(DIRECTIONS))
        (scene, motions[0]) = _along(rng, _facing_ahead(scene, word), event, word, seconds)
    elif event == "bounce":
        motions[0] = Motion(
            hop=rng.uniform(0.15, 0.3), hops=max(1, round(seconds * rng.uniform(0.8, 1.6)))
        )
        scene = _move(scene, 0, scene.objects[0].x, 0.97 - sprites.half(scene.objects[0])[1])
    elif event in ("grow", "shrink"):
        ratio = rng.uniform(1.6, 2.4)
        motions[0] = Motion(grow=ratio if event == "grow" else 1 / ratio)
        scene = _resize(scene, 0, rng.uniform(0.3, 0.4) * (1 if event == "grow" else ratio))
        scene = _move(scene, 0, 0.5, 0.5)
    elif event == "turn":
        word = rng.choice(("clockwise", "counter-clockwise"))
        motions[0] = Motion(
            turn=rng.uniform(60, 150) * seconds * (-1 if word == "clockwise" else 1)
        )
    elif event == "hide":
        word = rng.choice(("left", "right"))
        scene, motions = _behind(rng, _facing_ahead(scene, word), word)
    elif event == "swap":
        scene, motions = _swap(rng, scene)
    elif event == "solid":
        word = rng.choice(("left", "right"))
        motions[0] = Motion(yaw=rng.uniform(60, 120) * seconds * (1 if word == "right" else -1))
    if event == "camera":
        word = rng.choice(CAMERAS)
        # Always a place: on a plain background the camera's motion would be invisible.
        place = Background("place", rng.choice(PLACES), rng.randrange(1 << 30))
        scene = replace(scene, background=place)
        camera = _camera(rng, word, parallax=two and word.startswith("pan"))
    clip = Clip(scene, tuple(motions), camera, frames, fps, event, word)
    return clip if _valid(clip) else None


def _things(rng: random.Random, count: int, event: str) -> Scene | None:
    """Random scene of one or two core objects of one style, side by side."""
    concepts = rng.sample([c for c in lexicon().values() if c.core], count)
    groups = [Group(c.id, color=choose_color(rng, c.id, 0.6)) for c in concepts]
    if count == 2 and groups[0].color is not None and groups[0].color == groups[1].color:
        return None
    style = choose_style(rng, groups)
    if style is None:
        return None
    objects: list[SceneObject] = []
    for i, group in enumerate(groups):
        row = sprite_of(group.concept, style, group.color)
        assert row is not None
        x = rng.uniform(0.3, 0.7) if count == 1 else (0.27, 0.73)[i] + rng.uniform(-0.03, 0.03)
        size = rng.uniform(0.3, 0.45) if count == 1 else rng.uniform(0.28, 0.38)
        depth = (
            rng.uniform(0.5, 0.9)
            if count == 1
            else (rng.uniform(0.1, 0.3), rng.uniform(0.6, 0.9))[i]
        )
        objects.append(
            SceneObject(row, x, rng.uniform(0.4, 0.6), size, 0.0, False, group.color, i, depth)
        )
    background = background_for(rng, {g.color for g in groups})
    return Scene(tuple(objects), tuple(groups), background, None, style)


def _solid(rng: random.Random) -> Scene | None:
    """Random scene of one solid with a core object on its faces."""
    group = Group(rng.choice([c for c in lexicon().values() if c.core]).id)
    style = house_style((group,))
    row = sprite_of(group.concept, style or "")
    if row is None:
        return None
    color, ground = rng.sample(BACKDROPS, 2)
    shape = rng.choice(("card", "cube"))
    yaw = rng.uniform(-40, 40)
    pitch = rng.uniform(8, 25) if shape == "cube" else rng.uniform(-8, 8)
    solid = Solid(shape, row, color, yaw, pitch)
    item = SceneObject(solid, 0.5, 0.5, rng.uniform(0.75, 0.95))
    return Scene((item,), (group,), Background("flat", ground, rng.randrange(1 << 30)), None, style)


def _facing_ahead(scene: Scene, word: str) -> Scene:
    """The scene with its first object facing its direction of motion.

    Unchanged if the motion is not to the left or right, or if the drawing has no facing.
    """
    own = own_facing(scene.groups[0].concept, scene.style or "")
    if own is None or word not in ("left", "right"):
        return scene
    return replace(scene, objects=(replace(scene.objects[0], flip=own != word), *scene.objects[1:]))


def _move(scene: Scene, index: int, x: float, y: float) -> Scene:
    """The scene with object ``index`` at (x, y)."""
    objects = tuple(
        replace(item, x=x, y=y) if k == index else item for k, item in enumerate(scene.objects)
    )
    return replace(scene, objects=objects)


def _resize(scene: Scene, index: int, size: float) -> Scene:
    """The scene with object ``index`` of this size."""
    objects = tuple(
        replace(item, size=size) if k == index else item for k, item in enumerate(scene.objects)
    )
    return replace(scene, objects=objects)


def _along(
    rng: random.Random, scene: Scene, event: str, word: str, seconds: float
) -> tuple[Scene, Motion]:
    """Start position and motion of the first object for "move", "arc" and "return".

    "move" is a straight path and "arc" a hop, both within the image; "return" leaves the image and
    comes back.
    """
    (ux, uy), (half_w, half_h) = DIRECTIONS[word], sprites.half(scene.objects[0])
    reach = half_w if ux else half_h
    if event == "return":
        start = 0.5 + rng.uniform(-0.1, 0.1)
        out = (0.5 + reach + 0.03) + (0.5 - start) * (ux + uy)  # distance to just outside
        x, y = (start, scene.objects[0].y) if ux else (scene.objects[0].x, start)
        return _move(scene, 0, x, y), Motion(dx=ux * out, dy=uy * out, back=True)
    room = 0.96 - 2 * reach
    velocity = rng.uniform(*rng.choice((SLOW, FAST)))
    distance = min(velocity * seconds, room)
    start = 0.02 + reach + rng.uniform(0, room - distance)
    start = start if ux + uy > 0 else 1 - start
    x, y = (start, scene.objects[0].y) if ux else (scene.objects[0].x, start)
    hop = rng.uniform(0.25, 0.4) if event == "arc" else 0.0
    y = 0.95 - half_h if hop else y
    return _move(scene, 0, x, y), Motion(dx=ux * distance, dy=uy * distance, hop=hop)


def _behind(rng: random.Random, scene: Scene, word: str) -> tuple[Scene, list[Motion]]:
    """Layout and motions of "hide": the small objects[0] passes behind the large objects[1]."""
    scene = _resize(_resize(scene, 1, rng.uniform(0.45, 0.55)), 0, rng.uniform(0.2, 0.26))
    half = sprites.half(scene.objects[0])[0] + 0.02
    scene = _move(
        _move(scene, 1, 0.5, rng.uniform(0.45, 0.55)),
        0,
        half if word == "right" else 1 - half,
        scene.objects[1].y,
    )
    scene = _move(scene, 0, scene.objects[0].x, scene.objects[1].y + rng.uniform(-0.05, 0.1))
    return scene, [Motion(dx=(1 - 2 * half) * (1 if word == "right" else -1)), Motion()]


def _swap(rng: random.Random, scene: Scene) -> tuple[Scene, list[Motion]]:
    """Layout and motions of "swap": two objects exchange places, one in an arc over the other."""
    one, two = scene.objects
    y = 0.7
    scene = _move(_move(scene, 0, one.x, y), 1, two.x, y)
    distance = two.x - one.x
    return scene, [Motion(dx=distance, hop=rng.uniform(0.38, 0.45)), Motion(dx=-distance)]


def _camera(rng: random.Random, word: str, parallax: bool) -> Camera:
    """Random camera motion for one of CAMERAS."""
    move, _, direction = word.partition(" ")
    if move == "pan":
        (ux, uy), distance = DIRECTIONS[direction], rng.uniform(0.15, 0.3)
        return Camera(dx=ux * distance, dy=uy * distance, parallax=parallax)
    if move == "zoom":
        ratio = rng.uniform(1.4, 1.9)
        return Camera(zoom=ratio if direction == "in" else 1 / ratio)
    return Camera(turn=rng.uniform(25, 60) * (1 if word == "clockwise" else -1))


def _valid(clip: Clip) -> bool:
    """Whether the video shows its event: objects are in view at its start and end.

    Objects must be fully inside the image; for a camera motion, only their centres, by 0.1. In
    "hide" the front object must cover the other at half time.
    """
    ends = [item for t in (0.0, 1.0) for item in clip.at(t).objects]
    if clip.event == "camera":
        return all(0.1 < item.x < 0.9 and 0.1 < item.y < 0.9 for item in ends)
    if clip.event == "hide" and not _covers(clip.at(0.5)):
        return False
    return all(
        w <= item.x <= 1 - w and h <= item.y <= 1 - h
        for item in ends
        for w, h in [sprites.half(item)]
    )


def _covers(scene: Scene) -> bool:
    """Whether the second object is opaque over more than 90 % of the first one's box."""
    small, large = scene.objects
    assert isinstance(large.sprite, int)
    half_w, half_h = sprites.half(small)
    x0, y0, x1, y1 = (
        round(atlas.SIDE * (0.5 + d / large.size))
        for d in (
            small.x - half_w - large.x,
            small.y - half_h - large.y,
            small.x + half_w - large.x,
            small.y + half_h - large.y,
        )
    )
    if min(x0, y0) < 0 or max(x1, y1) > atlas.SIDE:
        return False
    return bool((atlas.load().pixels[large.sprite, 3, y0:y1, x0:x1] > 128).float().mean() > 0.9)


def speed(clip: Clip) -> str:
    """Speed word of a video: "slow", "fast", or "" if its speed or event has no word."""
    motion = clip.motions[0]
    if clip.event not in ("move", "arc"):
        return ""
    value = math.hypot(motion.dx, motion.dy) / clip.seconds
    return "slow" if value <= SLOW[1] else "fast" if value >= FAST[0] else ""


# --------------------------------------------------------------------------------------- captions
# {a} is the moving object, {b} the second one; {there} is a direction. Verbs agree: {a.are}, {a.s};
# in Hindi {a.raha} {a.hai}, and {goes}, {comes}, {big}, {small} take the same endings.

ENGLISH = {
    "move": (
        "{a} moving {there}",
        "{a} moves {there}.",
        "{a} {a.are} moving {there}.",
        "{a} going {there}",
        "{a} drifts {there}.",
    ),
    "arc": (
        "{a} hopping {there}",
        "{a} jumps {there} in an arc.",
        "{a} leaping {there}",
        "{a} flies {there} in an arc.",
    ),
    "bounce": (
        "{a} bouncing up and down",
        "{a} bounces.",
        "{a} {a.are} bouncing on the spot.",
        "a bouncing {a.bare}",
    ),
    "grow": (
        "{a} growing",
        "{a} gets bigger.",
        "{a} becoming larger and larger",
        "{a} {a.are} getting bigger.",
    ),
    "shrink": (
        "{a} shrinking",
        "{a} gets smaller.",
        "{a} becoming smaller and smaller",
        "{a} {a.are} getting smaller.",
    ),
    "turn": (
        "{a} turning {there}",
        "{a} spinning {there}",
        "{a} rotates {there}.",
        "{a} {a.are} spinning {there}.",
    ),
    "return": (
        "{a} leaving the picture {exit} and coming back",
        "{a} goes out of view {exit} and returns.",
        "{a} disappears {exit}, then comes back.",
    ),
    "hide": (
        "{a} passing behind {b} to the {there}",
        "{a} moves {there} behind {b} and comes out again.",
        "{a} disappears behind {b} and reappears on the {there}.",
    ),
    "swap": (
        "{a} and {b} swapping places",
        "{a} and {b} trade places.",
        "{a} and {b} change places with each other.",
    ),
    "solid": (
        "a {shape} with {a} on {faces} turning to the {there}",
        "a {shape} showing {a} rotates to the {there}.",
        "a {shape} with a picture of {a} on {faces}, turning to the {there}",
    ),
}
THERE = {
    "right": ("to the right", "from left to right", "rightwards"),
    "left": ("to the left", "from right to left", "leftwards"),
    "up": ("up", "upwards", "from the bottom to the top"),
    "down": ("down", "downwards", "from the top to the bottom"),
    "clockwise": ("clockwise",),
    "counter-clockwise": ("counter-clockwise", "anticlockwise"),
}
EXITS = {
    "right": "on the right",
    "left": "on the left",
    "up": "at the top",
    "down": "at the bottom",
}
SPEEDS = {"slow": ("slowly",), "fast": ("quickly", "fast"), "": ("",)}
VIEWS = {
    "pan left": ("the camera pans left", "the camera moves to the left", "camera pan to the left"),
    "pan right": (
        "the camera pans right",
        "the camera moves to the right",
        "camera pan to the right",
    ),
    "pan up": ("the camera moves up", "the camera pans up", "camera pan upwards"),
    "pan down": ("the camera moves down", "the camera pans down", "camera pan downwards"),
    "zoom in": ("the camera zooms in", "the camera moves closer", "camera zoom in"),
    "zoom out": ("the camera zooms out", "the camera moves away", "camera zoom out"),
    "clockwise": ("the camera rotates clockwise", "the camera rolls clockwise"),
    "counter-clockwise": ("the camera rotates counter-clockwise", "the camera rolls anticlockwise"),
}
HINDI = {
    "move": (
        "{a} {there} जा {a.raha} {a.hai}",
        "{there} चल {a.raha} {a}",
        "{a} {there} बढ़ {a.raha} {a.hai}",
        "{there} जा {a.raha} {a}",
    ),
    "arc": (
        "{a} {there} कूद {a.raha} {a.hai}",
        "{there} छलाँग लगा {a.raha} {a}",
        "{a} उछलकर {there} जा {a.raha} {a.hai}",
    ),
    "bounce": (
        "{a} ऊपर-नीचे उछल {a.raha} {a.hai}",
        "उछल {a.raha} {a}",
        "{a} बार-बार उछल {a.raha} {a.hai}",
    ),
    "grow": ("{a} {big} हो {a.raha} {a.hai}", "{a} धीरे-धीरे {big} हो {a.raha} {a.hai}"),
    "shrink": (
        "{a} {small} हो {a.raha} {a.hai}",
        "{a} सिकुड़ {a.raha} {a.hai}",
        "{a} धीरे-धीरे {small} हो {a.raha} {a.hai}",
    ),
    "turn": ("{a} {there} घूम {a.raha} {a.hai}", "{there} घूम {a.raha} {a}"),
    "return": (
        "{a} {exit} बाहर {goes} {a.hai} और वापस {comes} {a.hai}",
        "{a} {exit} निकलकर लौट {comes} {a.hai}",
        "{a} {exit} ओझल होकर फिर लौट {comes} {a.hai}",
    ),
    "hide": (
        "{a} {b.oblique} के पीछे से {there} जा {a.raha} {a.hai}",
        "{a} {b.oblique} के पीछे छिपकर {there} निकल {a.raha} {a.hai}",
        "{there} जाते हुए {a} {b.oblique} के पीछे से गुज़र {a.raha} {a.hai}",
    ),
    "swap": ("{a} और {b} आपस में जगह बदल रहे हैं", "{a} और {b} एक-दूसरे की जगह ले रहे हैं"),
    "solid": (
        "{shape}, जिस पर {a} {a.hai}, {there} घूम {raha} है",
        "{there} घूम {raha} {shape}, जिस पर {a} {a.hai}",
    ),
}
HINDI_THERE = {
    "right": ("दाईं ओर", "बाएँ से दाएँ", "दाईं तरफ़"),
    "left": ("बाईं ओर", "दाएँ से बाएँ", "बाईं तरफ़"),
    "up": ("ऊपर की ओर", "नीचे से ऊपर"),
    "down": ("नीचे की ओर", "ऊपर से नीचे"),
    "clockwise": ("घड़ी की दिशा में", "दक्षिणावर्त"),
    "counter-clockwise": ("घड़ी की उलटी दिशा में", "वामावर्त"),
}
HINDI_EXITS = {"right": "दाईं ओर से", "left": "बाईं ओर से", "up": "ऊपर से", "down": "नीचे से"}
HINDI_SPEEDS = {"slow": ("धीरे-धीरे ",), "fast": ("तेज़ी से ",), "": ("",)}
HINDI_VIEWS = {
    "pan left": ("कैमरा बाईं ओर जाता है", "कैमरा बाईं तरफ़ खिसकता है"),
    "pan right": ("कैमरा दाईं ओर जाता है", "कैमरा दाईं तरफ़ खिसकता है"),
    "pan up": ("कैमरा ऊपर की ओर जाता है", "कैमरा ऊपर खिसकता है"),
    "pan down": ("कैमरा नीचे की ओर जाता है", "कैमरा नीचे खिसकता है"),
    "zoom in": ("कैमरा पास आता है", "कैमरा ज़ूम इन करता है"),
    "zoom out": ("कैमरा दूर जाता है", "कैमरा ज़ूम आउट करता है"),
    "clockwise": ("कैमरा घड़ी की दिशा में घूमता है",),
    "counter-clockwise": ("कैमरा घड़ी की उलटी दिशा में घूमता है",),
}


def caption(clip: Clip, language: str, form: str, rng: random.Random) -> str:
    """Random caption of a video, in "en" or "hi", in one of grammar.FORMS.

    "dense" states speed, background and camera whenever there is a word for them.
    """
    return (_english if language == "en" else _hindi)(clip, form, rng)


def _english(clip: Clip, form: str, rng: random.Random) -> str:
    """English caption of a video."""
    scene, word = clip.scene, clip.word
    phrases = [grammar_en.phrase(group, lexicon()[group.concept], rng) for group in scene.groups]
    slots = dict(zip("ab", phrases, strict=False))
    if clip.event == "camera":
        text = " and ".join(map(str, phrases))
        view = rng.choice(VIEWS[word])
        text = rng.choice(
            (
                f"{text}, {view}",
                f"{text}. {grammar_en.capital(view)}.",
                f"{view}: {text}" if form != "dense" else f"{text}, {view}",
            )
        )
    else:
        there = f"{word}" if clip.event in ("hide", "solid") else rng.choice(THERE.get(word, ("",)))
        options = ENGLISH[clip.event]
        solid = scene.objects[0].sprite
        shape = solid.shape if isinstance(solid, Solid) else ""
        text = rng.choice(options[:1] if form == "short" else options).format(
            **slots,
            there=there,
            exit=EXITS.get(word, ""),
            shape=shape,
            faces="it" if shape == "card" else "its sides",
        )
        adverb = rng.choice(SPEEDS[speed(clip)])
        if adverb and (form == "dense" or rng.random() < 0.5):
            text = f"{text[:-1]} {adverb}." if text.endswith(".") else f"{text} {adverb}"
    if background_said(rng, scene.background, form):
        where, name = grammar_en.surroundings(scene.background, rng, text)
        text += (
            f" The background is {name}."
            if text.endswith(".")
            else where
            if where.startswith(",")
            else f", {where}"
        )
    if scene.style and style_said(rng, scene.groups, scene.style):
        medium, manner = (rng.choice(words) for words in grammar_en.STYLES[scene.style])
        text += f" It is {medium}." if text.endswith(".") else f", {manner}"
    return (
        grammar_en.capital(text) + ("" if text.endswith(".") else ".")
        if form == "dense" or text.endswith(".")
        else text
    )


def _hindi(clip: Clip, form: str, rng: random.Random) -> str:
    """Hindi caption of a video."""
    scene, word = clip.scene, clip.word
    phrases = [grammar_hi.phrase(group, lexicon()[group.concept], rng) for group in scene.groups]
    slots = dict(zip("ab", phrases, strict=False))
    if clip.event == "camera":
        text = " और ".join(map(str, phrases)) + ", " + rng.choice(HINDI_VIEWS[word])
    else:
        adverb = (
            rng.choice(HINDI_SPEEDS[speed(clip)]) if form == "dense" or rng.random() < 0.5 else ""
        )
        ending = phrases[0].raha.removeprefix("रह")
        solid = scene.objects[0].sprite
        card = isinstance(solid, Solid) and solid.shape == "card"
        options = HINDI[clip.event]
        text = rng.choice(options[:1] if form == "short" else options).format(
            **slots,
            there=adverb + rng.choice(HINDI_THERE.get(word, ("",))),
            exit=HINDI_EXITS.get(word, ""),
            goes="जात" + ending,
            comes="आत" + ending,
            big="बड़" + ending,
            small="छोट" + ending,
            shape="एक कार्ड" if card else "एक घन",
            raha="रहा",
        )
    if background_said(rng, scene.background, form):
        where, _ = grammar_hi.surroundings(scene.background, rng)
        text = f"{where} {text}" if rng.random() < 0.5 else f"{text}, {where}"
    if scene.style and style_said(rng, scene.groups, scene.style):
        text += f", {rng.choice(grammar_hi.STYLES[scene.style])}"
    return text + "।" if form == "dense" else text
