"""Rewards that compare samples: what uses them, what refuses them, and that groups stay whole."""

import attrs
import pytest
import torch

import align
from align import BestOfN, ComparingReward, PartError, RewardSpec, Search, Steer, Stein
from align.core.chunks import Chunks
from align.core.reward import Compares, Term, WeightedReward
from align.engine.guard import GuardedReward
from align.engine.meter import Meter
from align.isolation.answers import Answerer, LoadedSpec
from align.isolation.asked import _AskedReward, _Graphs
from align.isolation.protocol import Message
from align.testing import conformance

MIXTURE = {"kind": "mixture", "means": [[0.0, 0.0]], "weights": [1.0], "stds": [1.0]}
STEPS = {"sampler": "gaussian", "samples": 3}


class Higher(ComparingReward):
    """How many members of the group have a lower first number, less how many have a higher one."""

    def __init__(self):
        self.groups = []

    def compare(self, data, prompts):
        self.groups.append(tuple(data.shape[:2]))
        first = data[..., 0] if data.dim() == 3 else data.flatten(2)[..., 0]
        return (first[:, None] > first).float().sum(1) - (first[:, None] < first).float().sum(1)


@attrs.frozen(kw_only=True)
class HigherSpec(RewardSpec):
    """Builds it."""

    kind = "higher"
    differentiable = False
    domain = None
    range = (-float("inf"), float("inf"))
    compares = True

    def build(self, device):
        return Higher()


test_conformance = conformance("reward", HigherSpec())


def firsts(mode, **options):
    judge = Higher()
    result = align.sample(MIXTURE, mode, rewards=judge, **STEPS | options)
    return result, judge


def test_best_of_n_keeps_the_best_of_all_candidates_though_batches_are_compared_apart():
    one, _ = firsts(BestOfN(n=1, flow_steps=2))
    whole, judge = firsts(BestOfN(n=6, flow_steps=2))
    assert judge.groups == [(6, 3)]
    score = align.sample(
        MIXTURE, BestOfN(n=6, flow_steps=2), rewards=lambda data: data[:, 0], **STEPS
    )
    assert torch.equal(whole.x1, score.x1)
    assert (whole.x1[:, 0] >= one.x1[:, 0]).all()
    assert whole.scores == {}
    assert whole.cost.reward_calls == {"reward": 3 * 6 * 5}


def test_best_of_n_in_small_batches_is_that_of_a_large_one():
    reward = WeightedReward((Term(name="a", reward=Higher(), compares=True),))
    mode, streams = BestOfN(n=5, flow_steps=1), align.Streams(0, (0, 1))
    options = {name: value for name, value in MIXTURE.items() if name != "kind"}
    model = align.Mixture(**options).build(torch.device("cpu"))
    ends = []
    for cap in (2, 6, 100):
        problem = align.Problem(model, reward, cond=model.encode([""] * 2), chunks=cap)
        state = mode.init(problem, streams)
        for index in range(mode.steps):
            state, _ = mode.step(problem, state, index, streams)
        ends.append(mode.finish(problem, state))
    assert torch.equal(ends[0], ends[2]) and torch.equal(ends[1], ends[2])


@pytest.mark.parametrize("estimator", [Search(draws=4), Stein(draws=4)], ids=["search", "stein"])
def test_draws_of_a_sample_are_compared_with_one_another(estimator):
    plain, _ = firsts(BestOfN(n=1, flow_steps=6), samples=8)
    steered, judge = firsts(Steer(steps=6), estimator=estimator, samples=8)
    assert set(judge.groups) == {(4, 8)}
    assert steered.x1[:, 0].mean() > plain.x1[:, 0].mean() + 0.3


def test_particles_of_a_sample_are_compared_with_one_another():
    mode = Steer(steps=3, particles=2, resample="best", dynamics=align.DDIM())
    _, judge = firsts(mode, estimator=Search(draws=3))
    # Draws of both particles together; at the end the particles themselves.
    assert set(judge.groups) == {(6, 3), (2, 3)}


def test_all_ways_of_a_sample_are_compared_with_one_another():
    mode = align.PathSearch(survivors=2, ways=3, onward=2, back=1, flow_steps=6)
    compared, judge = firsts(mode)
    assert judge.groups == [(2, 3), (6, 3), (6, 3)]
    scored = align.sample(MIXTURE, mode, rewards=lambda data: data[:, 0], **STEPS)
    assert torch.equal(compared.x1, scored.x1)


@pytest.mark.parametrize(
    ("mode", "options", "said"),
    [
        (BestOfN(n=2, pool="shared"), {}, 'pool = "shared" needs such scores'),
        (Steer(steps=2), {"estimator": Search(draws="auto")}, "draws = 'auto' needs such scores"),
        ("value_correlation", {"sampler": "gaussian"}, "'value_correlation' needs one of every"),
        (
            BestOfN(n=2),
            {"rewards": {"kind": "higher", "held_out": True}},
            "what is held out scores each",
        ),
    ],
)
def test_where_a_score_of_one_sample_is_needed_it_is_refused(mode, options, said, monkeypatch):
    rewards = options.get("rewards")
    given = Higher() if rewards is None else align.RewardTerm(part=HigherSpec(), held_out=True)
    with pytest.raises(PartError, match=r"compares samples, and has no score of one alone") as told:
        align.sample(MIXTURE, mode, **{"samples": 2, **options, "rewards": given})
    assert said in str(told.value)


def test_guard_cuts_between_groups_and_counts_comparisons():
    inner, meter = Higher(), Meter()
    guard = GuardedReward(inner, "judge", meter, Chunks(6)).capability(Compares)
    data = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    scores = guard.compare(data, [""] * 5)
    assert inner.groups == [(3, 2), (3, 2), (3, 1)]
    assert torch.equal(scores, Higher().compare(data, [""] * 5))
    assert meter.rewards.calls == {"judge": 5 * 3 * 2}


def test_scores_of_another_shape_are_told():
    class Odd(Higher):
        def compare(self, data, prompts):
            return data.new_zeros(2)

    guard = GuardedReward(Odd(), "judge", Meter(), Chunks()).capability(Compares)
    with pytest.raises(align.ContractError, match=r"'judge': score returned .*expected \(3, 5\)"):
        guard.compare(torch.zeros(3, 5, 2), [""] * 5)


def test_comparisons_cross_to_a_reward_that_is_elsewhere():
    answerer = Answerer(lambda table: LoadedSpec(HigherSpec(), table, "here"))

    class Direct:
        who = "judge"

        def ask(self, request, repeat=False):
            return answerer.answer(request)

    answerer.answer(Message("read", payload={"table": {}}))
    built = answerer.answer(Message("build", payload={"device": "cpu", "threads": 1}))
    names = frozenset(built.payload["capabilities"])
    there = _AskedReward(Direct(), False, _Graphs(), names).capability(Compares)
    data = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(there.compare(data, ["", ""]), Higher().compare(data, ["", ""]))
    assert there.calls(4) == 12
