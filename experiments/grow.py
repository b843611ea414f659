"""Give trained weights of the plain transformer the convolutions of the present one without changing what it draws
(function-preserving growth, Chen et al. 2016, Net2Net): ``python experiments/grow.py OLD/dit.safetensors NEW.safetensors``.

The convolutions' channels 16-31 carry the latent to the patches, 0-15 carry what the patches say to the head; the rest is new."""

from __future__ import annotations

import sys
from pathlib import Path

import plain
import torch

from kalpana.hub.weights import read_weights, save_weights
from kalpana.models import dit
from kalpana.types import Cond, Tokens


def main(old: Path, new: Path) -> None:
    weights = read_weights(old, "flow")
    torch.manual_seed(0)
    net = dit.DiT(dit.Config(**weights.config))
    state, c = net.state_dict(), net.config.channels
    mapped = {name: value for name, value in weights.tensors.items() if not name.startswith(("patches.", "head."))}
    middle = torch.zeros(c, c, 3, 3)
    middle[:, :, 1, 1] = torch.eye(c)
    state["stem.weight"][:c], state["stem.weight"][c : 2 * c] = 0, middle
    state["patches.weight"].zero_()[:, 4 * c : 8 * c] = weights.tensors["patches.weight"]
    state["patches.bias"].copy_(weights.tensors["patches.bias"])
    state["unpatch.weight"][: 4 * c], state["unpatch.bias"][: 4 * c] = weights.tensors["head.weight"], weights.tensors["head.bias"]
    state["head.weight"].zero_()[:, :c] = middle
    net.load_state_dict(state | mapped)
    save_weights(new, net, "flow", net.config, {"grown_from": weights.provenance})

    before = plain.DiT(plain.Config(**weights.config))
    before.load_state_dict(weights.tensors)
    x, t = torch.randn(4, c, 16, 16), torch.rand(4)
    cond = Cond(Tokens(torch.randint(4, 8000, (4, 16)), torch.ones(4, 16, dtype=torch.bool)))
    with torch.no_grad():
        a, b = before(x, t, cond), net(x, t, cond)
    print(f"{a.std():.3f} +- {(a - b).abs().max():.2e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
