"""Unsteered samples: whose they are, what they cost, and what a run learns from them."""

import attrs
import pytest
import torch

import align
from align.core.baseline import FEW, Divergence
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.dynamics.sde import SDE
from align.engine.guard import GuardedModel, GuardedReward
from align.engine.meter import Meter
from align.errors import PartError
from align.estimators.exact import Exact
from align.models.mixture import Mixture
from align.modes.distill.mode import Distill
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.recipe import Arm, Recipe, RewardTerm, Run, with_unique_names
from align.rewards.linear import Likelihood
from align.runner.base_samples import BaseSampleStore, draw, notes
from align.testing.worlds import sampled

MODEL = Mixture(weights=(0.3, 0.45, 0.25), means=((-2.0,), (0.5,), (2.5,)), stds=(0.4, 0.7, 0.3))
OTHER = attrs.evolve(MODEL, weights=(0.8, 0.1, 0.1))
NEAR = Likelihood(matrix=((1.0,),), observed=(1.0,), std=0.6)
FAR = Likelihood(matrix=((1.0,),), observed=(-2.0,), std=3.0)
ONLY = (RewardTerm(part=NEAR, name="near"),)


def problem(spec=MODEL, meter=None, chunk=1 << 20, terms=(("near", NEAR),), rows=2):
    meter, model = meter or Meter(), spec.build(torch.device("cpu"))
    rewards = tuple(
        Term(name=n, reward=GuardedReward(part.build(model.device), n, meter, chunk))
        for n, part in terms
    )
    guarded = GuardedModel(model, "mixture", meter, chunk)
    cond = model.encode([""] * rows)
    return Problem(guarded, WeightedReward(rewards), None, Exact(), cond, chunk)


def recipe(*arms, unsteered=16, rewards=ONLY):
    return Recipe(
        run=Run(unsteered=unsteered),
        reward=with_unique_names(rewards),
        mode=arms[0].mode,
        compare=arms,
    )


def arm(mode, model=MODEL, name="a"):
    return Arm(name=name, model=model, sampler=None, estimator=Exact(), mode=mode)


def drawn(asked, count=6, flow_steps=4, seed=0, told=lambda done, of: None):
    return draw(MODEL, asked, count=count, flow_steps=flow_steps, seed=seed, told=told)


def test_they_are_plain_samples_with_noise_of_their_own():
    found = drawn(problem(terms=(("near", NEAR), ("far", FAR))))
    mode = BestOfN(n=1, flow_steps=4)
    base = problem()
    streams = Streams(0, tuple(range(6))).fold_in("unsteered")
    cond = base.model.encode([""] * 6)
    state = mode.init(base, streams)
    state, _ = mode.step(attrs.evolve(base, cond=cond), state, 0, streams)
    x1 = mode.finish(base, state)
    for name, part in (("near", NEAR), ("far", FAR)):
        expected = part.build(x1.device).score(x1, ())
        assert torch.allclose(found.scores[name], expected)
    own = sampled(mode, (bare := MODEL.build(x1.device), base.reward), 6)
    assert bare.shape == (1,)
    assert not torch.isclose(own, x1).any()


def test_they_are_counted_apart_and_told_of():
    meter, told = Meter(), []
    found = drawn(problem(meter=meter), told=lambda *said: told.append(said))
    assert (dict(meter.calls), meter.row_flops) == ({}, {})
    assert found.cost.calls == {"network": 24, "decoder": 12, "reward near": 6}
    assert told == [(0, 6), (2, 6), (4, 6), (6, 6)]


@pytest.mark.parametrize("chunk", [1, 4])
def test_the_chunk_changes_nothing(chunk):
    whole, cut = drawn(problem(), count=9), drawn(problem(chunk=chunk), count=9)
    assert torch.allclose(whole.scores["near"], cut.scores["near"], rtol=0, atol=1e-12)
    more = drawn(problem(), count=20).scores["near"][:9]
    assert torch.allclose(whole.scores["near"], more, rtol=0, atol=1e-12)
    assert not torch.isclose(drawn(problem(), count=9, seed=1).scores["near"], more).any()


def test_each_model_has_its_own_and_they_are_drawn_once():
    a = arm(Steer(steps=3))
    b = arm(BestOfN(n=2, flow_steps=7), name="b")
    c = arm(BestOfN(n=2), model=OTHER, name="c")
    shorter = arm(BestOfN(n=2, flow_steps=5), name="d")
    bases = BaseSampleStore(recipe(a, b, c, shorter))
    scores = {"near": torch.tensor([-1.0, -2.0])}
    first = bases.divergence(a, problem(), scores, Steer().init(problem(), Streams(0, (0,))))
    best = b.mode.init(problem(), Streams(0, (0,)))
    second = bases.divergence(b, problem(), scores, best)
    third = bases.divergence(c, problem(OTHER), scores, best)
    made = [(one["arms"], one["flow_steps"]) for one in bases.said()]
    assert made == [(["a", "b", "d"], 7), (["c"], 50)]
    assert first.at_least == second.at_least != third.at_least
    assert (first.at_most, second.at_most) == (None, pytest.approx(0.1931, abs=1e-4))
    for one, kept in zip(bases.drawn, bases.said(), strict=True):
        assert kept["scores"] == {"near": one.scores["near"].tolist()}
        assert kept["r"] == kept["scores"]["near"]


