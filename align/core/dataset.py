"""Sets of clean data as training sees them: rows by number, each of a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from align.core.attribution import made
from align.core.model import Domain


def plain_name(name: str) -> str:
    """A class name without what may be written in two ways: capitals, and "_" for a space."""
    return name.lower().replace("_", " ")


class Dataset(ABC):
    """R rows of clean data, read when they are asked for.

    Worker processes read rows ahead, so a data set must survive pickling, and a row must be the
    same in every process.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: (C, H, W) of pictures, (D,) of vectors."""

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """The class of each row, counted from 0: (R,), int64."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by number; none where labels count through the model's classes."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def rows(self, numbers: Sequence[int]) -> Tensor:
        """The rows of these numbers: pictures (b, C, H, W), uint8, or vectors (b, D), floats.

        Raises:
            PartError: one of them cannot be read.
        """

    def row_name(self, number: int) -> str:
        """What messages call a row."""
        return f"row {number}"


@attrs.frozen(kw_only=True)
class DatasetSpec(ABC):
    """A data set as a recipe names it: options only, until `open` finds the rows.

    A kind whose rows are costly to read may have options `mirror`, `workers` and `latents`; they
    do what the properties of these names say.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def domain(self) -> Domain | None:
        """What its rows are: "image" or "vector"; None where it has no rows, only `latents`."""

    @abstractmethod
    def open(self, colours: int) -> Dataset:
        """The rows; pictures have 1 or 3 `colours`.

        Raises:
            PartError: there are none, or they cannot be found.
        """

    @property
    def name(self) -> str:
        """What messages call the data set."""
        return self.kind

    @property
    def mirror(self) -> bool:
        """Whether training also sees pictures mirrored, left to right."""
        return False

    @property
    def workers(self) -> int:
        """Number of processes that read rows ahead; 0 to read in the main process."""
        return 0

    @property
    def latents(self) -> str:
        """Folder that keeps the states that pictures are encoded to; empty to keep none."""
        return ""

    def fingerprint(self) -> Mapping[str, Any]:
        """What tells this set from others, as JSON values by name; kept beside its latents.

        The default is every option but `workers` and `latents`.
        """
        options = attrs.asdict(self)
        for name in ("workers", "latents"):  # they do not change the rows
            options.pop(name, None)
        return {"kind": self.kind} | options


def opened(spec: DatasetSpec, colours: int) -> Dataset:
    """What `spec.open` returns; see there for what it raises.

    Raises:
        ContractError: it returned no data set.
        PartError: it raised something else than a message to the user.
    """
    return made(f"dataset '{spec.kind}': open", lambda: spec.open(colours), Dataset)
