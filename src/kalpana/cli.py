"""The command line: arguments in, a request out; progress drawn, pictures written. What can be asked stands in request.py.

Heavy modules are imported inside the commands, so that ``kalpana --help`` is quick. Paths go to stdout, all else to stderr; a mistake
is one line and exit code 2, Ctrl-C is 130.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer.core import TyperGroup

from kalpana.request import Request
from kalpana.types import KalpanaError, Picture, Result, Step

if TYPE_CHECKING:
    from PIL.Image import Image

    from kalpana.evaluate.suites import Prompt
    from kalpana.generate.text_to_image import TextToImage


class OneLineErrors(TyperGroup):
    """Commands whose every mistake ends in one line on stderr."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **(kwargs | {"standalone_mode": False}))
        except (KalpanaError, typer.TyperException) as error:
            print(f"error: {error.format_message() if isinstance(error, typer.TyperException) else error}", file=sys.stderr)
            code = 2
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except (KeyboardInterrupt, typer.Abort):
            print("stopped", file=sys.stderr)
            code = 130
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=OneLineErrors,
    help="Kalpana: pictures from words, in English and Hindi.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
world = typer.Typer(help="The scene engine that the models learn from.")
app.add_typer(world, name="world")


class QueryByDefault(TyperGroup):
    """A group in which ``search "a cat"`` means ``search query "a cat"``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if not args or args[0] in (*self.commands, "--help") else ["query", *args])


searching = typer.Typer(cls=QueryByDefault, help='Search the pictures of a folder by what they show: kalpana search "a cat".')
app.add_typer(searching, name="search")


@app.callback()
def start(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def field(name: str, *, flags: tuple[str, ...] = ()) -> Any:
    """The option of a request's field, which says what the field says. Its value is checked by the request, not here."""
    return typer.Option(*flags, metavar=name.upper(), help=Request.model_fields[name].description, show_default=False)


