"""The ``world`` commands: sheets of rendered scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.options import Out
from kalpana.types import KalpanaError

world = typer.Typer(help="The scene engine that the models learn from.")


@world.command("show")
def world_show(
    n: Annotated[int, typer.Option("-n", "--n", min=1, max=1024, help="how many scenes")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="seed of the world")] = 0,
    split: Annotated[
        str,
        typer.Option(help="train, dev, test, or unseen: combinations that training never shows"),
    ] = "train",
    kind: Annotated[
        str,
        typer.Option(help="objects, text, hands, puppets, depth, paintings, everything, or clips"),
    ] = "objects",
    out: Out = Path("pictures"),
) -> None:
    """Draw scenes on one sheet, with captions and boxes; videos (clips) also as one MP4."""
    from kalpana.media import ready_folder, save, save_video
    from kalpana.world.sheet import clip_sheet, clip_wall, sheet
    from kalpana.world.video import Clips
    from kalpana.world.world import KINDS, World

    if kind not in (*KINDS, "clips"):
        raise KalpanaError(f"kind {kind!r} is not one of {', '.join((*KINDS, 'clips'))}")
    about = {"world": {"seed": seed, "split": split, "kind": kind, "n": n}}
    path = out / f"world-{kind}-{split}-{seed}.png"
    try:
        scenes = Clips(seed, split) if kind == "clips" else World(seed, split, kind=kind)
    except ValueError as error:
        raise KalpanaError(str(error)) from None
    ready_folder(out, n * 65536)
    if isinstance(scenes, Clips):
        print(save(clip_sheet(scenes, n), path, about))
        print(save_video(clip_wall(scenes, n), 24, path.with_suffix(".mp4"), about))
    else:
        print(save(sheet(scenes, n), path, about))


@world.command("atlas")
def world_atlas(
    pack: Annotated[
        Path, typer.Argument(help="a folder with captions.jsonl and one STYLE.tar per style")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="where lexicon.jsonl is and the sheets go; by default the package"),
    ] = None,
) -> None:
    """Build the sprite atlas, its recolouring masks and its search keywords from the art pack."""
    from kalpana.world import atlas
    from kalpana.world.lexicon import ART

    folder = out or ART
    atlas.build(pack, folder)
    atlas.build_masks(folder)
    atlas.build_keywords(pack, folder)
    print(folder)


@world.command("held-out")
def world_held_out(
    out: Annotated[Path | None, typer.Option(help="file; by default the package's")] = None,
) -> None:
    """Draw the combinations that training never shows, and write them as JSON."""
    from kalpana.world.splits import FILE, write_held_out

    write_held_out(out or FILE)
    print(out or FILE)
