"""X/Y/Z grids: one picture for each combination of the values of request fields, on sheets."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import torch
from PIL import Image

from kalpana import __version__
from kalpana.media import SUFFIX, read_picture, read_receipt, ready_folder, save, slug
from kalpana.pipelines import load
from kalpana.pipelines.pipeline import Pipeline
from kalpana.request import Request, RequestFields, ask
from kalpana.request_values import ALIASES
from kalpana.types import KalpanaError, Output, Step
from kalpana.world.sheet import table

if TYPE_CHECKING:
    from kalpana.pipelines.rerank import Ranker

MOST = 400  # cells of a grid
SEVERAL = ("n", "seeds")  # fields that give several pictures, of which a cell has one
WHOLE = ("seed", "steps", "top_k", "fps", "upscale", "best_of", "width", "height")  # have ranges
Values: TypeAlias = "str | Mapping[str, Sequence[Any]]"
Place: TypeAlias = tuple[int, int, int]  # column, row and sheet


@dataclass(frozen=True)
class Axis:
    """The values of one field of a request; without a field one empty value."""

    field: str = ""
    values: tuple[Any, ...] = ("",)

    def fields(self, index: int) -> dict[str, Any]:
        return {self.field: self.values[index]} if self.field else {}

    def label(self, index: int) -> str:
        """The legend of a value: a prompt alone, other fields with their name."""
        value = self.values[index]
        text = str(value) if isinstance(value, str | int | float | bool) else "…"
        return text if self.field in ("", "prompt") else f"{self.field} {text}"


@dataclass(frozen=True)
class Grid:
    """The plan of a grid: its ``axes`` x, y and z, and the request of each cell by its place."""

    axes: tuple[Axis, Axis, Axis]
    requests: Mapping[Place, Request]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the axes."""
        return tuple(axis.field for axis in self.axes if axis.field)


@dataclass(frozen=True)
class Cells:
    """A finished grid: the ``outputs``, by rows and sheets, and the ``sheets`` with legends."""

    outputs: tuple[Output, ...]
    sheets: tuple[Image.Image, ...]


def read_axis(values: Values | None) -> Axis:
    """The axis of "FIELD=A,B,C", of "FIELD=A|B|C", whose values may hold commas, or of {FIELD:
    values}; of a field of WHOLE numbers, "1..4" is 1,2,3,4. Raises KalpanaError for another one."""
    if values is None:
        return Axis()
    if isinstance(values, str):
        name, equals, rest = values.partition("=")
        name = name.strip().replace("-", "_")
        found: Sequence[Any] = rest.split("|" if "|" in rest else ",")
        found = [value.strip() for value in found]
        if not equals or not name or not all(found):
            raise KalpanaError(
                f"axis {values!r}: should be FIELD=VALUE,VALUE such as guidance=1,3,5, or "
                "FIELD=VALUE|VALUE"
            )
    else:
        if len(values) != 1:
            raise KalpanaError(f"axis {dict(values)!r}: should be one field with its values")
        ((name, found),) = values.items()
    name = ALIASES.get(name, name)
    if isinstance(values, str) and name in WHOLE:
        found = [number for value in found for number in _counted(value)]
    if name in SEVERAL:
        raise KalpanaError(f"axis {name}: a cell is one picture: use an axis of seed")
    if name not in (*Request.model_fields, "width", "height"):
        raise KalpanaError(
            f"axis {name!r}: there is no such field; the fields are "
            f"{', '.join(field for field in Request.model_fields if field not in SEVERAL)}"
        )
    if not found:
        raise KalpanaError(f"axis {name}: has no values")
    return Axis(name, tuple(found))


def _counted(value: str) -> Sequence[Any]:
    """The whole numbers of a range "FIRST..LAST", both included, or the value alone. Raises
    KalpanaError if there are none or too many."""
    if not (found := re.fullmatch(r"(\d+)\.\.(\d+)", value)):
        return [value]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < MOST:
        raise KalpanaError(f"range {value}: should be FIRST..LAST, of 1 to {MOST} numbers")
    return range(first, last + 1)


def plan(
    prompt: str | Request,
    x: Values,
    y: Values | None = None,
    z: Values | None = None,
    **fields: Any,
) -> Grid:
    """The grid of a prompt and other fields, seed 0 where none is given. Raises KalpanaError if a
    value of an axis or a combination of them is wrong, without loading a model."""
    axes = read_axis(x), read_axis(y), read_axis(z)
    names = [axis.field for axis in axes if axis.field]
    given = {ALIASES.get(name, name) for name in fields}
    if isinstance(prompt, str) and prompt:
        given.add("prompt")
    for name in names:
        if names.count(name) > 1 or name in given:
            raise KalpanaError(f"{name} is given twice: as an axis, and again")
    sides = [len(axis.values) for axis in axes]
    if (count := sides[0] * sides[1] * sides[2]) > MOST:
        raise KalpanaError(f"a grid of {count} cells is more than {MOST}: give fewer values")
    requests = {}
    for place in itertools.product(range(sides[0]), range(sides[1]), range(sides[2])):
        own = {k: v for axis, i in zip(axes, place, strict=True) for k, v in axis.fields(i).items()}
        text = prompt if isinstance(prompt, Request) else own.pop("prompt", prompt)
        request = ask(text, **fields, **own)
        if request.seeds or request.n != 1:
            raise KalpanaError("a cell of a grid is one picture: leave n and seeds out")
        requests[place] = request if request.seed is not None else request.updated(seed=0)
    return Grid(axes, requests)


