"""How many rows go through a part at once: as many as memory has room for, and no more than a cap.

Where chunks are cut changes results by float rounding alone. Which samples go through a loop
together never depends on free memory: that is `Chunks.cap`, in rows.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeVar, final

import attrs
import torch
from loguru import logger

from align.core.checks import checks_read_once
from align.core.errors import OutOfMemoryError

Result = TypeVar("Result")

_SHARE: Final = 0.75  # of the free memory; allocators lose some of it between their blocks
_SHORT: Final = re.compile(
    r"out of memory|alloc_failed|(can't|cannot|unable to) allocate|not enough memory", re.IGNORECASE
)


class Memory(Protocol):
    """The memory that the parts of a run compute in."""

    def free(self) -> float:
        """Bytes that there are yet."""

    def taken(self, call: Callable[[], object]) -> float:
        """The most bytes that are held at once while `call` runs, beyond what is held before."""


@final
@attrs.define(eq=False)
class Chunks:
    """Most rows that go through each part of a run at once.

    A part's first call says how much memory a row takes, by an extra row that is thrown away. If
    the cap does not fit into the free memory, it is halved until it does. It is halved again where
    memory turns out to be short after all. Where that row fails, the cap is taken.

    Attributes:
        cap: most rows of any part.
        memory: what the rows have to fit into; without it nothing is measured.
        before: rows of an earlier run with the same recipe, by part; never are more taken.
        rows: what was found, by part: "velocity", "decode", "reward 'x'", "gradient", ...
        changed: is called when `rows` has changed.
        measuring: whether a call goes on whose rows are thrown away; it counts for nobody.
    """

    cap: int = 1 << 20
    memory: Memory | None = None
    before: Mapping[str, int] = attrs.field(factory=dict)
    changed: Callable[[], None] = lambda: None
    rows: dict[str, int] = attrs.field(factory=dict, init=False)
    measuring: bool = attrs.field(default=False, init=False)

    def cut(
        self, part: str, count: int, call: Callable[[slice], Result], *, kept: bool = False
    ) -> list[Result]:
        """What `call` returns for slices that cover `count` rows, one after the other.

        Args:
            part: what the rows go through.
            count: of the rows.
            call: is given each slice.
            kept: whether each call's memory is held until all are done, as that of a graph is.
                Fewer rows at once then help nobody: what the caller cuts is cut instead.

        Raises:
            OutOfMemoryError: memory is too small for one row.
        """
        results, done = list[Result](), 0
        while done < count or not results:
            rows = slice(done, min(count, done + self._at_once(part, count, call, kept)))
            try:
                results.append(call(rows))
            except Exception as error:
                size = rows.stop - rows.start
                if not is_out_of_memory(error):
                    raise
                if size < 2 and not isinstance(error, OutOfMemoryError):
                    raise OutOfMemoryError(too_small(part, size)) from error
                if size < 2 or kept or self.measuring:
                    raise
            else:
                done = rows.stop
                continue
            # Beyond the handler nothing holds what the call had made so far.
            release()
            self._halve(part, size)
        return results

    def _at_once(self, part: str, count: int, call: Callable[[slice], object], kept: bool) -> int:
        """Rows of a part, found when it is first asked for several."""
        known = self.rows.get(part)
        if known is not None or self.memory is None or self.measuring or kept or count < 2:
            return known or self.cap
        self.rows[part] = self._fitting(call, self.memory)
        earlier = self.before.get(part, self.cap)
        if self.rows[part] < earlier < self.cap:
            text = "{}: memory is too small now for {} rows at once, as before; results differ by"
            logger.bind(notice=True).warning(f"{text} rounding", part, earlier)
        self.rows[part] = min(self.rows[part], earlier)
        self.changed()
        return self.rows[part]

    def _fitting(self, call: Callable[[slice], object], memory: Memory) -> int:
        """The cap, or the part of it that fits; one row is tried, and two if there is doubt.

        The part may fail with so few rows, and yet not with as many as it is asked for. So an error
        says nothing here: the call that follows has its own.
        """
        self.measuring = True
        try:
            with _generators_kept(), checks_read_once():
                one, room = memory.taken(lambda: call(slice(0, 1))), memory.free()
                if fitting(self.cap, 0.0, one, room) == self.cap:
                    return self.cap
                two = memory.taken(lambda: call(slice(0, 2)))
            return fitting(self.cap, 2 * one - two, two - one, room)
        except Exception as error:  # of anybody's part
            return 1 if is_out_of_memory(error) else self.cap
        finally:
            self.measuring = False

    def _halve(self, part: str, rows: int) -> None:
        self.rows[part] = fewer = rows // 2
        text = "{}: memory is too small for {} rows at once; from now on there are {}"
        logger.bind(notice=True).warning(text, part, rows, fewer)
        self.changed()


def _generators_kept() -> AbstractContextManager[None]:
    """A context at whose end torch's global generators are where they were."""
    used = torch.cuda.is_initialized()
    return torch.random.fork_rng(range(torch.cuda.device_count()) if used else ())


def chunks_of(cap: int | Chunks) -> Chunks:
    """Chunks with a cap, of which nothing is measured; chunks as they are."""
    return Chunks(cap) if isinstance(cap, int) else cap


def fitting(cap: int, fixed: float, row: float, room: float) -> int:
    """The cap, halved until so many rows fit into memory; at least 1.

    Args:
        cap: most rows.
        fixed: bytes of a call whatever its rows.
        row: bytes of each row.
        room: bytes that are free, of which a quarter is left alone.
    """
    rows = cap
    while rows > 1 and max(0.0, fixed) + rows * max(0.0, row) > _SHARE * room:
        rows //= 2
    return rows


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that memory is too small, of whatever device."""
    while error is not None:
        if isinstance(error, OutOfMemoryError | torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and _SHORT.search(str(error)):
            return True
        error = error.__cause__
    return False


def too_small(who: str, rows: int, cure: str = "") -> str:
    """A sentence on memory that does not suffice for so many rows, and what helps.

    Args:
        who: needs the memory.
        rows: that it was asked for.
        cure: what helps beside what helps everybody.
    """
    if rows > 1:
        text = f"{who}: the device's memory is too small for {rows} rows at once"
        cures = [f"set run.chunk to {max(1, rows // 4)}"]
    else:
        text = f"{who}: the device's memory is too small for a single row"
        cures = ["take a smaller model, reward or picture, weights of half their precision"]
    return f"{text}; {' or '.join([*cures, cure] if cure else cures)}"


def release() -> None:
    """Give back what nobody holds any more, so that a smaller call finds room."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
