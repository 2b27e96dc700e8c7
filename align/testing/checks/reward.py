"""Checks of rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, final
from unittest import SkipTest

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from align.core.errors import PromptError
from align.core.reward import LATENT, Compares, Quadratic, Reward, RewardDomain, RewardSpec
from align.core.streams import Streams
from align.testing.checks.form import files_read, form
from align.testing.probes import close, finite, size
from align.testing.probes import untouched as unmoved

PROMPTS: Final = ("a tabby cat", "a tabby cat, asleep on a stove, " * 100)
STEPS: Final = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)


@final
@attrs.frozen(eq=False)
class Scoring:
    """A reward, and data to score: five rows."""

    part: RewardSpec
    reward: Reward
    data: Tensor

    def score(self, data: Tensor) -> Tensor:
        """The score (B,) with a plain prompt."""
        return self.of(data, ["a tabby cat"] * len(data))

    def of(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The score (B,); of a reward that compares, that beside one and the same other sample."""
        judge = self.reward.capability(Compares)
        if judge is None:
            return self.reward.score(data, prompts)
        other = self.data.flip(0)[:1].expand(len(data), *data.shape[1:])
        return judge.compare(torch.stack((data, other)), prompts)[0]


def subject(part: RewardSpec, on: Callable[[], Tensor] | None) -> Scoring:
    """The reward built on the data's device; coloured noise, or vectors of two numbers."""
    data = on() if on else noise(part.domain, Streams(5, tuple(range(5))))
    assert len(data) > 1, "give at least two rows of data"
    return Scoring(part, part.build(data.device), data)


def noise(domain: RewardDomain | None, streams: Streams, side: int = 64) -> Tensor:
    """Vectors (B, 2) or states (B, 4, 8, 8) of normal numbers, or pictures (B, 3, side, side).

    Pictures are noise at many scales, in [0, 1].
    """
    if domain == "vector":
        return streams.normal((2,)).float()
    if domain == LATENT:
        return streams.normal((4, 8, 8)).float()
    total = torch.zeros(len(streams.samples), 3, side, side)
    for cells in (2, 4, 8, 16):
        coarse = streams.fold_in(cells).normal((3, cells, cells)).float()
        total += F.interpolate(coarse, size=(side, side), mode="bilinear")
    return (0.5 + 0.15 * total).clamp(0, 1)


def shape(scoring: Scoring) -> None:
    """Scores are (B,), float32 or wider, finite; of one row and of several."""
    for data in (scoring.data, scoring.data[:1]):
        score = scoring.score(data)
        assert score.shape == (len(data),), f"{tuple(score.shape)}, expected ({len(data)},)"
        assert score.dtype in (torch.float32, torch.float64), f"scores are {score.dtype}"
        assert score.device == data.device, f"scores are on {score.device}, not {data.device}"
        finite(score, "scores")


def rows_are_independent(scoring: Scoring) -> None:
    """A row's score is the same alone, among others and in another order."""
    whole = scoring.score(scoring.data)
    alone = torch.cat([scoring.score(row[None]) for row in scoring.data])
    close(alone, whole, "scores one by one, and together")
    close(scoring.score(scoring.data.flip(0)), whole.flip(0), "scores in reverse order")


def repeatable(scoring: Scoring) -> None:
    """The same data have the same scores again."""
    first = scoring.score(scoring.data)
    assert torch.equal(first, scoring.score(scoring.data)), "other scores the second time"


def random_state(scoring: Scoring) -> None:
    """Torch's global random state is left as it was."""
    with unmoved(scoring.data.device, "score"):
        scoring.score(scoring.data)


def inputs_untouched(scoring: Scoring) -> None:
    """The data are not changed in place."""
    data = scoring.data.clone()
    scoring.score(data)
    assert torch.equal(data, scoring.data), "score changes the data in place"


def prompts(scoring: Scoring) -> None:
    """Any prompt with words in it is taken: a plain one and a very long one."""
    for prompt in PROMPTS:
        data = scoring.data[:2]
        finite(scoring.of(data, [prompt] * 2), f"scores with a prompt of {len(prompt)}")


def needs_prompt(scoring: Scoring) -> None:
    """`needs_prompt` is true if and only if an empty prompt is refused with PromptError."""
    data, declared = scoring.data[:1], scoring.part.needs_prompt
    for prompt in ("", " "):
        try:
            finite(scoring.of(data, [prompt]).detach(), f"scores with prompt {prompt!r}")
        except PromptError:
            assert declared, f"prompt {prompt!r} is refused, but `needs_prompt` is false"
        else:
            assert not declared, f"prompt {prompt!r} is taken, but `needs_prompt` is true"


