"""One step of a guided flow: pure functions, shared by the modes that sample.

Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 37 to 39 (dynamics),
Eq. 136 (renormalisation), Algorithm 4 (renoising); Denoising diffusion implicit models, Song,
Meng, Ermon, 2020, arXiv:2010.02502, Eq. 12 (DDIM, and DDPM as its stochastic end).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from align.core.model import Condition, FlowModel
from align.core.path import Path, expand
from align.errors import DivergedError

Dynamics: TypeAlias = Literal["ode", "sde", "ddpm", "ddim", "renoise"]
Normalise: TypeAlias = Literal["none", "clip", "renorm"]


def grid(steps: int, start: float, power: float) -> list[float]:
    """Times start + (1 − start) (j/K)^power for j = 0 .. K."""
    return [start + (1 - start) * (j / steps) ** power for j in range(steps)] + [1.0]


def flow(model: FlowModel, x: Tensor, cond: Condition, *, steps: int, end: float = 1.0) -> Tensor:
    """The flow from noise x (B, *S) at time 0 to `end`, in equal Euler steps."""
    for j in range(steps):
        t = x.new_full((len(x),), end * j / steps)
        x = x + end / steps * model.velocity(x, t, cond)
    return x


def clamped_half_variance(path: Path, t: Tensor, clamp: float) -> Tensor:
    """σ_c²/2 = min(σ_t²/2, clamp), (B,); finite at t = 0."""
    return path.half_variance(t).clamp(max=clamp)


def base_drift(
    path: Path, velocity: Tensor, x: Tensor, t: Tensor, dynamics: Dynamics, clamp: float
) -> Tensor:
    """Drift without a reward: b + (σ_c²/2) s for the SDE, else b; all (B, *S), t is (B,).

    The law of x_t is the same for every σ_c.
    """
    if dynamics != "sde":
        return velocity
    score = path.score_from_velocity(velocity, x, t)
    return velocity + expand(clamped_half_variance(path, t, clamp), x) * score


def guidance(path: Path, shift: Tensor, t: Tensor, dynamics: Dynamics, clamp: float) -> Tensor:
    """Drift that a reward adds, (B, *S), from the shift D* − D.

    b moves by (σ²/2) ∇V = c_t shift, and the score of the SDE's drift by ∇V, so that the SDE has
    (1 + σ_c²/σ²) c_t shift: the tilted law stays the target whatever the noise is clamped to.
    """
    factor = path.denoiser_to_velocity(t)
    if dynamics == "sde":
        factor = factor * (1 + (clamp / path.half_variance(t)).clamp(max=1.0))
    return expand(factor, shift) * shift


def clamped(path: Path, t: Tensor, clamp: float) -> Tensor:
    """min(1, clamp / (σ²/2)), (B,): what the published code multiplies its guidance by."""
    return (clamp / path.half_variance(t)).clamp(max=1.0)


def normalise_guidance(added: Tensor, drift: Tensor, normalise: Normalise, scale: float) -> Tensor:
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


def kept(path: Path, t: Tensor, u: Tensor, dynamics: Dynamics) -> Tensor:
    """Share κ of its noise that a state keeps from t to u, (B,).

    ddim: 1.   renoise: 0.   ddpm: κ = β_t α_u / (β_u α_t), as the memoryless process has it.
    """
    if dynamics == "ddpm":
        return path.beta(t) * path.alpha(u) / (path.beta(u) * path.alpha(t))
    return torch.full_like(t, float(dynamics == "ddim"))


def transition(
    path: Path,
    drift: Tensor,
    added: Tensor,
    x: Tensor,
    t: Tensor,
    u: Tensor,
    dynamics: Dynamics,
    clamp: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The step from x at t to x' = mean + push + std ε at u; the push is what a reward adds.

        ode, sde:  mean = x + (u − t) drift,       push = (u − t) added,   std = √((u − t) σ_c²)
        else:      mean = β_u D + α_u κ ε̂,         push = (β_u − α_u κ β_t/α_t) δD,
                   std = α_u √(1 − κ²),            ε̂ = (x − β_t D)/α_t,    δD = added / c_t

    where D is the denoiser that belongs to `drift`. The noise of the ODE and of DDIM is zero.

    Args:
        path: the interpolant.
        drift: `base_drift`, (B, *S).
        added: `guidance`, limited or not, (B, *S).
        x: states, (B, *S).
        t: their times, (B,).
        u: the times to go to, (B,).
        dynamics: which step.
        clamp: largest σ²/2 of the SDE.

    Returns:
        Mean (B, *S), push (B, *S) and deviation (B,).
    """
    if dynamics in ("ode", "sde"):
        gap = u - t
        level = clamped_half_variance(path, t, clamp) if dynamics == "sde" else torch.zeros_like(t)
        return x + expand(gap, x) * drift, expand(gap, x) * added, torch.sqrt(2 * level * gap)
    share = kept(path, t, u, dynamics)
    clean = path.denoiser_from_velocity(drift, x, t)
    noise = path.noise_from_denoiser(clean, x, t)
    own = path.alpha(u) * share
    mean = expand(path.beta(u), x) * clean + expand(own, x) * noise
    gain = (path.beta(u) - own * path.beta(t) / path.alpha(t)) / path.denoiser_to_velocity(t)
    return mean, expand(gain, x) * added, path.alpha(u) * torch.sqrt((1 - share**2).clamp(min=0))


def check(x: Tensor, guided: float) -> None:
    """Raise DivergedError unless all states are finite; `guided` is ‖guidance‖ / ‖drift‖."""
    if not x.isfinite().all():
        raise DivergedError(
            f"guidance was {guided:.2g} times the flow's drift, and states are not finite any more;"
            " use more steps, guidance_norm = 'clip', or a lower weight"
        )


def norms(x: Tensor) -> Tensor:
    """Euclidean norm of each row, (B,)."""
    size: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return size
