"""Both paths, components of unequal spread and a reward that is not quadratic (V12).

The right value is known by quadrature, and exact draws of the tilted law by rejection; there is no
earlier figure to compare with, so that figures stand beside the distance of two exact sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import attrs
import torch
from torch import Tensor

from align.core.dynamics import Dynamics
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.path import PathName
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.ddim import DDIM
from align.dynamics.ddpm import DDPM
from align.dynamics.glass import GlassTransition
from align.dynamics.heun import Heun
from align.dynamics.ode import ODE
from align.dynamics.sde import SDE
from align.estimators.blend import Blend
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import sliced_w2
from align.testing.worlds import ByQuadrature, LogSigmoid, sampled, unequal
from benchmarks.table import Table, short

PATHS: Final[tuple[PathName, ...]] = ("linear", "trigonometric")
DYNAMICS: Final[tuple[Dynamics, ...]] = (ODE(), Heun(), SDE(), DDPM(), DDIM(), GlassTransition())
TIMES: Final = (0.1, 0.3, 0.6, 0.9)


@attrs.frozen
class Unequal:
    """V12: the law of steered samples by every dynamics, and the shift by draws, on both paths."""

    particles: int = 2000
    steps: tuple[int, ...] = (5, 20, 80)
    dynamics: tuple[Dynamics, ...] = DYNAMICS
    states: int = 200
    draws: tuple[int, ...] = (4, 64)

    def tables(self) -> Iterator[Table]:
        """Steering with the right value, then estimates by exact posterior draws."""
        columns = list(itertools.product(PATHS, self.steps))
        yield Table(
            f"V12. Sliced W2 to the tilted law, {self.particles} particles",
            ("dynamics", *(f"{path}, {steps} steps" for path, steps in columns)),
            self._laws(columns),
        )
        yield Table(
            f"V12. Relative error of ∇V at {self.states} states",
            ("estimator", *(f"{path}, t = {t}" for path, t in itertools.product(PATHS, TIMES))),
            self._errors(),
        )

    def _laws(self, columns: Sequence[tuple[PathName, int]]) -> Iterator[tuple[str, ...]]:
        for dynamics in self.dynamics:
            cells = [
                self._distance(path, Steer(steps=steps, dynamics=dynamics))
                for path, steps in columns
            ]
            yield dynamics.kind, *map(short, cells)
        plain = [self._distance(path, BestOfN(flow_steps=steps)) for path, steps in columns]
        yield "unsteered ode", *map(short, plain)
        floor = sliced_w2(self._exact(1), self._exact(2))
        yield "another exact set", short(floor), *[""] * (len(columns) - 1)

    def _exact(self, seed: int) -> Tensor:
        """Exact draws of the tilted law, which is the same on both paths."""
        model, reward = unequal()
        (term,) = reward.terms
        assert isinstance(term.reward, LogSigmoid)
        # About half of the draws are kept.
        kept = term.reward.kept(model, Streams(seed, tuple(range(8 * self.particles))))
        return kept[: self.particles]

    def _distance(self, path: PathName, mode: Steer | BestOfN) -> float:
        estimator = ByQuadrature() if isinstance(mode, Steer) else None
        x1 = sampled(mode, unequal(path), self.particles, estimator=estimator)
        return sliced_w2(x1, self._exact(1))

    def _errors(self) -> Iterator[tuple[str, ...]]:
        kinds = {"gradient": Gradient, "stein": Stein, "blend": Blend}
        for draws, (name, kind) in itertools.product(self.draws, kinds.items()):
            cells = [self._error(path, t, kind(draws=draws)) for path in PATHS for t in TIMES]
            yield f"{name}, {draws} draws", *map(short, cells)

    def _error(self, path: PathName, t: float, estimator: ValueEstimator) -> float:
        """√(Σ ‖estimate − ∇V‖² / Σ ‖∇V‖²) over states of p_t; the shift scales both alike."""
        model, reward = unequal(path)
        rows = Streams(0, tuple(range(self.states))).fold_in("V12", str(t))
        times = torch.full((self.states,), t).double()
        x = model.path.interpolate(rows.fold_in("noise").normal((2,)), model.draw(rows), times)
        noisy = NoisyState(x, times, model.encode([""] * self.states))
        problem = Problem(model, reward, MetaFlowMap(), None, noisy.cond)
        found = estimator.estimate(problem, noisy, streams=rows.fold_in("draws")).shift
        exact = ByQuadrature().estimate(problem, noisy, streams=rows).shift
        return float(((found - exact).square().sum() / exact.square().sum()).sqrt())
