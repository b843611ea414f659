"""Which family is taught by which task."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kalpana.train.autoencoder import Autoencode
from kalpana.train.clip import Contrast
from kalpana.train.data_cache import Progress
from kalpana.train.detector import Detect
from kalpana.train.flow import FlowMatch
from kalpana.train.reader import Read
from kalpana.train.recipe import Recipe
from kalpana.train.task import Task
from kalpana.train.token_tasks import Continue, Translate, Unmask
from kalpana.train.vqgan import Tokenise

TASKS: dict[str, Callable[[Recipe, torch.device, Progress], Task]] = {
    "vae": Autoencode,
    "vqgan": Tokenise,
    "flow": FlowMatch,
    "dalle": Continue,
    "maskgit": Unmask,
    "dalle-mini": Translate,
    "clip": Contrast,
    "detector": Detect,
    "reader": Read,
}
