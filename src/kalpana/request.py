"""The request schema and the capabilities of a model.

The Python API, the command line and HTTP all read the fields, bounds and help texts of this module.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypedDict

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from kalpana.errors import one_line
from kalpana.inputs import Adapter, ControlMap, Margins, Media
from kalpana.request_values import PLANS as PLANS
from kalpana.request_values import (
    adapters,
    controls,
    hyphenated,
    listed,
    margins,
    plan_name,
    spacing_name,
    translate,
    whole,
)
from kalpana.text.normalize import clean as clean  # for the callers of this module

INPUTS = ("image", "mask", "style_image", "last_image", "video")  # media fields of a request
SEED_LIMIT = 2**63  # seeds are below it
# Characters. The receipt holds the prompt and must still fit into the text chunk of a PNG.
LONGEST_PROMPT = 1_000_000


Plan = Literal["words", "layout", "all", "none"]
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]
Side = 8, 2048  # pixels, minimum and maximum; Capabilities say which sizes a model supports


class Request(BaseModel):
    """One request for pictures or videos; a field that is None takes the default of the model.

    It needs a prompt, a label or an image. The names of other libraries in ALIASES, and width with
    height, are read as well.

    Raises KalpanaError, one line that names the field and states what to write instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(
        "", max_length=LONGEST_PROMPT, description="what the picture shows, in English or Hindi"
    )
    negative_prompt: str | None = Field(
        None,
        max_length=LONGEST_PROMPT,
        description="what the picture should not show; needs guidance other than 1",
    )
    model: str = Field(
        "default", min_length=1, description="a name from `kalpana models`, or a folder of weights"
    )
    n: int = Field(1, ge=1, le=256, description="how many pictures, 1 to 256")
    seed: Seed | None = Field(
        None,
        description="seed of the first picture, the others count up from it; "
        "random, and shown, when left out",
    )
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(listed)] | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="one seed for each picture, such as 3,1,4; instead of n and seed",
    )
    best_of: int = Field(
        1,
        ge=1,
        le=64,
        description="candidates generated for each picture, of which the one with the highest CLIP "
        "similarity to the prompt is kept, 1 to 64; 1 is off",
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="denoising steps, optimisation steps or MaskGIT decoding iterations, 1 to 1000",
    )
    guidance: float | None = Field(
        None,
        ge=0,
        le=30,
        allow_inf_nan=False,
        description="how strongly to follow the prompt, 0 to 30; 1 is off",
    )
    guidance_rescale: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how much of the contrast that guidance adds is taken back, 0 to 1; 0 is off",
    )
    guide_model: str | None = Field(
        None,
        min_length=1,
        description="a weaker model of the same family, a name or a folder, from whose estimate "
        "guidance moves away (autoguidance), in place of that without the prompt",
    )
    sampler: Annotated[str | None, BeforeValidator(hyphenated)] = Field(
        None,
        description="the sampler: euler, heun, dpmpp-2m, dpm2, lms, deis, unipc, ddim, ddpm, "
        "euler-a, dpm2-a, dpmpp-sde, dpmpp-2m-sde or lcm",
    )
    eta: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how much noise a stochastic sampler adds in its steps, from 0, none, to 1",
    )
    spacing: Annotated[str | None, BeforeValidator(spacing_name)] = Field(
        None,
        description="the spacing of the timesteps: uniform, quadratic, beta, kl-optimal, karras "
        "or exponential",
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="temperature of token sampling, 0 to 100; 0 always takes the likeliest token",
    )
    top_k: int | None = Field(
        None,
        ge=1,
        description="sample each token among this many, the likeliest; among all when left out",
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="sample each token among the fewest that together have this probability, "
        "up to 1; 1 is off",
    )
    size: str | None = Field(
        None, description="WIDTHxHEIGHT in pixels; the model says which ones it knows"
    )
    image: Media | None = Field(
        None, description="a picture to start from: its file, bytes, data URL or PIL image"
    )
    mask: Media | None = Field(
        None, description="a picture that says which part of the image is generated anew"
    )
    mask_mode: Literal["auto", "alpha", "white", "black"] = Field(
        "auto",
        description="the part of the mask that is generated anew: where it is transparent (alpha), "
        "white or black; auto is alpha for a mask with transparency, else white",
    )
    outpaint: Annotated[Margins | None, BeforeValidator(margins)] = Field(
        None,
        description="pixels by which the image is widened, such as left=64,right=64, of left, top, "
        "right and bottom; they set the size",
    )
    source_prompt: str | None = Field(
        None,
        max_length=LONGEST_PROMPT,
        description="what the image shows, where the prompt says what it should show instead",
    )
    style_image: Media | None = Field(
        None, description="a picture whose style, its colours and strokes, the result takes on"
    )
    style_strength: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how much of the style of style_image is taken on, from 0, nothing, to 1",
    )
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how much of the image or video is changed, from 0, nothing, to 1, no trace is "
        "left",
    )
    last_image: Media | None = Field(
        None,
        description="the picture that a video, or the way between two pictures, ends with; image "
        "is its first one",
    )
    video: Media | None = Field(
        None, description="a video to change, by strength, or to go on from, by extend"
    )
    extend: float | None = Field(
        None,
        gt=0,
        le=60,
        allow_inf_nan=False,
        description="seconds by which the video is continued, up to 60",
    )
    camera: str | None = Field(
        None,
        description="motion of the camera in a video: pan left, pan right, pan up, pan down, "
        "zoom in, zoom out, clockwise, counter-clockwise or still",
    )
    label: str | None = Field(
        None, description="a class of a class-conditional model, by name or number"
    )
    control: Annotated[tuple[ControlMap, ...], BeforeValidator(controls)] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="a control map, KIND=FILE or KIND=FILE:STRENGTH, such as edges=map.png:0.8; "
        "can be given several times",
    )
    adapter: Annotated[tuple[Adapter, ...], BeforeValidator(adapters)] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="an adapter (LoRA), FILE or FILE:STRENGTH, such as runs/mydog:0.8; strengths "
        "are from -2 to 2; can be given several times",
    )
    plan: Annotated[Plan, BeforeValidator(plan_name)] = Field(
        "words",
        description="what is placed by a planned layout, for a model that reads such maps: words "
        "(a quoted word), layout (boxes of the counted objects), all or none",
    )
    seconds: float | None = Field(
        None, gt=0, le=60, allow_inf_nan=False, description="length of a video in seconds, up to 60"
    )
    fps: int | None = Field(None, ge=1, le=60, description="frames a second of a video, 1 to 60")
    expand: bool = Field(
        False,
        description="state what the prompt leaves open (background, style, size), for each seed in "
        "its own way; the receipt holds it as revised_prompt",
    )
    language: Literal["auto", "en", "hi"] = Field(
        "auto", description="language of the prompt; auto detects it"
    )
    strict: bool = Field(
        True,
        description="a field the model cannot use is an error; "
        "otherwise the receipt lists it as ignored",
    )
    format: Literal["png", "webp", "jpeg", "mp4", "gif"] | None = Field(
        None,
        description="file format: png (the default), webp (both lossless) or jpeg; of videos mp4 "
        "(the default), webp, gif or png, a sheet of the frames",
    )
    upscale: Annotated[Literal[1, 2, 4], BeforeValidator(whole)] = Field(
        1, description="enlarge the finished picture 2 or 4 times"
    )

    @field_validator("prompt", "negative_prompt", "source_prompt")
    @classmethod
    def _has_words(cls, text: str | None, info: ValidationInfo) -> str | None:
        empty = info.field_name == "prompt" and text == ""  # see _inputs_agree
        if text is not None and not empty and not clean(text):
            raise ValueError(
                "has no words: write what the picture should show, such as 'three red apples'"
            )
        return text

    @field_validator("size", mode="before")
    @classmethod
    def _is_a_size(cls, size: Any) -> Any:
        if size is None:
            return None
        try:
            width, height = (
                int(side) for side in (size.lower().split("x") if isinstance(size, str) else size)
            )
        except (TypeError, ValueError):
            raise ValueError("should be WIDTHxHEIGHT in pixels, such as 128x128") from None
        if not all(Side[0] <= side <= Side[1] for side in (width, height)):
            raise ValueError(f"sides should be from {Side[0]} to {Side[1]} pixels")
        return f"{width}x{height}"

    @model_validator(mode="after")
    def _inputs_agree(self) -> Request:
        media = (self.image, self.video)
        if not self.prompt and self.label is None and media == (None, None):
            raise ValueError(
                "there is no prompt: write what the picture should show, such as "
                "'three red apples', or give an image or a label"
            )
        if self.image is None and self.mask is not None:
            raise ValueError("mask needs an image: give the picture that is to be changed")
        for name in ("outpaint", "source_prompt"):
            if self.image is None and getattr(self, name) is not None:
                raise ValueError(f"{name} needs an image: give the picture that is to be changed")
        if self.source_prompt is not None and not self.prompt:
            raise ValueError("source_prompt needs a prompt: write what the image should show")
        if self.outpaint is not None and (self.mask or self.source_prompt is not None):
            other = "mask" if self.mask else "source_prompt"
            raise ValueError(f"outpaint and {other} are both given: leave one out")
        if self.style_image is None and self.style_strength is not None:
            raise ValueError("style_strength needs a style_image: give one, or leave it out")
        if media == (None, None) and self.strength is not None:
            raise ValueError("strength needs an image or a video: give what is to be changed")
        if self.video is None and self.extend is not None:
            raise ValueError("extend needs a video: give the one that is to be continued")
        if self.video is not None and (self.image or self.last_image):
            raise ValueError("video and image are both given: leave one out")
        if self.extend is not None and self.strength is not None:
            raise ValueError("extend keeps the video, and strength changes it: leave one out")
        if self.mask is None and "mask_mode" in self.model_fields_set and self.mask_mode != "auto":
            raise ValueError("mask_mode needs a mask: give one, or leave it out")
        kinds = [each.kind for each in self.control or ()]
        if twice := {kind for kind in kinds if kinds.count(kind) > 1}:
            raise ValueError(f"there are two control maps of kind {sorted(twice)[0]}: give one")
        return self

    @model_validator(mode="after")
    def _seeds_agree(self) -> Request:
        if self.seeds is not None and self.seed is not None:
            raise ValueError("seed and seeds are both given: leave one out")
        if self.seeds is not None and "n" in self.model_fields_set and self.n != len(self.seeds):
            raise ValueError(f"n is {self.n} but there are {len(self.seeds)} seeds: leave n out")
        if self.seed is not None and self.seed + self.n > SEED_LIMIT:
            raise ValueError(
                f"seed {self.seed} leaves no room for {self.n} pictures: "
                f"write at most {SEED_LIMIT - self.n}"
            )
        return self

    _aliases = model_validator(mode="before")(translate)
    _one_line = model_validator(mode="wrap")(one_line)  # defined last, so outermost

    @property
    def width(self) -> int | None:
        return int(self.size.split("x")[0]) if self.size else None

    @property
    def height(self) -> int | None:
        return int(self.size.split("x")[1]) if self.size else None

    def seeded(self) -> Request:
        """This request with a seed: a random one where none was given.

        A random seed has at most 9 digits, so that it can be read aloud and typed again.
        """
        has_seed = self.seeds or self.seed is not None
        return self if has_seed else self.updated(seed=secrets.randbelow(10**9))

    def each_seed(self) -> tuple[int, ...]:
        """The seeds, one for each picture; the request must be ``seeded``."""
        assert self.seeds or self.seed is not None, "seeded() comes first"
        return self.seeds or tuple(range(self.seed, self.seed + self.n))  # type: ignore[arg-type, operator]

    def candidates(self, seed: int) -> tuple[int, ...]:
        """The ``best_of`` seeds of the candidates for one picture: its own seed, then the CRC-32 of
        "SEED/1", "SEED/2" and so on, in UTF-8. The hash scatters them, so that two pictures of a
        request do not share candidates."""
        return (seed, *(zlib.crc32(f"{seed}/{k}".encode()) for k in range(1, self.best_of)))

    def parts(self, most: int) -> Iterator[Request]:
        """The same pictures, in order, as requests of at most ``most`` candidates each. One picture
        is never split: with ``best_of`` above ``most``, each request has one picture. Nor are the
        pictures on the way between two. The request must be ``seeded``."""
        seeds, most = self.each_seed(), max(most // self.best_of, 1)
        if len(seeds) <= most or (self.last_image is not None and self.seconds is None):
            yield self
            return
        for start in range(0, len(seeds), most):
            chunk = seeds[start : start + most]
            yield self.updated(
                n=len(chunk), **({"seeds": chunk} if self.seeds else {"seed": chunk[0]})
            )

    def updated(self, **fields: Any) -> Request:
        """A validated copy with some fields replaced."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return Request(**(given | translate(fields)))

    def media(self) -> list[Media]:
        """All files that are inputs: pictures, videos, control maps and adapters."""
        found = [getattr(self, name) for name in INPUTS]
        found += [each.image for each in self.control or ()]
        found += [each.file for each in self.adapter or ()]
        return [each for each in found if each is not None]

    def to_json(self) -> dict[str, Any]:
        """The fields that were set, as JSON types: ``Request(**request.to_json()) == request``."""
        return self.model_dump(mode="json", exclude_unset=True)


class RequestFields(TypedDict, total=False):
    """The fields of a Request but the prompt, as typed keyword arguments, and their aliases."""

    negative_prompt: str | None
    model: str
    n: int
    seed: int | None
    seeds: tuple[int, ...] | None
    best_of: int
    steps: int | None
    guidance: float | None
    guidance_rescale: float | None
    guide_model: str | None
    sampler: str | None
    eta: float | None
    spacing: str | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    size: str | None
    image: Any
    mask: Any
    mask_mode: Literal["auto", "alpha", "white", "black"]
    outpaint: Any
    source_prompt: str | None
    style_image: Any
    style_strength: float | None
    strength: float | None
    last_image: Any
    video: Any
    extend: float | None
    camera: str | None
    label: str | None
    control: Any
    adapter: Any
    plan: Plan | bool
    seconds: float | None
    fps: int | None
    expand: bool
    language: Literal["auto", "en", "hi"]
    strict: bool
    format: Literal["png", "webp", "jpeg", "mp4", "gif"] | None
    upscale: Literal[1, 2, 4]
    num_inference_steps: int | None
    guidance_scale: float | None
    width: int
    height: int


def ask(prompt: str | Request, **fields: Any) -> Request:
    """A request for a prompt and other fields, or a copy of a request with some fields replaced."""
    return (
        prompt.updated(**fields)
        if isinstance(prompt, Request)
        else Request(prompt=prompt, **fields)
    )
