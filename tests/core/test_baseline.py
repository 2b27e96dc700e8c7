"""The yardstick, against closed forms."""

import itertools
import math

import attrs
import pytest
import torch

from align.core.baseline import BaseRewardStats, Divergence, deviation
from align.core.model import NoisyState
from align.core.streams import Streams
from align.testing.worlds import line, plane


def normal(count, seed=0):
    return Streams(seed, tuple(range(count))).normal(())


def exact(world):
    """V_0 in closed form."""
    model, reward = world
    zero = torch.zeros(1, *model.shape, dtype=torch.float64)
    return float(model.value(NoisyState(zero, zero[:, 0], model.encode([""])), reward))


def drawn(world, count, *, tilted):
    """r of exact draws from p* or p."""
    model, reward = world
    streams = Streams(3, tuple(range(count)))
    data = model.draw_tilted(reward, streams) if tilted else model.draw(streams)
    return reward.total(data, [""] * count)


@pytest.mark.parametrize("world", [line(), plane()], ids=["line", "plane"])
def test_the_divergence_of_the_tilted_law(world):
    r = drawn(world, 20_000, tilted=True)
    kl = float(r.mean()) - exact(world)  # KL(p* | p) = E*[r] − V_0
    baseline = BaseRewardStats(drawn(world, 2000, tilted=False))
    assert baseline.value == pytest.approx(exact(world), abs=3 * baseline.error)
    found = Divergence.of(r[:500], baseline, None)
    assert found.at_least == pytest.approx(kl, abs=3 * found.at_least_error)
    assert found.at_least_error < 0.15
    assert found.reward == pytest.approx(float(r.mean()), abs=3 * found.reward_error)
    assert (found.ess, found.at_most) == (baseline.ess, None)


@pytest.mark.parametrize("shift", [0.3, -0.7])
def test_another_law_falls_short_by_its_distance_from_the_tilted_one(shift):
    # r = x on N(0, 1): p* = N(1, 1), V_0 = ½; q = N(1 + s, 1) has KL(q|p) − KL(q|p*) = ½ + s.
    baseline = BaseRewardStats(normal(200_000))
    found = Divergence.of(normal(200_000, 1) + 1 + shift, baseline, None)
    assert found.at_least == pytest.approx(0.5 + shift, abs=4 * found.at_least_error)
    kl = (1 + shift) ** 2 / 2
    assert kl - shift**2 / 2 == pytest.approx(0.5 + shift)
    assert found.at_least < kl


def test_standard_errors_are_what_repetitions_have():
    world, values, apart = line(), [], []
    base, tilted = (drawn(world, 64 * 200, tilted=one).view(200, 64) for one in (False, True))
    for p, q in zip(base, tilted, strict=True):
        found = Divergence.of(q[:8], BaseRewardStats(p), None)
        values.append((BaseRewardStats(p).value, BaseRewardStats(p).error))
        apart.append((found.at_least, found.at_least_error))
    for pairs in (values, apart):
        seen, said = torch.tensor(pairs).T
        assert float(said.mean()) == pytest.approx(float(seen.std()), rel=0.2)
    # Jensen: too low on average, by half its squared error.
    seen, said = torch.tensor(values).T
    bias = float(seen.mean()) - exact(world)
    assert bias == pytest.approx(-float(said.square().mean()) / 2, abs=float(seen.std()) / 4)


def test_effective_size():
    assert BaseRewardStats(torch.zeros(7)).ess == pytest.approx(7)
    assert BaseRewardStats(torch.tensor([0.0, 0.0, -1000.0])).ess == pytest.approx(2)
    assert BaseRewardStats(torch.zeros(7)).error == pytest.approx(0, abs=1e-7)
    assert BaseRewardStats(torch.zeros(1)).error == math.inf
    assert BaseRewardStats(torch.tensor([1000.0, 1000.0])).value == pytest.approx(1000)


def test_the_tilted_family_of_a_normal_reward():
    # r = x on N(0, 1): mean λ at KL λ²/2.
    family = BaseRewardStats(normal(20_000)).tilted()
    assert family[0] == pytest.approx((0, float(normal(20_000).mean()), 0), abs=1e-9)
    assert [tilt for tilt, *_ in family] == sorted(tilt for tilt, *_ in family)
    near = [(mean, kl) for tilt, mean, kl in family if tilt < 1.5]
    assert len(near) > 5
    for mean, kl in near:
        assert kl == pytest.approx(mean**2 / 2, abs=0.05)
    tilt = family[-1][0]
    weights = torch.softmax(tilt * normal(20_000), 0)
    assert float(1 / weights.square().sum()) == pytest.approx(5, rel=0.01)


