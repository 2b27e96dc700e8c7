"""Draws from one noisy state."""

import attrs
import torch

from align.core.model import NoisyState
from align.core.path import times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.modes.sampling.posterior_draws import PosteriorDraws
from align.samplers.exact import ExactPosterior
from align.testing.worlds import plane

MODE = PosteriorDraws(flow_steps=20)


def drawn(mode, numbers):
    """The noisy state x_t (1, *S), and the draws of samples with these numbers."""
    model = plane()[0]
    cond = model.encode([""] * len(numbers))
    problem = Problem(model, sampler=ExactPosterior(), cond=cond)
    streams = Streams(0, tuple(numbers))
    first = mode.init(problem, streams)
    last, _ = mode.step(problem, first, 0, streams)
    return first.noisy, mode.finish(problem, last)


def test_all_samples_are_draws_of_one_states_posterior():
    noisy, x1 = drawn(attrs.evolve(MODE, time=0.3), range(4000))
    model = plane()[0]
    law = model.denoiser(NoisyState(noisy, times_of(noisy, 0.3), model.encode([""])))
    assert noisy.shape == (1, 2)
    assert (x1.mean(0) - law[0]).norm() < 0.1


def test_a_draw_depends_on_its_number_alone():
    noisy, x1 = drawn(MODE, range(6))
    other, alone = drawn(MODE, (4,))
    assert torch.equal(noisy, other)
    assert torch.equal(x1[4:5], alone)


def test_late_draws_lie_nearer_to_each_other_than_early_ones():
    sets = [drawn(attrs.evolve(MODE, time=time), range(200))[1] for time in (0, 0.5, 0.95)]
    early, middle, late = (x1.std(0).mean() for x1 in sets)
    assert early > 2 * middle > 4 * late
