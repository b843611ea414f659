"""CLIP training: texts of a batch, gradient caching, several processes, and learning."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from kalpana.models.clip import CLIP, Config
from kalpana.train.clip import (
    CLIPBatch,
    CLIPRecipe,
    CLIPTask,
    cached_gradients,
    described,
    misdescribed,
)
from kalpana.train.data_cache import silent
from kalpana.train.recipe import read_recipe
from kalpana.types import KalpanaError, Tokens
from kalpana.world.lexicon import keywords, lexicon
from kalpana.world.world import World

MODEL = {
    "side": 32, "patch": 8, "width": 32, "depth": 1, "heads": 2, "hidden": 64,
    "text_width": 32, "text_depth": 1, "text_heads": 2, "text_hidden": 64, "features": 32,
}  # fmt: skip
RECIPE = CLIPRecipe(
    name="c",
    model=MODEL,
    num_images=40,
    steps=4,
    batch=8,
    lr=1e-3,
    bf16=False,
    held_out_styles=("noto",),
)


@pytest.fixture(scope="module")
def task() -> CLIPTask:
    torch.manual_seed(0)
    return CLIPTask(RECIPE, torch.device("cpu"), silent)


@pytest.mark.slow
def test_a_batch_has_two_true_texts_for_each_picture_and_some_that_are_true_of_none(
    task: CLIPTask,
) -> None:
    batch = task.batch(3)
    assert batch.pixels.shape == (8, 3, 32, 32) and batch.own.shape == (8, 2)
    assert len(batch.texts) == len(batch.tokens.ids) == 8 * 2 + 4
    texts = [task.tokenizer.decode(row) for row in batch.tokens.ids]
    assert all(text.isascii() for text in texts[:8]) and not any(
        text.isascii() for text in texts[8:16]
    )
    true = (batch.own[:, :, None] == batch.texts).any(1)
    assert (
        true[torch.arange(8), torch.arange(8)].all()
        and true[torch.arange(8), torch.arange(8) + 8].all()
    )
    numbers = {text: number for text, number in zip(texts, batch.texts.tolist(), strict=True)}
    assert len(numbers) == len(set(batch.texts.tolist()))
    again = task.batch(3)
    assert torch.equal(batch.pixels, again.pixels) and torch.equal(
        batch.tokens.ids, again.tokens.ids
    )


def test_cards_are_a_share_of_the_batch_and_cards_of_one_concept_share_their_words(
    task: CLIPTask,
) -> None:
    dealt = CLIPTask(
        RECIPE.model_copy(update={"object_augment_share": 0.5, "batch": 120}),
        torch.device("cpu"),
        silent,
    )
    batch, (drawn, concepts) = dealt.batch(2), dealt.cards(60, 2)
    assert (
        batch.pixels.shape == (120, 3, 32, 32)
        and torch.equal(batch.pixels[60:], drawn)
        and batch.own.shape == (120, 2)
    )
    texts = [dealt.tokenizer.decode(row) for row in batch.tokens.ids]
    assert all(text.isascii() for text in texts[60:120]) and not any(
        text.isascii() for text in texts[180:240]
    )
    own = dict[str, tuple[int, ...]]()
    for concept, numbers in zip(concepts, batch.own[60:].tolist(), strict=True):
        assert own.setdefault(concept, tuple(numbers)) == tuple(numbers)
    assert len(own) < 60  # some concepts occur twice


def test_a_style_that_is_left_out_is_never_shown(task: CLIPTask) -> None:
    styles = [task.world.scene(i).style for i in range(RECIPE.num_images)]
    assert "noto" in styles and {i for i, style in enumerate(styles) if style != "noto"} == set(
        task.rows
    )


def test_keywords_are_of_the_thing_and_only_of_things_alone_in_their_own_colours() -> None:
    rng, loose = random.Random(0), 0
    for i in range(400):
        scene = World(0).scene(i)
        text = described(scene, "objects", "en", rng)
        concept = scene.groups[0].concept if scene.groups else ""
        words = (
            {lexicon()[concept].en, *lexicon()[concept].synonyms_en, *keywords()[concept]["en"]}
            if concept
            else set()
        )
        if (
            set(text.split(", ")) & set(keywords()[concept]["en"] if concept else ())
            and set(text.split(", ")) <= words
        ):
            loose += 1
            assert len(scene.objects) == 1 and scene.objects[0].color is None
    assert loose > 5


def test_what_is_wrong_is_never_what_is_right() -> None:
    for i in range(60):
        scene, rng = World(0, kind="everything").scene(i), random.Random(i)
        wrong = misdescribed(scene, "everything", rng)
        assert wrong is None or wrong != described(
            scene, "everything", "en", random.Random(i), strictly=True
        )


@pytest.mark.parametrize("size", [1, 3, 8])
def test_chunks_change_neither_the_loss_nor_the_gradients(task: CLIPTask, size: int) -> None:
    batch, rng = task.batch(0), torch.Generator()
    task.model.zero_grad()
    whole, _ = task.loss(batch, rng, 0.0)
    whole.backward()
    wanted = [p.grad.clone() for p in task.model.parameters() if p.grad is not None]
    task.model.zero_grad()
    task.recipe = RECIPE.model_copy(update={"grad_cache_chunk": size})
    parts, _ = task.loss(batch, rng, 0.0)
    parts.backward()
    task.recipe = RECIPE
    assert parts.item() == pytest.approx(whole.item(), abs=1e-6)
    for a, b in zip(
        wanted, (p.grad for p in task.model.parameters() if p.grad is not None), strict=True
    ):
        assert torch.allclose(a, b, atol=2e-6 * max(a.abs().max().item(), 1))


def test_chunks_keep_nothing_of_the_way() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.GELU(), torch.nn.Linear(64, 2))
    x = torch.randn(6, 4)

    def kept(size: int) -> int:
        saved: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            cached_gradients(layer, (x,), size)
        return sum(saved)

    assert kept(2) < kept(0) / 4


def _one_of_two(rank: int, folder: str, batch: CLIPBatch, state: dict[str, Tensor]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = CLIP(Config(**MODEL))
    model.load_state_dict(state)
    task = CLIPTask.__new__(CLIPTask)
    task.recipe, task.model = RECIPE, model
    loss, _ = task.loss(batch, torch.Generator(), 0.0)
    loss.backward()
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= 2  # as DDP does
    if rank == 0:
        torch.save(
            {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters()}},
            f"{folder}/grads.pt",
        )
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_whole_batch(
    task: CLIPTask, tmp_path: Path
) -> None:
    batch = task.batch(1)
    b = len(batch.pixels) // 2

    def half(k: int) -> CLIPBatch:
        mine = slice(k * b, (k + 1) * b)
        m = 2 * b * 2  # captions of pictures; hard negatives follow
        wrong = (len(batch.texts) - m) // 2
        rows = [
            *range(k * b, (k + 1) * b),
            *range(2 * b + k * b, 2 * b + (k + 1) * b),
            *range(m + wrong * k, m + wrong * (k + 1)),
        ]
        return CLIPBatch(
            batch.pixels[mine],
            Tokens(batch.tokens.ids[rows], batch.tokens.mask[rows]),
            batch.texts[rows],
            batch.own[mine],
        )

    task.model.zero_grad()
    loss, _ = task.loss(batch, torch.Generator(), 0.0)
    loss.backward()
    context = mp.get_context("spawn")
    both = [
        context.Process(
            target=_one_of_two, args=(k, str(tmp_path), half(k), task.model.state_dict())
        )
        for k in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    found = torch.load(tmp_path / "grads.pt", weights_only=True)
    assert found.pop("loss").item() == pytest.approx(loss.item(), abs=1e-6)
    for name, p in task.model.named_parameters():
        assert torch.allclose(found[name], p.grad, atol=1e-6), name


@pytest.mark.slow
def test_it_learns_its_batch_and_is_scored_between_nothing_and_all(task: CLIPTask) -> None:
    batch = task.batch(0)
    optimizer = torch.optim.AdamW(task.model.parameters(), 3e-3)
    first = task.loss(batch, torch.Generator(), 0.0)[0].item()
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = task.loss(batch, torch.Generator(), 0.0)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first
    with torch.inference_mode():
        scores, sheet = task.evaluate()
    assert scores.keys() == {"dev_r1_en", "dev_r1_hi", "dev_swap"} and all(
        0 <= score <= 1 for score in scores.values()
    )
    assert sheet.shape == (64, 3, 32, 32)


def test_accumulate_would_part_the_pairs(tmp_path: Path) -> None:
    file = tmp_path / "clip.yaml"
    file.write_text("name: c\nfamily: clip\nsteps: 1\nbatch: 8\nlr: 1e-3\ngrad_accum: 2\n")
    with pytest.raises(KalpanaError, match="write grad_cache_chunk instead"):
        read_recipe(file)
