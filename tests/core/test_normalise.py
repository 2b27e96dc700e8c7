"""What is made of scores: against what the words say, and where the gradient goes."""

import math

import pytest
import torch

from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.normalise import Ranked, fitted
from align.core.reward import Term, WeightedReward
from align.core.streams import Streams
from align.engine.guard import GuardedReward
from align.engine.meter import Meter
from align.testing.worlds import line, measured

SCORES = torch.tensor([3.0, -1.0, 2.0, 2.0, 10.0])


def applied(normalise, clip, scores, noisy):
    """f and its slope at some scores."""
    noisy = torch.as_tensor(noisy).clone().requires_grad_()
    found = fitted("a", normalise, clip, scores).of(noisy)
    (slope,) = torch.autograd.grad(found.sum(), noisy)
    return found.detach(), slope


def test_score_is_unchanged_without_normalisation():
    assert fitted("a", "none", None, None) is None


def test_zscore_has_mean_zero_and_deviation_one():
    made, slope = applied("zscore", None, SCORES, SCORES)
    assert float(made.mean()) == pytest.approx(0, abs=1e-6)
    assert float(made.std()) == pytest.approx(1, rel=1e-6)
    assert torch.allclose(slope, 1 / SCORES.std())
    # 16-bit digits of a mean this large would be gone if it were multiplied out.
    far = 1e6 + SCORES.double()
    assert torch.allclose(applied("zscore", None, far, far.float())[0], made, atol=0.02)


def test_rank_is_the_distribution_function():
    made, slope = applied("rank", None, SCORES, [-1.0, 2.0, 3.0, 10.0, 0.5, 6.5])
    # Half of a sample's equals count: 1/10, then two alike at 2/5, 7/10, 9/10.
    expected = [0.1, 0.4, 0.7, 0.9, 0.25, 0.8]
    assert torch.allclose(made, torch.tensor(expected))
    assert torch.allclose(slope[1:], torch.tensor([0.1, 0.3, 0.2 / 7, 0.1, 0.2 / 7]))
    assert float(applied("rank", None, SCORES, SCORES)[0].mean()) == pytest.approx(0.5)


def test_rank_is_constant_outside():
    made, slope = applied("rank", None, SCORES, [-50.0, 11.0, math.inf, -math.inf])
    assert torch.allclose(made, torch.tensor([0.1, 0.9, 0.9, 0.1]))
    assert slope[:2].tolist() == [0, 0]


def test_rank_keeps_the_type_and_never_falls():
    scores = Streams(0, (0,)).normal((200,))[0]
    for kind in (torch.float32, torch.float64):
        noisy = torch.linspace(-4, 4, 1001, dtype=kind)
        made = fitted("a", "rank", None, scores.to(kind)).of(noisy)
        assert made.dtype == kind
        assert (made.diff() >= 0).all()
        # Uniform on the base model: the empirical law is within 1/sqrt(200) or so of the normal.
        assert (made - torch.special.ndtr(noisy)).abs().max() < 0.1


def test_clip_holds_the_normalised_score():
    made, slope = applied("zscore", (-0.5, 1.0), SCORES, SCORES)
    standard = (SCORES - SCORES.mean()) / SCORES.std()
    assert torch.equal(made, standard.clamp(-0.5, 1.0))
    assert (slope == 0).tolist() == [False, True, False, False, True]
    raw, _ = applied("none", (0.0, math.inf), None, SCORES)
    assert torch.equal(raw, SCORES.clamp(min=0))


@pytest.mark.parametrize("normalise", ["zscore", "rank"])
def test_constant_or_too_few_scores_cannot_be_normalised(normalise):
    with pytest.raises(PartError, match=rf"reward 'a' cannot .* '{normalise}': all 3 .* score 0.5"):
        fitted("a", normalise, None, torch.full((3,), 0.5))
    for scores in (None, SCORES[:1]):
        with pytest.raises(PartError, match=f"'a': '{normalise}' needs the scores of at least 2"):
            fitted("a", normalise, None, scores)


def test_r_is_the_same_from_data_and_from_scores():
    one, two = (measured(((1.0,),), (y,), 0.5).terms[0].reward for y in (0.0, 2.0))
    scores = torch.tensor([-8.0, -2.0, -1.0, -0.5])
    terms = (
        Term(name="a", reward=one, weight=2.0, transform=fitted("a", "rank", None, scores)),
        Term(name="b", reward=two, weight=-1.0),
        Term(name="c", reward=two, held_out=True),
    )
    reward, data = WeightedReward(terms), torch.linspace(-2, 3, 9, dtype=torch.float64)[:, None]
    each = reward.each(data, data, [""] * 9)
    assert torch.equal(each["a"], one.score(data, ()))  # as it is
    expected = 2 * terms[0].transform.of(each["a"]) - each["b"]
    assert torch.equal(reward.total(data, [""] * 9), expected)
    assert torch.equal(reward.of(each), expected)
    nothing = WeightedReward(terms[2:])
    assert torch.equal(nothing.of({"c": each["c"]}), torch.zeros_like(expected))


def test_a_normalised_quadratic_reward_is_known_exactly():
    model, reward = line()
    (term,) = reward.terms
    guarded = GuardedReward(term.reward, "r", Meter(), 99)
    draws = model.prior.draw(Streams(0, tuple(range(5000))), 1)[0]
    scores = term.reward.score(draws, ())
    found = fitted("r", "zscore", None, scores)
    normalised = Term(name="r", reward=guarded, weight=0.7, transform=found)
    reward = WeightedReward((normalised,))
    data = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    by_hand = 0.7 * (term.reward.score(data, ()) - scores.mean()) / scores.std()
    assert torch.allclose(reward.total(data, ()), by_hand)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    value = model.value(NoisyState(zero, zero[:, 0], model.encode([""])), reward)
    r = 0.7 * (scores - scores.mean()) / scores.std()
    weights = r.exp()
    error = float(weights.std() / weights.mean()) / math.sqrt(5000)
    assert float(value) == pytest.approx(float(weights.mean().log()), abs=4 * error)


def test_a_ranked_reward_is_no_longer_quadratic():
    model, reward = line()
    ranked = Term(
        name="r", reward=reward.terms[0].reward, transform=fitted("r", "rank", None, SCORES)
    )
    zero = torch.zeros(1, 1, dtype=torch.float64)
    noisy = NoisyState(zero, zero[:, 0], model.encode([""]))
    with pytest.raises(PartError, match="and 'r' with its clip or ranks is not one"):
        model.value(noisy, WeightedReward((ranked,)))


def test_ranks_of_a_million_scores_are_those_of_double_precision():
    count = 1_000_003
    ranked = Ranked.among(torch.arange(count).double())
    exact = (torch.arange(count).double() + 0.5) / count
    assert float((ranked.shares - exact).abs().max()) < 1e-15
    score = torch.tensor([900_000.25], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ranked.of(score).sum(), score)
    assert float(slope) * count == pytest.approx(1, rel=1e-9)
