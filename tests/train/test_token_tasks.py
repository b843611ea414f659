"""Training of the token models: losses, learning, agreement with the samplers, and clear errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Generator, Tensor
from torch.nn import functional as F

from kalpana.hub.weights import fingerprint, load_module, read_weights, save_weights
from kalpana.models import dalle
from kalpana.models.vqgan import VQGAN, Config
from kalpana.pipelines.tokens import caption, masked, stream
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache
from kalpana.train.data_cache import silent
from kalpana.train.loop import make_task, train
from kalpana.train.recipe import Recipe, read_recipe, recipe_class
from kalpana.train.token_tasks import TokenBatch, token_dropout
from kalpana.types import Cond, KalpanaError, Tokens
from kalpana.world.world import World

CPU = torch.device("cpu")
# A picture is 4 x 4 tokens of 32 codes.
CODEC = Config(widths=(8, 8, 8, 8), depth=1, groups=4, latent=8, codebook=(32, 4))
MODELS: dict[str, dict[str, Any]] = {
    "dalle": {"width": 32, "depth": 2, "heads": 2},
    "maskgit": {"width": 32, "depth": 2, "heads": 2},
    "dalle-mini": {"width": 32, "depth": 2, "heads": 2, "hidden": 64, "text_depth": 1},
}


@pytest.fixture(scope="module")
def vqgan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained VQGAN with an initialised codebook."""
    torch.manual_seed(5)
    network = VQGAN(CODEC)
    pictures = data_cache.floats(data_cache.pictures(World(0), 32), CPU)
    with torch.no_grad():
        network.quantiser.start(network.encode_latents(pictures), Generator().manual_seed(0))  # type: ignore[operator]
    path = tmp_path_factory.mktemp("vqgan") / "vqgan.safetensors"
    save_weights(path, network, "vqgan", network.config, {})
    return path


def recipe(family: str, vqgan: Path, **fields: Any) -> Recipe:
    common = {
        "name": "t",
        "family": family,
        "model": MODELS[family],
        "vqgan": vqgan,
        "num_images": 32,
        "steps": 10,
        "batch": 4,
        "lr": 2e-3,
    }
    kind = recipe_class(family)
    assert kind is not None
    return kind(**{**common, "warmup": 2, "log_every": 5, "sample_every": 100, **fields})


def build(family: str, vqgan: Path, **fields: object) -> Any:
    torch.manual_seed(0)
    return make_task(recipe(family, vqgan, **fields), CPU, silent)


def codec(path: Path) -> VQGAN:
    return load_module(path, "vqgan")


