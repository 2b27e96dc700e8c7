"""Every check of the kit can fail: small broken parts, each caught by exactly the named checks."""

import importlib
import itertools
import math
import subprocess
import sys
import unittest
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
import torch

from align.catalog.contracts import CONTRACT_CLASSES, plural
from align.core.draws import draws_option
from align.core.dynamics import Dynamics, Transition
from align.core.errors import PartError, PromptError
from align.core.estimator import ClosedForm, ValueEstimator
from align.core.executor import Executor, performed
from align.core.features import FeatureExtractor, FeatureNetwork, PictureFeatures
from align.core.metric import Metric, StreamedMetric
from align.core.mode import AlignmentMode, Info, Trainable
from align.core.model import (
    Condition,
    DataSampler,
    DescribesConditions,
    FlowMap,
    FlowModel,
    ModelSpec,
    NoisyState,
    PosteriorMap,
    Scheduled,
    TrainableVelocity,
)
from align.core.option import option
from align.core.path import LinearPath
from align.core.problem import Problem
from align.core.reward import Repeatable, Reward, RewardSpec
from align.core.sampler import PosteriorSampler
from align.core.study import Findings, Study
from align.core.study import Point as Found
from align.core.tracker import ArmTracker, Tracker
from align.dynamics.sde import SDE
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.models.mixture import Mixture
from align.modes.sampling.steer import Steer
from align.samplers.exact import ExactPosterior
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.testing.kit import checks_of, conformance
from align.testing.worlds import line


def failed(contract, part, on=None):
    """Names of the checks that a part fails."""
    module = importlib.import_module(f"align.testing.checks.{contract}")
    names = set()
    for name, check in checks_of(contract).items():
        try:
            check(module.subject(part, on))
        except unittest.SkipTest:
            continue
        except Exception:
            names.add(name)
    return names


# Samplers: each is exact posterior sampling with one thing wrong.


@attrs.frozen(kw_only=True)
class Draws(PosteriorSampler):
    """The exact posterior map, spoilt by `fault`."""

    kind: ClassVar[str] = "draws"
    differentiable: ClassVar[bool] = True
    exact_for: ClassVar[str] = "an exact map"
    needs: ClassVar[type | None] = PosteriorMap

    fault: str = option("what is wrong", default="")

    def sample(self, model, noisy, *, draws, streams):
        if self.fault == "forgetful of needs" and model.capability(PosteriorMap) is None:
            return Glass(steps=3).sample(model, noisy, draws=draws, streams=streams)
        if self.fault == "changes its input":
            noisy.t.add_(1e-12)
        inner = noisy
        if self.fault == "another batch":
            inner = NoisyState(noisy.x + 0.01 * noisy.x.mean(0), noisy.t, noisy.cond)
        if self.fault == "no gradient":
            inner = NoisyState(noisy.x.detach(), noisy.t, noisy.cond)
        x1 = MetaFlowMap().sample(model, inner, draws=draws, streams=streams)
        mean = x1.mean(0, keepdim=True)
        return {
            "global": lambda: x1 + 0 * torch.rand(()),
            "centred": lambda: x1 - 0.01 * mean * (draws > 1),
            "single": lambda: x1.float(),
            "biased": lambda: x1 + 0.1 * (1 - noisy.t)[:, None],
            "half a gradient": lambda: x1.detach() + 0.5 * (x1 - x1.detach()),
            "late": lambda: x1 + 0.1 * (noisy.t > 0.99)[:, None],
            "early": lambda: x1 / (noisy.t > 0)[:, None],
        }.get(self.fault, lambda: x1)()


class Point(Draws):
    """Says that its draws are points."""

    kind: ClassVar[str] = "point"
    point: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("global", {"random_state"}),
        ("centred", {"draws_are_numbered", "exact"}),
        ("another batch", {"rows_are_independent", "differentiable"}),
        ("changes its input", {"inputs_untouched"}),
        ("single", {"shape", "differentiable"}),
        ("biased", {"exact"}),
        ("half a gradient", {"differentiable"}),
        ("no gradient", {"differentiable"}),
        ("forgetful of needs", {"needs"}),
        ("late", {"ends_of_time"}),
        ("early", {"ends_of_time"}),
    ],
)
def test_broken_samplers(fault, expected):
    assert failed("sampler", Draws(fault=fault)) == expected


