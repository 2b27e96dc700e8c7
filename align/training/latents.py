"""Training rows: clean states of a model, encoded once, with their classes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import attrs
import numpy as np
import torch
from loguru import logger
from torch import Tensor, distributed, nn

from align.core.chunks import Chunks
from align.core.dataset import Dataset, DatasetSpec, opened
from align.core.errors import PartError
from align.core.streams import Streams
from align.engine.memory import DeviceMemory
from align.io.files import filling, write
from align.training.data import AT_ONCE, NumbersOf, chunks, labels_of, order, renumbered


@final
@attrs.frozen(kw_only=True, eq=False)
class Encoding:
    """How rows of a data set become states of a model.

    Attributes:
        encode: pictures (b, C, H, W) in [0, 1] to states (b, *S); None where states are vectors.
        colours: channels C of a picture.
        fingerprint: tells `encode` from others, as text; None where there is no `encode`.
        shape: S, the shape of one state.
        classes: names of the model's classes; none where it knows no classes.
        numbers_of: see `renumbered`.
        device: where rows are encoded, and where labels live.
    """

    encode: Callable[[Tensor], Tensor] | None
    colours: int = 3
    fingerprint: Callable[[], str] | None = None
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    numbers_of: NumbersOf | None = None
    device: torch.device


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


def encoded(data: DatasetSpec, encoding: Encoding) -> Examples:
    """The rows of `data` as states of a model; their classes matter if the model has any.

    They are kept in memory, or in the folder `data.latents`: there they are written once, and
    mapped into memory from then on.

    Raises:
        PartError: the rows cannot be read, or the model cannot take them, or the folder's latents
            are of something else.
    """
    if not data.latents:
        dataset, labels = _opened(data, encoding)
        states = torch.empty(_shape(data, dataset, encoding), device=encoding.device)
        _encode(dataset, data.workers, encoding, states)
        return _examples(states, labels, encoding)
    folder = Path(data.latents)
    origin = _origin(data, encoding)
    if not (folder / "about.json").exists():
        _write(folder, data, encoding, origin)
    return _read(folder, data, encoding, origin)


def digest(module: nn.Module) -> str:
    """A digest of a module's weights: it tells them from others."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(content.numpy().tobytes())
    return found.hexdigest()


def _opened(data: DatasetSpec, encoding: Encoding) -> tuple[Dataset, Tensor]:
    """The rows and their labels (R,), which count through the model's classes."""
    if data.domain == "image" and encoding.encode is None:
        raise PartError(
            f"data: '{data.kind}' has pictures, and the model has no autoencoder that encodes them"
        )
    if data.domain == "vector" and encoding.encode is not None:
        raise PartError(f"data: '{data.kind}' has vectors, and the model encodes pictures")
    dataset = opened(data, encoding.colours)
    return dataset, labels_of(dataset, data.name, encoding.classes, encoding.numbers_of)


def _shape(data: DatasetSpec, dataset: Dataset, encoding: Encoding) -> tuple[int, ...]:
    """(V, R, *S)."""
    views = 2 if data.mirror and encoding.encode else 1
    return (views, len(dataset), *encoding.shape)


def _examples(states: Tensor, labels: Tensor, encoding: Encoding) -> Examples:
    labels = labels.to(torch.int64)
    labels = labels if encoding.classes else torch.zeros_like(labels)
    return Examples(states, labels.to(encoding.device), len(encoding.classes))


@torch.no_grad()
def _encode(dataset: Dataset, workers: int, encoding: Encoding, states: Tensor) -> None:
    """Fill `states` (V, R, *S), wherever they are."""
    tenths, pieces = 0, Chunks(AT_ONCE, DeviceMemory(encoding.device))
    for first, chunk in chunks(dataset, workers):
        last = first + len(chunk)
        for view in range(len(states)):
            rows = (chunk.flip(-1) if view else chunk).to(encoding.device)
            latents = of_pictures(rows, encoding.encode, pieces) if encoding.encode else rows
            if latents.shape[1:] != encoding.shape:
                raise PartError(_other_shape(chunk, latents, encoding))
            states[view, first:last] = latents
        if 10 * last // len(dataset) > tenths:
            tenths = 10 * last // len(dataset)
            noun = "pictures encoded" if encoding.encode else "rows read"
            logger.info("{} of {} {}", last, len(dataset), noun)


def of_pictures(rows: Tensor, encode: Callable[[Tensor], Tensor], pieces: Chunks) -> Tensor:
    """States of pictures from 0 to 255, as many at a time as memory has room for."""
    return torch.cat(pieces.cut("encode", len(rows), lambda cut: encode(rows[cut] / 255.0)))