def test_the_family_is_no_longer_than_its_samples_allow():
    assert BaseRewardStats(normal(4)).tilted() == []
    assert BaseRewardStats(torch.zeros(100)).tilted() == []
    assert BaseRewardStats(torch.zeros(1)).tilted() == []
    half = BaseRewardStats(torch.tensor([0.0, 1.0]).repeat(50)).tilted()
    assert half[-1][1:] == pytest.approx((1, math.log(2)))


def test_unsteered_samples_and_single_ones():
    r = torch.tensor([-3.0, -1.0])
    same = Divergence.of(r, BaseRewardStats(normal(9)), 0.0)
    assert (same.at_least, same.at_least_error, same.at_most, same.ess) == (0, 0, 0, None)
    assert (same.reward, same.reward_error) == (-2, pytest.approx(1))
    alone = Divergence.of(r[:1], BaseRewardStats(normal(9)), 0.5)
    assert (alone.reward_error, alone.at_least_error, alone.at_most) == (None, None, 0.5)
    unknown = Divergence.of(r, None, None)
    assert attrs.asdict(unknown) == attrs.asdict(same) | {
        "at_least": None,
        "at_least_error": None,
        "at_most": None,
    }


def test_a_reward_that_is_the_same_everywhere_moves_nothing():
    for value in (0.1, 1.5, -3e5):
        gain = Divergence.of(
            torch.full((4,), value), BaseRewardStats(torch.full((32,), value)), None
        )
        assert (gain.at_least, gain.says_nothing) == (0, False)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e160, 1e300])
def test_deviation_of_numbers_whose_squares_no_float_holds(size):
    numbers = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    assert deviation(size * numbers) == pytest.approx(size * math.sqrt(7 / 3), rel=1e-14)
    assert deviation(0 * numbers) == 0


def test_the_best_of_n_is_the_mean_over_all_choices():
    r = torch.tensor([0.3, -1.0, 2.0, 0.7, 0.1, 5.0, -2.0, 1.1, 0.9], dtype=torch.float64)

    def best(values, n):
        chosen = list(itertools.combinations(values, n))
        return sum(map(max, chosen)) / len(chosen)

    found = BaseRewardStats(r).best_of()
    assert [n for n, *_ in found] == [1, 2, 4]
    for n, mean, error in found:
        assert mean == pytest.approx(best(r.tolist(), n), rel=1e-9)
        left = [best([*r[:k].tolist(), *r[k + 1 :].tolist()], n) for k in range(len(r))]
        spread = torch.tensor(left, dtype=torch.float64).var(correction=0)
        assert error == pytest.approx(math.sqrt((len(r) - 1) * spread), rel=1e-9)
    assert BaseRewardStats(r[:1]).best_of() == []


@pytest.mark.parametrize("mean", [1.0, 0.4, -0.7])
def test_bound_of_a_shifted_normal_is_its_divergence(mean):
    # r = x on N(0, 1): of all laws with this mean, N(mean, 1) is the nearest.
    baseline = BaseRewardStats(normal(50_000))
    bound, tilt, _ = baseline.bound(mean)
    assert (bound, tilt) == (pytest.approx(mean**2 / 2, abs=0.03), pytest.approx(mean, abs=0.03))
    found = Divergence.elsewhere(normal(2000, 1) + mean, baseline, "first", compared=normal(9))
    assert found.at_least == pytest.approx(mean**2 / 2, abs=4 * found.at_least_error)
    assert (found.base, found.at_most) == ("first", None)


def test_bound_goes_no_further_than_samples_tell():
    baseline = BaseRewardStats(normal(64))
    near, far = (baseline.bound(mean) for mean in (6.0, 12.0))
    assert near[1] == far[1] and near[2] == far[2] == pytest.approx(10, abs=0.1)
    assert BaseRewardStats(torch.zeros(64)).bound(3.0)[:2] == (0.0, 0.0)
    assert BaseRewardStats(normal(8)).bound(3.0)[0] == 0.0