def test_a_sampler_that_is_no_point():
    assert "point" in failed("sampler", attrs.frozen(kw_only=True)(Point)())
    assert failed("sampler", Glass(steps=1)) == {"point", "exact"}


# Estimators.


@attrs.frozen(kw_only=True)
class Estimator(ValueEstimator):
    """'gradient' or 'stein', spoilt by `fault`."""

    kind: ClassVar[str] = "estimator"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    draws: int = draws_option()
    fault: str = option("what is wrong", default="")

    def estimate(self, problem, noisy, *, streams):
        draws = self.draws
        if self.fault == "fewer draws" and draws > 1:
            draws -= 1
        if self.fault == "chunked":
            factor = 1 + 1e-3 * (problem.chunks.cap < 10)
            noisy = NoisyState(noisy.x * factor, noisy.t, noisy.cond)
        inner = Gradient(draws=draws) if self.fault == "gradient" else Stein(draws=draws)
        if self.fault == "forgetful of sampler" and problem.sampler is None:
            problem = attrs.evolve(problem, sampler=ExactPosterior())
        if self.fault == "choosy" and problem.model.capability(ClosedForm) is None:
            raise PartError("needs more than it says")
        if self.fault == "global":
            torch.rand(())
        found = inner.estimate(problem, noisy, streams=streams)
        changes = {
            "factor": lambda: {"shift": 2 * found.shift},
            "sum": lambda: {"value": found.value + math.log(draws)},
            "batch": lambda: {"reward": found.reward - found.reward.mean()},
            "error": lambda: {"error": found.error / 2},
            "ess": lambda: {"ess": found.ess / draws},
            "offset": lambda: {"shift": found.shift * found.value.abs()[:, None]},
            "graph": lambda: {"value": found.value + torch.zeros(()).requires_grad_()},
        }.get(self.fault, dict)()
        return attrs.evolve(found, **changes)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("factor", {"shift", "additive"}),
        ("sum", {"value", "additive", "bias"}),
        ("fewer draws", {"bias"}),
        ("batch", {"rows_are_independent"}),
        ("chunked", {"chunks_change_nothing"}),
        ("error", {"error"}),
        ("ess", {"ess"}),
        ("offset", {"constant", "shift", "additive"}),
        ("global", {"random_state"}),
        ("gradient", {"needs_gradient"}),
        ("forgetful of sampler", {"needs_sampler"}),
        ("choosy", {"needs_model"}),
        ("graph", {"shape"}),
    ],
)
def test_broken_estimators(fault, expected):
    assert failed("estimator", Estimator(fault=fault)) == expected


# Dynamics: each is 'sde' with one thing wrong.


@attrs.frozen(kw_only=True)
class Moves(Dynamics):
    """Steps of 'sde', spoilt by `fault`."""

    kind: ClassVar[str] = "moves"

    fault: str = option("what is wrong", default="")

    @property
    def has_density(self):
        return self.fault != "promises nothing"

    def step(self, flow, x, t, u, streams):
        if self.fault == "changes its input":
            t.add_(1e-12)
        if self.fault == "global":
            torch.rand(())
        taken = SDE().step(flow, x, t, u, streams)
        gaussian = taken.gaussian
        mean, push = gaussian.mean, gaussian.push
        change = {
            "drifts": lambda: {"mean": mean + 0.3 * (u - t)[:, None]},
            "half guided": lambda: {"push": push / 2},
            "batch": lambda: {"mean": mean + 1e-4 * mean.mean(0)},
            "restless": lambda: {"mean": mean + 1e-9 * next(COUNTER)},
            "early": lambda: {"mean": mean / (t > 0)[:, None]},
            "single": lambda: {
                "mean": mean.float(),
                "push": push.float(),
                "std": gaussian.std.float(),
                "noise": gaussian.noise.float(),
            },
        }.get(self.fault, dict)()
        gaussian = attrs.evolve(gaussian, **change)
        return Transition(
            gaussian.x, taken.strength, None if self.fault == "promises too much" else gaussian
        )


COUNTER = itertools.count()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("global", {"random_state"}),
        ("changes its input", {"inputs_untouched", "repeatable", "base_law", "tilted_law"}),
        ("single", {"shape", "base_law", "tilted_law"}),
        ("batch", {"rows_are_independent"}),
        ("restless", {"repeatable"}),
        ("early", {"ends_of_time"}),
        ("drifts", {"base_law", "tilted_law"}),
        ("half guided", {"tilted_law"}),
        ("promises nothing", {"density"}),
        ("promises too much", {"density"}),
    ],
)
def test_broken_dynamics(fault, expected):
    assert failed("dynamics", Moves(fault=fault)) == expected