def test_nothing_is_drawn_for_nothing():
    scores = {"near": torch.tensor([-1.0, -2.0])}
    plain, training = arm(BestOfN(n=1)), arm(Distill())
    for unsteered in (0, 16):
        bases = BaseSampleStore(recipe(plain, training, unsteered=unsteered))
        base = plain.mode.init(problem(), Streams(0, (0,)))
        found = bases.divergence(plain, problem(), scores, base)
        assert (found.at_least, found.at_most, found.reward) == (0, 0, -1.5)
        assert bases.divergence(training, problem(), {}, None) is None
        assert bases.normalised(training, problem()).reward.terms[0].transform is None
        assert bases.drawn == []
    steered = arm(Steer(steps=3))
    found = BaseSampleStore(recipe(steered, unsteered=0)).divergence(
        steered, problem(), scores, Steer().init(problem(), Streams(0, (0,)))
    )
    assert (found.reward, found.at_least, found.ess) == (-1.5, None, None)


def test_statistics_are_those_of_the_first_model_for_every_arm():
    rewards = (
        RewardTerm(part=NEAR, name="near", normalise="zscore"),
        RewardTerm(part=FAR, name="far", normalise="rank", clip=(0.25, 1.0)),
        RewardTerm(part=FAR, name="bystander", normalise="zscore", held_out=True),
    )
    terms = tuple((term.name, term.part) for term in rewards)
    a, b = arm(Steer(steps=3)), arm(Steer(steps=3), model=OTHER, name="b")
    bases = BaseSampleStore(recipe(a, b, rewards=rewards))
    one = bases.normalised(a, problem(terms=terms)).reward
    two = bases.normalised(b, problem(OTHER, terms=terms)).reward
    assert len(bases.drawn) == 1
    near, far, bystander = (term.transform for term in one.terms)
    assert [term.transform for term in two.terms] == [near, far, bystander]
    scores = bases.drawn[0].scores
    assert float(near.of(scores["near"]).std()) == pytest.approx(1)
    assert float(far.of(scores["far"]).min()) == 0.25
    assert bystander is None


def test_a_divergence_is_that_of_the_normalised_reward():
    rewards = (RewardTerm(part=NEAR, name="near", normalise="zscore", weight=3.0),)
    steered = arm(Steer(steps=3))
    bases = BaseSampleStore(recipe(steered, rewards=rewards))
    asked = problem()
    asked = attrs.evolve(
        asked, reward=WeightedReward(tuple(attrs.evolve(t, weight=3.0) for t in asked.reward.terms))
    )
    asked = bases.normalised(steered, asked)
    scores = {"near": torch.tensor([-1.0, -2.0])}
    state = Steer().init(asked, Streams(0, (0,)))
    found = bases.divergence(steered, asked, scores, state)
    base = bases.drawn[0].scores["near"].double()
    r = 3 * (base - base.mean()) / base.std()
    expected = 3 * (-1.5 - base.mean()) / base.std()
    assert found.reward == pytest.approx(float(expected))
    assert found.at_least == pytest.approx(float(expected - r.exp().mean().log()))
    assert bases.said()[0]["r"] == pytest.approx(r.tolist())


def test_notes():
    renorm, plain = arm(Steer(guidance_norm="renorm")), arm(Steer(), name="b")
    assert notes(recipe(plain), {"b": None}) == []
    said = notes(recipe(renorm, plain), {"a": Divergence(reward=0.0, ess=FEW), "b": None})
    assert len(said) == 1
    assert said[0].startswith("a: guidance_norm = 'renorm' keeps the direction")
    few = Divergence(reward=0.0, at_least=1.0, ess=3.21)
    (said,) = notes(recipe(plain), {"b": few})
    assert said.startswith("* V_0 rests on 3.2 of 16 unsteered samples: it is too low")


@pytest.mark.parametrize("dynamics", [ODE(), SDE()])
def test_steering_exactly_is_as_far_as_the_closed_form_says(dynamics):
    side = align.sample(
        MODEL,
        Steer(steps=100, dynamics=dynamics),
        rewards=[RewardTerm(part=NEAR)],
        estimator=Exact(),
        samples=1000,
        unsteered=4000,
    )
    model = MODEL.build(torch.device("cpu"))
    reward = WeightedReward((Term(name="near", reward=NEAR.build(model.device)),))
    zero = torch.zeros(1, 1, dtype=torch.float64)
    value = float(model.value(NoisyState(zero, zero[:, 0], model.encode([""])), reward))
    tilted = model.draw_tilted(reward, Streams(9, tuple(range(50_000))))
    exact = float(reward.total(tilted, [""] * 50_000).mean()) - value
    found = side.divergence
    # 50 Euler steps of the base model, 100 of the steered one.
    assert found.at_least == pytest.approx(exact, abs=3 * found.at_least_error + 0.02)
    assert found.at_least_error < 0.05
    if dynamics.has_density:
        assert found.at_most == pytest.approx(exact, abs=0.05)
    else:
        assert found.at_most is None


def test_parts_alone_have_no_statistics_unless_asked():
    terms = [RewardTerm(part=NEAR, normalise="zscore")]
    parts = {"rewards": terms, "estimator": Exact(), "samples": 2}
    with pytest.raises(PartError, match="'zscore' needs the scores of at least 2 unsteered"):
        align.sample(MODEL, Steer(steps=2), **parts)
    side = align.sample(MODEL, Steer(steps=2), unsteered=8, **parts)
    assert side.divergence.ess is not None
