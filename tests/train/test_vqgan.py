"""VQGAN training: gradients of both networks, discriminator start, codebook, shipped file."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F

from kalpana.hub.weights import load_module, read_weights, save_weights
from kalpana.metrics import ssim
from kalpana.models.detector import Config as DetectorConfig
from kalpana.models.detector import Detector
from kalpana.models.discriminator import adaptive_gan_weight
from kalpana.models.reader import Config as ReaderConfig
from kalpana.models.reader import Reader
from kalpana.models.vqgan import VQGAN, Config
from kalpana.train import data_cache
from kalpana.train.checkpoint import State
from kalpana.train.data_cache import silent
from kalpana.train.loop import make_optimizers, make_task, train, train_step
from kalpana.train.losses import ocr_loss, perceptual_loss, reconstruction_loss
from kalpana.train.recipe import read_recipe
from kalpana.train.sign_augmentation import MOST
from kalpana.train.task import autocast
from kalpana.train.vqgan import VQGANBatch, VQGANRecipe, VQGANTask
from kalpana.types import KalpanaError
from kalpana.world.crops import strips

SHIPPED = Path(__file__).parents[2] / "weights/verifier-a/detector.safetensors"
READS = Path(__file__).parents[2] / "weights/verifier-a/reader.safetensors"
MODEL = {"widths": (8, 8), "depth": 1, "groups": 4, "latent": 8, "codebook": (32, 4)}
RECIPE = VQGANRecipe(
    name="q", family="vqgan", model=MODEL, num_images=8, steps=10, batch=4, lr=3e-3, warmup=2,
    bf16=False, log_every=1, sample_every=100,
)  # fmt: skip


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(b: int, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(b, 3, side, side, generator=rng(seed)) * 2 - 1


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector: random features suffice."""
    torch.manual_seed(5)
    network = Detector(
        DetectorConfig(
            classes=3, concepts=3, embedding=4, fine=8, coarse=8, deep=8, depth=(1, 1, 1, 1)
        )
    )
    path = tmp_path_factory.mktemp("eyes") / "detector.safetensors"
    save_weights(path, network, "detector", network.config, {})
    return path


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained reader."""
    torch.manual_seed(6)
    network = Reader(ReaderConfig("abc", 8, 8))
    path = tmp_path_factory.mktemp("reads") / "reader.safetensors"
    save_weights(path, network, "reader", network.config, {})
    return path


def build(eyes: Path | None = None, **fields: object) -> VQGANTask:
    torch.manual_seed(0)
    return VQGANTask(
        RECIPE.model_copy(update={"perceptual_net": eyes, **fields}), torch.device("cpu"), silent
    )


def floats(pixels: Tensor) -> Tensor:
    return pixels / 127.5 - 1


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [p.grad for p in module.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "codes", [{}, {"unit": False}, {"fsq": (5, 4, 3)}], ids=["unit", "euclidean", "fsq"]
)
def test_each_player_learns_from_its_own_loss_and_from_nothing_else(
    codes: dict[str, object], eyes: Path
) -> None:
    """The gradients are those of two losses, each computed alone for the weights of one network."""
    task = build(eyes, model=MODEL | codes, lecam_weight=0.2)
    task.loss(task.batch(0), rng(), 0.0)  # initialises the codebook
    network, judge, batch = task.model.network, task.model.judge, task.batch(7)
    for p in judge.parameters():
        p.data *= 3  # so that its logits are not near 0
    task.model.anchors.copy_(torch.tensor([0.3, -0.2]))
    before = deepcopy(task.model.state_dict())
    loss, _ = task.loss(batch, rng(), 0.9)
    loss.backward()
    after = task.model.anchors.clone()

    task.model.load_state_dict(before)
    x = floats(batch.pixels)
    drawn = network(x)
    rebuilt = reconstruction_loss(drawn.pixels - x) + 0.5 * perceptual_loss(
        task.eyes, drawn.pixels, x
    )
    against = -judge(drawn.pixels).mean()
    mine = (
        rebuilt
        + 0.25 * drawn.loss
        + 0.1 * adaptive_gan_weight(rebuilt, against, network.last) * against
    )
    real, fake = judge(x), judge(drawn.pixels.detach())
    held = F.relu(real + 0.2).square().mean() + F.relu(0.3 - fake).square().mean()
    yours = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2 + 0.2 * held
    assert torch.allclose(loss, mine + yours)
    for module, own in ((network, mine), (judge, yours)):
        wanted = torch.autograd.grad(own, list(module.parameters()), retain_graph=True)
        for (name, p), gradient in zip(module.named_parameters(), wanted, strict=True):
            assert p.grad is not None and torch.allclose(
                p.grad, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item()
            ), name
    assert all(p.grad is None for p in task.eyes.parameters())
    assert torch.allclose(
        after, torch.stack((0.99 * 0.3 + 0.01 * real.mean(), 0.99 * -0.2 + 0.01 * fake.mean()))
    )


@pytest.mark.slow
def test_before_its_start_the_judge_is_not_even_asked(eyes: Path) -> None:
    task = build(eyes, gan_start=0.3, gan_weight=0.2)
    for p in task.model.judge.parameters():
        p.data.fill_(float("nan"))
    task.loss(task.batch(0), rng(), 0.0)
    batch, network = task.batch(2), task.model.network
    x = floats(batch.pixels)
    drawn = network(x)
    wanted = (
        reconstruction_loss(drawn.pixels - x)
        + 0.5 * perceptual_loss(task.eyes, drawn.pixels, x)
        + 0.25 * drawn.loss
    )
    loss, metrics = task.loss(batch, rng(), 0.29)
    assert loss == wanted and set(metrics) == {"psnr", "commit", "unlike", "used"}
    loss.backward()
    assert all(gradient is None for gradient in gradients(task.model.judge))
    assert all(
        gradient is not None and gradient.isfinite().all() for gradient in gradients(network)
    )
    assert task.model.anchors.tolist() == [0, 0]
    assert "judge" in task.loss(batch, rng(), 0.3)[1]
    never = build(gan_weight=0.0)
    assert "judge" not in never.loss(never.batch(9), rng(), 0.9)[1]


def test_a_share_of_a_batch_are_sheets_of_signs_and_their_places_are_known() -> None:
    mixed, plain = build(sign_page_share=0.5), build()
    pictures, boxes = data_cache.pages(RECIPE.seed, 4)
    signs = {picture.tobytes(): box.tolist() for picture, box in zip(pictures, boxes, strict=True)}
    batch, other = mixed.batch(0), plain.batch(0)
    found = [signs.get(picture.numpy().tobytes()) for picture in batch.pixels]
    assert [box is not None for box in found] == [False, False, True, True]
    assert (
        batch.boxes.tolist() == [box or [[0.0] * 4] * MOST for box in found]
        and not other.boxes.any()
    )
    assert (
        not any(picture.numpy().tobytes() in signs for picture in other.pixels)
        and len(batch.pixels) == len(other.pixels) == 4
    )


@pytest.mark.slow
def test_what_is_misread_counts_where_a_sign_is_and_nowhere_else(reads: Path) -> None:
    """Compared with strips cut out one by one and the reader's own forward pass; the boxes are
    jittered by ``rng``."""
    task = build(sign_page_share=0.5, ocr_net=reads, ocr_weight=0.3)
    net = task.reader
    assert net is not None
    x, y = pictures(3, 64).requires_grad_(), pictures(3, 64, seed=1).requires_grad_()
    none, signs = [0.0] * 4, [[0.1, 0.2, 0.7, 0.5], [0.25, 0.5, 1.0, 0.75], [0.0, 0.75, 0.5, 1.0]]
    boxes = torch.tensor([[none, none], [signs[0], none], signs[1:]])
    off = (torch.rand(3, 4, generator=rng(7)) * 2 - 1) / 12
    wanted = []
    for sign, k, shift in zip(signs, (1, 2, 2), off.tolist(), strict=True):
        sides = 2 * [sign[2] - sign[0], sign[3] - sign[1]]
        box = tuple(edge + part * side for edge, part, side in zip(sign, shift, sides, strict=True))
        one, two = (strips(pixels[k : k + 1].detach(), [box]) for pixels in (x, y))
        p, q = (net(strip).softmax(-1)[0] for strip in (one, two))
        apart = []
        for depth in range(1, 6):
            u, v = (net.look[:depth](strip) for strip in (one, two))
            apart.append(
                (F.normalize(u, dim=1, eps=0.01) - F.normalize(v, dim=1, eps=0.01))
                .square()
                .sum(1)
                .mean()
            )
        wanted.append((p * (p.log() - q.log())).sum(-1).mean() + torch.stack(apart).mean())
    found = ocr_loss(net, y, x, boxes, rng(7))
    assert torch.allclose(found, torch.stack(wanted).mean(), rtol=1e-4) and found > 0
    found.backward()
    assert (
        x.grad is None
        and y.grad is not None
        and not y.grad[0].any()
        and y.grad[1].any()
        and y.grad[2].any()
    )
    assert all(p.grad is None for p in net.parameters())
    assert ocr_loss(net, x, x, boxes, rng(7)).item() == pytest.approx(0, abs=1e-6)
    assert ocr_loss(net, y, x, torch.zeros(3, 2, 4), rng(7)) == 0

    batch = task.batch(0)
    _, plain = build(sign_page_share=0.5).loss(batch, rng(1), 0.0)
    network, pixels = task.model.network, floats(batch.pixels)
    loss, metrics = task.loss(batch, rng(1), 0.0)
    assert "misread" not in plain and metrics["misread"] > 0
    drawn = network(pixels)
    assert loss.item() > reconstruction_loss(drawn.pixels - pixels).item()


@pytest.mark.slow
def test_the_judge_moves_the_last_layer_by_its_share_of_what_all_else_does() -> None:
    task = build()
    task.loss(task.batch(0), rng(), 0.0)
    for p in task.model.judge.parameters():
        p.data *= 5
    before, pixels, found = deepcopy(task.model.state_dict()), task.batch(0).pixels, []
    task.recipe = RECIPE.model_copy(update={"gan_weight": 0.3})
    for progress in (0.0, 0.9):
        task.model.load_state_dict(before)
        loss, metrics = task.loss(VQGANBatch(pixels, torch.zeros(4, MOST, 4)), rng(), progress)
        found.append(torch.autograd.grad(loss, task.model.network.last)[0])
    assert metrics["balance"] > 0
    assert (found[1] - found[0]).norm().item() == pytest.approx(
        0.3 * found[0].norm().item(), rel=0.02
    )


@pytest.mark.slow
def test_codes_start_once_and_always_the_same() -> None:
    one, two = build(), build()
    assert not one.model.started
    for task in (one, two):
        task.loss(task.batch(0), rng(), 0.0)
    assert one.model.started
    book = one.model.network.quantiser
    assert torch.equal(book.vectors, two.model.network.quantiser.vectors)
    pixels = torch.cat([one.batch(step).pixels for step in range(8)])
    found = one.model.network(floats(pixels))
    assert len(found.indices.unique()) == 32  # after k-means every code is the nearest of some cell
    other = deepcopy(book)
    torch.nn.init.normal_(other.vectors, generator=rng(3))
    assert found.loss < 0.5 * other(found.latents).loss
    # From now on they are moving averages of the latents assigned to them.
    batch, other = one.batch(1), deepcopy(book)
    drawn = one.model.network(floats(batch.pixels))
    one.loss(batch, rng(4), 0.0)
    other.learn(drawn.latents, drawn.indices, rng(4))
    assert torch.equal(book.vectors, other.vectors) and torch.equal(book.ages, other.ages)


@pytest.mark.slow
def test_a_judge_that_learns_much_does_not_keep_the_network_from_learning() -> None:
    """The gradient of each network is clipped by itself."""
    task = build(gan_start=0.0, grad_clip=1e-3, lecam_weight=50.0)
    state = State(
        task.model, deepcopy(task.model.state_dict()), make_optimizers(task.model, task.recipe)
    )
    metrics = train_step(task, state, task.recipe, task.batch(0))
    assert metrics["grad"] > 1e-2
    for module in (task.model.network, task.model.judge):
        norm = torch.stack(
            [p.grad.norm() for p in module.parameters() if p.grad is not None]
        ).norm()
        assert norm.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings(  # torch's own, while it compiles
    "ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning"
)
def test_blocks_compile_whole_for_pictures_of_one_size() -> None:
    """Traced without a compiler: one graph for each shape of a block, and the same gradients."""
    plain, traced, made = build(), build(), list[int]()

    def record(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        made.append(1)
        return graph.forward

    torch._dynamo.reset()
    blocks = [module for module in traced.model.modules() if hasattr(module, "compile_dynamic")]
    for block in blocks:
        block.compile(dynamic=False, fullgraph=True, backend=record)
    for step in range(2):
        for task in (plain, traced):
            task.model.zero_grad()
            task.loss(task.batch(step), rng(step), 0.0)[0].backward()
        for one, two in zip(
            gradients(plain.model.network), gradients(traced.model.network), strict=True
        ):
            assert (
                one is not None
                and two is not None
                and torch.allclose(one, two, rtol=1e-4, atol=1e-6)
            )
    assert 1 <= len(made) <= len(blocks)


@pytest.mark.slow
def test_ten_steps_are_four_and_six_where_the_judge_comes_in_between(
    eyes: Path, tmp_path: Path
) -> None:
    """Bit for bit, also with accumulated gradients."""
    recipe = RECIPE.model_copy(
        update={"perceptual_net": eyes, "steps": 12, "gan_start": 0.5, "grad_accum": 2}
    )
    for run, stops in (("whole", (10,)), ("parts", (4, 10))):
        for stop in stops:
            assert train(recipe, tmp_path / run, until=stop, echo=lambda line: None) is None
    one, two = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "parts"))
    assert one.keys() == two.keys() and any(name.startswith("model.judge") for name in one)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one["model.started"] and one["model.anchors"].abs().min() > 0


@pytest.fixture(scope="module")
def run(eyes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Weights of a short run, and its losses at the steps before the discriminator starts."""
    lines: list[str] = []
    recipe = RECIPE.model_copy(
        update={"perceptual_net": eyes, "steps": 60, "gan_start": 0.8, "ema_decay": 0.9}
    )
    weights = train(recipe, tmp_path_factory.mktemp("run"), echo=lines.append)
    assert weights is not None and any("balance" in line for line in lines)
    return weights, [
        float(line.split("loss ")[1].split()[0])
        for line in lines
        if "  loss " in line and "balance" not in line
    ]