# Rewards.


@attrs.frozen(kw_only=True)
class Brightness(RewardSpec):
    """Brightness of the middle, from 0 to 1, spoilt by `fault`."""

    kind: ClassVar[str] = "brightness"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[str | None] = "image"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    fault: str = option("what is wrong", default="")

    def build(self, device):
        return _Brightness(self.fault, itertools.count())


@attrs.frozen
class _Brightness(Reward):
    fault: str
    calls: itertools.count

    def score(self, data, prompts):
        if self.fault == "changes its input":
            data.detach()[:, :, 0, 0] = 0.5
        if self.fault == "global":
            torch.rand(())
        if self.fault == "short prompts" and any(len(prompt) > 300 for prompt in prompts):
            raise ValueError("the prompt is too long")
        if self.fault == "refuses an empty prompt" and not all(map(str.strip, prompts)):
            raise PromptError("there is no prompt")
        if self.fault == "straight through":
            data = data + (data.round() - data).detach()
        score = torch.sigmoid(8 * data.flatten(1).mean(1) - 4)
        return {
            "normalises": lambda: score - 0.01 * score.mean(),
            "no gradient": lambda: score.detach(),
            "logarithm": lambda: score + 0 * (0.01 + data.flatten(1).min(1).values).log(),
            "percent": lambda: 100 * score,
            "half": lambda: score.half(),
            "column": lambda: score[:, None],
            "half a gradient": lambda: score.detach() / 2 + score / 2,
            "half blind": lambda: torch.sigmoid(8 * _half(data).flatten(1).mean(1) - 4),
            "noisy": lambda: score * (1 + 1e-6 * next(self.calls)),
        }.get(self.fault, lambda: score)()


def _half(data):
    """The data, without a gradient to the left half."""
    left, right = data.chunk(2, -1)
    return torch.cat((left.detach(), right), -1)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("normalises", {"rows_are_independent"}),
        ("no gradient", {"differentiable", "gradient"}),
        ("half a gradient", {"gradient"}),
        ("half blind", {"gradient"}),
        ("straight through", {"gradient"}),
        ("logarithm", {"outside"}),
        ("percent", {"within_range"}),
        ("half", {"shape"}),
        ("column", {"shape"}),
        ("changes its input", {"inputs_untouched"}),
        ("global", {"random_state"}),
        ("short prompts", {"prompts"}),
        ("refuses an empty prompt", {"needs_prompt"}),
        ("noisy", {"repeatable"}),
    ],
)
def test_broken_rewards(fault, expected):
    assert failed("reward", Brightness(fault=fault)) == expected


def test_reward_that_declares_needs_prompt_and_takes_an_empty_one_fails():
    cls = attrs.frozen(kw_only=True)(type("Reads", (Brightness,), {"needs_prompt": True}))
    assert failed("reward", cls()) == {"needs_prompt"}
    assert not failed("reward", cls(fault="refuses an empty prompt"))


def test_reward_that_declares_that_it_compares_and_does_not_fails():
    cls = attrs.frozen(kw_only=True)(type("Judge", (Brightness,), {"compares": True}))
    assert failed("reward", cls()) == {"compares"}


def test_reward_that_declares_is_quadratic_and_is_none_fails():
    cls = attrs.frozen(kw_only=True)(type("Bowl", (Brightness,), {"is_quadratic": True}))
    assert failed("reward", cls()) == {"is_quadratic"}


# Models.


@attrs.frozen(kw_only=True)
class World(ModelSpec):
    """Two Gaussians on the line, spoilt by `fault`."""

    kind: ClassVar[str] = "world"

    fault: str = option("what is wrong", default="")

    @property
    def domain(self):
        return "image" if self.fault == "other domain" else "vector"

    @property
    def provides(self):
        all_of = {FlowMap, PosteriorMap, DataSampler, ClosedForm, Scheduled}
        return frozenset(all_of - {FlowMap} if self.fault == "modest" else all_of)

    @property
    def prompt(self):
        return ""

    def build(self, device):
        inner = Mixture(weights=(1, 2), means=((-1.0,), (1.5,)), stds=(0.5, 0.4)).build(device)
        return _World(inner, self.fault)


@attrs.frozen
class _Doubled(LinearPath):
    def beta_rate(self, t):
        return 2 * torch.ones_like(t)


