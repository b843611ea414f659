"""Image tokens a second: our DALL-E mini and min-dalle, our DALL-E and dalle-pytorch, and bounds.

All generate the same pictures in one process, in alternation, a row of tokens at a time; encoding
the caption is included. DALL-E mini is the published model with a third of its blocks. min-dalle's
decoder has the same random weights and runs as in its own loop; both compute a conditional and an
unconditional row for each picture (classifier-free guidance). dalle-pytorch has our width, heads,
blocks and feed-forward, and its own norms, token shift and head, which also predicts text tokens.
Its cache is on, and in one row off, which is its default.

The share of a bound is the least possible time of a token over its actual time. A token takes at
least the time to read the weights and the cache of earlier tokens, at the bandwidth of a matrix as
large as the weights; and the time of its products, at the rate of large square products. The first
is the bound for small batches, the second for large ones.

dalle-pytorch is imported with mocks of modules that only its image tokenizers use, which are never
called here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from embed import where
from measure import Row, main, stand_ins
from torch import Generator, Tensor, nn
from train import peak

from kalpana.hub.dalle_mini import translate
from kalpana.models import dalle, dalle_mini
from kalpana.pipelines.tokens import draw, stream
from kalpana.train.task import has_bf16
from kalpana.types import Cond, Tokens

OURS, MIN_DALLE, DALLE_PYTORCH = "ours", "min-dalle", "dalle-pytorch"
UNCACHED = "dalle-pytorch without its cache"
NEEDED = {
    MIN_DALLE: (("min_dalle",), "pip install min-dalle"),
    DALLE_PYTORCH: (
        (
            "dalle_pytorch",
            "axial_positional_embedding",
            "einops",
            "requests",
            "rotary_embedding_torch",
            "tqdm",
        ),
        "pip install einops requests tqdm && "
        "pip install --no-deps axial-positional-embedding dalle-pytorch rotary-embedding-torch",
    ),
}
MISSING = {
    name: [module for module in modules if not find_spec(module)]
    for name, (modules, _) in NEEDED.items()
}
STOOD_IN_FOR = ("omegaconf", "pkg_resources", "taming", "taming.models", "taming.models.vqgan")
BATCHES = (1, 16)
WORDS, PADDED = 16, 64  # tokens of the caption without and with padding; both peers read it too
GUIDANCE, TOP_K = 16.0, 256  # min-dalle's defaults
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16 weights"}

Draws = Callable[[], Iterator[object]]  # starts a batch and yields after each row of its tokens


@dataclass(frozen=True)
class Work:
    """A workload: ``batch`` pictures of ``side`` x ``side`` tokens, computed in ``rows`` rows.

    A step reads ``weights`` weights and, on average, ``kept`` cached numbers of the text and of
    earlier tokens.
    """

    name: str
    how: str
    target: str
    batch: int
    side: int
    rows: int
    weights: int
    kept: int


def rows(quick: bool) -> Iterator[Row]:
    for name, (_, install) in NEEDED.items():
        if MISSING[name]:
            yield Row(
                f"tokens: {name}",
                "–",
                "–",
                f"left out as {', '.join(MISSING[name])} is missing: {install}",
            )
    seconds, side = (0, 256) if quick else (3, 2048)
    for precision in list(PRECISIONS)[: 1 + has_bf16(torch.device("cpu"))]:
        limit = peak(side, seconds, precision)
        how = f"product of {side} x {side} matrices, the best of many, same process"
        yield Row(f"tokens: peak, {PRECISIONS[precision]}", f"{limit / 1e9:.0f} GFLOP/s", "–", how)
        for work, them in (*encoder_decoder(quick, precision), *one_stream(quick, precision)):
            yield from compare(work, them, precision, limit)


def compare(
    work: Work, them: dict[str, Draws], precision: torch.dtype, limit: float
) -> Iterator[Row]:
    """The rows of a workload: tokens a second, shares of both bounds, and a profile of ours.

    The profile is given for one picture in fp32 only.
    """
    name, tokens = f"tokens: {work.name}, batch {work.batch}, {PRECISIONS[precision]}", work.side**2
    taken = turns(them, work.side)
    rates = ", ".join(
        f"{each} {work.batch * tokens / seconds:.1f}/s" for each, seconds in taken.items()
    )
    factor = "".join(
        f": {taken[each] / taken[OURS]:.2f} ×"
        for each in (MIN_DALLE, DALLE_PYTORCH)
        if each in taken
    )
    yield Row(name, rates + factor, work.target, f"{work.how}, {torch.get_num_threads()} threads")

    read = (work.weights + work.kept) * precision.itemsize
    pace = bandwidth(work.weights * precision.itemsize)
    arithmetic = 2 * (work.rows * work.weights + work.kept)
    reading, multiplying = read / pace * tokens, arithmetic / limit * tokens
    shares = ", ".join(
        f"{each} {reading / seconds:.0%} and {multiplying / seconds:.0%}"
        for each, seconds in taken.items()
    )
    how = (
        f"a step: {read / 1e6:.1f} MB at {pace / 1e9:.1f} GB/s, "
        f"{arithmetic / 1e9:.2f} GFLOP at {limit / 1e9:.0f} GFLOP/s"
    )
    yield Row(f"{name}, share of the bounds by bandwidth and by products", shares, "–", how)
    if work.batch == 1 and precision == torch.float32:
        steps = them[OURS]()
        with torch.no_grad():
            next(steps)
            yield Row(
                f"{name}, where our time goes",
                where(partial(next, steps)),
                "–",
                "the second row of tokens; torch profiler",
            )


@torch.no_grad()
def turns(them: dict[str, Draws], side: int) -> dict[str, float]:
    """Seconds that each model takes for ``side`` rows of tokens, in alternation row by row.

    Each generates one row first to warm up.
    """
    for draws in them.values():
        next(draws())
    running, taken = {name: draws() for name, draws in them.items()}, dict.fromkeys(them, 0.0)
    for _ in range(side):
        for name, steps in running.items():
            start = time.perf_counter()
            next(steps)
            taken[name] += time.perf_counter() - start
    return taken


def bandwidth(size: int) -> float:
    """The highest measured read bandwidth in bytes a second of a matrix of ``size`` bytes.

    The matrix is summed, or multiplied by a vector.
    """
    matrix, vector = torch.ones(max(size // 4096, 1), 1024), torch.ones(1024)
    best = float("inf")
    for _ in range(20):
        for work in (matrix.sum, partial(torch.mv, matrix, vector)):
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
    return matrix.nbytes / best


def in_rows(tokens: Iterator[object], side: int) -> Iterator[object]:
    """Group tokens into rows: yields a list of ``side`` tokens at a time."""
    while row := list(islice(tokens, side)):
        yield row


def seeded_generators(batch: int) -> list[Generator]:
    """Seeded generators, one for each picture."""
    return [Generator().manual_seed(seed) for seed in range(batch)]


def caption(vocabulary: int) -> Tensor:
    """A random caption (1, WORDS) with DALL-E mini's begin and end tokens, without padding."""
    words = torch.randint(4, vocabulary, (1, WORDS), generator=Generator().manual_seed(1))
    words[0, 0], words[0, -1] = 0, 2
    return words


