"""The contract of fine-tuning objectives, and the regression that most of them are."""

from __future__ import annotations

import math
from abc import abstractmethod

import attrs
import torch
from torch import Tensor

from align.core.draws import Draws
from align.core.model import NoisyState
from align.core.objective import Loss, Objective
from align.core.streams import Streams
from align.modes.finetune.target import TiltedTarget


@attrs.frozen(kw_only=True)
class FinetuneObjective(Objective):
    """A loss of mode "finetune", by which a flow learns the law p*(x1) ∝ p(x1) e^{r(x1)}.

    A subclass states a property either as a class attribute, or as a property where it depends on
    the options.
    """

    @property
    @abstractmethod
    def needs_gradient(self) -> bool:
        """Whether it follows the gradient of the reward."""

    @property
    @abstractmethod
    def needs_sampler(self) -> bool:
        """Whether it draws from the posterior."""

    @property
    @abstractmethod
    def weighs(self) -> bool:
        """Whether rows count e^{r − c}; where they do not, no c is moved."""

    @property
    def takes_level(self) -> bool:
        """Whether a c is taken off r, which is then fitted before the first step of a stage."""
        return self.weighs

    @property
    def unguided(self) -> bool:
        """Whether the velocity without guidance is trained, whatever the model's guidance."""
        return False

    @abstractmethod
    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        """The loss of b rows of training, with the metric "reward", the mean of r over draws.

        Where rows are weighed, `Loss.weights` has the mean of e^{r − c} over the draws of each row,
        grouped by prompt (`TiltedTarget.prompt_weights`).
        """

    def level(self, rewards: Tensor) -> Tensor:
        """The c (), that is taken off rewards r (n,) of one prompt: log E e^r."""
        return torch.logsumexp(rewards, 0) - math.log(len(rewards))

    def first_log_normalizer(self, target: TiltedTarget, rows: Streams) -> Tensor:
        """The first c of each prompt, (P,), from draws that these rows of training would see."""
        noisy, x1 = target.noisy(rows, 0.01)
        streams = rows.fold_in("draws")
        if self.needs_sampler:
            draws = target.draws(noisy, 1, False, streams)
        else:
            draws = target.clean_draw(noisy, x1)
        rewards, prompts = draws.rewards.double()[0], target.prompt_numbers(noisy)
        log_normalizer = torch.empty_like(target.log_normalizer)
        for number in range(len(log_normalizer)):
            of_prompt = rewards[prompts == number]
            of_prompt = of_prompt if len(of_prompt) else rewards
            log_normalizer[number] = self.level(of_prompt)
        return log_normalizer


def regression(
    target: TiltedTarget,
    noisy: NoisyState,
    draws: Draws,
    goals: Tensor,
    row_weights: Tensor,
    *,
    weighs: bool = True,
) -> tuple[Tensor, Loss]:
    """The velocity b̂, (b, *S), and the loss w_t E_n e^{r_n − c} ‖b̂_t(x_t) − goal_n‖² of each row.

    The mean over draws is outside the exponential, so that one draw is enough for an unbiased
    gradient. Weights w_t that depend on the time alone leave the minimum where it is.

    Args:
        target: the student and the law it is to have.
        noisy: the states x_t, (b, *S).
        draws: N posterior draws at each state, with their rewards.
        goals: what the velocity is regressed on, (N, b, *S), or (1, b, *S) for all draws.
        row_weights: w_t, (b,).
        weighs: whether draws count e^{r − c}; if not, they count alike.
    """
    velocity = target.velocity(noisy)
    squares = (velocity - goals).flatten(2).double().square().mean(2)
    metrics, weights = {"reward": draws.rewards.mean(0)}, None
    if weighs:
        tilt = target.weights(draws, target.prompt_numbers(noisy))
        squares = tilt * squares
        weights = target.prompt_weights(noisy, tilt.mean(0))
    return velocity, Loss(row_weights.double() * squares.mean(0), metrics, weights)
