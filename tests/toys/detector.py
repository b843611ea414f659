"""Folder of a tiny DETR of the transformers library with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessorPil, ResNetConfig

QUERIES = 5


def write_detector(folder: Path, labels: Sequence[str], always: str | None = None) -> Any:
    """The model that is written to ``folder``; with ``always`` all its queries find this class."""
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in SIZES.items()}
    config = DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        num_queries=QUERIES,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **sizes,
    )
    model = DetrForObjectDetection(config).eval()
    if always is not None:
        with torch.no_grad():
            model.class_labels_classifier.bias[list(labels).index(always)] = 20.0
    model.save_pretrained(folder)
    DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return model


SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 16}
