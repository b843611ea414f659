"""Trace: one HTML page that shows how a picture came about, step by step.

For a diffusion model it has the noise schedule with the timesteps, the finished picture noised at
eight times, and the estimate of x0 in every step; for a token model the tokens as they fill in; for
VQGAN+CLIP the picture as it is optimised. The page holds its pictures, and needs no network.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kalpana.diffusion.editing import noised
from kalpana.diffusion.schedule import SPACINGS, Schedule
from kalpana.media import to_images, to_pixels
from kalpana.pipelines.diffusion import DiffusionPipeline, noise
from kalpana.pipelines.pipeline import Pipeline
from kalpana.request import Request, ask
from kalpana.text.tokenizer import language
from kalpana.types import Codec, KalpanaError, Step

MOST = 60  # pictures of steps on a page; of a longer run they are spread evenly
WORDS = {
    "en": {
        "model": "Model",
        "seed": "Seed",
        "steps": "Steps",
        "guidance": "Guidance",
        "sampler": "Sampler",
        "spacing": "Spacing",
        "schedule": "Noise schedule",
        "schedule_text": "x_t = alpha x0 + sigma eps, from noise (t = 1, left) to data (t = 0, "
        "right). Each grey line is a timestep of the sampler.",
        "noised": "The picture with noise",
        "noised_text": "The finished picture, noised at eight times as in training, and decoded.",
        "estimates": "Estimate of the clean picture (x0) in each step",
        "tokens": "The tokens as they fill in",
        "optimise": "The picture as it is optimised",
        "step": "step",
        "final": "The finished picture",
    },
    "hi": {
        "model": "मॉडल",
        "seed": "बीज (seed)",
        "steps": "चरण",
        "guidance": "मार्गदर्शन (guidance)",
        "sampler": "सैंपलर",
        "spacing": "चरणों की दूरी",
        "schedule": "शोर की अनुसूची",
        "schedule_text": "x_t = alpha x0 + sigma eps, शोर (t = 1, बाएँ) से चित्र (t = 0, दाएँ) तक। "
        "हर धूसर रेखा सैंपलर का एक समय है।",
        "noised": "शोर मिला चित्र",
        "noised_text": "तैयार चित्र, आठ समयों पर शोर के साथ, जैसे प्रशिक्षण में।",
        "estimates": "हर चरण में साफ़ चित्र (x0) का अनुमान",
        "tokens": "टोकन, जैसे-जैसे वे भरते हैं",
        "optimise": "चित्र, जैसे-जैसे वह सुधरता है",
        "step": "चरण",
        "final": "तैयार चित्र",
    },
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
figure { display: inline-block; margin: 0 .5rem .5rem 0; text-align: center }
figure img { width: 112px; display: block; border-radius: 4px }
figcaption, dd, dt, p { color: #555; font-size: .85rem }
dl { display: flex; flex-wrap: wrap; gap: 0 1.5rem } dt { font-weight: 600 } dd { margin: 0 }
figure.final img { width: 256px } svg { width: 100%; max-width: 640px; height: auto }
"""


@dataclass(frozen=True)
class _DecodedPreviews:
    """A codec whose previews are whole decoded pictures."""

    codec: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)

    def preview(self, latents: Tensor) -> Tensor:
        return self.codec.decode(latents)


def trace(
    model: Pipeline,
    request: Request | str,
    each: Callable[[Step], None] | None = None,
    **fields: Any,
) -> str:
    """The HTML page of one picture of a request, in the language of its prompt. ``each`` is called
    after every step, and may raise to stop.

    Raises KalpanaError for several pictures, for a model that makes videos, and as
    ``Pipeline.generate``.
    """
    request = ask(request, **fields)
    if "seconds" in model.capabilities.uses:
        raise KalpanaError(f"model {model.name!r} makes videos: a trace shows one picture")
    if len(request.seeded().each_seed()) > 1 or request.best_of > 1:
        raise KalpanaError("a trace shows one picture: leave n, seeds and best_of out")
    shown: Any = model
    if isinstance(model, DiffusionPipeline):
        shown = replace(model, codec=_DecodedPreviews(model.codec))
    stage, steps = "", list[tuple[int, Tensor]]()
    for step in shown.generate(request):
        if each is not None:
            each(step)
        if step.preview is not None and step.stage != "decode":
            steps.append((step.index, step.preview))
            stage = step.stage
    assert step.result is not None
    (output,) = step.result.outputs
    resolved = request.updated(**output.receipt["resolved"])
    words = WORDS["hi" if language(resolved.prompt) == "hi" else "en"]
    heading = {"denoise": "estimates", "tokens": "tokens"}.get(stage, "optimise")
    kept = sorted({round(k * (len(steps) - 1) / max(MOST - 1, 1)) for k in range(MOST)})
    kept = kept if len(steps) > MOST else list(range(len(steps)))
    body = [
        f"<h1>{escape(_title(resolved))}</h1>",
        _facts(model, resolved, words),
        _figure(output.image, "", "final", words["final"]),
    ]
    if isinstance(model, DiffusionPipeline):
        schedule = model.process.levels
        body += _schedule(model, resolved, schedule, words)
        body += _noised(model.codec, output.image, output.seed, schedule, model.device, words)
    body.append(f"<h2>{words[heading]}</h2>")
    for k in kept:
        index, preview = steps[k]
        (image,) = to_images(preview)
        body.append(_figure(image, f"{words['step']} {index}"))
    return _page(resolved, words is WORDS["hi"], body)