def compares(scoring: Scoring) -> None:
    """A reward that `compares` favours no place in a group, knows no other, and gives one 0."""
    judge = scoring.reward.capability(Compares)
    declared = scoring.part.compares
    assert declared == (judge is not None), f"`compares` is {declared}, and the reward says other"
    if judge is None:
        raise SkipTest("it scores samples alone")
    groups = torch.stack((scoring.data[:3], scoring.data.flip(0)[:3], scoring.data[:3].flip(0)))
    names = ["a tabby cat"] * groups.shape[1]
    whole = judge.compare(groups, names)
    assert whole.shape == groups.shape[:2], f"{tuple(whole.shape)}, expected (3, {len(names)})"
    finite(whole, "scores")
    close(judge.compare(groups.flip(0), names), whole.flip(0), "members in reverse order")
    alone = [judge.compare(groups[:, b : b + 1], names[:1]) for b in range(len(names))]
    close(torch.cat(alone, 1), whole, "groups one by one, and together")
    single = judge.compare(groups[:1], names)
    assert not single.any(), "a member alone has another score than 0"


def is_quadratic(scoring: Scoring) -> None:
    """`is_quadratic` is true if and only if the reward is a `Quadratic`."""
    able = scoring.reward.capability(Quadratic) is not None
    declared = scoring.part.is_quadratic
    assert able or not declared, "`is_quadratic` is true, but the reward is no Quadratic"
    assert declared or not able, "the reward is a Quadratic, but `is_quadratic` does not say so"


def outside(scoring: Scoring) -> None:
    """Pictures a little outside of [0, 1] have finite scores, with a finite gradient."""
    if scoring.data.dim() != 4 or scoring.part.domain == LATENT:
        raise SkipTest("vectors and states have no bounds")
    data = (1.3 * scoring.data - 0.15).requires_grad_(scoring.part.differentiable)
    score = scoring.score(data)
    finite(score.detach(), "scores")
    if score.requires_grad:
        finite(torch.autograd.grad(score.sum(), data)[0], "gradient")


def within_range(scoring: Scoring) -> None:
    """Scores lie in `range`, those of extreme data too."""
    low, high = scoring.part.range
    assert low < high, f"range is from {low} to {high}"
    extremes = [scoring.data, 0 * scoring.data, 0 * scoring.data + 1, scoring.data.round()]
    score = torch.cat([scoring.score(data).detach() for data in extremes])
    lowest, highest = float(score.min()), float(score.max())
    # The gap is what rounding adds.
    gap = 1e-5 * size(score)
    assert low - gap <= lowest, f"a score of {lowest:.6g} is below the declared {low}"
    assert highest <= high + gap, f"a score of {highest:.6g} is above the declared {high}"


def differentiable(scoring: Scoring) -> None:
    """`differentiable` is true if and only if scores carry a gradient to every row."""
    data = scoring.data.clone().requires_grad_()
    score = scoring.score(data)
    plain = scoring.score(scoring.data)
    assert not plain.requires_grad, "a score without a gradient has a graph; freeze the weights"
    if not scoring.part.differentiable:
        assert not score.requires_grad, "a score carries a gradient, but `differentiable` is false"
        return
    assert score.requires_grad, "a score carries no gradient, but `differentiable` is true"
    (gradient,) = torch.autograd.grad(score.sum(), data)
    finite(gradient, "gradient")
    flat = int((gradient.flatten(1).abs().sum(1) == 0).sum())
    assert not flat, f"the gradient of {flat} of {len(data)} rows is zero"


def gradient(scoring: Scoring) -> None:
    """The gradient agrees with finite differences: along itself, evenly, and at random."""
    if not scoring.part.differentiable:
        raise SkipTest("not differentiable")
    data = scoring.data[:2].clone().requires_grad_()
    (gradients,) = torch.autograd.grad(scoring.score(data).sum(), data)
    length = gradients.flatten(1).norm(dim=1)
    random = Streams(6, (0, 1), device=data.device).normal(tuple(data.shape[1:])).to(data)
    with torch.no_grad():
        for name, direction in (
            ("itself", gradients),
            ("a constant", torch.ones_like(gradients)),
            ("noise", random),
        ):
            unit = direction / direction.flatten(1).norm(dim=1).reshape(
                -1, *[1] * (direction.dim() - 1)
            )
            slope = (gradients * unit).flatten(1).sum(1)
            allowed = 0.05 * slope.abs() + 0.003 * length
            misses = torch.stack([(s - slope).abs() / allowed for s in slopes(scoring, unit)])
            misses = misses.nan_to_num(nan=torch.inf)
            # Rounding blurs small steps and curvature large ones: two neighbours must agree.
            lowest = torch.maximum(misses[1:], misses[:-1]).min(0).values
            assert (lowest < 1).all(), f"gradient along {name} disagrees with finite differences"


def slopes(scoring: Scoring, unit: Tensor) -> list[Tensor]:
    """Central differences (B,) along unit directions, for steps from large to small."""
    data = scoring.data[: len(unit)]
    reach = max(1e-3, float(data.flatten(1).std(1).mean())) * unit[0].numel() ** 0.5
    ends = [[scoring.score(data + sign * h * reach * unit) for sign in (1, -1)] for h in STEPS]
    return [(up - down) / (2 * h * reach) for h, (up, down) in zip(STEPS, ends, strict=True)]


CHECKS: Final = (
    form,
    files_read,
    shape,
    rows_are_independent,
    repeatable,
    random_state,
    inputs_untouched,
    prompts,
    needs_prompt,
    compares,
    is_quadratic,
    outside,
    within_range,
    differentiable,
    gradient,
)
