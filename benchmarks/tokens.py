"""Image tokens a second: our DALL-E mini beside min-dalle, our DALL-E beside dalle-pytorch, and all beside what this machine allows.

All draw the same pictures in one process, by turns, a row of tokens each; reading the caption is part of it. DALL-E mini is the published
one with a third of its blocks. min-dalle's decoder has the same random weights and is asked as its own loop asks it; both look at a
picture told and untold, in two rows. dalle-pytorch has our width, heads, blocks and feed-forward, and its own norms, token shift and
head, which says words as well; its cache is on, and once it is off, as it is by default.

A share of the bound is the least time a token could take over the time it takes. It takes at least as long as reading the weights, and
what is kept of earlier tokens, at the pace at which a matrix as large as the weights is read; and as long as its products, at the pace
of large square ones. The first bounds few pictures at once, the second many.

dalle-pytorch is imported with stand-ins for what only its ready-made tokenizers of pictures use, which are never called here.
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

OURS, MIN_DALLE, DALLE_PYTORCH, UNCACHED = (
    "ours",
    "min-dalle",
    "dalle-pytorch",
    "dalle-pytorch without its cache",
)
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
        "pip install einops requests tqdm && pip install --no-deps axial-positional-embedding dalle-pytorch rotary-embedding-torch",
    ),
}
MISSING = {
    name: [module for module in modules if not find_spec(module)]
    for name, (modules, _) in NEEDED.items()
}
STOOD_IN_FOR = ("omegaconf", "pkg_resources", "taming", "taming.models", "taming.models.vqgan")
BATCHES = (1, 16)
WORDS, PADDED = 16, 64  # tokens of the caption, and with the padding, which both peers read too
GUIDANCE, TOP_K = 16.0, 256  # as min-dalle has them by default
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16 weights"}

Draws = Callable[[], Iterator[object]]  # begins pictures, and yields after each row of their tokens


@dataclass(frozen=True)
class Work:
    """What is drawn: ``batch`` pictures of ``side`` x ``side`` tokens, seen in ``rows`` rows. A step deals with so many ``weights`` and, on
    average, with so many numbers that are ``kept`` of the words and of earlier tokens."""

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
    """Tokens a second; which share that is of either bound; and, of one picture, where our time goes."""
    name, tokens = f"tokens: {work.name}, batch {work.batch}, {PRECISIONS[precision]}", work.side**2
    taken = turns(them, work.side)
    now = ", ".join(
        f"{each} {work.batch * tokens / seconds:.1f}/s" for each, seconds in taken.items()
    )
    factor = "".join(
        f": {taken[each] / taken[OURS]:.2f} ×"
        for each in (MIN_DALLE, DALLE_PYTORCH)
        if each in taken
    )
    yield Row(name, now + factor, work.target, f"{work.how}, {torch.get_num_threads()} threads")

    read, pace = (
        (work.weights + work.kept) * precision.itemsize,
        bandwidth(work.weights * precision.itemsize),
    )
    arithmetic = 2 * (work.rows * work.weights + work.kept)
    reading, multiplying = read / pace * tokens, arithmetic / limit * tokens
    shares = ", ".join(
        f"{each} {reading / seconds:.0%} and {multiplying / seconds:.0%}"
        for each, seconds in taken.items()
    )
    how = f"a step: {read / 1e6:.1f} MB at {pace / 1e9:.1f} GB/s, {arithmetic / 1e9:.2f} GFLOP at {limit / 1e9:.0f} GFLOP/s"
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
    """Seconds that each takes for ``side`` rows of tokens, in all of which all have a turn, after one to warm up."""
    for draws in them.values():
        next(draws())
    going, taken = {name: draws() for name, draws in them.items()}, dict.fromkeys(them, 0.0)
    for _ in range(side):
        for name, steps in going.items():
            start = time.perf_counter()
            next(steps)
            taken[name] += time.perf_counter() - start
    return taken


def bandwidth(size: int) -> float:
    """The most bytes a second seen in reading a matrix of this size in bytes, by summing it up or multiplying it by a vector."""
    matrix, vector = torch.ones(max(size // 4096, 1), 1024), torch.ones(1024)
    best = float("inf")
    for _ in range(20):
        for work in (matrix.sum, partial(torch.mv, matrix, vector)):
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
    return matrix.nbytes / best


def in_rows(tokens: Iterator[object], side: int) -> Iterator[object]:
    """Yields after each ``side`` tokens."""
    while row := list(islice(tokens, side)):
        yield row


def luck(batch: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in range(batch)]


def caption(vocabulary: int) -> Tensor:
    """A random caption (1, WORDS), with the begin and end tokens of DALL-E mini and without padding."""
    words = torch.randint(4, vocabulary, (1, WORDS), generator=Generator().manual_seed(1))
    words[0, 0], words[0, -1] = 0, 2
    return words


def alone(words: Tensor, batch: int) -> Tokens:
    """The caption for each of a batch, which has none of another length."""
    return Tokens(words.repeat(batch, 1), torch.ones(batch, WORDS, dtype=torch.bool))


# DALL-E mini.


def encoder_decoder(quick: bool, precision: torch.dtype) -> Iterator[tuple[Work, dict[str, Draws]]]:
    c, side = replace(dalle_mini.PRESETS["mini"], text_depth=1, depth=4), 16
    if quick:
        c, side = (
            replace(
                c,
                vocabulary=60,
                width=64,
                heads=1,
                hidden=48,
                depth=1,
                codes=20,
                start=20,
                image_vocabulary=21,
            ),
            4,
        )
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
    # Not embeddings, and not the matrices that look at the caption, which they do once.
    weights = sum(
        p.numel()
        for name, p in network.decoder.named_parameters()
        if not name.startswith(("codes", "positions"))
    )
    weights -= sum(
        p.numel() for name, p in network.decoder.named_parameters() if "text.keys" in name
    )

    def ours(batch: int) -> Iterator[object]:
        dice = partial(
            draw, temperature=1.0, top_k=min(TOP_K, c.codes), top_p=1.0, generators=luck(batch)
        )
        return in_rows(network.generate(alone(words, batch), dice, GUIDANCE), side)

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
    """min-dalle's encoder and decoder, of these sizes. As it is imported it turns gradients off and takes all threads, for the process."""
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
    """What its decoder is told: rows of no text, then rows of the text, and room for what it keeps."""
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
    """Its own loop (min_dalle.py, ``generate_raw_image_stream``)."""
    told, ids = told_min_dalle(peer, words, batch), torch.full((batch, 257), start)
    settings, places = torch.tensor([1.0, top_k, GUIDANCE]), torch.arange(256)
    for i in range(256):
        ids[:, i + 1], told["attention_state"] = peer["decoder"].sample_tokens(
            settings=settings, **told, prev_tokens=ids[:, [i]], token_index=places[[i]]
        )
        yield None


