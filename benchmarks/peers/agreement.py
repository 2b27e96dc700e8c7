"""Twisted SMC of align and of azula, step by step on the same noise: do they compute the same?

    python -m benchmarks.peers.agreement

Resampling is switched off, as the two draw its random numbers differently. azula's path
x = a x1 + s ε has a + s = 1.001, which is align's linear path at t = a / 1.001 times 1.001.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import attrs
import torch
from torch import Tensor

from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.ddpm import DDPM
from align.estimators.gradient import Gradient
from align.modes.sampling.steer import Steer
from align.samplers.dps import DPS
from benchmarks.peers.cases import Case
from benchmarks.peers.samplers import Measured, azula

STEPS, ROWS, SCALE, SEED = 100, 64, 1.001, 0


def recorded(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """States after each step of azula's TDS without resampling, the log weights, the noise."""
    from azula.guidance.tds import TDSSampler

    states, weights, noise, real = [], [], [], TDSSampler.step

    def step(*args: Any, carry: Any) -> Tensor:
        x: Tensor = real(*args, carry=carry)
        states.append(x / SCALE)
        weights.append(carry["log_w"])
        return x

    def normal(mean: Tensor, std: Tensor) -> Tensor:
        noise.append(torch.randn(mean.shape, dtype=mean.dtype))
        return mean + std * noise[-1]

    def stay(weights: Tensor, count: int, *, replacement: bool) -> Tensor:
        return torch.arange(count)

    problem = Measured(case.model, case.matrix, case.observed, case.std)
    peer = next(peer for peer in azula(2) if peer.name == "azula TDS")
    with (
        mock.patch.object(TDSSampler, "step", step),
        mock.patch("torch.multinomial", stay),
        mock.patch("torch.normal", normal),
    ):
        peer.sample(problem, STEPS, ROWS, SEED)
    return list(zip(states, weights, noise, strict=True))


def main() -> None:
    """Take align's steps with azula's noise, and print the largest differences."""
    torch.set_num_threads(1)
    case = Case.of(2, 0.15, SEED)
    tape = recorded(case)
    torch.manual_seed(SEED)
    start = torch.randn(ROWS, 2, dtype=torch.float64) / SCALE
    ahead = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    signal = (ahead * 1e-3 + (1 - ahead)) / SCALE  # azula's last noise is 1e-3, not 0
    mode = Steer(
        steps=STEPS, dynamics=DDPM(), particles=ROWS, resample="systematic", ess_threshold=0
    )
    streams = Streams(SEED, (0,))
    problem = Problem(case.model, case.reward, DPS(), Gradient(draws=1), case.model.encode([""]))
    state = attrs.evolve(mode.init(problem, streams), x=start)
    apart, off = 0.0, 0.0
    for index, (states, weights, noise) in enumerate(tape):
        state = attrs.evolve(state, times=tuple(signal[index : index + 2].tolist()))
        with mock.patch.object(Streams, "normal", lambda *_, n=noise, **__: n):
            state, _ = mode.step(problem, state, 0, streams)
        log_weight = (state.weights.log_ratio - state.weights.log_potentials)[:, 0]
        apart = max(apart, float((state.x - states).abs().max()))
        off = max(off, float((log_weight - weights).abs().max()))
    print(
        f"{STEPS} steps of {ROWS} particles: states at most {apart:.1e} apart, "
        f"log weights {off:.1e}"
    )


if __name__ == "__main__":
    main()
