"""The value of a measurement in closed form, with the posterior as one Gaussian."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.estimate import Estimate
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.option import above, option
from align.core.problem import Problem
from align.core.quadratic import Form
from align.core.streams import Streams
from align.estimators.gradient import shift_of_gradient


@final
@attrs.frozen(kw_only=True)
class GaussianValue(ValueEstimator):
    """Measurements alone: values in closed form, no draws.

    V̂ = log E[e^{r(x1)}] for x1 ~ N(D_t(x), v I), and its gradient through the denoiser.

        v = α² s² / (α² + β² s²),
        r = −|A x − y|²/(2 σ²):   V̂ = −½ uᵀ S⁻¹ u − ½ log det(S/σ²),   u = y − A D,
                                  S = σ² I + v A Aᵀ,    shift = (α²/β) (∂D/∂x)ᵀ Aᵀ S⁻¹ u.

    v is the posterior variance of Gaussian data of standard deviation s. Nothing is drawn, so that
    V̂ is smooth even where a reward is so sharp that few draws would have a high one. V̂ is wrong
    where the posterior is not this Gaussian; particles that are weighed by it (mode 'steer',
    resample 'systematic') correct that. Rewards must be quadratic, like 'likelihood', and score the
    states themselves.

    Reference: Pseudoinverse-Guided Diffusion Models for Inverse Problems, Song, Vahdat, Mardani,
    Kautz, 2023, ICLR, section 3.2 (guidance and, with s = 1, its r²; there without log det S).
    """

    kind: ClassVar[str] = "gaussian"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = False
    needs_quadratic: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    data_std: float = option(
        "standard deviation s of the data's elements", default=1.0, check=above(0)
    )

    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift; costs a network call, a backward pass through it, and a reward.

        The denoiser is part of the estimate, so that steering makes no call of its own. `reward` is
        that of the denoiser.
        """
        if problem.model.domain != "vector":
            raise PartError("estimator 'gaussian' needs a reward that sees the states themselves")
        form = Form.of(problem.reward, noisy.x)
        if not form.bounded(self.data_std**2):
            raise PartError("the reward outgrows the Gaussian: e^r has no mean; lower 'data_std'")

        def piece(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
            return self._piece(problem, noisy.rows(rows), form)

        parts = problem.chunks.cut("gradient of the value", len(noisy.x), piece)
        value, shift, denoiser = (torch.cat(part) for part in zip(*parts, strict=True))
        with torch.no_grad():
            reward = problem.reward_of(denoiser[None], noisy.cond)[0]
        return Estimate(
            value=value,
            error=torch.zeros_like(value),
            shift=shift,
            ess=torch.ones_like(value),
            reward=reward,
            draws=torch.zeros(len(noisy.x), dtype=torch.int64, device=noisy.x.device),
            denoiser=denoiser,
        )

    def _piece(
        self, problem: Problem, noisy: NoisyState, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Value (b,), shift (b, D) and denoiser (b, D)."""
        path, model = problem.model.path, problem.model
        noise_variance = path.alpha(noisy.t) ** 2
        data_variance = (self.data_std * path.beta(noisy.t)) ** 2
        variance = self.data_std**2 * noise_variance / (noise_variance + data_variance)
        with torch.enable_grad():
            x = noisy.x.detach().requires_grad_()
            denoiser = path.denoiser_from_velocity(
                model.velocity(x, noisy.t, noisy.cond), x, noisy.t
            )
            value = form.log_means(denoiser, variance)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), shift_of_gradient(path, gradient, noisy.t), denoiser.detach()