class _World(FlowModel, FlowMap, PosteriorMap, DataSampler, ClosedForm, Scheduled):
    domain = "vector"

    def __init__(self, inner, fault):
        self.inner, self.fault = inner, fault
        self.path, self.shape = inner.path, inner.shape
        self.dtype, self.device = inner.dtype, inner.device

    def encode(self, prompts):
        if self.fault == "key error" and any(prompts):
            raise KeyError(prompts[-1])
        if any(prompts):
            raise PromptError("only empty prompts can be followed")
        rows = 1 if self.fault == "one row" else len(prompts)
        return Condition(tuple(prompts), {"label": torch.zeros(rows)})

    def velocity(self, x, t, cond):
        if self.fault == "global":
            torch.rand(())
        if self.fault == "changes its input":
            t.add_(1e-12)
        found = self.inner.velocity(x, t, cond)
        if self.fault == "batch":
            return found + 1e-3 * x.mean(0)
        return found.detach() if self.fault == "no gradient" else found

    def decode(self, x1):
        return x1.detach() if self.fault == "cut" else x1

    def jump(self, x, s, u, cond):
        found = self.inner.jump(x, s, u, cond)
        if self.fault == "euler":
            return x + (u - s)[:, None] * self.inner.velocity(x, s, cond)
        return x + 1.1 * (found - x) if self.fault == "far" else found

    def to_data(self, x, s, cond):
        return super().to_data(x, s, cond) + 0.1 * (self.fault == "lands elsewhere")

    def posterior_jump(self, y, s, u, noisy):
        if self.fault == "no context":
            noisy = NoisyState(noisy.x, 0 * noisy.t, noisy.cond)
        found = self.inner.posterior_jump(y, s, u, noisy)
        return found + (u - s)[:, None] ** 2 if self.fault == "bent" else found

    def draw(self, streams):
        found = self.inner.draw(streams)
        return found - 0.01 * found.mean(0) if self.fault == "centred" else found

    def times(self, steps):
        return tuple(k / steps for k in range(steps + (self.fault != "ends early")))

    def begin(self, noise, steps):
        return noise + 1 if self.fault == "begins elsewhere" else noise

    def value(self, noisy, reward):
        return self.inner.value(noisy, reward)

    def draw_posterior(self, noisy, draws, streams):
        found = self.inner.draw_posterior(noisy, draws, streams)
        return found + 0.1 if self.fault == "biased" else found

    def draw_tilted(self, reward, streams):
        return self.inner.draw_tilted(reward, streams)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("other domain", {"described"}),
        ("modest", {"provides"}),
        ("key error", {"prompts"}),
        ("one row", {"prompts", "rows_are_independent"}),
        ("global", {"random_state"}),
        ("changes its input", {"inputs_untouched"}),
        ("batch", {"rows_are_independent"}),
        ("no gradient", {"differentiable"}),
        ("cut", {"decode"}),
        ("euler", {"jump_semigroup"}),
        ("lands elsewhere", {"jump_to_data"}),
        ("far", {"jump_semigroup", "jump_tangent"}),
        ("bent", {"posterior_semigroup"}),
        ("no context", {"posterior_tangent"}),
        ("centred", {"population"}),
        ("ends early", {"scheduled"}),
        ("begins elsewhere", {"scheduled"}),
        ("biased", {"closed_form"}),
    ],
)
def test_broken_models(fault, expected):
    assert failed("model", World(fault=fault)) == expected


WIDTHS = itertools.count(1)


@attrs.frozen(kw_only=True)
class Scaled(World):
    """The same world, whose velocity is that of a module that can be trained."""

    @property
    def provides(self):
        return frozenset()

    def build(self, device):
        inner = World().build(device).inner
        width = next(WIDTHS) if self.fault == "other module" else 1
        return _Scaled(inner, self.fault, torch.nn.Linear(1, width).requires_grad_(False))


