"""Relative errors of the estimates of ∇V on the line, by the exact posterior map (V5).

States follow p_t. An error is √(Σ ‖estimate − ∇V‖² / Σ ‖∇V‖²), the sums over states and replicates.
The 1-D reference took 200 states and 400 replicates, for the second table 100 states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

import attrs
import torch
from torch import Tensor

from align.core.dynamics import normalise_guidance
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.path import expand
from align.core.problem import Problem
from align.core.quadratic import Form
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.models.isotropic import Isotropic
from align.samplers.dps import DPS
from align.samplers.gaussian import posterior_moments
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import line
from benchmarks.closed_form.verdicts import verdict, verdicts
from benchmarks.table import Table, short

FIRST = {
    0.2: (("16.7", "9.0", "2.3", "1.0"), ("1.0", ".98", ".44", ".22"), "7.3", ".35"),
    0.5: (("2.9", "2.1", "1.25", ".66"), ("1.0", ".70", ".45", ".29"), "~1.6", ".56"),
    0.8: ((".215", ".13", ".059", ".040"), ("1.0", ".60", ".38", ".25"), ".13", ".04"),
}
DRAWS = (1, 4, 16, 64)
SECOND = {
    (0.1, 4): ("11.5", "1.20", "1.64", "1.09", "1.56"),
    (0.3, 16): ("2.15", ".33", ".35", ".96", ".30"),
    (0.5, 4): ("1.94", ".72", ".70", ".72", ".51"),
    (0.5, 16): ("1.24", ".50", ".49", ".71", ".33"),
    (0.7, 4): (".52", ".67", ".62", ".46", ".25"),
    (0.7, 16): (".27", ".49", ".47", ".44", ".19"),
    (0.9, 4): (".034", ".61", ".68", ".14", ".029"),
    (0.9, 16): (".017", ".37", ".38", ".14", ".013"),
}
COLUMNS = ("G", "GF", "GFs", "clipped G", "oracle mix")
SHARES = {0.1: ".05", 0.3: ".09", 0.5: ".29", 0.7: ".79", 0.9: ".97"}
Law: TypeAlias = Literal["p_t", "p*_t", "N(0, 1)", "U(−3, 3)"]
PIECE = 1 << 17
"""Rows with a graph that are in memory at once."""


@attrs.frozen
class Error:
    """A relative error with its standard error, from sums of `states` states."""

    size: float
    noise: float
    states: int

    @classmethod
    def of(cls, square: Tensor, exact: Tensor) -> Error:
        """From the mean square error at each state, (S,), and the exact gradients, (S,)."""
        whole = exact.square()
        ratio = square.mean() / whole.mean()
        # The delta method, for a ratio of two means and then its root.
        spread = (square - ratio * whole).std() / whole.mean() / math.sqrt(len(square))
        size = float(ratio.sqrt())
        return cls(size, float(spread) / (2 * size) if size else 0.0, len(square))

    def beside(self, states: int) -> float:
        """Standard error of the difference from a reference with so many states."""
        return max(self.noise * math.sqrt(1 + self.states / states), 0.01 * self.size)

    def __str__(self) -> str:
        return short(self.size, 3 if self.size >= 0.1 else 4)


@attrs.frozen
class World:
    """`states` states of a law at time t, each repeated `repeats` times: rows repeat-major."""

    t: float
    states: int
    repeats: int
    law: Law = "p_t"

    @property
    def noisy(self) -> NoisyState:
        """The states, (repeats · states, 1)."""
        model, reward = line()
        rows = Streams(0, tuple(range(self.states))).fold_in("V5", str(self.t))
        t, noise = torch.full((self.states,), self.t).double(), rows.fold_in("noise").normal((1,))
        if self.law == "N(0, 1)":
            x = noise
        elif self.law == "U(−3, 3)":
            x = 6 * rows.fold_in("place").uniform((1,)) - 3
        else:
            x1 = model.draw(rows) if self.law == "p_t" else model.draw_tilted(reward, rows)
            x = model.path.interpolate(noise, x1, t)
        return NoisyState(x, t, model.encode([""] * self.states)).tile(self.repeats)

    def shift(self, estimator: ValueEstimator, sampler: PosteriorSampler) -> Tensor:
        """Shifts (repeats, states), every row with draws of its own."""
        (model, reward), noisy = line(), self.noisy
        problem = Problem(model, reward, sampler, estimator, noisy.cond, chunks=PIECE)
        rows = Streams(1, tuple(range(len(noisy.x)))).fold_in("V5", str(self.t))
        shift = estimator.estimate(problem, noisy, streams=rows).shift
        return shift.reshape(self.repeats, self.states)

    def error(self, found: Tensor, exact: Tensor) -> Error:
        """Of shifts (repeats, states) beside the exact ones (states,); (★) scales both alike."""
        return Error.of((found - exact).square().mean(0), exact)

    def clipped(self, shift: Tensor) -> Tensor:
        """Shifts (repeats, states) whose guidance is at most as long as the velocity."""
        model, noisy = line()[0], self.noisy
        path, drift = model.path, model.velocity(noisy.x, noisy.t, noisy.cond)
        factor = expand(path.denoiser_to_velocity(noisy.t), drift)
        added = factor * shift.reshape(-1, 1)
        bounded = normalise_guidance(added, drift, "clip", 1.0) / factor
        return bounded.reshape(shift.shape)


def gaussian(noisy: NoisyState) -> tuple[Tensor, Tensor]:
    """Shifts by a Gaussian with the posterior's mean and covariance, (B,).

    The first differentiates its value through the mean and the covariance, by central
    differences; the second with the covariance held fixed, as sampler `gaussian` does.
    """
    model, reward = line()
    form = Form.of(reward, noisy.x)

    def value(x: Tensor) -> Tensor:
        mean, covariance = posterior_moments(model, NoisyState(x, noisy.t, noisy.cond))
        law = Isotropic(torch.zeros_like(mean), mean[:, None], covariance[:, 0])
        return law.log_tilts(form)[:, 0]

    h, leaf = 1e-5, noisy.x.clone().requires_grad_()
    through = (value(noisy.x + h) - value(noisy.x - h)) / (2 * h)
    (fixed,) = torch.autograd.grad(value(leaf).sum(), leaf)
    scale = model.path.alpha(noisy.t) ** 2 / model.path.beta(noisy.t)
    return scale * through, scale * fixed[:, 0]


@attrs.frozen
class Errors:
    """V5: both tables."""

    states: int = 1000
    repeats: int = 20
    draws: tuple[int, ...] = DRAWS

    def tables(self) -> Iterator[Table]:
        """G and GF by number of draws; what needs none; clipped and mixed."""
        yield self._laws()
        yield self._first()
        yield self._without_draws()
        yield from self._second()

    def _exact(self, t: float) -> Tensor:
        return World(t, self.states, 1).shift(Exact(), MetaFlowMap())[0]

    def _laws(self) -> Table:
        """DPS, which has no sampling error but the states', by the law of the states."""
        lines = []
        for t, (*_, stated, _) in FIRST.items():
            cells = []
            for law in get_args(Law):
                world = World(t, 10 * self.states, 1, law)
                exact = world.shift(Exact(), MetaFlowMap())[0]
                cells.append(str(world.error(world.shift(Gradient(draws=1), DPS()), exact)))
            lines.append((str(t), *cells, stated))
        return Table(
            "V5. DPS, by the law of the states", ("t", *get_args(Law), "reference"), tuple(lines)
        )

    def _first(self) -> Table:
        lines, kinds = [], {"G": Gradient, "GF": Stein}
        for t, references in FIRST.items():
            exact, world = self._exact(t), World(t, self.states, self.repeats)
            for place, draws in enumerate(self.draws):
                cells, far = [], {}
                for (name, kind), stated in zip(kinds.items(), references[:2], strict=True):
                    found = world.error(world.shift(kind(draws=draws), MetaFlowMap()), exact)
                    cells += [str(found), stated[place]]
                    far[name] = found.size, stated[place], found.beside(200)
                lines.append((str(t), str(draws), *cells, verdicts(far)))
        head = ("t", "N", "G", "reference", "GF", "reference", "verdict, in noises")
        return Table("V5. Relative error of ∇V, by draws", head, tuple(lines))

    def _without_draws(self) -> Table:
        lines = []
        for t, (*_, dps, normal) in FIRST.items():
            world = World(t, 10 * self.states, 1)
            exact = world.shift(Exact(), MetaFlowMap())[0]
            point = world.error(world.shift(Gradient(draws=1), DPS()), exact)
            through, fixed = (world.error(each[None], exact) for each in gaussian(world.noisy))
            far = {
                "DPS": (point.size, dps, point.beside(200)),
                "Gaussian": (through.size, normal, through.beside(200)),
            }
            lines.append((str(t), str(point), dps, str(through), normal, verdicts(far), str(fixed)))
        head = (
            "t",
            "DPS",
            "reference",
            "Gaussian, exact covariance",
            "reference",
            "verdict, in noises",
            "Gaussian, covariance held fixed",
        )
        return Table("V5. Relative error of ∇V, without draws", head, tuple(lines))

    def _second(self) -> Iterator[Table]:
        lines, shares = [], {}
        for (t, draws), references in SECOND.items():
            world = World(t, self.states // 5, 5 * self.repeats)
            exact = World(t, self.states // 5, 1).shift(Exact(), MetaFlowMap())[0]
            steep = world.shift(Gradient(draws=draws), MetaFlowMap())
            plain = world.shift(Stein(draws=draws), MetaFlowMap())
            wide = world.shift(Stein(draws=draws, centring="unbiased"), MetaFlowMap())
            share = oracle(steep - exact, wide - exact)
            mixed = share * steep + (1 - share) * wide
            found = [
                world.error(each, exact)
                for each in (steep, plain, wide, world.clipped(steep), mixed)
            ]
            far = {
                name: (one.size, stated, one.beside(100))
                for name, one, stated in zip(COLUMNS, found, references, strict=True)
            }
            pairs = (
                each for pair in zip(map(str, found), references, strict=True) for each in pair
            )
            lines.append((f"{t}, {draws}", *pairs, verdicts(far)))
            shares[t] = share
        head = (
            "t, N",
            *(each for name in COLUMNS for each in (name, "reference")),
            "verdict, in noises",
        )
        yield Table("V5. Relative error of ∇V, clipped and mixed", head, tuple(lines))
        yield Table(
            "V5. Mean weight of G in the oracle mix",
            ("t", "measured", "reference", "verdict, in noises"),
            tuple(self._weight(t, share) for t, share in shares.items()),
        )

    def _weight(self, t: float, share: Tensor) -> tuple[str, ...]:
        mean, noise = float(share.mean()), float(share.std()) / math.sqrt(len(share))
        beside = noise * math.sqrt(1 + len(share) / 100)
        return str(t), short(mean, 2), SHARES[t], verdict(mean, SHARES[t], beside)


def oracle(first: Tensor, second: Tensor) -> Tensor:
    """Weight in [0, 1] on the first of two errors (repeats, states) of least square, (states,)."""
    gap = second - first
    return ((second * gap).mean(0) / gap.square().mean(0)).clamp(0, 1)