Out: TypeAlias = Annotated[Path, typer.Option(help="folder for the pictures, made if need be")]
Device: TypeAlias = Annotated[str | None, typer.Option(help="cpu or cuda; a GPU is taken where there is one")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def generate(
    context: typer.Context,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="what to draw, each prompt in quotes; - reads lines from stdin")
    ] = None,
    n: Annotated[str | None, field("n", flags=("-n", "--n"))] = None,
    seed: Annotated[str | None, field("seed")] = None,
    seeds: Annotated[str | None, field("seeds")] = None,
    steps: Annotated[str | None, field("steps")] = None,
    guidance: Annotated[str | None, field("guidance")] = None,
    sampler: Annotated[str | None, field("sampler")] = None,
    size: Annotated[str | None, field("size")] = None,
    negative_prompt: Annotated[str | None, field("negative_prompt", flags=("--negative", "--negative-prompt"))] = None,
    model: Annotated[str | None, field("model")] = None,
    language: Annotated[str | None, field("language")] = None,
    format: Annotated[str | None, field("format")] = None,
    upscale: Annotated[str | None, field("upscale")] = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="go on without the settings that the model cannot use, and say so")] = False,
    file: Annotated[str | None, typer.Option(help="a text file of prompts, one a line; - is stdin")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="also write all the pictures on one sheet")] = False,
    device: Device = None,
    out: Out = Path("pictures"),
    as_json: Json = False,
) -> None:
    """Draw pictures from prompts, and print the path of each as soon as it is finished."""
    from kalpana.generate import load
    from kalpana.generate.text_to_image import TOGETHER
    from kalpana.media import SUFFIX, ready_folder, save, slug
    from kalpana.media import grid as contact_sheet

    fields = {name: value for name, value in context.params.items() if name in Request.model_fields and value is not None}
    if lenient:
        fields["strict"] = False
    asked = [Request(prompt=prompt, **fields).seeded() for prompt in _prompts(prompts or [], file)]
    drawer = load(asked[0].model, device)
    settled = [drawer.capabilities.settle(request)[0] for request in asked]
    ready_folder(out, sum(len(r.each_seed()) * (3 * (r.width or 0) * (r.height or 0) * r.upscale**2 + 65536) for r in settled))

    saved: list[tuple[Path, Picture]] = []
    try:
        with _asked_to_stop() as stop:
            for number, request in enumerate(asked, start=1):
                for part in request.parts(TOGETHER):
                    for picture in _watch(drawer.generate(part), f"{number}/{len(asked)}" if len(asked) > 1 else "", stop).pictures:
                        path = out / f"{slug(request.prompt)}-{picture.seed}{SUFFIX[request.format]}"
                        saved.append((save(picture.image, path, picture.receipt), picture))
                        if not as_json:
                            print(saved[-1][0], flush=True)
            if grid:
                path = out / f"{slug(asked[0].prompt)}-{saved[0][1].seed}-grid.png"
                sheet = save(contact_sheet([picture.image for _, picture in saved]), path, {"sheet": [p.receipt for _, p in saved]})
                print(sheet, file=sys.stderr if as_json else sys.stdout)
    except KeyboardInterrupt:
        wanted = sum(len(request.each_seed()) for request in asked)
        print(f"stopped: {len(saved)} of {wanted} pictures were finished, and are in {out}", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        if as_json:
            _print_json([{"path": str(path), "seed": picture.seed, "receipt": picture.receipt} for path, picture in saved])


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that come with Kalpana."""
    from kalpana.hub.card import list_models

    cards = list_models()
    if as_json:
        _print_json([card.model_dump(mode="json") for card in cards])
        return
    for card in cards:
        size = f"{card.parameters / 1e6:.1f} million parameters"
        languages = f", {' and '.join(card.capabilities.languages)}" if card.capabilities else ""
        print(f"{card.name}: {card.family}, {', '.join(card.tasks)}{languages}, {size}, {card.licence}")


@app.command()
def show(file: Annotated[Path, typer.Argument(help="a picture made by Kalpana")], as_json: Json = False) -> None:
    """Print the receipt inside a picture: what was asked, and all that it takes to make it again."""
    import yaml

    from kalpana.media import read_receipt

    receipt = read_receipt(file)
    if as_json:
        _print_json(receipt)
    else:
        print(yaml.safe_dump(receipt, allow_unicode=True, sort_keys=False, width=120), end="")


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="a picture made by Kalpana")],
    model: Annotated[str | None, typer.Option(help="a folder of weights, where the receipt's is elsewhere now")] = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="folder to keep the new picture in")] = None,
) -> None:
    """Make a picture again from its receipt, and say whether the two agree; exit code 1 where the pixels do not."""
    from kalpana.generate import load
    from kalpana.generate.replay import compare, request_of
    from kalpana.media import SUFFIX, read_receipt, ready_folder, save

    request = request_of(read_receipt(file))
    drawer = load(model or request.model, device)
    if out:
        ready_folder(out, file.stat().st_size)
    (again,) = _watch(drawer.generate(request)).pictures
    agreement = compare(file, again)
    print(agreement)
    if out:
        print(save(again.image, out / (file.stem + SUFFIX[request.format]), again.receipt))
    raise typer.Exit(0 if agreement.pixels else 1)


@app.command()
def tokens(prompt: str, as_json: Json = False) -> None:
    """Show how a prompt is cut into tokens, and which of its words no training caption held."""
    from kalpana.request import clean
    from kalpana.text.tokenizer import Tokenizer

    tokenizer, text = Tokenizer.load(), clean(prompt)
    encoded, report = tokenizer.encode([text]), tokenizer.report(text)
    pieces = [tokenizer.decode([int(token)]) for token in encoded.ids[0][encoded.mask[0]]]
    if as_json:
        _print_json({"tokens": pieces, "language": report.language, "cut": report.cut, "unknown": list(report.unknown)})
    else:
        print(f"{len(pieces)} tokens, {report.language}: {' | '.join(pieces)}")
        print(f"cut: {report.cut or 'nothing'}; unknown words: {', '.join(report.unknown) or 'none'}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="a recipe, such as recipes/flow.yaml")],
    out: Annotated[Path | None, typer.Option(help="the run's folder, runs/NAME by default; a run found there goes on")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="stop after this many steps in all; the same command goes on later")] = None,
    device: Device = None,
) -> None:
    """Train a model by a recipe, or go on training it."""
    from kalpana.train.loop import train as run
    from kalpana.train.recipe import read_recipe

    asked = read_recipe(recipe)
    weights = run(asked, out or Path("runs") / asked.name, until=steps, device=device)
    if weights:
        print(weights)


@app.command()
def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="a name from `kalpana models` or a folder of weights, default by default; or the word compare and several"),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="spriteeval, spriteeval-hi, unseen, counts58, hard, hands, words-latin, words-devanagari or clips")
    ] = "spriteeval",
    dev: Annotated[bool, typer.Option("--dev", help="the suite's twin of other prompts, by which choices are made")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many prompts of each task, the first ones")] = None,
    verifier: Annotated[Path | None, typer.Option(help="a verifier's folder; verifier-b, or verifier-a with --dev")] = None,
    images: Annotated[Path | None, typer.Option(help="score the pictures, or clips, in this folder instead of drawing any")] = None,
    steps: Annotated[
        str | None, typer.Option(help="numbers of denoising steps, as 1,4,8,20,50: these for compare, else the model's own")
    ] = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="the run's folder, runs/SUITE-MODEL by default; a run found there goes on")] = None,
) -> None:
    """Draw a suite of prompts, judge the pictures by a verifier, and print the score between its floor and its ceiling; or, as
    `kalpana evaluate compare A B C`, one table of several models by their steps and seconds."""
    from kalpana.evaluate import run as running
    from kalpana.evaluate.compare import STEPS, compare
    from kalpana.evaluate.ocr import readers
    from kalpana.evaluate.publish import verified
    from kalpana.evaluate.suites import load as load_suite
    from kalpana.evaluate.verifier import Trained
    from kalpana.generate import load
    from kalpana.hub.card import shelf
    from kalpana.hub.weights import fingerprint

    comparing = bool(models) and models[0] == "compare"  # type: ignore[index]
    names = models[1:] if models and comparing else models or ["default"]
    counts = _steps(steps)
    if comparing and not names:
        raise KalpanaError("there is nothing to compare: name models, as in kalpana evaluate compare default runs/mine")
    if not comparing and (len(names) > 1 or len(counts) > 1):
        raise KalpanaError(
            f"one model is scored at one number of steps: write kalpana evaluate compare {' '.join(names)} for a table of several"
        )
    judge_by = verifier or shelf() / ("verifier-a" if dev else "verifier-b")
    twin = f"{suite}-dev" if dev else suite
    if suite == "clips":
        _evaluate_clips(twin, dev, limit, judge_by, images, out)
        return
    prompts = running.first(load_suite(suite, dev), limit)
    judging = Trained.load(judge_by)
    reading, missing = readers(suite, judging.readers)
    if missing and not reading:
        raise KalpanaError(f"words cannot be read: {judge_by} holds no reader.safetensors, and {missing}")
    if missing:
        print(f"warning: no second reader: {missing}", file=sys.stderr)
    judging = replace(judging, readers=reading)
    trusted = verified(judge_by, suite, {prompt.task for prompt in prompts})
    about: dict[str, Any] = {"suite": twin, "limit": limit, "prompts": len(prompts)}
    about["verifier"] = {path.name: fingerprint(path) for path in sorted(judge_by.glob("*.safetensors"))}
    if images:
        folder = out or Path("runs") / f"{twin}-{images.name}"
        folder.mkdir(parents=True, exist_ok=True)
        report = running.judge(prompts, list(running.pictures_of(images, prompts)), judging, folder, verified=trusted)
    elif comparing:
        folder = out or Path("runs") / f"{twin}-compare"
        drawers = [load(name, device) for name in names]
        cast = [(drawer, partial(_draw, drawer, name)) for drawer, name in zip(drawers, names, strict=True)]
        with _counting("") as progress:
            compare(cast, prompts, counts or STEPS, about, judging, folder, lambda label: partial(progress, label=label), trusted)
        print((folder / "compare.md").read_text(encoding="utf-8"), end="")
        return
    else:
        drawer = load(names[0], device)
        (count,) = counts or (None,)
        folder = out or Path("runs") / (f"{twin}-{drawer.name}" + (f"-{count}" if count else ""))
        about |= {"model": drawer.name, "files": drawer.files, "steps": count}
        with _counting(suite) as progress:
            report = running.run(prompts, partial(_draw, drawer, names[0], steps=count), about, judging, folder, progress, verified=trusted)
    print(report.markdown(), end="")
    print(folder / "report.json", file=sys.stderr)


def _evaluate_clips(name: str, dev: bool, limit: int | None, verifier: Path, clips: Path | None, out: Path | None) -> None:
    """Judge a folder of clips by a verifier and print the tables; they are written to ``out``, or to runs/NAME-FOLDER."""
    from kalpana.evaluate.clips import clips_of, judge, load
    from kalpana.evaluate.run import first
    from kalpana.evaluate.verifier import Trained

    if clips is None:
        raise KalpanaError(
            "no model here draws clips yet: score clips made elsewhere, as in kalpana evaluate --suite clips --images FOLDER"
        )
    prompts, folder = first(load(dev), limit), out or Path("runs") / f"{name}-{clips.name}"
    judging = replace(Trained.load(verifier), readers=())
    with _counting(name) as progress:
        report = judge(prompts, clips_of(clips, prompts), judging, folder, progress)
    print(report.markdown(), end="")
    print(folder / "report.json", file=sys.stderr)


def _draw(model: TextToImage, name: str, prompt: Prompt, seeds: Sequence[int], steps: int | None) -> Sequence[Picture]:
    """The pictures of a suite's prompt by a model that was asked for by this name."""
    from kalpana.generate import last

    return last(model.generate(prompt.text, model=name, seeds=tuple(seeds), steps=steps)).pictures


def _steps(given: str | None) -> tuple[int, ...]:
    """ "1,4,8" as numbers of steps."""
    if given is None:
        return ()
    if not re.fullmatch(r"[1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*", given):
        raise KalpanaError(f"--steps {given!r} should be numbers from 1 to 999 with commas between, such as 1,4,8,20,50")
    return tuple(dict.fromkeys(int(count) for count in given.split(",")))


@world.command("show")
def world_show(
    n: Annotated[int, typer.Option("-n", "--n", min=1, max=1024, help="how many scenes")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="seed of the world")] = 0,
    split: Annotated[str, typer.Option(help="train, dev, test, or unseen: combinations that training never shows")] = "train",
    kind: Annotated[str, typer.Option(help="objects, text, hands, puppets, depth, paintings, everything, or clips")] = "objects",
    out: Out = Path("pictures"),
) -> None:
    """Draw scenes on one sheet, with their captions and boxes; clips also as one MP4."""
    from kalpana.media import ready_folder, save, save_clip
    from kalpana.world.clips import Clips
    from kalpana.world.sheet import clip_sheet, clip_wall, sheet
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
        print(save_clip(clip_wall(scenes, n), 24, path.with_suffix(".mp4"), about))
    else:
        print(save(sheet(scenes, n), path, about))


