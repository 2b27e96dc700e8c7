"""Small classifiers in the layout in which transformers saves them, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import nn

from align import Streams

Kind: TypeAlias = Literal["vit", "resnet", "mobilenet"]
LABELS: Final[Mapping[int, str]] = MappingProxyType(
    {0: "tabby, tabby cat", 1: "dog", 2: "goldfish", 3: "hot dog, dog"}
)


def small_classifier(kind: Kind, folder: Path) -> Path:
    """Save a classifier of random weights with four classes; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    network, said = Streams(0, (0,)).initialise(lambda: _made(kind))
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def small_dinov2(folder: Path) -> Path:
    """Save a DINOv2 of random weights; returns its folder."""
    import transformers

    there: Any = transformers
    config = there.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    network = Streams(0, (0,)).initialise(lambda: there.Dinov2Model(config))
    network.save_pretrained(folder)
    return folder


def _made(kind: Kind) -> tuple[Any, dict[str, Any]]:
    """A network, and what its pictures are prepared by."""
    import transformers

    there: Any = transformers
    numbers = {name: number for number, name in LABELS.items()}
    ids: dict[str, Any] = {"id2label": dict(LABELS), "label2id": numbers}
    said: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 2,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.4, 0.6],
    }
    match kind:
        case "vit":
            network = there.ViTForImageClassification(
                there.ViTConfig(
                    hidden_size=32,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=32,
                    image_size=32,
                    patch_size=16,
                    **ids,
                )
            )
            said |= {"image_processor_type": "ViTImageProcessor"}
            said |= {"size": {"height": 32, "width": 32}}
        case "resnet":
            network = there.ResNetForImageClassification(
                there.ResNetConfig(
                    embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", **ids
                )
            )
            said |= {"image_processor_type": "ConvNextImageProcessor", "resample": 3}
            said |= {"size": {"shortest_edge": 32}, "crop_pct": 0.875}
        case "mobilenet":
            network = there.MobileNetV2ForImageClassification(
                there.MobileNetV2Config(depth_multiplier=0.25, min_depth=8, image_size=32, **ids)
            )
            said |= {"image_processor_type": "MobileNetV2ImageProcessor", "do_center_crop": True}
            said |= {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    for weight in network.parameters():
        weight.data = weight.data + nn.init.normal_(torch.empty_like(weight), 0, 0.15)
    return network, said
