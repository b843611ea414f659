"""LoRA (Hu et al. 2021): a low-rank change of the weights of a network, which stays as it is.

A weight W of shape (out, in) becomes W + alpha / rank * up @ down, with up (out, rank) and down
(rank, in); that of a convolution is seen as a matrix (out, in * k * k). ``up`` starts at zero, so
that an untrained adapter changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kalpana.types import KalpanaError


@dataclass(frozen=True)
class Config:
    rank: int = 8
    alpha: float = 8.0
    base: str = ""  # family of the network that it changes
    # Shape of each weight that it changes, by the name of its layer in the network.
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


class LoRA(nn.Module):
    """Adapter: the low-rank changes of the linear layers and convolutions of a network."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for layer, (out, *rest) in config.shapes.items():
            inputs = math.prod(rest)
            key = layer.replace(".", "/")  # parameters have no dots in their names
            bound = 1 / math.sqrt(inputs)
            self.down[key] = nn.Parameter(torch.empty(config.rank, inputs).uniform_(-bound, bound))
            self.up[key] = nn.Parameter(torch.zeros(out, config.rank))

    @classmethod
    def of(cls, network: nn.Module, family: str, rank: int = 8, alpha: float = 8.0) -> LoRA:
        """An untrained adapter for all linear layers and convolutions of a network."""
        shapes = {
            name: tuple(layer.weight.shape)
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
        }
        return cls(Config(rank, alpha, family, shapes))

    def changes(self, strength: float = 1.0) -> dict[str, Tensor]:
        """What is added to each weight, by its name in the network."""
        scale = strength * self.config.alpha / self.config.rank
        found = {}
        for layer, shape in self.config.shapes.items():
            key = layer.replace(".", "/")
            found[f"{layer}.weight"] = scale * (self.up[key] @ self.down[key]).view(tuple(shape))
        return found


class Adapted:
    """A network with some weights replaced, which is called and asked as the network itself."""

    def __init__(self, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self.network, self.weights = network, dict(weights)

    def __call__(self, *args: Any) -> Any:
        return functional_call(self.network, self.weights, args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def adapted(network: nn.Module, adapters: list[tuple[LoRA, float]]) -> Adapted:
    """The network with the changes of adapters, each times its strength; they add up.

    Raises KalpanaError if an adapter changes a weight that the network does not have.
    """
    own = dict(network.named_parameters())
    weights: dict[str, Tensor] = {}
    for adapter, strength in adapters:
        for name, change in adapter.changes(strength).items():
            if name not in own or own[name].shape != change.shape:
                found = tuple(own[name].shape) if name in own else "missing"
                raise KalpanaError(
                    f"the adapter is for another network: its {name} has shape "
                    f"{tuple(change.shape)}, and that of the model is {found}"
                )
            weights[name] = weights.get(name, own[name]) + change.to(own[name])
    return Adapted(network, weights)
