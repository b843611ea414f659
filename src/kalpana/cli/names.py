"""The names of the files that ``generate`` writes, by a pattern with placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from kalpana.request import Request
from kalpana.types import KalpanaError

PATTERN = "{prompt}-{model}-{seed}"
PLACEHOLDERS = "prompt", "model", "seed", "n"
LONGEST = 200  # bytes of a name; file systems allow 255, with the suffix and a number


def check(pattern: str, model: str, requests: Sequence[Request]) -> None:
    """Raises KalpanaError if a pattern holds another placeholder than those below, a folder or a
    suffix, or gives one of these seeded requests a name that is empty or too long.

    ``pattern`` may hold {prompt}, {model}, {seed}, and {n}, the number of the picture from 1 on;
    numbers can be padded, as {n:03}.
    """
    _check(pattern)
    number = 0
    for request in requests:
        for seed in request.each_seed():
            number += 1
            name_of(pattern, model, request, seed, number)


def name_of(pattern: str, model: str, request: Request, seed: int, number: int) -> str:
    """The name, without suffix, of the picture of a seed. Raises KalpanaError as ``check``."""
    from kalpana.media import slug

    text = request.prompt or request.label or _input_name(request)
    values = {"prompt": slug(text), "model": slug(model), "seed": seed}
    try:
        name = pattern.format(**values, n=number)
    except ValueError as error:
        raise KalpanaError(f"--name {pattern!r}: {error}; write a number as {{n:03}}") from None
    if not name.strip(". ") or len(name.encode()) > LONGEST:
        raise KalpanaError(
            f"--name {pattern!r} gives the name {name[:40]!r}, which is empty or too long"
        )
    return name


def _check(pattern: str) -> None:
    """Raises KalpanaError for a pattern that gives no names."""
    from kalpana.media import SUFFIX, VIDEO_SUFFIXES

    try:
        fields = [field for _, field, _, _ in Formatter().parse(pattern) if field is not None]
    except ValueError as error:
        raise KalpanaError(f"--name {pattern!r}: {error}; write {{{{ for a brace") from None
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    for field in fields:
        if field not in PLACEHOLDERS:
            raise KalpanaError(
                f"--name {pattern!r}: there is no placeholder {{{field}}}, only {known}"
            )
    if "/" in pattern or "\\" in pattern or "\0" in pattern:
        raise KalpanaError(f"--name {pattern!r} is not a plain name: give the folder by --out")
    if (suffix := Path(pattern).suffix.lower()) in (*SUFFIX.values(), *VIDEO_SUFFIXES, ".jpeg"):
        raise KalpanaError(f"--name {pattern!r}: leave out {suffix}; --format sets the suffix")


def _input_name(request: Request) -> str:
    """The name of the input of a request without a prompt, without its suffix."""
    media = request.image or request.video
    return Path(media.name).stem if media else ""
