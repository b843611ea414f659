"""The recaption ablation: the same half-trained video model, trained on by each source of captions.

Every arm has the same weights to start from, the same steps and the same videos; only the captions
of the videos differ. Each is scored on short and on expanded prompts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from kalpana.evaluate.run import Progress, claim
from kalpana.evaluate.score import Share
from kalpana.evaluate.verifiers.observations import Verifier
from kalpana.evaluate.video.drawn import Drawing, drawn
from kalpana.evaluate.video.scores import ClipTable, look, table
from kalpana.evaluate.video.suite import VideoPrompt
from kalpana.evaluate.video.verdict import right
from kalpana.families import FAMILIES
from kalpana.hub.card import CARD, Card, write_card, write_hashes
from kalpana.media import write
from kalpana.pipelines import load
from kalpana.train.loop import train
from kalpana.train.recipe import check_recipe, located
from kalpana.train.video_flow import VideoFlowRecipe
from kalpana.types import KalpanaError

ARMS = ("noisy", "short", "captioner", "mixture", "true")
PARTS = ("objects", "colors", "direction", "path", "camera")  # columns of the table
PROMPTS = {"short": False, "expanded": True}  # whether prompts are expanded


def arms_of(
    recipe: VideoFlowRecipe, weights: Path, captions: Path | None, arms: Sequence[str], steps: int
) -> dict[str, VideoFlowRecipe]:
    """The recipe of each arm: ``steps`` on from ``weights``. Raises KalpanaError, before any
    training, for an unknown arm or one whose captions are missing."""
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise KalpanaError(f"arm {unknown[0]!r} is not one of {', '.join(ARMS)}")
    recipes = {}
    for arm in arms:
        changes = {"name": f"{recipe.name}-{arm}", "captions": arm, "init": weights, "steps": steps}
        changes["warmup"] = min(recipe.warmup, steps)
        changes["captions_file"] = captions if arm in ("captioner", "mixture") else None
        recipes[arm] = recipe.model_copy(update=changes)
        check_recipe(recipes[arm])
    return recipes


def ablation(
    recipes: dict[str, VideoFlowRecipe],
    prompts: Sequence[VideoPrompt],
    verifier: Verifier,
    drawing: Drawing,
    out: Path,
    progress: Callable[[str], Progress],
    device: str | None = None,
    echo: Callable[[str], None] = print,
) -> str:
    """Train and score all arms, and return the table, which is written to ``out`` as well. Arms
    and videos that are finished are kept, so that a stopped run goes on.

    ``progress`` gives the progress of a label. Raises KalpanaError as ``train`` and ``drawn``.
    """
    rows: dict[tuple[str, str], ClipTable] = {}
    for arm, recipe in recipes.items():
        folder = _model(recipe, out / arm, drawing.size, device, echo)
        model = load(str(folder), device)
        for kind, expand in PROMPTS.items():
            asked, place = replace(drawing, expand=expand), out / arm / kind
            tell, verdicts = progress(f"{arm}, {kind} prompts"), []
            videos = drawn(model, str(folder), prompts, asked, place, {"arm": arm})
            for prompt, video in zip(prompts, videos, strict=True):
                seen = look(verifier, video)
                verdicts.append(right(prompt, video.frames, video.fps, seen))
                tell(len(verdicts), len(prompts))
            rows[arm, kind] = table(prompts, verdicts)
    text = markdown(rows)
    write(out / "report.md", text.encode())
    return text


def _model(
    recipe: VideoFlowRecipe, out: Path, size: str, device: str | None, echo: Callable[[str], None]
) -> Path:
    """The folder of the trained model of an arm. Raises KalpanaError if ``out`` holds another
    arm."""
    folder = out / "model"
    out.mkdir(parents=True, exist_ok=True)
    claim(out / "arm.json", recipe.model_dump(mode="json"))
    if (folder / CARD).exists():
        return folder
    weights = train(recipe, out / "run", device=device, echo=echo)
    if weights is None:
        raise KalpanaError(f"the training in {out / 'run'} was stopped: the same command goes on")
    folder.mkdir(exist_ok=True)
    for file, name in ((weights, "video"), (located(recipe.vae), "video-vae")):
        shutil.copyfile(file, folder / FAMILIES[name].file)
    usual = FAMILIES["video"].capabilities
    assert usual is not None
    changes = {} if size in usual.sizes else {"sizes": (size,), "defaults": {"size": size}}
    write_card(folder, Card(name=recipe.name, family="video", capabilities=changes))
    write_hashes(folder)
    return folder


def markdown(rows: dict[tuple[str, str], ClipTable]) -> str:
    """The table: right videos and right parts in per cent, with 95 % intervals."""
    lines = [
        f"| captions | prompts | all right | {' | '.join(PARTS)} |",
        "|---|---|" + "---:|" * (len(PARTS) + 1),
    ]
    for (arm, kind), each in rows.items():
        shares: list[Share | None] = [each.parts.tasks.get(part) for part in PARTS]
        cells = ["–" if share is None else share.percent() for share in shares]
        lines.append(f"| {arm} | {kind} | {' | '.join([each.tasks.overall.percent(), *cells])} |")
    return "\n".join(lines) + "\n"
