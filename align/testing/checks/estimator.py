"""Checks of value estimators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final
from unittest import SkipTest

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.estimate import Estimate
from align.core.estimator import ClosedForm, ValueEstimator
from align.core.model import NoisyState
from align.core.path import expand
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.models.mixture import GaussianMixture
from align.samplers.exact import ExactPosterior
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.testing.checks.form import form
from align.testing.probes import (
    Constant,
    GradientAsked,
    Plain,
    Watched,
    close,
    denoiser_of,
    finite,
    scaled,
    states,
    streams_of,
)
from align.testing.probes import untouched as unmoved
from align.testing.worlds import line, tuned

TIMES: Final = (0.3, 0.45, 0.6)
WEAK: Final = 0.15
TUNED: Final = 0.5
REPEATS: Final = 2000
FIELDS: Final = ("value", "error", "shift", "ess", "reward")


@final
@attrs.frozen(eq=False)
class Estimating:
    """An estimator and the problem it is tried on."""

    part: ValueEstimator
    problem: Problem

    @property
    def counted(self) -> bool:
        """Whether the estimator has an option `draws`."""
        return any(field.name == "draws" for field in attrs.fields(type(self.part)))

    def of(self, draws: int) -> Estimating:
        """The same with this number of draws, if there is such an option."""
        changes: dict[str, Any] = {"draws": draws} if self.counted else {}
        return attrs.evolve(self, part=attrs.evolve(self.part, **changes))

    def on(self, problem: Problem) -> Estimating:
        """The same on another problem."""
        return attrs.evolve(self, problem=problem)

    def noisy(self, repeats: int = 1) -> NoisyState:
        """Noisy states at three times, each `repeats` times, repeat-major."""
        return states(self.problem.model, TIMES).tile(repeats)

    def estimate(self, noisy: NoisyState, samples: tuple[int, ...] = ()) -> Estimate:
        """The estimate for samples 0 .. B − 1, or those named."""
        streams = streams_of(self.problem.model, samples or range(len(noisy.x)))
        return self.part.estimate(self.problem, noisy, streams=streams)

    def repeated(self, repeats: int, noisy: NoisyState | None = None) -> Estimate:
        """Independent estimates at the three states, or others: fields are (repeats, 3, ...)."""
        result = self.estimate(self.noisy(repeats) if noisy is None else noisy.tile(repeats))
        split = {n: getattr(result, n).detach().unflatten(0, (repeats, -1)) for n in FIELDS}
        return attrs.evolve(result, **split)

    def truth(self) -> tuple[Tensor, Tensor]:
        """V_t(x) and (α²/β) ∇V_t(x) at the three states, by finite differences of the value."""
        noisy, model = self.noisy(), self.problem.model.capability(ClosedForm)
        if model is None:
            raise SkipTest("the model does not know its value")
        value, slopes, step = (
            model.value(noisy, self.problem.reward),
            torch.zeros_like(noisy.x),
            1e-5,
        )
        for place in range(noisy.x.flatten(1).shape[1]):
            direction = torch.zeros_like(noisy.x)
            direction.flatten(1)[:, place] = step
            moved = [
                NoisyState(noisy.x + sign * direction, noisy.t, noisy.cond) for sign in (1, -1)
            ]
            up, down = (model.value(one, self.problem.reward) for one in moved)
            slopes.flatten(1)[:, place] = (up - down) / (2 * step)
        path = self.problem.model.path
        return value, expand(path.alpha(noisy.t) ** 2 / path.beta(noisy.t), slopes) * slopes


def subject(part: ValueEstimator, on: Callable[[], Problem] | None) -> Estimating:
    """The estimator on a problem; on three Gaussians, with their exact posterior map."""
    return Estimating(part, on() if on else Problem(*line(), sampler=MetaFlowMap()))


def shape(estimating: Estimating) -> None:
    """Value, error, ess, reward and draws are (B,), the shift (B, *S), without a graph."""
    noisy = estimating.noisy()
    result = estimating.estimate(noisy)
    for name in (*FIELDS, "draws"):
        tensor, wanted = getattr(result, name), noisy.x.shape if name == "shift" else noisy.t.shape
        assert tensor.shape == wanted, f"{name} is {tuple(tensor.shape)}, not {tuple(wanted)}"
        assert not tensor.requires_grad, f"{name} has a graph"
        if name != "error":
            finite(tensor, name)
    assert not (result.error.isnan() | (result.error < 0)).any(), (
        "an error is negative, or no number"
    )
    if result.denoiser is not None:
        close(
            result.denoiser,
            denoiser_of(estimating.problem.model, noisy),
            "denoiser, and the model's",
        )


def rows_are_independent(estimating: Estimating) -> None:
    """A state's estimate is the same alone, among others and in another order."""
    noisy = estimating.noisy(2)
    together = estimating.estimate(noisy)
    for rows in ((4,), (5, 0)):
        few = estimating.estimate(noisy.rows(torch.tensor(rows)), samples=rows)
        for name in FIELDS:
            wanted = getattr(together, name)[list(rows)]
            close(getattr(few, name), wanted, f"{name} at states {rows}, and among others")


