"""Checks of dynamics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, final
from unittest import SkipTest

import attrs
import torch
from torch import Tensor

from align.core.dynamics import Dynamics, FlowEvaluation, GuidedFlow, Transition
from align.core.estimator import ClosedForm
from align.core.model import DataSampler, FlowModel, NoisyState
from align.core.path import expand
from align.core.problem import Problem
from align.estimators.exact import Exact
from align.modes.sampling.guide import Guide
from align.modes.sampling.rollout import grid, rollout, unguided
from align.testing.checks.form import form
from align.testing.distances import w1
from align.testing.probes import close, finite, states, streams_of
from align.testing.probes import untouched as unmoved
from align.testing.worlds import line

TIMES: Final = (0.02, 0.2, 0.5, 0.8, 0.95)
WIDTH: Final = 0.04
SAMPLES: Final = 2000
STEPS: Final = 80
SLACK: Final = 0.05  # what a step's error adds after `STEPS` of them, in deviations of the law


@final
@attrs.frozen(eq=False)
class Moving:
    """Dynamics, and the problem whose flow they follow."""

    part: Dynamics
    problem: Problem

    @property
    def model(self) -> FlowModel:
        """The model of the problem."""
        return self.problem.model

    def noisy(self) -> NoisyState:
        """Noisy states at five times."""
        return states(self.model, TIMES)

    def flow(self, noisy: NoisyState) -> GuidedFlow:
        """A flow whose shift is a tenth of the velocity: any will do to see how steps are made."""
        plain = unguided(self.model, noisy.cond)

        def evaluate(x: Tensor, t: Tensor) -> FlowEvaluation:
            velocity = plain.evaluate(x, t).velocity
            return FlowEvaluation(velocity, 0.1 * velocity)

        return GuidedFlow(self.model.path, evaluate)

    def step(
        self,
        noisy: NoisyState,
        samples: Sequence[int] = (),
        *,
        seed: int = 0,
        later: Tensor | None = None,
    ) -> Transition:
        """One step from these states, for samples 0 .. B − 1 or those named."""
        streams = streams_of(self.model, samples or range(len(noisy.x)), seed)
        u = noisy.t + WIDTH if later is None else later
        with torch.no_grad():
            return self.part.step(self.flow(noisy), noisy.x, noisy.t, u, streams)


def subject(part: Dynamics, on: Callable[[], Problem] | None) -> Moving:
    """The dynamics on a problem, or on three Gaussians on the line and a measurement of them."""
    return Moving(part, on() if on else Problem(*line()))


def shape(moving: Moving) -> None:
    """Next states are (B, *S) of the states' type, on their device, and finite."""
    noisy = moving.noisy()
    taken = moving.step(noisy)
    wanted = tuple(noisy.x.shape)
    assert taken.x.shape == wanted, f"{tuple(taken.x.shape)}, expected (B, *S) = {wanted}"
    assert taken.x.dtype == noisy.x.dtype, f"next states are {taken.x.dtype}, not {noisy.x.dtype}"
    assert taken.x.device == noisy.x.device, f"they are on {taken.x.device}, not {noisy.x.device}"
    finite(taken.x, "next states")
    assert taken.strength.shape == noisy.t.shape, "strength is not (B,)"
    finite(taken.strength, "strength")


def ends_of_time(moving: Moving) -> None:
    """Steps are finite from t = 0, and to u = 1."""
    noisy = moving.noisy()
    start = attrs.evolve(noisy, t=torch.zeros_like(noisy.t))
    finite(moving.step(start).x, "next states of a step from t = 0")
    end = torch.ones_like(noisy.t)
    taken = moving.step(noisy, later=end)
    finite(taken.x, "next states of a step to u = 1")
    if taken.gaussian is not None:
        text = "mean + push + std ε of a step to u = 1 (without noise no push), and the next states"
        close(taken.gaussian.x, taken.x, text)


def rows_are_independent(moving: Moving) -> None:
    """A state takes the same step alone, among others and in another order."""
    noisy = moving.noisy()
    later = torch.cat(((noisy.t + WIDTH)[:-1], torch.ones_like(noisy.t[:1])))
    together = moving.step(noisy, later=later).x
    for rows in ((0,), (4,), (3, 1)):
        index = torch.tensor(rows)
        few = moving.step(noisy.rows(index), rows, later=later[index]).x
        close(few, together[list(rows)], f"steps of states {rows}, and among others")


def repeatable(moving: Moving) -> None:
    """The same streams make the same step again."""
    noisy = moving.noisy()
    same = torch.equal(moving.step(noisy).x, moving.step(noisy).x)
    assert same, "the same streams make another step the second time"


