"""Every objective of `distill` on the 2-D mixture: how good the map is that it trains.

    python -m benchmarks.objectives [--steps 4000] [--only NAME]

One small map is trained by each objective. Its one-step posterior draws are compared with exact
ones (sliced W2, mean over states), and its jumps with the identities that an exact map obeys. What
a step costs is measured by `python -m benchmarks.speed objectives`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.network_model import NetworkModel
from align.modes.distill.consistency import ConsistencyLoss
from align.modes.distill.coupling import Student
from align.modes.distill.diagonal import DataTarget, DiagonalTarget, TeacherTarget
from align.modes.distill.eulerian import Eulerian
from align.modes.distill.lagrangian import Lagrangian
from align.modes.distill.mean_flow import MeanFlow
from align.modes.distill.mode import Distill
from align.modes.distill.semigroup import Semigroup
from align.modes.distill.shortcut import Shortcut
from align.networks.mlp import MLPConfig
from align.samplers.glass import glass_velocity
from align.testing.distances import sliced_w2
from align.testing.worlds import plane
from align.training.loop import Optimisation
from benchmarks.table import Table, parsed, parser_of, publish

TIMES = (0.0, 0.2, 0.5, 0.8)

OBJECTIVES: dict[str, tuple[DiagonalTarget, ConsistencyLoss]] = {
    "semigroup": (TeacherTarget(), Semigroup()),
    "semigroup, from data": (DataTarget(), Semigroup()),
    "shortcut": (TeacherTarget(), Shortcut()),
    "shortcut, from data": (DataTarget(), Shortcut()),
    "Eulerian (teacher)": (TeacherTarget(), Eulerian()),
    "Eulerian (self)": (TeacherTarget(), Eulerian(velocity="self")),
    "Eulerian (self), from data": (DataTarget(), Eulerian(velocity="self")),
    "Lagrangian (teacher)": (TeacherTarget(), Lagrangian(velocity="teacher")),
    "Lagrangian (self)": (TeacherTarget(), Lagrangian()),
    "Lagrangian (self), from data": (DataTarget(), Lagrangian()),
    "Lagrangian (velocity trained)": (TeacherTarget(), Lagrangian(trained="velocity")),
    "mean flow": (TeacherTarget(), MeanFlow()),
    "mean flow, from data": (DataTarget(), MeanFlow()),
}


@attrs.frozen(eq=False)
class Exact:
    """Contexts of the mixture at one time, with exact posterior draws twice: truth, and floor."""

    noisy: NoisyState
    truth: Tensor
    again: Tensor

    @classmethod
    def of(cls, t: float, states: int, draws: int) -> Exact:
        """States noised to `t` of exact data, with so many draws at each."""
        model, streams = plane()[0], Streams(5, tuple(range(states)))
        x1, noise = model.draw(streams), streams.fold_in("noise").normal((2,))
        time_ = torch.full((states,), t, dtype=torch.float64)
        noisy = NoisyState(
            model.path.interpolate(noise, x1, time_), time_, model.encode([""] * states)
        )
        return cls(
            noisy,
            *(model.draw_posterior(noisy, draws, streams.fold_in("draws", k)) for k in (0, 1)),
        )

    def distance(self, draws: Tensor) -> float:
        """Mean over states of the sliced W2 of draws (N, B, D) to the truth."""
        pairs = zip(draws.unbind(1), self.truth.unbind(1), strict=True)
        return statistics.mean(sliced_w2(mine, theirs) for mine, theirs in pairs)


@torch.no_grad()
def drawn(model: NetworkModel, noisy: NoisyState, draws: int) -> Tensor:
    """One-step draws (N, B, D) of a learnt map."""
    states = len(noisy.x)
    noise = Streams(7, tuple(range(states))).normal((2,), draws=draws).float().flatten(0, 1)
    many = NoisyState(noisy.x.float(), noisy.t.float(), model.null_condition(states)).tile(draws)
    ends = torch.zeros(len(noise)), torch.ones(len(noise))
    x1 = model.posterior_jump(noise, *ends, many).double()
    return x1.reshape(draws, states, 2)


@torch.no_grad()
def identities(model: NetworkModel, rows: int, h: float = 2e-3) -> tuple[float, ...]:
    """Root mean squares of what V8 says is zero, by central differences, beside ‖b̄‖.

    Lagrangian ∂_u X − b̄_u(X), Eulerian ∂_s X + (b̄_s · ∇) X, semigroup X_{w,u} ∘ X_{s,w} − X_{s,u}.
    """
    world, streams = plane()[0], Streams(9, tuple(range(rows)))
    x1, cond = world.draw(streams), world.encode([""] * rows)
    t = 0.9 * streams.fold_in("t").uniform(())
    noisy = NoisyState(
        world.path.interpolate(streams.fold_in("context").normal((2,)), x1, t), t, cond
    )
    s, w, u = (0.02 + 0.96 * streams.fold_in("times").uniform((3,)).sort(1).values).T
    y = world.path.interpolate(streams.fold_in("inner").normal((2,)), x1, s)
    double = attrs.evolve(model, posterior=model.posterior and model.posterior.double())
    mine = NoisyState(noisy.x, noisy.t, model.null_condition(rows))

    def jump(y: Tensor, s: Tensor, u: Tensor) -> Tensor:
        return double.posterior_jump(y, s, u, mine)

    end, along = jump(y, s, u), glass_velocity(world, y, s, noisy)
    slope = (jump(y, s, u + h) - jump(y, s, u - h)) / (2 * h)
    lagrangian = slope - glass_velocity(world, end, u, noisy)
    ahead, behind = (jump(y + k * h * along, s + k * h, u) for k in (1, -1))
    semigroup = jump(jump(y, s, w), w, u) - end
    found = (lagrangian, (ahead - behind) / (2 * h), semigroup, along)
    model.posterior and model.posterior.float()
    return tuple(float(each.square().sum(1).mean().sqrt()) for each in found)


def trained(name: str, steps: int) -> tuple[NetworkModel, float]:
    """A map of the mixture, and the processor's milliseconds a step."""
    diagonal, consistency = OBJECTIVES[name]
    mode = Distill(
        net=MLPConfig(width=128, depth=3),
        diagonal=diagonal,
        consistency=consistency,
        steps=steps,
        optimisation=Optimisation(batch=1024, learning_rate=2e-3),
    )
    problem = Problem(GuardedModel(plane()[0], "mixture", Meter(), 1 << 20))
    streams = Streams(0, (0,))
    state, began = mode.init(problem, streams), time.process_time()
    for index in range(steps):
        state, _ = mode.step(problem, state, index, streams)
    spent = 1000 * (time.process_time() - began) / steps
    student = state.training.ema
    assert isinstance(student, Student)
    return state.coupling.model.with_net("meta_flow_map", student.net), spent