class _Scaled(TrainableVelocity, DescribesConditions):
    domain = "vector"

    def __init__(self, inner, fault, module):
        self.inner, self.fault, self._module = inner, fault, module
        self.path, self.shape = inner.path, inner.shape
        self.dtype, self.device = inner.dtype, inner.device

    module = property(lambda self: self._module)

    def with_module(self, module):
        if self.fault == "ignored":
            return self
        if self.fault == "in place":
            self._module = module
        return _Scaled(self.inner, self.fault, module)

    def encode(self, prompts):
        if any(prompts):
            raise PromptError("only empty prompts can be followed")
        return Condition(tuple(prompts))

    def velocity(self, x, t, cond):
        scale = self._module.weight.mean()
        scale = scale.detach() if self.fault == "cut" else scale
        return self.inner.velocity(x, t, cond) + scale * t[:, None]

    def decode(self, x1):
        return x1

    def features(self, cond):
        return torch.ones(len(cond)) if self.fault == "flat" else torch.ones(len(cond), 3)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("ignored", {"trainable_velocity"}),
        ("in place", {"trainable_velocity"}),
        ("cut", {"trainable_velocity"}),
        ("other module", {"trainable_velocity"}),
        ("flat", {"describes_conditions"}),
    ],
)
def test_broken_modules_and_features(fault, expected):
    assert failed("model", Scaled(fault=fault)) == expected


def test_a_model_with_a_broken_path_or_velocity():
    class Spoilt(_World):
        def __init__(self, inner, fault):
            super().__init__(inner, fault)
            self.path = _Doubled()

    @attrs.frozen(kw_only=True)
    class Spec(World):
        def build(self, device):
            return Spoilt(World().build(device).inner, "")

    assert "path" in failed("model", Spec())

    class Single(_World):
        def velocity(self, x, t, cond):
            return super().velocity(x, t, cond).float()

    @attrs.frozen(kw_only=True)
    class Rounded(World):
        def build(self, device):
            return Single(World().build(device).inner, "")

    assert "velocity" in failed("model", Rounded())


# Modes.


@attrs.frozen(kw_only=True)
class Wanders(AlignmentMode):
    """`steer`, spoilt by `fault`."""

    kind: ClassVar[str] = "wanders"
    needs: ClassVar[frozenset] = frozenset({"model", "estimator", "reward"})

    fault: str = option("what is wrong", default="")

    @property
    def inner(self):
        return Steer(steps=30, scale=2.0 if self.fault == "factor" else 1.0)

    @property
    def steps(self):
        return 30.0 if self.fault == "real steps" else 30

    def init(self, problem, streams):
        if self.fault == "greedy":
            problem.sampler.sample  # noqa: B018
        state = self.inner.init(problem, streams)
        shifts = {"batch": 1e-3 * state.x.mean(0), "constant": -state.x}
        return attrs.evolve(state, x=state.x + shifts.get(self.fault, 0 * state.x))

    def step(self, problem, state, index, streams):
        if self.fault == "global":
            torch.rand(())
        state, info = self.inner.step(problem, state, index, streams)
        told = dict(info.numbers)
        if self.fault == "tensors":
            told["extra"] = torch.zeros(())
        if self.fault == "no number":
            told["extra"] = math.nan
        return state, Info(told)

    def finish(self, problem, state):
        x1 = self.inner.finish(problem, state)
        return {
            "single": lambda: x1.float(),
            "off": lambda: x1 + 0.3,
        }.get(self.fault, lambda: x1)()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("factor", {"tilted_law"}),
        ("off", {"base_law", "tilted_law"}),
        ("batch", {"rows_are_independent"}),
        ("constant", {"repeatable", "base_law", "tilted_law"}),
        ("global", {"random_state"}),
        ("tensors", {"numbers"}),
        ("no number", {"numbers"}),
        ("single", {"shape"}),
        ("greedy", {"needs"}),
    ],
)
def test_broken_modes(fault, expected):
    def exactly():
        return Problem(*line(), ExactPosterior(), Exact())

    assert failed("mode", Wanders(fault=fault), exactly) == expected


@attrs.frozen(kw_only=True)
class Counts(AlignmentMode, Trainable):
    """Training, of one number; it forgets to save it when `forgetful`."""

    kind: ClassVar[str] = "counts"
    needs: ClassVar[frozenset] = frozenset()

    forgetful: bool = option("what is wrong", default=False)
    steps: int = option("steps", default=4)

    @property
    def batch(self):
        return 1

    def init(self, problem, streams):
        return torch.zeros(())

    def step(self, problem, state, index, streams):
        state += streams.fold_in(index).normal(())[0]
        return state, Info({"total": float(state)})

    def finish(self, problem, state):
        return None

    def save(self, state):
        return {} if self.forgetful else {"state": state.clone()}

    def restore(self, state, saved):
        state.copy_(saved.get("state", state))

    def export(self, problem, state):
        raise NotImplementedError


