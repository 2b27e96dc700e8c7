"""What a reward in an interpreter of its own costs, and that it says the same.

    python benchmarks/isolation.py

The reward is a few operations of torch, so that what is measured is the way there and back. Prints
milliseconds a call of scores, and of scores with the vector-Jacobian product, here and isolated.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from align import Reward, load_catalog, read_part
from align.rewards.python import Python

CODE = "def score(data, prompts):\n    return (data.sin() * data).flatten(1).sum(1)\n"


def milliseconds(call: Callable[[], object], rounds: int = 15) -> float:
    """Median time of a call."""
    call()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def both(reward: Reward, data: Tensor) -> tuple[Tensor, Tensor]:
    """Scores, and the gradient of their sum."""
    x = data.clone().requires_grad_()
    score = reward.score(x, ["a cat"] * len(x))
    (gradient,) = torch.autograd.grad(score.sum(), x)
    return score.detach(), gradient


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reward.py"
        file.write_text(CODE)
        here = Python(file=str(file)).build(cpu)
        table = {"kind": "python", "file": str(file)}
        isolated = {"kind": "isolated", "venv": sys.prefix, "reward": table}
        part = read_part("reward", isolated, load_catalog())
        there = part.build(cpu)
        print("| pictures of 256x256 | what | here, ms | isolated, ms | more, ms | same bits |")
        print("|---|---|---|---|---|---|")
        for count in (1, 8, 32):
            data = torch.rand(count, 3, 256, 256, generator=torch.Generator().manual_seed(0))
            prompts = ["a cat"] * count
            for what, call in (
                ("scores", lambda r, x=data, p=prompts: (r.score(x, p),)),
                ("and gradient", lambda r, x=data: both(r, x)),
            ):
                same = all(map(torch.equal, call(here), call(there)))
                own, far = (milliseconds(lambda r=r, c=call: c(r)) for r in (here, there))
                row = f"{count} | {what} | {own:.2f} | {far:.2f} | {far - own:.1f} | {same}"
                print(f"| {row} |", flush=True)
        part.close()


if __name__ == "__main__":
    main()
