"""Model folders: ``weights/NAME`` holds safetensors files and card.json, the model's card.

The card states the model's name, family, capabilities, scores and file hashes.

    kalpana weights seal FOLDER

seals a folder: it writes into the card the hashes, the number of parameters, and the final training
scores recorded in the files. With ``--int8`` the matrices in the files are converted to int8 first,
which halves them.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from kalpana.capabilities import Capabilities
from kalpana.errors import one_line
from kalpana.families import FAMILIES
from kalpana.media import write
from kalpana.types import KalpanaError

CARD, VQGAN = "card.json", "vqgan.safetensors"
CHECKPOINT = "checkpoint.safetensors"  # of a training run: no weights to load or to ship
WEIGHTS = "KALPANA_WEIGHTS"  # environment variable: a folder of model folders, searched first
BY_CLIP = "vqgan-clip"  # family that guides a VQGAN by a CLIP and has no weights of its own


class Card(BaseModel):
    """Card of a folder of weights; ``files`` maps file names to their SHA-256, and ``capabilities``
    holds the fields of Capabilities that differ from those of the family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    tasks: tuple[str, ...] = ()
    capabilities: dict[str, Any] = {}  # of models that answer requests
    parameters: int = 0
    files: dict[str, str] = {}
    licence: str = "unknown"
    scores: dict[str, Any] = {}

    _one_line = model_validator(mode="wrap")(one_line)

    @model_validator(mode="after")
    def _is_capable(self) -> Card:
        self.usable()
        return self

    def usable(self) -> Capabilities | None:
        """Capabilities of the model: those of its family, updated by those of its card; None if it
        answers no requests."""
        family = FAMILIES.get(self.family)
        if family is None or family.capabilities is None:
            return None
        usual = family.capabilities.model_dump()
        defaults = usual["defaults"] | self.capabilities.get("defaults", {})
        return Capabilities.model_validate(usual | self.capabilities | {"defaults": defaults})


def weights_dir() -> Path:
    """Folder of the weights that come with Kalpana.

    It is inside an installed package, or at the root of a repository. The package holds the cards
    of all models, and the weights of a core set.
    """
    package = Path(__file__).parents[1]
    return package / "weights" if (package / "weights").is_dir() else package.parents[1] / "weights"


def own_weights_dir() -> Path:
    """Folder that `kalpana weights pull` writes to: the one named by the environment variable
    KALPANA_WEIGHTS, or else ``kalpana/weights`` in the user's cache folder."""
    if named := os.environ.get(WEIGHTS):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kalpana/weights"


def model_folders() -> dict[str, Path]:
    """Folders of all models known by name, in the order of the names.

    Searched are the folder KALPANA_WEIGHTS, the weights that come with Kalpana, and those that were
    pulled; the first folder with weights wins. A folder with a card alone is of a model whose
    weights are not here, or that has none of its own. Raises KalpanaError if KALPANA_WEIGHTS names
    no folder.
    """
    own, found = own_weights_dir(), dict[str, Path]()
    if os.environ.get(WEIGHTS) and not own.is_dir():
        raise KalpanaError(
            f"{WEIGHTS} is {str(own)!r}, which is no folder: create it, or unset the variable"
        )
    for place in (own, weights_dir()) if os.environ.get(WEIGHTS) else (weights_dir(), own):
        for path in place.glob(f"*/{CARD}"):
            name, folder = path.parent.name, path.parent
            if name not in found or (_has_weights(folder) and not _has_weights(found[name])):
                found[name] = folder
    return dict(sorted(found.items()))


def _has_weights(folder: Path) -> bool:
    return bool(_files(folder))


def _files(folder: Path) -> list[Path]:
    """The weight files in a folder, without the checkpoint of a training run."""
    return sorted(path for path in folder.glob("*.safetensors") if path.name != CHECKPOINT)


def usable_models() -> list[str]:
    """Names of the models in ``model_folders`` whose weights are here, or that need none of their
    own."""
    folders = model_folders()
    return [n for n in folders if _has_weights(folders[n]) or _needs_none(folders[n])]


def _needs_none(folder: Path) -> bool:
    return read_card(folder).family == BY_CLIP


def list_models() -> list[Card]:
    """Cards of the models known by name, see ``model_folders``."""
    return [read_card(folder) for folder in model_folders().values()]