def test_a_training_mode_that_forgets():
    assert failed("mode", Counts()) == set()
    assert failed("mode", Counts(forgetful=True)) == {"resumes"}


@attrs.frozen(kw_only=True)
class Looks(AlignmentMode, Study):
    """A study of the model's noise, spoilt by `fault`."""

    kind: ClassVar[str] = "looks"
    needs: ClassVar[frozenset] = frozenset({"model"})

    fault: str = option("what is wrong", default="")

    @property
    def steps(self):
        return 1

    def init(self, problem, streams):
        return ()

    def step(self, problem, state, index, streams):
        value = float(streams.normal(()).mean())
        added = problem.chunks.cap if self.fault == "chunk" else 0.0
        added = math.nan if self.fault == "no number" else added
        told = Info({"value": value})
        return state if self.fault == "nothing" else (*state, value + added), told

    def finish(self, problem, state):
        return None

    def restart(self, last):
        return last if self.fault == "goes on" else ()

    def findings(self, state):
        return Findings("value", "calls", tuple(Found("", 0.0, value) for value in state))


@pytest.mark.parametrize("fault", ["", "no number", "nothing", "chunk", "goes on"])
def test_broken_studies(fault):
    assert failed("mode", Looks(fault=fault)) == ({"findings"} if fault else set())


# Metrics.


@attrs.frozen(kw_only=True)
class Mean(Metric):
    """Mean brightness beside that of the references, spoilt by `fault`."""

    kind: ClassVar[str] = "mean"
    domain: ClassVar[str | None] = "image"
    needs_references: ClassVar[bool] = True

    fault: str = option("what is wrong", default="")
    calls: itertools.count = option("calls", default=attrs.Factory(itertools.count))

    def compute(self, samples, references):
        if references is None:
            if self.fault != "undemanding":
                raise PartError("metric 'mean' needs references")
            references = samples
        if self.fault == "changes its input":
            references[0, 0, 0, 0] = 0.5
        if self.fault == "global":
            torch.rand(())
        mean = float(samples.mean() - references.mean())
        return {
            "tensor": lambda: {"mean": samples.mean()},
            "infinite": lambda: {"mean": math.inf},
            "first": lambda: {"mean": float(samples[0].mean())},
            "noisy": lambda: {"mean": mean + 1e-9 * next(self.calls)},
            "by rows": lambda: {f"mean of {len(samples)}": mean},
        }.get(self.fault, lambda: {"mean": mean})()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("tensor", {"numbers"}),
        ("infinite", {"numbers"}),
        ("by rows", {"numbers"}),
        ("first", {"order"}),
        ("noisy", {"repeatable"}),
        ("undemanding", {"needs_references"}),
        ("global", {"random_state"}),
        ("changes its input", {"inputs_untouched"}),
    ],
)
def test_broken_metrics(fault, expected):
    assert failed("metric", Mean(fault=fault)) == expected


# Feature networks.


@attrs.frozen(kw_only=True)
class Thumbnails(FeatureNetwork):
    """Thumbnails of pictures, spoilt by `fault`."""

    kind: ClassVar[str] = "thumbnails"
    has_logits: ClassVar[bool] = True

    fault: str = option("what is wrong", default="")
    builds: itertools.count = option("builds", default=attrs.Factory(itertools.count))

    @property
    def classes(self):
        return ("dark", "light", "grey") if self.fault == "classless" else ("dark", "light")

    def build(self, device):
        return Thumbnail(self.fault, next(self.builds))


@attrs.frozen
class Thumbnail(FeatureExtractor):
    fault: str
    number: int

    def extract(self, pictures):
        if self.fault == "global":
            torch.rand(())
        if self.fault == "changes its input":
            pictures[0, 0, 0, 0] = 0.5
        side = 8 if self.fault == "sized" and pictures.shape[2] > 50 else 4
        pooled = torch.nn.functional.adaptive_avg_pool2d(pictures, side).flatten(1)
        if self.fault == "another batch":
            pooled = pooled + 0.1 * pooled.mean(0)
        if self.fault == "another network":
            pooled = pooled + self.number
        logits = None if self.fault == "undecided" else pooled[:, :2]
        return PictureFeatures(pooled=pooled, logits=logits)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("sized", {"shape"}),
        ("classless", {"promises"}),
        ("undecided", {"promises"}),
        ("another batch", {"rows_are_independent", "repeatable"}),
        ("another network", {"repeatable"}),
        ("global", {"random_state"}),
        ("changes its input", {"inputs_untouched"}),
    ],
)
def test_broken_features(fault, expected):
    assert failed("features", Thumbnails(fault=fault)) == expected


