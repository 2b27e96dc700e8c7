"""A Gaussian mixture: a world in which everything about a flow is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError, PromptError
from align.core.estimator import ClosedForm
from align.core.model import (
    Condition,
    DataSampler,
    Domain,
    FlowMap,
    FlowModel,
    ModelSpec,
    NoisyState,
    PosteriorMap,
)
from align.core.option import option
from align.core.path import PATHS, Path, PathName, expand
from align.core.quadratic import Form
from align.core.reward import Repeatable, WeightedReward
from align.core.streams import Streams
from align.models.isotropic import Isotropic
from align.models.triangular import transport

_SHARP: Final = 1e-6
"""Variance, in squares of the mixture's radius, below which a square multiplied out loses digits.

Rounding moves log p(k | x) by 1e-16 / _SHARP, or 1e-10, at most.
"""


@final
class GaussianMixture(FlowModel, FlowMap, PosteriorMap, DataSampler, ClosedForm):
    """Flow from N(0, I) to Σ_k w_k N(m_k, v_k I), all in float64.

    Args:
        prior: the mixture as one row: weights (1, M), means (1, M, D), variances (1, M).
        path: the interpolant.
        axes: rows are the directions (D, D) that both maps go through in turn.
    """

    domain: Domain = "vector"
    dtype = torch.float64

    def __init__(self, prior: Isotropic, path: Path, axes: Tensor) -> None:
        prior = Isotropic(
            prior.log_weights.to(self.dtype),
            prior.means.to(self.dtype),
            prior.variances.to(self.dtype),
        )
        self.prior, self.path, self.axes = prior, path, axes.to(self.dtype)
        self.shape = (prior.means.shape[-1],)
        self.device = prior.means.device
        self._centre = prior.means[0].mean(0)
        radius = (prior.means[0] - self._centre).norm(dim=1).max()
        self._widest = float(prior.variances.max())
        self._is_sharp = bool(prior.variances.min() < _SHARP * radius**2)

    def encode(self, prompts: Sequence[str]) -> Condition:
        """A condition without tensors; PromptError for any prompt that is not empty."""
        for prompt in prompts:
            if prompt:
                raise PromptError(f"a mixture cannot follow the prompt '{prompt}'; leave it empty")
        return Condition(tuple(prompts))

    def decode(self, x1: Tensor) -> Tensor:
        """The states (B, D) themselves."""
        return x1

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """b_t(x) = α' E[I₀ | x] + β' E[I₁ | x]."""
        noise, clean = self._ends(x, t)
        path = self.path
        return expand(path.alpha_rate(t), x) * noise + expand(path.beta_rate(t), x) * clean

    def posterior(self, noisy: NoisyState) -> Isotropic:
        """p(x1 | x_t = x), one mixture for each of the B states."""
        return self.prior.posterior(noisy.x, self.path.alpha(noisy.t), self.path.beta(noisy.t))

    def denoiser(self, noisy: NoisyState) -> Tensor:
        """D_t(x), (B, D)."""
        return self._ends(noisy.x, noisy.t)[1]

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), (B,)."""
        return self.prior.noised(self.path.alpha(t), self.path.beta(t)).log_prob(x)

    def draw_posterior(self, noisy: NoisyState, draws: int, streams: Streams) -> Tensor:
        """Independent draws (N, B, D) from p(x1 | x_t = x)."""
        return self.posterior(noisy).draw(streams.fold_in("posterior"), draws)

    def jump(self, x: Tensor, s: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """Triangular map between the laws of x_s and of x_u, (B, D).

        In one dimension this is the flow map X_{s,u}(x) of the velocity; in more it is the flow
        map of another flow through the same laws.
        """
        return self._transported(x, self.prior, s, u)

    def posterior_jump(self, y: Tensor, s: Tensor, u: Tensor, noisy: NoisyState) -> Tensor:
        """Triangular map between the inner interpolant's laws at `s` and at `u`.

        In one dimension this is the flow map X_{s,u}(y; t, x) of the inner flow; in more it is the
        flow map of another flow through the same laws.
        """
        return self._transported(y, self.posterior(noisy), s, u)

    def draw(self, streams: Streams) -> Tensor:
        """Clean data (B, D)."""
        return self.prior.draw(streams.fold_in("data"), 1)[0]

    def value(self, noisy: NoisyState, reward: WeightedReward) -> Tensor:
        """V_t(x) = log Σ_k p(k | x) E_k[e^{r(x1)} | x], (B,)."""
        law = self.posterior(noisy)
        return torch.logsumexp(law.log_weights + law.log_tilts(self._form(reward)), -1)

    def draw_tilted(self, reward: WeightedReward, streams: Streams) -> Tensor:
        """Clean data (B, D) from p*(x) ∝ p(x) e^{r(x)}, itself a mixture."""
        return self.prior.draw(streams.fold_in("tilted"), 1, self._form(reward))[0]

    def _ends(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the noise and of x1 given that x_t is `x`, (B, D) each.

        w_k = p(k | x) / (α² + β² v_k),    E[I₀ | x] = α (x Σ_k w_k − β Σ_k w_k m_k),
                                           E[I₁ | x] = α² Σ_k w_k m_k + β x Σ_k w_k v_k.
        """
        alpha, beta = self.path.alpha(t)[:, None], self.path.beta(t)[:, None]
        prior, means = self.prior, self.prior.means[0]
        spread = alpha**2 + beta**2 * prior.variances
        if self._is_sharp:
            squares = (x[:, None] - beta[..., None] * means).square().sum(-1)
        else:
            # |x − β m|² without numbers (B, M, D).
            y, m = x - beta * self._centre, means - self._centre
            squares = y.square().sum(1, keepdim=True) - 2 * beta * (y @ m.T)
            squares = squares + beta**2 * m.square().sum(1)
        logits = prior.log_weights - 0.5 * (squares / spread + x.shape[1] * torch.log(spread))
        weights = torch.softmax(logits, -1) / spread
        mean = weights @ means
        noise = alpha * (x * weights.sum(1, keepdim=True) - beta * mean)
        return noise, alpha**2 * mean + beta * x * (weights @ prior.variances[0])[:, None]

    def _transported(self, y: Tensor, law: Isotropic, s: Tensor, u: Tensor) -> Tensor:
        """y (B, D) at time s to time u of the flow from noise to `law`, along the axes."""
        rotated = Isotropic(law.log_weights, law.means @ self.axes.T, law.variances)
        source = rotated.noised(self.path.alpha(s), self.path.beta(s))
        target = rotated.noised(self.path.alpha(u), self.path.beta(u))
        return transport(y @ self.axes.T, source, target) @ self.axes

    def _form(self, reward: WeightedReward) -> Form:
        """r = Σ λ R as one quadratic."""
        form = Form.of(reward, self.prior.means)
        if not form.bounded(self._widest):
            raise PartError("the reward outgrows the mixture: p(x) e^{r(x)} has no finite mass")
        return form


def _same_length(spec: Mixture, attribute: attrs.Attribute[Any], value: Any) -> None:
    if len(value) != len(spec.weights):
        raise ValueError(f"'{attribute.name}' must have one entry for each weight")


def _points(spec: Mixture, attribute: attrs.Attribute[Any], value: Any) -> None:
    _same_length(spec, attribute, value)
    if len({len(mean) for mean in value}) != 1 or not value[0]:
        raise ValueError(f"'{attribute.name}' must be points of one dimension")


def _all_above_zero(_: Mixture, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not value or min(value) <= 0:
        raise ValueError(f"'{attribute.name}' must be greater than 0")


def _spreads(spec: Mixture, attribute: attrs.Attribute[Any], value: Any) -> None:
    _same_length(spec, attribute, value)
    _all_above_zero(spec, attribute, value)


def _orthonormal(spec: Mixture, attribute: attrs.Attribute[Any], value: Any) -> None:
    size = len(spec.means[0])
    if not value:
        return
    if {len(value), *map(len, value)} != {size}:
        raise ValueError(f"'{attribute.name}' must be {size} rows of {size} numbers")
    axes = torch.tensor(value, dtype=torch.float64)
    if not torch.allclose(
        axes @ axes.T, torch.eye(len(value), dtype=axes.dtype), rtol=0, atol=1e-6
    ):
        raise ValueError(f"'{attribute.name}' must be orthonormal rows")


@final
@attrs.frozen(kw_only=True)
class Mixture(ModelSpec, Repeatable):
    """A world of Gaussians in which all answers are known.

    A mixture of isotropic Gaussians, with exact velocity, maps, value and tilted law.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.1.1 and
    appendix F.1 (the two-dimensional example).
    """

    kind: ClassVar[str] = "mixture"
    has_networks: ClassVar[bool | None] = False

    weights: tuple[float, ...] = option(
        "weight of each component; they are divided by their sum", check=_all_above_zero
    )
    means: tuple[tuple[float, ...], ...] = option("mean of each component", check=_points)
    stds: tuple[float, ...] = option("standard deviation of each component", check=_spreads)
    path: PathName = option("the interpolant", default="linear")
    axes: tuple[tuple[float, ...], ...] = option(
        "orthonormal directions that the maps go through in turn; none: the axes",
        default=(),
        check=_orthonormal,
    )

    @property
    def domain(self) -> Domain:
        """Vectors."""
        return "vector"

    @property
    def provides(self) -> frozenset[type]:
        """Every capability: both maps, draws of data, and closed forms."""
        return frozenset({FlowMap, PosteriorMap, DataSampler, ClosedForm})

    @property
    def state_shape(self) -> tuple[int, ...]:
        """That of a mean, (D,)."""
        return (len(self.means[0]),)

    @property
    def prompt(self) -> str:
        """Always empty: a mixture follows no prompt."""
        return ""

    def build(self, device: torch.device) -> GaussianMixture:
        """The model, in float64."""
        weights, means, stds = (
            torch.tensor(part, dtype=torch.float64, device=device)[None]
            for part in (self.weights, self.means, self.stds)
        )
        axes = torch.eye(means.shape[-1], dtype=means.dtype, device=device)
        if self.axes:
            # Recipes round: make it orthonormal to full precision. Signs may flip, which a
            # triangular map does not notice.
            axes = torch.linalg.qr(axes.new_tensor(self.axes).T).Q.T
        prior = Isotropic(torch.log(weights / weights.sum()), means, stds**2)
        return GaussianMixture(prior, PATHS[self.path], axes)
