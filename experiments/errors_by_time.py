"""The error of x0 at each time, on 128 dev pictures: of the network's estimate as it is, and of x_t / (1 - t) alone.
`python experiments/errors_by_time.py [WEIGHTS...]`; run it on the commit before `combine` to see the bare network's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from kalpana.hub.weights import read_weights
from kalpana.train import flow, pool
from kalpana.train.recipe import read_recipe
from kalpana.types import Cond

recipe = read_recipe(Path("recipes/flow.yaml")).model_copy(update={"pool": 512})
task = flow.FlowMatch(recipe, torch.device("cpu"), pool.silent)
x0 = torch.from_numpy(np.array(task.dev_latents[:128])).float()
cond, eps = Cond(task._words(range(128))), torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
for weights in sys.argv[1:] or ["weights/default/dit.safetensors"]:
    task.model.load_state_dict(read_weights(Path(weights), "flow").tensors)
    task.model.eval()
    for t in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            said = task.model((1 - t) * x0 + t * eps, torch.full((128,), t), cond).float()
        alone = (t / (1 - t)) ** 2 if t < 1 else float("inf")
        print(weights, f"t {t:.2f}  network {(said - x0).square().mean():.4f}  x_t alone {alone:.4f}", flush=True)