@pytest.mark.slow
def test_it_learns(run: tuple[Path, list[float]]) -> None:
    weights, losses = run
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    scores = read_weights(weights, "vqgan").provenance["scores"]
    assert set(scores) == {"dev_psnr", "dev_ssim", "dev_used", "dev_perplexity"}
    assert (
        scores["dev_used"] > 0.5
        and 4 < scores["dev_perplexity"] <= 32
        and 0 < scores["dev_ssim"] < 1
        and scores["dev_psnr"] > 10
    )


@pytest.mark.slow
def test_the_network_alone_is_shipped_and_turns_pictures_into_tokens_and_back(
    run: tuple[Path, list[float]],
) -> None:
    weights = read_weights(run[0], "vqgan")
    assert weights.config == VQGAN(Config(**MODEL)).config.__dict__
    net = load_module(run[0], "vqgan")
    assert weights.tensors.keys() == net.state_dict().keys()
    x = pictures(3, 64)
    tokens = net.encode(x)
    assert tokens.shape == (3, 8, 8) and tokens.min() >= 0 and tokens.max() < 32
    assert torch.allclose(net.decode(tokens), net(x).pixels, atol=1e-5)
    assert torch.equal(net.encode(x[1:2]), tokens[1:2])


@pytest.mark.slow
def test_a_run_goes_on_from_weights_and_their_codes(
    run: tuple[Path, list[float]], tmp_path: Path
) -> None:
    """With a learning rate near 0 the weights stay those of the first run, except for one update of
    the codebook's moving averages (decay 0.99)."""
    train(
        RECIPE.model_copy(update={"init": run[0], "lr": 1e-12}),
        tmp_path,
        until=1,
        echo=lambda line: None,
    )
    before, after = (
        read_weights(run[0], "vqgan").tensors,
        load_file(tmp_path / "checkpoint.safetensors"),
    )
    for name, value in before.items():
        if name not in ("quantiser.sizes", "quantiser.ages"):
            assert torch.allclose(
                value,
                after[f"model.network.{name}"],
                atol=0.05 if name == "quantiser.vectors" else 1e-6,
            ), name


