"""What steering costs beside the network and reward calls that it is made of, and in memory.

Peak memory is that of processes of their own: `python -m benchmarks.speed.steering DRAWS ROWS`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from align_pocket import Pocket, SilhouetteClass
from torch import Tensor

from align.core.mode import AlignmentMode
from align.core.model import FlowModel, NoisyState
from align.core.problem import Problem
from align.core.reward import Reward, Term, WeightedReward
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.loop import execute
from align.engine.meter import Meter, peak_memory
from align.estimators.gradient import Gradient
from align.models.network_model import NetworkModel
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.recipe import Arm, RewardTerm, Run
from align.runner.build import Rewards, build
from align.runner.observers import NullObserver
from align.samplers.dps import DPS
from align.samplers.mfm import MetaFlowMap
from benchmarks.speed.timing import CPU, Sizes, ratio
from benchmarks.table import Table

ROOT = Path(__file__).parents[2]


class Near(Reward):
    """−‖x‖² of latents: a reward that costs nothing."""

    def score(self, data: Tensor, prompts: object) -> Tensor:
        """Score latents (B, ...)."""
        return -data.flatten(1).square().sum(1)


def steered(problem: Problem, mode: AlignmentMode[Any], rows: int) -> None:
    """Run a mode through the engine, as `align run` does."""
    meter = problem.model.meter if isinstance(problem.model, GuardedModel) else Meter()
    streams = Streams(0, tuple(range(rows)))
    execute(mode, problem, streams, meter=meter, observer=NullObserver())


def loop(problem: Problem, steps: int, rows: int, draws: int) -> Tensor:
    """MFM-G written out with nothing around it: the same calls, torch's own random numbers."""
    model, score = problem.model.capability(NetworkModel), problem.reward.terms[0]
    assert model is not None
    torch.manual_seed(0)
    device = model.device
    x = torch.randn(rows, *model.shape, device=device)
    cond = model.encode(problem.cond.prompts)
    many = cond.tile(draws)
    reward = getattr(score.reward, "inner", score.reward)
    for step in range(steps):
        time_ = 0.01 + 0.99 * step / steps
        t = torch.full((rows,), time_, device=device)
        with torch.no_grad():
            velocity = model.velocity(x, t, cond)
        leaf = x.repeat(draws, *[1] * (x.dim() - 1)).requires_grad_()
        noisy = NoisyState(leaf, t.repeat(draws), many)
        zero = torch.zeros(draws * rows, device=device)
        one = torch.ones_like(zero)
        x1 = model.posterior_jump(torch.randn_like(leaf), zero, one, noisy)
        r = score.weight * reward.score(model.decode(x1), many.prompts)
        (reward_grads,) = torch.autograd.grad(r.sum(), leaf)
        w = torch.softmax(r.detach().reshape(draws, rows), 0).reshape(draws, rows, 1, 1, 1)
        gradient = (w * reward_grads.reshape(draws, *x.shape)).sum(0)
        x = x + 0.99 / steps * (velocity + (1 - time_) / time_ * gradient)
    return x


def pocket(rows: int, draws: int, chunk: int = 0) -> Problem:
    """The silhouettes of cats with MFM-G, ready to run."""
    sampler, estimator = MetaFlowMap(), Gradient(draws=draws)
    mode: AlignmentMode[object] = Steer(steps=1)  # type: ignore[assignment]
    arm = Arm(name="", model=Pocket(prompt="cat"), sampler=sampler, estimator=estimator, mode=mode)
    term = RewardTerm(part=SilhouetteClass(label="cat"), weight=2.0, name="cat")
    return build(arm, Rewards((term,), CPU), Run(samples=rows, chunk=chunk)).problem


def latents(rows: int) -> Problem:
    """The flow of `pocket` on bare latents, with a reward that costs nothing, and DPS."""
    inner = Pocket(prompt="cat").build(CPU)
    assert isinstance(inner, NetworkModel)
    model = GuardedModel(attrs.evolve(inner, autoencoder=None), "latents", Meter(), 1 << 20)
    reward = WeightedReward((Term(name="near", reward=Near(), weight=0.01),))
    cond = model.encode(["cat"] * rows)
    return Problem(model, reward, DPS(), Gradient(draws=1), cond)


