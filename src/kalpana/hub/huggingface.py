"""The Hugging Face cache: models by ORG/NAME, found offline; fetching one into it.

A model is fetched by `kalpana weights pull ORG/NAME` only, never by a request. Of its files only
safetensors, configs and vocabularies are taken, never code or pickles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kalpana.hub import diffusers_folder
from kalpana.hub.diffusers_folder import INDEX
from kalpana.types import KalpanaError

REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
TIMEOUT = 20  # seconds without an answer
CACHED = re.compile(r"models--(.+?)--(.+)")  # name of a model's folder in the cache


@dataclass(frozen=True)
class CachedModel:
    """A model in the cache: ``kind``, its pipeline class; ``problem``, for which it cannot be
    loaded, or None."""

    name: str
    folder: Path
    size: int
    kind: str
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        return self.__dict__ | {"folder": str(self.folder)}


def library() -> Any:
    """The huggingface_hub package. Raises KalpanaError if it is not installed."""
    try:
        import huggingface_hub.constants
    except ModuleNotFoundError:
        raise KalpanaError(
            "the Hugging Face cache needs huggingface_hub: pip install 'kalpana[hub]'"
        ) from None
    return huggingface_hub


def cache_folder() -> Path:
    """Folder of the cache, which the environment variables HF_HUB_CACHE and HF_HOME set."""
    return Path(library().constants.HF_HUB_CACHE)


def snapshot(name: str, file: str = INDEX) -> Path:
    """Folder of the model ORG/NAME in the cache, which holds ``file``, without any connection.
    Raises KalpanaError if it is not there."""
    cache = cache_folder()
    found = library().try_to_load_from_cache(name, file, cache_dir=cache)
    if not isinstance(found, str):
        raise KalpanaError(
            f"there is no folder {name!r}, and no such model with a {file} in the Hugging Face "
            f"cache, {cache}: `kalpana weights pull {name}` fetches it"
        )
    return Path(found).parent


def name_of(folder: Path) -> str:
    """Name of the model in a folder: ORG/NAME in the cache, else that of the folder."""
    found = CACHED.fullmatch(folder.parent.parent.name)
    return f"{found[1]}/{found[2]}" if found and folder.parent.name == "snapshots" else folder.name


def pull(name: str, endpoint: str | None = None) -> Path:
    """Folder of the model ORG/NAME in the cache, fetched as far as it is not there.

    ``endpoint`` is the web address of the hub; None: that of huggingface_hub. Raises KalpanaError
    if the model is not there, needs a token, has no safe weights, or cannot be read.
    """
    hub = library()
    try:
        # One request without retries, so that a missing connection is reported at once.
        about = hub.HfApi(endpoint=endpoint).model_info(name, timeout=TIMEOUT)
        wanted = wanted_files(file.rfilename for file in about.siblings or ())
        if not any(file.endswith(".safetensors") for file in wanted):
            raise KalpanaError(f"{name} has no weights as safetensors: take another model")
        options = {"endpoint": endpoint, "cache_dir": cache_folder()}
        return Path(hub.snapshot_download(name, allow_patterns=wanted, **options))
    except KalpanaError:
        raise
    except Exception as error:  # of huggingface_hub and its HTTP client
        reason = " ".join(str(error).split())[:200]
        raise KalpanaError(
            f"{name} cannot be fetched: {reason}; the same command resumes the transfer"
        ) from None


def wanted_files(names: Iterable[str]) -> list[str]:
    """The files to fetch among those of a model: configs, vocabularies and safetensors; of a model
    in the layout of diffusers those of its parts, in one variant."""
    safe = [name for name in names if name.endswith(SUFFIXES)]
    if INDEX not in safe:
        return sorted(name for name in safe if "/" not in name)
    found, weights = [INDEX], dict[str, list[str]]()
    for name in safe:
        part, slash, file = name.partition("/")
        if not slash or "/" in file:
            continue
        if file.endswith(".safetensors"):
            weights.setdefault(part, []).append(file)
        else:
            found.append(name)
    for part, files in weights.items():
        found += [f"{part}/{file}" for file in diffusers_folder.weights_of(files)]
    return sorted(found)


def cached_models() -> list[CachedModel]:
    """The models in the cache that are in the layout of diffusers, by name."""
    cache = cache_folder()
    if not cache.is_dir():
        return []
    found = []
    for repo in library().scan_cache_dir(cache).repos:
        if repo.repo_type != "model" or not REPO.fullmatch(repo.repo_id):
            continue
        try:
            folder = snapshot(repo.repo_id)
        except KalpanaError:
            continue  # of another layout
        found.append(_described(repo.repo_id, folder, repo.size_on_disk))
    return sorted(found, key=lambda each: each.name)


def _described(name: str, folder: Path, size: int) -> CachedModel:
    kind, problem = "unknown", None
    try:
        kind = diffusers_folder.class_of(folder)
        diffusers_folder.read(folder)
    except KalpanaError as error:
        problem = str(error)
    return CachedModel(name, folder, size, kind, problem)
