"""Capabilities of a model: which fields of a request it uses, with which values and defaults."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from kalpana.errors import one_line, shorten
from kalpana.inputs import Adapter, Margins, Media
from kalpana.request import PLANS, Request, Side
from kalpana.types import KalpanaError
from kalpana.world.classes import class_of


class Defaults(BaseModel):
    """Default parameters of a model, for fields that a request leaves out; None: not supported."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = 20
    guidance: float = 3.0
    sampler: str | None = "dpmpp-2m"
    spacing: str = "uniform"
    guidance_rescale: float = 0.0
    size: str = "128x128"
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    strength: float | None = None  # of an image without a mask; with one it is 1
    seconds: float | None = None
    fps: int | None = None
    shift: float = 1.0  # timestep shift of the sampler; above 1: more steps near noise
    interval: tuple[float, float] = (0.0, 1.0)  # times t at which guidance is applied


class Edits(BaseModel):
    """Defaults of a request with a source_prompt, and its ``samplers``; those of FlowEdit, which
    takes samplers of one deterministic step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 30
    sampler: str = "euler"
    strength: float = 0.8
    samplers: tuple[str, ...] = ("euler", "heun", "dpm2")


# Default eta of the samplers that have it: the default of the argument in diffusion/stochastic.py.
ETA = {"ddim": 0.0, "euler-a": 1.0, "dpm2-a": 1.0, "dpmpp-sde": 1.0, "dpmpp-2m-sde": 1.0}
STYLE_STRENGTH = 0.4  # of a style_image
SAMPLERS = (
    *("euler", "heun", "dpmpp-2m", "dpm2", "lms", "deis", "unipc", "ddim", "ddpm"),
    *("euler-a", "dpm2-a", "dpmpp-sde", "dpmpp-2m-sde", "lcm"),
)
FEW = 12  # labels that an error lists in full
SPACINGS = ("uniform", "quadratic", "beta", "kl-optimal", "karras", "exponential")

# Fields that a model can use if it can use another one.
NEEDS = {
    "language": "prompt",
    "expand": "prompt",
    "plan": "control",
    "mask_mode": "mask",
    "style_strength": "style_image",
    "guidance_rescale": "sampler",
    "eta": "sampler",
    "spacing": "sampler",
}
# The fields that a model may or may not use.
OPTIONAL = (
    "prompt",
    "negative_prompt",
    "steps",
    "guidance",
    "guidance_rescale",
    "guide_model",
    "sampler",
    "eta",
    "spacing",
    "temperature",
    "top_k",
    "top_p",
    "size",
    "image",
    "mask",
    "mask_mode",
    "outpaint",
    "source_prompt",
    "style_image",
    "style_strength",
    "strength",
    "last_image",
    "video",
    "extend",
    "camera",
    "label",
    "control",
    "adapter",
    "plan",
    "seconds",
    "fps",
    "expand",
    "language",
    "format",
)


def _named(value: Any) -> str:
    """A value in an error message, after a space; nothing for a media input."""
    if isinstance(value, Media) or value is None:
        return ""
    if isinstance(value, tuple):
        names = (v.file.name if isinstance(v, Adapter) else v.kind for v in value)
        return " " + ", ".join(names)
    return f" {value}" if isinstance(value, Margins) else " " + shorten(value)


class Capabilities(BaseModel):
    """Capabilities of a model: which optional fields of a request it uses, and their values.

    - ``uses``: the optional fields; the others stay at their defaults
    - ``sizes``: the sizes of its training, the default first
    - ``tiles``: number of pixels of which the sides of a larger picture are multiples, for a model
      that generates larger pictures in overlapping windows. None: it has no other sizes
    - ``multiple``: number of pixels of which the sides of any picture are multiples. None: it has
      the sizes above only
    - ``samplers``, ``languages``, ``labels``, ``controls``, ``cameras``: the values of these fields
    - ``edits``: how it answers a source_prompt. None: by its own defaults and samplers
    - ``guidances``: least and greatest guidance. None: those of a request
    - ``tokens``: number of image tokens in its codebook. None: it generates no tokens
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uses: tuple[str, ...] = ("prompt", "negative_prompt", "steps", "guidance", "sampler", "size")
    sizes: tuple[str, ...] = ("128x128",)
    tiles: int | None = None
    multiple: int | None = None
    samplers: tuple[str, ...] = SAMPLERS
    languages: tuple[str, ...] = ("en", "hi")
    labels: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    edits: Edits | None = None
    guidances: tuple[float, float] | None = None
    tokens: int | None = None
    defaults: Defaults = Defaults()

    @property
    def formats(self) -> tuple[str, ...]:
        """File formats of its outputs, the default first."""
        return ("mp4", "webp", "gif", "png") if "seconds" in self.uses else ("png", "webp", "jpeg")

    def resolve(self, request: Request) -> tuple[Request, dict[str, str]]:
        """The request with its seed and every used field filled in, and the fields that this model
        ignores, each with the reason.

        Raises KalpanaError, which names the ignored fields, if the request is strict.
        """
        request = self._labelled(request)
        defaults = {name: self._default(name, request) for name in OPTIONAL}
        if request.outpaint is not None and request.image is not None and "outpaint" in self.uses:
            width, height = request.outpaint.around(request.image.picture().size)
            defaults["size"] = f"{width}x{height}"
        given = {name: getattr(request, name) for name in OPTIONAL}
        resolved = {name: defaults[name] if given[name] is None else given[name] for name in given}
        ignored = {
            name: reason
            for name, value in resolved.items()
            if value != defaults[name]
            and (reason := self._refusal(name, value, resolved, defaults["size"]))
        }
        if ignored and request.strict:
            errors = (
                f"{name}{_named(given[name])} cannot be used by model {request.model!r}: {why}"
                for name, why in ignored.items()
            )
            raise KalpanaError("; ".join(errors))
        if ignored:  # without these fields, others may have other defaults
            left = {name: Request.model_fields[name].default for name in ignored}
            return self.resolve(request.updated(**left))[0], ignored
        return request.seeded().updated(**resolved), ignored

    def _labelled(self, request: Request) -> Request:
        """The request with its label as in ``labels``, where it is a number or another name of the
        class; a model without text takes a prompt that is nothing but such a name as its label."""
        if "label" not in self.uses:
            return request
        alone = request.label is None and "prompt" not in self.uses
        name = class_of(request.prompt if alone else request.label or "", self.labels)
        return (
            request
            if name is None
            else request.updated(prompt="" if alone else request.prompt, label=name)
        )

    def _default(self, name: str, request: Request) -> Any:
        """The value of a field that a request leaves out."""
        edits = self.edits if request.source_prompt is not None else None
        if edits is not None and name in ("steps", "sampler", "strength"):
            return getattr(edits, name)
        if name == "style_strength":
            styled = request.style_image is not None and "style_image" in self.uses
            return STYLE_STRENGTH if styled else None
        if name == "strength":
            if name not in self.uses or request.extend is not None:
                return None
            if (request.video if "video" in self.uses else request.image) is None:
                return None
            anew = request.mask is not None or request.outpaint is not None
            return 1.0 if anew else self.defaults.strength
        if name == "eta":
            return ETA.get(self._sampler(request.sampler) or "")
        if NEEDS.get(name) == "sampler" and "sampler" not in self.uses:
            return None
        if name == "format":
            return self.formats[0]
        return getattr(self.defaults, name, Request.model_fields[name].default)

    def _sampler(self, asked: str | None) -> str | None:
        """The sampler that a request gets: the one it asks for, where the model knows it."""
        return asked if asked in self.samplers else self.defaults.sampler

    def _refusal(self, name: str, value: Any, resolved: dict[str, Any], size: str) -> str | None:
        """The reason for which a value of a field cannot be used, None where it can; ``size`` is
        the default one."""
        choices = {
            "sampler": self.samplers,
            "spacing": SPACINGS,
            "language": ("auto", *self.languages),
            "camera": self.cameras,
            "format": self.formats,
        }
        if name == "prompt" and name not in self.uses and self.labels:
            return f"it draws classes, and reads no text: {self._classes(value)}"
        if NEEDS.get(name, name) not in (*self.uses, "format"):
            return "it has no such setting"
        if name == "size" and resolved["outpaint"] is not None:
            return f"outpaint sets it, to {size}: leave size out"
        if name == "outpaint":
            return self._outpaint_refusal(value, size)
        if name == "sampler" and self.edits is not None and resolved["source_prompt"] is not None:
            known = self.edits.samplers
            return None if value in known else f"with a source_prompt it knows {', '.join(known)}"
        if name == "size":
            return self._size_refusal(value)
        if name == "label" and value not in self.labels:
            return self._classes(value)
        if name in choices and value not in choices[name]:
            return f"it knows {', '.join(choices[name])}"
        if name == "eta" and (sampler := self._sampler(resolved["sampler"])) not in ETA:
            return f"sampler {sampler} has none: it is for {', '.join(ETA)}"
        if name == "guidance_rescale" and resolved["guidance"] == 1:
            return "guidance 1 is off, and adds no contrast"
        if name == "guide_model" and resolved["guidance"] == 1:
            return "guidance 1 is off: write another guidance"
        if name == "strength" and "video" in self.uses and resolved["video"] is None:
            return "it starts from an image, and changes videos only"
        if name == "control":
            unknown = [each.kind for each in value if each.kind not in self.controls]
            return f"it knows {', '.join(self.controls)}, not {unknown[0]}" if unknown else None
        if name == "plan":
            missing = [kind for kind in PLANS[value] if kind not in self.controls]
            return f"it reads no map of {missing[0]}" if missing else None
        if name == "guidance" and self.guidances:
            low, high = self.guidances
            return None if low <= value <= high else f"it is built in, from {low:g} to {high:g}"
        if name == "top_k" and self.tokens is not None and value > self.tokens:
            return f"it has {self.tokens} tokens (write from 1 to {self.tokens}, or leave it out)"
        if name == "negative_prompt" and resolved["guide_model"] is not None:
            return "guide_model takes its place: leave one out"
        if name == "negative_prompt" and "guidance" in self.uses and resolved["guidance"] == 1:
            return "guidance 1 is off, and a negative prompt needs guidance"
        return None

    def _classes(self, text: str) -> str:
        """The labels, or of many the number and those that are spelled most like a text."""
        if len(self.labels) <= FEW:
            return f"it knows {', '.join(self.labels)}"
        text = text.casefold()
        near = [label for label in self.labels if f" {label} " in f" {text} "][:3]
        near = near or get_close_matches(text, self.labels, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"try {', '.join(self.labels[:3])}"
        return f"it knows {len(self.labels)} classes, by name or number from 0: {hint}"

    def _outpaint_refusal(self, margins: Margins, size: str) -> str | None:
        """The reason for which margins that make a picture of ``size`` cannot be used, with some
        that can."""
        sides = [int(side) for side in size.split("x")]
        if size in self.sizes:
            return None
        if self.tiles is None:
            return f"the picture would be {size}, and it knows {', '.join(self.sizes)}"
        if max(sides) > Side[1]:
            return f"the picture would be {size}, and sides are at most {Side[1]}: write less"
        least = [int(side) for side in self.sizes[0].split("x")]
        wider = margins.model_dump()
        for (before, after), side, low in zip(
            (("left", "right"), ("top", "bottom")), sides, least, strict=True
        ):
            grown = before if wider[before] and not wider[after] else after
            wider[grown] += max(-(-side // self.tiles) * self.tiles, low) - side
        if wider == margins.model_dump():
            return None
        return (
            f"the picture would be {size}, and its sides are multiples of {self.tiles}, from "
            f"{self.sizes[0]}: try {Margins(**wider)}"
        )

    def _size_refusal(self, size: str) -> str | None:
        """The reason for which a size cannot be used, with one that can."""
        if size in self.sizes:
            return None
        if self.multiple is not None:
            return self._multiple_refusal(size)
        if self.tiles is None:
            return f"it knows {', '.join(self.sizes)} (for a larger picture ask to upscale it)"
        least = [int(side) for side in self.sizes[0].split("x")]
        sides = [int(side) for side in size.split("x")]
        near = [
            max(round(side / self.tiles) * self.tiles, low)
            for side, low in zip(sides, least, strict=True)
        ]
        if near == sides:
            return None
        return (
            f"it knows {', '.join(self.sizes)} and larger sides that are multiples of "
            f"{self.tiles}: try {near[0]}x{near[1]}"
        )

    def _multiple_refusal(self, size: str) -> str | None:
        """The reason for which a size is not one of multiples, with one that is."""
        assert self.multiple is not None
        sides = [int(side) for side in size.split("x")]
        near = [max(round(side / self.multiple), 1) * self.multiple for side in sides]
        if near == sides:
            return None
        return f"its sides are multiples of {self.multiple}: try {near[0]}x{near[1]}"

    _one_line = model_validator(mode="wrap")(one_line)
