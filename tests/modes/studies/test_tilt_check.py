"""Samples of methods beside the tilted law."""

import math

import attrs
import pytest

from align.core.errors import PartError
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.core.streams import Streams
from align.engine.guard import GuardedModel, GuardedReward
from align.engine.meter import Meter
from align.estimators.exact import Exact
from align.estimators.stein import Stein
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.modes.studies.fidelity import Fidelity
from align.modes.studies.tilt_check import TiltCheck
from align.modes.studies.tilted_law import TiltedLaw, divergence
from align.samplers.exact import ExactPosterior
from align.testing.worlds import line, unequal

ROWS = 512


def values(found):
    return {point.panel: point for point in found.points}


@pytest.fixture(scope="module")
def problem():
    return Problem(*line(), sampler=ExactPosterior(), estimator=Exact())


def law_of(problem, count=2048):
    return TiltedLaw.of(problem, Streams(0, (0,)), count, 10)


def test_other_draws_of_the_law_differ_from_it_by_their_number_alone(studied, problem):
    state, found = studied(TiltCheck(), problem, ROWS)
    shown = values(found)
    assert shown["SW2"].value < 0.2
    assert shown["mode masses"].value < 0.1
    assert shown["spread in modes"].value == pytest.approx(1, abs=0.1)
    for name in ("MMD", "r above exact", "r lost at equal nats"):
        assert abs(shown[name].value) < 4 * shown[name].error + 0.02, name
    known = state.law.reward - state.law.value  # KL(p* | p)
    assert shown["KL at least"].value == pytest.approx(known, abs=0.15)
    assert shown["KL of r"].value == pytest.approx(known, abs=0.15)
    assert {point.calls for point in found.points} == {0}
    assert "known exactly" in found.notes[0]


def test_exact_guidance_follows_the_law_and_no_guidance_does_not(studied, problem):
    steer, plain = TiltCheck(method=Steer(steps=24)), TiltCheck(method=BestOfN(flow_steps=24))
    state, found = studied(steer, problem, ROWS)
    exact, base = values(found), values(studied(plain, problem, ROWS, last=state)[1])
    assert exact["SW2"].value < 0.2 < 1 < base["SW2"].value
    assert exact["mode masses"].value < 0.1 < 0.3 < base["mode masses"].value
    assert abs(exact["r above exact"].value) < 0.2
    assert base["r above exact"].value < -3
    assert abs(base["KL of r"].value) < 0.1
    assert base["KL at most"].value == 0
    assert "KL at most" not in exact


def test_a_climb_has_too_much_reward_and_too_little_spread(studied, problem):
    climb = TiltCheck(method=Steer(steps=24, scale=4.0))
    shown = values(studied(climb, problem, ROWS)[1])
    assert shown["r above exact"].value > 0.2
    assert shown["spread in modes"].value < 0.7
    assert shown["KL of r"].value > shown["KL at least"].value


def test_calls_are_those_of_the_method_alone(studied):
    meter = Meter()
    model, reward = line()
    guarded = GuardedModel(model, "mixture", meter, 1 << 20)
    (term,) = reward.terms
    scored = GuardedReward(term.reward, term.name, meter, 1 << 20, True, 1)
    reward = WeightedReward((attrs.evolve(term, reward=scored),))
    problem = Problem(guarded, reward, ExactPosterior(), Stein(draws=3))
    found = studied(TiltCheck(method=Steer(steps=5)), problem, 16)[1]
    assert {point.calls for point in found.points} == {5}  # exact draws call nothing
    assert values(found)["rewards a sample"].value == 15


def test_law_of_a_reward_without_closed_form_is_that_of_weighed_base_samples(studied):
    model, reward = unequal()
    problem = Problem(model, reward)
    state, found = studied(TiltCheck(law_samples=4096), problem, ROWS)
    kept = reward.terms[0].reward.kept(model, Streams(3, tuple(range(20_000))))
    scores = reward.terms[0].reward.score(kept, ())
    assert state.law.reward == pytest.approx(float(scores.mean()), abs=0.01)
    assert state.law.ess < 8192
    assert f"an effective number of {state.law.ess:.0f}" in found.notes[0]
    shown = values(found)
    assert abs(shown["r above exact"].value) < 4 * shown["r above exact"].error + 0.01
    assert shown["SW2"].value < 0.3


def test_law_is_drawn_once_for_arms_on_the_same_model(studied, problem):
    state, _ = studied(TiltCheck(), problem, 16)
    plain = TiltCheck(method=BestOfN(flow_steps=2))
    again, _ = studied(plain, problem, 16, last=state)
    assert again.law is state.law
    assert plain.is_prepared_by(TiltCheck())
    assert not plain.is_prepared_by(TiltCheck(law_samples=100))
    assert not plain.is_prepared_by(Fidelity(metric=SlicedWasserstein()))


def test_sets_have_four_samples_at_least(studied, problem):
    points = values(studied(TiltCheck(sets=4), problem, 7)[1])
    assert points["SW2"].error is None
    assert values(studied(TiltCheck(sets=4), problem, 8)[1])["SW2"].error is not None


@pytest.mark.parametrize("method", [lambda: Fidelity(metric=SlicedWasserstein()), TiltCheck])
def test_method_that_makes_no_samples_is_refused(method):
    with pytest.raises(ValueError, match="'method' must be a mode that makes samples"):
        TiltCheck(method=method())


def test_method_says_what_does_not_go_with_the_model():
    assert TiltCheck(method=Steer()).needs == {"model", "estimator", "reward"}
    assert TiltCheck().needs == {"model", "reward"}


def test_several_prompts_have_no_one_law(problem):
    with pytest.raises(PartError, match="the tilted law of one prompt"):
        law_of(attrs.evolve(problem, prompts=("a", "b")))


@pytest.mark.parametrize("count", [2, 8])
def test_divergence_of_the_best_of_n_is_known(count):
    streams = Streams(0, tuple(range(1000)))
    best = streams.normal((count,)).max(1).values.double()
    base = Streams(1, tuple(range(4000))).normal(()).double()
    known = math.log(count) - (count - 1) / count
    assert divergence(best, base) == pytest.approx(known, abs=0.12)
    assert divergence(base[:1000], base[1000:]) == pytest.approx(0, abs=0.1)


def test_best_reward_at_a_divergence_is_that_of_a_tilt(problem):
    """Of r ~ N(0, 1) the law tilted by λ has mean λ and is λ²/2 nats away."""
    base = Streams(0, tuple(range(20_000))).normal(()).double()
    law = attrs.evolve(law_of(problem), base=base)
    for nats in (0.02, 0.5, 2.0):
        assert law.best_reward(nats) == pytest.approx(math.sqrt(2 * nats), rel=0.1)
    assert law.best_reward(-1.0) == pytest.approx(0, abs=0.05)
    assert law.best_reward(1e9) == pytest.approx(float(base.max()), abs=0.01)


def test_reward_that_is_clipped_is_weighed(problem):
    (term,) = problem.reward.terms

    class Clip:
        affine = None

        def of(self, score):
            return score.clamp(min=-1.0)

    clipped = Term(name="clipped", reward=term.reward, transform=Clip())
    law = law_of(attrs.evolve(problem, reward=WeightedReward((clipped,))))
    assert law.ess is not None
    assert float(law.base.min()) == -1
