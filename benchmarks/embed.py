"""Speed of our CLIP, open_clip and 🤗 transformers: embedding and training, in examples a second.

All are the same ViT-B/32 with the same random weights and the same batches, in alternation in one
process. Texts are as long as captions of the world. Of 77 positions open_clip computes all, because
its code has no other way; transformers as many as the longest text of the batch has; ours as many
as the longest text of a group of similar length has. Training is a forward pass, a backward pass
and a step of fused AdamW. The factor is our rate over open_clip's. The share of the peak is the
arithmetic of a model's matrix products, counted by torch, over its time and over the peak.

open_clip is imported with a mock of torchvision, whose transforms are never called here: its build
on PyPI does not work with every version of torch.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import Row, main, stand_ins
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from train import peak

from kalpana.hub.clip import translate
from kalpana.models import clip
from kalpana.text.tokenizer import Tokenizer
from kalpana.train.task import has_bf16
from kalpana.types import Tokens
from kalpana.world.world import World

CONFIG = clip.PRESETS["vit-b/32"]
TINY = replace(
    CONFIG, side=32, patch=8, width=32, depth=2, heads=2, hidden=64,
    text_width=32, text_depth=2, text_heads=2, text_hidden=64, features=32,
)  # fmt: skip
PICTURES, TEXTS, PAIRS = 32, 64, 32  # batch sizes
OURS, OPEN, HUGGING = "ours", "open_clip", "transformers"
NEEDED = {
    OPEN: (
        ("open_clip", "ftfy", "regex", "tqdm"),
        "pip install ftfy regex tqdm && pip install --no-deps open_clip_torch",
    ),
    HUGGING: (("transformers",), "pip install transformers"),
}
MISSING = {
    name: [module for module in modules if not find_spec(module)]
    for name, (modules, _) in NEEDED.items()
}
STOOD_IN_FOR = (
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.ops",
    "torchvision.ops.misc",
)
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "convolution": ("mkldnn_convolution", "convolution_backward"),
    "attention but for its products": (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
        "_native_multi_head_attention", "_transform_bias_rescale_qkv",
        "_softmax", "_softmax_backward_data",
    ),
    "activations and scales": (
        "silu", "silu_", "silu_backward", "sigmoid", "sigmoid_backward", "mul", "mul_",
    ),
    "norms and sums": ("native_layer_norm", "native_layer_norm_backward", "add", "add_", "sum"),
    "casts and copies": ("copy_", "cat", "fill_"),
    "optimizer": ("_fused_adamw_",),
}  # fmt: skip


@dataclass(frozen=True)
class Mode:
    """A precision: fp32, bfloat16 autocast or bfloat16 weights; optionally with compiled blocks."""

    name: str
    autocast: bool = False
    weights: bool = False
    compiled: bool = False

    def context(self) -> Any:
        """The autocast context of this mode."""
        return torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext()


FP32, AUTOCAST = Mode("fp32"), Mode("bf16 autocast", autocast=True)
EMBEDDING = (
    FP32,
    AUTOCAST,
    Mode("bf16 weights", weights=True),
    Mode("bf16 weights, compiled", weights=True, compiled=True),
)
TRAINING = (FP32, AUTOCAST, Mode("bf16 autocast, compiled", autocast=True, compiled=True))


@dataclass(frozen=True)
class Peer:
    """A model under test: its block class, its image and text features, and its training loss."""

    model: nn.Module
    block: type[nn.Module]
    image: Callable[[], Tensor]
    text: Callable[[Tokens], Tensor]
    loss: Callable[[Tokens], Tensor] | None = None
    optimizer: AdamW | None = None


@dataclass(frozen=True)
class Subject:
    """A measured workload: a call processes ``amount`` examples and returns features, if any."""

    name: str
    amount: int
    how: str
    call: Callable[[Peer, Mode], Tensor | None]


def rows(quick: bool) -> Iterator[Row]:
    for name, (_, install) in NEEDED.items():
        if MISSING[name]:
            yield Row(
                f"embedding: {name}",
                "–",
                "–",
                f"left out as {', '.join(MISSING[name])} is missing: {install}",
            )
    names = [name for name in (OURS, OPEN, HUGGING) if not MISSING.get(name)]
    config, seconds, side = (TINY, 0, 256) if quick else (CONFIG, 15, 2048)
    halves = has_bf16(torch.device("cpu"))
    compiles = not quick and (shutil.which("g++") or shutil.which("clang++"))
    limits = {}
    for precision, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16"))[: 1 + halves]:
        limits[name] = peak(side, seconds / 3, precision)
        how = f"product of {side} x {side} matrices, the best of many, same process"
        yield Row(f"embedding: peak, {name}", f"{limits[name] / 1e9:.0f} GFLOP/s", "–", how)

    usual = tokens(config, lengths(config.length))
    full = tokens(config, torch.full((TEXTS,), config.length))
    few, most = (Tokens(each.ids[:PAIRS], each.mask[:PAIRS]) for each in (usual, full))
    size, threads = usual.mask.sum(1), f"{torch.get_num_threads()} threads"
    whole = f"of {config.length} tokens"
    long = (
        f"texts of {size.min()} to {size.max()} tokens, "
        f"{size.float().mean():.0f} on average, {threads}"
    )
    embedding = (
        Subject(
            "images",
            PICTURES,
            f"batch {PICTURES}, {config.side} px, {threads}",
            lambda peer, mode: embed(peer.image, mode),
        ),
        Subject(
            "texts",
            TEXTS,
            f"batch {TEXTS}, {long}",
            lambda peer, mode: embed(partial(peer.text, usual), mode),
        ),
        Subject(
            f"texts {whole}",
            TEXTS,
            f"batch {TEXTS}, {threads}",
            lambda peer, mode: embed(partial(peer.text, full), mode),
        ),
    )
    training = (
        Subject(
            "pairs", PAIRS, f"batch {PAIRS}, {long}", lambda peer, mode: learn(peer, few, mode)
        ),
        Subject(
            f"pairs, texts {whole}",
            PAIRS,
            f"batch {PAIRS}, {threads}",
            lambda peer, mode: learn(peer, most, mode),
        ),
    )
    alike(peers(config, FP32, names), usual)
    for work, subjects, modes, target, each in (
        ("embedding", embedding, EMBEDDING, "≥ 1.3 ×", seconds),
        ("CLIP training", training, TRAINING, "≥ 1.2 ×", 2 * seconds),
    ):
        usable = [
            mode for mode in modes if (mode == FP32 or halves) and (compiles or not mode.compiled)
        ]
        able = names if work == "embedding" else [name for name in names if name != HUGGING]
        yield from compare(work, subjects, usable, config, able, target, limits, each)


def compare(
    work: str,
    subjects: tuple[Subject, ...],
    modes: list[Mode],
    config: clip.Config,
    names: list[str],
    target: str,
    limits: dict[str, float],
    seconds: float,
) -> Iterator[Row]:
    """Rows of each subject in each mode, and a profile of one of them; then the best modes.

    The best mode of each model is also given as a share of the peak (``limits``, operations a
    second by precision).
    """
    taken, arithmetic = dict[tuple[Subject, Mode, str], float](), dict[tuple[Subject, str], int]()
    exact = dict[tuple[Subject, str], Tensor]()
    for mode in modes:
        them = peers(config, mode, names)
        for subject in subjects:
            calls = {name: partial(subject.call, peer, mode) for name, peer in them.items()}
            taken |= {(subject, mode, name): each for name, each in turns(calls, seconds).items()}
            how = subject.how
            if mode == FP32:
                arithmetic |= {(subject, name): counted(call) for name, call in calls.items()}
                exact |= {
                    (subject, name): features
                    for name, call in calls.items()
                    if (features := call()) is not None
                }
            elif near := {
                name: least(call(), exact[subject, name])
                for name, call in calls.items()
                if (subject, name) in exact
            }:
                how += "; cosine to fp32 " + ", ".join(
                    f"{name} ≥ {cosine:.5f}" for name, cosine in near.items()
                )
            now = rates(subject, {name: taken[subject, mode, name] for name in names})
            yield Row(f"{work}: {subject.name}, {mode.name}", now, target, how)
            if mode == (AUTOCAST if AUTOCAST in modes else FP32) and subject is subjects[0]:
                for name, call in calls.items():
                    yield Row(
                        f"{work}: where the time of {name} goes",
                        where(call),
                        "–",
                        f"{subject.name}, {mode.name}; torch profiler",
                    )
    for subject in subjects:
        best = {name: min(modes, key=lambda mode: taken[subject, mode, name]) for name in names}
        fastest = {name: taken[subject, mode, name] for name, mode in best.items()}
        how = "; ".join(f"{name} in {mode.name}" for name, mode in best.items())
        yield Row(
            f"{work}: {subject.name}, each in its best mode", rates(subject, fastest), target, how
        )
        limit = {name: limits["fp32" if best[name] == FP32 else "bf16"] for name in names}
        shares = {name: arithmetic[subject, name] / fastest[name] / limit[name] for name in names}
        each = {name: arithmetic[subject, name] / subject.amount / 1e9 for name in names}
        how = ", ".join(f"{name} {gflop:.1f}" for name, gflop in each.items()) + " GFLOP each"
        yield Row(
            f"{work}: {subject.name}, share of the peak",
            ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
            "–",
            how,
        )


def rates(subject: Subject, taken: dict[str, float]) -> str:
    """The rates of all models in examples a second, and our factor over open_clip."""
    factor = f": {taken[OPEN] / taken[OURS]:.2f} ×" if OPEN in taken else ""
    each = {name: subject.amount / seconds for name, seconds in taken.items()}
    return ", ".join(f"{name} {rate:.1f}/s" for name, rate in each.items()) + factor


def embed(work: Callable[[], Tensor], mode: Mode) -> Tensor:
    """The features of one call without gradients."""
    with torch.no_grad(), mode.context():
        return work()


def learn(peer: Peer, given: Tokens, mode: Mode) -> None:
    """One training step."""
    assert peer.loss and peer.optimizer
    peer.optimizer.zero_grad(set_to_none=True)
    with mode.context():
        loss = peer.loss(given)
    loss.backward()
    peer.optimizer.step()


def least(features: Tensor | None, exact: Tensor) -> float:
    """The smallest cosine similarity of features to the fp32 features."""
    assert features is not None
    return F.cosine_similarity(features.float(), exact).min().item()


def turns(works: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds a call of each work, over rounds that call every work once.

    The rounds fill ``seconds`` for each work, after one call to warm up.
    """
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    while not all(taken.values()) or sum(map(sum, taken.values())) < seconds * len(works):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


