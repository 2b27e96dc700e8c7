"""The exact value, for models that know it: what the other estimators are measured against."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch

from align.core.errors import PartError
from align.core.estimate import Estimate
from align.core.estimator import ClosedForm, ValueEstimator
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.gradient import shift_of_gradient


@final
@attrs.frozen(kw_only=True)
class Exact(ValueEstimator):
    """Mixtures alone: exact values, to compare others with.

    V_t and shift = (α²/β) ∇V_t in closed form.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 37 to 39.
    """

    kind: ClassVar[str] = "exact"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = False
    needs_quadratic: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = ClosedForm

    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift; costs a network call and a reward.

        `ess` is 1, and `reward` that of the denoiser.
        """
        model, exact = problem.model, problem.model.capability(ClosedForm)
        if exact is None:
            raise PartError("estimator 'exact' needs a model with an exact value, like 'mixture'")
        with torch.enable_grad():
            x = noisy.x.detach().requires_grad_()
            value = exact.value(NoisyState(x, noisy.t, noisy.cond), problem.reward)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        with torch.no_grad():
            velocity = model.velocity(noisy.x, noisy.t, noisy.cond)
            denoiser = model.path.denoiser_from_velocity(velocity, noisy.x, noisy.t)
            reward = problem.reward_of(denoiser[None], noisy.cond)[0]
        return Estimate(
            value=value.detach(),
            error=torch.zeros_like(reward),
            shift=shift_of_gradient(model.path, gradient, noisy.t),
            ess=torch.ones_like(reward),
            reward=reward,
            draws=torch.zeros(len(noisy.x), dtype=torch.int64, device=noisy.x.device),
            denoiser=denoiser,
        )
