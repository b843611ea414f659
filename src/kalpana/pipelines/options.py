"""Options of loading a large model: number format, offload and tiled decoding."""

from __future__ import annotations

from dataclasses import dataclass

from kalpana.types import KalpanaError

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # names in torch
OFFLOADS = ("model", "sequential")


@dataclass(frozen=True)
class LoadOptions:
    """Options for models of the diffusers library.

    - ``dtype``: of the weights, a key of DTYPES; None: fp32 on a CPU, else bf16
    - ``offload``: weights are on the accelerator only while they are used: "model" moves one part
      at a time, "sequential" one layer. None: they stay there
    - ``tiling``: the autoencoder decodes a large picture in tiles
    """

    dtype: str | None = None
    offload: str | None = None
    tiling: bool = False

    def checked(self) -> LoadOptions:
        """The options. Raises KalpanaError for one that does not exist."""
        if self.dtype is not None and self.dtype not in DTYPES:
            raise KalpanaError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.offload is not None and self.offload not in OFFLOADS:
            raise KalpanaError(f"offload {self.offload!r} is not one of {', '.join(OFFLOADS)}")
        return self

    def refuse(self, model: str) -> None:
        """Raises KalpanaError if an option is set, for a model that has none of them."""
        if given := [name for name, value in vars(self).items() if value]:
            raise KalpanaError(
                f"{' and '.join(given)} cannot be set for {model}: only models that the diffusers "
                "library runs have such options"
            )


USUAL = LoadOptions()
