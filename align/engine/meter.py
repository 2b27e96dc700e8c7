"""What a run costs: calls, floating-point operations, seconds and memory."""

from __future__ import annotations

import re
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, final

import attrs
import torch
from torch import Tensor

from align.engine.allocator import return_freed
from align.engine.flops import counted


@final
@attrs.frozen(kw_only=True)
class Cost:
    """Cost of a run; a call is one row through one part, whatever the batch.

    Attributes:
        calls: rows through the model's parts, "network" and "decoder".
        backward: rows differentiated, by the same parts.
        reward_calls: rows scored, by the reward's name.
        reward_backward: scores differentiated, by the reward's name.
        reward_seconds: time that scoring took, by the reward's name.
        flops: floating-point operations by torch's counter. Sampling: those of each part's first
            call stand for all its calls, a backward pass through a frozen part counting as much
            as the forward pass. Training: those of the first step stand for every step.
        seconds: wall-clock time.
        warmup_seconds: the part of it that an arm spends because nothing has run before: what the
            first call of each part took longer than its second, a row. Training: what the first
            step took longer than later ones.
        step_seconds: the median time of a step after the first.
        memory: peak memory, bytes: of the process on a CPU, of torch's allocator on a GPU.
    """

    calls: dict[str, int] = attrs.field(factory=dict)
    backward: dict[str, int] = attrs.field(factory=dict)
    reward_calls: dict[str, int] = attrs.field(factory=dict)
    reward_backward: dict[str, int] = attrs.field(factory=dict)
    reward_seconds: dict[str, float] = attrs.field(factory=dict)
    flops: int = 0
    seconds: float = 0.0
    memory: int = 0
    warmup_seconds: float = 0.0
    step_seconds: float = 0.0

    @property
    def steady_seconds(self) -> float:
        """Seconds without those of warming up, so that the first arm compares with the others."""
        return max(0.0, self.seconds - self.warmup_seconds)

    @property
    def nfe(self) -> int:
        """Rows through the network, forward and backward."""
        return self.calls.get("network", 0) + self.backward.get("network", 0)

    @property
    def rewards(self) -> int:
        """Rows through all rewards, forward and backward."""
        return sum(self.reward_calls.values()) + sum(self.reward_backward.values())

    def price(self, prices: Mapping[str, float]) -> float:
        """Money that its scores cost.

        Args:
            prices: of a score, by the reward's name.
        """
        return sum(prices.get(name, 0.0) * calls for name, calls in self.reward_calls.items())


@attrs.define
class Tally:
    """Counts the calls of parts that are told apart by name."""

    calls: Counter[str] = attrs.field(factory=Counter)
    backward: Counter[str] = attrs.field(factory=Counter)
    row_flops: dict[str, float] = attrs.field(factory=dict)
    seconds: dict[str, float] = attrs.field(factory=lambda: defaultdict(float))
    """Of all calls, as far as the part did not go on in the background."""
    first_calls: dict[str, tuple[int, float]] = attrs.field(factory=dict)
    """Rows and seconds of the first call of parts that were called once."""
    warmup_seconds: float = 0.0

    def count(self, part: str, result: Tensor, per_row: int = 1) -> Tensor:
        """Count the calls of `result`'s rows, and again when a gradient passes through it."""
        rows = len(result) * per_row
        self.calls[part] += rows

        def passed(gradient: Tensor) -> None:
            self.backward[part] += rows

        if result.requires_grad:
            result.register_hook(passed)
        return result

    def measured(self, part: str, rows: int, call: Callable[[], Tensor]) -> Tensor:
        """The result of `call`, which is timed; its operations count if it is the part's first."""
        began = time.perf_counter()
        try:
            return self._counted(part, rows, call)
        finally:
            self.seconds[part] += time.perf_counter() - began

    def _counted(self, part: str, rows: int, call: Callable[[], Tensor]) -> Tensor:
        began = time.perf_counter()
        if part in self.first_calls:
            result = call()
            first_rows, seconds = self.first_calls.pop(part)
            usual = (time.perf_counter() - began) * first_rows / max(1, rows)
            self.warmup_seconds += max(0.0, seconds - usual)
            return result
        if part in self.row_flops:
            return call()
        with counted() as counter:
            result = call()
        self.row_flops[part] = counter.total / max(1, rows)
        self.first_calls[part] = rows, time.perf_counter() - began
        return result

    @property
    def flops(self) -> float:
        """Operations of all calls."""
        passes = self.calls + self.backward
        return sum(flops * passes[part] for part, flops in self.row_flops.items())


