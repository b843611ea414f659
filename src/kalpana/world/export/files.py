"""Bytes of the files of an example: its image or video, and its maps as PNG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor

from kalpana.media import encode_video, to_images
from kalpana.world.export.examples import Example


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def media(example: Example) -> tuple[str, bytes]:
    """The suffix and the bytes of an example's file: a PNG, or the MP4 of a video."""
    images = to_images(example.frames)
    if example.fps is None:
        return "png", png(images[0])
    return "mp4", encode_video(images, example.fps, {})


def depth_png(depth: Tensor) -> bytes:
    """16-bit PNG of a depth map (h, w): 0 at the camera, 65535 at the background."""
    return png(Image.fromarray((depth.clamp(0, 1) * 65535).round().numpy().astype(np.uint16)))


def mask_png(mask: Tensor) -> bytes:
    """1-bit PNG of a mask (h, w) bool."""
    return png(Image.fromarray(mask.numpy()))


def maps_of(example: Example) -> dict[str, list[bytes]]:
    """The PNGs of the depth, edges and outlines, one for each frame."""
    return {
        "depth": [depth_png(each) for each in example.depth],
        "edges": [mask_png(each) for each in example.edges],
        "outlines": [mask_png(each) for each in example.outlines],
    }
