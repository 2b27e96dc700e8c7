"""Steering on the line with the exact value (V3)."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

from align.core.dynamics import Dynamics
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.dynamics.sde import SDE
from align.estimators.exact import Exact
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.testing.distances import w1
from align.testing.worlds import line, sampled
from benchmarks.closed_form.identities import tilted
from benchmarks.closed_form.verdicts import verdict
from benchmarks.table import Table, short


@attrs.frozen
class Doob:
    """V3: terminal W1 of the steered ODE and SDE to exact draws of the tilted law."""

    particles: int = 20_000
    steps: tuple[int, ...] = (50, 250, 1000)

    def tables(self) -> Iterator[Table]:
        """One table: rows by dynamics and clamp, columns by number of steps."""
        exact = self._exact(1)
        floors = [w1(self._exact(seed), exact) for seed in range(2, 6)]
        floor = f"{short(min(floors), 4)} to {short(max(floors), 4)}"
        lines = []
        cases: dict[str, Dynamics] = {"ode": ODE()} | {
            f"sde, σ²/2 clamped at {clamp}": SDE(clamp=clamp) for clamp in (25, torch.inf)
        }
        for name, dynamics in cases.items():
            found = [self._distance(dynamics, steps, exact) for steps in self.steps]
            at_most = 0.014 + max(floors)  # the reference's largest, and what exact draws differ by
            within = "agrees" if max(found) <= at_most else "differs"
            lines.append((name, *map(short, found), ".003 to .014", within))
        plain = [self._plain(steps, exact) for steps in self.steps]
        within = verdict(plain[-1], "1.138", 0.01)  # how far exact draws of p are from each other
        lines.append(("unsteered ode", *map(short, plain), "1.138", within))
        blanks = tuple("" for _ in self.steps[1:])
        lines.append(("p itself, exactly", short(between(), 4), *blanks, "1.138", ""))
        lines.append(("exact draws, four sets", floor, *blanks, ".004", "the floor"))
        head = ("dynamics", *(f"{steps} steps" for steps in self.steps), "reference", "verdict")
        yield Table(f"V3. W1 to the tilted law, {self.particles} particles", head, tuple(lines))

    def _exact(self, seed: int) -> Tensor:
        model, reward = line()
        return model.draw_tilted(reward, Streams(seed, tuple(range(self.particles))))[:, 0]

    def _plain(self, steps: int, exact: Tensor) -> float:
        return w1(sampled(BestOfN(flow_steps=steps), line(), self.particles)[:, 0], exact)

    def _distance(self, dynamics: Dynamics, steps: int, exact: Tensor) -> float:
        mode = Steer(steps=steps, dynamics=dynamics)
        return w1(sampled(mode, line(), self.particles, estimator=Exact())[:, 0], exact)


def between() -> float:
    """W1 of the mixture and the tilted mixture, ∫ |F − F*| dx by a sum."""
    places = torch.linspace(-6, 6, 100_001).double()
    below = [
        (
            law.log_weights.exp()
            * torch.special.ndtr((places[:, None] - law.means[..., 0]) / law.variances.sqrt())
        ).sum(1)
        for law in (line()[0].prior, tilted("linear").prior)
    ]
    return float((below[0] - below[1]).abs().sum() * (places[1] - places[0]))
