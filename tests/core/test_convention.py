"""What networks predict, and their tables and clocks, as align's velocity."""

import math

import pytest
import torch

from align.core.convention import Clock, NoiseSchedule, PathConvention, TableConvention
from align.core.path import PATHS
from align.models.torch import Torch

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("schedule", "index", "alpha"),
    [
        (NoiseSchedule(), 999, 4.035829765e-05),  # of DDPM
        (
            NoiseSchedule(name="scaled_linear", beta_start=0.00085, beta_end=0.012),
            999,
            0.0046602,  # of Stable Diffusion
        ),
        (NoiseSchedule(name="cosine", steps=100), 49, 0.4938 / 0.99985),
        (NoiseSchedule(betas=(0.1, 0.2, 0.5)), 2, 0.36),
        (NoiseSchedule(alphas_cumprod=(0.9, 0.5, 0.1)), 1, 0.5),
    ],
)
def test_named_and_given_tables_have_their_products(schedule, index, alpha):
    sigma = schedule.log_sigmas(CPU)[index].exp()
    assert float(1 / (1 + sigma**2)) == pytest.approx(alpha, rel=1e-3)


def test_last_step_of_zero_signal_is_left_out():
    assert len(NoiseSchedule(betas=(0.1, 0.5, 1.0)).log_sigmas(CPU)) == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"betas": (0.1, 1.2)}, "'betas' must be at least two numbers above 0"),
        ({"alphas_cumprod": (0.5, 0.5)}, "'alphas_cumprod' must be at least two numbers that fall"),
        ({"betas": (0.1, 0.2), "alphas_cumprod": (0.9, 0.5)}, "expected either 'betas' or"),
        ({"beta_end": 1e-5}, "'beta_end' must be above 'beta_start'"),
        ({"betas": (1.0, 1.0)}, "0 of its 2 steps hold data"),
        ({"betas": (0.1, 1.0)}, "1 of its 2 steps hold data"),
        ({"alphas_cumprod": (0.9, 0.0)}, "1 of its 2 steps hold data"),
        ({"alphas_cumprod": (1e-8, 1e-9)}, "0 of its 2 steps hold data"),
        ({"betas": (1e-300, 1e-300)}, "its steps must add noise each"),
        ({"betas": (0.1, 1e-300, 0.1)}, "its steps must add noise each"),
        ({"beta_start": 0.1}, "'beta_end' must be above 'beta_start'"),
        ({"name": "cosine", "beta_start": 1e-3}, "beta_start: 'name' = 'cosine' leaves nothing to"),
        ({"name": "linear", "betas": (0.1, 0.2)}, "name: 'betas' leaves nothing to 'name'"),
        ({"steps": 2, "alphas_cumprod": (0.9, 0.5)}, "steps: 'alphas_cumprod' leaves nothing to"),
    ],
)
def test_table_that_is_none_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        NoiseSchedule(**options)


def test_table_s_times_are_its_own_steps_as_long_as_there_are_enough():
    convention = TableConvention(NoiseSchedule(steps=100).log_sigmas(CPU), "noise")
    for steps in (1, 7, 99, 100, 350):
        times = torch.tensor(convention.times(steps)).double()
        assert len(times) == steps + 1 and times[-1] == 1 and (times.diff() > 0).all()
        numbers = convention.step(torch.tensor(convention.times(steps)[:-1]).double())
        assert numbers[0] == pytest.approx(99)
        if steps < 100:
            assert torch.allclose(numbers, numbers.round(), atol=1e-6)


def test_clock_of_a_table_runs_between_its_ends():
    table = NoiseSchedule(steps=1000).log_sigmas(CPU)
    times = TableConvention(table, "noise").times(3)[:1]
    first = torch.tensor(times, dtype=torch.float64)
    own = TableConvention(table, "noise")
    unit = TableConvention(table, "noise", clock=Clock("data", 1.0))
    turned = TableConvention(table, "noise", clock=Clock("noise", 1.0))
    assert float(own.network_time(first)) == pytest.approx(999)
    assert float(unit.network_time(first)) == pytest.approx(1)
    assert float(turned.network_time(first)) == pytest.approx(0, abs=1e-9)
    assert own.network_time(first.float()).dtype == torch.float32


@pytest.mark.parametrize(("zero", "end"), [("data", 4.0), ("noise", 4.0), ("data", 1.0)])
@pytest.mark.parametrize("dark", [1, 2])
def test_clock_counts_the_steps_that_hold_noise_alone(dark, zero, end):
    betas = (0.1, 0.2, 0.3, *[0.5] * (2 - dark), *[1.0] * dark)
    made = Torch(
        module="os",
        shape=(1,),
        path="variance_preserving",
        predicts="noise",
        schedule=NoiseSchedule(betas=betas),
        zero=zero,
        time_end=end,
    ).convention(CPU)
    times = 1 / (1 + made.sigma(torch.arange(3).double()))
    expected = torch.arange(3) / 4 * end
    told = made.network_time(times)
    assert torch.allclose(told, (expected if zero == "data" else end - expected).double())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("predicts", ["noise", "x0", "score"])
def test_both_ends_of_time_are_finite_and_near_their_neighbours(path, predicts):
    """A network of N(0, 1) data, asked exactly where it knows the velocity."""
    convention = PathConvention(PATHS[path], predicts)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]

    def velocity(time):
        t = torch.full((5,), time, dtype=torch.float64)
        z, at = convention.states(x, t), convention.network_time(t)
        alpha, beta = (f(at)[:, None] for f in (PATHS[path].alpha, PATHS[path].beta))
        noise, clean = (end * z / (alpha**2 + beta**2) for end in (alpha, beta))
        outputs = {"noise": noise, "x0": clean, "score": -z / (alpha**2 + beta**2)}
        return convention.velocity(outputs[predicts], x, t)

    slope = math.inf
    for near, end in ((1e-3, 0.0), (1 - 1e-5, 1.0)):
        slope = (velocity(near) - velocity(end)).abs().max()
        assert slope < 0.05, f"at {end}"
