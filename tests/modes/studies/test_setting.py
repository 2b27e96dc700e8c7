"""Steps, calls and options of studies."""

import pytest
import torch

from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.guard import guarded
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.modes.sampling.rollout import flow
from align.modes.studies.fidelity import Fidelity
from align.modes.studies.posterior_recovery import PosteriorRecovery
from align.modes.studies.setting import counted, cuts, varied
from align.modes.studies.value_correlation import ValueCorrelation
from align.samplers.dps import DPS
from align.samplers.glass import Glass
from align.testing.worlds import line


def test_steps_of_a_sampler():
    glass = Glass(steps=7, method="heun")
    assert varied(glass, (2, 4), 1) == Glass(steps=4, method="heun")
    assert varied(DPS(), (2, 4), 0) == DPS()
    assert varied(DPS(), (2, 4), 1) is None


def test_flow_in_many_steps_is_the_exact_flow_map():
    model, _ = line()
    x = Streams(0, tuple(range(50))).normal(model.shape)
    cond = model.encode([""] * 50)
    zero = torch.zeros(50).double()
    exact = model.jump(x, zero, zero + 0.6, cond)
    far = [(flow(model, x, cond, end=0.6, steps=k) - exact).abs().max() for k in (10, 100)]
    assert far[1] < 0.02 < far[0]
    assert torch.equal(flow(model, x, cond, end=0.0, steps=3), x)


def test_counted_returns_the_calls_of_its_function_alone():
    model, _ = line()
    counting = guarded(model)
    x, t, cond = torch.zeros(3, 1).double(), torch.zeros(3).double(), model.encode([""] * 3)
    for _ in range(2):
        made, calls = counted(counting, lambda: counting.velocity(x, t, cond))
        assert (made.shape, calls) == ((3, 1), 3)


def test_cuts_cover_all_rows():
    rows = [list(range(10))[cut] for cut in cuts(Problem(line()[0], chunks=4), 10)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ValueCorrelation(times=(0.0,)), "'times' must be times between 0 and 1, got 0"),
        (lambda: ValueCorrelation(times=()), "'times' must be times between 0 and 1, got nothing"),
        (lambda: ValueCorrelation(inner_steps=(1, 0)), "'inner_steps' must be steps of at least 1"),
        (lambda: Fidelity(metric=SlicedWasserstein(), outer_steps=()), "got nothing"),
        (
            lambda: PosteriorRecovery(metric=SlicedWasserstein(), times=(0.0, 1.0)),
            "'times' must be times from 0 to below 1, got 1.0",
        ),
    ],
)
def test_wrong_options_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
