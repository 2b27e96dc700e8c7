"""How much memory there is, and how much a call takes."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import attrs
import torch

from align.engine.allocator import return_freed
from align.engine.cost import LivingBytes
from align.engine.flops import uncounted

_UNLIMITED: Final = 1 << 50
_GROUPS: Final = Path("/sys/fs/cgroup")
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_MACHINE: Final = Path("/proc/meminfo")
_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2: Final = ("memory.max", "memory.current", "inactive_file")


@final
@attrs.frozen(eq=False)
class DeviceMemory:
    """The memory of a device, or on a CPU what this process may have of it."""

    device: torch.device

    def free(self) -> float:
        """Bytes that there are yet."""
        if self.device.type != "cuda":
            return free()
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return float(torch.cuda.mem_get_info(self.device)[0] + unused)

    def taken(self, call: Callable[[], object]) -> float:
        """The most bytes of tensors that `call` holds at once, beyond those that it is given.

        Its operations are counted by nobody.
        """
        with uncounted(), LivingBytes() as living:
            call()
        return float(living.peak)


def available() -> float:
    """Bytes of memory that this process may have, whatever is in use."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    limits += [limit for limit, _ in _own_limits()] + [limit for limit, _ in _group_limits()]
    return min(limits)


def free() -> float:
    """Bytes of memory that this process may still have."""
    return_freed()
    machine = _of_file(_MACHINE, "MemAvailable:")
    rests = [available() if machine is None else 1024 * machine]
    rests += [limit - used for limit, used in (*_own_limits(), *_group_limits())]
    return max(0.0, min(rests))


def _own_limits() -> Iterator[tuple[float, float]]:
    """Bytes that the process may ask the system for, and that it has asked for."""
    for kind, name in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        limit = resource.getrlimit(kind)[0]
        if limit not in (resource.RLIM_INFINITY, -1) and limit < _UNLIMITED:
            yield float(limit), 1024 * (_of_file(Path("/proc/self/status"), name) or 0.0)


def _group_limits() -> Iterator[tuple[float, float]]:
    """Bytes that each control group around the process may have, and that it has."""
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            base, files = (_GROUPS / "memory", _V1) if controllers else (_GROUPS, _V2)
            inner = base / path.strip("/")
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(base):
                    yield from _limit(folder, *files)


def _limit(folder: Path, limit: str, used: str, idle: str) -> Iterator[tuple[float, float]]:
    """Limit and use of one control group, if it has a limit; files kept in memory do not count."""
    with suppress(OSError, ValueError):
        most = float((folder / limit).read_text())
        if most < _UNLIMITED:
            held = float((folder / used).read_text())
            yield most, held - (_of_file(folder / "memory.stat", idle) or 0.0)


def _of_file(path: Path, name: str) -> float | None:
    """The number after a name in a table of the system; None where there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            words = line.split()
            if words and words[0] == name:
                return float(words[1])
    return None
