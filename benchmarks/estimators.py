"""Value estimators on worlds where the value is known.

    python -m benchmarks.estimators shift               error of the shift, state by state
    python -m benchmarks.estimators shift --law tilted
    python -m benchmarks.estimators shift --columns parts   the gradient, its parts exchanged
    python -m benchmarks.estimators steer               distance of steered samples from the law
    python -m benchmarks.estimators draws               'auto' beside a fixed number of draws
    python -m benchmarks.estimators error               reported and real standard error

`python -m benchmarks.closed_form estimates` has the errors on the line beside reference figures.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import attrs
import torch
from torch import Tensor

from align.core.draws import Draws, make_draws
from align.core.dynamics import norms
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.path import expand
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.dynamics.sde import SDE
from align.estimators.bank import Bank
from align.estimators.blend import Blend
from align.estimators.damped import Damped
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein, regression_shift
from align.models.mixture import GaussianMixture, Mixture
from align.modes.sampling.steer import Steer
from align.samplers.exact import ExactPosterior
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import sliced_w2, w1
from align.testing.worlds import line, measured, plane, sampled
from benchmarks.table import Table, parsed, parser_of, publish, short

DYNAMICS = {"ode": ODE(), "sde": SDE()}
World: TypeAlias = tuple[GaussianMixture, WeightedReward]
TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)


def sharp() -> World:
    """The line with a measurement four times as sharp."""
    return line()[0], measured(((1.0,),), (1.0,), 0.15)


def twelve() -> World:
    """Five components in twelve dimensions, of which a measurement sees three directions."""
    means = Streams(0, tuple(range(5))).normal((12,))
    rows = Streams(1, tuple(range(3))).normal((12,)) / 2
    model = Mixture(
        weights=(1,) * 5,
        means=tuple(map(tuple, means.tolist())),
        stds=(0.4, 0.4, 0.6, 0.5, 0.5),
    ).build(torch.device("cpu"))
    return model, measured(tuple(map(tuple, rows.tolist())), (1.0, 0.0, -0.5), 0.7)


WORLDS: Final[dict[str, Callable[[], World]]] = {
    "line": line,
    "sharp": sharp,
    "plane": plane,
    "twelve": twelve,
}


def estimators(draws: int, columns: str = "usual") -> dict[str, ValueEstimator]:
    """The columns of the tables: those to choose from, or the gradient with its parts exchanged."""
    if columns == "parts":
        return {
            "gradient": Gradient(draws=draws),
            "antithetic": Gradient(draws=draws, noise="antithetic"),
            "sobol": Gradient(draws=draws, noise="sobol"),
            "uniform": Gradient(draws=draws, weights="uniform"),
            "denoiser": Gradient(draws=draws, jacobian="denoiser"),
            "damped": Damped(draws=draws),
            "bank, 64 N": Bank(size=64 * draws),
        }
    return {
        "gradient": Gradient(draws=draws),
        "stein": Stein(draws=draws),
        "unbiased": Stein(draws=draws, centring="unbiased"),
        "velocity": Stein(draws=draws, centring="velocity"),
        "regression": Stein(draws=draws, centring="regression"),
        "blend, time": Blend(draws=draws, rule="time"),
        "blend, variance": Blend(draws=draws, rule="variance"),
        "blend, both": Blend(draws=draws),
    }


@attrs.frozen(eq=False)
class States:
    """Noisy states of a world, each many times over, and what is true of them."""

    problem: Problem
    noisy: NoisyState
    streams: Streams
    shift: Tensor
    value: Tensor
    repeats: int

    @classmethod
    def of(
        cls, world: World, t: float, law: str, states: int, repeats: int, sampler: PosteriorSampler
    ) -> States:
        """States x_t of the model's law, or of the tilted one."""
        model, reward = world
        streams = Streams(5, tuple(range(states)))
        x1 = model.draw_tilted(reward, streams) if law == "tilted" else model.draw(streams)
        times = torch.full((states,), t, dtype=torch.float64)
        x = model.path.interpolate(streams.fold_in("noise").normal(model.shape), x1, times)
        noisy = NoisyState(x, times, model.encode([""] * states))
        exact = Exact().estimate(Problem(model, reward), noisy, streams=streams)
        many = noisy.tile(repeats)
        problem = Problem(model, reward, sampler, None, many.cond)
        shift, value = exact.shift.repeat(repeats, 1), exact.value.repeat(repeats)
        every = Streams(7, tuple(range(states * repeats)))
        return cls(problem, many, every, shift, value, repeats)

    def relative(self, shift: Tensor) -> float:
        """Root mean square of the shift's error over that of the shift."""
        error = (shift - self.shift).square().sum(1).mean()
        return float((error / self.shift.square().sum(1).mean()).sqrt())

    def clipped(self, shift: Tensor) -> Tensor:
        """The shift, where its guidance is longer than the drift cut to the drift's length."""
        model, noisy = self.problem.model, self.noisy
        bound = norms(
            model.velocity(noisy.x, noisy.t, noisy.cond)
        ) / model.path.denoiser_to_velocity(noisy.t)
        return shift * expand((bound / norms(shift)).clamp(max=1), shift)

    def best_mix(self, one: Tensor, other: Tensor) -> Tensor:
        """λ one + (1 − λ) other, for the λ from 0 to 1 that is best at each state."""
        a, b = one - self.shift, other - self.shift
        up, down = ((b - a) * b).sum(1), (a - b).square().sum(1)
        up, down = (part.unflatten(0, (self.repeats, -1)).mean(0) for part in (up, down))
        share = expand((up / down).clamp(0, 1).repeat(self.repeats), one)
        return share * one + (1 - share) * other


