"""What can be asked, and what a model can answer, said once: Python, the command line and HTTP read the same fields, bounds and helps."""

from __future__ import annotations

import difflib
import secrets
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from kalpana.types import KalpanaError

SEED_LIMIT = 2**63  # seeds are below it
Asked = TypeVar("Asked", bound=BaseModel)
LONGEST_PROMPT = 1_000_000  # characters; a receipt, which holds the prompt, must still fit the text chunk of a PNG


def explain(error: ValidationError, schema: type[BaseModel]) -> KalpanaError:
    """One line that names each wrong field of ``schema`` and says what it should be."""
    return KalpanaError(
        "; ".join(
            _mend(problem["type"], problem["loc"], problem["msg"], problem["input"], schema)
            for problem in error.errors()
        )
    )


def _mend(
    kind: str, location: tuple[int | str, ...], message: str, value: Any, schema: type[BaseModel]
) -> str:
    name = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(name, schema.model_fields, n=1)
        return f"there is no field {name!r}: " + (
            f"did you mean {close[0]!r}?"
            if close
            else f"the fields are {', '.join(schema.model_fields)}"
        )
    if kind == "missing":
        return f"{name} is missing"
    said = message.removeprefix("Value error, ").removeprefix("Input ")
    return f"{name} {shorten(value)}: {said}" if name else said


def shorten(value: Any) -> str:
    """The value as an error shows it, in 60 characters at most."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:59] + "…"


def clean(text: str) -> str:
    """The text as a tokenizer should read it: control characters and line breaks become spaces, runs of spaces become one.

    Joiners and direction marks (Unicode Cf) stay: Devanagari, emoji and right-to-left scripts need them.
    """
    return " ".join(
        "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text).split()
    )


def _whole(value: Any) -> Any:
    """A digit string from a command line or a form as the number it means."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _listed(value: Any) -> Any:
    """ "3,1,4" as the list it means."""
    return value.split(",") if isinstance(value, str) else value


def one_line(cls: type[Asked], data: Any, handler: Callable[[Any], Asked]) -> Asked:
    """A wrap validator, the last of a schema, that turns pydantic's report into one KalpanaError."""
    try:
        return handler(data)
    except ValidationError as error:
        raise explain(error, cls) from None


Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]
Side = 8, 2048  # pixels, least and most; a model says in its card which sizes it draws well


