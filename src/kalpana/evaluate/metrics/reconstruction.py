"""Reconstruction quality of a VQGAN or VAE: PSNR, SSIM, FD-lite0, codebook use and legibility.

    kalpana evaluate reconstruction WEIGHTS...

On test scenes of every kind: PSNR, as the mean over pictures, which most papers report, and of the
mean error, which the hardest pictures dominate; SSIM and FD-lite0 between pictures and their
reconstructions; the share of a VQGAN's codes in use, and their perplexity. On test signs with
letters 14 px tall: the share that a verifier reads correctly, and of these the share that it still
reads correctly after reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from kalpana.evaluate.metrics.fidelity import FeatureExtractor, Features, frechet_from
from kalpana.evaluate.verifiers.observations import Verifier
from kalpana.hub.weights import files_of, load_module, metadata
from kalpana.media import to_images
from kalpana.metrics import psnr, ssim
from kalpana.models import vae, vqgan
from kalpana.types import KalpanaError
from kalpana.world.kinds import signs
from kalpana.world.render import render
from kalpana.world.scene import Scene, Sign
from kalpana.world.sheet import captioned
from kalpana.world.world import World

PICTURES, SIGNS = 2000, 200  # measured pictures, and signs of each script
PART = 50  # pictures per batch
LETTER = 14 / 128  # height of a sign's letters, as a share of the picture's
SHOWN = 8  # number of pictures, and of signs, on a sheet


class Codec(Protocol):
    """Interface of autoencoders of pictures.

    ``again`` returns the reconstructions of pictures (b, 3, h, w), and the codes if there are any.
    """

    @property
    def name(self) -> str: ...

    @property
    def codes(self) -> int | None:
        """Size of the codebook, None if there is none."""
        ...

    def again(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]: ...


@dataclass(frozen=True)
class TokenCodec:
    """VQGAN as a codec."""

    name: str
    network: vqgan.VQGAN

    @property
    def codes(self) -> int:
        return self.network.quantiser.size

    def again(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        ids = self.network.encode(pixels)
        return self.network.decode(ids).clamp(-1, 1), ids


@dataclass(frozen=True)
class LatentCodec:
    """VAE as a codec."""

    name: str
    network: vae.VAE
    codes: None = None

    def again(self, pixels: Tensor) -> tuple[Tensor, None]:
        return self.network.decode(self.network.encode(pixels)).clamp(-1, 1), None


def load(path: Path) -> Codec:
    """Codec in a file of weights. Raises KalpanaError if it is no autoencoder or has no encoder."""
    family = metadata(files_of(path)[0]).get("family")
    name = f"{path.resolve().parent.name}/{path.stem}"
    if family == "vae":
        coder = load_module(path, family)
        return LatentCodec(name, coder)
    network = load_module(path, "vqgan")
    if network.encoder is None:
        raise KalpanaError(f"{path} has no encoder, so no picture goes through it")
    return TokenCodec(name, network)


@dataclass(frozen=True)
class Redrawn:
    """Reconstruction quality of one codec.

    ``psnr``: mean over the pictures, in dB; ``overall``: PSNR of the mean error, in dB; ``ssim``;
    ``fd``: FD-lite0 between pictures and reconstructions; ``used``: share of codes in use, and
    their ``perplexity``, both None without a codebook; ``words``: by script, the share of signs
    read correctly, and of these the share still read correctly after reconstruction.
    """

    name: str
    psnr: float
    overall: float
    ssim: float
    fd: float
    used: float | None
    perplexity: float | None
    words: dict[str, tuple[float, float]]


@torch.inference_mode()
def measure(
    coder: Codec,
    extractor: FeatureExtractor,
    verifier: Verifier,
    pictures: int = PICTURES,
    each: int = SIGNS,
) -> Redrawn:
    """Quality of a codec on so many ``pictures``, and on so many signs of ``each`` script."""
    world, before, after = World(1, "test", kind="everything"), list[Features](), list[Features]()
    squares, similarity = list[Tensor](), list[Tensor]()
    counts = torch.zeros(coder.codes or 1)
    for start in range(0, pictures, PART):
        x = world.images(range(start, min(start + PART, pictures)))
        y, ids = coder.again(x)
        squares.append((y - x).square().mean((1, 2, 3)))
        similarity.append(ssim(y, x))
        before.append(extractor(x))
        after.append(extractor(y))
        if ids is not None:
            counts += vqgan.count(ids, len(counts))
    fd = frechet_from(Features.join(before).lite0)(Features.join(after).lite0)
    errors = torch.cat(squares)
    words = {
        script: still_read(coder, verifier, boards(script == "Latin", each))
        for script in ("Latin", "Devanagari")
    }
    return Redrawn(
        coder.name,
        fmean(map(psnr, errors.tolist())),
        psnr(errors.mean().item()),
        torch.cat(similarity).mean().item(),
        fd,
        vqgan.used(counts).item() if coder.codes else None,
        vqgan.perplexity(counts).item() if coder.codes else None,
        words,
    )


def boards(latin: bool, count: int) -> list[Scene]:
    """Test scenes with one centred sign in one script, its letters as tall as LETTER.

    Their words are not among those that readers are trained on.
    """
    world, found, i = World(1, "test", kind="text"), list[Scene](), 0
    while len(found) < count:
        scene = world.scene(i)
        item, i = scene.objects[0], i + 1
        sign = item.sprite
        if len(scene.objects) > 1 or not isinstance(sign, Sign) or sign.text.isascii() != latin:
            continue
        size = LETTER / signs.letter_share(sign)
        if size * max(signs.extent(sign)) < 1 - 2 * signs.MARGIN:
            found.append(replace(scene, objects=(replace(item, x=0.5, y=0.5, size=size),)))
    return found


def still_read(coder: Codec, verifier: Verifier, scenes: Sequence[Scene]) -> tuple[float, float]:
    """Share of signs read correctly, and of these the share still read after reconstruction.

    The verifier's first reader counts.
    """
    read = still = 0
    for start in range(0, len(scenes), PART):
        batch = scenes[start : start + PART]
        x = render(batch).pixels
        true, reconstructed = verifier.look(x), verifier.look(coder.again(x)[0])
        for scene, *observations in zip(batch, true, reconstructed, strict=True):
            sign = scene.objects[0].sprite
            assert isinstance(sign, Sign)
            before, after = (
                [word for reading in seen.readings[:1] for word in reading.words] == [sign.text]
                for seen in observations
            )
            read, still = read + before, still + (before and after)
    return read / len(scenes), still / max(read, 1)


HEAD = (
    "| codec | PSNR, dB | of all pixels | SSIM | FD-lite0 | codes used | perplexity "
    "| words read: Latin | Devanagari |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def line(row: Redrawn) -> str:
    """Table row under HEAD."""
    cells = [row.name, f"{row.psnr:.2f}", f"{row.overall:.2f}", f"{row.ssim:.3f}", f"{row.fd:.1f}"]
    cells += [
        "–" if row.used is None else f"{100 * row.used:.1f} %",
        "–" if row.perplexity is None else f"{row.perplexity:,.0f}",
    ]
    cells += [f"{100 * still:.1f} % (of {100 * read:.1f} %)" for read, still in row.words.values()]
    return f"| {' | '.join(cells)} |"


def sheet(coders: Sequence[Codec]) -> Image.Image:
    """A sheet of pictures and signs, each row followed by the reconstructions of every codec."""
    rows = [(image, name) for pixels, name in _rows(coders) for image in to_images(pixels)]
    return captioned([image for image, _ in rows], [name for _, name in rows], columns=SHOWN)


def _rows(coders: Sequence[Codec]) -> Iterator[tuple[Tensor, str]]:
    """Rows of a sheet, as pixels and a label."""
    scenes = [World(1, "test", kind="everything").scene(i) for i in range(SHOWN)]
    scenes += [scene for latin in (True, False) for scene in boards(latin, SHOWN // 2)]
    pixels = render(scenes).pixels
    for part in (pixels[:SHOWN], pixels[SHOWN:]):
        yield part, "original"
        for coder in coders:
            yield coder.again(part)[0], coder.name
