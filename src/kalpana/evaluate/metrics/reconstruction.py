"""What is left of pictures that go through tokens or latents and back: ``python -m kalpana.evaluate.metrics.reconstruction WEIGHTS...``, each the weights
of a VQGAN or an autoencoder.

On scenes of the test split, of every kind: PSNR (the mean of the pictures', as most report it, and that of their mean error, which the
hardest of them decide), SSIM and FD-lite0 between the pictures and themselves drawn again; how many of a VQGAN's codes they use, and how
evenly. On signs of the test split whose letters are 14 px tall: how many a verifier reads as they are, and of these how many it still
reads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor

from kalpana.evaluate.metrics.fidelity import FeatureExtractor, Features, frechet_from
from kalpana.evaluate.verifiers.observations import Verifier
from kalpana.evaluate.verifiers.verifier import DetectorVerifier
from kalpana.hub.card import weights_dir
from kalpana.hub.weights import files_of, load_module, metadata
from kalpana.media import to_images
from kalpana.models import vae, vqgan
from kalpana.train.autoencoder import psnr, ssim
from kalpana.types import KalpanaError
from kalpana.world.kinds import signs
from kalpana.world.render import render
from kalpana.world.scene import Scene, Sign
from kalpana.world.sheet import captioned
from kalpana.world.world import World

PICTURES, SIGNS = 2000, 200  # measured; signs of each script
PART = 50  # pictures at a time
LETTER = 14 / 128  # how tall a sign's letters are, as a share of the picture
SHOWN = 8  # pictures, and signs, on a sheet


class Codec(Protocol):
    """What pictures go through: ``again`` gives pictures (b, 3, h, w) drawn again, and the codes they were, where it has codes."""

    @property
    def name(self) -> str: ...

    @property
    def codes(self) -> int | None:
        """How many there are."""
        ...

    def again(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]: ...


@dataclass(frozen=True)
class TokenCodec:
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
    name: str
    network: vae.VAE
    codes: None = None

    def again(self, pixels: Tensor) -> tuple[Tensor, None]:
        return self.network.decode(self.network.encode(pixels)).clamp(-1, 1), None


def load(path: Path) -> Codec:
    """The coder in a file of weights. Raises KalpanaError where it is none, or only draws."""
    family, name = (
        metadata(files_of(path)[0]).get("family"),
        f"{path.resolve().parent.name}/{path.stem}",
    )
    if family == "vae":
        return LatentCodec(
            name, load_module(path, family, lambda **config: vae.VAE(vae.Config(**config)))
        )
    network = load_module(path, "vqgan", lambda **config: vqgan.VQGAN(vqgan.Config(**config)))
    if network.encoder is None:
        raise KalpanaError(f"{path} has no encoder, so no picture goes through it")
    return TokenCodec(name, network)


@dataclass(frozen=True)
class Redrawn:
    """Of pictures drawn again: ``psnr`` in dB, the mean over the pictures, and ``overall``, of their mean error; ``ssim``; FD-lite0 from
    themselves as they were; the share of codes ``used`` and their ``perplexity``, None where there are no codes; and by script the share of
    signs read as they are, and of these of those still read."""

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
    eyes: FeatureExtractor,
    verifier: Verifier,
    pictures: int = PICTURES,
    each: int = SIGNS,
) -> Redrawn:
    world, before, after = World(1, "test", kind="everything"), list[Features](), list[Features]()
    squares, alike = list[Tensor](), list[Tensor]()
    counts = torch.zeros(coder.codes or 1)
    for start in range(0, pictures, PART):
        x = world.images(range(start, min(start + PART, pictures)))
        y, ids = coder.again(x)
        squares.append((y - x).square().mean((1, 2, 3)))
        alike.append(ssim(y, x))
        before.append(eyes(x))
        after.append(eyes(y))
        if ids is not None:
            counts += vqgan.count(ids, len(counts))
    fd = frechet_from(Features.join(before).lite0)(Features.join(after).lite0)
    return Redrawn(
        coder.name,
        fmean(map(psnr, torch.cat(squares).tolist())),
        psnr(torch.cat(squares).mean().item()),
        torch.cat(alike).mean().item(),
        fd,
        vqgan.used(counts).item() if coder.codes else None,
        vqgan.perplexity(counts).item() if coder.codes else None,
        {
            script: still_read(coder, verifier, boards(script == "Latin", each))
            for script in ("Latin", "Devanagari")
        },
    )


def boards(latin: bool, count: int) -> list[Scene]:
    """Scenes of one sign in the middle, in one script, with letters as tall as LETTER, of words that no reader learned from."""
    world, found, i = World(1, "test", kind="text"), list[Scene](), 0
    while len(found) < count:
        scene = world.scene(i)
        scene_object, i = scene.objects[0], i + 1
        if (
            len(scene.objects) > 1
            or not isinstance(scene_object.sprite, Sign)
            or scene_object.sprite.text.isascii() != latin
        ):
            continue
        size = LETTER / signs.letter_share(scene_object.sprite)
        if size * max(signs.extent(scene_object.sprite)) < 1 - 2 * signs.MARGIN:
            found.append(replace(scene, objects=(replace(scene_object, x=0.5, y=0.5, size=size),)))
    return found


def still_read(coder: Codec, verifier: Verifier, scenes: Sequence[Scene]) -> tuple[float, float]:
    """The share of signs that are read as they are, by the verifier's first reader, and of these the share read when drawn again."""
    read = still = 0
    for start in range(0, len(scenes), PART):
        some = scenes[start : start + PART]
        x = render(some).pixels
        for scene, one, two in zip(
            some, verifier.look(x), verifier.look(coder.again(x)[0]), strict=True
        ):
            sign = scene.objects[0].sprite
            assert isinstance(sign, Sign)
            before, after = (
                [word for reading in seen.readings[:1] for word in reading.words] == [sign.text]
                for seen in (one, two)
            )
            read, still = read + before, still + (before and after)
    return read / len(scenes), still / max(read, 1)


