"""Heun's method: its order, and what it costs."""

import math

import pytest
import torch

from align.core.dynamics import FlowEvaluation, GuidedFlow
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.heun import Heun
from align.dynamics.ode import ODE
from align.estimators.exact import Exact
from align.modes.sampling.guide import Guide
from align.modes.sampling.rollout import rollout, unguided
from align.testing.worlds import line

ROWS = 11
STREAMS = Streams(0, tuple(range(ROWS)))


def error(dynamics, steps, flow, exact, x, end):
    times = [end * k / steps for k in range(steps + 1)]
    return float((rollout(dynamics, flow, x, times, STREAMS) - exact).abs().mean())


@pytest.mark.parametrize("end", [0.9, 1.0])
@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
@pytest.mark.parametrize(("dynamics", "order"), [(ODE(), 1), (Heun(), 2)])
def test_error_on_the_line_falls_with_the_order(dynamics, order, kind, end):
    model, _ = line(kind)
    x = torch.linspace(-2, 2, ROWS).double()[:, None]
    cond = model.encode([""] * ROWS)
    exact = model.jump(x, torch.zeros(ROWS).double(), torch.full((ROWS,), end).double(), cond)
    flow = unguided(model, cond)
    coarse, fine = (error(dynamics, steps, flow, exact, x, end) for steps in (60, 120))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_error_of_the_guided_flow_falls_at_second_order():
    model, reward = line()
    x, cond = torch.linspace(-2, 2, ROWS).double()[:, None], model.encode([""] * ROWS)
    problem = Problem(model, reward, None, Exact(), cond)
    flow = GuidedFlow(model.path, Guide(problem, cond, STREAMS))
    # Not from t = 0, where the estimator takes the shift to be zero.
    times = [[0.1 + 0.8 * k / steps for k in range(steps + 1)] for steps in (15, 30, 60)]
    a, b, c = (rollout(Heun(), flow, x, each, STREAMS) for each in times)
    order = math.log2(float((a - b).abs().mean() / (b - c).abs().mean()))
    assert order == pytest.approx(2, abs=0.3)


def test_evaluations_are_two_a_step_but_one_in_the_step_to_the_end():
    model, _ = line()
    x, cond, times = torch.zeros(2, 1).double(), model.encode([""] * 2), []

    def evaluate(x, t):
        times.append(float(t[0]))
        return FlowEvaluation(model.velocity(x, t, cond), torch.zeros_like(x))

    rollout(Heun(), GuidedFlow(model.path, evaluate), x, [0.0, 0.5, 1.0], Streams(0, (0, 1)))
    assert times == [0.0, 0.5, 0.5]
