"""Input pictures of a request: how they enter a model, and how the result goes back into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kalpana.inputs import Margins, Media
from kalpana.media import read_mask, to_images, to_pixels
from kalpana.media.images import MaskMode
from kalpana.request import Request
from kalpana.types import KalpanaError

CONTEXT = 1.5  # side of the area around a mask that a model sees, in sides of the mask
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Edit:
    """The input picture of a request, at the size of the output.

    - ``pixels`` (1, 3, h, w) in [-1, 1]
    - ``mask`` (1, 1, h, w) in [0, 1], 1 where the picture is generated anew; None: everywhere
    - ``strength``: the time at which the sampling starts, in [0, 1]
    - ``source``: the whole input picture, in RGB, and the ``area`` of it that ``pixels`` show
    - ``blend``: the mask of the whole input picture, in mode L
    - ``warnings`` for the user
    """

    pixels: Tensor
    mask: Tensor | None
    strength: float
    source: Image.Image
    area: Box
    blend: Image.Image | None = None
    warnings: tuple[str, ...] = ()

    def cells(self, factor: int) -> Tensor | None:
        """The mask (1, 1, h/factor, w/factor) of the cells in which a pixel is masked; None without
        a mask."""
        return None if self.mask is None else F.max_pool2d(self.mask, factor)

    def paste(self, image: Image.Image) -> Image.Image:
        """The result for the user: a generated picture, put back into the input picture where there
        is a mask, whose other pixels keep their values. With strength 0 it is the input picture."""
        if self.strength == 0:
            image = to_images(self.pixels)[0]
        if self.blend is None:
            return image
        left, top, right, bottom = self.area
        whole = self.source.copy()
        whole.paste(image.resize((right - left, bottom - top), Image.Resampling.LANCZOS), self.area)
        return Image.composite(whole, self.source, self.blend)


def read_edit(request: Request) -> Edit | None:
    """The input picture of a resolved request; None if it has none.

    Without a mask the picture is scaled and cropped to the size of the request. With a mask the
    model sees the area around the mask, and for outpainting the whole canvas. Raises KalpanaError
    if a picture cannot be read, or the mask has other proportions than the image or marks nothing.
    """
    if request.image is None:
        return None
    assert request.width and request.height  # resolved
    size = request.width, request.height
    source = request.image.picture()
    strength = 1.0 if request.strength is None else request.strength
    if request.outpaint is not None:
        source, blend = _widened(source, request.outpaint)
        mask = to_mask(blend)
        return Edit(to_pixels([source]), mask, strength, source, (0, 0, *size), blend)
    if request.mask is None:
        area = centre(source.size, size)
        warnings: tuple[str, ...] = ()
        if area != (0, 0, *source.size):
            shape = f"{area[2] - area[0]}x{area[3] - area[1]}"
            warnings = (
                f"image: only its middle, {shape} of {source.width}x{source.height} pixels, has "
                f"the shape of the picture, {request.size}",
            )
        return Edit(_fit(source, area, size), None, strength, source, area, None, warnings)
    blend = open_mask(request.mask, request.mask_mode, source.size)
    box = blend.getbbox()
    assert box is not None  # an empty mask is refused when it is read
    area = _around(box, source.size, size)
    mask = to_mask(blend.crop(area).resize(size, Image.Resampling.BILINEAR))
    return Edit(_fit(source, area, size), mask, strength, source, area, blend)


def to_mask(levels: Image.Image) -> Tensor:
    """A mask (1, 1, h, w) in [0, 1] of an image in mode L."""
    return torch.from_numpy(np.array(levels))[None, None].float() / 255


def _widened(image: Image.Image, margins: Margins) -> tuple[Image.Image, Image.Image]:
    """A picture widened by margins that repeat its edges, and the mask of these in mode L."""
    sides = (margins.top, margins.bottom), (margins.left, margins.right)
    levels = np.array(image)
    given = np.zeros(levels.shape[:2], np.uint8)
    return (
        Image.fromarray(np.pad(levels, (*sides, (0, 0)), "edge")),
        Image.fromarray(np.pad(given, sides, constant_values=255)),
    )


def open_mask(media: Media, mode: MaskMode, size: tuple[int, int]) -> Image.Image:
    """A mask in mode L, 255 where the picture of ``size`` is generated anew.

    Raises KalpanaError if it cannot be read, has other proportions, or marks nothing.
    """
    try:
        mask = read_mask(media.read(), size, mode)
    except KalpanaError as error:
        raise KalpanaError(f"the input {media.name}: {error}") from None
    return Image.fromarray((mask.numpy() * 255).round().astype(np.uint8))


def fitted(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Pixels (1, 3, h, w) of the middle of a picture, cropped to the aspect of ``size``."""
    return _fit(image, centre(image.size, size), size)


def _fit(source: Image.Image, area: Box, size: tuple[int, int]) -> Tensor:
    """Pixels (1, 3, h, w) of an area of a picture, resized."""
    return to_pixels([source.crop(area).resize(size, Image.Resampling.LANCZOS)])


def centre(source: tuple[int, int], size: tuple[int, int]) -> Box:
    """The largest area in the middle of a picture that has the aspect of ``size``."""
    scale = min(source[0] / size[0], source[1] / size[1])
    width, height = (max(round(side * scale), 1) for side in size)
    left, top = (source[0] - width) // 2, (source[1] - height) // 2
    return left, top, left + width, top + height


def _around(box: Box, source: tuple[int, int], size: tuple[int, int]) -> Box:
    """The area around a mask that a model sees: CONTEXT times as large, no smaller than the model's
    picture, of its aspect, and inside the picture, which may change the aspect."""
    scale = max(1.0, *(CONTEXT * (box[k + 2] - box[k]) / size[k] for k in (0, 1)))
    sides = [min(round(size[k] * scale), source[k]) for k in (0, 1)]
    first = [
        min(max((box[k] + box[k + 2] - sides[k]) // 2, 0), source[k] - sides[k]) for k in (0, 1)
    ]
    return first[0], first[1], first[0] + sides[0], first[1] + sides[1]
