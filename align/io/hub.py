"""Files of weights: a path as given, one in the cache of the Hugging Face hub, or a download."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from loguru import logger

from align.core.errors import PartError
from align.io.files import exists_as_file, exists_as_folder, readable
from align.io.text import shortened

_REPOSITORY: Final = re.compile(r"\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?")
_SUFFIXES: Final = frozenset({".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".json", ".txt"})


def is_id(text: str) -> bool:
    """Whether a text may be an id of the hub: "owner/name", where no folder `owner` is at hand.

    Beside such a folder it is a path, and where there is nothing there, a misspelt one.
    """
    whole = _REPOSITORY.fullmatch(text) is not None
    return whole and not exists_as_folder(Path(text.partition("/")[0]))


def located(
    weights: str,
    repo: str,
    files: tuple[str, ...],
    *,
    who: str,
    option: str = "weights",
    revision: str = "main",
    offline: bool = False,
) -> Path:
    """Where a file is: the first of `files` that a folder, the cache or the hub has.

    What is in the cache is taken without asking the network. Before a download its size is logged,
    marked with `notice` in loguru's `extra`: the command shows such lines, as nobody should wait
    for gigabytes without knowing why. The hub's own bar moves meanwhile.

    Args:
        weights: as the user gave it: a file, a folder, an id of the hub ("owner/name"), or "" for
            `repo`.
        repo: id of the hub that is meant by "".
        files: names that the file may have, the best first.
        who: the part that asks, for messages: "reward 'hpsv2'".
        option: its option that takes a path, for messages.
        revision: branch, tag or commit of the repository.
        offline: never download; nor is it done where HF_HUB_OFFLINE is set.

    Raises:
        PartError: in one line, what is missing and how to get it.
    """
    given = Path(weights).expanduser()
    if weights and exists_as_file(given):
        return given
    if weights and exists_as_folder(given):
        found = [given / file for file in files if (given / file).is_file()]
        if not found:
            raise PartError(f"{who}: {option}: folder '{weights}' has no {_either(files)}")
        return found[0]
    if weights and (not is_id(weights) or given.suffix in _SUFFIXES):
        raise PartError(
            f"{who}: {option}: no file '{shortened(weights, 200)}', as seen from '{Path.cwd()}'"
        )
    return _from_hub(weights or repo, files, who, option, revision, offline)


def stored(weights: str, revision: str = "main") -> Path | None:
    """The file or folder that an option names, or the folder in which the hub's cache has it.

    None where it is not there, as before a download; nothing is downloaded.

    Args:
        weights: a file, a folder, or an id of the hub.
        revision: branch, tag or commit of the repository.
    """
    given = Path(weights).expanduser()
    if weights and (exists_as_file(given) or exists_as_folder(given)):
        return given
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(weights, revision=revision, local_files_only=True))
    except (ImportError, OSError, ValueError):  # the hub's own errors are among them
        return None


def all_stored(*places: tuple[str, str]) -> tuple[Path, ...] | None:
    """Where each (weights, revision) is, as `stored` says; None where one is not there."""
    found = [stored(*place) for place in places]
    return None if None in found else tuple(path for path in found if path is not None)


def _from_hub(
    repo: str, files: tuple[str, ...], who: str, option: str, revision: str, offline: bool
) -> Path:
    try:
        from huggingface_hub import constants, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        cure = "run 'pip install huggingface_hub' or give a path"
        raise PartError(f"{who}: {option}: package huggingface_hub is missing; {cure}") from error
    try:
        cached = [try_to_load_from_cache(repo, file, revision=revision) for file in files]
    except ValueError as error:
        raise PartError(f"{who}: {option}: '{repo}' is no path and no id of the hub") from error
    if found := [path for path in cached if isinstance(path, str)]:
        return Path(found[0])
    pinned = "" if revision == "main" else f" --revision {revision}"
    cure = (
        f"run 'hf download {repo} {files[0]}{pinned}' where there is a network,"
        f' or give {option} = "path/to/{files[0]}"'
    )
    if offline or constants.HF_HUB_OFFLINE:
        why = "'offline' is set" if offline else "HF_HUB_OFFLINE is set"
        text = f"'{files[0]}' of '{repo}' is not in the cache, and {why}"
        raise PartError(f"{who}: {option}: {text}; {cure}")
    for file in files:
        try:
            return _downloaded(repo, file, revision, who)
        except Exception as error:  # of the hub, of two HTTP libraries and of the disk
            if isinstance(error, EntryNotFoundError) and not isinstance(
                error, LocalEntryNotFoundError
            ):
                continue
            text = f"cannot download '{file}' from '{repo}' ({_first_line(error)})"
            raise PartError(f"{who}: {option}: {text}; {cure}") from error
    raise PartError(f"{who}: {option}: '{repo}' on the hub has no {_either(files)}")


def _downloaded(repo: str, file: str, revision: str, who: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    size = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision)).size
    notice = logger.bind(notice=True)
    notice.info(
        "{}: downloading '{}' of '{}', {}",
        who,
        file,
        repo,
        readable(size) if size else "of unknown size",
    )
    return Path(hf_hub_download(repo, file, revision=revision))


def _first_line(error: Exception) -> str:
    """An error in one line: its kind, and the first line of its message."""
    message = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _either(files: tuple[str, ...]) -> str:
    return " or ".join(f"'{file}'" for file in files)
