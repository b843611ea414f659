"""VQGAN+CLIP: prompt syntax, cutouts, loss terms, every canvas, optimisation, and resumed runs."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Generator, Tensor

from kalpana.hub.card import write_hashes
from kalpana.hub.weights import save_weights
from kalpana.media import decode_video, to_images, to_pixels
from kalpana.models import vae, vqgan
from kalpana.models.clip import unit
from kalpana.pipelines.image_parameters import (
    Canvas,
    Codes,
    Latents,
    Palette,
    Pixels,
    lattice,
    load_canvas,
    perlin,
)
from kalpana.pipelines.vqgan_clip import (
    ClampWithGrad,
    Prompt,
    Run,
    Settings,
    advance,
    cutouts,
    distance,
    parse,
    seeded_generator,
    shown,
    timelapse,
    variation,
    vqgan_clip,
)
from kalpana.types import KalpanaError, Result, Step
from kalpana.understand.encoder import Encoder
from kalpana.world.sheet import SIDE
from kalpana.world.world import World

TINY = vqgan.Config(widths=(8, 16), depth=1, groups=4, latent=8, codebook=(32, 4))
QUANTISERS = {"unit": TINY, "plain": replace(TINY, unit=False), "fsq": replace(TINY, fsq=(5, 4, 3))}
PLAIN = Settings(
    steps=1, cutouts=1, least=1, flip=0, turn=0, shift=0, jitter=0, noise=0, ema=0, tv=0
)
QUICK = Settings(steps=16, cutouts=4)
PROMPT = "a red castle"


def tiny_vqgan(config: vqgan.Config = TINY) -> vqgan.VQGAN:
    torch.manual_seed(0)
    return vqgan.VQGAN(config).eval().requires_grad_(False)


def tiny_vae() -> vae.VAE:
    torch.manual_seed(0)
    net = vae.VAE(vae.Config(latent=6, fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    return net.eval().requires_grad_(False)


def canvases() -> dict[str, Canvas]:
    return {
        "vqgan": Codes(tiny_vqgan(), "a"),
        "vqgan, plain": Codes(tiny_vqgan(QUANTISERS["plain"]), "b"),
        "vqgan, fsq": Codes(tiny_vqgan(QUANTISERS["fsq"]), "c"),
        "vqgan, not straight": Codes(tiny_vqgan(), "a", straight=False),
        "vae": Latents(tiny_vae(), "d"),
        "pixels": Pixels(),
        "palette": Palette(colours=5, cell=4),
    }


CANVASES = canvases()


def result(stream: Iterator[Step]) -> Result:
    *_, last = stream
    assert last.result is not None
    return last.result


def draw(
    clip: Encoder,
    canvas: Canvas = CANVASES["vqgan"],
    prompt: str | tuple[Prompt, ...] = PROMPT,
    **fields: Any,
) -> Image.Image:
    fields = {"settings": QUICK, "seed": 3, "size": (32, 32)} | fields
    return result(vqgan_clip(prompt, clip, canvas, **fields)).outputs[0].image


def picture(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
    """A picture of smooth random colours."""
    noise = torch.rand(1, 3, 4, 4, generator=Generator().manual_seed(seed)) * 2 - 1
    return to_images(F.interpolate(noise, (height, width), mode="bilinear"))[0]


def cosine(clip: Encoder, image: Image.Image, prompt: str = PROMPT) -> float:
    return float(clip.images([image])[0] @ clip.texts([prompt])[0])


# Prompts.


@pytest.mark.parametrize(
    "text, prompts",
    [
        ("a castle:1 | fog:0.5 | text:-1", [("a castle", 1), ("fog", 0.5), ("text", -1)]),
        ("a castle", [("a castle", 1)]),
        ("a castle|fog", [("a castle", 1), ("fog", 1)]),
        ("  a  castle : +2.  |\nfog:.25", [("a castle", 2), ("fog", 0.25)]),
        ("a clock at 10:30", [("a clock at 10:30", 1)]),
        ("a clock at 10:30 :2 | at 10:30: -1", [("a clock at 10:30", 2), ("at 10:30", -1)]),
        ("10:30:0.5", [("10:30", 0.5)]),
        ("format 16:9", [("format 16:9", 1)]),
        ("level 3:-2 | level 3:2.0", [("level 3", -2), ("level 3", 2)]),
        ("a sign: open", [("a sign: open", 1)]),
        ("a sign: open:0", [("a sign: open", 0)]),
        ("एक किला:०.५ | कोहरा", [("एक किला", 0.5), ("कोहरा", 1)]),
        ("http://kalpana", [("http://kalpana", 1)]),
        ("inf:inf | nan:nan", [("inf:inf", 1), ("nan:nan", 1)]),
    ],
)
def test_prompts_are_read(text: str, prompts: list[tuple[str, float]]) -> None:
    assert [(each.what, each.weight) for each in parse(text)] == prompts


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "prompt 1 of 1, '', has no words"),
        ("a castle | | fog", "prompt 2 of 3, '', has no words"),
        ("a castle | :2", "prompt 2 of 2, ':2', has no words"),
        ("a castle:", "'a castle:', ends in a colon: write its weight there"),
        ("a castle:" + "9" * 400, "the weight of 'a castle' is inf: write a number"),
    ],
)
def test_prompts_that_cannot_be_read_say_why_in_one_line(text: str, message: str) -> None:
    with pytest.raises(KalpanaError) as error:
        parse(text)
    assert message in str(error.value) and "\n" not in str(error.value)


# Cutouts.


def test_without_augmentation_a_cutout_is_the_picture_resized() -> None:
    pixels = torch.rand(1, 3, 48, 48, generator=seeded_generator(0, 0)) * 2 - 1
    for side, resized in {
        48: pixels,
        24: F.avg_pool2d(pixels, 2),
        16: F.avg_pool2d(pixels, 3),
        64: F.interpolate(pixels, (64, 64), mode="bilinear"),
    }.items():
        cuts = cutouts(pixels, side, replace(PLAIN, cutouts=3), seeded_generator(0, 1))
        assert cuts.shape == (3, 3, side, side)
        torch.testing.assert_close(cuts, resized.expand(3, -1, -1, -1), atol=2e-5, rtol=0)


def test_cutouts_of_one_colour_are_of_one_colour() -> None:
    pixels = torch.tensor([0.3, -0.8, 0.1])[None, :, None, None].expand(1, 3, 40, 24)
    cuts = cutouts(pixels, 16, Settings(jitter=0, noise=0), seeded_generator(1, 1))
    torch.testing.assert_close(cuts, pixels[:, :, :16, :16].expand(32, -1, -1, -1))
    tinted = cutouts(pixels, 16, Settings(noise=0), seeded_generator(1, 1))
    assert (
        tinted.flatten(2).std(-1).max() < 1e-5
        and (tinted - cuts).abs().amax((1, 2, 3)).min() > 1e-4
    )
    assert (tinted - cuts).abs().max() < 0.31  # three changes of a tenth, of values up to 0.8
    noisy = cutouts(pixels, 16, Settings(jitter=0), seeded_generator(1, 1)) - cuts
    spread = noisy.flatten(1).std(1)
    assert 0.16 < spread.max() < 0.21 and spread.min() < 0.04 and abs(noisy.mean()) < 0.01


def test_cutouts_lie_inside_are_as_large_as_asked_and_half_of_them_are_mirrored() -> None:
    width, height, side, n = 96, 64, 8, 400
    x = (torch.arange(width) + 0.5)[None].expand(height, width)
    y = (torch.arange(height) + 0.5)[:, None].expand(height, width)
    pixels = torch.stack((x, y, x + y))[None]  # values are coordinates: they show the position
    settings = replace(PLAIN, cutouts=n, least=0.25)
    cuts = cutouts(pixels, side, replace(settings, flip=0.5), seeded_generator(2, 1))
    across = cuts[:, 0, 0].diff(dim=-1).mean(1) * side
    down = cuts[:, 1, :, 0].diff(dim=-1).mean(1) * side
    # Not exact: at the edge the border pixel is repeated.
    torch.testing.assert_close(across.abs(), down, atol=0.1, rtol=0)
    assert 16 <= down.min() < 18 and 62 < down.max() <= 64.01
    assert abs(down.mean() - 40) < 3 and 0.4 < (across < 0).float().mean() < 0.6
    middle = cuts[:, :2].mean((2, 3))
    assert (middle - down[:, None] / 2).min() > -0.1 and (
        middle + down[:, None] / 2 - torch.tensor([width, height])
    ).max() < 0.1
    torch.testing.assert_close(cuts[:, 2], cuts[:, 0] + cuts[:, 1], atol=1e-3, rtol=0)
    smaller = cutouts(pixels, side, replace(settings, power=4), seeded_generator(2, 1))
    # The mean of u⁴ is 1/5 for u uniform in [0, 1].
    assert smaller[:, 1, :, 0].diff(dim=-1).mean() * side < 16 + 48 / 5 + 2


def test_a_turn_is_a_turn_and_a_shift_a_shift() -> None:
    x = (torch.arange(64) + 0.5)[None].expand(64, 64)
    pixels = torch.stack((x, x.T, 0 * x))[None]
    inside = slice(14, 18), slice(14, 18)  # of 32: the centre, without repeated border pixels
    settings = replace(PLAIN, cutouts=200)
    turned = cutouts(pixels, 32, replace(settings, turn=30), seeded_generator(3, 1))[..., *inside]
    slopes = [turned[:, axis].diff(dim=-1).mean((1, 2)) for axis in (0, 1)]
    slope = torch.stack(slopes, 1) / 2  # n 2: cosine and sine
    torch.testing.assert_close(slope.norm(dim=1), torch.ones(200), atol=1e-3, rtol=0)
    angle = torch.atan2(slope[:, 1], slope[:, 0]) * 180 / math.pi
    assert 25 < angle.max() < 30.1 and -30.1 < angle.min() < -25
    torch.testing.assert_close(
        turned.mean((2, 3))[:, :2], torch.full((200, 2), 32.0), atol=1e-2, rtol=0
    )
    moved = cutouts(pixels, 32, replace(settings, shift=0.1), seeded_generator(3, 1))[..., *inside]
    shifted = moved.mean((2, 3))[:, :2] - 32
    assert 5.5 < shifted.abs().max() < 6.41 and abs(shifted.mean()) < 0.6


def test_the_luck_of_a_cutout_does_not_depend_on_what_is_turned_off() -> None:
    pixels = to_pixels([picture()])
    few = Settings(cutouts=4, noise=0)
    assert torch.equal(
        cutouts(pixels, 16, few, seeded_generator(4, 9)),
        cutouts(pixels, 16, few, seeded_generator(4, 9)),
    )
    mirrored = cutouts(pixels, 16, replace(few, flip=1, turn=0), seeded_generator(4, 9))
    torch.testing.assert_close(
        mirrored.flip(-1), cutouts(pixels, 16, replace(few, flip=0, turn=0), seeded_generator(4, 9))
    )
    assert not torch.equal(
        cutouts(pixels, 16, few, seeded_generator(4, 10)),
        cutouts(pixels, 16, few, seeded_generator(4, 9)),
    )


# Terms of the loss.


def test_the_distance_is_half_the_squared_angle() -> None:
    angle = torch.linspace(0, math.pi, 9, dtype=torch.float64)
    images = torch.stack((angle.cos(), angle.sin()), 1).requires_grad_()
    found = distance(images, torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(
        found, torch.stack((angle, math.pi - angle), 1).square() / 2, atol=1e-2, rtol=0
    )
    torch.testing.assert_close(
        found[1:-1], torch.stack((angle, math.pi - angle), 1)[1:-1].square() / 2
    )
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert gradient.isfinite().all()


def test_the_total_variation_has_its_closed_form() -> None:
    ramp = torch.linspace(-1, 1, 11).expand(1, 3, 5, 11)
    assert variation(ramp).item() == pytest.approx(0.2**2)
    assert variation(ramp.mT).item() == pytest.approx(0.2**2)
    chess = ((torch.arange(8) + torch.arange(8)[:, None]) % 2 * 2.0 - 1).expand(1, 3, 8, 8)
    assert variation(chess).item() == 8 and variation(torch.full((1, 3, 8, 8), 0.7)).item() == 0


def test_what_is_outside_is_only_led_back() -> None:
    x = torch.tensor([-2.0, -2.0, 0.5, 0.5, 2.0, 2.0], requires_grad=True)
    gradients = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])  # descent goes against them
    clamped = ClampWithGrad.apply(x)
    assert clamped.tolist() == [-1, -1, 0.5, 0.5, 1, 1]
    assert torch.autograd.grad((clamped * gradients).sum(), x)[0].tolist() == [0, -1, 1, -1, 1, 0]


# Canvases.


def test_clouds_are_smooth_seeded_and_zero_on_their_lattice() -> None:
    noise = perlin(48, 32, seeded_generator(0, 0))
    assert noise.shape == (1, 3, 32, 48) and noise.abs().max() == 1
    assert torch.equal(noise, perlin(48, 32, seeded_generator(0, 0))) and not torch.equal(
        noise, perlin(48, 32, seeded_generator(1, 0))
    )

    def correlation(field: Tensor) -> float:
        """Correlation of horizontal neighbours."""
        neighbours = torch.stack((field[..., 1:].flatten(), field[..., :-1].flatten()))
        return float(torch.corrcoef(neighbours)[0, 1])

    white = torch.randn(1, 3, 32, 48, generator=seeded_generator(0, 0))
    assert correlation(noise) > 0.85 > 0.1 > abs(correlation(white))
    octave = lattice(48, 32, 8, seeded_generator(0, 0))
    assert octave[:, ::8, ::8].abs().max() == 0 and octave.abs().max() > 0.3
    fine = lattice(512, 512, 128.0, seeded_generator(0, 0))
    jumps = torch.cat([fine.diff(dim=1).flatten(), fine.diff(dim=2).flatten()])
    assert jumps.abs().max() < 3 / 128  # no seams: its slope is bounded


@pytest.mark.parametrize("name", QUANTISERS)
def test_a_vqgan_is_begun_with_the_tokens_of_a_picture_or_with_random_ones(name: str) -> None:
    net = tiny_vqgan(QUANTISERS[name])
    canvas, pixels = Codes(net, ""), to_pixels([picture(48, 32)])
    (latent,) = traced = canvas.trace(pixels)
    assert (
        latent.shape == (1, net.encode_latents(pixels).shape[1], 4, 6) and not latent.requires_grad
    )
    torch.testing.assert_close(canvas.render(traced), net.decode(net.encode(pixels)))
    canvas.project(traced)
    torch.testing.assert_close(canvas.render(traced), net.decode(net.encode(pixels)))
    noise = canvas.noise(128, 128, seeded_generator(0, 0))
    assert noise[0].shape == (1, latent.shape[1], 16, 16)
    assert len(net.quantiser(noise[0]).indices.unique()) > net.quantiser.size // 3
    assert torch.equal(noise[0], canvas.noise(128, 128, seeded_generator(0, 0))[0])


def test_a_projected_latent_is_where_codes_are() -> None:
    far = torch.randn(1, 4, 4, 4, generator=seeded_generator(0, 0)) * 9
    unit, plain = Codes(tiny_vqgan(), ""), Codes(tiny_vqgan(QUANTISERS["plain"]), "")
    unit.project((one := far.clone(),))
    torch.testing.assert_close(one, F.normalize(far, dim=1))
    plain.project((two := far.clone(),))
    codes = plain.model.quantiser.codes(torch.arange(32)[None, None])
    for k in range(4):
        assert two[:, k].min() == codes[:, k].min() and two[:, k].max() == codes[:, k].max()
    assert unit.scale == pytest.approx(0.5, abs=0.02)  # four numbers whose squares add up to 1
    Latents(tiny_vae(), "").project((three := far.clone(),))
    assert three.abs().max() == 3


def test_the_gradient_passes_straight_through_the_codes() -> None:
    net = tiny_vqgan(QUANTISERS["plain"])
    latent = (torch.randn(1, 4, 4, 4, generator=seeded_generator(0, 0)) * 0.5).requires_grad_()
    codes = net.quantiser.codes(net.quantiser(latent).indices).requires_grad_()
    weight = torch.randn(1, 3, 32, 32, generator=seeded_generator(0, 1))
    through, there = (
        torch.autograd.grad((picture * weight).sum(), each)[0]
        for picture, each in (
            (Codes(net, "").render((latent,)), latent),
            (net.decode_latents(codes), codes),
        )
    )
    assert not torch.allclose(latent, codes, atol=1e-2)
    torch.testing.assert_close(through, there, rtol=1e-4, atol=1e-4)
    assert through.abs().min() > 0


@pytest.mark.parametrize("name", CANVASES)
def test_every_number_of_a_latent_gets_a_gradient(name: str) -> None:
    canvas = CANVASES[name]
    for start in (
        canvas.noise(40, 24, seeded_generator(0, 0)),
        canvas.trace(perlin(40, 24, seeded_generator(0, 0))),
    ):
        canvas.project(start)
        latent = tuple(part.requires_grad_() for part in start)
        pixels = canvas.render(latent)
        assert pixels.shape == (1, 3, 24, 40)
        weight = torch.randn(1, 3, 24, 40, generator=seeded_generator(0, 1))
        for gradient in torch.autograd.grad((pixels * weight).sum(), latent):
            assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.5
    assert json.loads(json.dumps(canvas.about)) == canvas.about


def test_a_plain_decoder_draws_what_it_traced() -> None:
    net, pixels = tiny_vae(), to_pixels([picture(48, 32)])
    torch.testing.assert_close(
        Latents(net, "").render(Latents(net, "").trace(pixels)), net.decode(net.encode(pixels))
    )
    torch.testing.assert_close(Pixels().render(Pixels().trace(pixels)), pixels)
    coarse = Pixels(cell=8).render(Pixels(cell=8).trace(pixels))
    torch.testing.assert_close(coarse, F.interpolate(F.avg_pool2d(pixels, 8), scale_factor=8.0))


def test_a_palette_has_few_colours_and_keeps_those_of_a_picture_that_has_few() -> None:
    def colours(pixels: Tensor) -> set[tuple[int, ...]]:
        return {tuple(each) for each in np.asarray(to_images(pixels)[0]).reshape(-1, 3).tolist()}

    canvas = Palette(colours=6, cell=4)
    noise = canvas.render(canvas.noise(64, 64, seeded_generator(0, 0)))
    assert len(colours(noise)) == 6 and torch.equal(
        noise, F.interpolate(noise[..., ::4, ::4], scale_factor=4.0)
    )
    assert len(colours(canvas.render(canvas.trace(to_pixels([picture(64, 64)]))))) == 6
    flag = to_pixels([picture(64, 64)])
    flag[:, :, :24], flag[:, :, 24:] = (
        torch.tensor(each)[None, :, None, None] for each in ([1.0, 0.2, -1.0], [-1.0, 0.6, 0.0])
    )
    latent = canvas.trace(flag)
    torch.testing.assert_close(canvas.render(latent), flag, atol=1 / 127, rtol=0)
    canvas.project(latent)
    torch.testing.assert_close(canvas.render(latent), flag, atol=1 / 127, rtol=0)


def test_canvases_are_found_by_name(tmp_path: Path, folder: Path) -> None:
    net = tiny_vqgan()
    save_weights(tmp_path / "vqgan.safetensors", net, "vqgan", net.config, {})
    card = write_hashes(tmp_path)
    codes = load_canvas("vqgan", tmp_path, "cpu")
    assert isinstance(codes, Codes) and codes.about["sha256"] == card.files["vqgan.safetensors"]
    latents = load_canvas("vae", folder, "cpu")
    assert isinstance(latents, Latents) and latents.model.config.fine == 8
    assert load_canvas("pixels") == Pixels() and load_canvas("palette") == Palette()
    for name, message in {
        "vqgn": "did you mean 'vqgan'",
        "clipdraw": "write vqgan, vae, pixels, palette",
    }.items():
        with pytest.raises(KalpanaError, match=f"no canvas '{name}': {message}"):
            load_canvas(name)
    with pytest.raises(KalpanaError, match="there is no folder"):
        load_canvas("vqgan", tmp_path / "none")
    with pytest.raises(KalpanaError, match="family 'vae', not 'vqgan'"):
        (tmp_path / "vqgan.safetensors").write_bytes((folder / "vae.safetensors").read_bytes())
        write_hashes(tmp_path)
        load_canvas("vqgan", tmp_path)


def test_canvases_that_cannot_be_say_so() -> None:
    with pytest.raises(KalpanaError, match="FSQ are always rounded"):
        Codes(tiny_vqgan(QUANTISERS["fsq"]), "", straight=False)
    with pytest.raises(KalpanaError, match="cell is 0: write 1 or more"):
        Pixels(cell=0)
    with pytest.raises(KalpanaError, match="colours is 1: write from 2 to 256"):
        Palette(colours=1)


# Optimisation.


@pytest.mark.slow
@pytest.mark.parametrize("name", CANVASES)
def test_the_cosine_rises_and_a_negative_weight_makes_it_fall(name: str, ranker: Encoder) -> None:
    canvas, settings = CANVASES[name], replace(QUICK, rate=0.2, tv=0)
    text_features = ranker.texts([PROMPT])[0]

    def similarity(image: Image.Image) -> float:
        """Mean cosine over other cutouts than those used by the optimisation."""
        cuts = cutouts(
            to_pixels([image]), 32, replace(settings, cutouts=64), seeded_generator(99, 0)
        )
        return float((unit(ranker.model.image(cuts)) @ text_features).mean())

    noise = canvas.noise(32, 32, seeded_generator(3, 0))
    before = similarity(to_images(shown(canvas, noise))[0])
    positive, negative = (
        similarity(draw(ranker, canvas, PROMPT + weight, settings=settings, seed=3))
        for weight in ("", ":-1")
    )
    assert positive > before + 0.01 and negative < before - 0.01


@pytest.mark.slow
def test_a_picture_can_be_the_prompt_and_weights_weigh(ranker: Encoder) -> None:
    target, words = picture(50, 40, seed=5).convert("RGBA"), "a blue sea"
    near = draw(ranker, Pixels(cell=2), (Prompt(target),))
    far = draw(ranker, Pixels(cell=2), (Prompt(target, -1.0),))
    vector = ranker.images([target])[0]
    scores = [float(ranker.images([each])[0] @ vector) for each in (near, far)]
    assert scores[0] > scores[1] + 0.02
    first, second = (
        draw(ranker, Pixels(cell=2), f"{PROMPT}:{one} | {words}:{other}")
        for one, other in ((1, 0.1), (0.1, 1))
    )
    assert cosine(ranker, first) - cosine(ranker, first, words) > cosine(ranker, second) - cosine(
        ranker, second, words
    )
    alone, zero = draw(ranker), draw(ranker, prompt=f"{PROMPT} | {words}:0")
    assert alone == zero


@pytest.mark.slow
def test_a_seed_draws_the_same_bytes_whatever_was_drawn_before_or_is_drawn_beside_it(
    ranker: Encoder,
) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = draw(ranker)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator is unchanged"
    other = draw(ranker, seed=4)
    streams = [
        vqgan_clip(PROMPT, ranker, CANVASES["vqgan"], QUICK, seed, size=(32, 32)) for seed in (3, 4)
    ]
    for _ in range(QUICK.steps):
        torch.manual_seed(7)
        pair = [next(stream) for stream in streams]  # interleaved
    assert [
        step.result.outputs[0].image == image
        for step, image in zip(pair, (one, other), strict=True)
        if step.result
    ] == [True, True]
    with torch.no_grad():
        assert draw(ranker) == one != other
        assert not torch.is_grad_enabled()


def test_the_stream_counts_and_shows_where_the_picture_is_going(
    ranker: Encoder, second_a_step: None
) -> None:
    steps = list(vqgan_clip(PROMPT, ranker, CANVASES["vae"], QUICK, 0, size=(48, 32), every=5))
    assert [step.index for step in steps] == list(range(1, 17)) and {
        step.total for step in steps
    } == {16}
    assert [step.index for step in steps if step.preview is not None] == [5, 10, 15, 16]
    assert [step.result is not None for step in steps] == [*15 * [False], True] and {
        step.stage for step in steps
    } == {"optimise"}
    assert [step.eta for step in steps] == [step.total - step.index for step in steps]
    for step in steps:
        if step.preview is not None:
            assert (
                step.preview.shape == (1, 3, 32, 48)
                and step.preview.abs().max() <= 1
                and not step.preview.requires_grad
            )
    last = steps[-1]
    assert last.result is not None and last.preview is not None
    assert to_images(last.preview)[0] == last.result.outputs[0].image


def test_what_is_shown_is_the_mean_of_the_first_latents_then_a_running_one(ranker: Encoder) -> None:
    canvas, settings = CANVASES["pixels"], replace(QUICK, ema=0.8)
    latent = tuple(part.requires_grad_() for part in canvas.noise(16, 16, seeded_generator(0, 0)))
    run = Run(
        latent,
        tuple(torch.full_like(part, 9.0) for part in latent),
        torch.optim.Adam(latent, lr=0.05),
    )
    targets, seen = (ranker.texts([PROMPT]).clone(), torch.ones(1)), []
    for step in range(1, 8):
        advance(run, ranker.model, canvas, settings, targets, seeded_generator(0, step))
        seen.append(latent[0].detach().clone())
        if step == 5:
            torch.testing.assert_close(run.mean[0], torch.stack(seen).mean(0))
    weights = torch.tensor([0.2 * 0.8**2] * 5 + [0.2 * 0.8, 0.2])
    torch.testing.assert_close(
        run.mean[0], (weights[:, None, None, None, None] * torch.stack(seen)).sum(0)
    )
    assert run.step == 7 and ranker.model.see.positions.grad is None


def test_each_ingredient_changes_the_picture(ranker: Encoder) -> None:
    short, whole = replace(QUICK, steps=3), draw(ranker, Pixels(), settings=replace(QUICK, steps=3))
    without: list[dict[str, float]] = [
        {"cutouts": 1, "least": 1},
        {"flip": 0},
        {"turn": 0},
        {"shift": 0},
        {"jitter": 0},
        {"noise": 0},
    ]
    without += [{"ema": 0}, {"tv": 0}, {"rate": 0.01}, {"power": 3}, {"least": 1}]
    pictures = [draw(ranker, Pixels(), settings=replace(short, **fields)) for fields in without]  # type: ignore[arg-type]
    assert len({each.tobytes() for each in [whole, *pictures]}) == len(without) + 1


def test_less_variation_is_smoother(ranker: Encoder) -> None:
    rough, smooth = (
        variation(to_pixels([draw(ranker, Pixels(), settings=replace(QUICK, tv=tv))]))
        for tv in (0, 30)
    )
    assert smooth < rough / 2


# Resumed runs.


@pytest.mark.parametrize("name", ["vqgan", "palette"])
def test_a_run_that_was_cancelled_goes_on_as_if_it_had_not_been(
    name: str, ranker: Encoder, tmp_path: Path
) -> None:
    canvas, state, whole = CANVASES[name], tmp_path / "new" / "a.state", tmp_path / "b.state"
    unbroken = draw(ranker, canvas, state=whole, every=5)
    calls: list[int] = []
    counter = ranker.model.see.register_forward_hook(lambda *_: calls.append(1))
    for last in (3, 9):  # stopped twice
        stream = vqgan_clip(PROMPT, ranker, canvas, QUICK, 3, size=(32, 32), state=state)
        for step in stream:
            if step.index == last:
                break
        stream.close()  # type: ignore[attr-defined]
    # Without a seed, that of the state is used.
    rest = list(vqgan_clip(PROMPT, ranker, canvas, QUICK, None, size=(32, 32), state=state))
    counter.remove()
    assert len(calls) == QUICK.steps + 1, "no step was made twice; the last call is the score"
    assert [step.index for step in rest] == list(range(10, 17)) and rest[-1].result is not None
    assert rest[-1].result.outputs[0].image == unbroken and rest[-1].result.outputs[0].seed == 3
    kept, expected = load_file(state), load_file(whole)
    assert kept.keys() == expected.keys() and all(
        torch.equal(kept[name], expected[name]) for name in kept
    )
    # Five for each part: latent, mean, Adam's two moments and its step count.
    assert len(kept) == 5 * len(canvas.noise(32, 32, seeded_generator(0, 0)))


def test_a_finished_picture_can_be_asked_for_again_and_for_more_steps(
    ranker: Encoder, tmp_path: Path
) -> None:
    state, longer = tmp_path / "a.state", replace(QUICK, steps=20)
    first = draw(ranker, state=state)
    again = list(
        vqgan_clip(PROMPT, ranker, CANVASES["vqgan"], QUICK, 3, size=(32, 32), state=state)
    )
    assert (
        len(again) == 1
        and again[0].result is not None
        and again[0].result.outputs[0].image == first
    )
    assert draw(ranker, settings=longer, state=state) == draw(ranker, settings=longer) != first
    with pytest.raises(
        KalpanaError,
        match=r"a.state has 20 steps behind it, and 16 are asked for: write 20 or more",
    ):
        draw(ranker, state=state)


def test_a_state_is_kept_with_every_preview_too(ranker: Encoder, tmp_path: Path) -> None:
    state = tmp_path / "a.state"
    stream = vqgan_clip(
        PROMPT, ranker, CANVASES["vqgan"], QUICK, 3, size=(32, 32), state=state, every=5
    )
    for _ in range(4):
        next(stream)
    assert not state.exists()
    next(stream)
    kept = state.read_bytes()
    next(stream)
    assert state.read_bytes() == kept, "as a kill would leave it"
    state.write_bytes(kept)
    assert draw(ranker, state=state) == draw(ranker)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"settings": replace(QUICK, ema=0.5, tv=0.0)},
            "settings.ema is 0.9 there and 0.5 here; settings.tv is 0.1 there and 0.0 here",
        ),
        ({"seed": 4}, "seed is 3 there and 4 here"),
        (
            {"prompt": "a blue castle"},
            "prompts is [['a red castle', 1.0]] there and [['a blue castle', 1.0]] here",
        ),
        ({"prompt": PROMPT + ":-1"}, "prompts is"),
        ({"size": (32, 40)}, "size is '32x32' there and '32x40' here"),
        ({"start": "perlin"}, "start is 'noise' there and 'perlin' here"),
        ({"start": picture()}, "start is 'noise' there and 'picture "),
        ({"canvas": Pixels()}, "canvas.name is 'vqgan' there and 'pixels' here"),
        (
            {"canvas": replace(CANVASES["vqgan"], straight=False)},  # type: ignore[type-var]
            "canvas.straight is True there and False here",
        ),
        (
            {"canvas": replace(CANVASES["vqgan"], fingerprint="z")},  # type: ignore[type-var]
            "canvas.sha256 is 'a' there and 'z' here",
        ),
        ({"clip": "other"}, "clip is '"),
    ],
)
def test_a_state_of_another_picture_is_refused(
    changes: dict[str, Any], message: str, ranker: Encoder, tmp_path: Path
) -> None:
    state, settings = tmp_path / "a.state", replace(QUICK, steps=2)
    result(vqgan_clip(PROMPT, ranker, CANVASES["vqgan"], settings, 3, size=(32, 32), state=state))
    kept = state.read_bytes()
    if changes.get("clip"):
        changes = {"clip": replace(ranker, fingerprint="other")}
    fields = {
        "prompt": PROMPT,
        "clip": ranker,
        "canvas": CANVASES["vqgan"],
        "settings": settings,
        "seed": 3,
        "size": (32, 32),
    }
    with pytest.raises(KalpanaError) as error:
        vqgan_clip(**{**fields, "state": state, **changes})
    assert (
        f"the state {state} is of another picture: " in str(error.value)
        and message in str(error.value)
        and "\n" not in str(error.value)
    )
    assert state.read_bytes() == kept


def test_a_file_that_is_no_state_is_refused(ranker: Encoder, tmp_path: Path, folder: Path) -> None:
    for data, message in {
        b"": "is damaged or none at all",
        b"\x80\x04pickle": "is damaged or none at all",
        (folder / "vae.safetensors").read_bytes(): "is not the state of a picture",
    }.items():
        (tmp_path / "a.state").write_bytes(data)
        with pytest.raises(KalpanaError, match=message):
            draw(ranker, state=tmp_path / "a.state")
    (tmp_path / "a.state").unlink()
    draw(ranker, settings=PLAIN, state=tmp_path / "a.state")
    whole = (tmp_path / "a.state").read_bytes()
    (tmp_path / "a.state").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KalpanaError, match="is damaged or none at all"):
        draw(ranker, state=tmp_path / "a.state")


def test_closing_without_a_state_leaves_nothing_and_before_the_first_step_does_nothing(
    ranker: Encoder, tmp_path: Path
) -> None:
    calls: list[int] = []
    counter = ranker.model.see.register_forward_hook(lambda *_: calls.append(1))
    stream = vqgan_clip(PROMPT, ranker, CANVASES["vqgan"], QUICK, 3, size=(32, 32))
    next(stream), next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(calls) == 2 and list(stream) == []
    unstarted = vqgan_clip(
        PROMPT, ranker, CANVASES["vqgan"], QUICK, 3, size=(32, 32), state=tmp_path / "a.state"
    )
    unstarted.close()  # type: ignore[attr-defined]
    counter.remove()
    assert len(calls) == 2 and list(tmp_path.iterdir()) == [] and torch.is_grad_enabled()


# Files.


def test_a_timelapse_shows_the_previews(ranker: Encoder, tmp_path: Path) -> None:
    stream = vqgan_clip(PROMPT, ranker, Pixels(cell=8), QUICK, 0, size=(48, 32), every=5)
    *_, last = timelapse(stream, tmp_path / "a.mp4", fps=5)
    assert last.result is not None
    frames, rate, receipt = decode_video((tmp_path / "a.mp4").read_bytes())
    assert len(frames) == 4 and rate == 5 and receipt == last.result.outputs[0].receipt
    first, final = (
        np.abs(np.asarray(each).astype(int) - np.asarray(last.result.outputs[0].image)).mean()
        for each in frames[::3]
    )
    assert final < 8 < first
    odd = vqgan_clip(PROMPT, ranker, Pixels(), replace(QUICK, steps=3), 0, size=(33, 32), every=1)
    with pytest.raises(
        KalpanaError, match="sides of an even number of pixels, and this picture is 33x32"
    ):
        list(timelapse(odd, tmp_path / "b.mp4"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_the_receipt_says_how_the_picture_was_made(ranker: Encoder) -> None:
    prompt = (
        *parse("a red castle:0.5 | a zzyzx at 10:30 | " + "an apple and " * 60 + ":-1"),
        Prompt(picture(), 0.25),
    )
    settings = replace(QUICK, steps=2)
    whole = result(
        vqgan_clip(prompt, ranker, CANVASES["vqgan"], settings, 5, size=(40, 32), start="perlin")
    )
    (only,) = whole.outputs
    receipt = only.receipt
    assert (
        receipt == json.loads(json.dumps(receipt))
        and only.seed == receipt["seed"] == 5
        and only.image.size == (40, 32)
    )
    assert receipt["model"]["files"] == {"clip": ranker.fingerprint, "vqgan": "a"}
    about = receipt["vqgan_clip"]
    assert [weight for _, weight in about["prompts"]] == [0.5, 1, -1, 0.25]
    assert about["settings"]["steps"] == 2
    assert (
        about["prompts"][3][0].startswith("picture ")
        and about["start"] == "perlin"
        and about["size"] == "40x32"
    )
    assert (
        receipt["cosines"][0] == pytest.approx(cosine(ranker, only.image), abs=1e-5)
        and len(receipt["cosines"]) == 4
    )
    assert receipt["warnings"] == list(whole.warnings) and len(whole.warnings) == 3
    assert "10:30': the colon was read as part of the text" in whole.warnings[0]
    assert (
        "never met 'zzyzx'" in whole.warnings[1]
        and "too long for model 'tiny-clip'" in whole.warnings[2]
    )


# Start pictures and invalid arguments.


def still(clip: Encoder, start: Image.Image, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """The result of one step with a learning rate close to 0: the start picture."""
    return np.asarray(
        draw(clip, Pixels(), settings=replace(PLAIN, rate=1e-6), start=start, size=size)
    ).astype(int)


def test_a_start_picture_may_have_any_size_and_mode(ranker: Encoder) -> None:
    plain = picture(70, 30)
    for mode in ("RGB", "L", "P", "1", "CMYK", "YCbCr"):
        start = plain.convert(mode)
        resized = np.asarray(
            start.convert("RGB").resize((40, 32), Image.Resampling.LANCZOS)
        ).astype(int)
        assert np.abs(still(ranker, start, (40, 32)) - resized).max() <= 1
    half = plain.convert("RGBA")
    half.putalpha(128)
    white = (np.asarray(plain).astype(int) * 128 + 255 * 127) / 255
    assert np.abs(still(ranker, half, (70, 30)) - white).max() <= 2
    assert (still(ranker, Image.new("LA", (5, 9), (0, 0))) == 255).all()
    deep = Image.fromarray((np.arange(1024).reshape(32, 32) * 60).astype(np.uint16))
    assert np.abs(still(ranker, deep) - np.arange(1024).reshape(32, 32, 1) * 60 / 257).max() <= 1
    assert (still(ranker, plain) == still(ranker, plain)).all()


@pytest.mark.parametrize("name", CANVASES)
@pytest.mark.parametrize("start", ["perlin", picture(20, 50)], ids=["perlin", "picture"])
def test_every_canvas_begins_with_clouds_or_a_picture(
    name: str, start: Any, ranker: Encoder
) -> None:
    drawn = draw(ranker, CANVASES[name], settings=replace(PLAIN, steps=2, rate=1e-6), start=start)
    if name not in ("palette", "pixels"):
        pixels = (
            perlin(32, 32, seeded_generator(3, 0))
            if start == "perlin"
            else to_pixels([start.resize((32, 32), Image.Resampling.LANCZOS)])
        )
        (traced,) = to_images(shown(CANVASES[name], CANVASES[name].trace(pixels)))
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(traced)).max() <= 2
    assert drawn.size == (32, 32)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"prompt": "a castle:0 | fog:0"}, "all weights are 0"),
        ({"prompt": ()}, "there is no prompt: write what to draw"),
        ({"prompt": " "}, "has no words"),
        (
            {"size": (33, 32)},
            "width 33 cannot be drawn: write a multiple of 8 from 8 to 2048, such as 32",
        ),
        (
            {"size": (32, 0)},
            "height 0 cannot be drawn: write a multiple of 8 from 8 to 2048, such as 8",
        ),
        ({"size": (32, 9000)}, "such as 2048"),
        ({"start": "clouds"}, "start is 'clouds': write 'noise' or 'perlin', or give a picture"),
        ({"start": Image.new("RGB", (0, 4))}, "a picture is 0x4: give one that has pixels"),
        ({"every": 0}, "every is 0: write 1 or more"),
        ({"seed": -1}, "seed -1 is out of bounds"),
        ({"clip": None}, "needs a CLIP: give load('clip')"),
        ({"clip": "clip"}, "needs a CLIP"),
        ({"canvas": "palette"}, "needs a canvas: give load_canvas('palette')"),
    ],
)
def test_mistakes_are_found_before_the_first_step(
    fields: dict[str, Any], message: str, ranker: Encoder
) -> None:
    usual = {
        "prompt": PROMPT,
        "clip": ranker,
        "canvas": CANVASES["vqgan"],
        "settings": QUICK,
        "seed": 3,
        "size": (32, 32),
    }
    with pytest.raises(KalpanaError) as error:
        vqgan_clip(**{**usual, **fields})
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"steps": 0}, "steps is 0: write a whole number from 1 to 100000"),
        ({"cutouts": 2.0}, "cutouts is 2.0: write a whole number"),
        ({"rate": 0}, "rate is 0: write a number from"),
        ({"rate": math.nan}, "rate is nan"),
        ({"ema": 1}, "ema is 1: write a number from 0 to 0.9999"),
        ({"least": 0}, "least is 0: write"),
        ({"flip": 2}, "flip is 2: write a number from 0 to 1"),
        ({"tv": -1}, "tv is -1: write"),
    ],
)
def test_settings_out_of_bounds_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        Settings(**fields)


def test_bad_pictures_and_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match="the weight of a picture is nan"):
        Prompt(picture(), math.nan)
    with pytest.raises(KalpanaError, match="has no words"):
        Prompt(" \n ")
    picture().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with (
        Image.open(tmp_path / "a.png") as cut,
        pytest.raises(KalpanaError, match="a picture cannot be read"),
    ):
        Prompt(cut)


def test_a_decoder_alone_begins_with_noise(ranker: Encoder) -> None:
    canvas = Codes(tiny_vqgan(replace(TINY, encoder=False)), "")
    assert draw(ranker, canvas, settings=replace(QUICK, steps=1)).size == (32, 32)
    with pytest.raises(KalpanaError, match="these weights have no encoder"):
        draw(ranker, canvas, start="perlin")


# The ablation of docs/vqgan_clip.py.


def test_the_ablation_draws_a_row_a_prompt_and_a_column_a_variant(ranker: Encoder) -> None:
    path = Path(__file__).parents[2] / "docs" / "vqgan_clip.py"
    spec = importlib.util.spec_from_file_location("ablation", path)
    assert spec is not None and spec.loader is not None
    ablation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ablation)
    columns = ablation.variants(CANVASES["vqgan"], CANVASES["vae"], replace(QUICK, steps=2))
    assert all(
        fields["settings"] == replace(QUICK, steps=2)
        for name, fields in columns.items()
        if name.split()[0] != "without"
    )
    sheet, scores = ablation.ablate(ranker, columns, count=1, side=32)
    assert len(scores) == 14 and sheet.width == 14 * (SIDE + 8)
    sample = World(seed=0, split="dev")[0]
    assert scores["real scenes"] == pytest.approx(
        cosine(ranker, to_images(sample.image[None])[0], sample.caption), abs=1e-5
    )
    assert scores["everything"] == pytest.approx(
        cosine(
            ranker,
            draw(ranker, prompt=sample.caption, settings=replace(QUICK, steps=2), seed=0),
            sample.caption,
        ),
        abs=1e-5,
    )
