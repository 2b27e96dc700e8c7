"""The posterior as one Gaussian around the denoiser."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.model import FlowModel, NoisyState
from align.core.option import above, option
from align.core.path import expand
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams


def posterior_moments(model: FlowModel, noisy: NoisyState) -> tuple[Tensor, Tensor]:
    """Mean D_t(x) and covariance C_t(x) of p(x1 | x_t = x), by Tweedie's formulas.

    p(x1 | x) ∝ p(x1) exp(x1 · η − β² |x1|² / (2 α²)) is an exponential family in η = β x / α², so
    that C = ∂D/∂η = (α²/β) ∂D/∂x; on the linear path ((1 − t)²/t) ∂D/∂x. The Jacobian is computed
    row by row and without a graph. It is made symmetric, as a network's need not be.

    At t = 0 both β and ∂D/∂x vanish, and C is the limit of their ratio, the covariance of the data.
    Times are at least that at which β = √ε for the ε of the floating type: there the error of the
    limit (in β) equals the rounding of the ratio (in ε/β), about 1e-8 in double and 3e-4 in single
    precision.

    Args:
        model: any flow model; costs one network call and D backward passes a state.
        noisy: the states (B, *S) of D elements, at times t in [0, 1].

    Returns:
        The mean, (B, *S), with its graph where `noisy.x` has one; the covariance, (B, D, D).
    """
    path = model.path
    least = path.time_at(torch.full_like(noisy.t, 1 / torch.finfo(noisy.x.dtype).eps))
    t = torch.maximum(noisy.t, least)
    graph = torch.is_grad_enabled() and noisy.x.requires_grad
    x = noisy.x if graph else noisy.x.detach().requires_grad_()
    with torch.enable_grad():
        mean = path.denoiser_from_velocity(model.velocity(x, t, noisy.cond), x, t)
        # A state's denoiser depends on that state alone: a sum over states differentiates each.
        sums = mean.flatten(1).sum(0)
        rows = [torch.autograd.grad(total, x, retain_graph=True)[0] for total in sums]
    jacobian = torch.stack(rows, 1).flatten(2)
    covariance = expand(path.alpha(t) ** 2 / path.beta(t), jacobian) * jacobian
    covariance = (covariance + covariance.mT) / 2
    return mean if graph else mean.detach(), covariance


@final
@attrs.frozen(kw_only=True)
class GaussianPosterior(PosteriorSampler):
    """Any flow: a Gaussian around the mean, so one mode alone.

    x1 = D_t(x) + C^½ ε with ε ~ N(0, I): wrong where the posterior has several modes.

    With `covariance` = "exact" C = (α²/β) ∂D/∂x is the covariance of the posterior, negative
    eigenvalues set to 0; for states of a few hundred elements at most, as it costs a backward pass
    and holds D numbers for each. With "isotropic" C = v I, where v = α² s² / (α² + β² s²) is the
    posterior variance of data of standard deviation s.

    A draw's gradient goes through D, with C held fixed: exact where C does not depend on x, which
    is to say for Gaussian data.

    Reference: Pseudoinverse-Guided Diffusion Models for Inverse Problems, Song, Vahdat, Mardani,
    Kautz, 2023, ICLR (isotropic: its r² = σ²/(1 + σ²) is v at s = 1 with σ = α/β); Tweedie Moment
    Projected Diffusions for Inverse Problems, Boys et al., 2023, arXiv:2310.06721 (exact).
    """

    kind: ClassVar[str] = "gaussian"
    differentiable: ClassVar[bool] = True
    exact_for: ClassVar[str] = "data that are one Gaussian, with covariance 'exact'"
    needs: ClassVar[type | None] = None

    covariance: Literal["isotropic", "exact"] = option(
        "'isotropic', or 'exact': at one backward pass for every element of a state",
        default="isotropic",
    )
    data_std: float = option(
        "standard deviation s of the data's elements, for 'isotropic'", default=1.0, check=above(0)
    )

    def sample(
        self, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
    ) -> Tensor:
        """Draws (N, B, *S) of x1; costs one network call a state, and with 'exact' its Jacobian."""
        noise = streams.fold_in("posterior").normal(model.shape, draws=draws).to(noisy.x)
        if self.covariance == "exact":
            mean, covariance = posterior_moments(model, noisy)
            return mean + _root_times(covariance, noise.flatten(2)).reshape(noise.shape).to(mean)
        path = model.path
        mean = path.denoiser_from_velocity(
            model.velocity(noisy.x, noisy.t, noisy.cond), noisy.x, noisy.t
        )
        noise_variance = path.alpha(noisy.t) ** 2
        data_variance = (self.data_std * path.beta(noisy.t)) ** 2
        std = self.data_std * (noise_variance / (noise_variance + data_variance)).sqrt()
        return mean + expand(std, mean) * noise


def _root_times(covariance: Tensor, noise: Tensor) -> Tensor:
    """C^½ ε, (N, B, D), of the symmetric root of C (B, D, D), its eigenvalues clamped at 0."""
    # There is no eigensolver for half precision.
    dtype = torch.promote_types(covariance.dtype, torch.float32)
    values, vectors = torch.linalg.eigh(covariance.to(dtype))
    root = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT
    return torch.einsum("bde,nbe->nbd", root, noise.to(dtype))
