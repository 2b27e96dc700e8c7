"""An isolated reward is the reward itself: the same bits, gradient included."""

import gc

import pytest
import torch
from PIL import Image

from align.catalog.convert import read_part
from align.catalog.registry import load_catalog
from align.core.chunks import Chunks
from align.core.errors import PartError, PromptError
from align.core.prompts import ReadsPrompts
from align.core.reward import HasReferenceImages, Quadratic
from align.core.streams import Streams
from align.engine.guard import GuardedReward
from align.engine.meter import Meter
from align.isolation.asked import _UNKNOWN
from align.isolation.protocol import PROMISES
from align.isolation.reward import Isolated
from align.rewards.linear import Likelihood
from align.rewards.python import Python

CPU = torch.device("cpu")
CONVOLVED = """\
import torch
import torch.nn.functional as F

kernel = torch.linspace(-1, 1, 3 * 8 * 25).sin().reshape(8, 3, 5, 5)

def score(data, prompts):
    if len(data) > 9:
        raise MemoryError("too many at once")
    weights = torch.tensor([float(len(prompt)) for prompt in prompts])
    return F.conv2d(data, kernel.to(data)).tanh().flatten(1).logsumexp(1) * weights
"""
LINEAR = {"kind": "likelihood", "matrix": [[1.0, 2.0]], "observed": [0.3], "std": 0.7}


@pytest.fixture(scope="module")
def convolved(own, tmp_path_factory):
    """A reward with convolutions, here and isolated."""
    path = tmp_path_factory.mktemp("convolved") / "convolved.py"
    path.write_text(CONVOLVED)
    part = Isolated(venv=own, timeout=100.0, reward={"kind": "python", "file": str(path)})
    yield Python(file=str(path)).build(CPU), part.build(CPU), part
    part.close()


@pytest.fixture(scope="module")
def linear(own):
    """A built-in reward of vectors, isolated."""
    part = Isolated(venv=own, timeout=100.0, reward=LINEAR)
    yield part
    part.close()


def pictures(rows=6, seed=0):
    return Streams(seed, tuple(range(rows))).uniform((3, 32, 32)).float()


def both(reward, data, prompts, weights):
    """Score and vector-Jacobian product, through what comes before the data."""
    x = data.clone().requires_grad_()
    score = reward.score(x.square(), prompts)
    return score.detach(), torch.autograd.grad((score * weights).sum(), x)[0]


def prompts_of(data):
    return ["x" * (i + 1) for i in range(len(data))]


def test_a_built_in_reward_has_the_same_bits(own, linear):
    spec, part = Likelihood(matrix=((1.0, 2.0),), observed=(0.3,), std=0.7), linear
    assert part.kind == "isolated" and part.reward == LINEAR
    for name in PROMISES:
        assert getattr(part, name) == getattr(spec, name), name
    assert part.origins()[f"likelihood of '{own}'"].startswith("align-core ")
    for dtype in (torch.float64, torch.float32):
        data = Streams(3, tuple(range(9))).normal((2,)).to(dtype)
        weights = torch.linspace(-1, 2, 9, dtype=dtype)
        here, there = (both(p.build(CPU), data, [""] * 9, weights) for p in (spec, part))
        for one, other in zip(here, there, strict=True):
            assert one.dtype == other.dtype == dtype and torch.equal(one, other)


def test_pictures_have_the_same_bits_in_any_chunks(convolved):
    data = pictures()
    for chunk in (2, 6):
        guarded = (GuardedReward(r, "it", Meter(), chunk) for r in convolved[:2])
        here, there = (both(r, data, prompts_of(data), torch.linspace(-1, 2, 6)) for r in guarded)
        assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))
        assert here[1].any()


def test_pictures_that_memory_is_too_small_for_there_are_halved(convolved):
    here, there, _ = convolved
    data, chunks = pictures(20), Chunks(20)
    with torch.no_grad():
        score = GuardedReward(there, "it", Meter(), chunks).score(data, prompts_of(data))
        whole = GuardedReward(here, "it", Meter(), 5).score(data, prompts_of(data))
    assert torch.equal(score, whole)
    assert chunks.rows == {"reward 'it'": 5}


def test_threads_are_as_many_as_here(convolved):
    threads = torch.get_num_threads()
    data = pictures(rows=2)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            here, there = convolved[0], convolved[2].build(CPU)
            found = [both(r, data, prompts_of(data), torch.ones(2)) for r in (here, there)]
            assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_many_graphs_at_once_in_any_order(convolved):
    asked = [pictures(rows=2, seed=seed).requires_grad_() for seed in range(3)]
    scores = [convolved[1].score(x, prompts_of(x)) for x in asked]
    for x, score in reversed(list(zip(asked, scores, strict=True))):
        other = x.detach().requires_grad_()
        wanted = torch.autograd.grad(convolved[0].score(other, prompts_of(x)).sum(), other)[0]
        assert torch.equal(torch.autograd.grad(score.sum(), x, retain_graph=True)[0], wanted)
        # The process has dropped the graph by now, and makes it again.
        assert torch.equal(torch.autograd.grad(score.sum(), x)[0], wanted)


