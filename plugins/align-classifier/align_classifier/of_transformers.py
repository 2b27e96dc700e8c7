"""Image classifiers of transformers."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from align import PartError, Streams
from align.io.hub import located
from align_classifier.known import WHO, Known, Preprocessing

_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
_MODES: Final = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


def load(model: str, revision: str, offline: bool) -> Known:
    """The classifier in a folder or of the hub.

    Raises:
        PartError: it cannot be found or read, its weights do not fit its configuration, or pictures
            are prepared in a way that cannot be repeated here.
    """
    for files in (("config.json",), ("preprocessor_config.json",), _WEIGHTS):
        located(model, model, files, who=WHO, option="model", revision=revision, offline=offline)
    try:
        transformers = import_module("transformers")
        models, processors = (
            transformers.AutoModelForImageClassification,
            transformers.AutoImageProcessor,
        )
    except (ImportError, RuntimeError) as error:  # a torchvision of another build raises the latter
        text = f"transformers cannot be imported ({_first(error)})"
        cure = "mend torchvision or uninstall it" if "vision" in str(error) else "install it"
        raise PartError(f"{WHO}: {text}; {cure}") from error
    place: dict[str, Any] = {"revision": revision, "local_files_only": True}
    try:
        # What is not in the file would be drawn at random; then the classifier is refused.
        network, said = Streams(0, (), ("classifier",)).initialise(
            lambda: models.from_pretrained(
                _place(model), output_loading_info=True, ignore_mismatched_sizes=True, **place
            )
        )
        processor = processors.from_pretrained(_place(model), **place)
    except Exception as error:  # many kinds, for everything from a wrong key to a broken file
        raise PartError(f"{WHO}: model: cannot load '{model}': {_first(error)}") from error
    _refuse_misfit(model, said)
    preprocessing = _preprocessing(model, processor.to_dict())
    _compare(model, preprocessing, processor)
    labels = {int(number): str(name) for number, name in network.config.id2label.items()}
    return Known(network, preprocessing, labels, int(network.config.num_labels))


def _place(model: str) -> str:
    given = Path(model).expanduser()
    return str(given) if given.is_dir() else model


def _refuse_misfit(model: str, said: dict[str, Any]) -> None:
    for what in ("missing_keys", "mismatched_keys"):
        if found := sorted(map(str, said[what])):
            names = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            text = f"{len(found)} weights are {what.removesuffix('_keys')} ({names})"
            cure = "give a model that was trained to classify images"
            raise PartError(f"{WHO}: model: '{model}' is no whole classifier: {text}; {cure}")


def _preprocessing(model: str, said: dict[str, Any]) -> Preprocessing:
    """What a processor says of itself, in our words; `_compare` sees whether that is true."""
    size = said.get("size") or {}
    resize: tuple[int, int] | int | None = None
    crop = said.get("crop_size") if said.get("do_center_crop") else None
    cut = (crop["height"], crop["width"]) if crop else None
    if said.get("do_resize"):
        short = size.get("shortest_edge")
        share = said.get("crop_pct")
        if short and share and short < 384:  # ConvNeXT's own way, above which it squashes
            resize, cut = int(short / share), (short, short)
        elif short and share:
            resize = (short, short)
        elif short:
            resize = short
        elif "height" in size and "width" in size:
            resize = (size["height"], size["width"])
    number = int(said.get("resample") or 2)
    if number not in _MODES or (said.get("do_resize") and resize is None):
        text = f"pictures are prepared for '{model}' in a way that is not known here"
        raise PartError(f"{WHO}: model: {text} (resample {number}, size {size})")
    normal = said.get("do_normalize")
    return Preprocessing(
        resize=resize,
        mode="bicubic" if _MODES[number] == "bicubic" else "bilinear",
        crop=cut,
        floored=True,
        mean=_three(said["image_mean"]) if normal else (0.0, 0.0, 0.0),
        std=_three(said["image_std"]) if normal else (1.0, 1.0, 1.0),
    )


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _compare(model: str, preprocessing: Preprocessing, processor: Any) -> None:
    """Refuse a processor that does something else with a picture than we do."""
    for height, width in ((420, 560), (90, 60)):
        picture = _waves(height, width)
        levels = picture.mul(255).round().byte()
        pil = Image.fromarray(np.asarray(levels.permute(1, 2, 0)))
        theirs = torch.as_tensor(np.asarray(processor(pil)["pixel_values"][0]))
        ours = preprocessing.apply(levels[None].float() / 255)[0]
        # Theirs is rounded to 8 bits on its way.
        allowed = 1.0 / (255 * min(preprocessing.std))
        if theirs.shape != ours.shape or (theirs - ours).abs().mean() > allowed:
            kind = type(processor).__name__
            text = f"'{model}' prepares pictures by {kind} in a way that is not known here"
            raise PartError(f"{WHO}: model: {text}; write a plugin for it")


def _waves(height: int, width: int) -> Tensor:
    """A smooth picture (3, height, width) in [0.1, 0.9] without symmetries."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    waves = [torch.sin(7 * x + 3 * y * k + k) * torch.cos(5 * y - k * x) for k in (1, 2, 3)]
    return 0.5 + 0.4 * torch.stack(waves)


def _first(error: BaseException) -> str:
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
