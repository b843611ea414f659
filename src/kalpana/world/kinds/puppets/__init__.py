"""Puppets: jointed figures in clearly distinct poses, one alone or two side by side.

The joints are known exactly, in the figure's own units (``joints``) and in the picture
(``placed``).
"""

from __future__ import annotations

from kalpana.world.kinds.puppets.captions import caption
from kalpana.world.kinds.puppets.drawing import figure, placed
from kalpana.world.kinds.puppets.scenes import one, sample, split_of, stands_out
from kalpana.world.kinds.puppets.skeleton import FACING, POSES, joints

__all__ = [
    "FACING",
    "POSES",
    "caption",
    "figure",
    "joints",
    "one",
    "placed",
    "sample",
    "split_of",
    "stands_out",
]
