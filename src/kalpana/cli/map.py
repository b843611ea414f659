"""The commands ``map edges`` and ``map glyphs``: control maps from pictures and from prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.options import Out
from kalpana.types import KalpanaError

maps = typer.Typer(help="Control maps, for --control of generate.", no_args_is_help=True)


@maps.command("edges")
def map_edges(
    pictures: Annotated[list[Path], typer.Argument(help="picture files")],
    threshold: Annotated[
        float,
        typer.Option(min=0, max=1, help="least step of brightness that is an edge, 0 to 1"),
    ] = 0.15,
    out: Out = Path("pictures"),
) -> None:
    """Write the edges of pictures, white on black, and print the path of each map."""
    from kalpana.media import read_picture, ready_folder, save, to_images, to_pixels
    from kalpana.world.maps import edges

    ready_folder(out, 0)
    for path in pictures:
        found = edges(to_pixels([read_picture(path)]), threshold)[:, None].expand(-1, 3, -1, -1)
        name = out / f"{path.stem}-edges.png"
        print(save(to_images(2.0 * found - 1)[0], name, {"map": "edges", "of": path.name}))


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
