"""Image classifiers of timm."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from align import PartError, Streams
from align.io.hub import located
from align.io.weights import load_strictly, read
from align_classifier.known import WHO, Known, Preprocessing

_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")


def load(model: str, revision: str, offline: bool) -> Known:
    """The classifier in a folder or of the hub, laid out as timm saves to the hub.

    Raises:
        PartError: it cannot be found or read, timm is missing, or its weights do not fit.
    """
    config, weights = (
        located(model, model, files, who=WHO, option="model", revision=revision, offline=offline)
        for files in (("config.json",), _WEIGHTS)
    )
    try:
        said = json.loads(config.read_text("utf-8"))
        architecture, kept = said["architecture"], said["pretrained_cfg"]
        preprocessing = _preprocessing(kept)
        classes = int(said.get("num_classes", kept.get("num_classes")))
    except (ValueError, KeyError, TypeError) as error:
        text = f"'{config}' is not a configuration of timm ({type(error).__name__}: {error})"
        cure = "library = 'transformers' reads those of transformers"
        raise PartError(f"{WHO}: model: {text}; {cure}") from error
    try:
        timm = import_module("timm")
    except (ImportError, RuntimeError) as error:  # a torchvision of another build raises the latter
        text = f"timm cannot be imported ({error})"
        cure = "pip install timm, and torchvision from where your torch is from"
        raise PartError(f"{WHO}: {text}; {cure}") from error
    options = said.get("model_args") or {}
    try:
        # Every weight is replaced right away.
        network = Streams(0, (), ("classifier",)).initialise(
            lambda: timm.create_model(architecture, num_classes=classes, **options)
        )
    except Exception as error:  # whatever the architecture raises
        first = str(error).strip().partition("\n")[0]
        raise PartError(f"{WHO}: model: timm cannot make '{architecture}': {first}") from error
    load_strictly(network, read(weights, WHO), weights, f"{WHO}: model")
    return Known(network, preprocessing, _labels(said, kept), classes)


def _preprocessing(kept: Mapping[str, Any]) -> Preprocessing:
    """timm's preprocessing for evaluation; raises ValueError for one that is not known here."""
    _, height, width = kept["input_size"]
    mode, how, share = kept["interpolation"], kept.get("crop_mode", "center"), kept["crop_pct"]
    if mode not in ("bilinear", "bicubic"):
        raise ValueError(f"pictures are resized by '{mode}'")
    if how == "squash":
        resize: tuple[int, int] | int = (math.floor(height / share), math.floor(width / share))
    elif how == "center" and height == width:
        resize = math.floor(height / share)
    else:
        raise ValueError(f"pictures are cropped by '{how}' to {height}x{width}")
    red, green, blue = kept["mean"]
    first, second, third = kept["std"]
    return Preprocessing(
        resize=resize,
        mode=mode,
        crop=(height, width),
        floored=False,
        mean=(red, green, blue),
        std=(first, second, third),
    )


def _labels(said: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[int, str]:
    """Names of classes: their descriptions where there are some."""
    names = said.get("label_names") or kept.get("label_names") or []
    told = said.get("label_descriptions") or kept.get("label_descriptions") or {}
    return {number: str(told.get(name, name)) for number, name in enumerate(names)}