def test_a_death_on_the_way_back_costs_no_gradient(convolved):
    data = pictures(rows=2)
    x = data.clone().requires_grad_()
    score = convolved[1].score(x, prompts_of(x))
    convolved[2]._transport._process.kill()
    (found,) = torch.autograd.grad(score.sum(), x)
    other = data.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(convolved[0].score(other, prompts_of(x)).sum(), other)
    assert torch.equal(found, wanted)


def test_graphs_that_nobody_can_ask_for_are_dropped(convolved):
    reward = convolved[1]
    reward.score(pictures(), prompts_of(pictures()))
    assert not reward.graphs.dropped
    x = pictures(rows=2).requires_grad_()
    score = reward.score(x, prompts_of(x))
    kept = next(reward.graphs.numbers) - 1
    assert kept not in reward.graphs.dropped
    del score
    gc.collect()
    assert list(reward.graphs.dropped) == [kept]
    reward.score(pictures(rows=1), ["x"])
    assert not reward.graphs.dropped


def test_score_has_no_graph_unless_a_gradient_is_wanted(own, convolved, obedient_file):
    x = pictures(rows=2).requires_grad_()
    with torch.no_grad():
        assert not convolved[1].score(x, prompts_of(x)).requires_grad
    assert not convolved[1].score(x.detach(), prompts_of(x)).requires_grad
    table = {"kind": "python", "file": obedient_file, "differentiable": False}
    part = Isolated(venv=own, timeout=100.0, reward=table)
    assert not part.differentiable
    assert not part.build(CPU).score(x, prompts_of(x)).requires_grad


def test_no_rows_and_one_row(convolved):
    for rows in (0, 1):
        data = pictures(rows=1)[:rows]
        here, there = (both(r, data, prompts_of(data), torch.ones(rows)) for r in convolved[:2])
        assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


def test_a_second_derivative_is_refused(convolved):
    x = pictures(rows=1).requires_grad_()
    score = convolved[1].score(x, ["x"])
    with pytest.raises(PartError, match="has no second derivative, being elsewhere"):
        torch.autograd.grad(score.sum(), x, create_graph=True)


def test_reward_is_built_once_for_a_device(convolved):
    first = convolved[2]._transport._process.pid
    again = convolved[2].build(CPU)
    x, y = (pictures(rows=1, seed=seed).requires_grad_() for seed in (1, 2))
    one, other = convolved[1].score(x, ["x"]), again.score(y, ["x"])
    for data, score in ((x, one), (y, other)):  # two rewards, and no number of a graph twice
        wanted = both(convolved[0], data.detach().sqrt(), ["x"], torch.ones(1))[1]
        found = torch.autograd.grad(score.sum(), data)[0]
        assert torch.allclose(found * 2 * data.detach().sqrt(), wanted, rtol=1e-4)
    assert convolved[2]._transport._process.pid == first


def test_quadratic_form_crosses(linear):
    spec = Likelihood(matrix=((1.0, 2.0),), observed=(0.3,), std=0.7)
    reward = linear.build(CPU)
    form = reward.capability(Quadratic)
    assert reward.capability(HasReferenceImages) is None
    for here, there in zip(spec.build(CPU).quadratic(), form.quadratic(), strict=True):
        assert torch.equal(here, there)


def test_reference_images_and_the_package_s_own_scores_cross(own, tmp_path):
    picture = torch.arange(3 * 8 * 8).reshape(8, 8, 3).byte()
    Image.fromarray(picture.numpy()).save(tmp_path / "known.png")
    file = str(tmp_path / "known.png")
    table = {
        "kind": "measurement",
        "picture": file,
        "std": 0.1,
        "operator": {"kind": "downsample", "factor": 2},
    }
    spec = read_part("reward", table, load_catalog([]))
    part = Isolated(venv=own, timeout=100.0, reward=table)
    reward, here = part.build(CPU), spec.build(CPU).pictures()
    assert reward.capability(Quadratic) is None
    there = reward.capability(HasReferenceImages).pictures()
    assert list(here) == list(there) and all(torch.equal(here[n], there[n]) for n in here)
    with pytest.raises(ImportError, match="stands in for no package"):
        part.judged([Image.open(file)], ["a cat"])
    part.close()


def test_prompts_are_judged_as_the_inner_reward_judges_them(other, linear):
    part = Isolated(venv=other, timeout=100.0, reward={"kind": "elsewhere"})
    try:
        part.check_prompt("a cat")
        with pytest.raises(PromptError, match=r"^elsewhere answers no questions$"):
            part.check_prompt("a cat?")
        reads = part.build(CPU).capability(ReadsPrompts)
        assert [reads.left_out(prompt) for prompt in ("a cat", "a cat " * 9)] == ["", "is long"]
        linear.check_prompt("a cat?")
        assert linear.build(CPU).capability(ReadsPrompts) is None
    finally:
        part.close()


def test_promises_that_nobody_knows_yet_are_all_there():
    assert _UNKNOWN.keys() == set(PROMISES)
