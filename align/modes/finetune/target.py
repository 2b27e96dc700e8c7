"""What a fine-tuning objective is handed: the student, and the law that it is to have."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs
import torch
from torch import Tensor

from align.core.draws import Draws, make_draws
from align.core.model import Condition, FlowModel, NoisyState
from align.core.objective import GroupedValues
from align.core.path import times_of
from align.core.problem import Problem
from align.core.streams import Streams


@final
@attrs.frozen(eq=False, kw_only=True)
class TiltedTarget:
    """A model under training that is to have the law p*(x1) ∝ p(x1) e^{r(x1)}.

    Attributes:
        problem: the frozen base model of p, the reward r and, for objectives that draw, the
            sampler.
        student: the model under training; its velocity carries the gradient.
        clean: makes clean states (b, *S) for rows of training, with their conditions, in the
            precision of the base model.
        log_normalizer: the constant c of each of the problem's prompts that is taken off r, so
            that e^{r − c} is about 1; (P,), float64.
        view: turns a model into the one whose velocity is trained, for instance into the one
            without guidance.
    """

    problem: Problem
    student: FlowModel
    clean: Callable[[Streams], tuple[Tensor, Condition]]
    log_normalizer: Tensor
    view: Callable[[FlowModel], FlowModel] = lambda model: model

    def noisy(self, rows: Streams, start: float) -> tuple[NoisyState, Tensor]:
        """States x_t (b, *S) at times uniform between `start` and nearly 1, and their clean x1."""
        x1, cond = self.clean(rows)
        t = start + (1 - 1e-3 - start) * rows.fold_in("time").uniform(())
        noise, t = rows.fold_in("noise").normal(self.student.shape).to(x1), times_of(x1, t)
        return NoisyState(self.student.path.interpolate(noise, x1, t), t, cond), x1

    def draws(self, noisy: NoisyState, count: int, gradient: bool, rows: Streams) -> Draws:
        """Posterior draws at noisy states with their rewards, in full precision."""
        with torch.autocast(noisy.x.device.type, enabled=False):
            return make_draws(
                self.problem, noisy, draws=count, budget=4, gradient=gradient, streams=rows
            )

    @torch.no_grad()
    def clean_draw(self, noisy: NoisyState, x1: Tensor) -> Draws:
        """The clean x1 (b, *S) of noisy states as their one posterior draw; it is an exact one."""
        with torch.autocast(noisy.x.device.type, enabled=False):
            rewards = self.problem.reward_of(x1[None], noisy.cond)
        counts = torch.ones(len(x1), dtype=torch.int64, device=x1.device)
        return Draws(x1[None], rewards, None, counts, point=False)

    def velocity(self, noisy: NoisyState) -> Tensor:
        """The student's velocity (b, *S), in its own precision."""
        x = noisy.x.to(self.student.dtype)
        return self.view(self.student).velocity(x, times_of(x, noisy.t), noisy.cond)

    @torch.no_grad()
    def base_velocity(self, noisy: NoisyState) -> Tensor:
        """The base model's velocity (b, *S)."""
        return self.view(self.problem.model).velocity(noisy.x, noisy.t, noisy.cond)

    def weights(self, draws: Draws, prompts: Tensor) -> Tensor:
        """e^{r − c}, (N, b), for rows whose prompts have these numbers (b,)."""
        return (draws.rewards.double() - self.log_normalizer[prompts]).exp()

    def prompt_weights(self, noisy: NoisyState, weights: Tensor) -> GroupedValues:
        """Weights e^{r − c} of rows (b,), grouped by prompt."""
        return GroupedValues(weights, self.prompt_numbers(noisy), len(self.log_normalizer))

    def prompt_numbers(self, noisy: NoisyState) -> Tensor:
        """Which of the problem's prompts each row has, (b,)."""
        known = {prompt: number for number, prompt in enumerate(self.problem.prompts)}
        return torch.tensor(
            [known[prompt] for prompt in noisy.cond.prompts], device=self.log_normalizer.device
        )