def chunks_change_nothing(estimating: Estimating) -> None:
    """The estimate is the same whatever `Problem.chunks`."""
    noisy = estimating.noisy()
    whole = estimating.estimate(noisy)
    for chunk in (1, 5):
        problem = attrs.evolve(estimating.problem, chunks=chunk)
        cut = estimating.on(problem).estimate(noisy)
        for name in FIELDS:
            close(getattr(cut, name), getattr(whole, name), f"{name} in chunks of {chunk} rows")


def random_state(estimating: Estimating) -> None:
    """Torch's global random state is left as it was."""
    with unmoved(estimating.problem.model.device, "estimate"):
        estimating.estimate(estimating.noisy())


def value(estimating: Estimating) -> None:
    """With many draws the value is V_t(x) = log E[e^{r(x1)} | x_t = x]."""
    wanted, _ = estimating.truth()
    result = estimating.of(256).repeated(48).value
    spread = result.std(0)
    # Noise of the mean, and the bias of a logarithm: half its squared error.
    allowed = 5 * spread / 48**0.5 + 2 * spread**2 + 1e-6
    _near(result.mean(0), wanted, allowed, "value")


def shift(estimating: Estimating) -> None:
    """With many draws the shift is (α²/β) ∇V_t(x), how far the reward moves the denoiser."""
    _, wanted = estimating.truth()
    result = estimating.of(256).repeated(48).shift
    allowed = 5 * result.std(0) / 48**0.5 + 0.03 * wanted.abs() + 1e-6
    declared = (allowed < 0.3 * wanted.abs()).any()
    assert declared, "the shift is too noisy to tell whether it is right"
    _near(result.mean(0), wanted, allowed, "shift")


def additive(estimating: Estimating) -> None:
    """Tuned by a part of the reward and steered by the rest is steered by all of it."""
    problem, noisy = estimating.problem, estimating.noisy()
    model = problem.model.capability(GaussianMixture)
    if model is None:
        raise SkipTest("no mixture that could be tuned exactly")
    part, rest = (scaled(problem.reward, share) for share in (TUNED, 1 - TUNED))
    later = attrs.evolve(problem, model=tuned(model, part), reward=rest)
    result = estimating.on(later).of(256).repeated(48, noisy)
    value, shift = estimating.truth()
    sums = result.value + model.value(noisy, part)
    spread = sums.std(0)
    allowed = 5 * spread / 48**0.5 + 2 * spread**2 + 1e-6
    _near(sums.mean(0), value, allowed, "value, tuned by a half and steered by the other,")
    moved = denoiser_of(later.model, noisy) - model.denoiser(noisy) + result.shift
    allowed = 5 * moved.std(0) / 48**0.5 + 0.03 * shift.abs() + 1e-6
    _near(moved.mean(0), shift, allowed, "shift, tuned by a half and steered by the other,")


def bias(estimating: Estimating) -> None:
    """e^V̂ is unbiased at any number N of draws, and the bias of V̂ falls as 1/N."""
    if not estimating.counted:
        raise SkipTest("it has no option `draws`")
    weak = estimating.on(_weak(estimating.problem))
    wanted, lows = weak.truth()[0], []
    for draws in (2, 8):
        gap = weak.of(draws).repeated(REPEATS).value - wanted
        grown = gap.exp() - 1
        allowed = 5 * grown.std(0) / REPEATS**0.5
        _near(grown.mean(0), torch.zeros_like(wanted), allowed, f"e^(V̂ − V) − 1 with {draws} draws")
        # As e^V̂ is unbiased, this has the bias of V̂ and much less noise.
        lows.append((gap - grown).sum(1))
    few, many = (float(low.mean()) for low in lows)
    noise = [float(low.std()) / REPEATS**0.5 for low in lows]
    assert many < 0, "the value has no bias, though it is a logarithm of a mean"
    ratio, slack = few / many, 4 * (noise[0] + 4 * noise[1]) / -many
    assert abs(ratio - 4) < 0.5 + slack, f"biases of 2 and 8 draws are in ratio {ratio:.2f}, not 4"


