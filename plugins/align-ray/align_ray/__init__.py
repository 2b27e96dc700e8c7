"""The blocks of a run by actors of Ray."""

from __future__ import annotations

from align import Executor, hookimpl


@hookimpl
def align_executors() -> list[type[Executor]]:
    """The executor `ray`."""
    from align_ray.executor import RayActors

    return [RayActors]
