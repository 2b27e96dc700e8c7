"""Paths that a recipe names: where they lead, and what the files there hold."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Final, final

from align.io.files import digest as digest_of_file
from align.io.files import exists_as_file, exists_as_folder

# A folder with more small files than this counts by their names and sizes: such are data sets.
_SMALL: Final = 1 << 22  # bytes of a small file
_MANY: Final = 10_000
_LONG: Final = 1 << 30  # bytes of all small files

_RECIPE: Final[ContextVar[Path | None]] = ContextVar("folder of the recipe", default=None)


@final
class Typed(str):
    """A text of the command line, which as a path starts at the working folder alone."""

    __slots__ = ()


@contextmanager
def beside(folder: str | Path | None) -> Iterator[None]:
    """Look for relative paths in this folder too, which is that of a recipe; None for no other."""
    token = _RECIPE.set(None if folder is None else Path(absolute(str(folder))))
    try:
        yield
    finally:
        _RECIPE.reset(token)


def recipe_folder() -> str | None:
    """The folder of the recipe that is being read."""
    folder = _RECIPE.get()
    return None if folder is None else str(folder)


def located(text: str) -> str:
    """The absolute path of what a text names, beside the recipe or in the working folder.

    A text that leads nowhere stays as it is: it may be the name of something else.

    Raises:
        ValueError: both folders hold it, and not the same.
    """
    if not text:
        return text
    found = [path for path in (_joined(folder, text) for folder in _folders(text)) if leads(path)]
    if len(found) == 2 and not _same(*found):
        raise ValueError(
            f"'{found[0]}' and '{found[1]}' are both there, beside the recipe and in the working"
            " folder, and differ; write the whole path of one of them"
        )
    return found[0] if found else str(text)


def starts_beside(text: str, use: bool | str) -> bool:
    """Whether an option's text is a path that is looked for, and neither a module nor an output."""
    return use != "written" and (use != "code" or text.endswith(".py"))


def absolute(text: str) -> str:
    """The path that a text is, there or not, as the working folder sees it."""
    return _joined(str(Path.cwd()), text) if text else text


def seen_from(text: str) -> str:
    """The end of a message that nothing of this name is there: where it was looked for."""
    folders = [f"'{folder}'" for folder in _folders(text)]
    if Path(text).is_absolute() or not folders:
        return ""
    return ", as seen from " + " and from ".join(folders)


def is_pattern(path: str) -> bool:
    """Whether a path stands for several files, as 'x-{000..099}.tar' and 'x-*.tar' do."""
    there = exists_as_file(path) or exists_as_folder(path)
    return not there and bool(re.search(r"[{*?\[]", path))


def matches(pattern: str) -> list[str]:
    """The files that a pattern stands for, in order; a name that matches nothing is among them."""
    names = (sorted(glob.glob(name)) or [name] for name in _braces(pattern))  # noqa: PTH207
    return [file for group in names for file in group]


def content(
    path: str,
    digest: Callable[[Path], str] = digest_of_file,
    without: Sequence[str] = (),
) -> str:
    """Digest of a file, or of all files in a folder or of a pattern with their names.

    Many small files count by their names and sizes.

    Args:
        path: is there.
        digest: gives that of a single file.
        without: folders whose files do not count.

    Raises:
        OSError: a file cannot be read.
    """
    if exists_as_file(path):
        return digest(Path(path))
    inside = {
        name: (file, size)
        for name, (file, size) in files_in(path).items()
        if not any(file.is_relative_to(folder) for folder in without)
    }
    small = [size for _, size in inside.values() if size < _SMALL]
    by_size = len(small) > _MANY or sum(small) > _LONG
    known = [
        (name, size if by_size and size < _SMALL else digest(file))
        for name, (file, size) in sorted(inside.items())
    ]
    return digest_of_file(json.dumps(known).encode(errors="surrogateescape"))


def files_in(path: str) -> dict[str, tuple[Path, int]]:
    """The files in a folder or of a pattern, with their sizes, by their names seen from there."""
    if not exists_as_folder(path):
        files = [Path(file) for file in matches(path)]
        return {file.name: (file, file.stat().st_size) for file in files}
    found = dict[str, tuple[Path, int]]()
    for place, folders, names in os.walk(path, followlinks=True):
        folders[:] = [
            name for name in folders if name != "__pycache__" and not leads_up(place, name)
        ]
        for file in (Path(place, name) for name in names):
            if file.is_file():
                found[file.relative_to(path).as_posix()] = file, file.stat().st_size
    return found


def leads_up(place: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    link = Path(place, name)
    return link.is_symlink() and Path(place).resolve().is_relative_to(link.resolve())


def _folders(text: str) -> list[str]:
    """Where a path may start, the recipe's folder first."""
    folders = [] if isinstance(text, Typed) else [recipe_folder()]
    with suppress(OSError):  # it was removed
        folders.append(str(Path.cwd()))
    known = [folder for folder in folders if folder is not None]
    whole = os.path.isabs(os.path.expanduser(text))  # noqa: PTH111, PTH117  # any text
    return known[:1] if whole else list(dict.fromkeys(known))


def given(text: str) -> Path:
    """What somebody names outside of a recipe; ~ is a home, where there is one of that name."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  # `Path.expanduser` raises for others


def _joined(folder: str, text: str) -> str:
    path = Path(folder, os.path.expanduser(text))  # noqa: PTH111  # any text, also with NUL
    return str(path.resolve() if ".." in path.parts and leads(str(path)) else path)


def leads(path: str) -> bool:
    """Whether a file, a folder, or something of a pattern is there."""
    if exists_as_file(path) or exists_as_folder(path):
        return True
    return "\0" not in path and is_pattern(path) and any(map(exists_as_file, matches(path)))


def _same(one: str, other: str) -> bool:
    """Whether what two paths lead to holds the same."""
    if Path(one).exists() and Path(other).exists() and Path(one).samefile(other):
        return True
    if exists_as_folder(one) != exists_as_folder(other):
        return False
    try:
        return content(one) == content(other)
    except OSError:
        return False


def _braces(path: str) -> Iterator[str]:
    """'x-{08..10}.tar' as x-08.tar, x-09.tar, x-10.tar."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if not braces:
        yield path
        return
    before, after = path[: braces.start()], path[braces.end() :]
    for number in range(int(braces[1]), int(braces[2]) + 1):
        yield from _braces(f"{before}{number:0{len(braces[1])}}{after}")
