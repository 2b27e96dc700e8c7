"""What a run loads: equal rewards once, and offloaded where that is asked."""

from typing import ClassVar

import attrs
import pytest
import torch
from torch import nn

from align.core.errors import PartError, PromptError
from align.core.model import ModelSpec
from align.core.reward import Reward, RewardSpec
from align.engine.guard import GuardedReward
from align.engine.memory import DeviceMemory
from align.engine.offload import Offloaded
from align.models.mixture import Mixture
from align.modes.sampling.best_of_n import BestOfN
from align.recipe import Arm, RewardTerm, Run
from align.rewards.linear import Likelihood
from align.runner.build import Rewards, build

CPU = torch.device("cpu")
BUILT = []  # what Counted has built; emptied before every test


@attrs.frozen(kw_only=True)
class Counted(RewardSpec):
    """A network whose loading is counted."""

    kind: ClassVar[str] = "counted"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[str | None] = "vector"
    range: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))
    label: str = "a"

    def build(self, device):
        BUILT.append((self.label, device.type))
        # No memory, and no device is needed for a network without weights.
        return Scored(nn.Identity())


@attrs.frozen(eq=False)
class Scored(Reward):
    net: nn.Module

    def score(self, data, prompts):
        return self.net(data).sum(1)


@attrs.frozen(kw_only=True)
class Prompted(ModelSpec):
    """A Gaussian with a prompt, which it refuses."""

    kind: ClassVar[str] = "prompted"
    domain: ClassVar[str] = "vector"
    provides: ClassVar[frozenset[type]] = frozenset()
    prompt: str = ""

    def build(self, device):
        return Mixture(weights=(1.0,), means=((0.0,),), stds=(1.0,)).build(device)


@pytest.fixture(autouse=True)
def built():
    BUILT.clear()
    return BUILT


def arm(name="a", prompt=""):
    model = Prompted(prompt=prompt)
    return Arm(name=name, model=model, sampler=None, estimator=None, mode=BestOfN())


def inner(problem):
    assert all(isinstance(term.reward, GuardedReward) for term in problem.reward.terms)
    return [term.reward.inner for term in problem.reward.terms]


@attrs.frozen(kw_only=True)
class Drawn(Prompted):
    """The same, as if it made pictures."""

    domain: ClassVar[str] = "image"

    def build(self, device):
        model = super().build(device)
        model.domain = "image"
        return model


def test_rows_at_once_have_a_cap_that_memory_does_not_change(monkeypatch):
    def caps(model, **run):
        return build(attrs.evolve(arm(), model=model), Rewards((), CPU), Run(**run)).problem.chunks

    vectors, pictures = Prompted(), Drawn()
    for free in (1e12, 0.0):
        monkeypatch.setattr(DeviceMemory, "free", lambda self, free=free: free)
        assert [caps(vectors).cap, caps(pictures).cap] == [1 << 20, 64]
        assert [caps(vectors, chunk=5).cap, caps(pictures, chunk=500).cap] == [5, 500]
    found = build(attrs.evolve(arm(), model=pictures), Rewards((), CPU), Run())
    assert found.problem.chunks is found.problem.model.chunks


def term(part, name, **options):
    return RewardTerm(part=part, name=name, **options)


def test_equal_rewards_are_loaded_once_for_all_arms(built):
    terms = [
        term(Counted(), "one", weight=2.0),
        term(Counted(label="b"), "other"),
        term(Counted(label="a"), "again", held_out=True),
    ]
    rewards = Rewards(terms, CPU)
    assert built == []
    problems = [build(arm(name), rewards, Run(samples=2)).problem for name in "ab"]
    assert built == [("a", "cpu"), ("b", "cpu")]
    first, second = map(inner, problems)
    assert first[0] is first[2] is second[0]
    assert first[1] is second[1] is not first[0]
    named = [(t.name, t.weight, t.held_out) for t in problems[1].reward.terms]
    assert named == [("one", 2.0, False), ("other", 1.0, False), ("again", 1.0, True)]
    # Calls are counted under each term's own name.
    scores = problems[0].reward.each(torch.ones(3, 1), torch.ones(3, 1), [""] * 3)
    assert scores["one"].equal(scores["again"])
    meter = problems[0].reward.terms[0].reward.meter
    assert meter.rewards.calls == {"one": 3, "other": 3, "again": 3}


def test_another_run_loads_anew(built):
    for _ in range(2):
        build(arm(), Rewards([term(Counted(), "one")], CPU), Run(samples=2))
    assert len(built) == 2


def test_a_prompt_is_refused_before_rewards_are_loaded(built):
    rewards = Rewards([term(Counted(), "one")], CPU)
    with pytest.raises(PromptError):
        build(arm(prompt="a cat"), rewards, Run(samples=2))
    assert built == []


def test_offloading(built):
    terms = [term(Counted(), "waits", offload=True), term(Counted(), "stays")]
    # The meta device stands for a GPU: nothing is computed on it here.
    waits, stays = Rewards(terms, torch.device("meta")).loaded()
    assert isinstance(waits, Offloaded)
    assert isinstance(waits.inner, Scored)
    assert waits.device.type == "meta"
    assert isinstance(stays, Scored)
    assert len(built) == 2
    for same in (Rewards(terms[:1], CPU).loaded()[0], stays):
        assert isinstance(same, Scored)


def test_offloading_needs_networks():
    part = Likelihood(matrix=((1.0,),), observed=(1.0,), std=1.0)
    with pytest.raises(PartError) as caught:
        Rewards([term(part, "line", offload=True)], CPU).loaded()
    said = "reward 'line' holds no networks that could wait on the CPU; take 'offload' out"
    assert str(caught.value) == said
