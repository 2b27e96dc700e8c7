"""Both targets of the diagonal have the inner velocity as their mean; guidance is baked in."""

import pytest
import torch

from align.core.model import NoisyState
from align.core.streams import Streams
from align.modes.distill.diagonal import DataTarget, TeacherTarget
from align.modes.distill.inner import InnerFlow
from align.samplers.glass import glass_velocity
from align.testing.worlds import line


def test_targets_are_the_rate_and_the_velocity(worlds):
    s, inner = worlds.s, worlds.inner()
    y = worlds.model.path.interpolate(worlds.noise, worlds.x1, s)
    assert torch.equal(inner.state(s), y)
    assert torch.equal(TeacherTarget().target(inner, s), worlds.velocity(y, s))
    rate = worlds.model.path.rate(worlds.noise, worlds.x1, s)
    assert torch.equal(DataTarget().target(inner, s), rate)


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_the_rate_s_mean_is_the_inner_velocity(kind):
    """E[(rate − b̄) f(I_s, x_t)] = 0 for any f: here on 200,000 rows and several f."""
    model, rows = line(kind)[0], 200_000
    streams = Streams(3, tuple(range(rows)))
    x1, t = model.draw(streams), 0.9 * streams.fold_in("t").uniform(())
    x = model.path.interpolate(streams.fold_in("context").normal((1,)), x1, t)
    noisy = NoisyState(x, t, model.encode([""] * rows))
    s = 0.9 * streams.fold_in("s").uniform(())
    inner = InnerFlow(
        path=model.path,
        noise=streams.fold_in("inner").normal((1,)),
        x1=x1,
        average=None,
        unconditional=None,
        teacher=lambda y, s: glass_velocity(model, y, s, noisy),
        guidance=1.0,
        streams=streams,
    )
    apart = DataTarget().target(inner, s) - TeacherTarget().target(inner, s)
    y = inner.state(s)
    for f in (torch.ones_like(y), y, x, (2 * y).sin(), x * y, (3 * x).cos()):
        mean, error = (apart * f).mean(), (apart * f).std() / rows**0.5
        assert float(mean.abs()) < 4 * float(error)
    assert float(apart.std()) > 0.5


def test_guidance_adds_what_the_class_changes(world):
    def conditional(y, s, u):
        assert torch.equal(s, u)
        return 3 * y

    inner = world.inner(average=conditional, unconditional=lambda y, s, u: y, guidance=2.5)
    plain = world.inner().rate(world.s)
    y = inner.state(world.s)
    # ω = 1 − 1/2.5
    assert torch.allclose(DataTarget().target(inner, world.s), plain + 0.6 * 2 * y)


def test_a_map_taught_guided_rates_is_guided(world):
    """The fixed point v = b + ω (v − v_∅) is b_∅ + w (b − b_∅)."""
    s, y = world.s, world.inner().state(world.s)
    named, plain = y.sin(), y.cos()
    guided = plain + 2.5 * (named - plain)
    inner = world.inner(average=lambda *_: guided, unconditional=lambda *_: plain, guidance=2.5)
    apart = inner.rate(s) - world.inner().rate(s)
    assert torch.allclose(named + apart, guided)


def test_targets_carry_no_gradient(world):
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    inner = world.inner(
        average=lambda y, s, u: scale * y, unconditional=lambda y, s, u: y, guidance=2.0
    )
    assert not DataTarget().target(inner, world.s).requires_grad
