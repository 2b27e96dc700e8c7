"""The blocks of a run as jobs of a SLURM cluster."""

from __future__ import annotations

from align import Executor, hookimpl


@hookimpl
def align_executors() -> list[type[Executor]]:
    """The executor `slurm`."""
    from align_slurm.executor import Slurm

    return [Slurm]
