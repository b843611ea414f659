"""The error that users see, and plain wording for the reports of pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
