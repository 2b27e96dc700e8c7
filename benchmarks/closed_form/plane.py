"""Steering on a two-dimensional mixture, beside the exact tilted law (V11).

The example is that of Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.1.1 and
appendix F.1, with the exact posterior map in place of a network.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import attrs
import torch
from torch import Tensor

from align.core.dynamics import GuidanceNorm
from align.core.estimator import ValueEstimator
from align.core.mode import AlignmentMode
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.dynamics.sde import SDE
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.samplers.dps import DPS
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import masses, sliced_w2
from align.testing.worlds import plane, sampled
from benchmarks.closed_form.verdicts import verdicts
from benchmarks.table import Table, short

CENTRES = ((-3.0, -3.0), (0.0, 0.0), (3.0, 3.0))
DIRECTIONS = 1024
Kind: TypeAlias = Literal["ode", "sde"]
DYNAMICS = {"ode": ODE(), "sde": SDE()}
LIMIT = 2.0
"""Floors that a sliced W2 may be from its reference and still agree with it."""

# Sliced W2 by ODE and by SDE, and mode masses by ODE.
REFERENCE = {
    "unsteered": ("1.93", "1.88", ".33/.33/.34"),
    "exact": (".18 (rerun .09)", ".066", ".55/.39/.07"),
    "dps": ("2.72", "1.56", ".98/.02/0"),
    "stein 1": ("1.93", "1.90", ".34/.32/.34"),
    "stein 4": (".64", ".52", ".51/.36/.13"),
    "stein 16": (".155", ".086", ".56/.36/.08"),
    "stein 64": (".118", ".098", ".56/.37/.07"),
    "gradient 1": ("3.82", "2.27", "1/0/0"),
    "gradient 4": ("2.40", "1.67", ".97/.03/0"),
    "gradient 16": (".77", ".74", ".68/.31/.02"),
    "gradient 64": (".171", "", ".56/.39/.06"),
}
# Sliced W2, mean reward and mode masses by ODE, renormalised.
RENORMALISED = {
    "exact": (".80", "-5.4", ".46/.45/.09"),
    "dps": (".91", "-5.3", ".42/.48/.11"),
    "stein 4": ("1.34", "-5.2", ".39/.39/.22"),
    "stein 16": ("1.17", "-5.8", ".40/.43/.17"),
    "gradient 1": ("1.25", "-5.3", ".39/.42/.19"),
    "gradient 4": ("1.43", "-6.6", ".36/.42/.22"),
}


def parts(row: str) -> tuple[PosteriorSampler | None, ValueEstimator | None]:
    """Sampler and estimator of a row of the table."""
    name, _, draws = row.partition(" ")
    if name == "unsteered":
        return None, None
    if name == "exact":
        return None, Exact()
    if name == "dps":
        return DPS(), Gradient(draws=1)
    kinds = {"stein": Stein, "gradient": Gradient}
    return MetaFlowMap(), kinds[name](draws=int(draws))


@attrs.frozen
class Plane:
    """V11: without renormalisation by ODE and by SDE, and with it by ODE."""

    particles: int = 1024
    steps: int = 250
    rows: tuple[str, ...] = ()
    dynamics: Kind | Literal["both"] = "both"
    axes: Literal["standard", "diagonal"] = "diagonal"
    normalise: GuidanceNorm | None = None
    seed: int = 0

    def tables(self) -> Iterator[Table]:
        """The floor first, then one table for each normalisation asked for."""
        yield self._floor()
        if self.normalise in (None, "none"):
            yield self._plain()
        if self.normalise in (None, "renorm"):
            yield self._normalised("renorm", RENORMALISED)
        if self.normalise == "clip":
            yield self._normalised("clip", dict.fromkeys(RENORMALISED, ("", "", "")))

    @property
    def _all(self) -> str:
        return f"{self.particles} particles, {self.steps} steps, axes {self.axes}, seed {self.seed}"

    @property
    def _both(self) -> tuple[Kind, ...]:
        return ("ode", "sde") if self.dynamics == "both" else (self.dynamics,)

    def sample(self, row: str, dynamics: Kind, normalise: GuidanceNorm = "none") -> Tensor:
        """Samples (B, 2) of one row."""
        sampler, estimator = parts(row)
        mode: AlignmentMode[Any] = (
            BestOfN(flow_steps=self.steps, dynamics=DYNAMICS[dynamics])
            if estimator is None
            else Steer(steps=self.steps, dynamics=DYNAMICS[dynamics], guidance_norm=normalise)
        )
        world = plane(diagonal=self.axes == "diagonal")
        began = time.perf_counter()
        x1 = sampled(
            mode, world, self.particles, sampler=sampler, estimator=estimator, seed=self.seed
        )
        told = f"{row}, {dynamics}, {normalise}: {time.perf_counter() - began:.0f} s"
        print(told, file=sys.stderr, flush=True)
        return x1

    def _target(self, seed: int = 1) -> Tensor:
        model, reward = plane()
        return model.draw_tilted(reward, Streams(seed, tuple(range(self.particles))))

    def _distance(self, x1: Tensor) -> float:
        return sliced_w2(x1, self._target(), projections=DIRECTIONS)

    @property
    def _noise(self) -> float:
        """Mean distance of two exact sets, or .1, which the reference calls noise."""
        return max(0.1, sum(self._floors) / len(self._floors))

    @property
    def _floors(self) -> list[float]:
        return [self._distance(self._target(seed)) for seed in range(2, 10)]

    def _floor(self) -> Table:
        floors, exact = self._floors, self._target()
        each = " ".join(map(short, floors)), shares(exact), short(reward_of(exact)[0], 2)
        head = ("exact against exact, SW2 of eight sets", "mode masses", "mean reward")
        return Table(f"V11. Floor, {self.particles} particles", head, (each,))

    def _plain(self) -> Table:
        noise = self._noise
        lines, dynamics = [], self._both
        for row in self.rows or REFERENCE:
            cells, shown = [], ["", ""]
            far: dict[str, tuple[float, str, float]] = {}
            *distances, stated = REFERENCE.get(row, ("", "", ""))
            for kind in dynamics:
                x1 = self.sample(row, kind)
                distance, reference = self._distance(x1), distances[kind == "sde"]
                cells += [short(distance), reference]
                far[kind] = distance, reference, noise
                if kind == "ode":
                    shown = [shares(x1), stated]
            lines.append((row, *cells, *shown, verdicts(far, LIMIT)))
        wide = (each for kind in dynamics for each in (f"{kind.upper()} SW2", "reference"))
        head = (
            "sampler",
            *wide,
            "ODE mode masses",
            "reference",
            f"verdict, in floors of {noise:.2f}",
        )
        return Table(f"V11. {self._all}", head, tuple(lines))

    def _normalised(self, kind: GuidanceNorm, stated: Mapping[str, tuple[str, str, str]]) -> Table:
        noise = self._noise
        lines = []
        for row in self.rows or stated:
            x1 = self.sample(row, "ode", kind)
            distance, (mean, error) = self._distance(x1), reward_of(x1)
            near, good, where = stated.get(row, ("", "", ""))
            # The reference's mean is of a sample of its own.
            far = {"SW2": (distance, near, noise), "reward": (mean, good, 2 * error)}
            lines.append(
                (
                    row,
                    short(distance),
                    near,
                    f"{short(mean, 2)} ± {short(error, 2)}",
                    good,
                    shares(x1),
                    where,
                    verdicts(far, LIMIT),
                )
            )
        head = (
            "gradient",
            "SW2",
            "reference",
            "mean reward",
            "reference",
            "mode masses",
            "reference",
            f"verdict, in floors of {noise:.2f}",
        )
        return Table(f"V11. ODE, normalise {kind}, {self._all}", head, tuple(lines))


def reward_of(x1: Tensor) -> tuple[float, float]:
    """Mean reward of samples and its standard error."""
    rewards = plane()[1].total(x1, [""] * len(x1))
    return float(rewards.mean()), float(rewards.std()) / len(x1) ** 0.5


def shares(x1: Tensor) -> str:
    """Share of the samples nearest to each mode."""
    found = masses(x1, torch.tensor(CENTRES).to(x1))
    return "/".join(f"{share:.2f}".lstrip("0") for share in found.tolist())
