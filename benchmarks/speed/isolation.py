"""What a reward in an interpreter of its own costs, and that it says the same.

The reward is a few operations of torch, so that what is measured is the way there and back. Times
are of the wall clock, since two processes take part.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from align import Reward, load_catalog, read_part
from align.rewards.python import Python
from benchmarks.speed.timing import CPU, Sizes, shortest
from benchmarks.table import Table

CODE = "def score(data, prompts):\n    return (data.sin() * data).flatten(1).sum(1)\n"


def scores(reward: Reward, data: Tensor) -> tuple[Tensor, ...]:
    """Scores alone."""
    return (reward.score(data, ["a cat"] * len(data)),)


def scores_and_gradient(reward: Reward, data: Tensor) -> tuple[Tensor, ...]:
    """Scores, and the gradient of their sum."""
    x = data.clone().requires_grad_()
    score = reward.score(x, ["a cat"] * len(x))
    (gradient,) = torch.autograd.grad(score.sum(), x)
    return score.detach(), gradient


def tables(sizes: Sizes) -> Iterator[Table]:
    """Milliseconds a call of scores, and of scores with the vector-Jacobian product."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reward.py"
        file.write_text(CODE)
        here = Python(file=str(file)).build(CPU)
        isolated = {
            "kind": "isolated",
            "venv": sys.prefix,
            "reward": {"kind": "python", "file": str(file)},
        }
        part = read_part("reward", isolated, load_catalog())
        try:
            yield table(here, part.build(CPU), sizes, "isolated")
        finally:
            part.close()


def table(here: Reward, there: Reward, sizes: Sizes, place: str) -> Table:
    """Of a reward in this process and the same one elsewhere."""
    head = ("pictures of 256x256", "what", "here, ms", f"{place}, ms", "more, ms", "same bits")
    return Table("", head, rows(here, there, sizes))


def rows(here: Reward, there: Reward, sizes: Sizes) -> Iterator[tuple[str, ...]]:
    """One row a number of pictures and kind of call."""
    calls: dict[str, Callable[[Reward, Tensor], tuple[Tensor, ...]]] = {
        "scores": scores,
        "and gradient": scores_and_gradient,
    }
    for count in (1,) if sizes.toy else (1, 8, 32):
        data = torch.rand(count, 3, 256, 256, generator=torch.Generator().manual_seed(0))
        for what, call in calls.items():
            same = all(map(torch.equal, call(here, data), call(there, data)))
            both = {"here": partial(call, here, data), "there": partial(call, there, data)}
            times = shortest(both, sizes.rounds, time.perf_counter)
            near, far = 1e3 * times["here"], 1e3 * times["there"]
            yield str(count), what, f"{near:.2f}", f"{far:.2f}", f"{far - near:.1f}", str(same)
