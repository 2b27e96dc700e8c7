"""Interpolants between noise and data, and every conversion between what a network may predict.

A path mixes noise I₀ ~ N(0, 1) and data I₁ as I_t = α_t I₀ + β_t I₁ with α₀ = β₁ = 1 and
α₁ = β₀ = 0: time runs from noise (0) to data (1). At (t, x) there are four equivalent answers,
the denoiser D = E[I₁ | I_t = x], the velocity b = E[İ_t | I_t = x], the score s = ∇ log p_t(x) and
the noise E[I₀ | I_t = x]; the path converts between them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, final, get_args

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError

PathName: TypeAlias = Literal["linear", "trigonometric"]


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Shape `t` (B,) as (B, 1, ..., 1), so that it multiplies `x` (B, *S).

    Numbers that times were turned into take the floating type of the states, which so keep theirs.
    """
    if t.is_floating_point() and x.is_floating_point():
        t = t.to(x.dtype)
    return t.reshape(t.shape + (1,) * (x.dim() - t.dim()))


def times_of(x: Tensor, time: float | Tensor) -> Tensor:
    """Times (B,) of states x (B, *S): in their floating type, or float32 if that is wider.

    bfloat16 has no number between 0.996 and 1: times near the data would all be the data's.

    Args:
        x: the states.
        time: one for all of them, or one for each, (B,).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if isinstance(time, Tensor):
        time = time.to(x.device, dtype)
        return time if time.shape == (len(x),) else time.expand(len(x))
    return torch.full((len(x),), time, dtype=dtype, device=x.device)


class Path(ABC):
    """A path α, β with its rates; times are (B,) and so is everything it returns about them.

    Reference: Stochastic Interpolants, Albergo, Boffi, Vanden-Eijnden, 2023, arXiv:2303.08797;
    Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 14 and 75.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Coefficient α_t of the noise."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Coefficient β_t of the data."""

    @abstractmethod
    def alpha_rate(self, t: Tensor) -> Tensor:
        """Rate dα/dt."""

    @abstractmethod
    def beta_rate(self, t: Tensor) -> Tensor:
        """Rate dβ/dt."""

    @abstractmethod
    def time_at(self, ratio: Tensor) -> Tensor:
        """Time t at which α_t² / β_t² equals `ratio`."""

    @final
    def interpolate(self, noise: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """State I_t = α_t noise + β_t x1; `noise` and `x1` are (B, *S), t is (B,)."""
        return expand(self.alpha(t), x1) * noise + expand(self.beta(t), x1) * x1

    @final
    def rate(self, noise: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Rate İ_t = α'_t noise + β'_t x1, the regression target of flow matching."""
        return expand(self.alpha_rate(t), x1) * noise + expand(self.beta_rate(t), x1) * x1

    @final
    def denoiser_to_velocity(self, t: Tensor) -> Tensor:
        """c_t = β' − α' β / α: a denoiser that moves by δ moves the velocity by c_t δ."""
        return self.beta_rate(t) - self.alpha_rate(t) * self.beta(t) / self.alpha(t)

    @final
    def half_variance(self, t: Tensor) -> Tensor:
        """σ_t² / 2 = (β'/β) α² − α' α, half the memoryless noise level (Eq. 14)."""
        alpha, beta = self.alpha(t), self.beta(t)
        return self.beta_rate(t) / beta * alpha**2 - self.alpha_rate(t) * alpha

    @final
    def velocity_from_denoiser(self, denoiser: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """b = (α'/α) x + c_t D."""
        stretch = expand(self.alpha_rate(t) / self.alpha(t), x)
        return stretch * x + expand(self.denoiser_to_velocity(t), x) * denoiser

    @final
    def denoiser_from_velocity(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """D = (α b − α' x) / (α β' − α' β); finite at both ends of time."""
        alpha, beta = self.alpha(t), self.beta(t)
        a_rate, b_rate = self.alpha_rate(t), self.beta_rate(t)
        scale = alpha * b_rate - a_rate * beta
        return expand(alpha / scale, x) * velocity - expand(a_rate / scale, x) * x

    @final
    def score_from_denoiser(self, denoiser: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """s = (β D − x) / α²."""
        return (expand(self.beta(t), x) * denoiser - x) / expand(self.alpha(t) ** 2, x)

    @final
    def denoiser_from_score(self, score: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """D = (x + α² s) / β."""
        return (x + expand(self.alpha(t) ** 2, x) * score) / expand(self.beta(t), x)

    @final
    def score_from_velocity(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """s = (β b − β' x) / (α (β' α − α' β))."""
        alpha, beta = self.alpha(t), self.beta(t)
        a_rate, b_rate = self.alpha_rate(t), self.beta_rate(t)
        scale = alpha * (b_rate * alpha - a_rate * beta)
        return (expand(beta, x) * velocity - expand(b_rate, x) * x) / expand(scale, x)

    @final
    def velocity_from_score(self, score: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """b = (β'/β) x + (σ_t²/2) s (Eq. 14)."""
        stretch = expand(self.beta_rate(t) / self.beta(t), x)
        return stretch * x + expand(self.half_variance(t), x) * score

    @final
    def noise_from_denoiser(self, denoiser: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """E[I₀ | x] = (x − β D) / α."""
        return (x - expand(self.beta(t), x) * denoiser) / expand(self.alpha(t), x)


@final
@attrs.frozen
class LinearPath(Path):
    """α = 1 − t, β = t."""

    def alpha(self, t: Tensor) -> Tensor:
        """1 − t."""
        return 1 - t

    def beta(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def alpha_rate(self, t: Tensor) -> Tensor:
        """−1."""
        return -torch.ones_like(t)

    def beta_rate(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def time_at(self, ratio: Tensor) -> Tensor:
        """1 / (1 + √ratio)."""
        return 1 / (1 + ratio.sqrt())


@final
@attrs.frozen
class TrigonometricPath(Path):
    """α = cos(πt/2), β = sin(πt/2): the variance of white data is kept."""

    def alpha(self, t: Tensor) -> Tensor:
        """cos(πt/2), as sin(π(1 − t)/2): that is 0 at t = 1, and precise near it."""
        return torch.sin(math.pi / 2 * (1 - t))

    def beta(self, t: Tensor) -> Tensor:
        """sin(πt/2)."""
        return torch.sin(math.pi / 2 * t)

    def alpha_rate(self, t: Tensor) -> Tensor:
        """−(π/2) sin(πt/2)."""
        return -math.pi / 2 * torch.sin(math.pi / 2 * t)

    def beta_rate(self, t: Tensor) -> Tensor:
        """(π/2) cos(πt/2)."""
        return math.pi / 2 * self.alpha(t)

    def time_at(self, ratio: Tensor) -> Tensor:
        """(2/π) arctan(1/√ratio)."""
        return 2 / math.pi * torch.atan(1 / ratio.sqrt())


PATHS: Final[Mapping[PathName, Path]] = MappingProxyType(
    {"linear": LinearPath(), "trigonometric": TrigonometricPath()}
)
"""The paths by the names that recipes and weights files have for them."""


def path_name(path: Path) -> PathName:
    """What recipes and weights files call a path.

    Raises:
        PartError: they have no name for it.
    """
    for name, named in PATHS.items():
        if path == named:
            return name
    raise PartError(
        f"model: no weights file can name its path, {type(path).__name__}, so that a network is"
        f" not trained for it; there are {', '.join(get_args(PathName))}"
    )