def random_state(moving: Moving) -> None:
    """Torch's global random state is left as it was."""
    with unmoved(moving.model.device, "step"):
        moving.step(moving.noisy())


def inputs_untouched(moving: Moving) -> None:
    """The states and times it is given are not changed in place."""
    noisy = moving.noisy()
    x, t = noisy.x.clone(), noisy.t.clone()
    moving.step(noisy)
    assert torch.equal(noisy.x, x), "step changes the states in place"
    assert torch.equal(noisy.t, t), "step changes the times in place"


def density(moving: Moving) -> None:
    """`has_density` is true if and only if steps come with a Gaussian, and it is theirs."""
    noisy = moving.noisy()
    taken = moving.step(noisy)
    gaussian = taken.gaussian
    if not moving.part.has_density:
        assert gaussian is None, "a step has a density, but `has_density` is false"
        return
    assert gaussian is not None, "a step has no density, but `has_density` is true"
    assert gaussian.std.shape == noisy.t.shape, "std is not (B,)"
    assert (gaussian.std > 0).all(), "std is 0 before t = 1"
    close(gaussian.x, taken.x, "mean + push + std ε, and the next states")
    other = moving.step(noisy, seed=1).gaussian
    assert other is not None, "a step has a density with some random numbers alone"
    for name in ("mean", "push", "std"):
        text = f"{name} with other random numbers, and before"
        close(getattr(other, name), getattr(gaussian, name), text)
    count = 4000
    many = states(moving.model, (0.5,)).tile(count)
    drawn = moving.step(many, range(count))
    assert drawn.gaussian is not None
    z = (drawn.x - drawn.gaussian.mean - drawn.gaussian.push) / expand(drawn.gaussian.std, drawn.x)
    # Five standard errors of a mean, and of a variance.
    mean, variance = float(z.double().mean()), float(z.double().var())
    fine = abs(mean) < 5 / count**0.5 and abs(variance - 1) < 5 * (2 / count) ** 0.5
    assert fine, f"noise in units of std has mean {mean:.3g} and variance {variance:.3g}"


def base_law(moving: Moving) -> None:
    """Without a reward many steps lead from noise to the model's own law."""
    source = moving.model.capability(DataSampler)
    if source is None:
        raise SkipTest("the model cannot draw from its own law")
    law, exact = (
        source.draw(streams_of(moving.model, range(count), seed))
        for seed, count in ((8, 10 * SAMPLES), (9, SAMPLES))
    )
    _follows(_samples(moving, attrs.evolve(moving.problem, estimator=None)), exact, law)


def tilted_law(moving: Moving) -> None:
    """With the exact shift many steps lead from noise to the tilted law."""
    problem, known = moving.problem, moving.model.capability(ClosedForm)
    if known is None or not problem.reward.optimised:
        raise SkipTest("the model does not know its tilted law, or there is no reward")
    law, exact = (
        known.draw_tilted(problem.reward, streams_of(problem.model, range(count), seed))
        for seed, count in ((8, 10 * SAMPLES), (9, SAMPLES))
    )
    _follows(_samples(moving, attrs.evolve(problem, estimator=Exact())), exact, law)


@torch.no_grad()
def _samples(moving: Moving, problem: Problem) -> Tensor:
    """Clean states (B, *S) after many steps from noise, guided if the problem has an estimator."""
    model, streams = problem.model, streams_of(problem.model, range(SAMPLES))
    cond = model.encode((problem.cond.prompts[:1] or ("",)) * SAMPLES)
    x = streams.fold_in("start").normal(model.shape).to(model.device, model.dtype)
    flow = unguided(model, cond)
    if problem.estimator is not None:
        flow = GuidedFlow(model.path, Guide(problem, cond, streams))
    return rollout(moving.part, flow, x, grid(STEPS, 0.01, 1.0), streams)


def _follows(samples: Tensor, exact: Tensor, law: Tensor) -> None:
    """Mean W₁ to the law over the coordinates, in deviations, beside that of other exact draws."""
    distance, floor = (
        sum(
            w1(x.flatten(1)[:, d], law.flatten(1)[:, d]) / float(law.flatten(1)[:, d].std())
            for d in range(law[0].numel())
        )
        / law[0].numel()
        for x in (samples, exact)
    )
    limit = 1.5 * floor + SLACK
    assert distance < limit, f"W₁ to the law is {distance:.3g}; exact draws have {floor:.3g}"


CHECKS: Final = (
    form,
    shape,
    ends_of_time,
    rows_are_independent,
    repeatable,
    random_state,
    inputs_untouched,
    density,
    base_law,
    tilted_law,
)