def find_model(name: str) -> Path:
    """Folder of a model: by name for those in ``model_folders``, by path for any other, by
    ORG/NAME for those in the Hugging Face cache.

    Raises KalpanaError if there is none, or its weights are not here.
    """
    known = model_folders()
    if name in known:
        if not (_has_weights(known[name]) or _needs_none(known[name])):
            raise KalpanaError(f"the weights of model {name!r} are not here: {how_to_get(name)}")
        return known[name]
    if Path(name).is_dir():
        return Path(name)
    if "/" in name:
        from kalpana.hub import huggingface

        if huggingface.REPO.fullmatch(name):
            return huggingface.snapshot(name)
    close = difflib.get_close_matches(name, known, n=1)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else f"name a folder of weights or one of {', '.join(known) or '(none are installed)'}"
    )
    raise KalpanaError(f"there is no model {name!r}: {hint}")


def how_to_get(name: str) -> str:
    """What to write to get the weights of a model that are not here."""
    return f"run `kalpana weights pull {name}`, or name a folder that holds them by {WEIGHTS}"


def read_card(folder: Path) -> Card:
    """Card in a folder of weights. Raises KalpanaError if it is missing or damaged."""
    try:
        data = (folder / CARD).read_bytes()
    except OSError:
        raise KalpanaError(
            f"there is no {CARD} in {folder}, so it is no model: "
            f"run `kalpana weights seal {folder}` to write one"
        ) from None
    return parse_card(data, str(folder / CARD))


def parse_card(data: bytes, place: str) -> Card:
    """Card in the bytes of a card.json. Raises KalpanaError, which names its ``place``, if it is
    damaged."""
    try:
        return Card.model_validate(json.loads(data))
    except ValueError as error:
        raise KalpanaError(f"{place} is no JSON: {error}") from None
    except KalpanaError as error:
        raise KalpanaError(f"{place}: {error}") from None


def write_card(folder: Path, card: Card) -> None:
    """Write the card of a folder, all or nothing."""
    text = json.dumps(card.model_dump(mode="json"), ensure_ascii=False, indent=2) + "\n"
    write(folder / CARD, text.encode())


def vae_of(folder: Path) -> Path:
    """Weights of the autoencoder of the model in a folder: in that folder, or else that of the
    default model. Raises KalpanaError if there are none."""
    from kalpana.hub.weights import files_of

    name = FAMILIES["vae"].file
    for place in (folder, model_folders().get("default", weights_dir() / "default")):
        if files_of(path := place / name)[0].is_file():
            return path
    raise KalpanaError(
        f"nothing turns the latents of the model in {folder} into pictures: put there the {name} "
        "that it learned with"
    )


def vqgan_of(folder: Path) -> Path:
    """Weights of the VQGAN that decodes the tokens of the model in a folder.

    They are in that folder, or else those that come with Kalpana. Raises KalpanaError if there are
    none.
    """
    from kalpana.hub.weights import files_of

    for place in (folder, model_folders().get("vqgan", weights_dir() / "vqgan")):
        if files_of(path := place / VQGAN)[0].is_file():
            return path
    raise KalpanaError(
        f"nothing turns the tokens of the model in {folder} into pictures, and no VQGAN comes with "
        f"this version of Kalpana: put there the {VQGAN} that it learned with"
    )


def clip_of(folder: Path) -> Path:
    """Folder of the CLIP that the model in a folder uses.

    It is the folder's own ``clip``, or else the one that comes with Kalpana. Raises KalpanaError if
    there is none.
    """
    for path in (folder / "clip", model_folders().get("clip")):
        if path and (path / CARD).is_file():
            return path
    raise KalpanaError(
        f"the model in {folder} asks a CLIP, and none comes with this version of Kalpana: "
        f"put one, with its {CARD}, into {folder / 'clip'}"
    )


def weights_of(folder: Path, family: str) -> tuple[Path, ...]:
    """All weight files that the model in a folder needs: its own, and those of its VQGAN and CLIP.

    Raises KalpanaError if some are missing.
    """
    from kalpana.hub.weights import files_of

    paths = _files(folder)
    if family in FAMILIES and FAMILIES[family].codec == "vqgan":
        paths += files_of(vqgan_of(folder))
    if family in FAMILIES and FAMILIES[family].codec == "vae":
        paths += files_of(vae_of(folder))
    if family in (BY_CLIP, "unclip"):
        paths += sorted(clip_of(folder).glob("*.safetensors"))
    return tuple(dict.fromkeys(paths))