class Request(BaseModel):
    """One request for pictures; where a field is None the model's own default is taken.

    Raises KalpanaError, one line that names the field and says what to write instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(max_length=LONGEST_PROMPT, description="what to draw, in English or Hindi")
    negative_prompt: str | None = Field(
        None,
        max_length=LONGEST_PROMPT,
        description="what to stay away from; needs guidance other than 1",
    )
    model: str = Field(
        "default", min_length=1, description="a name from `kalpana models`, or a folder of weights"
    )
    n: int = Field(1, ge=1, le=256, description="how many pictures, 1 to 256")
    seed: Seed | None = Field(
        None,
        description="seed of the first picture, the others count up from it; drawn and shown when left out",
    )
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_listed)] | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="each picture's own seed, as 3,1,4; instead of n and seed",
    )
    best_of: int = Field(
        1,
        ge=1,
        le=64,
        description="draw so many for each picture and keep the one that fits the prompt best, 1 to 64; 1 is off",
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="steps of denoising or of optimising, or looks at all tokens at once, 1 to 1000",
    )
    guidance: float | None = Field(
        None,
        ge=0,
        le=30,
        allow_inf_nan=False,
        description="how strongly to follow the prompt, 0 to 30; 1 is off",
    )
    sampler: str | None = Field(None, description="the solver: euler, heun or dpmpp-2m")
    temperature: float | None = Field(
        None,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="how bold the choice of tokens is, 0 to 100; 0 always takes the likeliest",
    )
    top_k: int | None = Field(
        None,
        ge=1,
        description="how many tokens, the likeliest, one is chosen among; all when left out",
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="or as few as have this part of the probability together, up to 1; 1 is off",
    )
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels, multiples of 8")
    language: Literal["auto", "en", "hi"] = Field(
        "auto", description="language of the prompt; auto detects it"
    )
    strict: bool = Field(
        True,
        description="a field the model cannot use is an error; otherwise the receipt lists it as ignored",
    )
    format: Literal["png", "webp", "jpeg"] = Field(
        "png", description="picture file format: png, webp (both lossless) or jpeg"
    )
    upscale: Annotated[Literal[1, 2, 4], BeforeValidator(_whole)] = Field(
        1, description="enlarge the finished picture 2 or 4 times"
    )

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _has_words(cls, text: str | None) -> str | None:
        if text is not None and not clean(text):
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
        near = [min(max(round(side / 8) * 8, Side[0]), Side[1]) for side in (width, height)]
        if near != [width, height]:
            raise ValueError(
                f"sides should be multiples of 8 from {Side[0]} to {Side[1]}: try {near[0]}x{near[1]}"
            )
        return f"{width}x{height}"

    @model_validator(mode="after")
    def _seeds_agree(self) -> Request:
        if self.seeds is not None and self.seed is not None:
            raise ValueError("seed and seeds are both given: leave one out")
        if self.seeds is not None and "n" in self.model_fields_set and self.n != len(self.seeds):
            raise ValueError(f"n is {self.n} but there are {len(self.seeds)} seeds: leave n out")
        if self.seed is not None and self.seed + self.n > SEED_LIMIT:
            raise ValueError(
                f"seed {self.seed} leaves no room for {self.n} pictures: write at most {SEED_LIMIT - self.n}"
            )
        return self

    _one_line = model_validator(mode="wrap")(one_line)  # defined last, so outermost

    @property
    def width(self) -> int | None:
        return int(self.size.split("x")[0]) if self.size else None

    @property
    def height(self) -> int | None:
        return int(self.size.split("x")[1]) if self.size else None

    def seeded(self) -> Request:
        """This request with its seed settled: one is drawn where none was given. It is short, to be read aloud and typed again."""
        return (
            self
            if self.seeds or self.seed is not None
            else self.updated(seed=secrets.randbelow(10**9))
        )

    def each_seed(self) -> tuple[int, ...]:
        """One seed a picture; the request must be ``seeded``."""
        assert self.seeds or self.seed is not None, "seeded() comes first"
        return self.seeds or tuple(range(self.seed, self.seed + self.n))  # type: ignore[arg-type, operator]

    def candidates(self, seed: int) -> tuple[int, ...]:
        """The ``best_of`` seeds of what is drawn for one picture: its own, then the CRC-32 of "SEED/1", "SEED/2" and so on, in UTF-8. They
        are scattered, so that two pictures do not choose among the same ones."""
        return (seed, *(zlib.crc32(f"{seed}/{k}".encode()) for k in range(1, self.best_of)))

    def parts(self, most: int) -> Iterator[Request]:
        """The same pictures as requests for which at most ``most`` are drawn each, or as many as one of them takes, in order; the request
        must be ``seeded``."""
        seeds, most = self.each_seed(), max(most // self.best_of, 1)
        if len(seeds) <= most:
            yield self
            return
        for start in range(0, len(seeds), most):
            some = seeds[start : start + most]
            yield self.updated(
                n=len(some), **({"seeds": some} if self.seeds else {"seed": some[0]})
            )

    def updated(self, **fields: Any) -> Request:
        """A copy with some fields given anew, checked again."""
        return Request(**{**self.to_json(), **fields})

    def to_json(self) -> dict[str, Any]:
        """Only the fields that were given, as JSON can hold them: ``Request(**request.to_json()) == request``."""
        return self.model_dump(mode="json", exclude_unset=True)


def ask(prompt: str | Request, **fields: Any) -> Request:
    """The request for a prompt and other fields; or a request with some of its fields given anew."""
    return (
        prompt.updated(**fields)
        if isinstance(prompt, Request)
        else Request(prompt=prompt, **fields)
    )


class Defaults(BaseModel):
    """How a model likes to be asked: what it takes where a request says nothing. None is a setting that it does without."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = 20
    guidance: float = 3.0
    sampler: str | None = "dpmpp-2m"
    size: str = "128x128"
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    shift: float = 1.0  # of the times a sampler visits; above 1 spends more of them near noise
    interval: tuple[float, float] = (0.0, 1.0)  # the times that are guided