def shifts(options: argparse.Namespace) -> Table:
    """Relative error of the shift."""
    world, usual = WORLDS[options.world](), options.columns == "usual"

    def row(t: float, draws: int) -> list[str]:
        states = States.of(world, t, options.law, options.states, options.repeats, MetaFlowMap())
        estimates = {
            name: estimator.estimate(states.problem, states.noisy, streams=states.streams).shift
            for name, estimator in estimators(draws, options.columns).items()
        }
        estimates["clipped"] = states.clipped(estimates["gradient"])
        if "regression" in estimates:
            estimates["oracle"] = states.best_mix(estimates["gradient"], estimates["regression"])
        errors = (states.relative(shift) for shift in estimates.values())
        return [short(t), str(draws), *map(short, errors)]

    return Table(
        f"{options.world}, states of the {options.law} law",
        (*("t", "N"), *estimators(2, options.columns), "clipped", *(["oracle"] if usual else [])),
        (row(t, draws) for t in TIMES for draws in options.draws),
    )


def steers(options: argparse.Namespace) -> Table:
    """Distance from the tilted law: sliced W2, on the line W1."""

    def row(name: str, draws: int) -> list[str]:
        world, text = WORLDS[name](), [name, str(draws)]
        model, reward = world
        goal = model.draw_tilted(reward, Streams(9, tuple(range(8 * options.particles))))
        other = model.draw_tilted(reward, Streams(10, tuple(range(options.particles))))
        mode = Steer(steps=options.steps, dynamics=DYNAMICS[options.dynamics])
        steered = [
            sampled(mode, world, options.particles, sampler=MetaFlowMap(), estimator=estimator)
            for estimator in (Exact(), *estimators(draws, options.columns).values())
        ]
        flat = goal.shape[1] == 1
        for x1 in (other, *steered):
            text.append(short(w1(x1[:, 0], goal[:, 0]) if flat else sliced_w2(x1, goal)))
        return text

    return Table(
        f"W1 on the line, else sliced W2; {options.particles} particles, {options.steps} steps,"
        f" {options.dynamics}",
        ("world", "N", "tilted law", "exact", *estimators(2, options.columns)),
        (row(name, draws) for name in options.worlds for draws in options.draws),
    )


def grown(draws: Draws, goal: float, budget: int) -> Draws:
    """The first of the draws, 4 or more, doubled in number until their ess is `goal`."""
    counts = torch.full_like(draws.counts, 4)
    numbers = torch.arange(len(draws.rewards))[:, None]

    def cut() -> Draws:
        rewards = draws.rewards.masked_fill(numbers >= counts, -torch.inf)
        return attrs.evolve(draws, rewards=rewards, counts=counts)

    while True:
        low = (cut().ess < goal) & (counts < budget)
        if not low.any():
            return cut()
        counts = torch.where(low, (2 * counts).clamp(max=budget), counts)