@pytest.mark.slow
def test_where_codes_are_kept_the_decoder_alone_learns(
    run: tuple[Path, list[float]], tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(
        update={"init": run[0], "freeze_encoder": True, "steps": 4, "gan_start": 0.5}
    )
    weights = train(recipe, tmp_path, echo=lambda line: None)
    assert weights is not None
    before, after = (read_weights(path, "vqgan").tensors for path in (run[0], weights))
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if not name.startswith("decoder.")} <= kept and not any(
        name.startswith("decoder.") for name in kept
    )


def test_pictures_that_look_alike_to_a_detector() -> None:
    """The squared distance of unit vectors is 2 - 2 cos; only the first picture gets a gradient."""
    net = load_module(SHIPPED, "detector")
    x, y = pictures(2).requires_grad_(), pictures(2, seed=1).requires_grad_()
    apart = perceptual_loss(net, y, x)
    fine, other = net.stem(y), net.stem(x)
    stages = [(fine, other), (net.eighth(fine), net.eighth(other))]
    stages.append((net.sixteenth(stages[1][0]), net.sixteenth(stages[1][1])))
    assert torch.allclose(
        apart,
        torch.stack([(2 - 2 * F.cosine_similarity(a, b)).mean() for a, b in stages]).mean(),
        atol=1e-5,
    )
    apart.backward()
    assert x.grad is None and y.grad is not None and y.grad.abs().sum() > 0
    assert perceptual_loss(net, x, x) == 0


