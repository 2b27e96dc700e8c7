"""Who watches a run: the record, the progress bar, the plugins, and whoever asks it to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import attrs
from loguru import logger

from align.catalog.registry import Catalog
from align.core.errors import PluginError, TerminatedError, UserInterrupt
from align.core.mode import Info, Trainable
from align.engine.loop import Observer
from align.recipe import Arm
from align.runner.film import Film
from align.runner.progress import Progress
from align.runner.record import Record
from align.runner.tracking import Tracking
from align.training import parallel


@final
@attrs.define(eq=False)
class RunObserver:
    """Tells the record, the progress bar and the plugins how a run goes on.

    Args:
        record: the run folder.
        catalog: of the plugins.
        bar: the progress bar.
        checkpoint_every: number of steps between checkpoints.
        tracking: the trackers of the recipe.
    """

    record: Record
    catalog: Catalog
    bar: Progress
    checkpoint_every: int
    tracking: Tracking
    hook_errors: list[PluginError] = attrs.field(factory=list, init=False)
    """Why plugins are not told any more how the run goes on."""
    stopping: Callable[[], bool] = attrs.field(default=lambda: False, init=False)
    """Whether the run is to stop: after Ctrl-C."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show the progress bar, and let a signal end the run after the step under way."""
        with stop_after_step() as stopping, self.bar:
            self.stopping = stopping
            yield

    def begin(self) -> None:
        """Tell the plugins that the run begins."""
        if parallel.first():
            self._tell("align_run_start", run=self.record)
        self.raise_hook_errors()

    def end(self, result: object, error: BaseException | None) -> None:
        """Tell trackers, record and plugins how the run ended: with a result, or with an error."""
        status, stopped = "done", isinstance(error, KeyboardInterrupt)
        if error is not None:
            status = "interrupted" if stopped else f"failed: {type(error).__name__}: {error}"
        try:
            try:
                if parallel.first():
                    self.tracking.end(error)
            finally:
                self.record.close(status)
            if parallel.first():
                self._tell("align_run_end", run=self.record, result=result, error=error)
        finally:
            # Nobody needs the folder of a run that failed before it had made anything.
            self.record.release(discard=error is not None and not stopped)

    def step(self, arm: str, index: int, state: object, info: Info) -> None:
        """Tell the trackers and the plugins that a step of an arm is done."""
        if parallel.first():
            self.tracking.step(arm, index, info)
            self._tell("align_step", run=self.record, index=index, state=state, info=info)

    def raise_hook_errors(self) -> None:
        """Raise PluginError if a plugin failed when it was told about the run."""
        if self.hook_errors:
            raise PluginError("\n".join(map(str, self.hook_errors)))

    def _tell(self, hook: str, **facts: Any) -> None:
        """Call a hook of every plugin; one that fails is not called again, and the run goes on."""
        failed = self.catalog.notify(hook, **facts)
        for error in failed:
            logger.bind(notice=True).warning("{}; it is told no more about this run", error)
        self.hook_errors += failed

    def base_samples(self, done: int, count: int) -> None:
        """Show how many unsteered samples there are, and stop there if the user asks."""
        self.bar.step("unsteered samples", done - 1, count, {})
        if self.stopping():
            raise UserInterrupt

    def measuring(self, part: str) -> None:
        """Stop before a part is measured, if the user asks."""
        if self.stopping():
            raise UserInterrupt

    def of(
        self, arm: Arm, share: Callable[[], float] | None = None, film: Film | None = None
    ) -> ArmObserver:
        """What watches one arm, and makes a film of it.

        `share` says what is done of it, from 0 to 1, within steps too.
        """
        self.bar.begin(arm.name, arm.mode.steps, share)
        batch = arm.mode.batch if isinstance(arm.mode, Trainable) else 0
        return ArmObserver(self, arm.name, batch, film)

    def of_block(self, arm: Arm, number: int, count: int) -> BlockObserver:
        """What watches block `number` of the `count` of an arm."""
        self.bar.begin(arm.name, count * arm.mode.steps)
        return BlockObserver(self, arm.name, number, count)

    def told(self, arm: Arm, infos: Sequence[Info]) -> None:
        """Keep what steps say that were taken elsewhere, or in several blocks."""
        for index, info in enumerate(infos):
            self.record.step(arm.name, index, info)
            self.step(arm.name, index, None, info)