@torch.no_grad()
def check_alike(network: dalle_mini.DalleMini, peer: dict[str, Any], words: Tensor) -> None:
    """Raises SystemExit where two networks with the same weights, drawing the same tokens, say something else of the next."""
    told, ids, heard = (
        told_min_dalle(peer, words, 2),
        torch.randint(0, network.config.codes, (4, 2)),
        list[Tensor](),
    )
    ids[0] = network.config.start

    def dice(logits: Tensor) -> Tensor:
        heard.append(logits)
        return ids[min(len(heard), 3)]

    list(islice(network.generate(alone(words, 2), dice, 2.0), 4))
    for i, logits in enumerate(heard):
        said, _ = peer["decoder"](
            **told, prev_tokens=ids[i][:, None], token_index=torch.tensor([i])
        )
        untold, asked = said[:, 0, : network.config.codes].chunk(2)
        if not torch.allclose(untold + 2 * (asked - untold), logits, rtol=1e-3, atol=1e-3):
            raise SystemExit(
                f"{MIN_DALLE} says something else by the same weights: nothing can be compared"
            )


# DALL-E.


def one_stream(quick: bool, precision: torch.dtype) -> Iterator[tuple[Work, dict[str, Draws]]]:
    configs = (dalle.Config(), dalle.Config(width=1024, depth=4, heads=16))
    for c in (
        configs
        if not quick
        else (dalle.Config(width=64, depth=1, heads=1, vocabulary=60, codes=20, rows=4, columns=4),)
    ):
        torch.manual_seed(0)
        network, words = (
            dalle.DALLE(c).eval().requires_grad_(False).to(precision),
            caption(c.vocabulary),
        )
        peer = (
            None
            if MISSING[DALLE_PYTORCH]
            else dalle_pytorch(c).eval().requires_grad_(False).to(precision)
        )
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
            yield (
                Work(f"DALL-E, {c.width} wide", how, "≥ 5 ×", batch, c.rows, batch, weights, kept),
                them,
            )


def draw_ours(network: dalle.DALLE, words: Tensor, batch: int) -> Iterator[object]:
    return stream(network, Cond(alone(words, batch)), luck(batch), top_k=network.config.codes // 2)


def dalle_pytorch(c: dalle.Config) -> nn.Module:
    """Its transformer of these sizes, with a feed-forward of ours instead of one that is half as wide again."""
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
    """Its own loop (dalle_pytorch.py, ``generate_images``), with what it draws by unless told otherwise."""
    module, side = import_module("dalle_pytorch.dalle_pytorch"), model.transformer.image_fmap_size
    text = nn.functional.pad(words, (0, PADDED - WORDS)).repeat(batch, 1)
    out, cache = text, dict[str, object]() if cached else None
    for _ in range(side):
        for _ in range(side):
            logits = model.forward_with_cond_scale(
                text, out[:, PADDED:], cond_scale=1.0, cache=cache
            )[:, -1, :]
            ids = (
                module.gumbel_sample(module.top_k(logits, thres=0.5), temperature=1.0)
                - model.num_text_tokens
            )
            out = torch.cat((out, ids[:, None]), -1)
        yield None


if __name__ == "__main__":
    main(rows)
