"""Videos of the world: scenes with moving objects and a moving camera, captions and ground truth.

A video (``VideoScene``) is a scene, a motion for each of its objects and a camera.
``VideoScene.at(t)`` is the ordinary scene at time t, so videos use the renderer of images. Speeds
are constant, so the speed that a caption states can be measured.
"""

from __future__ import annotations

from kalpana.world.video.captions import HINDI_SPEEDS, SPEEDS, caption
from kalpana.world.video.events import camera_motion, sample
from kalpana.world.video.motion import (
    CAMERAS,
    DIRECTIONS,
    EVENTS,
    FAST,
    SLOW,
    Camera,
    Motion,
    VideoScene,
    speed,
)
from kalpana.world.video.videos import Videos, VideoSample, VideoTruth

__all__ = [
    "CAMERAS",
    "DIRECTIONS",
    "EVENTS",
    "FAST",
    "HINDI_SPEEDS",
    "SLOW",
    "SPEEDS",
    "Camera",
    "Motion",
    "VideoSample",
    "VideoScene",
    "VideoTruth",
    "Videos",
    "camera_motion",
    "caption",
    "sample",
    "speed",
]
