"""Draws of a later state given an earlier one, by stopping the GLASS inner flow early."""

from __future__ import annotations

from torch import Tensor

from align.core.path import Path, expand
from align.samplers.glass import InnerFlow, Method


def stopping_time(path: Path, t: Tensor, u: Tensor) -> Tensor:
    """Inner time r* at which x_t and the inner state know x1 as well as x_u does.

    Precisions add, 1/g(u) = 1/g(t) + 1/g(r*) with g = α²/β², so that

        g(r*) = g(t) g(u) / (g(t) − g(u)) = α_t² α_u² / (α_t² β_u² − β_t² α_u²),

    which is u at t = 0 and 1 at u = 1.

    Args:
        path: the interpolant.
        t: times in [0, 1), (B,).
        u: later times in (t, 1], (B,).

    Returns:
        r*, (B,).
    """
    noise_t, noise_u = path.alpha(t) ** 2, path.alpha(u) ** 2
    data_t, data_u = path.beta(t) ** 2, path.beta(u) ** 2
    return path.time_at(noise_t * noise_u / (noise_t * data_u - data_t * noise_u))


def glass_transition(
    inner: InnerFlow, u: Tensor, *, steps: int, method: Method, noise: Tensor
) -> Tensor:
    """A draw of x_u given x_t = x under the memoryless process: the step that DDPM approximates.

    The inner flow towards p(x1 | x_t = x) is stopped at r*, where S, the best guess of x1 from
    its state y and x alone, has the precision of x_u; and so x_u = β_u S(y, x),

        S = (β_t α_r² x + β_r α_t² y) / (β_t² α_r² + β_r² α_t²).

    At t = 0 that is the flow from `noise` to time u; at u = 1 it is a posterior draw by GLASS.

    Args:
        inner: the inner flow at states (B, *S) and times t in [0, 1); the outer velocity is called
            `steps` times a row, 2 · `steps` − 1 by Heun.
        u: later times in (t, 1], (B,).
        steps: of the inner flow.
        method: "euler" or "heun".
        noise: the inner flow's start, N(0, I), (B, *S): x_u is a function of it and of x.

    Returns:
        x_u, (B, *S); differentiable in x and in `noise`.

    Reference: Diamond Maps: Efficient Reward Alignment via Stochastic Flow Maps, Holderrieth et
    al., 2026, arXiv:2602.05993; GLASS Flows, Holderrieth et al., 2025, arXiv:2509.25170.
    """
    path, x, t = inner.path, inner.x, inner.t
    end = stopping_time(path, t, u)
    y = inner.to(end, noise, steps=steps, method=method)
    a_r, b_r, a_t, b_t = path.alpha(end), path.beta(end), path.alpha(t), path.beta(t)
    scale = path.beta(u) / (b_t**2 * a_r**2 + b_r**2 * a_t**2)
    return expand(scale * b_t * a_r**2, y) * x + expand(scale * b_r * a_t**2, y) * y
