"""Finished blocks of a run in its folder; all processes of the run see it under the same path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import attrs
from loguru import logger

from align.core.errors import PartError
from align.core.executor import Task
from align.io import files
from align.recipe import Recipe
from align.runner.base_samples import BaseSampleSet, from_file, to_file
from align.runner.block import Block
from align.runner.folder import BLOCKS
from align.runner.samples import Samples
from align.training import parallel


@final
@attrs.frozen(eq=False)
class BlockStore:
    """Blocks by arm and by the number of their first sample.

    Of several processes that train together, the first one alone writes.

    Attributes:
        folder: the run folder.
        recipe: that is run.
        digest: of the recipe, by which blocks of another one are told.
        slugs: each arm's name as a folder's name.
    """

    folder: Path
    recipe: Recipe
    digest: str
    slugs: Mapping[str, str]

    def samples(self, arm: int) -> Samples:
        """Where the samples of an arm are."""
        slug = self.slugs[self.recipe.arms()[arm].name]
        return Samples(self.folder / "samples" / slug, self.recipe.run.samples)

    def write(self, arm: int, task: Task, block: Block) -> None:
        """Keep a block, which is there once its file has its name."""
        if not parallel.first():
            return
        if block.x1 is not None and block.data is not None:
            self.samples(arm).write_pictures(task.first, block.data)
        files.write(self._path(arm, task), block.packed(self._about(arm, task)))

    def read(self, arm: int, task: Task) -> Block:
        """A block that is done; raises PartError if it is not there."""
        block = self._found(arm, task)
        if block is None:
            text = f"'{self._path(arm, task)}' is gone or damaged"
            raise PartError(f"{text}; run the recipe again, which makes it anew")
        return block

    def holds(self, task: Task) -> bool:
        """Whether everything of a task is there and whole; what is damaged is removed."""
        if not task.arms:
            return self.bases() is not None
        found = [self._found(arm, task) for arm in task.arms]
        return None not in found

    def has(self, task: Task) -> bool:
        """Whether the files of a task have their names."""
        paths = [self._path(arm, task) for arm in task.arms] or [self._bases]
        return all(path.exists() for path in paths)

    def write_bases(self, bases: BaseSampleSet) -> None:
        """Keep what is known of samples of the base models."""
        if parallel.first():
            files.write(self._bases, to_file(bases))

    def bases(self) -> BaseSampleSet | None:
        """What is known of samples of the base models; None where there are none, or damaged."""
        if not self._bases.is_file():
            return None
        return from_file(self.recipe, self._bases.read_bytes())

    def clear(self) -> None:
        """Remove all blocks."""
        if parallel.first():
            files.remove(self.folder / BLOCKS)

    @property
    def _bases(self) -> Path:
        return self.folder / BLOCKS / "unsteered.safetensors"

    def _path(self, arm: int, task: Task) -> Path:
        slug = self.slugs[self.recipe.arms()[arm].name]
        return self.folder / BLOCKS / slug / f"{task.first}.safetensors"

    def _about(self, arm: int, task: Task) -> dict[str, Any]:
        """What a file says that it is of."""
        name = self.recipe.arms()[arm].name
        return {"recipe": self.digest, "arm": name, "first": task.first, "count": task.count}

    def _found(self, arm: int, task: Task) -> Block | None:
        path = self._path(arm, task)
        if not path.is_file():
            return None
        block = Block.unpacked(path.read_bytes(), self._about(arm, task))
        if block is None:
            logger.info("'{}' is damaged or of another run, and is made anew", path)
            files.remove(path)
        return block
