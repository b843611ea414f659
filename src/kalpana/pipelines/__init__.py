"""Text-to-image pipelines, one task per file, the loading of a model by name, and ``generate``."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kalpana.families import FAMILIES, find
from kalpana.hub.card import CARD, Card, find_model, model_folders, read_card, usable_models
from kalpana.pipelines.options import LoadOptions
from kalpana.request import Request, RequestFields, ask
from kalpana.types import KalpanaError, Result, Step

if TYPE_CHECKING:
    from kalpana.pipelines.pipeline import Pipeline
    from kalpana.pipelines.rerank import Ranker


def load(
    name: str = "default",
    device: str | None = None,
    *,
    dtype: str | None = None,
    offload: str | None = None,
    tiling: bool = False,
) -> Pipeline:
    """The pipeline of a model, given by a name in ``kalpana.list_models()``, by a folder of
    weights, by a folder of a public model (dalle-mini, dalle-mega, or any in the layout of
    diffusers), or by ORG/NAME of one in the Hugging Face cache.

    The last two models are cached, and read again when their files change. ``device`` None: a GPU
    if there is one, else the CPU. ``dtype``, ``offload`` and ``tiling`` are for models of the
    diffusers library, see ``LoadOptions``. Raises KalpanaError if there is no such model or device,
    or if its files are damaged, changed or of another family.
    """
    options = LoadOptions(dtype, offload, tiling).checked()
    if _draws(name) and name not in model_folders() and not Path(name).is_dir():
        training = (
            "take a public one by `kalpana weights pull ORG/NAME`"
            if name == "diffusers"
            else f"train it by recipes/{name}.yaml"
            if FAMILIES[name].network
            else "train the CLIP that it asks by recipes/clip.yaml"
        )
        raise KalpanaError(
            f"model {name!r} is not here: no weights of it come with this version of Kalpana, "
            f"where what draws from words is {_text_to_image_models()}; "
            f"name one of these or a folder of weights, or {training}"
        )
    folder = find_model(name).resolve()
    files = sorted(path for path in (*folder.iterdir(), *folder.glob("*/*")) if path.is_file())
    modified = tuple((str(path), path.stat().st_mtime_ns) for path in files)
    return _load(folder, modified, device, options)


@lru_cache(maxsize=2)
def _load(
    folder: Path, modified: tuple[tuple[str, int], ...], device: str | None, options: LoadOptions
) -> Pipeline:
    """The pipeline in a folder; ``modified``, the modification times of its files in ns, is part of
    the cache key only."""
    if not (folder / CARD).is_file() and (public := _public(folder, device, options)):
        return public
    card = read_card(folder)
    options.refuse(f"model {card.name!r}")
    if not _draws(card.family):
        raise KalpanaError(
            f"model {card.name!r} is of family {card.family!r}, which draws nothing from words: "
            f"try {_text_to_image_models()}"
        )
    reference = FAMILIES[card.family].pipeline
    assert reference is not None
    return find(reference).read(folder, card, device)


def card_of(folder: Path) -> Card:
    """The card of the model in a folder; that of a public model in the layout of diffusers, which
    comes without one, is made from its files. Raises KalpanaError as ``read_card``, and if the
    public model cannot be loaded."""
    from kalpana.hub import diffusers_folder, stable_diffusion
    from kalpana.hub.huggingface import name_of

    if (folder / CARD).is_file() or not diffusers_folder.holds(folder):
        return read_card(folder)
    if stable_diffusion.takes(folder):
        return Card(name=name_of(folder), family="unet", tasks=("text-to-image",))
    from kalpana.pipelines.diffusers_pipeline import public_card

    return public_card(folder)


def forget() -> None:
    """Empties the cache of ``load``."""
    _load.cache_clear()


def _text_to_image_models() -> str:
    """The names of the installed text-to-image models, separated by commas."""
    folders = model_folders()
    names = [n for n in usable_models() if _draws(read_card(folders[n]).family)]
    return ", ".join(names) or "nothing"


def _draws(family: str) -> bool:
    """Whether models of a family of this name generate pictures from text."""
    return family in FAMILIES and FAMILIES[family].pipeline is not None


def _public(folder: Path, device: str | None, options: LoadOptions) -> Pipeline | None:
    """The pipeline of a public checkpoint in a folder; None if the folder holds none. Raises
    KalpanaError for a public VQGAN, which is no text-to-image model."""
    from kalpana.hub import diffusers_folder, stable_diffusion
    from kalpana.hub.dalle_mini import VQGAN, holds
    from kalpana.pipelines.diffusion import DiffusionPipeline
    from kalpana.pipelines.text_to_tokens import TextToTokens

    if diffusers_folder.holds(folder) and not stable_diffusion.takes(folder):
        from kalpana.pipelines.diffusers_pipeline import DiffusersPipeline

        return DiffusersPipeline.read(folder, device=device, options=options)
    options.refuse(str(folder))
    if diffusers_folder.holds(folder):
        return DiffusionPipeline.read_public(folder, device)
    if holds(folder):
        return TextToTokens.read_public(folder, device)
    if list(folder.glob("*.yaml")) and list(folder.glob("*.safetensors")):
        raise KalpanaError(
            f"{folder} is a VQGAN, which draws nothing from words: "
            f"put it, as a folder {VQGAN}, into that of the public dalle-mini"
        )
    return None


def last(stream: Iterator[Step]) -> Result:
    """The result of a stream of steps, which its last step carries."""
    (step,) = deque(stream, maxlen=1)
    assert step.result is not None
    return step.result


def generate(
    prompt: str | Sequence[str] | Request = "",
    *,
    rank_by: Ranker | None = None,
    **fields: Unpack[RequestFields],
) -> Result:
    """The Result of a prompt and other request fields, or of a request with some fields replaced.

    ``fields`` are those of ``Request``, such as ``model``, ``n``, ``seed``, ``steps``,
    ``guidance``, ``size``, ``image``, ``mask`` and ``strength``. The outputs of several prompts
    follow one another. ``rank_by`` is the CLIP that ``best_of`` above 1 needs. Raises KalpanaError
    as ``load`` and ``Pipeline.generate``.
    """
    prompts = [prompt] if isinstance(prompt, str | Request) else list(prompt)
    requests = [ask(each, **fields) for each in prompts]
    if not requests:
        raise KalpanaError("there is no prompt: the list is empty")
    results = [last(load(each.model).generate(each, rank_by=rank_by)) for each in requests]
    return Result(
        tuple(output for result in results for output in result.outputs),
        tuple(dict.fromkeys(text for result in results for text in result.warnings)),
    )
