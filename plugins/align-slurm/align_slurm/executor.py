"""Jobs of submitit: each has a share of a run, and what one leaves undone is sent again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

import attrs
from loguru import logger

from align import Executor, Job, PartError, Task, Watch, at_least, option, performed
from align.core.executor import Failure

_POLL: Final = 0.5  # seconds between two looks at the files of blocks


@final
@attrs.frozen(kw_only=True)
class Slurm(Executor):
    """Jobs of a SLURM cluster.

    The blocks of a run are shared out among `workers` jobs, which submitit sends as one array. A
    job that ends before its blocks are done, as it was killed or its time is over, leaves them to
    another, which is sent at most `retries` times. The run folder must lie on a disk that all nodes
    see; what jobs print is in its folder `jobs`.
    """

    kind: ClassVar[str] = "slurm"

    workers: int = option("jobs that share the blocks", default=4, check=at_least(1))
    partition: str = option("partition of the cluster; its default if empty", default="")
    minutes: int = option("time that a job may take", default=60, check=at_least(1))
    gpus: int = option("GPUs of a job", default=0, check=at_least(0))
    memory: int = option("GB of a job; the cluster's default if 0", default=0, check=at_least(0))
    threads: int = option("cores of a job, and torch's threads", default=1, check=at_least(1))
    sbatch: dict[str, str] = option(
        "further options of sbatch, such as { account = 'mine', constraint = 'a100' }",
        default=attrs.Factory(dict),
    )
    retries: int = option(
        "how often jobs are sent again for blocks that were left undone",
        default=2,
        check=at_least(0),
    )
    cluster: Literal["slurm", "local", "debug"] = option(
        "where jobs run: on the cluster, or to try it out as processes here, or in this process",
        default="slurm",
    )

    def run(self, job: Job, tasks: Sequence[Task], watch: Watch) -> None:
        """Have all tasks done; see `Executor.run`."""
        import submitit

        folder = Path(getattr(job, "folder", ".")).absolute() / "jobs"
        executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster)
        executor.update_parameters(**self._parameters())
        left = list(tasks)
        for attempt in range(1 + self.retries):
            if not left:
                return
            if attempt:
                text = "{} blocks were left undone by their jobs, and are sent again"
                logger.bind(notice=True).warning(text, len(left))
            shares = [left[n :: self.workers] for n in range(min(self.workers, len(left)))]
            jobs = [_Share(job, tuple(share), self.threads) for share in shares]
            with _sent(executor, jobs) as sent:
                left = _watched(sent, job, left, watch)
        if left:
            raise PartError(
                f"run.on: {left[0].name} was left undone by {1 + self.retries} jobs, one after the"
                f" other; '{folder}' has what they printed: raise run.on.minutes or run.on.memory,"
                " or take a smaller run.block; what is finished is kept"
            )

    def _parameters(self) -> dict[str, Any]:
        """As submitit names them; those that are left out are the cluster's own."""
        parameters: dict[str, Any] = {
            "name": "align",
            "timeout_min": self.minutes,
            "cpus_per_task": self.threads,
            "gpus_per_node": self.gpus,
            "mem_gb": self.memory or None,
            "slurm_partition": self.partition or None,
            "slurm_additional_parameters": dict(self.sbatch) or None,
        }
        return {name: value for name, value in parameters.items() if value is not None}


@final
@attrs.frozen
class _Share:
    """What one job does: tasks one after the other, without those that are done already."""

    job: Job
    tasks: tuple[Task, ...]
    threads: int

    def __call__(self) -> list[tuple[Task, Failure]]:
        """Do the tasks; the first that fails ends the job, and is what it returns."""
        import torch

        torch.set_num_threads(self.threads)
        for task in self.tasks:
            if not self.job.is_done(task) and (failure := performed(self.job, task)):
                return [(task, failure)]
        return []


@contextmanager
def _sent(executor: Any, shares: Sequence[_Share]) -> Iterator[list[Any]]:
    """Jobs that are sent as one array; they are cancelled when the context is left early."""
    with executor.batch():
        jobs = [executor.submit(share) for share in shares]
    try:
        yield jobs
    except BaseException:
        for job in jobs:
            job.cancel(check=False)
        raise


def _watched(sent: Sequence[Any], job: Job, tasks: Sequence[Task], watch: Watch) -> list[Task]:
    """Tell which tasks are done, until all jobs have ended; returns those that are not.

    Raises:
        AlignError: what a task raised.
    """
    left, running = list(tasks), list(sent)
    while left:
        watch.check()
        ended = [each for each in running if each.done()]
        for each in ended:
            _raise_failure(each)
        for task in [task for task in left if job.is_done(task)]:
            left.remove(task)
            watch.done(task)
        running = [each for each in running if each not in ended]
        if not running:
            break
        time.sleep(_POLL)
    return left


def _raise_failure(ended: Any) -> None:
    """Raise what a task of a job has raised; a job that was killed has said nothing."""
    if ended.exception() is not None:
        logger.info("job {} has failed: {}", ended.job_id, ended.exception())
        return
    for task, failure in ended.result():
        raise failure.error(task.name)
