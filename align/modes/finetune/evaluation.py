"""What fine-tuning measures on its way: rewards, held-out ones too, and the way from the base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.dynamics import FlowEvaluation, GuidedFlow
from align.core.metric import Metric
from align.core.model import Condition, Domain, FlowModel
from align.core.option import above, at_least, option
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.sde import SDE
from align.metrics.frechet import FrechetThumbnails
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.metrics.statistics import ImageStatistics
from align.modes.sampling.rollout import flow, grid, transitions

Scores: TypeAlias = Mapping[str, Tensor]
SMALL: Final = 0.2
"""An effect that is small, in standard deviations (Cohen, Statistical Power Analysis, 1988)."""


@final
@attrs.frozen(kw_only=True)
class Evaluation:
    """Samples from the same noise every so many steps, scored by all rewards and metrics."""

    every: int = option("steps from one evaluation to the next", default=200, check=at_least(1))
    samples: int = option("samples that are made each time", default=32, check=at_least(2))
    flow_steps: int = option("Euler steps of a sample", default=25, check=at_least(1))
    metrics: tuple[Metric, ...] = option(
        "of the samples, beside the base model's; none: image statistics and Fréchet distance of"
        " thumbnails, or sliced Wasserstein",
        default=(),
    )
    errors: float = option(
        "standard errors by which a held-out reward must fall below its best to be a warning",
        default=3.0,
        check=above(0),
    )
    stop: bool = option("whether training ends at such a warning", default=False)

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
        return data, problem.reward.each(data, cond.prompts)

    @torch.no_grad()
    def of(
        self, problem: Problem, model: FlowModel, cond: Condition, references: Tensor, seed: int
    ) -> tuple[dict[str, float], Tensor, dict[str, Tensor]]:
        """Named numbers for a model, its decoded samples, and their scores (n,) by each reward.

        Each reward's mean has its standard error beside it, "error of <name>". "divergence" is
        KL(model | base) of SDE paths, in nats; "spread" the root-mean-square distance of two
        samples of one prompt, and "moved" that of a sample from the base model's of the same noise.
        """
        told = dict[str, float]()
        data, scores = self.samples_of(problem, model, cond, seed)
        for name, score in scores.items():
            told[name] = float(score.double().mean())
            told[error_of(name)] = float(score.double().std()) / math.sqrt(len(score))
        for metric in self.metrics or _USUAL[model.domain]:
            told |= metric.compute(data, references if metric.needs_references else None)
        told["spread"] = spread(data, cond.prompts)
        told["moved"] = float((data - references).double().square().mean().sqrt())
        streams = Streams(seed, tuple(range(len(cond))), ("divergence",), model.device)
        told["divergence"] = girsanov(problem.model, model, cond, streams, self.flow_steps)
        return told, data, {name: score.double() for name, score in scores.items()}


_USUAL: Final[Mapping[Domain, tuple[Metric, ...]]] = MappingProxyType(
    {"image": (ImageStatistics(), FrechetThumbnails()), "vector": (SlicedWasserstein(),)}
)


def error_of(name: str) -> str:
    """The name of the standard error of a reward's mean."""
    return f"error of {name}"


def detect_hacking(problem: Problem, best: Mapping[str, Scores], now: Scores, errors: float) -> str:
    """What scores (n,) say of a hacked reward; "" where they do not.

    That is: since the evaluation that a held-out reward liked best, it has fallen by more than so
    many standard errors and by more than a fifth of what samples differ, and a reward that is
    optimised has not fallen by so many errors. `best` has that evaluation's scores by all rewards,
    for each that is held out.
    """
    for name, then in best.items():
        lost = {key: then[key] - now[key] for key in then}
        kept = [t.name for t in problem.reward.optimised if _in_errors(lost[t.name]) <= errors]
        much = lost[name].mean() > SMALL * then[name].std()
        if kept and much and _in_errors(lost[name]) > errors:
            went, fell = (
                f"from {float(then[key].mean()):.3g} to {float(now[key].mean()):.3g}"
                for key in (kept[0], name)
            )
            return (
                f"the reward was hacked: '{kept[0]}', which is trained, went {went} while"
                f" '{name}', which is held out, fell {fell}"
            )
    return ""


def _in_errors(lost: Tensor) -> float:
    """Mean of the samples' own losses (n,), in its standard errors."""
    return float(lost.mean() / (lost.std() / math.sqrt(len(lost))).clamp_min(1e-30))


def spread(data: Tensor, prompts: Sequence[str]) -> float:
    """Root-mean-square distance, a number of the data, of two samples that have the same prompt."""
    rows = dict[str, list[int]]()
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    flat = data.flatten(1).double()
    found = [torch.pdist(flat[own]).square().mean() for own in rows.values() if len(own) > 1]
    if not found:
        return math.nan
    return float((torch.stack(found).mean() / flat.shape[1]).sqrt())


def samples(model: FlowModel, cond: Condition, streams: Streams, steps: int) -> Tensor:
    """Clean states (B, *S) by Euler steps of equal length, one for each row of the streams."""
    x = streams.normal(model.shape).to(model.device, model.dtype)
    return flow(model, x, cond, steps=steps)


def girsanov(
    base: FlowModel, student: FlowModel, cond: Condition, streams: Streams, steps: int
) -> float:
    """KL of the student's SDE paths from the base's, E Σ ‖Δdrift‖² Δt / (2 σ²), in nats.

    The drift of both is b + (σ²/2) s with the same σ, so that Δdrift = (1 + σ_c²/σ²) (b̂ − b): the
    student is the base model with guidance. Paths start at t = .01.
    """
    guided, times = difference(base, student, cond), grid(steps, 0.01, 1.0)
    x = streams.fold_in("start").normal(student.shape).to(student.device, student.dtype)
    total = 0.0
    for transition in transitions(SDE(), guided, x, times, streams):
        assert transition.gaussian is not None
        total += float(transition.gaussian.kl.mean())
    return total


def difference(base: FlowModel, student: FlowModel, cond: Condition) -> GuidedFlow:
    """The student's flow as the base model's with guidance; costs a network call of each a row."""
    path = student.path

    def evaluate(x: Tensor, t: Tensor) -> FlowEvaluation:
        wide = x.to(base.dtype)
        velocity = base.velocity(wide, t.to(wide), cond).to(x)
        moved = student.velocity(x, t, cond) - velocity
        return FlowEvaluation(velocity, moved / expand(path.denoiser_to_velocity(t), x))

    return GuidedFlow(path, evaluate)
