"""Evaluations during fine-tuning: all rewards, metrics, and the distance from the base model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.baseline import deviation
from align.core.dynamics import FlowEvaluation, GuidedFlow, norms
from align.core.metric import Metric, compute_metric
from align.core.mode import Info
from align.core.model import Condition, Domain, FlowModel
from align.core.option import above, at_least, option
from align.core.path import expand, times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.sde import SDE
from align.io.numbers import rounded
from align.metrics.frechet import FrechetThumbnails
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.metrics.statistics import ImageStatistics
from align.modes.sampling.rollout import flow, grid, transitions

Scores: TypeAlias = Mapping[str, Tensor]
SMALL: Final = 0.2
"""An effect that is small, in standard deviations (Cohen, Statistical Power Analysis, 1988)."""
MOST_GROWTH: Final = 0.05
"""Growth of the velocity along the base model's that is a sign of a hacked reward, in pictures."""


@final
@attrs.frozen(kw_only=True)
class Evaluation:
    """Samples from the same noise every `every` steps, scored by all rewards and metrics."""

    every: int = option("steps from one evaluation to the next", default=200, check=at_least(1))
    samples: int = option(
        "number of samples of an evaluation", default=32, check=at_least(2), grows="rows"
    )
    flow_steps: int = option(
        "Euler steps of a sample", default=25, check=at_least(1), grows="calls"
    )
    metrics: tuple[Metric, ...] = option(
        "metrics of the samples beside those of the base model; if there are none, image statistics"
        " and the Fréchet distance of thumbnails, or for vectors the sliced Wasserstein distance",
        default=(),
    )
    errors: float = option(
        "standard errors by which a held-out reward must fall below its best evaluation for a"
        " warning that the reward was hacked",
        default=3.0,
        check=above(0),
    )
    stop: bool = option("whether training ends at a warning of a hacked reward", default=False)

    def due(self, index: int, steps: int) -> bool:
        """Whether step `index` of `steps` is followed by an evaluation."""
        return (index + 1) % self.every == 0 or index + 1 == steps

    @torch.no_grad()
    def samples_of(
        self, problem: Problem, model: FlowModel, cond: Condition, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Decoded samples of a model, from noise that is the same each time, and their scores."""
        streams = Streams(seed, tuple(range(len(cond))), ("evaluation",), model.device)
        x1 = samples(model, cond, streams, self.flow_steps).to(problem.model.dtype)
        data = problem.model.decode(x1)
        return data, problem.reward.each(x1, data, cond.prompts)

    @torch.no_grad()
    def of(
        self, problem: Problem, model: FlowModel, cond: Condition, references: Tensor, seed: int
    ) -> tuple[Info, Tensor, dict[str, Tensor]]:
        """Named numbers for a model, its decoded samples, and their scores (n,) by each reward.

        The errors are those of each reward's mean. "divergence" is KL(model | base) of SDE paths,
        in nats, and "growth" the mean of ⟨b̂, b⟩/‖b‖² − 1 there, for the model's velocity b̂;
        "spread" is the root-mean-square distance of two samples of one prompt, and "moved" that of
        a sample from the base model's of the same noise.
        """
        numbers, errors = dict[str, float](), dict[str, float]()
        data, scores = self.samples_of(problem, model, cond, seed)
        for name, score in scores.items():
            numbers[name] = float(score.double().mean())
            errors[name] = deviation(score) / math.sqrt(len(score))
        for metric in self.metrics or _USUAL[model.domain]:
            numbers |= compute_metric(metric, data, references)
        numbers["spread"] = spread(data, cond.prompts)
        numbers["moved"] = float((data - references).double().square().mean().sqrt())
        streams = Streams(seed, tuple(range(len(cond))), ("divergence",), model.device)
        numbers["divergence"], numbers["growth"] = along_paths(
            problem.model, model, cond, streams, self.flow_steps
        )
        exact = {name: score.double() for name, score in scores.items()}
        return Info(numbers, errors=errors), data, exact


_USUAL: Final[Mapping[Domain, tuple[Metric, ...]]] = MappingProxyType(
    {"image": (ImageStatistics(), FrechetThumbnails()), "vector": (SlicedWasserstein(),)}
)


def detect_hacking(problem: Problem, best: Mapping[str, Scores], now: Scores, errors: float) -> str:
    """A warning that the reward was hacked, or "".

    It was where a held-out reward has dropped by more than `errors` standard errors and by more
    than 0.2 standard deviations of the samples since its best evaluation, while some optimised
    reward has not dropped by `errors` standard errors.

    Args:
        problem: the problem, with its rewards.
        best: for each held-out reward, the scores (n,) by all rewards in its best evaluation.
        now: the scores (n,) by all rewards in this evaluation.
        errors: number of standard errors.
    """
    for name, then in best.items():
        drops = {key: then[key] - now[key] for key in then}
        steady = [t.name for t in problem.reward.optimised if _in_errors(drops[t.name]) <= errors]
        noticeable = drops[name].mean() > SMALL * then[name].std()
        if steady and noticeable and _in_errors(drops[name]) > errors:
            went, fell = (
                f"from {rounded(float(then[key].mean()))} to {rounded(float(now[key].mean()))}"
                for key in (steady[0], name)
            )
            return (
                f"the reward was hacked: '{steady[0]}', which is trained, went {went} while"
                f" '{name}', which is held out, fell {fell}"
            )
    return ""


def _in_errors(drops: Tensor) -> float:
    """The mean drop of samples (n,), in its standard errors."""
    return float(drops.mean() / (drops.std() / math.sqrt(len(drops))).clamp_min(1e-30))


def spread(data: Tensor, prompts: Sequence[str]) -> float:
    """Root-mean-square distance, per number of the data, of samples that have the same prompt."""
    rows = dict[str, list[int]]()
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    flat = data.flatten(1).double()
    means = [torch.pdist(flat[same]).square().mean() for same in rows.values() if len(same) > 1]
    if not means:
        return math.nan
    return float((torch.stack(means).mean() / flat.shape[1]).sqrt())


def samples(model: FlowModel, cond: Condition, streams: Streams, steps: int) -> Tensor:
    """Clean states (B, *S) by Euler steps of equal length, one for each row of the streams."""
    x = streams.normal(model.shape).to(model.device, model.dtype)
    return flow(model, x, cond, steps=steps)


def warn_of_growth(growth: float, domain: Domain) -> str:
    """A warning that the velocity has grown by more than 5 % along the base model's, or "".

    Of pictures alone: in few numbers an honest tilt can make velocities that much longer. In
    pictures almost all of a velocity takes noise away, which a tilt leaves as it is.

    Reference: NormGuard, Pan et al., 2026, arXiv:2606.27771 (norms 5 to 15 % longer where pictures
    were worse and the reward did not see it; of which the abstract was read).
    """
    if domain != "image" or not growth > MOST_GROWTH:
        return ""
    return (
        f"the velocity is {growth:.0%} longer than the base model's, along it. Growth beyond"
        f" {MOST_GROWTH:.0%} is known to come with worse pictures, which the trained reward does"
        " not see: look at the pictures and at held-out rewards"
    )


def along_paths(
    base: FlowModel, student: FlowModel, cond: Condition, streams: Streams, steps: int
) -> tuple[float, float]:
    """KL of the student's SDE paths from the base's, and the growth of its velocity there.

    The KL is E Σ ‖Δdrift‖² Δt / (2 σ²), in nats; growth is the mean of ⟨b̂, b⟩/‖b‖² − 1 over states.
    What a reward adds across the base velocity does not count, however long it is.

    The drift of both is b + (σ²/2) s with the same σ, so that Δdrift = (1 + σ_c²/σ²) (b̂ − b): the
    student is the base model with guidance. Paths start at t = .01. States and times are of the
    wider of the two models' types.
    """
    ratios = list[Tensor]()
    guided, times = difference(base, student, cond, ratios), grid(steps, 0.01, 1.0)
    wider = torch.promote_types(base.dtype, student.dtype)
    x = streams.fold_in("start").normal(student.shape).to(student.device, wider)
    total = 0.0
    for transition in transitions(SDE(), guided, x, times, streams):
        assert transition.gaussian is not None
        total += float(transition.gaussian.kl.mean())
    return total, float(torch.stack(ratios).mean() - 1)


def difference(
    base: FlowModel, student: FlowModel, cond: Condition, ratios: list[Tensor]
) -> GuidedFlow:
    """The student's flow as the base model's with guidance; costs a network call of each a row.

    Each evaluation appends the mean of ⟨b̂, b⟩/‖b‖² over its rows to `ratios`.
    """
    path = student.path

    def evaluate(x: Tensor, t: Tensor) -> FlowEvaluation:
        by_base, by_student = (velocity_of(model, x, t, cond) for model in (base, student))
        tiny = torch.finfo(by_base.dtype).tiny
        along = (by_student * by_base).flatten(1).sum(1) / norms(by_base).square().clamp(min=tiny)
        ratios.append(along.double().mean())
        moved = by_student - by_base
        return FlowEvaluation(by_base, moved / expand(path.denoiser_to_velocity(t), x))

    return GuidedFlow(path, evaluate)


def velocity_of(model: FlowModel, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
    """A model's velocity (B, *S) by its own floating type, in that of the states x (B, *S)."""
    own = x.to(model.dtype)
    return model.velocity(own, times_of(own, t), cond).to(x)
