"""Unsteered samples: whose they are, what they cost, and what a run learns from them."""

import attrs
import pytest
import torch

import align
from align.core.baseline import FEW, BaseRewardStats, Divergence
from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.reward import Term, WeightedReward
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.dynamics.sde import SDE
from align.engine.loop import Outcome
from align.engine.meter import Cost
from align.estimators.exact import Exact
from align.models.mixture import Mixture
from align.modes.distill.mode import Distill
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.modes.studies.value_correlation import ValueCorrelation
from align.networks.mlp import MLPConfig
from align.recipe import Arm, Recipe, RewardTerm, Run, with_unique_names
from align.rewards.linear import Likelihood
from align.runner.base_samples import draw, sample_bases
from align.runner.build import Rewards, build
from align.runner.results import score, to_record
from align.testing.worlds import sampled

MODEL = Mixture(weights=(0.3, 0.45, 0.25), means=((-2.0,), (0.5,), (2.5,)), stds=(0.4, 0.7, 0.3))
OTHER = attrs.evolve(MODEL, weights=(0.8, 0.1, 0.1))
NEAR = Likelihood(matrix=((1.0,),), observed=(1.0,), std=0.6)
FAR = Likelihood(matrix=((1.0,),), observed=(-2.0,), std=3.0)
ONLY = (RewardTerm(part=NEAR, name="near"),)


CPU = torch.device("cpu")


def recipe(*arms, unsteered=16, rewards=ONLY, **run):
    return Recipe(
        run=Run(unsteered=unsteered, samples=2, **run),
        reward=with_unique_names(rewards),
        mode=arms[0].mode,
        compare=arms,
    )


def arm(mode, model=MODEL, name="a"):
    return Arm(name=name, model=model, sampler=None, estimator=Exact(), mode=mode)


def bases_of(asked, on_progress=lambda done, count: None):
    return sample_bases(asked, Rewards(asked.reward, CPU), on_progress)


def drawn(count=6, flow_steps=4, rewards=ONLY, on_progress=lambda done, count: None, **run):
    """Samples of the base model, and the arm that they were drawn for."""
    asked = recipe(arm(Steer(steps=3)), unsteered=count, rewards=rewards, **run)
    built = build(asked.arms()[0], Rewards(asked.reward, CPU), asked.run)
    return draw(built, asked, flow_steps, on_progress), built


def ended(asked, bases, number=0, x1=None):
    """The result of an arm, its mode left as `init` leaves it, with these samples."""
    built = build(asked.arms()[number], Rewards(asked.reward, CPU), asked.run)
    built = bases.normalised(built)
    state = built.arm.mode.init(built.problem, built.streams)
    x1 = torch.tensor([[0.0], [1.0]], dtype=torch.float64) if x1 is None else x1
    return score(built, Outcome(x1, state, Cost()), bases)


def test_base_samples_are_plain_samples_with_noise_of_their_own():
    rewards = (RewardTerm(part=NEAR, name="near"), RewardTerm(part=FAR, name="far"))
    base, built = drawn(rewards=rewards)
    mode, problem = BestOfN(n=1, flow_steps=4), built.problem
    streams = Streams(0, tuple(range(6))).fold_in("unsteered")
    problem = attrs.evolve(problem, cond=problem.model.encode([""] * 6))
    state = mode.init(problem, streams)
    state, _ = mode.step(problem, state, 0, streams)
    x1 = mode.finish(problem, state)
    for name, part in (("near", NEAR), ("far", FAR)):
        assert torch.allclose(base.scores[name], part.build(CPU).score(x1, ()))
    steered = sampled(mode, (MODEL.build(CPU), problem.reward), 6)
    assert not torch.isclose(steered, x1).any()


def test_base_samples_have_a_cost_and_show_their_progress():
    shown = []
    base, _ = drawn(on_progress=lambda *numbers: shown.append(numbers))
    assert base.cost.calls == {"network": 24, "decoder": 6}
    assert base.cost.reward_calls == {"near": 6}
    assert shown == [(0, 6), (2, 6), (4, 6), (6, 6)]


