"""GLASS transitions as dynamics."""

import pytest
import torch

from align.core.dynamics import FlowEvaluation, GuidedFlow
from align.core.streams import Streams
from align.dynamics.ddpm import DDPM
from align.dynamics.glass import GlassTransition
from align.modes.sampling.rollout import grid, rollout, unguided
from align.testing.distances import w1
from align.testing.worlds import line


@pytest.mark.parametrize(("options", "calls"), [({"inner_steps": 3}, 3), ({"method": "heun"}, 7)])
def test_evaluations_are_those_of_the_inner_flow(options, calls):
    model, _ = line()
    x, cond, times = torch.zeros(2, 1).double(), model.encode([""] * 2), []

    def evaluate(x, t):
        times.append(t)
        return FlowEvaluation(model.velocity(x, t, cond), torch.zeros_like(x))

    t = torch.full((2,), 0.3).double()
    flow = GuidedFlow(model.path, evaluate)
    GlassTransition(**options).step(flow, x, t, t + 0.2, Streams(0, (0, 1)))
    assert len(times) == calls
    assert all(((t - 1e-12 <= each) & (each < t + 0.2)).all() for each in times)


def test_three_steps_are_nearer_to_the_law_than_three_of_ddpm():
    model, _ = line()
    rows = 4000
    streams = Streams(0, tuple(range(rows)))
    x, cond = streams.fold_in("start").normal((1,)), model.encode([""] * rows)
    law = model.draw(Streams(1, tuple(range(50_000))))[:, 0]
    glass, ddpm = (
        w1(rollout(part, unguided(model, cond), x, grid(3, 0.0, 1.0), streams)[:, 0], law)
        for part in (GlassTransition(inner_steps=8), DDPM())
    )
    assert glass < 0.5 * ddpm