Seer: TypeAlias = Annotated[str, typer.Option(help="the model that looks at the pictures, a name or a folder of weights")]
Kept: TypeAlias = Annotated[Path | None, typer.Option("--index", help="where the index lies, .kalpana in the folder by default")]


@searching.command("index")
def search_index(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder with pictures at any depth")],
    model: Seer = "clip",
    at: Kept = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Look at the pictures of a folder that are new or changed, so that they can be found; a run that was stopped goes on."""
    from kalpana.understand.encoder import load
    from kalpana.understand.folder import shown
    from kalpana.understand.index import index

    encoder, done, total = load(model, device), 0, 0
    try:
        with _asked_to_stop() as stop, _counting("") as bar:

            def progress(stage: str, so_far: int, of: int) -> None:
                nonlocal done, total
                bar(so_far, of, label=stage)
                if stage == "pictures":
                    done, total = so_far, of
                    if stop:
                        raise KeyboardInterrupt

            report = index(folder, encoder, at=at, progress=progress)
    except KeyboardInterrupt:
        print(f"stopped: {done:,} of {total:,} new pictures are in the index; the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    for each in report.broken:
        print(f"not indexed: {shown(each.path)}: {each.reason}", file=sys.stderr)
    if as_json:
        broken = [{"path": shown(each.path), "reason": each.reason} for each in report.broken]
        _print_json(asdict(report) | {"broken": broken})
        return
    changes = {"new": report.added, "changed": report.changed, "moved": report.moved, "gone": report.removed}
    print(f"{report.pictures:,} pictures: " + ", ".join(f"{number:,} {what}" for what, number in changes.items()))
    if report.tuned:
        found = f"{report.tuned.pictures:.1%} for pictures and {report.tuned.words:.1%} for words"
        print(f"approximate index: it finds {found} of the best ten")


@searching.command("query")
def search_query(
    query: Annotated[str | None, typer.Argument(help='what the pictures show, as "a cat", or "cat + night - street"')] = None,
    folder: Annotated[Path, typer.Option("--in", metavar="DIR", help="the folder that was indexed")] = Path("."),
    image: Annotated[list[Path] | None, typer.Option(help="a picture like those wanted; added to the query")] = None,
    without: Annotated[list[str] | None, typer.Option("--not", metavar="TEXT", help="what they do not show; taken off the query")] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, max=10_000, help="how many")] = 10,
    part: Annotated[Path | None, typer.Option("--folder", help="only pictures in this folder within")] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="only from this day on, as 2026-03-01, or 2026")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="only up to this day, or month, or year")] = None,
    min_size: Annotated[int | None, typer.Option(min=1, help="only with so many pixels on both sides")] = None,
    max_size: Annotated[int | None, typer.Option(min=1, help="only with no more pixels on both sides")] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="only made from a prompt with these words")] = None,
    made_by: Annotated[str | None, typer.Option(metavar="MODEL", help="only made by this model")] = None,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="groups of pictures that are nearly the same; without a query")] = False,
    alike: Annotated[float, typer.Option(min=0.0, max=1.0, help="cosine from which on they are")] = 0.95,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="write a sheet of the pictures, as png, webp or jpg")] = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="show them in the terminal")] = True,
    model: Seer = "clip",
    at: Kept = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find pictures by words, by pictures, by sums of both, and by their receipts: score, size, date and path of each."""
    from rich.console import Console

    from kalpana.media import SUFFIX, ready_folder, save
    from kalpana.understand import search as seek
    from kalpana.understand.encoder import load

    asked = [*(seek.parse(query) if query is not None else ()), *(seek.Term(picture=path) for path in image or ())]
    asked += [replace(term, weight=-term.weight) for text in without or () for term in seek.parse(text)]
    if sheet and sheet.suffix not in SUFFIX.values():
        raise KalpanaError(f"--sheet {sheet} should end in {', '.join(SUFFIX.values())}")
    if duplicates and asked:
        raise KalpanaError("--duplicates compares all pictures with each other: leave out the query")
    only = seek.Only(part, since, until, min_size, max_size, prompt, made_by)
    encoder = load(model, device)
    for warning in seek.overlooked(asked, encoder):
        print(f"warning: {warning}", file=sys.stderr)
    if duplicates:
        with _counting("") as bar:
            groups = seek.duplicates(
                folder, encoder, alike=alike, only=only, at=at, progress=lambda stage, done, of: bar(done, of, label=stage)
            )
    else:
        groups = [seek.search(folder, asked, encoder, n=n, only=only, at=at)]
    hits = [hit for group in groups for hit in group]
    if as_json:
        listed = [[hit.facts() for hit in group] for group in groups]
        _print_json(listed if duplicates else listed[0])
    else:
        print("\n\n".join(seek.table(group) for group in groups) if hits else "", end="\n" if hits else "")
    if not hits:
        print("no two pictures are that much alike" if duplicates else "no picture fits", file=sys.stderr)
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


@app.command()
def classify(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="pictures, or folders with pictures at any depth")],
    labels: Annotated[str | None, typer.Option(help='what they may show, as "a cat, a dog, a person"')] = None,
    labels_file: Annotated[str | None, typer.Option(help="a text file of labels, one a line; - is stdin")] = None,
    top: Annotated[int, typer.Option(min=1, help="how many labels of each picture to print, the likeliest first")] = 5,
    sigmoid: Annotated[
        bool | None, typer.Option("--sigmoid/--softmax", help="each label by itself, or one out of all; by default as the model learned")
    ] = None,
    model: Seer = "clip",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Say which of the given labels fits each picture best, and how likely; exit code 1 where some pictures cannot be read."""
    from kalpana.request import shorten
    from kalpana.understand.classify import checked, directions, sentences
    from kalpana.understand.encoder import PICTURES, load
    from kalpana.understand.folder import shown

    listed = [label for label in (labels or "").split(",") if label.strip()]
    given = checked([*listed, *(_lines(labels_file, "labels") if labels_file else ())])
    encoder = load(model, device)
    vectors = directions(encoder, given, sigmoid=sigmoid)
    for label in given:
        if cut := encoder.words.cut(max(sentences(label), key=len)):
            print(f"warning: label {shorten(label)} is too long for model {model!r}, which does not read {shorten(cut)}", file=sys.stderr)
    if unknown := dict.fromkeys(word for label in given for word in encoder.unknown(label)):
        print(f"warning: model {model!r} never met {', '.join(unknown)}; it may miss them", file=sys.stderr)
    found, broken, reading = list[dict[str, Any]](), 0, _opened(pictures)
    while batch := list(islice(reading, PICTURES)):
        images = []
        for path, picture in batch:
            if isinstance(picture, str):
                print(f"not read: {shown(path)}: {picture}", file=sys.stderr)
                broken += 1
            else:
                images.append((path, picture))
        chances = encoder.probabilities(encoder.images([picture for _, picture in images]), vectors, sigmoid)
        for (path, _), row in zip(images, chances, strict=True):
            best = row.topk(min(top, len(given)))
            said = [{"label": given[k], "probability": p} for p, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
            found.append({"path": path.encode("utf-8", "backslashreplace").decode(), "labels": said})
            if not as_json:
                print(f"{shown(path)}: " + ", ".join(f"{each['label']} {each['probability']:.1%}" for each in said), flush=True)
    if as_json:
        _print_json(found)
    if not found:
        raise KalpanaError(f"none of the pictures can be read ({broken} tried)")
    raise typer.Exit(1 if broken else 0)


def _opened(given: Sequence[Path]) -> Iterator[tuple[str, Image | str]]:
    """Each picture, and those in each folder by path, read as it is asked for; or why it cannot be read."""
    from kalpana.understand.folder import read_image, walk

    for path in given:
        files, closed = walk(path) if path.is_dir() else ([], [])
        yield from ((str(path / os.fsdecode(each.path)), each.reason) for each in closed)
        if path.is_dir() and not files:
            yield str(path), "there are no pictures in it"
        for each in [path / os.fsdecode(file.path) for file in files] if path.is_dir() else [path]:
            try:
                yield str(each), read_image(each)
            except KalpanaError as error:
                yield str(each), str(error).removeprefix(f"{each} cannot be read: ")


def _prompts(given: list[str], file: str | None) -> list[str]:
    """All the prompts of a command line, in order; "-" and ``file`` stand for one a line."""
    prompts: list[str] = []
    for prompt in given:
        prompts += _lines("-") if prompt == "-" else [prompt]
    if file is not None:
        prompts += _lines(file)
    if not prompts:
        raise KalpanaError("there is no prompt: write what to draw, in quotes, or name a file of prompts with --file")
    if len(given) > 2 and all(len(prompt.split()) == 1 for prompt in given):
        print(f"warning: these are {len(given)} prompts of one word each; put quotes around words that belong together", file=sys.stderr)
    return prompts


def _lines(name: str, what: str = "prompts") -> list[str]:
    """The lines of a UTF-8 text file that are not blank; "-" is stdin."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise KalpanaError(f"{what} cannot be read from {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KalpanaError(f"{what} cannot be read from {name}: it is not UTF-8 text") from None


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Inside, the first Ctrl-C only fills the list, so that no picture is lost while it is written; a second one stops at once."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _watch(stream: Iterator[Step], label: str = "", stop: Sequence[int] = ()) -> Result:
    """The result of a stream, its progress drawn on stderr while it runs, and its warnings printed there.

    Raises KeyboardInterrupt at the next step after ``stop`` was filled, unless that step carries the result.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
    console = Console(stderr=True)
    # Rich would send what is printed meanwhile to stderr, paths included.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None, left="")
        for step in stream:
            if stop and not step.result:
                raise KeyboardInterrupt
            left = "" if step.eta is None else f"{step.eta:.0f} s left"
            bar.update(task, total=step.total, completed=step.index, description=f"{label} {step.stage}".strip(), left=left)
    assert step.result is not None
    for warning in step.result.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return step.result


@contextmanager
def _counting(label: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr with the time to go; inside, call ``progress(done, total)``, perhaps with another
    ``label``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def progress(done: int, total: int, label: str = label) -> None:
            bar.update(task, completed=done, total=total, description=label)

        yield progress


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    app()