def forward(model: FlowModel, problem: Problem, steps: int, rows: int) -> None:
    """The flow's forward passes of as many steps."""
    x = torch.zeros(rows, *model.shape)
    with torch.no_grad():
        for step in range(steps):
            model.velocity(x, torch.full((rows,), step / steps), problem.cond)


def there_and_back(model: FlowModel, problem: Problem, steps: int, rows: int) -> None:
    """DPS on bare latents with nothing around it: a pass that keeps its graph, and the way back."""
    torch.manual_seed(0)
    x = torch.randn(rows, *model.shape)
    for step in range(steps):
        time_ = 0.01 + 0.99 * step / steps
        leaf = x.requires_grad_()
        velocity = model.velocity(leaf, torch.full((rows,), time_), problem.cond)
        x1 = leaf + (1 - time_) * velocity
        (gradient,) = torch.autograd.grad(-0.01 * x1.square().sum(), leaf)
        x = (leaf + 0.99 / steps * (velocity + (1 - time_) / time_ * gradient)).detach()


def peak(draws: int, rows: int) -> int:
    """Peak memory of two steps of MFM-G, bytes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.steering", str(draws), str(rows)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return int(finished.stdout)


def tables(sizes: Sizes) -> Iterator[Table]:
    """Ratios of time, then of memory."""
    rows, steps = sizes.rows, sizes.steps
    size = f"{rows} samples, {steps} steps, shortest of {sizes.rounds} rounds"
    yield Table(f"Steering: {size}", ("what", "ratio", "bound"), times(sizes))
    yield Table("Peak memory", ("what", "ratio", "bound"), memory(rows, sizes.toy))


def times(sizes: Sizes) -> Iterator[tuple[str, str, str]]:
    """MFM-G over a bare loop; DPS over forward passes."""
    rows, steps, rounds = sizes.rows, sizes.steps, sizes.rounds
    for draws in (1, 4):
        problem = pocket(rows, draws)
        over = ratio(
            partial(steered, problem, Steer(steps=steps), rows),
            partial(loop, problem, steps, rows, draws),
            rounds,
        )
        yield f"`steer`, MFM-G with {draws}, over a bare loop", f"{over:.3f}", "1.05"
    search, n = pocket(1, 1), 4 if sizes.toy else 32
    single, many = (
        partial(steered, problem, BestOfN(n=n, flow_steps=steps), 1)
        for problem in (attrs.evolve(search, chunks=1), search)
    )
    over = ratio(single, many, rounds)
    yield f"best of {n} for one sample: candidates one by one, over batches", f"{over:.3f}", ""
    problem = latents(rows)
    model = problem.model.capability(NetworkModel)
    assert model is not None
    steps = 4 * steps  # what a run costs once is small beside so many
    steering = partial(steered, problem, Steer(steps=steps), rows)
    plain, pair = (partial(call, model, problem, steps, rows) for call in (forward, there_and_back))
    for what, call, reference, bound in (
        ("`steer` with `dps` on latents, in bare forwards a step", steering, plain, "2.1"),
        ("the same written out without align", pair, plain, ""),
        ("`steer` with `dps` over what is written out", steering, pair, ""),
    ):
        yield what, f"{ratio(call, reference, rounds):.3f}", bound


def memory(rows: int, toy: bool) -> Iterator[tuple[str, str, str]]:
    """Peaks by number of draws, over that of one."""
    least = peak(1, rows)
    for draws in (4,) if toy else (4, 32):
        over = f"{peak(draws, rows) / least:.2f}"
        yield f"{draws} draws over 1 ({least / 1e6:.0f} MB)", over, "1.3"


def main() -> None:
    """Print the peak memory of a process that steers."""
    draws, rows = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    steered(pocket(rows, draws), Steer(steps=2), rows)
    print(peak_memory(CPU))


if __name__ == "__main__":
    main()
