"""Speed of the autoencoder: pictures a second, encoding and decoding, on all cores."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Row, duration, main

from kalpana.models.vae import VAE
from kalpana.train.task import has_bf16


@torch.inference_mode()
def rows(quick: bool) -> Iterator[Row]:
    batch, seconds = (2, 0) if quick else (16, 10)
    vae = VAE().eval()
    pixels, latents = torch.rand(batch, 3, 128, 128) * 2 - 1, torch.randn(batch, 16, 16, 16)
    how = f"128 px, batch {batch}, {torch.get_num_threads()} threads"
    for name in ("float32", "bfloat16"):
        if name == "bfloat16" and not has_bf16(torch.device("cpu")):
            yield Row("autoencoder: bfloat16", "–", "–", "this CPU does not compute in it")
            return
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16"):
            for what, work in (
                ("encode", lambda: vae.encode(pixels)),
                ("decode", lambda: vae.decode(latents)),
            ):
                yield Row(
                    f"autoencoder: {what}, {name}",
                    f"{batch / duration(work, seconds):.0f} images/s",
                    "–",
                    how,
                )


if __name__ == "__main__":
    main(rows)
