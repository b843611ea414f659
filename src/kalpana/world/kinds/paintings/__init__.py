"""Painting media as filters of rendered scenes: watercolour, oil, pencil, ink, pixel art, neon.

Captions always name the medium. Pencil and ink have no colours, so their captions name none.
"""

from __future__ import annotations

from kalpana.world.kinds.paintings.captions import caption
from kalpana.world.kinds.paintings.media import PAINTINGS, paint
from kalpana.world.kinds.paintings.scenes import sample

__all__ = ["PAINTINGS", "caption", "paint", "sample"]
