"""Steering Gaussian mixtures by a linear measurement, beside azula and deepinv.

python benchmarks/peers.py --size 2 --std 0.15

Every method samples p(x) e^{r(x)} for the same mixtures and measurements, from the same analytic
denoiser, in one process on one thread; peers that are not installed are left out. The distance is
sliced W2 to as many exact samples; the floor is that between two exact sets. Time is that of the
processor, for a step of all samples together, and as a share of the first method's. The second
distance is for as many steps, or for a particle filter particles, as take the first method's time.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from peers_samplers import Measured, Peer, azula, deepinv
from torch import Tensor

from align.core.estimator import ValueEstimator
from align.core.mode import AlignmentMode
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.dynamics.ddpm import DDPM
from align.dynamics.sde import SDE
from align.estimators.exact import Exact
from align.estimators.gaussian import GaussianValue
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.models.mixture import GaussianMixture, Mixture
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.particles import rows_of, systematic
from align.modes.sampling.steer import Steer
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.gaussian import GaussianPosterior
from align.testing.distances import sliced_w2
from align.testing.worlds import measured

CPU = torch.device("cpu")
STEPS = 100
SIZES = {2: (1, 1024), 64: (16, 256)}
"""Observations and samples for each number of dimensions."""


@attrs.frozen
class Case:
    """One mixture of 25 components in D dimensions with one measurement y = A x0 + s n."""

    model: GaussianMixture
    reward: WeightedReward
    matrix: Tensor
    observed: Tensor
    std: float
    seed: int

    @classmethod
    def of(cls, size: int, std: float, seed: int) -> Case:
        """The problem of one seed: means on a grid in the plane, else uniform in [−1, 1]^D."""
        streams = Streams(seed, (0,)).fold_in("peers", size)
        weights = 0.2 + streams.fold_in("weights").uniform((25,))[0]
        line = torch.linspace(-1, 1, 5).double()
        means = torch.cartesian_prod(line, line)
        if size != 2:
            means = 2 * streams.fold_in("means").uniform((25, size))[0] - 1
        model = Mixture(
            weights=tuple(weights.tolist()),
            means=tuple(tuple(mean) for mean in means.tolist()),
            stds=(0.08,) * 25,
        ).build(CPU)
        count = SIZES[size][0]
        matrix = streams.fold_in("matrix").normal((count, size))[0]
        matrix = matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True)
        truth = model.draw(streams.fold_in("truth"))[0]
        observed = matrix @ truth + std * streams.fold_in("noise").normal((count,))[0]
        rows = tuple(tuple(row) for row in matrix.tolist())
        reward = measured(rows, tuple(observed.tolist()), std)
        return cls(model, reward, matrix, observed, std, seed)

    def exact(self, rows: int, seed: int) -> Tensor:
        """Samples of the tilted law, (rows, D)."""
        return self.model.draw_tilted(self.reward, Streams(seed, tuple(range(rows))))

    def score(self, x1: Tensor) -> float:
        """Mean reward of samples (B, D)."""
        return float(self.reward.total(x1, [""] * len(x1)).mean())


@attrs.frozen
class Run:
    """Samples, processor seconds, and the smallest effective share of particles and of draws."""

    x1: Tensor
    seconds: float
    particles: float = math.nan
    draws: float = math.nan


@attrs.frozen
class Method:
    """A method by name: called with the case, how many steps and how many samples."""

    name: str
    run: Callable[[Case, int, int], Run]
    population: bool = False
    peer: bool = False


Make = Callable[[int, int], AlignmentMode[Any]]


def ours(
    name: str,
    make: Make,
    sampler: PosteriorSampler | None = None,
    estimator: ValueEstimator | None = None,
) -> Method:
    """A mode of `align`; the particles of one sample are its samples, by their weights."""
    population = isinstance(mode := make(1, 2), Steer) and mode.particles > 1

    def run(case: Case, steps: int, rows: int) -> Run:
        mode = make(steps, rows)
        streams = Streams(case.seed, (0,) if population else tuple(range(rows)))
        cond = case.model.encode([""] * len(streams.samples))
        problem = Problem(case.model, case.reward, sampler, estimator, cond)
        shares: dict[str, list[float]] = {"particles": [math.nan], "ess": [math.nan]}
        began = time.process_time()
        state = mode.init(problem, streams)
        for index in range(mode.steps):
            state, info = mode.step(problem, state, index, streams)
            for key, whole in (("particles", rows), ("ess", info.numbers.get("draws", 0))):
                if key in info.numbers and whole > 1:
                    shares[key].append(info.numbers[key] / whole)
        x1 = mode.finish(problem, state)
        if population:
            x1 = state.x[rows_of(systematic(state.weights.log, streams.fold_in("kept")))]
        seconds = time.process_time() - began
        assert x1 is not None
        return Run(x1, seconds, *(min(share[1:], default=math.nan) for share in shares.values()))

    return Method(name, run, population)


def particles(**options: Any) -> Make:
    """As many particles as samples are wanted, of one sample."""
    return lambda steps, rows: Steer(
        steps=steps, particles=rows, resample="systematic", **({"dynamics": SDE()} | options)
    )


def flow(steps: int, _: int) -> Steer:
    """The guided ODE."""
    return Steer(steps=steps)


def methods(size: int) -> Iterator[Method]:
    """What `align` offers; first what it recommends for measurements."""
    point, exact, gauss = DPS(), ExactPosterior(), GaussianPosterior()
    gradient, blind, value = Gradient(draws=1), Stein(draws=1), GaussianValue(data_std=0.7)
    yield ours("SMC, Gaussian value", particles(), None, value)
    yield ours("SMC, Gaussian value, DDPM", particles(dynamics=DDPM()), None, value)
    yield ours("SMC, Gaussian draws, Stein 32", particles(), gauss, Stein(draws=32))
    yield ours("SMC, point, gradient", particles(), point, gradient)
    yield ours("SMC, point, gradient, clip", particles(guidance_norm="clip"), point, gradient)
    yield ours("SMC, point, gradient, DDPM", particles(dynamics=DDPM()), point, gradient)
    yield ours("FK steering, diff", particles(scale=0.0), point, blind)
    yield ours("FK steering, max", particles(scale=0.0, potential="max"), point, blind)
    yield ours("ODE, Gaussian value", flow, None, value)
    yield ours("ODE, point, gradient", flow, point, gradient)
    yield ours("best of 16", lambda steps, _: BestOfN(n=16, flow_steps=steps))
    yield ours("unsteered", lambda steps, _: BestOfN(flow_steps=steps))
    if size == 2:  # at 64 backward passes a state it has no place in the other table
        full = GaussianPosterior(covariance="exact")
        yield ours("SMC, full Gaussian draws, Stein 32", particles(), full, Stein(draws=32))
    yield ours("yardstick: SMC, exact draws, Stein 16", particles(), exact, Stein(draws=16))
    yield ours("yardstick: ODE, exact draws, Stein 16", flow, exact, Stein(draws=16))
    yield ours("yardstick: SMC, exact value", particles(), None, Exact())
    yield ours("yardstick: ODE, exact value", flow, None, Exact())


def theirs(peer: Peer) -> Method:
    """A sampler of another library, on the clock from start to end."""

    def run(case: Case, steps: int, rows: int) -> Run:
        problem = Measured(case.model.prior, case.matrix, case.observed, case.std)
        began = time.process_time()
        return Run(peer.sample(problem, steps, rows, case.seed), time.process_time() - began)

    return Method(peer.name, run, peer.population, peer=True)


def runs(method: Method, cases: list[Case], steps: int, rows: int) -> list[Run]:
    """One run a case; of more samples than the other rows have, that many are kept."""
    wanted = SIZES[cases[0].matrix.shape[1]][1]
    made = [method.run(case, steps, rows) for case in cases]
    kept = torch.linspace(0, rows - 1, wanted).long()
    return [attrs.evolve(run, x1=run.x1[kept]) for run in made]


def distances(found: list[Run], cases: list[Case]) -> list[float]:
    """Sliced W2 to exact samples, the mean over four sets of them, one number a case."""
    return [
        statistics.fmean(
            sliced_w2(run.x1, case.exact(len(run.x1), seed)) for seed in range(10_000, 10_004)
        )
        for run, case in zip(found, cases, strict=True)
    ]


def told(values: list[float]) -> str:
    """Mean and its standard error over the cases."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.3f} ± {error:.3f}"


