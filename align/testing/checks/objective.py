"""Checks of objectives: on the line, where the exact map and the tilted velocity are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final
from unittest import SkipTest

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.model import Condition, Domain, FlowModel, NoisyState
from align.core.objective import Loss, Objective
from align.core.path import Path
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.models.mixture import GaussianMixture
from align.modes.distill.consistency import ConsistencyLoss
from align.modes.distill.diagonal import DiagonalTarget
from align.modes.distill.inner import AverageVelocity, InnerFlow
from align.modes.finetune.objective import FinetuneObjective
from align.modes.finetune.target import TiltedTarget
from align.samplers.exact import ExactPosterior
from align.samplers.glass import glass_velocity
from align.samplers.mfm import MetaFlowMap
from align.testing.checks.form import form
from align.testing.probes import GradientAsked, Watched, close, finite
from align.testing.probes import untouched as unmoved
from align.testing.worlds import line

ROWS: Final = 64
MANY: Final = 20_000
WRONG: Final = 0.2
"""How far a wrong map or velocity is off."""


@final
@attrs.frozen(eq=False)
class Subject:
    """An objective."""

    part: Objective

    def finetuning(self) -> FinetuneObjective:
        """The objective as one of mode "finetune"; other kinds are skipped."""
        if not isinstance(self.part, FinetuneObjective):
            raise SkipTest("it is no objective of mode 'finetune'")
        return self.part

    def consistency(self) -> ConsistencyLoss:
        """The objective as a consistency loss; other kinds are skipped."""
        if not isinstance(self.part, ConsistencyLoss):
            raise SkipTest("it is no consistency loss")
        return self.part

    def diagonal(self) -> DiagonalTarget:
        """The objective as a target on the diagonal; other kinds are skipped."""
        if not isinstance(self.part, DiagonalTarget):
            raise SkipTest("it is no target on the diagonal")
        return self.part

    def tensor(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """The residual or the target of a distillation loss, (B, 1); fine-tuning is skipped."""
        if isinstance(self.part, ConsistencyLoss):
            return self.part.residual(inner, s, u)
        return self.diagonal().target(inner, s)


def subject(part: Objective, on: Callable[[], Any] | None) -> Subject:
    """The objective; it is always tried on the line."""
    return Subject(part)


@final
class _InnerWorld:
    """The inner flow of three Gaussians on the line, its exact map, and times of jumps."""

    def __init__(self, rows: int, numbers: tuple[int, ...] = ()) -> None:
        self.model, _ = line()
        self.streams = Streams(0, numbers or tuple(range(rows)))
        x1, t = self.model.draw(self.streams), 0.9 * self.streams.fold_in("t").uniform(())
        noise = self.streams.fold_in("context").normal((1,))
        cond = self.model.encode([""] * len(x1))
        self.context = NoisyState(self.model.path.interpolate(noise, x1, t), t, cond)
        self.x1, self.noise = x1, self.streams.fold_in("inner").normal((1,))
        self.s = 0.05 + 0.6 * self.streams.fold_in("s").uniform(())
        self.u = self.s + 0.05 + (0.9 - self.s) * self.streams.fold_in("u").uniform(())

    def velocity(self, y: Tensor, s: Tensor) -> Tensor:
        """b̄_s(y), exactly."""
        return glass_velocity(self.model, y, s, self.context)

    def average(self, y: Tensor, s: Tensor, u: Tensor) -> Tensor:
        """v_{s,u}(y), exactly; the velocity itself where s = u."""
        gap = (u - s)[:, None]
        jump = self.model.posterior_jump(y, s, u, self.context) - y
        return torch.where(gap > 0, jump / torch.where(gap > 0, gap, 1.0), self.velocity(y, s))

    def wrong(self, y: Tensor, s: Tensor, u: Tensor) -> Tensor:
        """The average velocity of another map."""
        return self.average(y, s, u) + WRONG * (1 + u - s)[:, None]

    def inner(self, average: AverageVelocity, scale: Tensor | float = 1.0) -> InnerFlow:
        """The inner flow with a map, and a teacher times `scale`."""
        return InnerFlow(
            path=self.model.path,
            noise=self.noise,
            x1=self.x1,
            average=average,
            unconditional=average,
            teacher=lambda y, s: scale * self.velocity(y, s),
            guidance=1.0,
            streams=self.streams,
        )

    def moments(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Means of a tensor (B, 1) times functions of I_s and x_t, with standard errors."""
        y, x = self.inner(self.average).state(self.s), self.context.x
        functions = torch.cat((torch.ones_like(y), y, x, (2 * y).sin(), x * y), 1)
        products = tensor * functions
        return products.mean(0), products.std(0) / len(products) ** 0.5


