"""Training rows: clean states of a model, encoded once, with their classes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import attrs
import numpy as np
import torch
from loguru import logger
from torch import Tensor, distributed, nn

from align.core.streams import Streams
from align.errors import PartError
from align.io.files import filling, write
from align.models.network_model import NetworkModel
from align.training.data import Pictures, PictureSet, chunks, find, order
from align.training.sources import match_classes, plain, signature


@final
@attrs.frozen(eq=False)
class Examples:
    """Clean states (V, R, *S) in V views (plain, and mirrored), and classes (R,).

    Label `null_label` means "no class". Rows go to where the labels are; the states may be
    elsewhere, and of another precision: on the disk, mapped into memory.
    """

    states: Tensor
    labels: Tensor
    null_label: int

    def rows(self, streams: Streams, dropout: float) -> tuple[Tensor, Tensor]:
        """States (b, *S), float32, and labels (b,) of the rows of training that `streams` numbers.

        A share `dropout` of the labels is replaced by "no class".
        """
        device = self.labels.device
        rows = order(streams.fold_in("order"), self.states.shape[1], torch.tensor(streams.samples))
        view = (streams.fold_in("view").uniform(()) * len(self.states)).long()
        states = self.states[view.to(self.states.device), rows.to(self.states.device)]
        dropped = streams.fold_in("dropout").uniform(()) < dropout
        labels = torch.where(dropped.to(device), self.null_label, self.labels[rows.to(device)])
        return states.to(device, torch.float32), labels


def encoded(data: Pictures, model: NetworkModel) -> Examples:
    """The pictures of `data` as states of `model`; their classes matter if the model has any.

    They are kept in memory, or in the folder `data.latents`: there they are written once, and
    mapped into memory from then on.

    Raises:
        PartError: the pictures cannot be had, or the folder's latents are of something else.
    """
    if not data.latents:
        found = _found(data, model)
        states = torch.empty(_shape(data, model, found), device=model.device)
        _encode(found, data, model, states)
        return _examples(states, found.index.labels, model)
    folder = Path(data.latents)
    origin = _origin(data, model)
    if not (folder / "about.json").exists():
        _write(folder, data, model, origin)
    return _read(folder, origin, model)


def _found(data: Pictures, model: NetworkModel) -> PictureSet:
    return find(data, model.require_autoencoder().config.colours, model.classes)


def _shape(data: Pictures, model: NetworkModel, found: PictureSet) -> tuple[int, ...]:
    return (2 if data.mirror else 1, len(found), *model.shape)


def _examples(states: Tensor, labels: np.ndarray, model: NetworkModel) -> Examples:
    named = torch.from_numpy(labels.astype(np.int64))
    named = named if model.classes else torch.zeros_like(named)
    return Examples(states, named.to(model.device), len(model.classes))


@torch.no_grad()
def _encode(found: PictureSet, data: Pictures, model: NetworkModel, states: Tensor) -> None:
    """Fill `states` (V, R, *S), wherever they are."""
    autoencoder, said = model.require_autoencoder(), 0
    for first, chunk in chunks(found, data.workers):
        last = first + len(chunk)
        for view in range(len(states)):
            seen = chunk.flip(-1) if view else chunk
            latents = autoencoder.encode(seen.to(model.device) / 255.0)
            if latents.shape[1:] != model.shape:
                raise PartError(
                    f"data: pictures of size {tuple(chunk.shape[1:])} become states"
                    f" {tuple(latents.shape[1:])}, but the model's are {model.shape}; set 'size'"
                )
            states[view, first:last] = latents
        if 10 * last // len(found) > said:
            said = 10 * last // len(found)
            logger.info("{} of {} pictures encoded", last, len(found))


def _origin(data: Pictures, model: NetworkModel) -> dict[str, Any]:
    """What latents are made from, as far as it is known before they are."""
    autoencoder = model.autoencoder
    origin: dict[str, Any] = {"autoencoder": _digest(autoencoder)} if autoencoder else {}
    if data.path:
        origin |= {"files": signature(data.path, data.split), "split": data.split}
        origin |= {"mirror": data.mirror, "size": data.size}
    return origin


def _digest(module: nn.Module) -> str:
    """Tells weights from others."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()


def _write(folder: Path, data: Pictures, model: NetworkModel, origin: dict[str, Any]) -> None:
    """Encode into `folder`, which is there at the end or not at all.

    Of several processes of one training run the first does it, and the others wait.
    """
    if not data.path:
        raise PartError(f"data.latents: no file '{folder / 'about.json'}'; set 'path' to make it")
    if folder.exists() and any(folder.iterdir()):
        raise PartError(f"data.latents: '{folder}' holds other things; name another folder")
    if distributed.is_initialized() and distributed.get_rank():
        while not (folder / "about.json").exists():
            time.sleep(1)
        return
    found = _found(data, model)
    shape = _shape(data, model, found)
    with filling(folder) as beside:
        needed, free = 4 * torch.Size(shape).numel(), shutil.disk_usage(beside).free
        if needed > free:
            raise PartError(
                f"data.latents: '{folder}' would need {needed / 1e9:.1f} GB,"
                f" and the disk has {free / 1e9:.1f} GB left"
            )
        mapped = np.lib.format.open_memmap(beside / "states.npy", "w+", np.float32, shape)
        _encode(found, data, model, torch.from_numpy(mapped))
        mapped.flush()
        np.save(beside / "labels.npy", found.index.labels)
        about = {"classes": found.index.classes, "made_from": origin}
        write(beside / "about.json", json.dumps(about, indent=1) + "\n")
    logger.info("latents in {}", folder)


def _read(folder: Path, origin: dict[str, Any], model: NetworkModel) -> Examples:
    """Map the latents in `folder` into memory, if they are those asked for."""
    try:
        about = json.loads((folder / "about.json").read_text())
        states = np.load(folder / "states.npy", mmap_mode="r")
        labels, classes = np.load(folder / "labels.npy"), tuple(about["classes"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise PartError(f"data.latents: '{folder}' cannot be read: {error!r}") from error
    for problem in _problems(states, labels, classes, about.get("made_from", {}), origin, model):
        raise PartError(f"data.latents: '{folder}' {problem}")
    if model.classes:
        number = match_classes(f"'{folder}'", {plain(name) for name in classes}, model.classes)
        labels = np.array([number[plain(name)] for name in classes])[labels]
    with warnings.catch_warnings():
        # Nobody writes to them, which torch cannot know.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return _examples(torch.from_numpy(states), labels, model)


def _problems(
    states: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    made_from: dict[str, Any],
    origin: dict[str, Any],
    model: NetworkModel,
) -> Iterator[str]:
    """What keeps latents from being those asked for."""
    # Latents that come alone may leave out whose they are.
    asked = origin if "files" in origin else {k: v for k, v in origin.items() if k in made_from}
    odd = ", ".join(name for name, value in asked.items() if made_from.get(name) != value)
    if odd:
        yield f"was made from something else ({odd}); delete it, or name another folder"
    if states.dtype not in (np.float16, np.float32, np.float64) or states.shape[2:] != model.shape:
        yield (
            f"has states {states.shape} of type {states.dtype},"
            f" expected floats (views, rows, {', '.join(map(str, model.shape))})"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != states.shape[1:2]:
        yield f"has labels {labels.shape} of type {labels.dtype}, expected one integer a row"
    elif not states.size:
        yield "has no rows"
    elif model.classes and not (labels.min() >= 0 and labels.max() < len(classes)):
        yield f"has labels out of range: about.json names {len(classes)} classes, counted from 0"
