"""Motion of objects and of the camera, and a video as a scene that they change over time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kalpana.world.scene import STILL, Scene, SceneObject, Solid, View

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
class VideoScene:
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


def speed(video: VideoScene) -> str:
    """Speed word of a video: "slow", "fast", or "" if its speed or event has no word."""
    motion = video.motions[0]
    if video.event not in ("move", "arc"):
        return ""
    value = math.hypot(motion.dx, motion.dy) / video.seconds
    return "slow" if value <= SLOW[1] else "fast" if value >= FAST[0] else ""
