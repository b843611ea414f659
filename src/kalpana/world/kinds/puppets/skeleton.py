"""Skeleton of puppets: poses as tables of bone directions, and forward kinematics from the hip."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

from kalpana.world.figures import RGB
from kalpana.world.scene import Puppet

Point = tuple[float, float]
Joints = dict[str, Point]
Arm = tuple[float, float]  # upper arm, forearm
Leg = tuple[float, float, float]  # thigh, shin, and the foot from the shin


@dataclass(frozen=True)
class Pose:
    """Bone directions of a pose in degrees: 0 points down, 90 to the right of the picture, 180 up.

    ``lean`` and ``nod`` turn the torso and the head from upright to the right. Left and right are
    the puppet's own: in a frontal view its left is on the right of the picture. In a ``side`` view
    it faces right, with its right limbs nearer to the camera.
    """

    left_arm: Arm
    right_arm: Arm
    left_leg: Leg
    right_leg: Leg
    lean: float = 0
    nod: float = 0
    side: bool = False
    point: bool = False  # with the left index finger

    @property
    def symmetric(self) -> bool:
        return self == _frontal(self.left_arm, self.left_leg, self.lean)


def _frontal(arm: Arm, leg: Leg, lean: float = 0) -> Pose:
    """Symmetric pose in a frontal view: the right limbs mirror the left ones."""
    return Pose(arm, (-arm[0], -arm[1]), leg, (-leg[0], -leg[1], -leg[2]), lean, lean)


POSES = {
    "standing": _frontal((16, 8), (7, 4, 55)),
    "waving": Pose((16, 8), (-112, -168), (7, 4, 55), (-7, -4, -55)),
    "arms up": _frontal((152, 170), (7, 4, 55)),
    "arms out": _frontal((92, 90), (7, 4, 55)),
    "hands on hips": _frontal((60, -54), (15, 10, 50)),
    "jumping": _frontal((128, 145), (62, -22, 20)),
    "dancing": Pose((70, 130), (-125, -200), (58, 42, 35), (-8, -2, -60), lean=-10, nod=8),
    "stretching": Pose((150, 128), (160, 118), (14, 10, 50), (-14, -10, -50), lean=24, nod=30),
    "balancing": Pose((98, 94), (-98, -94), (75, -68, 40), (-2, 0, -55)),
    "handstand": _frontal((-24, -4), (204, 198, 10), lean=180),
    "pointing": Pose((92, 90), (-6, 4), (4, 0, 90), (-10, -8, 90), nod=2, side=True, point=True),
    "namaste": Pose((30, 146), (18, 140), (3, 0, 90), (-5, -4, 90), lean=5, nod=14, side=True),
    "walking": Pose((34, 52), (-32, -10), (-20, -42, 90), (30, 14, 95), lean=4, nod=4, side=True),
    "running": Pose((56, 150), (-66, 30), (-38, -118, 90), (72, 6, 85), lean=20, nod=10, side=True),
    "kicking": Pose((62, 84), (-58, -40), (-8, -2, 90), (98, 92, 80), lean=-18, nod=-6, side=True),
    "kneeling": Pose((-4, 10), (34, 62), (2, -88, 6), (88, 0, 90), lean=2, nod=4, side=True),
    "sitting": Pose((-34, -22), (44, 76), (94, 90, 80), (130, 22, 75), lean=-12, nod=-4, side=True),
    "crawling": Pose((14, 2), (-10, -2), (14, -80, 0), (-10, -88, 0), lean=80, nod=40, side=True),
    "bowing": Pose((-36, -22), (-44, -30), (4, 1, 90), (-3, -3, 90), lean=58, nod=78, side=True),
    "lying down": Pose(
        (78, 92), (92, 98), (96, 90, 80), (118, 60, 80), lean=-90, nod=-86, side=True
    ),
}


@dataclass(frozen=True)
class Body:
    """Proportions and colours of one puppet; lengths are relative to a torso of about 1."""

    torso: float
    arm: float  # upper arm; the forearm is a little shorter
    leg: float  # thigh; the shin is a little shorter
    head: float  # radius
    girth: float
    hair: RGB
    cut: str
    shoes: RGB


HAIR = (
    (0.17, 0.12, 0.10),
    (0.33, 0.20, 0.12),
    (0.48, 0.24, 0.12),
    (0.62, 0.62, 0.64),
    (0.86, 0.68, 0.36),
)
CUTS = ("short", "short", "bun", "long")
SHOES = ((0.42, 0.28, 0.22), (0.36, 0.37, 0.44), (0.92, 0.90, 0.88))
NECK, HAND, FOOT = 0.10, 0.10, 0.19
JITTER = 4.0  # degrees, of every bone


@lru_cache(maxsize=1024)
def build(puppet: Puppet) -> tuple[Body, Pose]:
    """The puppet's body, which depends on its seed alone, and its pose with jitter."""
    rng = random.Random(puppet.seed)
    body = Body(
        torso=0.92 * rng.uniform(0.95, 1.05),
        arm=0.46 * rng.uniform(0.94, 1.06),
        leg=0.60 * rng.uniform(0.94, 1.06),
        head=0.29 * rng.uniform(0.93, 1.07),
        girth=rng.uniform(0.92, 1.10),
        hair=rng.choice(HAIR),
        cut=rng.choice(CUTS),
        shoes=rng.choice(SHOES),
    )
    pose = POSES[puppet.pose]
    turn = [rng.uniform(-JITTER, JITTER) for _ in range(10)]
    return body, Pose(
        (pose.left_arm[0] + turn[0], pose.left_arm[1] + turn[1]),
        (pose.right_arm[0] + turn[2], pose.right_arm[1] + turn[3]),
        (pose.left_leg[0] + turn[4], pose.left_leg[1] + turn[5], pose.left_leg[2]),
        (pose.right_leg[0] + turn[6], pose.right_leg[1] + turn[7], pose.right_leg[2]),
        pose.lean + turn[8] / 2,
        pose.nod + turn[9],
        pose.side,
        pose.point,
    )


