"""Files that are there whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from align.core.errors import PartError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is written and on the disk.

    It is written beside its place and then renamed, so that a full disk or a killed process never
    leaves half a file. Whatever is raised meanwhile leaves `path` as it was, and nothing beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            # Without it a crash of the machine may keep the new name and lose the content.
            os.fsync(file.fileno())
        beside.replace(path)
        _keep(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes | str) -> None:
    """Replace `path` with these bytes, or with this text in UTF-8."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        PartError: the file is something else.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PartError(f"'{path}' is damaged: it is no text in UTF-8; remove it") from error


def read_table(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        PartError: the file holds something else.
    """
    return _table(path, read_text(path))


def read_tables(path: Path) -> list[dict[str, Any]]:
    """The objects in a file with one JSON object a line; none where there is no such file.

    Raises:
        PartError: the file holds something else.
    """
    lines = read_text(path).splitlines() if path.exists() else []
    return [_table(path, line) for line in lines]


def _table(path: Path, text: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except ValueError as error:
        raise PartError(f"'{path}' is damaged: {error}; remove it") from error
    if not isinstance(table, dict):
        raise PartError(f"'{path}' is damaged: it holds no JSON object; remove it")
    return table


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A folder that takes its place, where nothing is yet, once everything in it is written.

    What a killed process left of it is thrown away, and it is begun anew.
    """
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        beside.replace(folder)
        _keep(folder.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _keep(folder: Path) -> None:
    """Have the disk know the names in a folder, where the system can be asked to."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
