"""The commands of ``kalpana map``: control maps from pictures and from prompts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kalpana.cli.options import Out
from kalpana.types import KalpanaError

maps = typer.Typer(help="Control maps, for --control of generate.", no_args_is_help=True)
SCORE, SIDE = 0.4, 128  # defaults of map boxes
Pictures = Annotated[list[Path], typer.Argument(help="picture files")]


def write(kind: str, pictures: list[Path], out: Path, make: Callable[[Any], Any]) -> None:
    """Write the map that ``make`` gives for each picture, and print its path."""
    from kalpana.media import read_picture, ready_folder, save

    ready_folder(out, 0)
    for path in pictures:
        try:
            found = make(read_picture(path))
        except KalpanaError as error:
            raise KalpanaError(f"{path}: {error}") from None
        print(save(found, out / f"{path.stem}-{kind}.png", {"map": kind, "of": path.name}))


@maps.command("edges")
def map_edges(
    pictures: Pictures,
    threshold: Annotated[
        float,
        typer.Option(min=0, max=1, help="least step of brightness that is an edge, 0 to 1"),
    ] = 0.15,
    out: Out = Path("pictures"),
) -> None:
    """Write the edges of pictures, white on black, and print the path of each map."""
    from kalpana.pipelines.control_maps import control_map

    write("edges", pictures, out, lambda picture: control_map("edges", picture, threshold))


def estimated(kind: str, what: str) -> None:
    """Add the command that writes an estimated map of a kind."""

    @maps.command(kind, help=f"Write {what}, and print the path of each map.")
    def command(pictures: Pictures, out: Out = Path("pictures")) -> None:
        from kalpana.pipelines.control_maps import control_map

        write(kind, pictures, out, lambda picture: control_map(kind, picture))


estimated("outlines", "the outlines of the objects in pictures, as a network estimates them")
estimated("depth", "the depth of pictures, bright is near, as a network estimates it")
estimated("pose", "the bones of the people in pictures, as a network estimates them")


@maps.command("boxes")
def map_boxes(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="picture files, or prompts such as 'seven stars'"),
    ],
    score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            show_default=str(SCORE),
            help="least score of an object in a picture, 0 to 1",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, show_default="0", help="seed of the layout of a prompt")
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            min=8,
            max=2048,
            show_default=str(SIDE),
            help="side of the map of a prompt in pixels",
        ),
    ] = None,
    out: Out = Path("pictures"),
) -> None:
    """Write boxes: of the objects that verifier A finds in pictures, or of those that a prompt
    counts, placed as generate --plan layout would for this seed. Prints the path of each map."""
    pictures = [Path(source) for source in sources if _is_file(source)]
    prompts = [source for source in sources if not _is_file(source)]
    if score is not None and not pictures:
        raise KalpanaError("--score is for pictures, and there is none: leave it out")
    if (seed, side) != (None, None) and not prompts:
        name = "--seed" if side is None else "--side"
        raise KalpanaError(f"{name} is for prompts, and there is none: leave it out")
    if pictures:
        _boxes_of_pictures(pictures, SCORE if score is None else score, out)
    for prompt in prompts:
        print(_boxes_of_prompt(prompt, seed or 0, side or SIDE, out))


def _is_file(source: str) -> bool:
    """Whether a source names a file: it is one, or is written like one."""
    path = Path(source)
    return path.exists() or bool(re.fullmatch(r"\.[A-Za-z0-9]{2,5}", path.suffix))


def _boxes_of_pictures(pictures: list[Path], score: float, out: Path) -> None:
    from kalpana.evaluate.control import detected_boxes
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.hub.card import find_model

    verifier = DetectorVerifier.load(find_model("verifier-a"))
    write("boxes", pictures, out, lambda picture: detected_boxes(verifier, picture, score))


def _boxes_of_prompt(prompt: str, seed: int, side: int, out: Path) -> Path:
    """The file of the planned boxes of a prompt."""
    from kalpana.media import ready_folder, save, slug, to_images
    from kalpana.pipelines.planner import NO_LAYOUT, plan_layout

    plan = plan_layout(prompt, seed, side)
    if plan is None:
        raise KalpanaError(f"{prompt!r} is no picture file, and as a prompt {NO_LAYOUT[4:]}")
    ready_folder(out, 0)
    about = {"map": "boxes", "prompt": prompt, "boxes": plan.facts(), "seed": seed}
    path = out / f"{slug(prompt)}-boxes-{seed}.png"
    return save(to_images(2 * plan.map[None] - 1)[0], path, about)


@maps.command("glyphs")
def map_glyphs(
    prompt: Annotated[str, typer.Argument(help='a prompt with a quoted word: a sign "OPEN"')],
    seed: Annotated[int, typer.Option(min=0, help="seed of the layout")] = 0,
    side: Annotated[int, typer.Option(min=8, max=2048, help="side of the map in pixels")] = 128,
    out: Out = Path("pictures"),
) -> None:
    """Write the letters of a quoted word, placed as generate would for this seed."""
    from kalpana.media import ready_folder, save, slug, to_images
    from kalpana.pipelines.planner import plan_glyphs

    plan = plan_glyphs(prompt, seed, side)
    if plan is None:
        raise KalpanaError(
            "there is not one legible word in quotes: write such as 'a sign that says \"OPEN\"'"
        )
    ready_folder(out, 0)
    about = {"map": "glyphs", "word": plan.word, "box": list(plan.box), "seed": seed}
    path = out / f"{slug(plan.word)}-glyphs-{seed}.png"
    print(save(to_images(2 * plan.map[None] - 1)[0], path, about))