def exact_map(subject: Subject) -> None:
    """A consistency loss has residuals of mean zero, given I_s and x_t, for the exact map."""
    loss, world = subject.consistency(), _InnerWorld(MANY)
    residual = loss.residual(world.inner(world.average), world.s, world.u)
    assert residual.shape == world.x1.shape, f"residuals are {tuple(residual.shape)}"
    mean, error = world.moments(residual.detach())
    assert (mean.abs() < 5 * error + 1e-6).all(), f"moments are {mean / error} errors from zero"


def wrong_map(subject: Subject) -> None:
    """A consistency loss has a residual for a map that is not the exact one."""
    loss, world = subject.consistency(), _InnerWorld(MANY)
    residual = loss.residual(world.inner(world.wrong), world.s, world.u)
    mean, error = world.moments(residual.detach())
    assert (mean.abs() > 8 * error + 1e-6).any(), "the residual of a wrong map has mean zero"


def diagonal_mean(subject: Subject) -> None:
    """A target on the diagonal has the inner velocity as its mean given I_s and x_t."""
    part, world = subject.diagonal(), _InnerWorld(MANY)
    inner = world.inner(world.average)
    target = part.target(inner, world.s)
    assert target.shape == world.x1.shape, f"targets are {tuple(target.shape)}"
    mean, error = world.moments(target - world.velocity(inner.state(world.s), world.s))
    assert (mean.abs() < 5 * error + 1e-6).all(), f"moments are {mean / error} errors from zero"


def gradients(subject: Subject) -> None:
    """A residual carries a gradient to the map, not to the teacher; a target carries none."""
    world = _InnerWorld(ROWS)
    of_map, of_teacher = (torch.ones((), dtype=torch.float64, requires_grad=True) for _ in "ab")

    def scaled(y: Tensor, s: Tensor, u: Tensor) -> Tensor:
        return of_map * world.average(y, s, u)

    tensor = subject.tensor(world.inner(scaled, of_teacher), world.s, world.u)
    if isinstance(subject.part, DiagonalTarget):
        if tensor.requires_grad:
            slopes = torch.autograd.grad(tensor.sum(), (of_map, of_teacher), allow_unused=True)
            assert slopes[0] is None, "the target carries a gradient to the map"
        return
    slopes = torch.autograd.grad(tensor.sum(), (of_map, of_teacher), allow_unused=True)
    assert slopes[0] is not None and float(slopes[0].abs()) > 0, "no gradient reaches the map"
    assert slopes[1] is None, "a gradient reaches the teacher"


def rows_are_independent(subject: Subject) -> None:
    """A row's residual, target or loss is the same among other rows."""
    chosen = (4, 0, 9)
    if isinstance(subject.part, FinetuneObjective):
        together, few = (_loss(subject.part, rows).values for rows in (tuple(range(16)), chosen))
    else:
        worlds = _InnerWorld(16), _InnerWorld(3, chosen)
        together, few = (subject.tensor(w.inner(w.wrong), w.s, w.u) for w in worlds)
    close(few, together[list(chosen)], f"rows {chosen}, and among others")


def random_state(subject: Subject) -> None:
    """Torch's global random state is left as it was."""
    with unmoved(torch.device("cpu"), "the objective"):
        if isinstance(subject.part, FinetuneObjective):
            _loss(subject.part, tuple(range(8)))
        else:
            world = _InnerWorld(8)
            subject.tensor(world.inner(world.average), world.s, world.u)


@final
@attrs.frozen(eq=False)
class _Student(FlowModel):
    """The base velocity on the line, or that of the tilted law, plus θ · features of (x, t)."""

    base: GaussianMixture
    reward: WeightedReward
    tilted: bool
    theta: Tensor
    shape: tuple[int, ...] = (1,)
    domain: Domain = "vector"
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")
    path: Path = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "path", self.base.path)

    def encode(self, prompts: Any) -> Condition:
        """The condition of the base model."""
        return self.base.encode(prompts)

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """b_t(x), or b*_t(x), plus θ · features; (B, 1)."""
        velocity, s = self.base.velocity(x, t, cond), t[:, None]
        if self.tilted:
            problem, noisy = Problem(self.base, self.reward, cond=cond), NoisyState(x, t, cond)
            shift = Exact().estimate(problem, noisy, streams=Streams(0, (0,))).shift
            velocity = velocity + self.path.denoiser_to_velocity(t)[:, None] * shift
        features = torch.cat((torch.ones_like(x), x, x * s, torch.sin(3 * x), s * s), 1)
        return velocity.detach() + (features * self.theta).sum(1, keepdim=True)

    def decode(self, x1: Tensor) -> Tensor:
        """The state itself."""
        return x1