# Trackers.


@attrs.frozen
class Page(ArmTracker):
    """An arm, kept in a file beside its run."""

    tracker: Tracker
    file: Path

    def numbers(self, index, numbers):
        if self.tracker.fault == "numbers" and index:
            raise ValueError(numbers)

    def picture(self, index, picture):
        self.file.write_bytes(picture.tobytes())

    def close(self, numbers, *, failed):
        if failed and self.tracker.fault == "needs results":
            raise ValueError(numbers)


@attrs.frozen(kw_only=True)
class Book(Tracker):
    """Keeps arms in files, spoilt by `fault`."""

    kind: ClassVar[str] = "book"

    fault: str = option("what is wrong", default="")

    def open(self, arm):
        file = arm.folder / "book"
        if self.fault == "once":
            file.touch(exist_ok=False)
        if self.fault == "links":
            (arm.folder / f"latest {arm.name}").symlink_to(file)
        if self.fault == "talks":
            sys.stdout.write("hello\n")
        if self.fault == "global":
            torch.rand(())
        return Page(self, file)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("numbers", {"arms", "goes_on"}),
        ("needs results", {"failed_run"}),
        ("once", {"arms", "goes_on"}),
        ("links", {"no_links", "goes_on"}),
        ("talks", {"quiet"}),
        ("global", {"random_state"}),
    ],
)
def test_broken_trackers(fault, expected):
    assert failed("tracker", Book(fault=fault)) == expected


@attrs.frozen(kw_only=True)
class Total(StreamedMetric):
    """Mean brightness; what is kept of halves is spoilt by `fault`."""

    kind: ClassVar[str] = "total"
    domain: ClassVar[str | None] = "image"
    needs_references: ClassVar[bool] = False

    fault: str = option("what is wrong", default="")

    def update(self, samples):
        return {"sum": samples.mean((1, 2, 3)).sum(), "count": torch.tensor(len(samples))}

    def merge(self, states):
        kept = states[:1] if self.fault == "first" else states
        return {name: sum(state[name] for state in kept) for name in ("sum", "count")}

    def finish(self, state, references):
        return {"mean": float(state["sum"] / state["count"])}


@pytest.mark.parametrize("fault", ["", "first"])
def test_broken_sums(fault):
    assert failed("metric", Total(fault=fault)) == ({"merged"} if fault else set())


# Executors.


@attrs.frozen(kw_only=True)
class InTurn(Executor):
    """Does tasks in this process, spoilt by `fault`."""

    kind: ClassVar[str] = "in_turn"

    fault: str = option("what is wrong", default="")

    def run(self, job, tasks, watch):
        for task in tasks[: -1 if self.fault == "leaves one" else None]:
            if self.fault != "deaf":
                watch.check()
            failure = performed(job, task)
            if failure and self.fault == "silent":
                continue
            if failure:
                raise PartError(failure.text) if self.fault == "vague" else failure.error(task.name)
            for _ in range(1 + (self.fault == "tells twice")):
                watch.done(task)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", set()),
        ("leaves one", {"every_task"}),
        ("tells twice", {"every_task"}),
        ("silent", {"failures"}),
        ("vague", {"failures"}),
        ("deaf", {"stopping"}),
    ],
)
def test_broken_executors(fault, expected):
    assert failed("executor", InTurn(fault=fault)) == expected


# The form of parts, and the kit itself.


def test_form():
    class Bare(Mean):
        kind: ClassVar[str] = "bare"

    @attrs.frozen
    class Placed(Mean):
        kind: ClassVar[str] = "placed"
        size: int = option("a size", default=1)

    @attrs.frozen(kw_only=True)
    class Helpless(Mean):
        kind: ClassVar[str] = "helpless"
        size: int = 1

    @attrs.frozen(kw_only=True)
    class Loud(Mean):
        kind: ClassVar[str] = "Loud-Mean"

    for cls in (Bare, Placed, Helpless, Loud):
        assert failed("metric", cls()) == {"form"}, cls


@attrs.frozen(kw_only=True)
class Kept(RewardSpec, Repeatable):
    """Scores nothing, and names files that it reads."""

    kind: ClassVar[str] = "kept"
    differentiable: ClassVar[bool] = False
    domain: ClassVar[None] = None
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    reads: tuple[object, ...] | None = option("files", default=())

    def files_read(self):
        return self.reads

    def build(self, device):
        return Zero()


