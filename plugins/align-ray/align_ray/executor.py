"""Actors of Ray, each of which holds the model and the rewards, and makes block after block."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final, final

import attrs
from loguru import logger

from align import Executor, Job, PartError, Task, Watch, at_least, option, performed
from align.core.executor import Failure

_POLL: Final = 0.2  # seconds between two looks whether the user wants the run to stop
_STORE: Final = 100_000_000  # bytes of the object store of a local cluster; results go to the disk
_QUIET: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@final
@attrs.frozen(kw_only=True)
class RayActors(Executor):
    """Actors of a Ray cluster.

    Each holds the model and the rewards, and makes one block after another. Without an `address`
    a cluster is started on this machine, which listens to this machine alone, and is ended with the
    run. An actor that dies is started again by Ray, elsewhere where its node is gone, and its block
    is made again; where the whole cluster on this machine is lost, it is started again. The run
    folder must lie on a disk that all nodes see.
    """

    kind: ClassVar[str] = "ray"

    address: str = option(
        "of a cluster, such as 'auto' or 'ray://head:10001'; one is started here if empty",
        default="",
    )
    workers: int = option("number of actors", default=2, check=at_least(1))
    gpus: float = option("GPUs of each actor", default=0.0, check=at_least(0))
    threads: int = option("cores of each actor, and torch's threads", default=1, check=at_least(1))
    retries: int = option(
        "how often an actor is started again, a block made again, and a cluster started again",
        default=2,
        check=at_least(0),
    )

    def run(self, job: Job, tasks: Sequence[Task], watch: Watch) -> None:
        """Have all tasks done; see `Executor.run`."""
        ray = _imported()
        left, lost = list(tasks), ""
        for _ in range(1 + self.retries):
            if not left:
                return
            watch.check()
            try:
                with self.cluster():
                    self._work(ray, job, left, watch)
            except (ray.exceptions.RayError, ConnectionError) as error:
                lost = str(error).strip().partition("\n")[0] or type(error).__name__
                logger.bind(notice=True).warning("Ray has lost its actors ({})", lost)
        if left:
            text = f"run.on: Ray has lost the actors that made {left[0].name} ({lost})"
            cure = "fewer of run.on.workers or run.chunk take less memory"
            raise PartError(f"{text}; {cure}; what is finished is kept")

    def _work(self, ray: Any, job: Job, left: list[Task], watch: Watch) -> None:
        """Have tasks done by actors, and take those that are done out of `left`."""
        actor = ray.remote(_Actor).options(
            num_cpus=self.threads,
            num_gpus=self.gpus,
            max_restarts=self.retries,
            max_task_retries=self.retries,
        )
        waiting, running = list(left), dict[Any, tuple[Any, Task]]()
        idle = [actor.remote(job, self.threads) for _ in range(min(self.workers, len(waiting)))]
        actors = [*idle]
        try:
            while waiting or running:
                while waiting and idle:
                    one, task = idle.pop(), waiting.pop(0)
                    running[one.perform.remote(task)] = one, task
                watch.check()
                for ended in ray.wait([*running], timeout=_POLL)[0]:
                    one, task = running.pop(ended)
                    failure: Failure | None = ray.get(ended)
                    if failure:
                        raise failure.error(task.name)
                    left.remove(task)
                    idle.append(one)
                    watch.done(task)
        finally:
            for one in actors:
                with suppress(Exception):  # the cluster may be gone
                    ray.kill(one)

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """The cluster of the options, which this process leaves again; one it has is used."""
        ray = _imported()
        if ray.is_initialized():
            yield
            return
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        options: dict[str, Any] = {"address": self.address}
        if not self.address:
            options = {
                "address": "local",
                "num_cpus": self.workers * self.threads,
                "include_dashboard": False,
                "object_store_memory": _STORE,
                "_node_ip_address": "127.0.0.1",
            }
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray raises Exception itself too
            where = f"'{self.address}'" if self.address else "a cluster on this machine"
            raise PartError(f"run.on.address: Ray cannot reach {where}: {error}") from error
        try:
            yield
        finally:
            with suppress(Exception):  # it may be gone
                ray.shutdown()


def _imported() -> Any:
    """Ray, which does not end this process together with a node process that it has lost.

    Where the process that started this one is gone, as after nohup, Ray takes that for the end of
    its node process unless it is named another one that lives.
    """
    os.environ.setdefault("RAY_RAYLET_PID", str(os.getpid()))
    import ray

    return ray


@final
class _Actor:
    """Does tasks in a process of Ray's."""

    def __init__(self, job: Job, threads: int) -> None:
        """Keep the job; what it needs is loaded for the first task."""
        import torch

        torch.set_num_threads(threads)
        self._job = job

    def perform(self, task: Task) -> Failure | None:
        """Do a task; what it raised, if it did."""
        return performed(self._job, task)
