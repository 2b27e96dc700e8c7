"""Checkpoints of training runs: folders of safetensors files and one JSON file; no pickle is read.

A checkpoint after 200 steps is the folder `checkpoint-200` beside the weights of the run. Each
process writes its share of the tensors into a safetensors file, in the format of torch's
`HuggingFaceStorageWriter`, which any number of processes can read. The first process writes
`progress.json` last. The folder then takes its name, so that a run that is killed while it writes
leaves the checkpoint before it in place.

`progress.json` says of which recipe and arm the checkpoint is, and has a digest of every file, so
that nothing is taken as good that is not.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from align.core.errors import PartError
from align.io import files
from align.training import parallel

if TYPE_CHECKING:
    from torch.distributed.checkpoint.api import CheckpointException

PROGRESS: Final = "progress.json"
_NOBODY: Final[Mapping[str, str]] = MappingProxyType({})
_NAME: Final = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})")


def write(home: Path, saved: Mapping[str, Any], identity: Mapping[str, str] = _NOBODY) -> None:
    """Write what the engine saved, then remove older checkpoints; all processes must call it.

    Args:
        home: folder of the checkpoints.
        saved: "done", the number of steps; "flops" and "meter", the cost so far; "metrics", a
            digest of what was recorded of these steps, if anybody records; "state", tensors in
            mappings by name.
        identity: of which recipe and arm it is.

    Raises:
        PartError: it cannot be written; the checkpoint before it is in place.
    """
    folder = home / f"checkpoint-{saved['done']}"
    progress = {name: saved[name] for name in saved if name != "state"}
    progress["meter"] = parallel.total(saved["meter"])
    beside = folder.with_name(folder.name + ".part")
    with files.filling(folder) if parallel.first() else nullcontext(beside) as partial:
        parallel.barrier()  # from here on the folder is there
        _save(partial, saved["state"])
        if parallel.first():
            progress |= {"of": dict(identity), "files": _digests(partial)}
            text = json.dumps({**progress, "digest": _digest(progress)})
            files.write(partial / PROGRESS, text + "\n")
    if parallel.first():
        remove_older(home)
    parallel.barrier()  # from here on all processes see it


def read(home: Path, identity: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """The latest checkpoint in a folder, or None where there is none.

    "state" is the checkpoint's folder, for `fill`. Only the first process is given the calls that
    were counted so far, so that they are not counted once for each process.

    Args:
        home: folder of the checkpoints.
        identity: of which recipe and arm it must be; None if any will do.

    Raises:
        PartError: it is damaged, or of another recipe or arm.
    """
    folders = _folders(home)
    if not folders:
        return None
    done = max(folders)
    folder = folders[done]
    try:
        progress = files.read_table(folder / PROGRESS, "")
        if progress.pop("digest", None) != _digest(progress):
            raise ValueError(f"'{PROGRESS}' was changed")
        saved = {name: progress[name] for name in ("done", "flops", "meter")}
        saved["metrics"] = progress.get("metrics")
        of, digests = progress["of"], progress["files"]
        if saved["done"] != done:
            raise ValueError(f"it is of step {saved['done']}")
        if parallel.first():
            _check_files(folder, digests)
    except (PartError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(folder, error) from error
    if identity is not None and of != dict(identity):
        differing = " and ".join(name for name in identity if of.get(name) != identity[name])
        raise PartError(
            f"run.out: checkpoint '{folder}' is of another {differing}; move it away, or choose"
            " another folder"
        )
    if not parallel.first():
        saved["meter"] |= {name: {} for name in parallel.COUNTS}
    return {**saved, "state": folder}


def remove_older(home: Path) -> None:
    """Remove all checkpoints in a folder but the latest."""
    folders = _folders(home)
    for done, folder in folders.items():
        if done < max(folders):
            files.remove(folder)


def adopt(home: Path, source: Path, identity: Mapping[str, str]) -> None:
    """Take the latest checkpoint of another run as one's own, with what it says that it is of.

    Args:
        home: folder that it is copied to.
        source: folder of the other run's checkpoints; `read` has looked at it.
        identity: of which recipe and arm it is from now on.
    """
    done = max(_folders(source))
    with files.filling(home / f"checkpoint-{done}") as partial, files.writing(partial):
        for path in sorted(_folders(source)[done].iterdir()):
            if path.name != PROGRESS:
                shutil.copyfile(path, partial / path.name)
        progress = files.read_table(_folders(source)[done] / PROGRESS, "")
        progress.pop("digest")
        progress["of"] = dict(identity)
        text = json.dumps({**progress, "digest": _digest(progress)})
        files.write(partial / PROGRESS, text + "\n")


def steps_done(home: Path) -> int | None:
    """Number of steps of the latest checkpoint in a folder, or None where there is none."""
    return max(_folders(home), default=None)


def _digest(progress: Mapping[str, Any]) -> str:
    return files.digest(json.dumps(progress, sort_keys=True).encode())


def _digests(folder: Path) -> dict[str, str]:
    """Of every file that processes wrote, by name; the disk has them then."""
    digests = {}
    for path in sorted(folder.iterdir()):
        files.keep(path)
        digests[path.name] = files.digest(path)
    return digests


def _check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise ValueError for a file that is not as it was written."""
    there = {path.name: path for path in folder.iterdir() if path.name != PROGRESS}
    for name in sorted(there.keys() | digests.keys()):
        path = there.get(name)
        if path is None:
            raise ValueError(f"'{name}' is missing")
        if name not in digests:
            raise ValueError(f"'{name}' is not of it")
        if path.is_symlink():
            raise ValueError(f"'{name}' is a link")
        if not path.is_file() or files.digest(path) != digests[name]:
            raise ValueError(f"'{name}' is damaged")


