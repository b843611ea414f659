"""Spellings of the values and names of request fields that are read as well as the usual ones:
those of other libraries, of command lines and of forms."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

# What each value of the field plan plans: kinds of control maps.
PLANS = {"none": (), "words": ("glyphs",), "layout": ("boxes",), "all": ("glyphs", "boxes")}
# Spellings of true and false in forms and on command lines.
TRUE, FALSE = ("true", "1", "yes", "on", "t", "y"), ("false", "0", "no", "off", "f", "n")


def plan_name(value: Any) -> Any:
    """True and false of the field plan, which once had no other values, as "words" and "none"; a
    name of any case in lower case."""
    text = str(value).strip().lower() if isinstance(value, bool | int | str) else value
    return "words" if text in TRUE else "none" if text in FALSE else text


def whole(value: Any) -> Any:
    """A digit string from a command line or a form as an int; other values unchanged."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def listed(value: Any) -> Any:
    """A comma-separated string such as "3,1,4" as a list of strings; other values unchanged."""
    return value.split(",") if isinstance(value, str) else value


def controls(value: Any) -> Any:
    """Control maps given as {kind: file} or as one "KIND=FILE", as a list of maps."""
    if isinstance(value, dict) and "kind" not in value:
        return [{"kind": kind, "image": image} for kind, image in value.items()]
    return [value] if isinstance(value, str | dict) else value


def adapters(value: Any) -> Any:
    """One adapter, such as a path, as a list of adapters."""
    if isinstance(value, PathLike):
        return [fspath(value)]
    return [value] if isinstance(value, str | dict) else value


def margins(value: Any) -> Any:
    """Margins given as one "left=64,right=64", as a mapping from sides to strings; other values
    unchanged."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",")]
    sides = {side.strip().lower(): pixels.strip() for side, _, pixels in pairs}
    if len(sides) < len(pairs) or not all(sides.values()):
        raise ValueError("should be SIDE=PIXELS, each side once, such as left=64,right=64")
    return sides


def hyphenated(value: Any) -> Any:
    """A name such as "DPM++ 2M SDE" or "dpmpp_2m_sde", as other programs write it, as
    "dpmpp-2m-sde"; other values unchanged."""
    if not isinstance(value, str):
        return value
    return value.lower().replace("++", "pp").replace("_", "-").replace(" ", "-")


def spacing_name(value: Any) -> Any:
    """The name of a spacing; uniform has two more in other programs."""
    name = hyphenated(value)
    return "uniform" if name in ("trailing", "sgm-uniform") else name


# Names of other libraries for fields of a Request.
ALIASES = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
    "num_images_per_prompt": "n",
    "mask_image": "mask",
    "output_format": "format",
}


def translate(fields: Any) -> Any:
    """The fields of a request with aliases replaced, and width and height joined to a size.

    Raises ValueError where a field is given by two names.
    """
    if not isinstance(fields, dict):
        return fields
    fields = dict(fields)
    for alias in ALIASES.keys() & fields.keys():
        name = ALIASES[alias]
        if name in fields:
            raise ValueError(f"{alias} and {name} are the same field: leave one out")
        fields[name] = fields.pop(alias)
    sides = [name for name in ("width", "height") if name in fields]
    if sides and (len(sides) == 1 or "size" in fields):
        raise ValueError("width and height go together, and replace size: write both or a size")
    if sides:
        fields["size"] = f"{fields.pop('width')}x{fields.pop('height')}"
    if fields.get("format") == "jpg":
        fields["format"] = "jpeg"
    return fields