def error(estimating: Estimating) -> None:
    """The error is the standard deviation of the value over other draws, to a third of it."""
    result = estimating.on(_weak(estimating.problem)).of(32).repeated(200)
    spread, declared = result.value.std(0), result.error.square().mean(0).sqrt()
    assert declared.isfinite().all(), "the error of 32 draws is not finite"
    off = (declared - spread).abs() > 0.35 * spread + 1e-6
    assert not off.any(), (
        f"errors {_listed(declared)}, but the values' deviations are {_listed(spread)}"
    )


def ess(estimating: Estimating) -> None:
    """The effective size is from 1 to the number of draws, which it is where all weights agree."""
    result = estimating.of(8).estimate(estimating.noisy())
    highest = result.draws.clamp(min=1).to(result.ess)
    inside = (result.ess > 1 - 1e-4) & (result.ess < highest * (1 + 1e-4))
    assert inside.all(), f"ess is {_listed(result.ess)} of {_listed(highest)} draws"
    equal = attrs.evolve(estimating.problem, reward=scaled(estimating.problem.reward, 0.0))
    result = estimating.on(equal).of(8).estimate(estimating.noisy())
    close(result.ess, result.draws.clamp(min=1).to(result.ess), "ess without a reward, and draws")


def constant(estimating: Estimating) -> None:
    """A constant added to the reward is added to the value, and changes nothing else."""
    problem, noisy = estimating.problem, estimating.noisy()
    level = Constant(-1.5, problem.model.shape[0])
    more = WeightedReward((*problem.reward.terms, Term(name="constant", reward=level)))
    plain = estimating.estimate(noisy)
    lifted = estimating.on(attrs.evolve(problem, reward=more)).estimate(noisy)
    close(lifted.value, plain.value - 1.5, "value of a reward less 1.5, and value less 1.5")
    close(lifted.shift, plain.shift, "shift of a reward less 1.5, and shift")
    close(lifted.ess, plain.ess, "ess of a reward less 1.5, and ess")


def needs_gradient(estimating: Estimating) -> None:
    """It asks for the reward's gradient if and only if it says so; if not, nor the sampler's."""
    problem = estimating.problem
    terms = (attrs.evolve(term, reward=Watched(term.reward)) for term in problem.reward.terms)
    problem = attrs.evolve(problem, reward=WeightedReward(tuple(terms)))
    exact = problem.model.capability(ClosedForm)
    if exact is not None and not estimating.part.needs_gradient:
        problem = attrs.evolve(problem, sampler=ExactPosterior())
    try:
        estimating.on(problem).estimate(estimating.noisy())
    except GradientAsked:
        declared = estimating.part.needs_gradient
        assert declared, "asks for a reward's gradient, but `needs_gradient` is false"
        return
    needed = estimating.part.needs_gradient
    assert not needed, "never asks for a reward's gradient, but `needs_gradient` is true"


def needs_sampler(estimating: Estimating) -> None:
    """Without a sampler it raises PartError if and only if it says that it needs one."""
    alone = estimating.on(attrs.evolve(estimating.problem, sampler=None))
    _refuses(alone, estimating.part.needs_sampler, "a sampler")


def needs_model(estimating: Estimating) -> None:
    """On a model without capabilities it raises PartError if and only if it needs one."""
    problem = estimating.problem
    plain = attrs.evolve(problem, model=Plain(problem.model), sampler=Glass(steps=2))
    needed = estimating.part.needs_model
    _refuses(estimating.on(plain), needed is not None, needed.__name__ if needed else "")


def _weak(problem: Problem) -> Problem:
    """The problem with so little reward that expansions in 1/N hold."""
    return attrs.evolve(problem, reward=scaled(problem.reward, WEAK))


def _refuses(estimating: Estimating, needed: bool, what: str) -> None:
    try:
        estimating.estimate(estimating.noisy())
    except PartError:
        assert needed, "raises PartError where all that it says it needs is there"
        return
    assert not needed, f"works without {what}, which it says it needs"


def _near(result: Tensor, wanted: Tensor, allowed: Tensor, label: str) -> None:
    near = (result - wanted).abs() <= allowed
    assert near.all(), f"{label} is {_listed(result)}, expected {_listed(wanted)}"


def _listed(numbers: Tensor) -> str:
    return "[" + ", ".join(f"{number:.4g}" for number in numbers.flatten().tolist()) + "]"


CHECKS: Final = (
    form,
    shape,
    rows_are_independent,
    chunks_change_nothing,
    random_state,
    value,
    shift,
    additive,
    bias,
    error,
    ess,
    constant,
    needs_gradient,
    needs_sampler,
    needs_model,
)
