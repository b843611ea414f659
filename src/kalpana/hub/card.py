"""Models as folders: ``weights/NAME`` holds safetensors files and card.json, which says what they are, can do and hash to.

``python -m kalpana.hub.card FOLDER`` seals a folder: it writes into the card the hashes, the number of parameters, and the scores that the
files say they had when their training ended. With ``--int8`` the matrices in its files are made int8 first, which halves them.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from kalpana.media import write
from kalpana.request import USUAL, Capabilities, one_line
from kalpana.types import KalpanaError

CARD, VQGAN = "card.json", "vqgan.safetensors"
TOKENS = ("dalle", "maskgit", "dalle-mini")  # the families that draw the tokens of a VQGAN
BY_CLIP = "vqgan-clip"  # the family that draws by what a CLIP makes of a VQGAN's pictures, and has no weights of its own


class Card(BaseModel):
    """What a folder of weights says of itself; ``files`` maps file names to their SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    tasks: tuple[str, ...] = ()
    capabilities: Capabilities | None = None  # of models that answer requests
    parameters: int = 0
    files: dict[str, str] = {}
    licence: str = "unknown"
    scores: dict[str, Any] = {}

    _one_line = model_validator(mode="wrap")(one_line)


def weights_dir() -> Path:
    """The folder of the weights that come with Kalpana: inside an installed package, at the root of a repository."""
    package = Path(__file__).parents[1]
    return package / "weights" if (package / "weights").is_dir() else package.parents[1] / "weights"


def list_models() -> list[Card]:
    """The cards of the models that come with Kalpana, by name."""
    return [read_card(path.parent) for path in sorted(weights_dir().glob(f"*/{CARD}"))]


def find_model(name: str) -> Path:
    """The folder of a model that comes with Kalpana, by its name, or of any other, by its path. Raises KalpanaError."""
    known = [path.parent.name for path in sorted(weights_dir().glob(f"*/{CARD}"))]
    if name in known:
        return weights_dir() / name
    if Path(name).is_dir():
        return Path(name)
    close = difflib.get_close_matches(name, known, n=1)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else f"name a folder of weights or one of {', '.join(known) or '(none are installed)'}"
    )
    raise KalpanaError(f"there is no model {name!r}: {hint}")


def read_card(folder: Path) -> Card:
    """The card in a folder of weights. Raises KalpanaError where there is none, or it is damaged."""
    try:
        return Card.model_validate(json.loads((folder / CARD).read_text(encoding="utf-8")))
    except OSError:
        raise KalpanaError(
            f"there is no {CARD} in {folder}, so it is no model: run `python -m kalpana.hub.card {folder}` to write one"
        ) from None
    except ValueError as error:
        raise KalpanaError(f"{folder / CARD} is no JSON: {error}") from None
    except KalpanaError as error:
        raise KalpanaError(f"{folder / CARD}: {error}") from None


def write_card(folder: Path, card: Card) -> None:
    """Write the card of a folder, whole or not at all."""
    write(
        folder / CARD,
        (json.dumps(card.model_dump(mode="json"), ensure_ascii=False, indent=2) + "\n").encode(),
    )


def vqgan_of(folder: Path) -> Path:
    """The weights of the VQGAN whose tokens a model in this folder draws: those in the folder, or else those that come with Kalpana.
    Raises KalpanaError where there are none."""
    from kalpana.hub.weights import files_of

    for path in (folder / VQGAN, weights_dir() / "vqgan" / VQGAN):
        if files_of(path)[0].is_file():
            return path
    raise KalpanaError(
        f"nothing turns the tokens of the model in {folder} into pictures, and no VQGAN comes with this version of Kalpana: "
        f"put there the {VQGAN} that it learned with"
    )


def clip_of(folder: Path) -> Path:
    """The folder of the CLIP that a model in this folder asks: its own ``clip``, or else the one that comes with Kalpana. Raises
    KalpanaError where there is none."""
    for path in (folder / "clip", weights_dir() / "clip"):
        if (path / CARD).is_file():
            return path
    raise KalpanaError(
        f"the model in {folder} asks a CLIP, and none comes with this version of Kalpana: put one, with its {CARD}, into {folder / 'clip'}"
    )


def weights_of(folder: Path, family: str) -> tuple[Path, ...]:
    """All files of weights that a model in this folder draws with: its own, and those elsewhere that it is worth nothing without.
    Raises KalpanaError where some are missing."""
    from kalpana.hub.weights import files_of

    paths = sorted(folder.glob("*.safetensors"))
    if family in (*TOKENS, BY_CLIP):
        paths += files_of(vqgan_of(folder))
    if family == BY_CLIP:
        paths += sorted(clip_of(folder).glob("*.safetensors"))
    return tuple(dict.fromkeys(paths))


def write_hashes(folder: Path) -> Card:
    """Hash the weights that the model in a folder draws with, and write their parameters and scores into its card; a folder without a card
    gets a plain one. Raises KalpanaError where weights are missing."""
    from kalpana.hub.weights import fingerprint
    from kalpana.text.tokenizer import BPE

    own = sorted(folder.glob("*.safetensors"))
    card = read_card(folder) if (folder / CARD).exists() else None
    if not own and (card is None or card.family != BY_CLIP):
        raise KalpanaError(f"there are no .safetensors files in {folder}")
    inside = {path: _inside(path) for path in own}
    if card is None:
        families = [inside[path].family for path in own]
        family = next(
            (family for family in families if family not in ("vae", "vqgan")), families[0]
        )  # those only serve
        card = Card(name=folder.resolve().name, family=family)
        if family in USUAL:
            tasks = ("text-to-image", "caption") if family == "dalle" else ("text-to-image",)
            card = card.model_copy(update={"tasks": tasks, "capabilities": USUAL[family]})
    paths = weights_of(folder, card.family)
    files = {
        path.name: fingerprint(path) for path in (*paths, *([BPE] if card.capabilities else []))
    }
    parameters = sum((inside.get(path) or _inside(path)).parameters for path in paths)
    scores = {name: score for path in own for name, score in inside[path].scores.items()}
    card = card.model_copy(update={"files": files, "parameters": parameters, "scores": scores})
    write_card(folder, card)
    return card


class _Inside(NamedTuple):
    """What a file of weights says: its family, how many numbers it holds, and the scores that its training ended with."""

    family: str
    parameters: int
    scores: dict[str, Any]


def _inside(path: Path) -> _Inside:
    import safetensors

    from kalpana.hub.weights import SCALES

    with safetensors.safe_open(path, "pt") as file:
        names = [name for name in file.keys() if not name.endswith(SCALES)]  # noqa: SIM118 (it is no dict)
        count = sum(file.get_tensor(name).numel() for name in names)
        about = file.metadata() or {}
        return _Inside(
            about.get("family", "unknown"),
            count,
            json.loads(about.get("provenance", "{}")).get("scores", {}),
        )


def _shrink(folder: Path) -> None:
    from kalpana.hub.weights import files_of, metadata, shrink, whole_of

    for path in sorted({whole_of(file) for file in folder.glob("*.safetensors")}):
        shrink(path, metadata(files_of(path)[0]).get("family", "unknown"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Seal folders of weights.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--int8", action="store_true", help="make the matrices in its files int8 first"
    )
    options = parser.parse_args()
    try:
        for folder in options.folders:
            if options.int8:
                _shrink(folder)
            print(write_hashes(folder).model_dump_json(indent=2))
    except KalpanaError as error:
        sys.exit(f"error: {error}")
