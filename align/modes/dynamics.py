"""One step of a guided flow: pure functions, shared by the modes that sample.

Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 37 to 39 (dynamics),
Eq. 136 (renormalisation), Algorithm 4 (renoising).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from align.core.path import Path, expand
from align.errors import DivergedError

Dynamics: TypeAlias = Literal["ode", "sde"]
Normalise: TypeAlias = Literal["none", "clip", "renorm"]


def grid(steps: int, start: float, power: float) -> list[float]:
    """Times start + (1 − start) (j/K)^power for j = 0 .. K."""
    return [start + (1 - start) * (j / steps) ** power for j in range(steps)] + [1.0]


def noise_level(path: Path, t: Tensor, clamp: float) -> Tensor:
    """σ_c²/2 = min(σ_t²/2, clamp), (B,); finite at t = 0."""
    return path.half_variance(t).clamp(max=clamp)


def base_drift(
    path: Path, velocity: Tensor, x: Tensor, t: Tensor, dynamics: Dynamics, clamp: float
) -> Tensor:
    """Drift without a reward: b for the ODE, b + (σ_c²/2) s for the SDE; all (B, *S), t is (B,).

    The law of x_t is the same for every σ_c.
    """
    if dynamics == "ode":
        return velocity
    score = path.score_from_velocity(velocity, x, t)
    return velocity + expand(noise_level(path, t, clamp), x) * score


def guidance(path: Path, shift: Tensor, t: Tensor, dynamics: Dynamics, clamp: float) -> Tensor:
    """Drift that a reward adds, (B, *S), from the shift D* − D.

    b moves by (σ²/2) ∇V = c_t shift, and the score of the SDE's drift by ∇V, so that the SDE has
    (1 + σ_c²/σ²) c_t shift: the tilted law stays the target whatever the noise is clamped to.
    """
    factor = path.pull(t)
    if dynamics == "sde":
        factor = factor * (1 + (clamp / path.half_variance(t)).clamp(max=1.0))
    return expand(factor, shift) * shift


def clamped(path: Path, t: Tensor, clamp: float) -> Tensor:
    """min(1, clamp / (σ²/2)), (B,): what the published code multiplies its guidance by."""
    return (clamp / path.half_variance(t)).clamp(max=1.0)


def limited(added: Tensor, drift: Tensor, normalise: Normalise, scale: float) -> Tensor:
    """Guidance g (B, *S) measured against the drift b (B, *S) that it is added to, row by row.

    "none": λ g.   "clip": λ g min(1, ‖b‖/‖g‖).   "renorm": λ g ‖b‖/‖g‖ (Eq. 136): the reward's
    strength then has no say, only its direction; this does not sample the tilted law.
    """
    if normalise == "none":
        return scale * added
    length, bound = norms(added), norms(drift)
    if normalise == "clip":
        bound = bound.clamp(max=length)
    # The direction first: guidance of length zero stays zero.
    direction = added / expand(length.clamp(min=torch.finfo(added.dtype).tiny), added)
    return scale * expand(bound, added) * direction


def spread(path: Path, t: Tensor, u: Tensor, clamp: float) -> Tensor:
    """Deviation √((u − t) σ_c²) of the noise of an SDE step, (B,)."""
    return torch.sqrt(2 * noise_level(path, t, clamp) * (u - t))


def advance(
    path: Path, x: Tensor, drift: Tensor, t: Tensor, u: Tensor, noise: Tensor | None, clamp: float
) -> Tensor:
    """Euler step x + (u − t) drift, plus √((u − t) σ_c²) noise for the SDE; t and u are (B,)."""
    moved = x + expand(u - t, x) * drift
    return moved if noise is None else moved + expand(spread(path, t, u, clamp), x) * noise


def renoise(
    path: Path, x: Tensor, clean: Tensor, t: Tensor, u: Tensor, noise: Tensor | None
) -> Tensor:
    """β_u D* + α_u ε from the clean state D* = `clean` (B, *S), at time u (B,).

    ε is `noise`, or without it the noise (x − β_t D*)/α_t that the state has now (DDIM's step).
    """
    if noise is None:
        noise = path.noise_from_denoiser(clean, x, t)
    return path.interpolate(noise, clean, u)


def check(x: Tensor, guided: float) -> None:
    """Raise DivergedError unless all states are finite; `guided` is ‖guidance‖ / ‖drift‖."""
    if not x.isfinite().all():
        raise DivergedError(
            f"guidance was {guided:.2g} times the flow's drift, and states are not finite any more;"
            " use more steps, normalise = 'clip', or a lower weight"
        )


def norms(x: Tensor) -> Tensor:
    """Euclidean norm of each row, (B,)."""
    size: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return size