def _loss(
    objective: FinetuneObjective,
    rows: tuple[int, ...],
    *,
    tilted: bool = False,
    theta: Tensor | None = None,
    sampler: bool = True,
    watched: bool = False,
) -> Loss:
    """The objective's loss on the line, for some rows of training."""
    model, reward = line()
    if watched:
        terms = (attrs.evolve(term, reward=Watched(term.reward)) for term in reward.terms)
        reward = WeightedReward(tuple(terms))
    draws = MetaFlowMap() if objective.needs_gradient else ExactPosterior()
    theta = torch.zeros(len(rows), 5, dtype=torch.float64) if theta is None else theta

    def clean(rows: Streams) -> tuple[Tensor, Condition]:
        return model.draw(rows.fold_in("data")), model.encode([""] * len(rows.samples))

    cond = model.encode([""])
    target = TiltedTarget(
        problem=Problem(model, reward, draws if sampler else None, cond=cond),
        student=_Student(model, reward, tilted, theta),
        clean=clean,
        log_normalizer=torch.zeros(1, dtype=torch.float64),
    )
    return objective.loss(target, Streams(3, rows))


def loss(subject: Subject) -> None:
    """A fine-tuning loss has finite values (b,), the metric "reward", and weights if it weighs."""
    objective = subject.finetuning()
    found = _loss(objective, tuple(range(ROWS)))
    assert found.values.shape == (ROWS,), f"losses are {tuple(found.values.shape)}, not ({ROWS},)"
    finite(found.values, "losses")
    assert "reward" in found.metrics, "there is no metric 'reward'"
    for name, metric in found.metrics.items():
        assert metric.dim() == 1, f"metric '{name}' is {tuple(metric.shape)}, not (n,)"
        finite(metric, f"metric '{name}'")
    weighs = found.weights is not None
    assert weighs == objective.weighs, f"`weighs` is {objective.weighs}, but weights are {weighs}"
    if found.weights is not None:
        assert found.weights.values.shape == found.weights.groups.shape == (ROWS,)
        assert found.weights.count == 1, f"one prompt has {found.weights.count} groups"


def _slopes(objective: FinetuneObjective, tilted: bool) -> tuple[Tensor, Tensor]:
    """Mean slope of the loss in θ at 0, and its standard error; (5,) each."""
    theta = torch.zeros(MANY, 5, dtype=torch.float64, requires_grad=True)
    found = _loss(objective, tuple(range(MANY)), tilted=tilted, theta=theta)
    (slopes,) = torch.autograd.grad(found.values.sum(), theta)
    return slopes.mean(0), slopes.std(0) / MANY**0.5


def fixed_point(subject: Subject) -> None:
    """The velocity of the tilted law is a stationary point of a fine-tuning loss."""
    mean, error = _slopes(subject.finetuning(), tilted=True)
    assert (mean.abs() < 5 * error).all(), f"slopes are {mean / error} errors from zero"


def base_is_no_fixed_point(subject: Subject) -> None:
    """The velocity of the base law is no stationary point of a fine-tuning loss."""
    mean, error = _slopes(subject.finetuning(), tilted=False)
    assert (mean.abs() > 6 * error).any(), f"slopes are {mean / error} errors from zero"


def needs_gradient(subject: Subject) -> None:
    """A fine-tuning loss asks for the reward's gradient if and only if it says so."""
    objective = subject.finetuning()
    theta = torch.zeros(8, 5, dtype=torch.float64, requires_grad=True)
    try:
        found = _loss(objective, tuple(range(8)), theta=theta, watched=True)
        torch.autograd.grad(found.values.sum(), theta)
    except GradientAsked:
        assert objective.needs_gradient, "asks for a gradient, but `needs_gradient` is false"
        return
    assert not objective.needs_gradient, "asks for no gradient, but `needs_gradient` is true"


def needs_sampler(subject: Subject) -> None:
    """Without a sampler a fine-tuning loss raises PartError if and only if it needs one."""
    objective = subject.finetuning()
    try:
        _loss(objective, tuple(range(8)), sampler=False)
    except PartError:
        assert objective.needs_sampler, "raises PartError without a sampler that it does not need"
        return
    assert not objective.needs_sampler, "works without the sampler that it says it needs"


CHECKS: Final = (
    form,
    rows_are_independent,
    random_state,
    exact_map,
    wrong_map,
    diagonal_mean,
    gradients,
    loss,
    fixed_point,
    base_is_no_fixed_point,
    needs_gradient,
    needs_sampler,
)
