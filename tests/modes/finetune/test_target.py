"""Fine-tuning losses are least at the velocity of the tilted law, on a known world (V7)."""

import attrs
import pytest
import torch

from align.core.model import FlowModel, NoisyState
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.modes.finetune.draft import Draft
from align.modes.finetune.evaluation import along_paths
from align.modes.finetune.gradient import GradientObjective
from align.modes.finetune.stein import SteinObjective
from align.modes.finetune.target import TiltedTarget
from align.samplers.exact import ExactPosterior
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import line

ROWS = 60_000


@attrs.frozen(eq=False)
class Student(FlowModel):
    """The exact velocity of the tilted law, or of the base, and a little more: θ · features."""

    base: object
    tilted: bool
    theta: torch.Tensor
    constant: float = 0.0

    shape = (1,)
    domain = "vector"
    dtype = torch.float64
    device = torch.device("cpu")

    @property
    def path(self):
        return self.base.path

    def encode(self, prompts):
        return self.base.encode(prompts)

    def decode(self, x1):
        return x1

    def velocity(self, x, t, cond):
        velocity, s = self.base.velocity(x, t, cond), t[:, None]
        if self.tilted:
            problem = Problem(self.base, line(self.kind)[1], cond=cond)
            shift = (
                Exact().estimate(problem, NoisyState(x, t, cond), streams=Streams(0, (0,))).shift
            )
            pull = self.path.denoiser_to_velocity(t)
            if self.constant:
                pull = pull * self.constant / self.path.half_variance(t)
            velocity = velocity + pull[:, None] * shift
        features = torch.cat((torch.ones_like(x), x, x * s, torch.sin(3 * x), s * s), 1)
        return velocity.detach() + (features * self.theta).sum(1, keepdim=True)

    @property
    def kind(self):
        return "linear" if type(self.path).__name__ == "LinearPath" else "trigonometric"


def slopes(objective, *, tilted=True, kind="linear", level=0.0, weight=1.0, constant=0.0):
    """Mean slope of the loss in θ at 0, and its standard error: (5,) each."""
    model, (term,) = line(kind)[0], line(kind)[1].terms
    reward = WeightedReward((attrs.evolve(term, weight=weight),))
    sampler = MetaFlowMap() if objective.needs_gradient else ExactPosterior()
    theta = torch.zeros(ROWS, 5, dtype=torch.float64, requires_grad=True)

    def clean(rows):
        return model.draw(rows.fold_in("data")), model.encode([""] * len(rows.samples))

    target = TiltedTarget(
        problem=Problem(model, reward, sampler),
        student=Student(model, tilted, theta, constant),
        clean=clean,
        log_normalizer=torch.tensor([level], dtype=torch.float64),
    )
    loss = objective.loss(target, Streams(3, tuple(range(ROWS))))
    assert loss.values.shape == loss.metrics["reward"].shape == (ROWS,)
    (gradients,) = torch.autograd.grad(loss.values.sum(), theta)
    return gradients.mean(0), gradients.std(0) / ROWS**0.5


OBJECTIVES = {
    "gradient": GradientObjective(start=0.1),
    "gradient, 3 draws": GradientObjective(start=0.1, draws=3),
    "stein": SteinObjective(),
    "stein, 3 draws": SteinObjective(draws=3),
    "stein, plain": SteinObjective(centred=False),
    "stein, by the data": SteinObjective(draws_from="data"),
    "reward-weighted flow matching": SteinObjective(draws_from="data", centred=False),
}


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_tilted_velocity_is_the_minimum(name, kind):
    slope, error = slopes(OBJECTIVES[name], kind=kind)
    assert (slope.abs() < 4.5 * error).all(), slope / error


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_the_published_noise_has_its_minimum_elsewhere(kind):
    released = GradientObjective(start=0.1, as_released=True)
    slope, error = slopes(released, kind=kind, constant=100.0)
    assert (slope.abs() < 4.5 * error).all(), slope / error
    slope, error = slopes(released, kind=kind)
    assert (slope.abs() > 8 * error).any(), slope / error


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_plug_in_regresses_on_what_steering_estimates(draws, kind):
    model, reward = line(kind)
    cond, rows = model.encode([""] * 32), Streams(3, tuple(range(32)))

    @attrs.frozen(eq=False)
    class Steered(Student):
        def velocity(self, x, t, cond):
            gradient = Gradient(draws=draws, budget=4)
            found = gradient.estimate(
                problem, NoisyState(x, t, cond), streams=rows.fold_in("draws")
            )
            return (
                model.velocity(x, t, cond)
                + self.path.denoiser_to_velocity(t)[:, None] * found.shift
            )

    problem = Problem(model, reward, MetaFlowMap(), cond=cond)
    target = TiltedTarget(
        problem=problem,
        student=Steered(model, False, None),
        log_normalizer=torch.zeros(1).double(),
        clean=lambda rows: (model.draw(rows.fold_in("data")), cond),
    )
    loss = GradientObjective(start=0.1, draws=draws, plug_in=True).loss(target, rows)
    weighed = GradientObjective(start=0.1, draws=draws).loss(target, rows)
    assert loss.values.abs().max() < 1e-20
    assert loss.weights is None  # no c is moved
    assert weighed.weights.values.shape == (32,)
    assert draws == 1 or weighed.values.max() > 1e-2


