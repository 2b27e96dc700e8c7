"""The flow's end as the one draw, against closed forms and the tilted law."""

import pytest
import torch

from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.sde import SDE
from align.estimators.gradient import Gradient
from align.models.mixture import Mixture
from align.modes.sampling.steer import Steer
from align.samplers.look_ahead import LookAhead
from align.testing.distances import sliced_w2
from align.testing.probes import Plain
from align.testing.worlds import line, measured, sampled

PATHS = ["linear", "trigonometric"]


@pytest.mark.parametrize("path", PATHS)
def test_end_and_shift_of_gaussian_data_are_those_of_the_closed_form(path):
    """X_{t,1}(x) = m + s (x − β m) / √(α² + β² s²), and a reward of slope h = 0.2."""
    mean, std = 0.4, 0.8
    part = Mixture(weights=(1.0,), means=((mean,),), stds=(std,), path=path)
    model, reward = part.build(torch.device("cpu")), measured(((1.0,),), (2e7,), 1e4)
    x, t = torch.tensor([[0.3], [-1.0], [2.0]]).double(), torch.tensor([0.1, 0.5, 0.9]).double()
    noisy, streams = NoisyState(x, t, model.encode([""] * 3)), Streams(0, (0, 1, 2))
    alpha, beta = model.path.alpha(t)[:, None], model.path.beta(t)[:, None]
    spread = (alpha**2 + beta**2 * std**2).sqrt()
    draws = LookAhead().sample(model, noisy, draws=2, streams=streams)
    assert torch.allclose(draws, (mean + std * (x - beta * mean) / spread).expand(2, 3, 1))
    problem = Problem(model, reward, LookAhead(), None, noisy.cond)
    found = Gradient(draws=1).estimate(problem, noisy, streams=streams)
    assert torch.allclose(found.shift, alpha**2 / beta * 0.2 * std / spread, rtol=1e-4)
    assert found.denoiser is None


@pytest.mark.parametrize("path", PATHS)
def test_weighed_particles_have_the_tilted_law(path):
    world, rows = line(path), 160
    exact = world[0].draw_tilted(world[1], Streams(1, tuple(range(4 * rows))))
    mode = Steer(
        steps=16, dynamics=SDE(), temper_until=1.0, particles=24, resample="systematic", scale=0.5
    )
    found = sampled(mode, world, rows, sampler=LookAhead(), estimator=Gradient(draws=1))
    assert sliced_w2(found, exact) < 0.25  # unsteered: 1.2


def test_model_without_a_map_is_refused_with_a_cure():
    model = Plain(line()[0])
    noisy = NoisyState(torch.zeros(1, 1).double(), torch.zeros(1).double(), model.encode([""]))
    with pytest.raises(PartError, match="use 'dps'"):
        LookAhead().sample(model, noisy, draws=1, streams=Streams(0, (0,)))
