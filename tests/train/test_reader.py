"""Reader training: strips, characters, CTC decoding, and learning."""

from __future__ import annotations

import math
import random

import pytest
import torch

from kalpana.models.reader import HEIGHT, WIDTH, Config, Reader
from kalpana.train.data_cache import silent
from kalpana.train.reader import ReaderRecipe, ReaderTask, characters
from kalpana.world.crops import strips
from kalpana.world.kinds import signs
from kalpana.world.world import World

RECIPE = ReaderRecipe(
    name="r",
    model={"width": 16, "hidden": 16},
    num_images=50,
    steps=4,
    batch=4,
    lr=1e-3,
    bf16=False,
)


def test_every_word_of_the_world_can_be_written() -> None:
    rng = random.Random(0)
    assert all(
        set(signs.word(rng, split)) <= set(characters())
        for split in ("train", "test")
        for _ in range(200)
    )
    assert len(set(characters())) == len(characters())


def test_a_strip_is_the_box() -> None:
    """In a picture whose red is the column and whose green is the row, the strip's colours are the
    coordinates of the box."""
    line = (torch.arange(64) + 0.5) / 64
    picture = torch.stack((line.expand(64, 64), line[:, None].expand(64, 64), torch.zeros(64, 64)))[
        None
    ]
    (strip,) = strips(picture, [(0.25, 0.5, 0.75, 0.625)], 8, 16)
    assert torch.allclose(strip[0, 0], 0.25 + 0.5 * (torch.arange(16) + 0.5) / 16, atol=1e-3)
    assert torch.allclose(strip[1, :, 0], 0.5 + 0.125 * (torch.arange(8) + 0.5) / 8, atol=1e-3)


def test_the_best_path_is_read_as_ctc_says() -> None:
    """Repeats merge, blanks separate: a a _ a b is "aab"."""

    class Path(Reader):
        def forward(self, strips: torch.Tensor) -> torch.Tensor:
            return 20.0 * torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 1, 2]]), 3).float()

    ((word, sure),) = Path(Config("ab", 8, 8)).words(torch.zeros(1, 3, HEIGHT, WIDTH))
    assert word == "aab" and sure > 0.99


@pytest.mark.slow
def test_it_learns_a_handful_of_words_by_heart() -> None:
    torch.manual_seed(0)
    task = ReaderTask(
        RECIPE.model_copy(update={"model": {"width": 32, "hidden": 32}, "batch": 3}),
        torch.device("cpu"),
        silent,
    )
    batch = task.batch(0)
    optimizer = torch.optim.AdamW(task.model.parameters(), 5e-3)
    truth = ["".join(characters()[n - 1] for n in row if n) for row in batch.numbers.tolist()]
    words = [""]
    # CTC has a plateau first, whose length depends on the processor.
    for step in range(1, 4001):
        optimizer.zero_grad()
        loss, _ = task.loss(batch, torch.Generator(), 0.0)
        loss.backward()
        optimizer.step()
        if step % 100 == 0 and loss.item() < 0.01:
            words = [word for word, _ in task.model.words(batch.strips)]
        if words == truth:
            break
    assert words == truth


def ctc(log_probs: list[list[float]], target: list[int]) -> float:
    """Minus the log probability of all alignments of a word, by the forward recursion (Graves et
    al. 2006, eqs. 6 to 8)."""
    states = [0, *(s for letter in target for s in (letter, 0))]
    before = [math.exp(log_probs[0][s]) if k < 2 else 0.0 for k, s in enumerate(states)]
    for row in log_probs[1:]:
        now = []
        for k, s in enumerate(states):
            skip = k > 1 and s and s != states[k - 2]
            ways = before[k] + (before[k - 1] if k else 0) + (before[k - 2] if skip else 0)
            now.append(ways * math.exp(row[s]))
        before = now
    return -math.log(sum(before[-2:]))


def test_the_loss_by_hand() -> None:
    """The mean over the signs of the CTC loss per character."""
    torch.manual_seed(0)
    task = ReaderTask(RECIPE, torch.device("cpu"), silent)
    task.model.eval()
    batch = task.batch(0)
    rows = task.model(batch.strips).double().log_softmax(-1).tolist()
    words = [row[:n] for row, n in zip(batch.numbers.tolist(), batch.lengths.tolist(), strict=True)]
    wanted = [ctc(row, word) / len(word) for row, word in zip(rows, words, strict=True)]
    loss, metrics = task.loss(batch, torch.Generator(), 0.0)
    assert loss.item() == pytest.approx(sum(wanted) / len(wanted), rel=1e-4) and metrics == {}


@pytest.mark.slow
def test_every_parameter_has_a_gradient() -> None:
    task = ReaderTask(RECIPE, torch.device("cpu"), silent)
    loss, _ = task.loss(task.batch(1), torch.Generator(), 0.0)
    loss.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0
        for p in task.model.parameters()
    )


@pytest.mark.slow
@pytest.mark.parametrize("i", range(4))
def test_strips_of_the_world_hold_the_ink(i: int) -> None:
    """The strip has pixels of the ink's colour and of the background's."""
    scene = World(3, kind="text").scene(i)
    task = ReaderTask(RECIPE, torch.device("cpu"), silent)
    strip = task._written([scene], None).strips[0]
    (sign,) = (
        scene_object.sprite
        for scene_object in scene.objects
        if isinstance(scene_object.sprite, signs.Sign)
    )
    ink = torch.tensor(signs.INKS[sign.ink]).view(3, 1, 1) * 2 - 1
    assert ((strip - ink).abs().amax(0) < 0.35).float().mean() > 0.02 and strip.std() > 0.1