def alone(words: Tensor, batch: int) -> Tokens:
    """The caption (1, WORDS), repeated for a batch, without padding."""
    return Tokens(words.repeat(batch, 1), torch.ones(batch, WORDS, dtype=torch.bool))


# DALL-E mini.


def encoder_decoder(quick: bool, precision: torch.dtype) -> Iterator[tuple[Work, dict[str, Draws]]]:
    """Workloads of DALL-E mini with their models."""
    c, side = replace(dalle_mini.PRESETS["mini"], text_depth=1, depth=4), 16
    if quick:
        sizes = {"vocabulary": 60, "width": 64, "heads": 1, "hidden": 48, "depth": 1}
        sizes |= {"codes": 20, "start": 20, "image_vocabulary": 21}
        c, side = replace(c, **sizes), 4
    torch.manual_seed(0)
    network, words, peer = dalle_mini.DalleMini(c), caption(c.vocabulary), None
    if not MISSING[MIN_DALLE]:
        peer = min_dalle(c)
        state = {
            f"{part}.{name}": tensor
            for part, module in peer.items()
            for name, tensor in module.state_dict().items()
        }
        network.load_state_dict(translate(state, c, Path(MIN_DALLE)))
        check_alike(network.eval(), peer, words)
    for module in (network, *(peer or {}).values()):
        module.eval().requires_grad_(False).to(precision)
    # Without embeddings, and without the key and value matrices of the caption, which run once.
    weights = sum(
        p.numel()
        for name, p in network.decoder.named_parameters()
        if not name.startswith(("codes", "positions"))
    )
    weights -= sum(
        p.numel() for name, p in network.decoder.named_parameters() if "text.keys" in name
    )

    def ours(batch: int) -> Iterator[object]:
        sampler = partial(
            draw,
            temperature=1.0,
            top_k=min(TOP_K, c.codes),
            top_p=1.0,
            generators=seeded_generators(batch),
        )
        return in_rows(network.generate(alone(words, batch), sampler, GUIDANCE), side)

    def theirs(batch: int) -> Iterator[object]:
        return in_rows(draw_min_dalle(peer, words, batch, min(TOP_K, c.codes), c.start), side)

    for batch in BATCHES:
        them: dict[str, Draws] = {OURS: partial(ours, batch)} | (
            {MIN_DALLE: partial(theirs, batch)} if peer else {}
        )
        kept = 2 * batch * 2 * c.depth * c.width * (WORDS + side**2 // 2)
        how = f"{c.width} wide, {c.depth} blocks, {c.codes} codes, guided"
        yield Work("DALL-E mini", how, "≥ 1.5 ×", batch, side, 2 * batch, weights, kept), them


def min_dalle(c: dalle_mini.Config) -> dict[str, Any]:
    """min-dalle's encoder and decoder of these sizes.

    Its import turns gradients off and takes all threads for the whole process; both are restored.
    """
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    module = import_module("min_dalle.min_dalle")
    torch.set_grad_enabled(grad)
    torch.set_num_threads(threads)
    shared = {
        "embed_count": c.width,
        "attention_head_count": c.heads,
        "glu_embed_count": c.hidden,
        "device": "cpu",
    }
    encoder = module.DalleBartEncoder(
        text_vocab_count=c.vocabulary, text_token_count=c.length, layer_count=c.text_depth, **shared
    )
    return {
        "encoder": encoder,
        "decoder": module.DalleBartDecoder(
            image_vocab_count=c.codes, layer_count=c.depth, **shared
        ),
    }


def told_min_dalle(peer: dict[str, Any], words: Tensor, batch: int) -> dict[str, Tensor]:
    """Inputs of min-dalle's decoder: rows without text, then rows with it, and an empty cache."""
    texts = torch.ones(2, PADDED, dtype=torch.int64)
    texts[0, :2], texts[1, :WORDS] = words[0, [0, -1]], words[0]
    decoder, which = peer["decoder"], [0] * batch + [1] * batch
    state = peer["encoder"](texts)[which]
    return {
        "attention_mask": texts[which].not_equal(1)[:, None, None, :],
        "encoder_state": state,
        "attention_state": state.new_zeros(
            decoder.layer_count, 4 * batch, len(decoder.token_indices), decoder.embed_count
        ),
    }


def draw_min_dalle(
    peer: dict[str, Any], words: Tensor, batch: int, top_k: int, start: int
) -> Iterator[object]:
    """min-dalle's own loop (min_dalle.py, ``generate_raw_image_stream``)."""
    inputs, ids = told_min_dalle(peer, words, batch), torch.full((batch, 257), start)
    settings, places = torch.tensor([1.0, top_k, GUIDANCE]), torch.arange(256)
    for i in range(256):
        ids[:, i + 1], inputs["attention_state"] = peer["decoder"].sample_tokens(
            settings=settings, **inputs, prev_tokens=ids[:, [i]], token_index=places[[i]]
        )
        yield None


@torch.no_grad()
def check_alike(network: dalle_mini.DalleMini, peer: dict[str, Any], words: Tensor) -> None:
    """Check that both networks predict the same logits from the same weights and tokens.

    Raises SystemExit if not.
    """
    inputs = told_min_dalle(peer, words, 2)
    ids = torch.randint(0, network.config.codes, (4, 2))
    ours = list[Tensor]()
    ids[0] = network.config.start

    def sampler(logits: Tensor) -> Tensor:
        ours.append(logits)
        return ids[min(len(ours), 3)]

    list(islice(network.generate(alone(words, 2), sampler, 2.0), 4))
    for i, logits in enumerate(ours):
        theirs, _ = peer["decoder"](
            **inputs, prev_tokens=ids[i][:, None], token_index=torch.tensor([i])
        )
        null, cond = theirs[:, 0, : network.config.codes].chunk(2)
        if not torch.allclose(null + 2 * (cond - null), logits, rtol=1e-3, atol=1e-3):
            raise SystemExit(
                f"{MIN_DALLE} gives other logits from the same weights: nothing can be compared"
            )


# DALL-E.


def one_stream(quick: bool, precision: torch.dtype) -> Iterator[tuple[Work, dict[str, Draws]]]:
    """Workloads of DALL-E with their models."""
    configs = (dalle.Config(), dalle.Config(width=1024, depth=4, heads=16))
    tiny = dalle.Config(width=64, depth=1, heads=1, vocabulary=60, codes=20, rows=4, columns=4)
    for c in configs if not quick else (tiny,):
        torch.manual_seed(0)
        network = dalle.DALLE(c).eval().requires_grad_(False).to(precision)
        words, peer = caption(c.vocabulary), None
        if not MISSING[DALLE_PYTORCH]:
            peer = dalle_pytorch(c).eval().requires_grad_(False).to(precision)
        weights = sum(
            p.numel()
            for name, p in network.named_parameters()
            if name.startswith(("blocks", "show"))
        )
        for batch in BATCHES:
            them: dict[str, Draws] = {OURS: partial(draw_ours, network, words, batch)}
            if peer:
                them[DALLE_PYTORCH] = partial(draw_dalle_pytorch, peer, words, batch, True)
            if peer and batch == 1 and c.width < 1024 and precision == torch.float32:
                them[UNCACHED] = partial(draw_dalle_pytorch, peer, words, batch, False)
            kept = batch * 2 * c.depth * c.width * (WORDS + c.rows * c.columns // 2)
            how = f"{c.depth} blocks, {c.codes} codes of {c.vocabulary + c.codes} tokens"
            name = f"DALL-E, {c.width} wide"
            yield Work(name, how, "≥ 5 ×", batch, c.rows, batch, weights, kept), them


def draw_ours(network: dalle.DALLE, words: Tensor, batch: int) -> Iterator[object]:
    """Our token stream; yields after each row of tokens."""
    return stream(
        network,
        Cond(alone(words, batch)),
        seeded_generators(batch),
        top_k=network.config.codes // 2,
    )


def dalle_pytorch(c: dalle.Config) -> nn.Module:
    """dalle-pytorch's model of these sizes, with the hidden width of our feed-forward.

    Its own would be half as wide again.
    """
    with stand_ins(
        [name for name in STOOD_IN_FOR if name.startswith("taming.") or not find_spec(name)]
    ):
        module, blocks = (
            import_module(f"dalle_pytorch.{name}") for name in ("dalle_pytorch", "transformer")
        )
    vae = module.DiscreteVAE(
        image_size=2 * c.rows, num_layers=1, num_tokens=c.codes, codebook_dim=8, hidden_dim=8
    )
    sizes = {"dim": c.width, "depth": c.depth, "heads": c.heads, "dim_head": c.width // c.heads}
    model = module.DALLE(vae=vae, num_text_tokens=c.vocabulary, text_seq_len=PADDED, **sizes)
    hidden = dalle.SwiGLU(c.width).down.in_features
    for feed in model.modules():
        if isinstance(feed, blocks.FeedForward):
            feed.net[0], feed.net[3] = nn.Linear(c.width, 2 * hidden), nn.Linear(hidden, c.width)
    return model


def draw_dalle_pytorch(model: Any, words: Tensor, batch: int, cached: bool) -> Iterator[object]:
    """dalle-pytorch's own loop (dalle_pytorch.py, ``generate_images``) with default sampling."""
    module, side = import_module("dalle_pytorch.dalle_pytorch"), model.transformer.image_fmap_size
    text = nn.functional.pad(words, (0, PADDED - WORDS)).repeat(batch, 1)
    out, cache = text, dict[str, object]() if cached else None
    for _ in range(side):
        for _ in range(side):
            logits = model.forward_with_cond_scale(
                text, out[:, PADDED:], cond_scale=1.0, cache=cache
            )[:, -1, :]
            sampled = module.gumbel_sample(module.top_k(logits, thres=0.5), temperature=1.0)
            ids = sampled - model.num_text_tokens
            out = torch.cat((out, ids[:, None]), -1)
        yield None


if __name__ == "__main__":
    main(rows)