@final
@attrs.define
class Meter(Tally):
    """Counts while a run goes on: the model's parts itself, and rewards in a tally of their own."""

    rewards: Tally = attrs.field(factory=Tally)
    step_flops: int | None = None
    began: float = attrs.field(factory=time.perf_counter)
    memory: int = 0
    steps: list[float] = attrs.field(factory=list)
    """Seconds of each step."""
    first_step_is_slow: bool = False
    """Whether operations are counted in the first step, and not in the first call of each part."""

    def save(self, device: torch.device) -> dict[str, Any]:
        """What has been counted, in plain numbers, for `restore` in another process."""
        cost = attrs.asdict(self.cost(device))
        del cost["flops"]
        flops = {"row_flops": self.row_flops, "reward_flops": self.rewards.row_flops}
        return {**cost, **{name: dict(rows) for name, rows in flops.items()}}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self.calls.update(saved["calls"])
        self.backward.update(saved["backward"])
        self.row_flops.update(saved["row_flops"])
        self.rewards.calls.update(saved["reward_calls"])
        self.rewards.backward.update(saved["reward_backward"])
        self.rewards.row_flops.update(saved["reward_flops"])
        for name, seconds in saved.get("reward_seconds", {}).items():
            self.rewards.seconds[name] += seconds
        self.began -= saved["seconds"]
        self.memory = max(self.memory, saved["memory"])
        self.warmup_seconds += saved.get("warmup_seconds", 0.0)

    def forget(self) -> None:
        """Count anew; what is known of a row of each part stays."""
        for tally in (self, self.rewards):
            tally.calls.clear()
            tally.backward.clear()
            tally.warmup_seconds = 0.0
        self.steps.clear()
        self.memory, self.step_flops, self.first_step_is_slow = 0, None, False

    def begin(self) -> None:
        """Start the clock anew: loading weights is not part of a run's cost."""
        self.began = time.perf_counter()

    @contextmanager
    def uncharged(self) -> Iterator[None]:
        """Stop the clock for what is no part of the run's cost."""
        began = time.perf_counter()
        yield
        self.began += time.perf_counter() - began

    @contextmanager
    def step_timed(self, *, slow: bool = False) -> Iterator[None]:
        """Take the time of a step; a `slow` one counts its operations on the way."""
        began = time.perf_counter()
        yield
        self.first_step_is_slow |= slow
        self.steps.append(time.perf_counter() - began)

    @property
    def _warmup(self) -> float:
        if not self.first_step_is_slow or not self.steps:
            return self.warmup_seconds
        return self.warmup_seconds + max(0.0, self.steps[0] - self.usual_step)

    @property
    def usual_step(self) -> float:
        """The median time of a step, without the first where there are others."""
        return median(self.steps[1:] or self.steps or [0.0])

    def cost(self, device: torch.device) -> Cost:
        """The cost so far."""
        flops = int(self.flops + self.rewards.flops)
        return Cost(
            calls=dict(self.calls),
            backward=dict(self.backward),
            reward_calls=dict(self.rewards.calls),
            reward_backward=dict(self.rewards.backward),
            reward_seconds=dict(self.rewards.seconds),
            flops=flops if self.step_flops is None else self.step_flops,
            seconds=time.perf_counter() - self.began,
            memory=max(self.memory, peak_memory(device)),
            warmup_seconds=self._warmup + self.rewards.warmup_seconds,
            step_seconds=self.usual_step,
        )


def shares(planned: Cost, meter: Meter) -> Callable[[], float]:
    """What has been made, of all calls that were planned, as a number from 0 to 1."""

    def calls(*counted: dict[str, int]) -> int:
        return sum(sum(rows.copy().values()) for rows in counted)

    cost, rewards = planned, meter.rewards
    total = calls(cost.calls, cost.backward, cost.reward_calls, cost.reward_backward)

    def share() -> float:
        made = calls(meter.calls, meter.backward, rewards.calls, rewards.backward)
        return min(1.0, made / max(1, total))

    return share


def forget_peak(device: torch.device) -> None:
    """Start to measure the peak of memory anew, where the system lets us."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        return_freed()
        # Linux: 5 sets the peak of the resident set back to its present size.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes since `forget_peak`, or of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if peak:
            return 1024 * int(peak[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_now(device: torch.device) -> int:
    """Bytes that are taken now, of what `peak_memory` has the peak of."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return_freed()
    with suppress(OSError):
        size = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if size:
            return 1024 * int(size[1])
    return peak_memory(device)