HEAD = (
    "| drawn again by | PSNR, dB | of all pixels | SSIM | FD-lite0 | codes used | perplexity | words read: Latin | Devanagari |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def line(row: Redrawn) -> str:
    """The row of a table under HEAD."""
    cells = [row.name, f"{row.psnr:.2f}", f"{row.overall:.2f}", f"{row.ssim:.3f}", f"{row.fd:.1f}"]
    cells += [
        "–" if row.used is None else f"{100 * row.used:.1f} %",
        "–" if row.perplexity is None else f"{row.perplexity:,.0f}",
    ]
    cells += [f"{100 * still:.1f} % (of {100 * read:.1f} %)" for read, still in row.words.values()]
    return f"| {' | '.join(cells)} |"


def sheet(coders: Sequence[Codec]) -> Iterator[tuple[Tensor, str]]:
    """Pictures, and under each what every coder makes of it."""
    scenes = [World(1, "test", kind="everything").scene(i) for i in range(SHOWN)]
    scenes += [scene for latin in (True, False) for scene in boards(latin, SHOWN // 2)]
    pixels = render(scenes).pixels
    for part in (pixels[:SHOWN], pixels[SHOWN:]):
        yield part, "as it is"
        for coder in coders:
            yield coder.again(part)[0], coder.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+", type=Path, help="weights of VQGANs and autoencoders")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--signs", type=int, default=SIGNS, help="of each script")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="draw some of them, and what was made of them"
    )
    asked = parser.parse_args()
    folder = weights_dir() / "verifier-b"
    try:
        coders, eyes, verifier = (
            [load(path) for path in asked.weights],
            FeatureExtractor(folder),
            DetectorVerifier.load(folder),
        )
        print(HEAD, flush=True)
        for coder in coders:
            print(
                line(measure(coder, eyes, verifier, asked.pictures, asked.sign_page_share)),
                flush=True,
            )
        if asked.sheet:
            rows = [(image, name) for pixels, name in sheet(coders) for image in to_images(pixels)]
            captioned([image for image, _ in rows], [name for _, name in rows], columns=SHOWN).save(
                asked.sheet, quality=90
            )
    except KalpanaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