def _other_shape(rows: Tensor, states: Tensor, encoding: Encoding) -> str:
    if encoding.encode is None:
        return (
            f"data: rows have the shape {tuple(states.shape[1:])},"
            f" but the model's states have {encoding.shape}"
        )
    return (
        f"data: pictures of size {tuple(rows.shape[1:])} become states"
        f" {tuple(states.shape[1:])}, but the model's are {encoding.shape}; set 'size'"
    )


def _origin(data: DatasetSpec, encoding: Encoding) -> dict[str, Any]:
    """What latents are made from, as far as it is known before they are."""
    origin: dict[str, Any] = {}
    if encoding.fingerprint is not None:
        origin["autoencoder"] = encoding.fingerprint()
    return origin | dict(data.fingerprint() if data.domain else {})


def _write(folder: Path, data: DatasetSpec, encoding: Encoding, origin: dict[str, Any]) -> None:
    """Encode into `folder`, which is there at the end or not at all.

    Of several processes of one training run the first does it, and the others wait.
    """
    if not data.domain:
        raise PartError(f"data.latents: no file '{folder / 'about.json'}'; set 'path' to make it")
    if folder.exists() and any(folder.iterdir()):
        raise PartError(f"data.latents: '{folder}' holds other things; name another folder")
    if distributed.is_initialized() and distributed.get_rank():
        while not (folder / "about.json").exists():
            time.sleep(1)
        return
    dataset, labels = _opened(data, encoding)
    shape = _shape(data, dataset, encoding)
    with filling(folder) as beside:
        needed, free = 4 * torch.Size(shape).numel(), shutil.disk_usage(beside).free
        if needed > free:
            raise PartError(
                f"data.latents: '{folder}' would need {needed / 1e9:.1f} GB,"
                f" and the disk has {free / 1e9:.1f} GB left"
            )
        mapped = np.lib.format.open_memmap(beside / "states.npy", "w+", np.float32, shape)
        _encode(dataset, data.workers, encoding, torch.from_numpy(mapped))
        mapped.flush()
        np.save(beside / "labels.npy", labels.numpy())
        about = {"classes": encoding.classes or dataset.classes, "made_from": origin}
        write(beside / "about.json", json.dumps(about, indent=1) + "\n")
    logger.info("latents in {}", folder)


def _read(folder: Path, data: DatasetSpec, encoding: Encoding, origin: dict[str, Any]) -> Examples:
    """Map the latents in `folder` into memory, if they are those asked for."""
    try:
        about = json.loads((folder / "about.json").read_text())
        states = np.load(folder / "states.npy", mmap_mode="r")
        labels, classes = np.load(folder / "labels.npy"), tuple(about["classes"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise PartError(f"data.latents: '{folder}' cannot be read: {error!r}") from error
    made_from = about.get("made_from", {})
    # Latents that come alone may leave out whose they are.
    asked = origin if data.domain else {k: v for k, v in origin.items() if k in made_from}
    odd = ", ".join(name for name, value in asked.items() if made_from.get(name) != value)
    if odd:
        raise PartError(
            f"data.latents: '{folder}' was made from something else ({odd});"
            " delete it, or name another folder"
        )
    for problem in _problems(states, labels, classes, encoding):
        raise PartError(f"data.latents: '{folder}' {problem}")
    numbers = torch.from_numpy(labels.astype(np.int64))
    if encoding.classes:
        numbers = renumbered(numbers, classes, encoding.classes, str(folder), encoding.numbers_of)
    with warnings.catch_warnings():
        # Nobody writes to them, which torch cannot know.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return _examples(torch.from_numpy(states), numbers, encoding)


def _problems(
    states: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], encoding: Encoding
) -> Iterator[str]:
    """What keeps arrays from being states of a model and their labels."""
    shape = encoding.shape
    if states.dtype not in (np.float16, np.float32, np.float64) or states.shape[2:] != shape:
        yield (
            f"has states {states.shape} of type {states.dtype},"
            f" expected floats (views, rows, {', '.join(map(str, shape))})"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != states.shape[1:2]:
        yield f"has labels {labels.shape} of type {labels.dtype}, expected one integer a row"
    elif not states.size:
        yield "has no rows"
    elif encoding.classes and not (labels.min() >= 0 and labels.max() < len(classes)):
        yield f"has labels out of range: about.json names {len(classes)} classes, counted from 0"
