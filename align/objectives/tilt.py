"""What a fine-tuning loss is handed, and what it returns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.draws import Draws, drawn
from align.core.model import At, Condition, FlowModel
from align.core.problem import Problem
from align.core.streams import Streams


@final
@attrs.frozen(eq=False, kw_only=True)
class Tilt:
    """A model under training that is to have the law p*(x1) ∝ p(x1) e^{r(x1)}.

    Attributes:
        problem: the frozen base model of p, the reward r and, for losses that draw, the sampler.
        student: the model under training; its velocity carries the gradient.
        clean: clean states (b, *S) of rows of training, from anywhere, with their conditions, in
            the precision of the base model.
        level: a constant c that is taken off r, so that e^{r − c} is about 1; (), float64.
    """

    problem: Problem
    student: FlowModel
    clean: Callable[[Streams], tuple[Tensor, Condition]]
    level: Tensor

    def noisy(self, rows: Streams, start: float) -> tuple[At, Tensor]:
        """States x_t (b, *S) at times uniform between `start` and nearly 1, and their clean x1."""
        x1, cond = self.clean(rows)
        t = start + (1 - 1e-3 - start) * rows.at("time").uniform(())
        noise = rows.at("noise").normal(self.student.shape).to(x1)
        return At(self.student.path.interpolate(noise, x1, t.to(x1)), t.to(x1), cond), x1

    def draws(self, at: At, count: int, gradient: bool, rows: Streams) -> Draws:
        """Posterior draws at noisy states with their rewards, in full precision."""
        with torch.autocast(at.x.device.type, enabled=False):
            return drawn(self.problem, at, draws=count, budget=4, gradient=gradient, streams=rows)

    @torch.no_grad()
    def own(self, at: At, x1: Tensor) -> Draws:
        """The clean x1 that noisy states were made of, as the one draw from there: it is one."""
        with torch.autocast(at.x.device.type, enabled=False):
            rewards = self.problem.reward_of(x1[None], at.cond)
        counts = torch.ones(len(x1), dtype=torch.int64, device=x1.device)
        return Draws(x1[None], rewards, None, counts, point=False)

    def velocity(self, at: At) -> Tensor:
        """The student's velocity (b, *S), in its own precision."""
        x = at.x.to(self.student.dtype)
        return self.student.velocity(x, at.t.to(x), at.cond)

    @torch.no_grad()
    def base(self, at: At) -> Tensor:
        """The base model's velocity (b, *S)."""
        return self.problem.model.velocity(at.x, at.t, at.cond)

    def weights(self, draws: Draws) -> Tensor:
        """e^{r − c}, (N, b)."""
        return (draws.rewards.double() - self.level).exp()


@attrs.frozen(kw_only=True)
class FineTuning(ABC):
    """A loss whose minimum is the velocity of the tilted law.

    Attributes:
        needs_gradient: whether it follows the gradient of the reward.
        weighs: whether rows count e^{r − c}.
    """

    kind: ClassVar[str]
    needs_gradient: ClassVar[bool]
    weighs: ClassVar[bool]

    @property
    @abstractmethod
    def needs_sampler(self) -> bool:
        """Whether it draws from the posterior."""

    @abstractmethod
    def losses(self, tilt: Tilt, rows: Streams) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses (b,) of rows of training, and numbers (b,) for the record, by name.

        "reward" is the mean of r over a row's draws; "tilt", where it is there, is the mean of
        e^{r − c} over them, by which c is moved.
        """

    def first_level(self, tilt: Tilt, rows: Streams) -> Tensor:
        """log E e^r over draws that these rows of training would see, (), float64."""
        at, x1 = tilt.noisy(rows, 0.01)
        own = rows.at("draws")
        draws = tilt.draws(at, 1, False, own) if self.needs_sampler else tilt.own(at, x1)
        rewards = draws.rewards.double()
        return torch.logsumexp(rewards.flatten(), 0) - math.log(rewards.numel())


def regressed(
    tilt: Tilt, at: At, draws: Draws, targets: Tensor, share: Tensor
) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Losses w_t E_n e^{r_n − c} ‖b̂_t(x_t) − target_n‖², (b,); the velocity b̂; and what is told.

    The mean over draws is outside the exponential, so that one draw is enough for an unbiased
    gradient. Weights w_t = `share` (b,) of a time alone leave the minimum where it is.
    """
    velocity = tilt.velocity(at)
    weights = tilt.weights(draws)
    apart = (velocity - targets).flatten(2).double().square().mean(2)
    losses = share.double() * (weights * apart).mean(0)
    return losses, velocity, {"reward": draws.rewards.mean(0), "tilt": weights.mean(0)}
