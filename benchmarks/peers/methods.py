"""The methods of `align` and of the other libraries that are compared."""

from __future__ import annotations

import time
from collections.abc import Iterator

from align.dynamics.ddpm import DDPM
from align.estimators.gaussian import GaussianValue
from align.estimators.gradient import Gradient
from align.modes.sampling.best_of_n import BestOfN
from align.samplers.dps import DPS
from benchmarks.peers.cases import Case, Method, Run, ours, particles
from benchmarks.peers.samplers import DATA_STD, Measured, Peer


def methods() -> Iterator[Method]:
    """What `align` offers; first what it recommends for measurements."""
    value, even = GaussianValue(data_std=DATA_STD), particles(grid="uniform")
    yield ours("SMC, Gaussian value", particles(), None, value)
    yield ours("the same, uniform grid", even, None, value)
    yield ours("the same, DDPM", particles(dynamics=DDPM()), None, value)
    yield ours("SMC, point, gradient", particles(), DPS(), Gradient(draws=1))
    yield ours("best of 16", lambda steps, _: BestOfN(n=16, flow_steps=steps))


def theirs(peer: Peer) -> Method:
    """A sampler of another library, on the clock from start to end."""

    def run(case: Case, steps: int, rows: int) -> Run:
        problem = Measured(case.model, case.matrix, case.observed, case.std)
        began = time.process_time()
        return Run(peer.sample(problem, steps, rows, case.seed), time.process_time() - began)

    return Method(peer.name, run, peer.population)