def numbers_of_draws(options: argparse.Namespace) -> Table:
    """Relative error over all times: 'auto' by several rules over a fixed number as large."""
    fixed = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
    rules = ((2.0, 32), (3.0, 16), (3.0, 32), (3.0, 64), (4.0, 32), (6.0, 32))

    def row(name: str) -> list[str]:
        error = dict.fromkeys((*fixed, *rules), 0.0)
        spent = dict.fromkeys(rules, 0.0)
        for t in TIMES:
            world, law = WORLDS[name](), options.law
            where = States.of(world, t, law, options.states, options.repeats, ExactPosterior())
            noisy, model = where.noisy, world[0]
            many = make_draws(
                where.problem, noisy, draws=64, budget=64, gradient=False, streams=where.streams
            )
            denoiser = model.denoiser(noisy)
            for rule in (*fixed, *rules):
                some = _first(many, rule) if isinstance(rule, int) else grown(many, *rule)
                off = regression_shift(some, denoiser) - where.shift
                error[rule] += float(off.square().sum(1).mean())
                if not isinstance(rule, int):
                    spent[rule] += float(some.counts.double().mean()) / len(TIMES)
        text = [name]
        for rule in rules:
            like = _between({n: error[n] for n in fixed}, spent[rule])
            text.append(f"{spent[rule]:.1f}: {short(math.sqrt(error[rule] / like))}")
        return text

    return Table(
        "mean number of draws: error over that of a fixed number as large",
        ("world", *(f"ess {goal:g}, budget {budget}" for goal, budget in rules)),
        map(row, options.worlds),
    )


def _first(draws: Draws, count: int) -> Draws:
    """The first `count` draws at every state."""
    return attrs.evolve(
        draws,
        x1=draws.x1[:count],
        rewards=draws.rewards[:count],
        counts=torch.full_like(draws.counts, count),
    )


def _between(known: dict[int, float], place: float) -> float:
    """Value at `place`, by lines between the logarithms."""
    low = max(n for n in known if n <= place)
    high = min(n for n in known if n >= place)
    share = math.log(place / low) / math.log(high / low) if high > low else 0.0
    return math.exp((1 - share) * math.log(known[low]) + share * math.log(known[high]))


def errors(options: argparse.Namespace) -> Table:
    """Reported error over the standard deviation of V̂; and the mean of e^(V̂ − V)."""
    world = WORLDS[options.world]()

    def row(t: float, draws: int) -> list[str]:
        law = options.law
        where = States.of(world, t, law, options.states, options.repeats, ExactPosterior())
        found = Stein(draws=draws).estimate(where.problem, where.noisy, streams=where.streams)
        gap, told = (
            part.unflatten(0, (where.repeats, -1))
            for part in (found.value - where.value, found.error)
        )
        ratio = told.mean(0) / gap.std(0)
        tenth, half, largest = torch.quantile(ratio, ratio.new_tensor([0.1, 0.5, 0.9])).tolist()
        grown = gap.exp()
        noise = float(grown.std(0).square().sum().sqrt()) / grown.shape[1] / where.repeats**0.5
        spread = f"{short(half)} ({short(tenth)} to {short(largest)})"
        return [short(t), str(draws), spread, f"{grown.mean():.3f} ± {noise:.3f}"]

    return Table(
        options.world,
        ["t", "N", "error / SD, median state (10 % to 90 %)", "mean of e^(V̂ − V)"],
        (row(t, draws) for t in TIMES for draws in options.draws),
    )


PARTS: Final = {"shift": shifts, "steer": steers, "draws": numbers_of_draws, "error": errors}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one of the tables."""
    parser = parser_of("benchmarks.estimators", __doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--world", choices=WORLDS, default="line")
    parser.add_argument("--worlds", type=lambda text: text.split(","), default=list(WORLDS))
    parser.add_argument("--law", choices=("base", "tilted"), default="base", help="law of x_t")
    parser.add_argument("--draws", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--states", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--particles", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--columns", choices=("usual", "parts"), default="usual")
    parser.add_argument("--dynamics", choices=DYNAMICS, default="ode")
    options, command = parsed(parser, arguments)
    options.draws = options.draws or {"error": [16, 64]}.get(options.part, [4, 16])
    if options.toy:
        options.states, options.repeats, options.particles, options.steps = 8, 2, 32, 2
    publish([PARTS[options.part](options)], command, options.page, options.part)


if __name__ == "__main__":
    main()