@pytest.mark.parametrize("chunk", [1, 4])
def test_base_samples_in_chunks_are_the_same(chunk):
    (whole, _), (cut, _) = drawn(count=9), drawn(count=9, chunk=chunk)
    assert torch.allclose(whole.scores["near"], cut.scores["near"], rtol=0, atol=1e-12)
    more = drawn(count=20)[0].scores["near"][:9]
    assert torch.allclose(whole.scores["near"], more, rtol=0, atol=1e-12)
    assert not torch.isclose(drawn(count=9, seed=1)[0].scores["near"], more).any()


def test_each_model_is_sampled_once():
    asked = recipe(
        arm(Steer(steps=3)),
        arm(BestOfN(n=2, flow_steps=7), name="b"),
        arm(BestOfN(n=2), model=OTHER, name="c"),
        arm(BestOfN(n=2, flow_steps=5), name="d"),
    )
    bases = bases_of(asked)
    assert [(base.model, base.flow_steps) for base in bases.models] == [(MODEL, 7), (OTHER, 50)]
    results = [ended(asked, bases, number) for number in range(4)]
    first, second, third, _ = (result.divergence for result in results)
    assert first.at_least == second.at_least != third.at_least
    assert (first.at_most, second.at_most) == (None, pytest.approx(0.1931, abs=1e-4))
    kept = to_record(asked, results, bases, dict.fromkeys("abcd", "samples/a")).unsteered
    assert [(base.arms, base.flow_steps) for base in kept] == [(("a", "b", "d"), 7), (("c",), 50)]
    for base, numbers in zip(bases.models, kept, strict=True):
        assert numbers.scores == {"near": tuple(base.scores["near"].tolist())}
        assert numbers.r == numbers.scores["near"]


@pytest.mark.parametrize("unsteered", [0, 16])
def test_no_model_is_sampled_where_nothing_needs_samples(unsteered):
    asked = recipe(arm(BestOfN(n=1)), arm(Distill(net=MLPConfig()), name="b"), unsteered=unsteered)
    bases = bases_of(asked)
    assert bases.models == ()
    found = ended(asked, bases).divergence
    assert (found.at_least, found.at_most, found.reward) == (0, 0, pytest.approx(-0.5 / 0.72))
    training = build(asked.arms()[1], Rewards(asked.reward, CPU), asked.run)
    assert bases.normalised(training) is training
    assert bases_of(recipe(arm(Steer()), rewards=())).models == ()
    assert bases_of(recipe(arm(ValueCorrelation()), unsteered=unsteered)).models == ()


def test_divergence_of_another_model_is_from_that_of_the_first_arm():
    arms = arm(BestOfN(n=1)), arm(BestOfN(n=1), model=OTHER, name="tuned")
    asked = recipe(*arms, unsteered=64)
    bases = bases_of(asked)
    results = [ended(asked, bases, number) for number in range(2)]
    first, tuned = (result.divergence for result in results)
    assert (first.at_least, first.at_most, first.base) == (0, 0, "")
    stats = BaseRewardStats(bases.models[0].scores["near"])
    assert tuned.at_least == pytest.approx(stats.bound(tuned.reward)[0])
    assert (tuned.at_least > 0, tuned.at_most, tuned.base) == (True, None, "a")
    (note,) = to_record(asked, results, bases, {"a": "samples/a", "tuned": "samples/t"}).notes
    assert note.startswith(
        "KL of tuned is from the model of 'a', which has the same latents; from above"
    )
    # One that decodes otherwise has a base model of its own.
    models = (attrs.evolve(bases.models[0], latents=(1.0, 9.0)),)
    found = ended(asked, attrs.evolve(bases, models=models), 1).divergence
    assert (found.at_least, found.at_most, found.base) == (0, 0, "")


def test_divergence_of_another_model_is_not_known_without_base_samples():
    arms = arm(BestOfN(n=1)), arm(BestOfN(n=1), model=OTHER, name="tuned")
    asked = recipe(*arms, unsteered=0)
    bases = bases_of(asked)
    results = [ended(asked, bases, number) for number in range(2)]
    tuned = results[1].divergence
    assert (tuned.at_least, tuned.at_most, tuned.base) == (None, None, "a")
    (note,) = to_record(asked, results, bases, {"a": "samples/a", "tuned": "samples/t"}).notes
    assert note.endswith("is not known, as run.unsteered is 0; 64 or more measures it.")