def write_hashes(folder: Path) -> Card:
    """Write hashes, number of parameters and scores of the model in a folder into its card.

    The hashes cover all files of ``weights_of``. A folder without a card gets a default one. Raises
    KalpanaError if weights are missing.
    """
    from kalpana.hub.weights import fingerprint
    from kalpana.text.tokenizer import BPE

    own = _files(folder)
    card = read_card(folder) if (folder / CARD).exists() else None
    if not own and (card is None or card.family != BY_CLIP):
        raise KalpanaError(f"there are no .safetensors files in {folder}")
    summaries = {path: _summary(path) for path in own}
    if card is None:
        families = [summaries[path].family for path in own]
        # An autoencoder only serves another model.
        models = (family for family in families if family not in ("vae", "vqgan"))
        family = next(models, families[0])
        card = Card(name=folder.resolve().name, family=family)
        if family in FAMILIES:
            card = card.model_copy(update={"tasks": FAMILIES[family].tasks})
    paths = weights_of(folder, card.family)
    vocabulary = [BPE] if _reads_text(card.family) else []
    files = {path.name: fingerprint(path) for path in (*paths, *vocabulary)}
    parameters = sum((summaries.get(path) or _summary(path)).parameters for path in paths)
    scores = {name: score for path in own for name, score in summaries[path].scores.items()}
    card = card.model_copy(update={"files": files, "parameters": parameters, "scores": scores})
    write_card(folder, card)
    return card


def _reads_text(family: str) -> bool:
    """Whether models of a family have a network that reads prompts."""
    able = FAMILIES[family].capabilities if family in FAMILIES else None
    return able is not None and "prompt" in able.uses and FAMILIES[family].network is not None


class _Summary(NamedTuple):
    """Summary of a weight file.

    ``family``, number of ``parameters``, and the final ``scores`` of its training.
    """

    family: str
    parameters: int
    scores: dict[str, Any]


def _summary(path: Path) -> _Summary:
    """Summary of the weights in a file."""
    import safetensors

    from kalpana.hub.weights import SCALES

    with safetensors.safe_open(path, "pt") as file:
        stored = file.keys()  # safe_open is no mapping
        names = [name for name in stored if not name.endswith(SCALES)]
        count = sum(file.get_tensor(name).numel() for name in names)
        about = file.metadata() or {}
        scores = json.loads(about.get("provenance", "{}")).get("scores", {})
        return _Summary(about.get("family", "unknown"), count, scores)


def to_int8(folder: Path) -> None:
    """Convert the matrices of all weights in a folder to int8."""
    from kalpana.hub.weights import files_of, metadata, shrink, whole_of

    for path in sorted({whole_of(file) for file in _files(folder)}):
        shrink(path, metadata(files_of(path)[0]).get("family", "unknown"))


def missing_files(folder: Path, card: Card) -> list[str]:
    """Names of the files in the card of a folder that are not there."""
    return sorted(card.files.keys() - paths_of(folder, card).keys())


def differences(folder: Path) -> list[str]:
    """How the files of the model in a folder differ from its card; empty if they do not."""
    from kalpana.hub.weights import fingerprint

    card = read_card(folder)
    paths, faults = paths_of(folder, card), list[str]()
    for name, sha256 in card.files.items():
        if name not in paths:
            faults.append(f"{name} is missing")
        elif (found := fingerprint(paths[name])) != sha256:
            faults.append(f"{name} has sha256 {found[:12]}…, not {sha256[:12]}…")
    unlisted = sorted({path.name for path in _files(folder)} - card.files.keys())
    return faults + [f"{name} is not in the card" for name in unlisted]


def paths_of(folder: Path, card: Card) -> dict[str, Path]:
    """The files that the model in a folder uses, as far as they are there, by name."""
    from kalpana.text.tokenizer import BPE

    try:
        found = weights_of(folder, card.family)
    except KalpanaError:  # there is no VQGAN, or no CLIP
        found = tuple(_files(folder))
    return {path.name: path for path in (*found, BPE)}


def placed(folder: Path) -> str:
    """Where a model's folder is: "inside" Kalpana (the package or a clone), or its path."""
    return "inside" if folder.parent == weights_dir() else str(folder)