def perturb(network: torch.nn.Module) -> None:
    """Adds noise to every parameter: heads of zeros would hide mistakes."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn_like(p))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.slow
def test_a_pool_of_codes_is_what_the_vqgan_says_of_the_worlds_pictures(
    vqgan: Path, tmp_path: Path
) -> None:
    network, world = codec(vqgan), World(0)
    found = data_cache.codes(network, vqgan, world, 32, CPU)
    assert found.dtype == np.uint16 and found.shape == (32, 4, 4)
    wanted = network.encode(world.images(range(32))).numpy()
    assert (found == wanted).mean() > 0.9  # the pool is computed in bf16 if supported
    assert len(np.unique(found)) > 16
    for name, value in network.state_dict().items():
        if name.startswith("encoder"):
            value.neg_()
    other = tmp_path / "other.safetensors"
    save_weights(other, network, "vqgan", network.config, {})
    assert (data_cache.codes(network, other, world, 32, CPU) != found).any()
    # The pool is cached under the name of its weights.
    assert (data_cache.codes(network, vqgan, world, 32, CPU) == found).all()


@pytest.mark.slow
def test_a_batch_is_pictures_in_tokens_with_their_captions_worded_anew(vqgan: Path) -> None:
    task, world = build("dalle", vqgan), World(0)
    codes, tokenizer = data_cache.codes(codec(vqgan), vqgan, world, 32, CPU), Tokenizer.load()
    seen = []
    for step in range(16):  # two epochs
        pairs, batch = task.lessons.captions(step), task.batch(step)
        assert [tokenizer.decode(row) for row in batch.tokens.ids] == [
            tokenizer.decode(tokenizer.encode([w]).ids[0]) for _, w in pairs
        ]
        assert (batch.image.numpy() == codes[[i for i, _ in pairs]]).all()
        seen += pairs
    assert sorted(i for i, _ in seen) == sorted([*range(32), *range(32)])
    assert all(words in (world.describe(i, 0)[0], world.describe(i, 1)[0]) for i, words in seen)
    assert len({words for _, words in seen}) > 50


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_five_and_five_steps_equal_ten_bit_for_bit(
    family: str, vqgan: Path, tmp_path: Path
) -> None:
    asked = recipe(family, vqgan, optimizer="muon", grad_accum=2)
    for run, stops in (("whole", (10,)), ("parts", (5, 10))):
        for stop in stops:
            weights = train(asked, tmp_path / run, until=stop, echo=lambda line: None)
    assert weights is not None
    for file in ("checkpoint.safetensors", weights.name):
        one, two = (load_file(tmp_path / run / file) for run in ("whole", "parts"))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    saved = read_weights(weights, family)
    other = read_weights(tmp_path / "parts" / weights.name, family)
    assert saved.provenance["scores"] == other.provenance["scores"]
    assert (tmp_path / "whole/step-000010.png").read_bytes() == (
        tmp_path / "parts/step-000010.png"
    ).read_bytes()
    assert saved.provenance["vqgan"] == {"vqgan.safetensors": fingerprint(vqgan)}
    assert saved.provenance["scores"]["dev_image"] < 5.1
    network = load_module(weights, family)
    assert network.config.codes == 32 and network.config.vocabulary == 8192  # type: ignore[union-attr]

    smaller = VQGAN(replace(CODEC, codebook=(16, 4)))
    save_weights(tmp_path / "other.safetensors", smaller, "vqgan", smaller.config, {})
    again = recipe(family, tmp_path / "other.safetensors", init=weights)
    with pytest.raises(KalpanaError, match=r"field 'init'.*size mismatch") as error:
        train(again, tmp_path / "again", echo=lambda line: None)
    assert "\n" not in str(error.value)


def random_batch(b: int = 4) -> TokenBatch:
    """Random pictures and captions."""
    ids = torch.randint(4, 8000, (b, 8), generator=seeded(2))
    mask = torch.arange(8) < torch.tensor([8, 5, 3, 6])[:, None]
    ids[:, 0], ids[torch.arange(b), mask.sum(1) - 1] = 1, 2
    return TokenBatch(
        torch.randint(0, 32, (b, 4, 4), generator=seeded(3)),
        Tokens(ids * mask, mask),
    )


def test_dalles_loss_is_of_the_next_token_by_hand(vqgan: Path) -> None:
    """Compared with streams without padding, row by row and token by token, in both orders and
    without the caption."""
    task, batch = build("dalle", vqgan, image_first_prob=0.5, caption_dropout=0.5), random_batch()
    net = task.model
    perturb(net)
    seed = next(
        s
        for s in range(99)
        if self_orders(seeded(s)) == {(False, False), (False, True), (True, False), (True, True)}
    )
    rng = seeded(seed)
    swapped, dropped = torch.rand(4, generator=rng) < 0.5, torch.rand(4, generator=rng) < 0.5
    text: list[Tensor] = []
    image: list[Tensor] = []
    for k in range(4):
        own = batch.tokens.ids[k : k + 1, : int(batch.tokens.mask[k].sum())]
        cells = F.pad(batch.image[k : k + 1].flatten(1), (1, 0), value=32)  # 1 17
        if swapped[k]:  # dropped or not: a caption after its picture is a target
            cache = net.start_text(batch.image[k : k + 1])
            text += [
                -net.step(cache, own[:, j : j + 1])[0].log_softmax(-1)[own[0, j + 1]]
                for j in range(own.shape[1] - 1)
            ]
            logits = net(Cond(Tokens(own, own > 0)), batch.image[k : k + 1], torch.tensor([True]))[
                1
            ].flatten(0, 2)
            image += list(-logits.log_softmax(-1).gather(1, cells[0, 1:, None])[:, 0])
        else:
            cond = Cond() if dropped[k] else Cond(Tokens(own, own > 0))
            cache = net.start_image(cond, 1)
            image += [
                -net.step(cache, cells[:, j : j + 1])[0].log_softmax(-1)[cells[0, j + 1]]
                for j in range(16)
            ]
            if not dropped[k]:
                logits = net(cond, batch.image[k : k + 1])[0][0]
                text += list(-logits.log_softmax(-1).gather(1, own[0, 1:, None])[:, 0])
    loss, metrics = task.loss(batch, seeded(seed), 0.0)
    words, cells = torch.stack(text).mean().item(), torch.stack(image).mean().item()
    assert loss.item() == pytest.approx(words / 8 + 7 / 8 * cells, rel=1e-4)
    assert metrics == pytest.approx(
        {"image": cells / math.log(2), "text": words / math.log(2)}, rel=1e-4
    )


def self_orders(rng: Generator) -> set[tuple[bool, bool]]:
    """For each of four rows, whether it is swapped and whether its caption is dropped."""
    swapped, dropped = torch.rand(4, generator=rng) < 0.5, torch.rand(4, generator=rng) < 0.5
    return set(zip(swapped.tolist(), dropped.tolist(), strict=True))


def test_maskgits_loss_is_of_the_hidden_cells_by_hand(vqgan: Path) -> None:
    task, batch = build("maskgit", vqgan, caption_dropout=0.5), random_batch()
    perturb(task.model)
    rng = seeded(6)
    hidden, null = dalle.random_mask(4, task.model.config, rng), torch.rand(4, generator=rng) < 0.5
    assert null.any() and not null.all() and hidden.any() and not hidden.all()
    wrong = []
    for k in range(4):
        cond = (
            Cond()
            if null[k]
            else Cond(Tokens(batch.tokens.ids[k : k + 1], batch.tokens.mask[k : k + 1]))
        )
        chance = task.model(cond, torch.where(hidden[k], 32, batch.image[k])[None])[0].softmax(-1)
        wrong += [
            -chance[i, j, batch.image[k, i, j]].log() for i, j in hidden[k].nonzero().tolist()
        ]
    loss, metrics = task.loss(batch, seeded(6), 0.0)
    assert loss.item() == pytest.approx(torch.stack(wrong).mean().item(), rel=1e-4)
    assert metrics["image"] == pytest.approx(loss.item() / math.log(2), rel=1e-5)


def test_dalle_minis_loss_is_of_the_next_cell_by_hand(vqgan: Path) -> None:
    """Each logit is recomputed from the cells before it; a dropped caption is an empty text."""
    task, batch = build("dalle-mini", vqgan, caption_dropout=0.5), random_batch()
    perturb(task.model)
    null = torch.rand(4, generator=seeded(1)) < 0.5
    assert null.any() and not null.all()
    wrong = []
    for k in range(4):
        ids, mask = batch.tokens.ids[k : k + 1], batch.tokens.mask[k : k + 1]
        tokens = (
            Tokens(torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool))
            if null[k]
            else Tokens(ids, mask)
        )
        decoder, text = task.model.decoder, task.model.encoder(tokens)
        seen, bias = decoder.look(text), torch.where(tokens.mask, 0.0, -1e4)[:, None, None]
        cells = F.pad(batch.image[k].flatten(), (1, 0), value=32)
        for j in range(16):
            logits = decoder(cells[None, : j + 1], seen, bias)[0, -1]
            wrong.append(logits.logsumexp(0) - logits[cells[j + 1]])
    loss, metrics = task.loss(batch, seeded(1), 0.0)
    assert loss.item() == pytest.approx(torch.stack(wrong).mean().item(), rel=1e-4)
    assert metrics["image"] == pytest.approx(loss.item() / math.log(2), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dalle", "maskgit", "dalle-mini"])
def test_what_each_cell_shows_is_asked_aside_and_less_and_less(family: str, vqgan: Path) -> None:
    """The loss is the main loss plus the weighted auxiliary one; the logits of a cell do not depend
    on its token."""
    task, plain = build(family, vqgan, aux_weight=0.3, num_images=16), build(family, vqgan)
    perturb(task.model)
    shared = {
        name: value for name, value in task.model.state_dict().items() if "aux_head" not in name
    }
    plain.model.load_state_dict(shared)
    batch = task.batch(5)
    assert batch.layout.shape == (len(batch.image), 4, 4, 4) and batch.layout[:, 0].max() > 0
    for progress in (0.0, 0.5, 0.9):
        loss, metrics = task.loss(batch, seeded(4), progress)
        without, _ = plain.loss(batch, seeded(4), progress)
        assert loss.item() == pytest.approx(
            without.item() + 0.3 * (1 - progress) * metrics["layout"], rel=1e-5
        )
    loss.backward()
    weight = next(
        value for name, value in task.model.named_parameters() if name.endswith("aux_head.weight")
    )
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    if family != "maskgit":  # which attends in both directions

        def answer(image: Tensor) -> Tensor:
            if family == "dalle-mini":
                return task.model.loss_with_aux(batch.tokens, image.flatten(1))[1]
            return task.model.loss_with_aux(Cond(batch.tokens), image)[1]

        other = batch.image.clone()
        other[:, 2, 1] = (other[:, 2, 1] + 1) % 32
        same = (answer(batch.image) == answer(other)).all(-1).all(0)  # 16
        assert same[:10].all() and not same[10:].any()


def test_cells_are_hidden_from_those_after_them_in_a_share_of_the_pictures() -> None:
    assert token_dropout(torch.zeros(4, 3, 3), 0.0, seeded()) is None
    hidden = token_dropout(torch.zeros(4000, 6, 6), 0.5, seeded())
    assert hidden is not None and hidden.shape == (4000, 6, 6)
    part = hidden.float().mean((1, 2))
    assert 0.47 < (part > 0).float().mean() < 0.53 and part[
        part > 0
    ].mean().item() == pytest.approx(0.5, abs=0.03)
    for low in (0.0, 0.25, 0.5, 0.75):  # uniform
        assert 0.1 < ((part > low) & (part <= low + 0.25)).float().mean() < 0.15
    every = token_dropout(torch.zeros(400, 6, 6), 1.0, seeded())
    assert every is not None and every.flatten(1).any(1).float().mean() > 0.9


def test_by_the_end_nothing_is_hidden_any_more(
    vqgan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, given = build("dalle", vqgan, token_dropout=0.8), list[float]()
    monkeypatch.setattr(
        "kalpana.train.token_tasks.token_dropout",
        lambda image, prob, rng: given.append(prob),
    )
    for progress in (0.0, 0.5, 0.9):
        task.loss(random_batch(), seeded(), progress)
    assert given == pytest.approx([0.8, 0.4, 0.08])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dalle", "dalle-mini"])
def test_what_is_hidden_is_asked_for_and_changes_nothing_that_comes_after(
    family: str, vqgan: Path
) -> None:
    """With all tokens hidden, the loss of each cell is that of a model that sees only the caption;
    the hidden tokens still are the targets."""
    task = build(family, vqgan, token_dropout=1.0)
    perturb(task.model)
    image, rows = random_batch().image, torch.ones(4, 4, 4, dtype=torch.bool)
    tokens = random_batch().tokens

    def wrong(image: Tensor, hidden: Tensor | None) -> float:
        if family == "dalle":
            return task.model.loss(Cond(tokens), image, hidden=hidden).image.item()
        return task.model.loss(
            tokens, image.flatten(1), hidden=None if hidden is None else hidden.flatten(1)
        ).item()

    with torch.no_grad():
        blank = torch.full_like(image, 32)  # the mark
        logits = (
            task.model(Cond(tokens), blank)[1]
            if family == "dalle"
            else task.model(tokens, blank.flatten(1))
        )
        wanted = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), image.flatten()).item()
        assert wrong(image, rows) == pytest.approx(wanted, rel=1e-5)
        assert wrong(image, torch.zeros_like(rows)) == pytest.approx(wrong(image, None), rel=1e-6)
        assert abs(wrong(image, rows) - wrong(image, None)) > 1e-3
    loss, _ = task.loss(random_batch(), seeded(3), 0.0)
    assert loss.isfinite()


def learn(task: Any, batch: TokenBatch, what: str) -> None:
    """Overfit the batch until the metric ``what``, "image" or "text", is small."""
    optimizer, left = torch.optim.Adam(task.model.parameters(), 1e-2), [math.inf]
    while max(left[-3:]) > 0.02:  # bits per token, of which the first token may have them all
        assert len(left) < 400
        loss, metrics = task.loss(batch, seeded(len(left)), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        left.append(metrics[what])
    task.model.eval()


def draw_dalle(task: Any, batch: TokenBatch) -> Tensor:
    *_, drawn = stream(task.model, Cond(batch.tokens), [seeded()] * 4, temperature=0)
    return drawn.ids


def draw_maskgit(task: Any, batch: TokenBatch) -> Tensor:
    *_, drawn = masked(task.model, Cond(batch.tokens), [seeded()] * 4, steps=4, temperature=0)
    return drawn.ids


def draw_mini(task: Any, batch: TokenBatch) -> Tensor:
    return torch.stack(
        list(task.model.generate(batch.tokens, lambda logits: logits.argmax(-1))), 1
    ).view(4, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "draw"),
    [("dalle", draw_dalle), ("maskgit", draw_maskgit), ("dalle-mini", draw_mini)],
)
def test_a_batch_learned_by_heart_is_drawn_again(
    family: str, draw: Callable[[Any, TokenBatch], Tensor], vqgan: Path
) -> None:
    first = {"image_first_prob": 0.0} if family == "dalle" else {}
    task = build(family, vqgan, caption_dropout=0.0, **first)
    batch = task.batch(0)
    assert len({tuple(row.flatten().tolist()) for row in batch.image}) == 4
    learn(task, batch, "image")
    assert torch.equal(draw(task, batch), batch.image)


@pytest.mark.slow
def test_pictures_before_captions_teach_captions(vqgan: Path) -> None:
    task = build(
        "dalle", vqgan, image_first_prob=1.0, caption_dropout=1.0
    )  # after a picture no caption is dropped
    batch = task.batch(0)
    learn(task, batch, "text")
    captions = caption(task.model, batch.image, [seeded()] * 4, temperature=0)
    rows = [row[mask].tolist() for row, mask in zip(captions.ids, captions.mask, strict=True)]
    assert rows == [
        row[mask].tolist() for row, mask in zip(batch.tokens.ids, batch.tokens.mask, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_dropped_captions_leave_no_trace(family: str, vqgan: Path) -> None:
    first = {"image_first_prob": 0.0} if family == "dalle" else {}
    task, batch = build(family, vqgan, caption_dropout=1.0, **first), random_batch()
    perturb(task.model)
    other = replace(
        batch, tokens=Tokens(batch.tokens.ids.flip(0) * batch.tokens.mask, batch.tokens.mask)
    )
    other.tokens.ids[:, 0], other.tokens.ids[torch.arange(4), batch.tokens.mask.sum(1) - 1] = 1, 2
    assert not torch.equal(other.tokens.ids, batch.tokens.ids)
    assert torch.equal(task.loss(batch, seeded(), 0.0)[0], task.loss(other, seeded(), 0.0)[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_a_fresh_network_needs_every_bit_and_draws_a_sheet(family: str, vqgan: Path) -> None:
    """5 bits for one of 32 codes, 13 for one of 8,192 text tokens; a caption changes the scores of
    a network with random weights."""
    task = build(family, vqgan)
    task.model.eval()
    with torch.inference_mode():
        scores, sheet = task.evaluate()
        perturb(task.model)
        other, _ = task.evaluate()
    bits = {"dev_image": 5.0, "dev_image_alone": 5.0} | (
        {"dev_text": 13.0, "dev_text_alone": 13.0} if family == "dalle" else {}
    )
    assert scores == pytest.approx(bits, abs=0.2 if family == "dalle-mini" else 1e-4)
    assert sheet.shape == (16, 3, 128, 128) and sheet.isfinite().all()
    assert all(
        other[f"{name}_alone"] != value
        for name, value in other.items()
        if not name.endswith("alone")
    )


@pytest.mark.slow
def test_held_out_bits_are_the_mean_over_all_tokens(vqgan: Path) -> None:
    """Parts with more text tokens weigh more: each token counts once."""
    lessons, dev = build("dalle", vqgan).lessons, World(0, "dev")

    def number(part: TokenBatch) -> tuple[Tensor, Tensor]:
        return part.tokens.ids[part.tokens.mask].double().mean(), part.tokens.mask.sum()

    tokens = Tokenizer.load().encode([dev.describe(i)[0] for i in range(512)])
    assert lessons.held_out(number) == pytest.approx(
        tokens.ids[tokens.mask].double().mean().item() / math.log(2)
    )
    image = torch.cat([part.image for part in lessons.dev]).numpy()
    assert (image == data_cache.codes(codec(vqgan), vqgan, dev, 512, CPU)).all()


@pytest.mark.slow
@pytest.mark.filterwarnings(  # torch's own, while it compiles
    "ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning"
)
@pytest.mark.parametrize("family", MODELS)
def test_every_block_compiles_whole_for_captions_of_any_length(family: str, vqgan: Path) -> None:
    """Traced without a compiler: one graph for all lengths, and the same loss."""
    plain, traced = (build(family, vqgan) for _ in range(2))
    made: list[int] = []

    def record(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        made.append(1)
        return graph.forward

    for task in (plain, traced):
        perturb(task.model)
    torch._dynamo.reset()
    blocks = [module for module in traced.model.modules() if hasattr(module, "compile_dynamic")]
    assert len(blocks) == (3 if family == "dalle-mini" else 2)
    for block in blocks:
        block.compile(dynamic=True, fullgraph=True, backend=record)
    for length in (8, 6, 7, 4):
        batch = random_batch()
        batch = replace(
            batch, tokens=Tokens(batch.tokens.ids[:, :length], batch.tokens.mask[:, :length])
        )
        one, two = (task.loss(batch, seeded(), 0.0)[0] for task in (plain, traced))
        two.backward()
        assert torch.allclose(one, two, rtol=1e-5)
    assert 1 <= len(made) <= len(blocks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "field 'vqgan': it is missing: weights of .*vqgan.safetensors"),
        ("vqgan: v.safetensors\nimage_first_prob: 1.5", "'image_first_prob'"),
        ("vqgan: v.safetensors\ncaption_dropout: -1", "'caption_dropout'"),
        ("vqgan: v.safetensors\nswop: 0.5", "'swop': unknown field"),
    ],
)
def test_recipe_errors_name_the_field(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"name: t\nfamily: dalle\nsteps: 1\nbatch: 1\nlr: 1\n{text}\n", encoding="utf-8"
    )
    with pytest.raises(KalpanaError, match=message) as error:
        read_recipe(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "model", "message"),
    [
        (
            "dalle",
            {"codes": 16},
            "'model.codes': it is 16, where .* give 32: leave it out",
        ),
        (
            "maskgit",
            {"columns": 8},
            "'model.columns': it is 8, where .* give 4",
        ),
        (
            "dalle-mini",
            {"image_length": 256},
            "'model.image_length': it is 256, where .* give 16",
        ),
        (
            "dalle-mini",
            {"vocabulary": 50264},
            "'model.vocabulary': it is 50264, where .* give 8192",
        ),
        ("dalle", {"heads": 3}, "'model.heads': width 32 is not a multiple of 4 x 3"),
        ("maskgit", {"text_depth": 2}, "'model.text_depth': unknown field"),
        ("dalle-mini", {"width": "wide"}, "'model.width'"),
    ],
)
def test_models_that_do_not_fit_their_tokenizers_are_errors(
    family: str, model: dict[str, Any], message: str, vqgan: Path
) -> None:
    """Raised before anything is rendered."""
    with pytest.raises(KalpanaError, match=message) as error:
        build(family, vqgan, model=MODELS[family] | model, num_images=10**9)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_tokenizers_that_do_not_fit_are_errors(vqgan: Path, tmp_path: Path) -> None:
    path = tmp_path / "vqgan.safetensors"
    for config, message in (
        (
            Config(widths=(8, 8), depth=1, groups=4, latent=8, encoder=False),
            "'vqgan': .* needs an encoder",
        ),
        (
            Config(stem=3, widths=(8, 8), depth=1, groups=4, latent=8),
            "'vqgan': .* divides 128 px, not 6",
        ),
        (
            Config(widths=(8, 8), depth=1, groups=4, latent=8, fsq=(41, 41, 41)),
            "'vqgan': .* has 68921 codes: give one of 65536 at most",
        ),
    ):
        network = VQGAN(config)
        save_weights(path, network, "vqgan", network.config, {})
        with pytest.raises(KalpanaError, match=message):
            build("dalle", path, num_images=10**9)
    with pytest.raises(KalpanaError, match=r"nowhere.safetensors cannot be read"):
        build("dalle", tmp_path / "nowhere.safetensors")
    with pytest.raises(KalpanaError, match="holds weights of family 'vqgan', not 'dalle'"):
        train(recipe("dalle", vqgan, init=vqgan), tmp_path / "run", echo=lambda line: None)