class Capabilities(BaseModel):
    """What a model can do with a request: the optional fields it uses (the others stay at its defaults), the sizes, samplers and
    languages it knows, and how many ``tokens`` it chooses among, where it draws with tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uses: tuple[str, ...] = ("negative_prompt", "steps", "guidance", "sampler", "size")
    sizes: tuple[str, ...] = ("128x128",)
    samplers: tuple[str, ...] = ("euler", "heun", "dpmpp-2m")
    languages: tuple[str, ...] = ("en", "hi")
    tokens: int | None = None
    defaults: Defaults = Defaults()

    def resolve(self, request: Request) -> tuple[Request, dict[str, str]]:
        """The request with seed and every used field filled in, and the fields this model must ignore, each with the reason.

        Raises KalpanaError naming those fields where the request is strict.
        """
        names = (
            "negative_prompt",
            "steps",
            "guidance",
            "sampler",
            "temperature",
            "top_k",
            "top_p",
            "size",
            "language",
        )
        usual = {
            name: getattr(self.defaults, name, Request.model_fields[name].default) for name in names
        }
        asked = {name: getattr(request, name) for name in names}
        settled = {name: usual[name] if asked[name] is None else asked[name] for name in names}
        known = {
            "size": self.sizes,
            "sampler": self.samplers,
            "language": ("auto", *self.languages),
        }
        ignored = {}
        for name, value in settled.items():
            if value == usual[name]:
                continue
            if name not in (*self.uses, "language"):
                ignored[name] = "it has no such setting"
            elif name in known and value not in known[name]:
                ignored[name] = f"it knows {', '.join(known[name])}" + (
                    " (for a larger picture ask to upscale it)" if name == "size" else ""
                )
            elif name == "top_k" and self.tokens is not None and value > self.tokens:
                ignored[name] = (
                    f"it has {self.tokens} tokens (write from 1 to {self.tokens}, or leave it out)"
                )
            elif name == "negative_prompt" and "guidance" in self.uses and settled["guidance"] == 1:
                ignored[name] = "guidance 1 is off, and without guidance nothing is avoided"
        if ignored and request.strict:
            wrong = (
                f"{name} {shorten(asked[name])} cannot be used by model {request.model!r}: {why}"
                for name, why in ignored.items()
            )
            raise KalpanaError("; ".join(wrong))
        return request.seeded().updated(
            **(settled | {name: usual[name] for name in ignored})
        ), ignored

    _one_line = model_validator(mode="wrap")(one_line)


_TOKENS = Capabilities(
    uses=("guidance", "temperature", "top_k", "top_p", "size"),
    samplers=(),
    defaults=Defaults(steps=None, sampler=None, temperature=1.0, top_p=1.0),
)
USUAL = {  # what models of each family that answers requests can do, where their card does not say
    "flow": Capabilities(),
    "dalle": _TOKENS,
    "dalle-mini": _TOKENS,
    "vqgan-clip": Capabilities(
        uses=("negative_prompt", "steps", "size"),
        sizes=("128x128", "192x128", "128x192", "256x256"),
        samplers=(),
        defaults=Defaults(steps=100, guidance=1.0, sampler=None),
    ),
    "maskgit": _TOKENS.model_copy(
        update={
            "uses": ("steps", *_TOKENS.uses),
            "defaults": _TOKENS.defaults.model_copy(update={"steps": 10}),
        }
    ),
}
