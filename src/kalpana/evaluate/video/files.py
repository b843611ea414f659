"""Videos of a suite from files: MP4, or folders of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from kalpana.evaluate.video.suite import Video, VideoPrompt
from kalpana.media import decode_video, read_picture, to_pixels
from kalpana.types import KalpanaError


def videos_of(
    folder: Path, prompts: Sequence[VideoPrompt], fps: float | None = None
) -> Iterator[Video]:
    """The video of each prompt in a folder of videos from elsewhere.

    For prompt 7 of the suite: 0007.mp4, 0007.webp, or a folder 0007 with frames in the order of
    their names. ``fps`` is the frame rate of folders; None: that of the prompt's true video. Raises
    KalpanaError if a prompt has no video, before any is read, or if a video cannot be read.
    """
    paths = []
    for prompt in prompts:
        name = f"{prompt.number:04d}"
        candidates = (folder / f"{name}.mp4", folder / f"{name}.webp", folder / name)
        path = next((path for path in candidates if path.exists()), None)
        if path is None:
            raise KalpanaError(
                f"no video in {folder} is of prompt {prompt.number}, {prompt.text!r}: "
                f"call it {name}.mp4, or put its frames into {name}/000.png, ..."
            )
        paths.append(path)
    for path, prompt in zip(paths, prompts, strict=True):
        rate = prompt.video.fps if fps is None else fps
        try:
            yield Video(_frames(path), rate) if path.is_dir() else video_in(path)
        except KalpanaError as error:
            raise KalpanaError(f"{path}: {error}") from None


def video_in(path: Path) -> Video:
    """The video in a file."""
    images, rate, _ = decode_video(path.read_bytes())
    return Video(to_pixels(images), rate)


def _frames(folder: Path) -> Tensor:
    """The pictures of a folder (t, 3, h, w), in numerical order of their names: 2 before 10."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".png", ".webp", ".jpg", ".jpeg")
    ]
    if not files:
        raise KalpanaError(
            "there are no frames in it: put PNG, WebP or JPEG files there, 000.png and so on"
        )
    images = [
        read_picture(path) for path in sorted(files, key=lambda path: (len(path.stem), path.stem))
    ]
    if len({image.size for image in images}) > 1:
        raise KalpanaError("its frames are of unlike sizes: give all of one size")
    return to_pixels(images)