def test_no_bound_without_base_samples():
    asked = recipe(arm(Steer(steps=3)), unsteered=0)
    found = ended(asked, bases_of(asked)).divergence
    assert (found.reward, found.at_least, found.ess) == (pytest.approx(-0.5 / 0.72), None, None)


def test_statistics_are_those_of_the_first_optimising_model_for_every_arm():
    rewards = (
        RewardTerm(part=NEAR, name="near", normalise="zscore"),
        RewardTerm(part=FAR, name="far", normalise="rank", clip=(0.25, 1.0)),
        RewardTerm(part=FAR, name="bystander", normalise="zscore", held_out=True),
    )
    plain = arm(BestOfN(n=1))
    asked = recipe(plain, arm(BestOfN(n=1), model=OTHER, name="b"), rewards=rewards)
    bases = bases_of(asked)
    assert [base.model for base in bases.models] == [MODEL]
    built = [build(a, Rewards(asked.reward, CPU), asked.run) for a in asked.arms()]
    first, second = (bases.normalised(b).problem.reward for b in built)
    near, far, bystander = (term.transform for term in first.terms)
    assert [term.transform for term in second.terms] == [near, far, bystander]
    scores = bases.models[0].scores
    assert float(near.of(scores["near"]).std()) == pytest.approx(1)
    assert float(far.of(scores["far"]).min()) == 0.25
    assert bystander is None


def test_divergence_is_that_of_the_normalised_reward():
    rewards = (RewardTerm(part=NEAR, name="near", normalise="zscore", weight=3.0),)
    asked = recipe(arm(Steer(steps=3)), rewards=rewards)
    bases = bases_of(asked)
    result = ended(asked, bases)
    base = bases.models[0].scores["near"].double()
    r = 3 * (base - base.mean()) / base.std()
    expected = 3 * (result.scores["near"].mean() - base.mean()) / base.std()
    assert result.divergence.reward == pytest.approx(float(expected))
    assert result.divergence.at_least == pytest.approx(float(expected - r.exp().mean().log()))
    (kept,) = to_record(asked, [result], bases, {"a": "samples/a"}).unsteered
    assert kept.r == pytest.approx(r.tolist())


def test_renormed_guidance_warns_and_few_base_samples_are_noted():
    asked = recipe(arm(Steer(steps=3, guidance_norm="renorm")), arm(Steer(steps=3), name="b"))
    bases = bases_of(asked)
    first, second = (ended(asked, bases, number) for number in (0, 1))
    assert first.warnings[0].startswith("guidance_norm = 'renorm' keeps the direction")
    assert second.warnings == ()
    for ess, notes in ((FEW, 0), (3.21, 1)):
        found = attrs.evolve(second, divergence=Divergence(reward=0.0, at_least=1.0, ess=ess))
        kept = to_record(asked, [found], bases, {"b": "samples/b"}).notes
        assert len(kept) == notes
    assert kept[0].startswith("* 'KL at least' is too high here, as only about 3 of the 16 ")
    assert kept[0].endswith("run.unsteered = 64 or more measures it better.")
    found = attrs.evolve(second, divergence=Divergence(reward=0.0, at_least=-7.78e4, ess=3.21))
    (kept,) = to_record(asked, [found], bases, {"b": "samples/b"}).notes
    assert kept.startswith(
        "'KL at least' says nothing of b, and is shown as 0: the mean of r is so "
    )


@pytest.mark.parametrize("dynamics", [ODE(), SDE()])
def test_steering_exactly_is_as_far_as_the_closed_form_says(dynamics):
    result = align.sample(
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
    found = result.divergence
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
    with pytest.raises(PartError, match=r"'zscore' .* unsteered samples, but run\.unsteered is 0"):
        align.sample(MODEL, Steer(steps=2), **parts)
    result = align.sample(MODEL, Steer(steps=2), unsteered=8, **parts)
    assert result.divergence.ess is not None
