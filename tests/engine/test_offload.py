"""Offloading: weights are away from the CPU's memory only while a reward scores."""

import attrs
import pytest
import torch
from torch import nn

from align.core.reward import Reward
from align.engine.offload import Offloaded, networks

CPU = torch.device("cpu")


@attrs.frozen(eq=False)
class Judge(Reward):
    """Scores by a network, and notes where its weights are then."""

    net: nn.Module
    seen: list = attrs.field(factory=list)
    fails: bool = False

    def score(self, data, prompts):
        self.seen.append([w.data_ptr() for w in (*self.net.parameters(), *self.net.buffers())])
        if self.fails:
            raise RuntimeError("no score")
        return self.net(data).squeeze(1).tanh()


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    net[2].bias = nn.Parameter(net[0].bias[:1].clone())
    return net.eval().requires_grad_(False)


@pytest.fixture
def data():
    return torch.linspace(-1, 1, 12).reshape(4, 3)


def places(offloaded):
    return [weight.data_ptr() for weight, _ in offloaded.waiting]


def test_weights_move_for_the_call_alone(net, data):
    offloaded = Offloaded.of(Judge(net), CPU)
    home = places(offloaded)
    assert len(home) == len(list(net.parameters())) + len(list(net.buffers()))
    score = offloaded.score(data, [""] * 4)
    (there,) = offloaded.inner.seen
    assert sorted(set(there) & set(home)) == []
    assert places(offloaded) == home
    assert torch.equal(score, Judge(net).score(data, [""] * 4))


def test_weights_come_home_after_an_error(net, data):
    offloaded = Offloaded.of(Judge(net, fails=True), CPU)
    home = places(offloaded)
    with pytest.raises(RuntimeError, match="no score"):
        offloaded.score(data, [""] * 4)
    assert places(offloaded) == home


def test_the_original_keeps_its_weights(net, data):
    before = [(w, w.data_ptr(), w.clone()) for w in (*net.parameters(), *net.buffers())]
    first, second = (Offloaded.of(Judge(net), CPU) for _ in range(2))
    assert all(w.data_ptr() == place and torch.equal(w, old) for w, place, old in before)
    assert not set(places(first)) & set(places(second))
    assert not set(places(first)) & {place for _, place, _ in before}
    assert first.inner.net is not net


def test_the_gradient_is_that_of_the_reward(net, data):
    slopes = []
    for reward in (Judge(net), Offloaded.of(Judge(net), CPU)):
        x = data.clone().requires_grad_()
        score = reward.score(2 * x, [""] * 4)
        weights = torch.arange(1.0, 5)
        slopes.append(torch.autograd.grad((weights * score).sum(), x)[0])
    assert slopes[0].abs().min() > 0
    torch.testing.assert_close(slopes[1], slopes[0])


def test_score_without_a_gradient_stays_without_one(net, data):
    offloaded = Offloaded.of(Judge(net), CPU)
    assert not offloaded.score(data, [""] * 4).requires_grad
    with torch.no_grad():
        assert not offloaded.score(data.clone().requires_grad_(), [""] * 4).requires_grad

    @attrs.frozen(eq=False)
    class Blind(Reward):
        net: nn.Module

        def score(self, data, prompts):
            return self.net(data.detach()).squeeze(1)

    blind = Offloaded.of(Blind(net), CPU)
    assert not blind.score(data.clone().requires_grad_(), [""] * 4).requires_grad


def test_no_weight_is_held_by_the_graph(net, data):
    """What a gradient waits for does not keep the weights where they were used."""
    offloaded = Offloaded.of(Judge(net), CPU)
    score = offloaded.score(data.clone().requires_grad_(), [""] * 4)
    todo, saved = [score.grad_fn], []
    while todo:
        node = todo.pop()
        saved += [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        todo += [after for after, _ in node.next_functions if after is not None]
    held = {t.data_ptr() for t in saved if isinstance(t, torch.Tensor)}
    assert held
    assert not held & set(offloaded.inner.seen[0])


def test_networks_are_found_where_rewards_keep_them(net):
    @attrs.frozen(eq=False)
    class Engine:
        nets: dict

    class Plain(Reward):
        def __init__(self, engine):
            self.engine, self.twice, self.name = engine, [engine], "plain"

        def score(self, data, prompts):
            raise AssertionError

    other = nn.Linear(2, 2)
    assert set(networks(Plain(Engine({"a": net, "b": (other,)})))) == {net, other}
    assert networks(Plain(None)) == ()