def reward(found: list[Run], cases: list[Case]) -> str:
    """Mean reward over samples and cases."""
    means = (case.score(run.x1) for run, case in zip(found, cases, strict=True))
    return f"{statistics.fmean(means):.2f}"


def in_equal_time(method: Method, cases: list[Case], more: float) -> str:
    """Distances with `more` times the steps or, of a population, particles: the better of them."""
    rows = SIZES[cases[0].matrix.shape[1]][1]
    tries = [(max(2, round(STEPS * more)), rows)]
    if method.population:
        tries.append((STEPS, max(2, round(rows * more))))
    return told(min((distances(runs(method, cases, *one), cases) for one in tries), key=sum))


def table(listed: list[Method], cases: list[Case]) -> None:
    """Print one row a method, in Markdown; the first is the marked one."""
    rows = SIZES[cases[0].matrix.shape[1]][1]
    print("| method | SW2 | SW2 in equal time | reward | particles | draws | ms/step | time |")
    print("|---|---|---|---|---|---|---|---|")
    truths = [Run(case.exact(rows, seed=20_000), 0.0) for case in cases]
    print(f"| floor | {told(distances(truths, cases))} | | {reward(truths, cases)} | | | | |")
    for method in listed:
        found = runs(method, cases, STEPS, rows)
        seconds = statistics.median(run.seconds for run in found)
        # The machine's pace changes within minutes: the first one is timed again beside each.
        beside = statistics.median(run.seconds for run in runs(listed[0], cases[:3], STEPS, rows))
        equal = in_equal_time(method, cases, beside / seconds) if method.peer else ""
        shares = (min(getattr(run, kind) for run in found) for kind in ("particles", "draws"))
        small = " | ".join("" if share != share else f"{share:.3f}" for share in shares)
        print(
            f"| {method.name} | {told(distances(found, cases))} | {equal} |"
            f" {reward(found, cases)} | {small} |"
            f" {1e3 * seconds / STEPS:.1f} | {seconds / beside:.2f} |",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, choices=SIZES, default=2)
    parser.add_argument("--std", type=float, default=0.15, help="of the measurement's noise")
    parser.add_argument("--problems", type=int, default=5)
    parser.add_argument(
        "--only", default="", help="the first, and methods whose name has this in it"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    listed = list(methods(options.size))
    for module, made in (("azula", azula), ("deepinv", deepinv)):
        if importlib.util.find_spec(module):
            listed += map(theirs, made())
        else:
            print(f"{module} is not installed: left out", file=sys.stderr)
    cases = [Case.of(options.size, options.std, seed) for seed in range(options.problems)]
    print(f"D = {options.size}, std = {options.std:g}, {options.problems} problems\n")
    table(listed[:1] + [one for one in listed[1:] if options.only in one.name], cases)


if __name__ == "__main__":
    main()
