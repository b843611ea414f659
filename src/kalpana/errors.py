"""The error that users see, and plain wording for the reports of pydantic."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class KalpanaError(Exception):
    """An error that the user can correct; its message is one line that states the problem, where
    it is, and what to write instead."""


# By the type of pydantic's error, or by its first part.
PLAIN = {
    "greater_than_equal": "should be at least {ge}",
    "greater_than": "should be more than {gt}",
    "less_than_equal": "should be at most {le}",
    "less_than": "should be less than {lt}",
    "finite_number": "should be a finite number",
    "int": "should be a whole number",
    "float": "should be a number",
    "bool": "should be true or false",
    "string_too_long": "should have at most {max_length} characters",
    "string_too_short": "should have at least {min_length} characters",
    "string_pattern_mismatch": "does not have the form {pattern}",
    "string_unicode": "is no Unicode text",
    "string": "should be text",
    "too_long": "should have at most {max_length} values",
    "too_short": "should have at least {min_length} values",
    "tuple": "should be a list",
    "list": "should be a list",
    "dict": "should be names with values",
    "path": "should be a path",
    "model": "should be names with values",
    "dataclass": "should be names with values",
    "none": "should be left out",
}


def plain(problem: Mapping[str, Any]) -> str:
    """One problem of a pydantic ValidationError in plain words, without its place."""
    kind = problem["type"]
    text = PLAIN.get(kind) or PLAIN.get(kind.split("_")[0])
    if text is not None:
        return text.format(**problem.get("ctx", {}))
    return str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")


def explain(error: ValidationError, schema: type[BaseModel]) -> KalpanaError:
    """The KalpanaError of a validation error: one line that names each wrong field of ``schema``
    and the values it accepts."""
    return KalpanaError(
        "; ".join(
            _describe(problem["type"], problem["loc"], plain(problem), problem["input"], schema)
            for problem in error.errors()
        )
    )


def _describe(
    kind: str, location: tuple[int | str, ...], message: str, value: Any, schema: type[BaseModel]
) -> str:
    """The text of one problem that pydantic reports."""
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
    return f"{name} {shorten(value)}: {message}" if name else message


def shorten(value: Any) -> str:
    """The ``repr`` of a value for an error message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def one_line(cls: type[Model], data: Any, handler: Callable[[Any], Model]) -> Model:
    """Wrap validator that turns pydantic's report into one KalpanaError; the last of a schema, so
    that it is the outermost."""
    try:
        return handler(data)
    except ValidationError as error:
        raise explain(error, cls) from None
