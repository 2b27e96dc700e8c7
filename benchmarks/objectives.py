"""Every objective of `distill` on the 2-D mixture: how good the map is, and what a step costs.

    python benchmarks/objectives.py plane [--steps 4000] [--only NAME]
    python benchmarks/objectives.py cost

`plane` trains one small map an objective and compares its one-step posterior draws with exact ones
(sliced W2, mean over states), and its jumps with the identities that an exact map obeys. `cost`
times one step of each on the transformer of `pocket`, beside a flow-matching step of the same rows
through the same network. Each prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import attrs
import torch
from align_pocket import Pocket
from torch import Tensor

from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.network_model import NetworkModel
from align.modes.distill.coupling import Coupling, Student
from align.modes.distill.diagonal import Data, Teacher
from align.modes.distill.eulerian import Eulerian
from align.modes.distill.lagrangian import Lagrangian
from align.modes.distill.mean_flow import MeanFlow
from align.modes.distill.mode import AnyConsistency, Distill, MapState
from align.modes.distill.semigroup import Semigroup
from align.modes.distill.shortcut import Shortcut
from align.modes.distill.times import Times
from align.networks.mlp import MLPConfig
from align.samplers.glass import glass_velocity
from align.testing.distances import sliced_w2
from align.testing.worlds import plane
from align.training.latents import Examples
from align.training.loop import Optimisation, Training

CPU = torch.device("cpu")
TIMES = (0.0, 0.2, 0.5, 0.8)
STATES, DRAWS = 32, 1024

OBJECTIVES: dict[str, tuple[Teacher | Data, AnyConsistency]] = {
    "semigroup": (Teacher(), Semigroup()),
    "semigroup, from data": (Data(), Semigroup()),
    "shortcut": (Teacher(), Shortcut()),
    "shortcut, from data": (Data(), Shortcut()),
    "Eulerian (teacher)": (Teacher(), Eulerian()),
    "Eulerian (self)": (Teacher(), Eulerian(velocity="self")),
    "Eulerian (self), from data": (Data(), Eulerian(velocity="self")),
    "Lagrangian (teacher)": (Teacher(), Lagrangian(velocity="teacher")),
    "Lagrangian (self)": (Teacher(), Lagrangian()),
    "Lagrangian (self), from data": (Data(), Lagrangian()),
    "Lagrangian (velocity trained)": (Teacher(), Lagrangian(trained="velocity")),
    "mean flow": (Teacher(), MeanFlow()),
    "mean flow, from data": (Data(), MeanFlow()),
}


@attrs.frozen(eq=False)
class Exact:
    """Contexts of the mixture at one time, with exact posterior draws twice: truth, and floor."""

    noisy: NoisyState
    truth: Tensor
    again: Tensor

    @classmethod
    def of(cls, t: float) -> Exact:
        """States noised to `t` of exact data."""
        model, streams = plane()[0], Streams(5, tuple(range(STATES)))
        x1, noise = model.draw(streams), streams.fold_in("noise").normal((2,))
        time_ = torch.full((STATES,), t, dtype=torch.float64)
        noisy = NoisyState(
            model.path.interpolate(noise, x1, time_), time_, model.encode([""] * STATES)
        )
        return cls(
            noisy,
            *(model.draw_posterior(noisy, DRAWS, streams.fold_in("draws", k)) for k in (0, 1)),
        )

    def distance(self, draws: Tensor) -> float:
        """Mean over states of the sliced W2 of draws (N, B, D) to the truth."""
        pairs = zip(draws.unbind(1), self.truth.unbind(1), strict=True)
        return statistics.mean(sliced_w2(mine, theirs) for mine, theirs in pairs)


@torch.no_grad()
def drawn(model: NetworkModel, noisy: NoisyState) -> Tensor:
    """One-step draws (N, B, D) of a learnt map."""
    streams = Streams(7, tuple(range(STATES)))
    noise = streams.normal((2,), draws=DRAWS).float().flatten(0, 1)
    many = NoisyState(noisy.x.float(), noisy.t.float(), model.null_condition(STATES)).tile(DRAWS)
    ends = torch.zeros(len(noise)), torch.ones(len(noise))
    return model.posterior_jump(noise, *ends, many).double().unflatten(0, (DRAWS, STATES))


@torch.no_grad()
def identities(model: NetworkModel, rows: int = 4096, h: float = 2e-3) -> tuple[float, ...]:
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


def table(steps: int, only: str | None) -> None:
    """Train and judge every objective."""
    worlds = [Exact.of(t) for t in TIMES]
    heads = [*(f"SW2, t = {t:g}" for t in TIMES), "Lagrangian", "Eulerian", "semigroup", "ms/step"]
    print(f"| objective | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}")
    floor = [world.distance(world.again) for world in worlds]
    print(f"| exact draws | {' | '.join(f'{each:.3f}' for each in floor)} | | | | |", flush=True)
    for name in [only] if only else OBJECTIVES:
        model, spent = trained(name, steps)
        found = [world.distance(drawn(model, world.at)) for world in worlds]
        found += identities(model)[:3]
        cells = " | ".join(f"{each:.3f}" for each in found)
        print(f"| {name} | {cells} | {spent:.1f} |", flush=True)


def started(name: str, problem: Problem, plain: bool, batch: int) -> Callable[[int], object]:
    """A step of `distill` on random latents; a plain one is flow matching on data alone."""
    diagonal, consistency = OBJECTIVES[name]
    mode = Distill(
        diagonal=Data() if plain else diagonal,
        consistency=consistency,
        times=Times(diagonal_share=1.0 if plain else 0.5),
        optimisation=Optimisation(batch=batch),
    )
    model = problem.model.inner  # type: ignore[attr-defined]
    streams = Streams(0, (0,))
    states = streams.numbered(0, 256).normal(model.shape).float()[None]
    examples = Examples(states, torch.zeros(256, dtype=torch.int64), len(model.classes))
    student = streams.initialise(lambda: mode._untrained(model))
    coupling = Coupling(problem, model, "meta_flow_map", examples, 0.1, 1.0)
    state = MapState(Training.of(student, mode.optimisation), coupling)
    return lambda index: mode.step(problem, state, index, streams)


def cost(batch: int, rounds: int) -> None:
    """Time steps in turn; print medians of the ratio to a flow-matching step."""
    inner = attrs.evolve(Pocket().build(CPU), autoencoder=None, domain="vector")  # type: ignore[arg-type]
    problem = Problem(GuardedModel(inner, "pocket", Meter(), 1 << 20))
    plain = started("semigroup", problem, True, batch)
    print("| objective | time of a step, in flow-matching steps |\n|---|---|")
    for name in OBJECTIVES:
        step, ratios = started(name, problem, False, batch), []
        for index in range(rounds + 1):
            spent = []
            for call in (step, plain):
                began = time.process_time()
                call(index)
                spent.append(time.process_time() - began)
            ratios.append(spent[0] / spent[1])
        print(f"| {name} | {statistics.median(ratios[1:]):.2f} |", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("plane", "cost"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--only", choices=OBJECTIVES)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "plane":
        table(options.steps, options.only)
    else:
        cost(options.batch, options.rounds)


if __name__ == "__main__":
    main()