def test_structural_similarity() -> None:
    """Compared with scipy's Gaussian of 11 px, away from the edges; with a closed form for flat
    pictures; and 1 for equal pictures."""
    a = pictures(2, 24)[..., :17]
    b = (a + 0.4 * pictures(2, 24, seed=1)[..., :17]).clamp(-1, 1)

    def mean(x: Tensor) -> Tensor:
        blurred = [
            [torch.from_numpy(gaussian_filter(c.double().numpy(), 1.5, truncate=3.5)) for c in one]
            for one in x
        ]
        return torch.stack([torch.stack(one) for one in blurred])[..., 5:-5, 5:-5]

    m, n = mean(a), mean(b)
    va, vb, both = mean(a * a) - m * m, mean(b * b) - n * n, mean(a * b) - m * n
    wanted = (
        (2 * m * n + 0.0004) * (2 * both + 0.0036) / ((m * m + n * n + 0.0004) * (va + vb + 0.0036))
    )
    with autocast(torch.device("cpu")):
        assert torch.allclose(ssim(a, b).double(), wanted.mean((1, 2, 3)), atol=1e-4)
    flat = [torch.full((1, 3, 16, 16), level) for level in (0.5, -0.25)]
    assert ssim(*flat).item() == pytest.approx(
        (2 * 0.5 * -0.25 + 0.0004) / (0.25 + 0.0625 + 0.0004), abs=1e-4
    )
    assert torch.allclose(ssim(a, a), torch.ones(2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gan_start: 2", "'gan_start'"),
        ("gan_weight: -1", "'gan_weight'"),
        ("perceptual_weight: much", "'perceptual_weight'"),
        ("lecam_weight: -0.1", "'lecam_weight'"),
        ("discriminator: 3", "'discriminator': unknown field"),
    ],
)
def test_recipe_errors_name_the_field(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"name: q\nfamily: vqgan\nsteps: 1\nbatch: 1\nlr: 1\n{text}\n", encoding="utf-8"
    )
    with pytest.raises(KalpanaError, match=message) as error:
        read_recipe(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"perceptual_net": Path("nowhere/detector.safetensors")},
         "nowhere/detector.safetensors cannot be read"),
        ({"model": {"codebok": 3}}, "'model.codebok': unknown field: did you mean 'codebook'"),
        ({"model": MODEL | {"codebook": (100_000, 4)}},
         "'batch': 8 times 4 pictures of 256 tokens are too few to .*: try 49"),
        ({"model": MODEL | {"widths": (6, 6)}}, "groups is 4"),
        ({"model": MODEL | {"stem": 3}}, "'model': .*128 px"),
        ({"model": MODEL | {"encoder": False}}, "'model': it needs an encoder"),
        ({"ocr_net": READS}, "'ocr_net': there is nothing to read: set 'sign_page_share'"),
        ({"freeze_encoder": True}, "'freeze_encoder': name the weights .* as 'init'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_said_before_anything_is_drawn(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(KalpanaError, match=message) as error:
        make_task(
            RECIPE.model_copy(update={"num_images": 10**9, **fields}), torch.device("cpu"), silent
        )
    assert "\n" not in str(error.value)


def test_features_are_a_detectors(run: tuple[Path, list[float]]) -> None:
    with pytest.raises(KalpanaError, match="holds weights of family 'vqgan', not 'detector'"):
        build(run[0])
