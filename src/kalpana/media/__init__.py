"""Picture and video files: reading, conversion to RGB, and writing with an embedded receipt.

A receipt is one JSON object: all that is needed to generate the media again.
"""

from kalpana.media.animation import encode_animation
from kalpana.media.files import atomic, locked, ready_folder, write
from kalpana.media.images import (
    Picture,
    as_images,
    decode_picture,
    formats,
    grid,
    open_picture,
    read_error,
    read_mask,
    read_picture,
    rgb,
    slug,
    to_images,
    to_pixels,
)
from kalpana.media.receipts import KEY, parameters, read_receipt
from kalpana.media.save import SUFFIX, VIDEO_SUFFIXES, encode, save, save_video
from kalpana.media.video import (
    Keyframes,
    VideoReader,
    decode_video,
    encode_video,
    is_video,
    read_keyframes,
    read_video,
    require_av,
)

__all__ = [
    "KEY",
    "SUFFIX",
    "VIDEO_SUFFIXES",
    "Keyframes",
    "Picture",
    "VideoReader",
    "as_images",
    "atomic",
    "decode_picture",
    "decode_video",
    "encode",
    "encode_animation",
    "encode_video",
    "formats",
    "grid",
    "is_video",
    "locked",
    "open_picture",
    "parameters",
    "read_error",
    "read_keyframes",
    "read_mask",
    "read_picture",
    "read_receipt",
    "read_video",
    "ready_folder",
    "require_av",
    "rgb",
    "save",
    "save_video",
    "slug",
    "to_images",
    "to_pixels",
    "write",
]
