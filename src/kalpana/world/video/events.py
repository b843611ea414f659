"""Random videos, one for each event: what happens in them, and whether it is visible."""

from __future__ import annotations

import random
from dataclasses import replace

from kalpana.world import atlas, sprites
from kalpana.world.defaults import (
    background_for,
    choose_color,
    choose_style,
    house_style,
    own_facing,
    sprite_of,
)
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import BACKDROPS, PLACES, Background, Group, Scene, SceneObject, Solid
from kalpana.world.splits import belongs
from kalpana.world.video.motion import (
    CAMERAS,
    DIRECTIONS,
    EVENTS,
    FAST,
    SLOW,
    Camera,
    Motion,
    VideoScene,
)


def sample(rng: random.Random, split: str = "train") -> VideoScene:
    """Random video of a split; all its events are equally likely."""
    event = rng.choice(EVENTS)
    while split == "unseen" and event == "solid":  # it shows no combination that is held out
        event = rng.choice(EVENTS)
    while True:
        video = _sample(rng, event)
        if video is not None and belongs(video.scene, split):
            return video


def _sample(rng: random.Random, event: str) -> VideoScene | None:
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
        camera = camera_motion(rng, word, parallax=two and word.startswith("pan"))
    video = VideoScene(scene, tuple(motions), camera, frames, fps, event, word)
    return video if _valid(video) else None


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


def camera_motion(rng: random.Random, word: str, parallax: bool) -> Camera:
    """Random camera motion for one of CAMERAS."""
    move, _, direction = word.partition(" ")
    if move == "pan":
        (ux, uy), distance = DIRECTIONS[direction], rng.uniform(0.15, 0.3)
        return Camera(dx=ux * distance, dy=uy * distance, parallax=parallax)
    if move == "zoom":
        ratio = rng.uniform(1.4, 1.9)
        return Camera(zoom=ratio if direction == "in" else 1 / ratio)
    return Camera(turn=rng.uniform(25, 60) * (1 if word == "clockwise" else -1))


def _valid(video: VideoScene) -> bool:
    """Whether the video shows its event: objects are in view at its start and end.

    Objects must be fully inside the image; for a camera motion, only their centres, by 0.1. In
    "hide" the front object must cover the other at half time.
    """
    ends = [item for t in (0.0, 1.0) for item in video.at(t).objects]
    if video.event == "camera":
        return all(0.1 < item.x < 0.9 and 0.1 < item.y < 0.9 for item in ends)
    if video.event == "hide" and not _covers(video.at(0.5)):
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
