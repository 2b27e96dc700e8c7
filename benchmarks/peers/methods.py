"""The methods of `align` and of the other libraries that are compared."""

from __future__ import annotations

import time
from collections.abc import Iterator

from align.dynamics.ddpm import DDPM
from align.estimators.exact import Exact
from align.estimators.gaussian import GaussianValue
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.modes.sampling.best_of_n import BestOfN
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.gaussian import GaussianPosterior
from benchmarks.peers.cases import Case, Method, Run, flow, ours, particles
from benchmarks.peers.samplers import Measured, Peer


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
