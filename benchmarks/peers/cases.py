"""The problems of the comparison, and what runs on them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from align.core.estimator import ValueEstimator
from align.core.mode import AlignmentMode
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.dynamics.sde import SDE
from align.models.mixture import GaussianMixture, Mixture
from align.modes.sampling.particles import rows_of, systematic
from align.modes.sampling.steer import Steer
from align.testing.worlds import measured

CPU = torch.device("cpu")
STEPS = 100
SIZES = {2: (1, 1024), 64: (16, 256)}
"""Observations and samples for each number of dimensions."""


@attrs.frozen
class Case:
    """One mixture of 25 components in D dimensions with one measurement y = A x0 + s n.

    Attributes:
        rows: samples that are wanted.
    """

    model: GaussianMixture
    reward: WeightedReward
    matrix: Tensor
    observed: Tensor
    std: float
    seed: int
    rows: int

    @classmethod
    def of(cls, size: int, std: float, seed: int, rows: int | None = None) -> Case:
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
        lines = tuple(tuple(row) for row in matrix.tolist())
        reward = measured(lines, tuple(observed.tolist()), std)
        return cls(model, reward, matrix, observed, std, seed, rows or SIZES[size][1])

    @property
    def size(self) -> int:
        """Dimensions D."""
        return self.matrix.shape[1]

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
    chosen: dict[str, Any] = {"dynamics": SDE(), "grid": "log_snr"} | options
    return lambda steps, rows: Steer(steps=steps, particles=rows, resample="systematic", **chosen)
