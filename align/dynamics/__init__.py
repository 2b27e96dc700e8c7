"""Dynamics: one step of a guided flow, one algorithm a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.dynamics import Dynamics


@hookimpl
def align_dynamics() -> list[type[Dynamics]]:
    """Dynamics."""
    from align.dynamics.ddim import DDIM
    from align.dynamics.ddpm import DDPM
    from align.dynamics.glass import GlassTransition
    from align.dynamics.heun import Heun
    from align.dynamics.ode import ODE
    from align.dynamics.renoise import Renoise
    from align.dynamics.sde import SDE

    return [DDIM, DDPM, GlassTransition, Heun, ODE, Renoise, SDE]