def table(names: Iterable[str], steps: int, states: int = 32, draws: int = 1024) -> Table:
    """One row for the exact draws, and one for each objective."""
    worlds = [Exact.of(t, states, draws) for t in TIMES]

    def row(name: str) -> tuple[str, ...]:
        model, spent = trained(name, steps)
        distances = [world.distance(drawn(model, world.noisy, draws)) for world in worlds]
        errors = identities(model, 4 * draws)[:3]
        return name, *(f"{value:.3f}" for value in (*distances, *errors)), f"{spent:.1f}"

    def rows() -> Iterator[tuple[str, ...]]:
        floor = (f"{world.distance(world.again):.3f}" for world in worlds)
        yield "exact draws", *floor, "", "", "", ""
        yield from map(row, names)

    distances = (f"SW2, t = {t:g}" for t in TIMES)
    head = ("objective", *distances, "Lagrangian", "Eulerian", "semigroup", "ms/step")
    return Table(f"{steps} steps", head, rows())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = parser_of("benchmarks.objectives", __doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--only", choices=OBJECTIVES)
    options, command = parsed(parser, arguments)
    names = [options.only] if options.only else list(OBJECTIVES)
    judged = table(names, 1, states=2, draws=16) if options.toy else table(names, options.steps)
    publish([judged], command, options.page, "objectives")


if __name__ == "__main__":
    main()