class Zero(Reward):
    def score(self, data, prompts):
        return torch.zeros(len(data))


def test_files_read(tmp_path):
    for reads in ((), None, (tmp_path,)):
        assert "files_read" not in failed("reward", Kept(reads=reads))
    for reads in ((tmp_path / "missing",), (str(tmp_path),)):
        assert failed("reward", Kept(reads=reads)) == {"files_read"}


def test_every_check_is_seen_to_fail():
    """The tables above name every check but those of the tests that follow them."""
    elsewhere = {
        *("form", "point", "path", "velocity", "resumes", "findings"),
        *(
            "compares",
            "is_quadratic",
            "trainable_velocity",
            "describes_conditions",
            "files_read",
            "merged",
        ),
    }
    tables = (
        test_broken_samplers,
        test_broken_estimators,
        test_broken_dynamics,
        test_broken_rewards,
        test_broken_models,
        test_broken_modes,
        test_broken_metrics,
        test_broken_features,
        test_broken_trackers,
        test_broken_executors,
    )
    for table in tables:
        (contract,) = [
            name for name in CONTRACT_CLASSES if table.__name__ == f"test_broken_{plural(name)}"
        ]
        (rows,) = [mark.args[1] for mark in table.pytestmark if mark.name == "parametrize"]
        seen = set().union(*(expected for _, expected in rows))
        assert set(checks_of(contract)) - seen <= elsewhere, contract


FILE = """
import attrs, torch
from align.core.option import option
from align.rewards.compressibility import Compressibility
from align.samplers.dps import DPS
from align.testing import conformance

test_reward = conformance("reward", Compressibility)
test_point = conformance("sampler", DPS(), expect_fail={"exact": "a point has no spread"})
test_passes = conformance("sampler", DPS, expect_fail={"exact": "no spread", "shape": "?"})
test_skips = conformance("reward", Compressibility, expect_fail={"gradient": "it has none"})
test_wrong = conformance("reward", DPS)
"""


def test_items_and_expected_failures(tmp_path, forked_pytest):
    (tmp_path / "test_it.py").write_text(FILE)
    done = forked_pytest(tmp_path, "-rA")
    done.ended()
    lines = done.stdout.splitlines()
    for line_ in (
        "PASSED test_it.py::test_reward[rows_are_independent]",
        "XFAIL test_it.py::test_point[exact] - a point has no spread",
        "PASSED test_it.py::test_point[point]",
    ):
        assert line_ in lines, done.stdout
    failures = [text for text in lines if text.startswith("FAILED ")]
    strict = [text for text in failures if "test_passes" in text or "test_skips" in text]
    assert [text.split()[1] for text in strict] == [
        "test_it.py::test_passes[shape]",
        "test_it.py::test_skips[gradient]",
    ]
    assert all("XPASS(strict)" in text for text in strict)
    wrong = [text for text in failures if "test_wrong" in text]
    assert len(failures) == 2 + len(wrong)
    assert len(wrong) == len(checks_of("reward"))
    assert "expected a RewardSpec for contract 'reward', got a DPS" in done.stdout


def test_unknown_contract_or_check_is_refused():
    with pytest.raises(ValueError, match="no contract named 'sampelr'; did you mean 'sampler'"):
        conformance("sampelr", MetaFlowMap)
    with pytest.raises(ValueError, match=r"no check of a sampler is named 'exakt'; .*'exact'"):
        conformance("sampler", MetaFlowMap, expect_fail={"exakt": "?"})
    with pytest.raises(ValueError, match="say why a sampler is expected to fail 'exact'"):
        conformance("sampler", MetaFlowMap, expect_fail={"exact": " "})
    with pytest.raises(ValueError, match="known are 'autoencoder', 'dataset'"):
        checks_of("flow")


def test_every_check_says_what_it_measures():
    for contract in CONTRACT_CLASSES:
        for name, check in checks_of(contract).items():
            said = (check.__doc__ or "").strip()
            assert said.endswith("."), f"{contract}: {name}"
            assert "\n" not in said, f"{contract}: {name}"


def test_the_pytest_plugin_is_light():
    code = (
        "import sys, align.testing.plugin\n"
        "assert not {'torch', 'numpy', 'attrs', 'pytest'} & set(sys.modules), 'heavy'\n"
        "from align.testing import conformance"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
