"""What a run costs: calls, floating-point operations, seconds and memory."""

from __future__ import annotations

import re
import resource
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import final

import attrs
import torch
from torch import Tensor


@final
@attrs.frozen
class Cost:
    """Cost of a run; a call is one row through one part, whatever the batch.

    Attributes:
        calls: rows evaluated, by part: "network", "decoder", and each reward's name.
        backward: rows differentiated, by part.
        flops: floating-point operations by torch's counter; those of the first step stand for
            those of every step, which do the same work.
        seconds: wall-clock time.
        memory: peak memory, bytes: of the process on a CPU, of torch's allocator on a GPU.
    """

    calls: dict[str, int]
    backward: dict[str, int]
    flops: int
    seconds: float
    memory: int


@final
@attrs.define
class Meter:
    """Counts while a run goes on."""

    calls: Counter[str] = attrs.field(factory=Counter)
    backward: Counter[str] = attrs.field(factory=Counter)
    flops: int = 0
    began: float = attrs.field(factory=time.perf_counter)

    def count(self, part: str, result: Tensor) -> Tensor:
        """Count the rows of `result`, and again when a gradient passes through it."""
        rows = len(result)
        self.calls[part] += rows

        def passed(gradient: Tensor) -> None:
            self.backward[part] += rows

        if result.requires_grad:
            result.register_hook(passed)
        return result

    def cost(self, device: torch.device) -> Cost:
        """The cost so far."""
        seconds = time.perf_counter() - self.began
        memory = peak_memory(device)
        return Cost(dict(self.calls), dict(self.backward), self.flops, seconds, memory)


def forget_peak(device: torch.device) -> None:
    """Start to measure the peak of memory anew, where the system lets us."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
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
