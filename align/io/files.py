"""A file is there whole, or not at all; what goes wrong is said in one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from align.core.errors import PartError

# What some network mounts answer where they cannot say whether a file is on the disk.
_NO_SYNC: Final = frozenset(
    {
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.ENOTTY,
        errno.EPERM,
        errno.EACCES,
        errno.EROFS,
    }
)
_TOO_LARGE: Final = "no file may be so large; raise the limit ('ulimit -f') or use another disk"
_REASONS: Final = {
    errno.EDQUOT: "your quota of the disk is used up; free some of it",
    errno.EFBIG: _TOO_LARGE,
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.EACCES: "you may not write there; choose another folder, or ask for the right",
    errno.EPERM: "you may not write there; choose another folder, or ask for the right",
    errno.EISDIR: "a folder is there; move it away",
    errno.ENOTDIR: "a file is where a folder should be; move it away",
    errno.EEXIST: "something else is there; move it away",
    errno.ENOTEMPTY: "a folder is there; move it away",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EMFILE: "too many files are open; raise the limit ('ulimit -n')",
    errno.ELOOP: "a link is there; remove it",
}


def first_link(folder: Path) -> Path | None:
    """A symbolic link somewhere in a folder, which may lead out of it; None if there is none.

    Raises:
        PartError: the folder cannot be read.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise PartError(f"'{folder}' cannot be read: {error.strerror or error}") from error
    for entry in entries:
        path = folder / entry.name
        if entry.is_symlink():
            return path
        if entry.is_dir(follow_symlinks=False) and (link := first_link(path)):
            return link
    return None


def exists_as_file(path: str | Path) -> bool:
    """Whether a file is there that can be looked at; no for names that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113  # `Path.is_file` raises for some of them


def exists_as_folder(path: str | Path) -> bool:
    """Whether a folder is there that can be looked at; no for names that no folder can have."""
    return os.path.isdir(path)  # noqa: PTH112  # `Path.is_dir` raises for some of them


@contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Say in one line why `path` cannot be written, in place of an OSError.

    Args:
        path: what is being written.
        size: how many bytes that takes, if it is known.

    Raises:
        PartError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise PartError(f"'{path}' cannot be written: {_reason(path, size, error)}") from error


def _reason(path: Path, size: int | None, error: OSError) -> str:
    """What is wrong, and what is needed."""
    if error.errno == errno.ENOSPC:
        needed = f"it takes {readable(size)}, and " if size else ""
        return f"the disk is full: {needed}{_free(path)}; free some, and start again"
    if error.errno in _REASONS:
        return _REASONS[error.errno]
    return f"{error.strerror or error}; choose another folder, or look at the disk"


def _free(path: Path) -> str:
    """How much room there is for a file."""
    there = next(folder for folder in path.absolute().parents if folder.is_dir())
    try:
        return f"{readable(shutil.disk_usage(there).free)} are free"
    except OSError:
        return "little is free"


def readable(size: int) -> str:
    """A number of bytes as people say it."""
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


@contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is written and on the disk.

    It is written beside its place and then renamed, so that a full disk or a killed process never
    leaves half a file. Whatever is raised meanwhile leaves `path` as it was, and nothing beside it.

    Raises:
        PartError: it cannot be written; says what is needed, and `size` bytes of it, if known.
    """
    beside = path.with_name(path.name + ".part")
    with writing(path, size):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove(beside)  # what a killed process left, or a link that leads elsewhere
            with beside.open("wb") as file:
                yield file
                file.flush()
                # Without it a crash of the machine may keep the new name and lose the content.
                sync(file.fileno())
            beside.replace(path)
            keep_names(path.parent)
        except BaseException:
            remove(beside)
            raise


def write(path: Path, content: bytes | str) -> None:
    """Replace `path` with these bytes, or with this text in UTF-8.

    Raises:
        PartError: it cannot be written.
    """
    if isinstance(content, str):  # letters of a command line that are none, as \\udcff
        content = content.encode(errors="backslashreplace")
    with replacing(path, len(content)) as file:
        file.write(content)


def append(path: Path, text: str) -> None:
    """Add text in UTF-8 to the end of a file.

    Raises:
        PartError: it cannot be written.
    """
    content = text.encode(errors="backslashreplace")
    with writing(path, len(content)), path.open("ab") as file:
        file.write(content)


def read_text(path: Path, cure: str = "remove it") -> str:
    """The text of a file in UTF-8.

    Raises:
        PartError: it cannot be read, or is something else; ends in what to do, the `cure`.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # its reading may never end
            raise PartError(f"'{path}' is a pipe or a device; {cure}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PartError(f"'{path}' is damaged: it is no text in UTF-8; {cure}") from error
    except FileNotFoundError as error:
        raise PartError(f"'{path}' is missing; {cure}") from error
    except OSError as error:
        raise PartError(f"'{path}' cannot be read: {error.strerror or error}; {cure}") from error


def read_table(path: Path, cure: str = "remove it") -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        PartError: the file holds something else.
    """
    return _table(str(path), read_text(path, cure), cure)


def read_tables(path: Path, cure: str = "remove it") -> list[dict[str, Any]]:
    """The objects in a file with one JSON object a line; none where there is no such file.

    A last line without an end is one that a killed run left unfinished; it is left out.

    Raises:
        PartError: the file holds something else.
    """
    if not os.path.lexists(path):
        return []
    whole, _, _ = read_text(path, cure).rpartition("\n")
    lines = enumerate(whole.split("\n") if whole else (), 1)
    return [_table(f"{path}:{number}", line, cure) for number, line in lines]


def _table(place: str, text: str, cure: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PartError(f"'{place}' is damaged: {error}; {cure}") from error
    if not isinstance(table, dict):
        raise PartError(f"'{place}' is damaged: it holds no JSON object; {cure}")
    return table


def digest(content: bytes | Path) -> str:
    """SHA-256 of these bytes, or of a file, in hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A folder that takes its place, where nothing is yet, once everything in it is written.

    What a killed process left of it is thrown away, and it is begun anew.

    Raises:
        PartError: the folder cannot be made.
    """
    beside = folder.with_name(folder.name + ".part")
    try:
        with writing(folder):
            remove(beside)
            beside.mkdir(parents=True)
        yield beside
        with writing(folder):
            beside.replace(folder)
            keep_names(folder.parent)
    except BaseException:
        remove(beside)
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that can be done; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # what was raised before says why


def sync(number: int) -> None:
    """Have the disk know what was written to a file, where the file system can be asked to."""
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def keep(path: Path) -> None:
    """Have the disk know what a file holds, where the file system can be asked to.

    Raises:
        PartError: it cannot be written.
    """
    with writing(path, path.stat().st_size), path.open("rb+") as file:
        sync(file.fileno())


def keep_names(folder: Path) -> None:
    """Have the disk know the names in a folder, where the system can be asked to."""
    if os.name == "posix":
        try:
            number = os.open(folder, os.O_RDONLY)
        except PermissionError:
            return  # one may write into a folder that one may not list
        try:
            sync(number)
        finally:
            os.close(number)
