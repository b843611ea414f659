"""A folder of pictures, indexed and asked."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperGroup

from kalpana.cli.console import asked_to_stop, counting, print_json
from kalpana.cli.options import Device, Json, Seer
from kalpana.types import KalpanaError


class QueryByDefault(TyperGroup):
    """A group in which ``search "a cat"`` means ``search query "a cat"``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(
            ctx, args if not args or args[0] in (*self.commands, "--help") else ["query", *args]
        )


searching = typer.Typer(
    cls=QueryByDefault,
    help='Search the pictures of a folder by what they show: kalpana search "a cat".',
)
ClampWithGrad: TypeAlias = Annotated[
    Path | None,
    typer.Option("--index", help="where the index lies, .kalpana in the folder by default"),
]


@searching.command("index")
def search_index(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="a folder with pictures at any depth")
    ],
    model: Seer = "clip",
    at: ClampWithGrad = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Look at the pictures of a folder that are new or changed, so that they can be found; a run that was stopped goes on."""
    from kalpana.understand.encoder import load
    from kalpana.understand.folder import shown
    from kalpana.understand.index import index

    encoder, done, total = load(model, device), 0, 0
    try:
        with asked_to_stop() as stop, counting("") as bar:

            def progress(stage: str, so_far: int, of: int) -> None:
                nonlocal done, total
                bar(so_far, of, label=stage)
                if stage == "pictures":
                    done, total = so_far, of
                    if stop:
                        raise KeyboardInterrupt

            report = index(folder, encoder, at=at, progress=progress)
    except KeyboardInterrupt:
        print(
            f"stopped: {done:,} of {total:,} new pictures are in the index; the same command goes on",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    for each in report.broken:
        print(f"not indexed: {shown(each.path)}: {each.reason}", file=sys.stderr)
    if as_json:
        broken = [{"path": shown(each.path), "reason": each.reason} for each in report.broken]
        print_json(asdict(report) | {"broken": broken})
        return
    changes = {
        "new": report.added,
        "changed": report.changed,
        "moved": report.moved,
        "gone": report.removed,
    }
    print(
        f"{report.pictures:,} pictures: "
        + ", ".join(f"{number:,} {what}" for what, number in changes.items())
    )
    if report.tuned:
        found = f"{report.tuned.pictures:.1%} for pictures and {report.tuned.words:.1%} for words"
        print(f"approximate index: it finds {found} of the best ten")


@searching.command("query")
def search_query(
    query: Annotated[
        str | None,
        typer.Argument(help='what the pictures show, as "a cat", or "cat + night - street"'),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--in", metavar="DIR", help="the folder that was indexed")
    ] = Path("."),
    image: Annotated[
        list[Path] | None, typer.Option(help="a picture like those wanted; added to the query")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="TEXT", help="what they do not show; taken off the query"),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, max=10_000, help="how many")] = 10,
    part: Annotated[
        Path | None, typer.Option("--folder", help="only pictures in this folder within")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="only from this day on, as 2026-03-01, or 2026"),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="only up to this day, or month, or year")
    ] = None,
    min_size: Annotated[
        int | None, typer.Option(min=1, help="only with so many pixels on both sides")
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(min=1, help="only with no more pixels on both sides")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="only made from a prompt with these words")
    ] = None,
    made_by: Annotated[
        str | None, typer.Option(metavar="MODEL", help="only made by this model")
    ] = None,
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates", help="groups of pictures that are nearly the same; without a query"
        ),
    ] = False,
    alike: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="cosine from which on they are")
    ] = 0.95,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write a sheet of the pictures, as png, webp or jpg"),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="show them in the terminal")
    ] = True,
    model: Seer = "clip",
    at: ClampWithGrad = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find pictures by words, by pictures, by sums of both, and by their receipts: score, size, date and path of each."""
    from rich.console import Console

    from kalpana.media import SUFFIX, ready_folder, save
    from kalpana.understand import search as seek
    from kalpana.understand.encoder import load

    asked = [
        *(seek.parse(query) if query is not None else ()),
        *(seek.Term(picture=path) for path in image or ()),
    ]
    asked += [
        replace(term, weight=-term.weight) for text in without or () for term in seek.parse(text)
    ]
    if sheet and sheet.suffix not in SUFFIX.values():
        raise KalpanaError(f"--sheet {sheet} should end in {', '.join(SUFFIX.values())}")
    if duplicates and asked:
        raise KalpanaError(
            "--duplicates compares all pictures with each other: leave out the query"
        )
    only = seek.SearchFilter(part, since, until, min_size, max_size, prompt, made_by)
    encoder = load(model, device)
    for warning in seek.overlooked(asked, encoder):
        print(f"warning: {warning}", file=sys.stderr)
    if duplicates:
        with counting("") as bar:
            groups = seek.duplicates(
                folder,
                encoder,
                alike=alike,
                only=only,
                at=at,
                progress=lambda stage, done, of: bar(done, of, label=stage),
            )
    else:
        groups = [seek.search(folder, asked, encoder, n=n, only=only, at=at)]
    hits = [hit for group in groups for hit in group]
    if as_json:
        listed = [[hit.facts() for hit in group] for group in groups]
        print_json(listed if duplicates else listed[0])
    else:
        print(
            "\n\n".join(seek.table(group) for group in groups) if hits else "",
            end="\n" if hits else "",
        )
    if not hits:
        print(
            "no two pictures are that much alike" if duplicates else "no picture fits",
            file=sys.stderr,
        )
        return
    if sheet:
        paper = seek.sheet(hits)
        ready_folder(sheet.parent, 65536 * len(hits))
        print(save(paper, sheet, {"search": [hit.facts() for hit in hits]}), file=sys.stderr)
    if pictures and not as_json and sys.stdout.isatty():
        drawn = seek.drawn(hits, os.environ, Console().width)
        if isinstance(drawn, str):
            print(drawn, end="")
        else:
            Console().print(drawn, end="")