@torch.no_grad()
def fill(tensors: Mapping[str, Any], saved: Mapping[str, Any] | Path) -> None:
    """Copy saved tensors into `tensors`, in place.

    Args:
        tensors: tensors in mappings by name; they may be sharded over other processes than when
            they were saved.
        saved: the folder of a checkpoint, or tensors in mappings as `tensors` has them.

    Raises:
        PartError: names or shapes differ, or the checkpoint cannot be read.
    """
    if isinstance(saved, Path):
        _load(saved, dict(_flattened(tensors)))
        return
    if tensors.keys() != saved.keys():
        raise _of_another_network(sorted(tensors.keys() ^ saved.keys()))
    for name, tensor in tensors.items():
        if isinstance(tensor, Mapping):
            fill(tensor, saved[name])
        else:
            tensor.copy_(saved[name])


def _folders(home: Path) -> dict[int, Path]:
    """Folders of complete checkpoints, by their number of steps; no links, which may lead away."""
    matches = ((path, _NAME.fullmatch(path.name)) for path in home.glob("checkpoint-*"))
    return {
        int(match[1]): path
        for path, match in matches
        if match and path.is_dir() and not path.is_symlink()
    }


def _save(folder: Path, state: Mapping[str, Any]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    tensors: dict[str, Tensor] = {}
    storages = set[int]()
    for name, tensor in _flattened(state):
        if not parallel.sharded(tensor):
            tensor = tensor.detach().cpu().contiguous()
            if tensor.untyped_storage().data_ptr() in storages:  # safetensors takes no shared ones
                tensor = tensor.clone()
            storages.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    writer.sync_files = False  # done by `_digests`, also where a mount refuses
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with files.writing(folder, size), _one_process_is_fine():
        try:
            save(tensors, storage_writer=writer, no_dist=parallel.count() == 1)
        except CheckpointException as error:  # no Exception, and of many lines
            raise _reason(error) from error


def _load(folder: Path, tensors: dict[str, Tensor]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        for path in folder.iterdir():
            if path.is_symlink():
                raise ValueError(f"'{path.name}' is a link")
        reader = HuggingFaceStorageReader(str(folder))
        stored: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    except Exception as error:
        raise _unreadable(folder, error) from error
    differing = tensors.keys() ^ stored.keys() or {
        name for name, tensor in tensors.items() if stored[name].size != tensor.shape
    }
    if differing:
        raise _of_another_network(sorted(differing))
    # Whole tensors are read on the CPU, where the files are, and copied to their device.
    targets = {
        name: tensor if parallel.sharded(tensor) else tensor.detach().cpu()
        for name, tensor in tensors.items()
    }
    try:
        with _one_process_is_fine():
            load(targets, storage_reader=reader, no_dist=parallel.count() == 1)
    except (Exception, CheckpointException) as error:  # torch's is no Exception
        raise _unreadable(folder, error) from error
    for name, target in targets.items():
        if target.device != tensors[name].device:
            tensors[name].copy_(target)


def _reason(error: CheckpointException) -> BaseException:
    """What torch's error is about: what went wrong in a process of the run."""
    return next((reason for reason, _ in error.failures.values()), error)


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    """Do not let torch warn that a checkpoint is for one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*in a single process")
        yield


def _flattened(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors with the names of the mappings that they are in."""
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _unreadable(folder: Path, error: BaseException) -> PartError:
    reason = (str(error) or type(error).__name__).partition("\n")[0].rstrip("; ")
    return PartError(f"run.out: checkpoint '{folder}' cannot be read ({reason}); remove it")


def _of_another_network(names: list[str]) -> PartError:
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return PartError(f"run.out: its checkpoint is of another network ({shown}); remove it")