def test_more_draws_make_the_plug_in_less_biased():
    biases = []
    for draws in (1, 16):
        slope, error = slopes(GradientObjective(start=0.1, draws=draws, plug_in=True))
        assert (slope.abs() > 8 * error).any()
        biases.append(slope.square().sum())
    assert biases[1] < 0.1 * biases[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_base_velocity_is_not(name):
    slope, error = slopes(OBJECTIVES[name], tilted=False)
    assert (slope.abs() > 8 * error).any(), slope / error


@pytest.mark.parametrize("name", ["gradient", "stein, plain"])
def test_the_level_is_a_factor_on_the_loss(name):
    plain, _ = slopes(OBJECTIVES[name], tilted=False)
    lower, _ = slopes(OBJECTIVES[name], tilted=False, level=-1.5)
    torch.testing.assert_close(lower, plain * torch.tensor(1.5).double().exp(), rtol=1e-9, atol=0)


def test_more_draws_make_less_noise():
    _, one = slopes(SteinObjective())
    _, many = slopes(SteinObjective(draws=8))
    assert (many < 0.8 * one).all()


def test_centring_makes_less_noise_where_the_reward_says_little():
    little = {"tilted": False, "weight": 0.02}
    _, plain = slopes(SteinObjective(centred=False), **little)
    _, centred = slopes(SteinObjective(), **little)
    assert (centred < 0.5 * plain).all()


def test_draft_is_the_reward_of_own_samples():
    model, reward = line()
    theta = torch.zeros(64, 5, dtype=torch.float64, requires_grad=True)
    student = Student(model, False, theta)
    target = TiltedTarget(
        problem=Problem(model, reward),
        student=student,
        log_normalizer=torch.zeros(1).double(),
        clean=lambda rows: (None, model.encode([""] * len(rows.samples))),
    )
    whole, part = (
        torch.autograd.grad(
            Draft(last=last, flow_steps=10).loss(target, Streams(0, tuple(range(64)))).values.sum(),
            theta,
        )[0]
        for last in (10, 1)
    )
    assert not torch.allclose(whole, part)
    # The last step alone: x1 = x + v / 10, so that the slope is −r'(x1) features / 10.
    streams = Streams(0, tuple(range(64)))
    x, cond = streams.fold_in("start").normal((1,)), model.encode([""] * 64)
    for step in range(9):
        x = x + model.velocity(x, torch.full((64,), step / 10, dtype=torch.float64), cond) / 10
    t = torch.full((64,), 0.9, dtype=torch.float64)
    x1 = x + model.velocity(x, t, cond) / 10
    ones, s = torch.ones_like(x), t[:, None]
    features = torch.cat((ones, x, x * s, torch.sin(3 * x), s * s), 1)
    wanted = (x1 - 1) / 0.6**2 * features / 10
    torch.testing.assert_close(part, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_times_of_double_precision_students_are_in_double_precision(kind):
    model, reward = line(kind)
    seen = []

    class Watched(Student):
        def velocity(self, x, t, cond):
            seen.append((x.dtype, t.clone()))
            return self.base.velocity(x, t, cond)

    student = Watched(model, tilted=False, theta=torch.zeros(8, 5))
    target = TiltedTarget(
        problem=Problem(model, reward),
        student=student,
        clean=lambda rows: (model.draw(rows), model.encode([""] * 8)),
        log_normalizer=torch.zeros(1).double(),
    )
    Draft(flow_steps=3).loss(target, Streams(0, tuple(range(8))))
    assert [float(t[0]) for _, t in seen] == [0, 1 / 3, 2 / 3]
    seen.clear()
    along_paths(model, student, model.encode([""] * 8), Streams(0, tuple(range(8))), 3)
    assert [float(t[0]) for _, t in seen] == pytest.approx([0.01, 0.34, 0.67], rel=1e-15)
