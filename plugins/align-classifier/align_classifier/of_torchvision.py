"""Image classifiers of torchvision."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from align import PartError, Streams, did_you_mean
from align.io.weights import load_strictly, read
from align_classifier.known import WHO, Known, Preprocessing
from align_classifier.torch_files import downloaded, place_of

# These two take pictures standardised otherwise than they were trained with, unless told so.
_TRANSFORMED: Final = frozenset({"googlenet", "inception_v3"})


def load(model: str, weights: str, revision: str, offline: bool) -> Known:
    """The classifier of an architecture's name, with weights in a file or released ones.

    Args:
        model: name of the architecture, such as "resnet50".
        weights: file of its weights; "" for released ones.
        revision: name of released weights, such as "IMAGENET1K_V2", which also say how pictures are
            prepared; "main" for torchvision's choice.
        offline: whether nothing may be downloaded.

    Raises:
        PartError: torchvision is missing, knows no such model or weights, or the weights do not
            fit or are not there.
    """
    models = _models()
    released = _released(models, model, revision)
    path = Path(weights).expanduser() if weights else downloaded(released.url, WHO, offline)
    if not path.is_file():
        raise PartError(f"{WHO}: weights: no file '{weights}', as seen from '{Path.cwd()}'")
    state = read(path, WHO)
    classes = _classes(state, path)
    options = {"transform_input": True} if model in _TRANSFORMED else {}
    if model in _TRANSFORMED:
        options["init_weights"] = False
    # Every weight is replaced right away.
    network = Streams(0, (), ("classifier",)).initialise(
        lambda: models.get_model(model, weights=None, num_classes=classes, **options)
    )
    load_strictly(network, state, path, f"{WHO}: weights")
    names = released.meta["categories"]
    labels = dict(enumerate(names)) if len(names) == classes else {}
    return Known(network, _preprocessing(released.transforms()), labels, classes)


def file_of(model: str, revision: str) -> Path | None:
    """The file of released weights, where it is stored already."""
    try:
        path = place_of(_released(_models(), model, revision).url)
    except PartError:
        return None
    return path if path.is_file() else None


def _models() -> Any:
    try:
        return import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:  # of another build than torch it raises the latter
        text = f"torchvision cannot be imported ({error})"
        cure = "install it from where your torch is from"
        raise PartError(f"{WHO}: {text}; {cure}") from error


def _released(models: Any, model: str, revision: str) -> Any:
    """An entry of torchvision's list of weights, if it is of a classifier."""
    known = models.list_models(module=models)
    if model not in known:
        raise PartError(
            f"{WHO}: model: torchvision has no classifier '{model}'; {did_you_mean(model, known)}"
        )
    entries = models.get_model_weights(model)
    if revision == "main":
        return entries.DEFAULT
    if revision not in entries.__members__:
        cure = did_you_mean(revision, list(entries.__members__))
        raise PartError(f"{WHO}: revision: '{model}' has no weights '{revision}'; {cure}")
    return entries[revision]


def _classes(state: dict[str, Tensor], path: Path) -> int:
    """Classes of a classifier: rows of its last matrix."""
    matrices = [x for name, x in state.items() if name.endswith("weight") and x.dim() > 1]
    if not matrices:
        raise PartError(f"{WHO}: weights: '{path}' has no weights of a classifier")
    return len(matrices[-1])


def _preprocessing(view: Any) -> Preprocessing:
    """torchvision's preprocessing for evaluation."""
    (short,), (side,) = view.resize_size, view.crop_size
    red, green, blue = view.mean
    first, second, third = view.std
    return Preprocessing(
        resize=short,
        mode="bicubic" if view.interpolation.value == "bicubic" else "bilinear",
        crop=(side, side),
        floored=False,
        mean=(red, green, blue),
        std=(first, second, third),
    )
