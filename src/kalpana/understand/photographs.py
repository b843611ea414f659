"""Whether pictures look like photographs, by the share of flat neighbours.

Drawings and pictures of the world's models have even areas; photographs have texture and sensor
noise nearly everywhere. A picture counts as a photograph if, at 64 x 64 pixels, fewer than half of
all pairs of neighbouring pixels differ by at most 4 levels. Rendered paintings, grass or gravel
have texture as well, so that the rule is meant for most of several pictures.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE, LEVELS, SHARE = 64, 4, 0.5


def photographic(picture: Image.Image) -> bool:
    """Whether a picture has so few flat areas that it is likely to be a photograph."""
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)  # h w c
    steps = [np.abs(np.diff(pixels, axis=axis)).max(-1) for axis in (0, 1)]
    return bool(np.mean([(step <= LEVELS).mean() for step in steps]) < SHARE)


def warning(model: str, photographs: int, pictures: int) -> str:
    """A warning where most pictures look like photographs, for a model that learned from none."""
    if 2 * photographs <= pictures:
        return ""
    return (
        f"{photographs:,} of {pictures:,} pictures look like photographs, and model {model!r} "
        "learned from drawings alone: take a public CLIP, as --model openai/clip-vit-base-patch32 "
        "(docs/clip.md says how to get one)"
    )
