"""Seconds a step and peak memory of Stable Diffusion beside diffusers, at equal weights.

A folder in the layout of diffusers gets random weights: a tiny model by default, with ``--full``
the 860 million parameters of Stable Diffusion 1 at 512 px. Every measurement is a process of its
own, ours and theirs in turn: text to final latents by DDIM with guidance, without decoding. The
noise is the same, and for numbers of steps that divide 1000 so are the timesteps: the latents of
fp32 can then be compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import Row
from torch import Tensor, nn

from kalpana.types import Cond

PROMPT, SEED, GUIDANCE = "a red ball", 0, 7.5
TEXT = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "num_hidden_layers": 12}
TINY_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
TINY_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
FULL_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}


def write(folder: Path, full: bool) -> None:
    """A Stable Diffusion 1 with random weights in a folder, by diffusers' own classes."""
    import diffusers
    from tokenizers import pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    words = {"cross_attention_dim": 768, "attention_head_dim": 8} if full else TINY_UNET
    unet = diffusers.UNet2DConditionModel(**words)
    levels = 4 if full else 2
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(128, 256, 512, 512) if full else (16, 16),
        layers_per_block=2 if full else 1,
        latent_channels=4,
        norm_num_groups=32 if full else 8,
        sample_size=words.get("sample_size", 64) * 2 ** (levels - 1),
    )
    text = CLIPTextModel(CLIPTextConfig(**TEXT, **(FULL_TEXT if full else TINY_TEXT)))
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        part.save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    put(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"} | parts)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [f"word{k}" for k in range(TEXT["bos_token_id"] - len(tokens))]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    put(folder / "tokenizer/vocab.json", {token: k for k, token in enumerate(tokens)})
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}
    about = {f"{name}_token": token for name, token in special.items()}
    put(folder / "tokenizer/tokenizer_config.json", about | {"model_max_length": 77})


def put(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


class Cast(nn.Module):
    """A network in another number format, with inputs and outputs in fp32."""

    def __init__(self, network: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype
        self.reads, self.config = network.reads, network.config

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.network(x_t.to(self.dtype), t, cond).float()


def ours(folder: Path, dtype: torch.dtype, batch: int) -> Callable[[int], Tensor]:
    """Our pipeline: latents (b, c, h, w) after some steps."""
    from kalpana.evaluate.sampling import final_latents
    from kalpana.pipelines.diffusion import DiffusionPipeline
    from kalpana.request import ask

    model = DiffusionPipeline.read_public(folder, "cpu")
    network: Any = model.network if dtype == torch.float32 else Cast(model.network, dtype)
    model = replace(model, network=network)

    def run(steps: int) -> Tensor:
        asked = ask(PROMPT, seed=SEED, n=batch, steps=steps, guidance=GUIDANCE, sampler="ddim")
        return final_latents(model, model.capabilities.resolve(asked)[0])

    return run


def theirs(folder: Path, dtype: torch.dtype, batch: int) -> Callable[[int], Tensor]:
    """The pipeline of diffusers: the same latents."""
    from diffusers import StableDiffusionPipeline

    from kalpana.pipelines.diffusion import noise

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    side = pipe.unet.config.sample_size
    x = noise(range(SEED, SEED + batch), (4, side, side)).to(dtype)

    def run(steps: int) -> Tensor:
        made = pipe(
            [PROMPT] * batch,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            latents=x.clone(),
            output_type="latent",
        )
        return made.images.float()

    return run


SIDES = {"ours": ours, "diffusers": theirs}


def measure(side: str, folder: Path, dtype: str, batch: int, steps: int, out: Path) -> None:
    """One measurement in this process, printed as JSON: seconds a step and peak GiB; the latents
    are saved in ``out``."""
    with torch.inference_mode():
        run = SIDES[side](folder, getattr(torch, dtype), batch)
        run(1)  # to warm up
        start = time.perf_counter()
        torch.save(run(steps), out)
        seconds = (time.perf_counter() - start) / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gib = peak / (2**30 if sys.platform == "darwin" else 2**20)
    print(json.dumps({"seconds": seconds, "gib": gib}))


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """Rows of both sides for each number format and batch size."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sd"
        folder.mkdir()
        write(folder, args.full)
        size = "860 M parameters, 512 px" if args.full else "tiny, 16 px"
        for dtype in ("float32", "bfloat16"):
            for batch in args.batches:
                found, made = {}, {}
                for side in SIDES:
                    made[side] = Path(temporary) / f"{side}.pt"
                    given = (side, folder, dtype, str(batch), str(args.steps), made[side])
                    done = subprocess.run(
                        [sys.executable, __file__, "--measure", *map(str, given)],
                        capture_output=True,
                        text=True,
                    )
                    if done.returncode:
                        raise SystemExit(f"{side} failed: {done.stderr.strip()[-2000:]}")
                    found[side] = json.loads(done.stdout.splitlines()[-1])
                mine, other = found["ours"], found["diffusers"]
                one, two = (torch.load(made[side]) for side in SIDES)
                apart = float((one - two).abs().max() / two.abs().max())
                yield Row(
                    f"Stable Diffusion, {size}, {dtype}, batch {batch}",
                    f"{mine['seconds']:.3g} s a step, {mine['gib']:.2f} GiB",
                    f"diffusers {other['seconds']:.3g} s, {other['gib']:.2f} GiB: "
                    f"ratio {other['seconds'] / mine['seconds']:.2f}",
                    f"{args.steps} steps of DDIM, guidance {GUIDANCE:g}, "
                    f"{torch.get_num_threads()} threads; latents differ by {apart:.1e}",
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the size of Stable Diffusion 1")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--quick", action="store_true", help="one small row a number format")
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        side, folder, dtype, batch, steps, out = args.measure
        measure(side, Path(folder), dtype, int(batch), int(steps), Path(out))
        return
    if missing := [p for p in ("diffusers", "transformers") if not importlib.util.find_spec(p)]:
        print(f"left out: {', '.join(missing)} not installed", file=sys.stderr)
        return
    if args.quick:
        args.full, args.steps, args.batches = False, 2, [1]
    for row in rows(args):
        print(row, flush=True)


if __name__ == "__main__":
    main()
