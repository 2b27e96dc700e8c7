"""What a fine-tuning loss is handed, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs
import torch
from torch import Tensor

from align.core.draws import Draws, make_draws
from align.core.model import Condition, FlowModel, NoisyState
from align.core.problem import Problem
from align.core.streams import Streams


@final
@attrs.frozen(eq=False, kw_only=True)
class TiltedTarget:
    """A model under training that is to have the law p*(x1) ∝ p(x1) e^{r(x1)}.

    Attributes:
        problem: the frozen base model of p, the reward r and, for losses that draw, the sampler.
        student: the model under training; its velocity carries the gradient.
        clean: clean states (b, *S) of rows of training, from anywhere, with their conditions, in
            the precision of the base model.
        log_normalizer: a constant c for each of the problem's prompts that is taken off r, so
            that e^{r − c} is about 1; (P,), float64.
        seen: what of a model is trained, and what of the base model it starts from.
    """

    problem: Problem
    student: FlowModel
    clean: Callable[[Streams], tuple[Tensor, Condition]]
    log_normalizer: Tensor
    seen: Callable[[FlowModel], FlowModel] = lambda model: model

    def noisy(self, rows: Streams, start: float) -> tuple[NoisyState, Tensor]:
        """States x_t (b, *S) at times uniform between `start` and nearly 1, and their clean x1."""
        x1, cond = self.clean(rows)
        t = start + (1 - 1e-3 - start) * rows.fold_in("time").uniform(())
        noise = rows.fold_in("noise").normal(self.student.shape).to(x1)
        return NoisyState(self.student.path.interpolate(noise, x1, t.to(x1)), t.to(x1), cond), x1

    def draws(self, noisy: NoisyState, count: int, gradient: bool, rows: Streams) -> Draws:
        """Posterior draws at noisy states with their rewards, in full precision."""
        with torch.autocast(noisy.x.device.type, enabled=False):
            return make_draws(
                self.problem, noisy, draws=count, budget=4, gradient=gradient, streams=rows
            )

    @torch.no_grad()
    def own(self, noisy: NoisyState, x1: Tensor) -> Draws:
        """The clean x1 that noisy states were made of, as the one draw from there: it is one."""
        with torch.autocast(noisy.x.device.type, enabled=False):
            rewards = self.problem.reward_of(x1[None], noisy.cond)
        counts = torch.ones(len(x1), dtype=torch.int64, device=x1.device)
        return Draws(x1[None], rewards, None, counts, point=False)

    def velocity(self, noisy: NoisyState) -> Tensor:
        """The student's velocity (b, *S), in its own precision."""
        x = noisy.x.to(self.student.dtype)
        return self.seen(self.student).velocity(x, noisy.t.to(x), noisy.cond)

    @torch.no_grad()
    def base(self, noisy: NoisyState) -> Tensor:
        """The base model's velocity (b, *S)."""
        return self.seen(self.problem.model).velocity(noisy.x, noisy.t, noisy.cond)

    def weights(self, draws: Draws, numbers: Tensor) -> Tensor:
        """e^{r − c}, (N, b), for prompts of these numbers (b,)."""
        return (draws.rewards.double() - self.log_normalizer[numbers]).exp()

    def numbers(self, noisy: NoisyState) -> Tensor:
        """Which of the problem's prompts each row has, (b,)."""
        known = {prompt: number for number, prompt in enumerate(self.problem.prompts)}
        return torch.tensor(
            [known[one] for one in noisy.cond.prompts], device=self.log_normalizer.device
        )
