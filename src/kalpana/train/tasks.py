"""The training task of each family."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kalpana.train.autoencoder import AutoencoderTask
from kalpana.train.clip import CLIPTask
from kalpana.train.data_cache import Progress
from kalpana.train.detector import DetectorTask
from kalpana.train.flow import FlowTask
from kalpana.train.reader import ReaderTask
from kalpana.train.recipe import Recipe
from kalpana.train.task import Task
from kalpana.train.token_tasks import DalleMiniTask, DalleTask, MaskGITTask
from kalpana.train.vqgan import VQGANTask

TASKS: dict[str, Callable[[Recipe, torch.device, Progress], Task]] = {
    "vae": AutoencoderTask,
    "vqgan": VQGANTask,
    "flow": FlowTask,
    "dalle": DalleTask,
    "maskgit": MaskGITTask,
    "dalle-mini": DalleMiniTask,
    "clip": CLIPTask,
    "detector": DetectorTask,
    "reader": ReaderTask,
}
