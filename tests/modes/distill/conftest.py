"""The exact posterior map of the mixture on the line, as the inner flow that losses see."""

import pytest
import torch

from align.core.model import NoisyState
from align.core.streams import Streams
from align.modes.distill.inner import InnerFlow
from align.samplers.glass import glass_velocity
from align.testing.worlds import line

ROWS = 64


class World:
    """An exact inner flow, its map, and times of jumps; callables can be replaced."""

    def __init__(self, kind="linear"):
        self.model, _ = line(kind)
        self.streams = Streams(0, tuple(range(ROWS)))
        x1, t = self.model.draw(self.streams), 0.9 * self.streams.fold_in("t").uniform(())
        context = self.streams.fold_in("context").normal((1,))
        cond = self.model.encode([""] * ROWS)
        self.at = NoisyState(self.model.path.interpolate(context, x1, t), t, cond)
        self.x1, self.noise = x1, self.streams.fold_in("inner").normal((1,))
        self.s = 0.05 + 0.6 * self.streams.fold_in("s").uniform(())
        self.u = self.s + 0.05 + (0.9 - self.s) * self.streams.fold_in("u").uniform(())

    def velocity(self, y, s):
        """b̄_s(y), exactly."""
        return glass_velocity(self.model, y, s, self.at)

    def average(self, y, s, u):
        """v_{s,u}(y), exactly; the velocity itself where s = u."""
        gap = (u - s)[:, None]
        jump = (self.model.posterior_jump(y, s, u, self.at) - y) / torch.where(gap > 0, gap, 1.0)
        return torch.where(gap > 0, jump, self.velocity(y, s))

    def inner(self, average=None, teacher=None, unconditional=None, guidance=1.0, noise=None):
        average = average or self.average
        return InnerFlow(
            path=self.model.path,
            noise=self.noise if noise is None else noise,
            x1=self.x1,
            average=average,
            unconditional=unconditional or average,
            teacher=teacher or self.velocity,
            guidance=guidance,
            streams=self.streams,
        )

    def residual(self, consistency, **replaced):
        return consistency.residual(self.inner(**replaced), self.s, self.u)

    def gradients(self, consistency):
        """Of the summed residual to a factor on the map, and to one on the teacher."""
        scale, pull = (torch.ones((), dtype=torch.float64, requires_grad=True) for _ in "ab")
        residual = self.residual(
            consistency,
            average=lambda y, s, u: scale * self.average(y, s, u),
            teacher=lambda y, s: pull * self.velocity(y, s),
        )
        return torch.autograd.grad(residual.sum(), (scale, pull), allow_unused=True)


@pytest.fixture(params=["linear", "trigonometric"])
def worlds(request):
    """The world on either path."""
    return World(request.param)


@pytest.fixture
def world():
    return World()


def wrong_maps(world):
    """Maps that are not that of the inner flow."""
    return {
        "its velocity": lambda y, s, u: world.velocity(y, s),
        "shifted": lambda y, s, u: world.average(y, s, u) + 0.1 * (u - s)[:, None],
        "stretched": lambda y, s, u: world.average(y, s, u) * (1 + 0.1 * (u - s))[:, None],
    }


@pytest.fixture
def wrong(world):
    return wrong_maps(world)