def _page(request: Request, hindi: bool, body: list[str]) -> str:
    """A whole HTML document."""
    head = (
        f'<!doctype html>\n<html lang="{"hi" if hindi else "en"}">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(_title(request))} · Kalpana</title>\n<style>{STYLE}</style>\n"
    )
    return head + "\n".join(body) + "\n</html>\n"


def _title(request: Request) -> str:
    """What the picture shows: the prompt, or the label of a model of classes."""
    return request.prompt or request.label or ""


def _facts(model: Pipeline, request: Request, words: dict[str, str]) -> str:
    """The settings of the picture."""
    facts = {"model": model.name} | {
        name: value
        for name in ("seed", "steps", "guidance", "sampler", "spacing")
        if (value := getattr(request, name)) is not None
    }
    rows = (f"<div><dt>{words[k]}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items())
    return f"<dl>{''.join(rows)}</dl>"


def _figure(image: Image.Image, caption: str, kind: str = "", description: str = "") -> str:
    """A picture with its caption, as a data URL."""
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure class="{kind}"><img src="data:image/png;base64,{data}" '
        f'alt="{escape(description or caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _schedule(
    model: DiffusionPipeline, request: Request, schedule: Schedule, words: dict[str, str]
) -> list[str]:
    """The curves of alpha and sigma over time, and the timesteps, as inline SVG."""
    assert request.steps
    shift = model.capabilities.defaults.shift
    steps = SPACINGS[request.spacing or "uniform"](request.steps, shift, schedule)
    t = torch.linspace(1, 0, 65, dtype=torch.float64)

    def curve(values: Tensor, colour: str) -> str:
        points = " ".join(
            f"{20 + 600 * (1 - u):.1f},{190 - 170 * v:.1f}"
            for u, v in zip(t.tolist(), values.tolist(), strict=True)
        )
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>'

    lines = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="190" stroke="#ccc"/>'
        for x in (20 + 600 * (1 - u) for u in steps.tolist())
    )
    text = (
        '<text x="60" y="16" fill="#c2410c">sigma</text>'
        '<text x="540" y="16" fill="#1d4ed8">alpha</text>'
        '<text x="20" y="212">t = 1</text><text x="582" y="212">t = 0</text>'
    )
    return [
        f"<h2>{words['schedule']}: {escape(str(model.process.schedule))}</h2>",
        f"<p>{words['schedule_text']}</p>",
        f'<svg viewBox="0 0 640 220" font-size="14" role="img" aria-label="{words["schedule"]}">'
        f"{lines}{curve(schedule.alpha(t), '#1d4ed8')}{curve(schedule.sigma(t), '#c2410c')}"
        f"{text}</svg>",
    ]


@torch.no_grad()
def _noised(
    codec: Codec,
    image: Image.Image,
    seed: int,
    schedule: Schedule,
    device: torch.device,
    words: dict[str, str],
) -> list[str]:
    """A picture noised at eight times."""
    x0 = codec.encode(to_pixels([image]).to(device))
    eps = noise([seed], x0.shape[1:]).to(x0)
    figures = [f"<h2>{words['noised']}</h2>", f"<p>{words['noised_text']}</p>"]
    for k in range(8):
        t = torch.tensor(1 - k / 7, dtype=torch.float64)
        (noisy,) = to_images(codec.decode(noised(schedule, x0, eps, t)).clamp(-1, 1))
        figures.append(_figure(noisy, f"t = {float(t):.2f}"))
    return figures
