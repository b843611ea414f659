"""Videos of a suite's prompts by a model, in the folder of a resumable run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kalpana.evaluate.run import claim
from kalpana.evaluate.video.files import video_in
from kalpana.evaluate.video.suite import Video, VideoPrompt
from kalpana.media import to_images
from kalpana.pipelines import last
from kalpana.pipelines.pipeline import Pipeline
from kalpana.world.render import render

LOSSLESS = "webp"  # format of the videos: the verifier sees the pixels that the model made


@dataclass(frozen=True)
class Drawing:
    """Settings of the videos that a model makes for the prompts of a suite.

    - ``size`` of the square videos, and ``fps``; ``steps``: None for the model's default
    - ``image``: the first frame of the true video is given (picture to video)
    - ``expand``: prompts are expanded, as by ``--expand`` of ``kalpana generate``
    """

    size: str = "64x64"
    fps: int = 8
    steps: int | None = None
    image: bool = False
    expand: bool = False

    def fields(self, prompt: VideoPrompt) -> dict[str, Any]:
        """Fields of the request for a prompt: its video lasts as long as the true one, so that a
        named pace is possible, and its seed is its number in the suite."""
        frames = round(prompt.video.seconds * self.fps) + 1
        fields: dict[str, Any] = {"seconds": frames / self.fps, "fps": self.fps, "size": self.size}
        fields |= {"seed": prompt.number, "expand": self.expand, "format": LOSSLESS}
        if self.steps is not None:
            fields["steps"] = self.steps
        if self.image:
            side = int(self.size.split("x")[0])
            fields["image"] = to_images(render([prompt.video.at(0)], side).pixels)[0]
        return fields


def drawn(
    model: Pipeline,
    name: str,
    prompts: Sequence[VideoPrompt],
    drawing: Drawing,
    out: Path,
    about: dict[str, Any],
) -> Iterator[Video]:
    """The video of each prompt by a model that was loaded as ``name``; those that are not in
    ``out`` yet are generated, one after another, and kept there.

    ``about`` identifies the run together with the model and the settings. Raises KalpanaError if
    ``out`` holds a different run, or the model cannot make such videos.
    """
    out.mkdir(parents=True, exist_ok=True)
    claim(out / "run.json", about | {"model": model.files, "drawing": asdict(drawing)})
    for prompt in prompts:
        path = out / f"{prompt.number:04d}.{LOSSLESS}"
        if not path.exists():
            stream = model.generate(prompt.text, model=name, **drawing.fields(prompt))
            last(stream).outputs[0].save(path)
        yield video_in(path)