@final
@attrs.frozen(eq=False)
class ArmObserver(Observer):
    """Watches one arm of a run.

    Args:
        run: watches the whole run.
        arm: its name.
        rows: of data that a step trains on, for the progress bar.
        film: makes pictures on the way of what samples.
    """

    run: RunObserver
    arm: str
    rows: int
    film: Film | None = None

    def step(self, index: int, steps: int, state: object, info: Info) -> None:
        """Keep the step's numbers and pictures, and show the numbers."""
        record = self.run.record
        if self.film is not None:
            info = self.film.seen(index, steps, info)
        record.step(self.arm, index, info)
        self.run.bar.step(self.arm, index, steps, info.numbers, self.rows)
        self.run.step(self.arm, index, state, info)

    def due(self, index: int) -> bool:
        """Whether a checkpoint is wanted: every so many steps."""
        return (index + 1) % self.run.checkpoint_every == 0

    def stopping(self) -> bool:
        """Whether the run is to stop: after Ctrl-C."""
        return self.run.stopping()

    def checkpoint(self, saved: dict[str, Any]) -> None:
        """Keep the checkpoint in the run folder."""
        self.run.record.checkpoint(self.arm, saved)


@final
@attrs.frozen(eq=False)
class BlockObserver(Observer):
    """Watches one of several blocks of an arm, whose steps are told once all are done.

    Args:
        run: watches the whole run.
        arm: its name.
        number: of the block.
        count: of all blocks.
    """

    run: RunObserver
    arm: str
    number: int
    count: int

    def step(self, index: int, steps: int, state: object, info: Info) -> None:
        """Show the step among those of all blocks."""
        done = self.number * steps + index
        self.run.bar.step(self.arm, done, self.count * steps, info.numbers)

    def due(self, index: int) -> bool:
        """No checkpoint is ever wanted."""
        return False

    def stopping(self) -> bool:
        """Whether the run is to stop: after Ctrl-C."""
        return self.run.stopping()

    def checkpoint(self, saved: dict[str, Any]) -> None:
        """Keep nothing of the checkpoint."""


@final
@attrs.frozen(eq=False)
class Listener(Observer):
    """Keeps what the steps of a run say, and tells another observer.

    Args:
        other: is told everything.
        film: makes pictures on the way of what samples.
    """

    other: Observer
    film: Film | None = None
    infos: list[Info] = attrs.field(factory=list, init=False)

    def step(self, index: int, steps: int, state: object, info: Info) -> None:
        """Keep what the step says, with a picture if it is one to look at."""
        if self.film is not None:
            info = self.film.seen(index, steps, info)
        info = attrs.evolve(info, draws=None)
        self.infos.append(info)
        self.other.step(index, steps, state, info)

    def due(self, index: int) -> bool:
        """Whether the other wants a checkpoint."""
        return self.other.due(index)

    def stopping(self) -> bool:
        """Whether the other was asked to stop."""
        return self.other.stopping()

    def checkpoint(self, saved: dict[str, Any]) -> None:
        """Hand the checkpoint on."""
        self.other.checkpoint(saved)


@final
@attrs.frozen
class NullObserver(Observer):
    """Watches without a record."""

    def step(self, index: int, steps: int, state: object, info: Info) -> None:
        """Keep nothing of the step."""

    def due(self, index: int) -> bool:
        """No checkpoint is ever wanted."""
        return False

    def stopping(self) -> bool:
        """The run is never asked to stop."""
        return False

    def checkpoint(self, saved: dict[str, Any]) -> None:
        """Keep nothing of the checkpoint."""


def _ending() -> list[signal.Signals]:
    """Signals that batch systems, torchrun and closed terminals send to end a process.

    Those that the process was told to ignore, as `nohup` does, are left out.
    """
    named = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))
    return [kind for kind in named if kind and signal.getsignal(kind) != signal.SIG_IGN]


@contextmanager
def _handled(kinds: Iterable[signal.Signals], handler: Callable[..., None]) -> Iterator[None]:
    """Have signals call something; nothing is changed outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.signal(kind, handler) for kind in kinds}
    try:
        yield
    finally:
        for kind, earlier in before.items():
            signal.signal(kind, earlier)


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Let signals that end a process raise TerminatedError, so that what is open is closed."""

    def end(kind: int, _: object) -> None:
        raise TerminatedError(kind)

    with _handled(_ending(), end):
        yield


@contextmanager
def stop_after_step() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP end the step under way, and a second one at once.

    Several processes all stop after the same step.

    Raises:
        TerminatedError: in place of KeyboardInterrupt, if it was not Ctrl-C.
    """
    asked: list[int] = []

    def ask(kind: int, _: object) -> None:
        asked.append(kind)
        if len(asked) > 1:
            raise UserInterrupt

    with _handled((signal.SIGINT, *_ending()), ask):
        try:
            yield lambda: parallel.any_process(bool(asked))
        except KeyboardInterrupt as error:
            if asked and asked[0] != signal.SIGINT:
                raise TerminatedError(asked[0]) from error
            raise