def counted(work: Callable[[], object]) -> int:
    """Operations of the matrix products in a call."""
    # The counter sees neither into the fast path nor into fused attention.
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


def where(work: Callable[[], object]) -> str:
    """The shares of a call's time by kind of operation (torch profiler)."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        work()
    spent = {
        event.key.removeprefix("aten::"): event.self_cpu_time_total
        for event in record.key_averages()
    }
    parts = {
        kind: sum(spent.get(name, 0) for name in names) / sum(spent.values())
        for kind, names in KINDS.items()
    }
    parts["the rest"] = 1 - sum(parts.values())
    return ", ".join(f"{kind} {part:.0%}" for kind, part in parts.items() if part >= 0.005)


def lengths(limit: int) -> Tensor:
    """Token counts (TEXTS,) of English captions of the world by our tokenizer.

    The tokenizer of CLIP gives about the same counts.
    """
    world = World(split="dev", kind="everything")
    english = (caption for caption, language, _ in map(world.describe, count()) if language == "en")
    return Tokenizer.load().encode(list(islice(english, TEXTS)), limit).mask.sum(1)


def tokens(config: clip.Config, lengths: Tensor) -> Tokens:
    """Random tokens of these lengths, padded to the config's length, in CLIP's form.

    The form is: start token, words, end token.
    """
    assert config.end is not None
    places, lengths = torch.arange(config.length), lengths[:, None]
    ids = torch.randint(
        1, config.end - 1, (len(lengths), config.length), generator=torch.Generator().manual_seed(1)
    )
    ids = torch.where(
        places == lengths - 1, config.end, torch.where(places == 0, config.end - 1, ids)
    )
    return Tokens(ids * (places < lengths), places < lengths)


def peers(config: clip.Config, mode: Mode, names: list[str]) -> dict[str, Peer]:
    """The models of these names, with the same random weights and random pictures."""
    torch.manual_seed(0)
    model, precision = clip.CLIP(config).eval(), torch.bfloat16 if mode.weights else torch.float32
    pixels = torch.rand(PICTURES, 3, config.side, config.side) * 2 - 1
    mean, deviation = (
        torch.tensor(levels)[:, None, None] for levels in (config.mean, config.deviation)
    )
    normal = (((pixels + 1) / 2 - mean) / deviation).to(precision)
    theirs = {
        name: make(config, model, normal)
        for name, make in ((HUGGING, hugging), (OPEN, opened))
        if name in names
    }

    def loss(given: Tokens) -> Tensor:
        return model.loss(model.image(pixels), model.text(given))

    ours = Peer(
        model,
        clip.Block,
        partial(model.image, pixels),
        model.text,
        loss,
        AdamW(model.parameters(), fused=True),
    )
    # Ours converts the two towers, as understand/encoder.py does.
    for part in (model.see, model.read, *(peer.model for peer in theirs.values())):
        part.to(precision)
    them = {name: peer for name, peer in {OURS: ours, **theirs}.items() if name in names}
    torch._dynamo.config.recompile_limit = 64  # one graph for each tower, batch size and length
    for peer in them.values() if mode.compiled else ():
        for module in peer.model.modules():
            if isinstance(module, peer.block):
                module.compile()
    return {name: them[name] for name in names}


def alike(them: dict[str, Peer], given: Tokens) -> None:
    """Check that all models give the same features; raises SystemExit if not."""
    with torch.no_grad():
        for work in (lambda peer: peer.image(), lambda peer: peer.text(given)):
            made = {name: work(peer) for name, peer in them.items()}
            for name, features in made.items():
                if not torch.allclose(features, made[OURS], rtol=1e-3, atol=1e-3):
                    raise SystemExit(
                        f"{name} makes other features of the same weights: nothing can be compared"
                    )


def hugging(config: clip.Config, ours: clip.CLIP, normal: Tensor) -> Peer:
    """The CLIP of transformers; its weights are copied into ours."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    c = config
    vision = {
        "image_size": c.side,
        "patch_size": c.patch,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
    }
    vision |= {"num_attention_heads": c.heads, "intermediate_size": c.hidden}
    text = {
        "vocab_size": c.vocabulary,
        "max_position_embeddings": c.length,
        "hidden_size": c.text_width,
        "num_hidden_layers": c.text_depth,
    }
    text |= {
        "num_attention_heads": c.text_heads,
        "intermediate_size": c.text_hidden,
        "eos_token_id": c.end,
    }
    model = CLIPModel(
        CLIPConfig(vision_config=vision, text_config=text, projection_dim=c.features)
    ).eval()
    ours.load_state_dict(translate(model.state_dict(), c, Path("CLIPModel")))

    def read(given: Tokens) -> Tensor:
        return model.get_text_features(given.ids[:, : given.mask.sum(1).max()]).pooler_output

    return Peer(
        model, CLIPEncoderLayer, lambda: model.get_image_features(normal).pooler_output, read
    )


