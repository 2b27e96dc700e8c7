"""What a resumed run starts from, on the disk."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.errors import PartError
from align.io.files import replacing
from align.training import parallel


def write(path: Path, saved: Mapping[str, Any]) -> None:
    """Keep what the engine saved in the place of what is there; all processes must call it.

    A state that is spread over the processes goes into a folder beside the file, each of them
    writing its part. The file is written last and names the folder: until then the checkpoint
    before it is the one that counts, and after that it is thrown away.
    """
    kept = {**saved, "meter": parallel.total(saved["meter"])}
    folder = path.with_name(f"{path.stem}-{saved['done']}")
    if any(map(parallel.spread, _tensors(saved["state"]))):
        from torch.distributed.checkpoint.state_dict_saver import save

        save(saved["state"], checkpoint_id=folder)
        kept["state"] = {"folder": folder.name}
    if parallel.first():
        with replacing(path) as file:
            torch.save(kept, file)
        for old in path.parent.glob(f"{path.stem}-*"):
            if old.name != kept["state"].get("folder"):
                shutil.rmtree(old)


def read(path: Path) -> dict[str, Any] | None:
    """What was kept last, or None; of the costs so far, those that are this process's to report."""
    if not path.exists():
        return None
    saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if "folder" in saved["state"]:
        saved["state"]["folder"] = str(path.parent / saved["state"]["folder"])
    if not parallel.first():
        saved["meter"] |= {name: {} for name in parallel.COUNTS}
    return saved


@torch.no_grad()
def fill(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Copy saved tensors into one's own, which may be spread over other processes than before.

    Raises:
        PartError: they are not alike.
    """
    if "folder" in saved:
        from torch.distributed.checkpoint.state_dict_loader import load

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*load in a single process")  # it is meant
            load(dict(own), checkpoint_id=saved["folder"])
        return
    if own.keys() != saved.keys():
        odd = ", ".join(sorted(own.keys() ^ saved.keys()))
        raise PartError(f"run.out: its checkpoint is of another network ({odd}); remove it")
    for name, tensor in own.items():
        if isinstance(tensor, Mapping):
            fill(tensor, saved[name])
        elif parallel.spread(tensor):
            from torch.distributed.tensor import distribute_tensor

            full = saved[name].to(tensor.device)
            tensor.copy_(distribute_tensor(full, tensor.device_mesh, tensor.placements))
        else:
            tensor.copy_(saved[name])


def _tensors(state: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in state.values():
        if isinstance(value, Mapping):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value