def check(grid: Grid, device: str | None = None, rank_by: Ranker | None = None) -> None:
    """Raises KalpanaError if a model cannot answer the request of a cell, or there is no such
    model."""
    for request in _by_model(grid).values():
        model = load(request.model, device)
        if "seconds" in model.capabilities.uses:
            raise KalpanaError(f"model {model.name!r} makes videos: a grid is of pictures")
        model.generate(request, rank_by=rank_by)


def _by_model(grid: Grid) -> dict[Place, Request]:
    """The requests of a grid, row by row, those of one model together, which is loaded once."""
    order = {request.model: k for k, request in enumerate(reversed([*grid.requests.values()]))}
    return dict(
        sorted(grid.requests.items(), key=lambda item: (-order[item[1].model], *item[0][::-1]))
    )


def cells(
    grid: Grid, folder: Path, device: str | None = None, rank_by: Ranker | None = None
) -> Iterator[tuple[Place, Output | Iterator[Step]]]:
    """The cells of a grid, each with its output, if a file with the same receipt is in the folder,
    or the stream that generates it."""
    for place, request in _by_model(grid).items():
        model = load(request.model, device)
        found = _found(path_of(model, request, folder), model, request)
        yield place, found or model.generate(request, rank_by=rank_by)


def path_of(model: Pipeline, request: Request, folder: Path) -> Path:
    """The file of a cell, named by its prompt and a hash of all that decides its pixels."""
    text = json.dumps([request.to_json(), *_origin(model).values()], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = slug(request.prompt or request.label or (request.image.name if request.image else ""))
    format = model.capabilities.resolve(request)[0].format or "png"
    return folder / f"{name}-{digest}{SUFFIX[format]}"


def _origin(model: Pipeline) -> dict[str, Any]:
    """What decides the pixels of a request, as in its receipt."""
    return {
        "kalpana": __version__,
        "torch": torch.__version__,
        "device": model.device.type,
        "files": model.files,
    }


def _found(path: Path, model: Pipeline, request: Request) -> Output | None:
    """The finished cell in a file, if its receipt is that of the request."""
    try:
        receipt = read_receipt(path)
        image = read_picture(path)
    except KalpanaError:
        return None
    origin = _origin(model)
    files = receipt.get("model", {}).get("files", {})
    if receipt.get("request") != request.to_json() or not origin.pop("files").items() <= (
        files.items()
    ):
        return None
    if any(receipt.get(name) != value for name, value in origin.items()):
        return None
    return Output(image, request.each_seed()[0], receipt, path)


def save_sheet(
    grid: Grid, outputs: Mapping[Place, Output], k: int, picture: Image.Image, folder: Path
) -> Path:
    """The file of the picture of sheet ``k``, with the receipts of its cells, named by the prompt,
    the fields and a hash of the files of the cells; the one that is there, if it is the same."""
    places = [place for place in grid.requests if place[2] == k]
    names = json.dumps([[*place, Path(outputs[place].path or "").name] for place in places])
    digest = hashlib.sha256(names.encode()).hexdigest()[:12]
    prompt = "" if "prompt" in grid.fields else grid.requests[places[0]].prompt
    title = slug(prompt or "grid")
    path = folder / f"{'-'.join((title, *grid.fields))}-{k + 1}-{digest}.png"
    receipt = {"sheet": [outputs[place].receipt for place in places]}
    try:
        same = read_receipt(path) == receipt
        same = same and read_picture(path).tobytes() == picture.tobytes()
    except KalpanaError:
        same = False
    return path if same else save(picture, path, receipt)


def sheets(grid: Grid, outputs: Mapping[Place, Output]) -> list[Image.Image]:
    """One sheet for each value of z, with the values of x above and of y beside the pictures."""
    x, y, z = grid.axes
    return [
        table(
            [[outputs[i, j, k].image for i in range(len(x.values))] for j in range(len(y.values))],
            [x.label(i) for i in range(len(x.values))],
            [y.label(j) for j in range(len(y.values))] if y.field else None,
            z.label(k) if z.field else None,
        )
        for k in range(len(z.values))
    ]


def grid(
    prompt: str | Request = "",
    *,
    x: Values,
    y: Values | None = None,
    z: Values | None = None,
    out: str | PathLike[str] = "pictures",
    rank_by: Ranker | None = None,
    **fields: Unpack[RequestFields],
) -> Cells:
    """A finished grid: the pictures of all combinations of the values of up to three fields.

    An axis is "guidance=1,3,5", "prompt=a cat|a dog" or {"guidance": [1, 3, 5]}. The cells are
    saved in the folder ``out`` with their receipts; those that are there already are read. Raises
    KalpanaError before any work if a value is wrong, or as ``load`` and ``Pipeline.generate``.
    """
    from kalpana.pipelines import last

    planned, folder = plan(prompt, x, y, z, **fields), Path(out)
    check(planned, rank_by=rank_by)
    ready_folder(folder, 0)
    found = dict[Place, Output]()
    for place, cell in cells(planned, folder, rank_by=rank_by):
        found[place] = (
            cell
            if isinstance(cell, Output)
            else saved(planned, place, last(cell).outputs[0], folder)
        )
    order = sorted(found, key=lambda place: place[::-1])
    return Cells(tuple(found[place] for place in order), tuple(sheets(planned, found)))


def saved(grid: Grid, place: Place, output: Output, folder: Path) -> Output:
    """The output of a cell, written to its file."""
    request = grid.requests[place]
    return output.save(path_of(load(request.model), request, folder))