def opened(config: clip.Config, ours: clip.CLIP, normal: Tensor) -> Peer:
    """The CLIP of open_clip, with a copy of our weights."""
    with suppress(ImportError):
        # Before the mock exists, which transformers would take for torchvision.
        import transformers  # noqa: F401
    with stand_ins(STOOD_IN_FOR):
        import open_clip
    c = config
    vision = {
        "image_size": c.side,
        "patch_size": c.patch,
        "width": c.width,
        "layers": c.depth,
        "head_width": c.width // c.heads,
    }
    text = {
        "context_length": c.length,
        "vocab_size": c.vocabulary,
        "width": c.text_width,
        "heads": c.text_heads,
        "layers": c.text_depth,
    }
    ratios = {"mlp_ratio": c.hidden / c.width}, {"mlp_ratio": c.text_hidden / c.text_width}
    model = open_clip.CLIP(c.features, vision | ratios[0], text | ratios[1], quick_gelu=True).eval()
    model.load_state_dict(renamed(ours.state_dict()))
    contrast = open_clip.ClipLoss()

    def read(given: Tokens) -> Tensor:
        return model.encode_text(given.ids)

    def loss(given: Tokens) -> Tensor:
        return contrast(*model(normal, given.ids))

    block = open_clip.transformer.ResidualAttentionBlock
    return Peer(
        model,
        block,
        partial(model.encode_image, normal),
        read,
        loss,
        AdamW(model.parameters(), fused=True),
    )


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under open_clip's names."""
    names = {
        "see.patches": "visual.conv1",
        "see.mark": "visual.class_embedding",
        "see.positions": "visual.positional_embedding",
        "see.before": "visual.ln_pre",
        "see.blocks": "visual.transformer.resblocks",
        "see.norm": "visual.ln_post",
        "see.project.weight": "visual.proj",
        "read.words": "token_embedding",
        "read.positions": "positional_embedding",
        "read.blocks": "transformer.resblocks",
        "read.norm": "ln_final",
        "read.project.weight": "text_projection",
        "norm_one": "ln_1",
        "norm_two": "ln_2",
        "attention.qkv.": "attn.in_proj_",
        "attention.out": "attn.out_proj",
        "feed.up": "mlp.c_fc",
        "feed.down": "mlp.c_proj",
    }
    out = {}
    for name, tensor in state.items():
        tensor = tensor.T.contiguous() if "project" in name else tensor
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        out[name] = tensor
    return out


if __name__ == "__main__":
    main(rows)