def joints(puppet: Puppet) -> Joints:
    """Joint positions in the figure's own units.

    Names: head (its centre), neck, and left and right shoulder, elbow, wrist, hip, knee and ankle;
    left and right as in ``Pose``.
    """
    return dict(cached_joints(puppet))


@lru_cache(maxsize=1024)
def cached_joints(puppet: Puppet) -> Joints:
    body, pose = build(puppet)
    across = math.cos(math.radians(pose.lean)), math.sin(math.radians(pose.lean))
    neck = end_of((0.0, 0.0), 180 - pose.lean, body.torso)
    chest = end_of(neck, -pose.lean, 0.13)
    at = {"head": end_of(neck, 180 - pose.nod, NECK + 0.9 * body.head), "neck": neck}
    shoulder, hip = (0.03, 0.02) if pose.side else (0.25 * body.girth, 0.14 * body.girth)
    for name, sign, arm, leg in (
        ("left", 1, pose.left_arm, pose.left_leg),
        ("right", -1, pose.right_arm, pose.right_leg),
    ):
        at[f"{name} shoulder"] = (
            chest[0] + sign * shoulder * across[0],
            chest[1] + sign * shoulder * across[1],
        )
        at[f"{name} elbow"] = end_of(at[f"{name} shoulder"], arm[0], body.arm)
        at[f"{name} wrist"] = end_of(at[f"{name} elbow"], arm[1], 0.9 * body.arm)
        at[f"{name} hip"] = sign * hip * across[0], sign * hip * across[1]
        at[f"{name} knee"] = end_of(at[f"{name} hip"], leg[0], body.leg)
        at[f"{name} ankle"] = end_of(at[f"{name} knee"], leg[1], 0.95 * body.leg)
    return at


def end_of(start: Point, direction: float, length: float) -> Point:
    """The end of a bone from ``start``; direction in degrees as in ``Pose``."""
    turn = math.radians(direction)
    return start[0] + length * math.sin(turn), start[1] + length * math.cos(turn)


# Poses that face right unless mirrored.
FACING = {pose for pose, table in POSES.items() if table.side and pose != "lying down"}
