"""The files that a recipe reads, and whether they are still as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from align.catalog.tables import inputs, kept_folders
from align.core.errors import PartError
from align.core.option import ConfigError
from align.io import paths
from align.io.cache import Cache
from align.io.files import digest as digest_of_file
from align.recipe.schema import Recipe


def file_digests(recipe: Recipe) -> dict[str, str]:
    """Digests of all that a recipe reads, by absolute paths; folders and patterns have one each.

    What a run itself writes into such a folder, such as latents of pictures, does not count.

    Raises:
        PartError: a file cannot be read.
    """
    written = (*kept_folders(recipe), recipe.run.out)
    return digests_of(recipe, written, cached=recipe.run.cache)


def digests_of(part: Any, without: Iterable[str] = (), *, cached: bool = True) -> dict[str, str]:
    """Digests of all that a part, or an object with parts, reads, by absolute paths.

    Args:
        part: an attrs object.
        without: files and folders that do not count.
        cached: whether digests of large files are kept from time to time.

    Raises:
        PartError: a file cannot be read.
    """
    cache, found = Cache.of_user(), dict[str, str]()
    written = [str(Path(path).absolute()) for path in without]
    digest = cache.digest if cache and cached else digest_of_file
    for path in _paths(part):
        try:
            found[path] = paths.content(path, digest, written)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise PartError(f"'{path}' cannot be read: {reason}") from error
    return found


def changed_files(recipe: Recipe) -> Iterator[ConfigError]:
    """A mistake for each file of a resolved recipe that is not what it was."""
    if not recipe.files:
        return
    now = file_digests(recipe)
    for path, was in recipe.files.items():
        if now.get(paths.located(path), was) != was:
            text = "it has changed since this recipe was resolved; put it back, or take this line"
            yield ConfigError(("files", path), f"{text} out to read it as it is")


def _paths(part: Any) -> list[str]:
    found = set[str]()
    for path, code in inputs(part).items():
        found |= {str(file) for file in code}
        found |= {path} if paths.leads(path) else set()
    return sorted(str(Path(path).absolute()) for path in found)
