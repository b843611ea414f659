"""The ``world`` commands: sheets of rendered scenes, and exports as data sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.options import Device, Out
from kalpana.types import KalpanaError

world = typer.Typer(help="The scene engine that the models learn from.")

ALIASES = {"clips": "video"}  # earlier names of kinds
STILL, MOVING = ("png", "webp", "jpeg"), ("mp4", "webp", "png")
Kind = Annotated[
    str,
    typer.Option(help="objects, text, hands, puppets, depth, paintings, everything, or video"),
]
Seed = Annotated[int, typer.Option(min=0, help="seed of the world")]
Split = Annotated[
    str,
    typer.Option(help="train, dev, test, or unseen: combinations that training never shows"),
]


@world.command("show")
def world_show(
    n: Annotated[int, typer.Option("-n", "--n", min=1, max=1024, help="how many scenes")] = 64,
    seed: Seed = 0,
    split: Split = "train",
    kind: Kind = "objects",
    format: Annotated[
        str | None,
        typer.Option(
            help="file format of the sheet: png, webp or jpeg; of videos: mp4, webp (animated) or "
            "png (frames in rows)",
            show_default="png, and mp4 for videos",
        ),
    ] = None,
    out: Out = Path("pictures"),
) -> None:
    """Draw scenes on one sheet, with captions and boxes; videos also as one video that plays."""
    from kalpana.media import SUFFIX, ready_folder, require_av, save, save_video
    from kalpana.world.sheet import sheet, video_sheet, video_wall
    from kalpana.world.video import Videos
    from kalpana.world.world import KINDS, World

    kind = ALIASES.get(kind, kind)
    if kind not in (*KINDS, "video"):
        raise KalpanaError(f"kind {kind!r} is not one of {', '.join((*KINDS, 'video'))}")
    formats = MOVING if kind == "video" else STILL
    format = format or formats[0]
    if format not in formats:
        raise KalpanaError(f"format {format!r} of {kind} is not one of {', '.join(formats)}")
    if format == "mp4":
        try:
            require_av("writing MP4")
        except KalpanaError as error:
            raise KalpanaError(f"{error}; or write --format webp") from None
    about = {"world": {"seed": seed, "split": split, "kind": kind, "n": n}}
    path = out / f"world-{kind}-{split}-{seed}.png"
    try:
        scenes = Videos(seed, split) if kind == "video" else World(seed, split, kind=kind)
    except ValueError as error:
        raise KalpanaError(str(error)) from None
    ready_folder(out, n * 65536)
    if isinstance(scenes, World):
        print(save(sheet(scenes, n), path.with_suffix(SUFFIX[format]), about))
        return
    print(save(video_sheet(scenes, n), path, about))
    if format != "png":
        print(save_video(video_wall(scenes, n), 24, path.with_suffix(f".{format}"), about))


@world.command("export")
def world_export(
    out: Annotated[
        Path,
        typer.Option(help="folder of the export; one that was interrupted there goes on"),
    ],
    format: Annotated[str, typer.Option(help="webdataset, coco or parquet")],
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="how many images or videos")],
    kind: Kind = "everything",
    seed: Seed = 0,
    split: Split = "train",
    languages: Annotated[
        str, typer.Option(help="languages of the captions: en, hi or en,hi")
    ] = "en,hi",
    side: Annotated[
        int,
        typer.Option(help="pixels, a multiple of 8", show_default="128, and 64 for videos"),
    ] = 0,
    shard: Annotated[
        int, typer.Option(min=1, help="examples in a file, and the unit of work of a process")
    ] = 256,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="processes; they do not change the result", show_default="all cores"
        ),
    ] = None,
) -> None:
    """Write images or videos with all captions and all truth as a data set, or go on with one."""
    from kalpana.cli.console import counting
    from kalpana.world.export.export import export
    from kalpana.world.export.settings import Settings

    settings = Settings(
        format=format,
        kind=ALIASES.get(kind, kind),
        n=n,
        seed=seed,
        split=split,
        languages=tuple(languages.split(",")),
        side=side,
        shard=shard,
    )
    done = 0
    try:
        with counting(f"{settings.kind}, {settings.split}") as bar:

            def progress(written: int, total: int) -> None:
                nonlocal done
                done = written
                bar(written, total)

            export(settings, out, workers, progress)
    except KeyboardInterrupt:
        print(
            f"stopped: {done:,} of {n:,} examples are written; the same command goes on",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    print(out)


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


@world.command("recaption")
def world_recaption(
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="the file, JSON lines; one that is there goes on")
    ],
    videos: Annotated[int, typer.Option(min=1, help="how many videos, the first ones")] = 6000,
    seed: Seed = 7,
    video_model: Annotated[
        str, typer.Option(help="a video captioner: a name, or a folder of weights")
    ] = "video-captioner",
    device: Device = None,
) -> None:
    """Caption training videos of the world by a video captioner, in both languages."""
    from kalpana.cli.console import counting
    from kalpana.hub.weights import fingerprint
    from kalpana.pipelines import video_captions
    from kalpana.train.recaptions import write
    from kalpana.world.video import Videos

    captioner = video_captions.load(video_model, device)
    model = {"name": captioner.name} | {
        path.name: fingerprint(path) for path in video_captions.files_of(video_model)
    }
    source = Videos(seed, "train", captioner.size[0])
    with counting("captions") as progress:
        write(out, source, videos, model, captioner.caption_pixels, captioner.frames, progress)
    print(out)
