"""The guard: counts, chunks, and refuses what breaks a contract."""

import math
from pathlib import Path

import attrs
import pytest
import torch

from align.core.chunks import Chunks
from align.core.errors import ContractError, DivergedError, OutOfMemoryError, PartError
from align.core.estimator import ClosedForm
from align.core.model import (
    Condition,
    DataSampler,
    FlowMap,
    FlowModel,
    NoisyState,
    PosteriorMap,
    ToData,
)
from align.core.path import LinearPath
from align.core.reward import HasReferenceImages, Quadratic, Reward
from align.engine.guard import GuardedModel, GuardedReward, guarded, replaced
from align.engine.memory import DeviceMemory
from align.engine.meter import Meter
from align.models.mixture import GaussianMixture
from align.testing.worlds import line

ROWS = 7


@attrs.frozen(eq=False)
class Toy(FlowModel, FlowMap, PosteriorMap):
    """Sums and products alone: they are rounded alike in any batch."""

    domain: str = "vector"
    spoil: object = None  # applied to whatever is returned
    shape = (3,)
    path = LinearPath()
    dtype = torch.float64
    device = torch.device("cpu")

    def encode(self, prompts):
        return Condition(tuple(prompts), {"label": torch.arange(len(prompts))})

    def _out(self, value):
        return self.spoil(value) if self.spoil else value

    def velocity(self, x, t, cond):
        return self._out(x * t[:, None] + cond.tensors["label"][:, None] / 3)

    def jump(self, x, s, u, cond):
        return self._out(x * (u - s)[:, None] - cond.tensors["label"][:, None] / 7)

    def posterior_jump(self, y, s, u, noisy):
        return self._out(y * (u - s)[:, None] + noisy.x * noisy.t[:, None])

    def decode(self, x1):
        data = x1[..., None, None].expand(-1, -1, 2, 2) if self.domain == "image" else x1
        return self._out(data / 3)


@attrs.frozen(eq=False)
class Toll(Reward):
    spoil: object = None

    def score(self, data, prompts):
        score = data.sum(1) + torch.tensor([float(len(p)) for p in prompts])
        return self.spoil(score) if self.spoil else score


class Plain(FlowModel):
    """Has a velocity and nothing else."""

    shape, path, domain, dtype, device = (3,), LinearPath(), "vector", torch.float64, "cpu"

    def encode(self, prompts):
        return Condition(tuple(prompts))

    velocity = decode = encode


@pytest.fixture
def inputs():
    x = torch.linspace(-2, 3, ROWS * 3, dtype=torch.float64).reshape(ROWS, 3)
    s = torch.linspace(0.1, 0.4, ROWS, dtype=torch.float64)
    cond = Condition(("", "a", "bb", "", "c", "dd", "e"), {"label": torch.arange(ROWS)})
    return x, s, s + 0.3, cond


def calls(model, inputs):
    x, s, u, cond = inputs
    return {
        "velocity": lambda: model.velocity(x, s, cond),
        "jump": lambda: model.capability(FlowMap).jump(x, s, u, cond),
        "posterior_jump": lambda: model.capability(PosteriorMap).posterior_jump(
            x + 1, s, u, NoisyState(x, s, cond)
        ),
        "decode": lambda: model.decode(x),
    }


METHODS = ("velocity", "jump", "posterior_jump", "decode")


@pytest.mark.parametrize("what", METHODS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_chunks_change_nothing_and_rows_are_counted(what, chunk, inputs):
    meter = Meter()
    whole = calls(Toy(), inputs)[what]()
    cut = calls(GuardedModel(Toy(), "toy", meter, chunk), inputs)[what]()
    assert torch.equal(whole, cut)
    part = "decoder" if what == "decode" else "network"
    assert meter.calls == {part: ROWS}
    assert meter.backward == {}


class Twice(Toy):
    """Its network sees two rows for each row of a velocity."""

    rows_per_velocity = 2


def test_rows_of_guided_velocities_are_all_counted(inputs):
    x, s, _, cond = inputs
    x = x.clone().requires_grad_(True)
    meter = Meter()
    model = GuardedModel(Twice(), "toy", meter, 3)
    velocity = model.velocity(x, s, cond)
    assert torch.equal(velocity, Twice().velocity(x, s, cond))
    velocity.sum().backward()
    assert (meter.calls, meter.backward) == ({"network": 2 * ROWS}, {"network": 2 * ROWS})
    model.capability(FlowMap).jump(x, s, s, cond)
    assert meter.calls == {"network": 3 * ROWS}
    model.capability(ToData).to_data(x, s, cond)
    assert meter.calls == {"network": 4 * ROWS}


class Jumps(Plain, ToData):
    """Jumps to data alone, guided: two rows of its network for each."""

    rows_per_velocity = 2

    def to_data(self, x, s, cond):
        return x + (1 - s)[:, None] * cond.tensors["label"][:, None]


def test_jumps_to_data_are_cut_and_cost_what_velocities_do(inputs):
    x, s, _, cond = inputs
    meter = Meter()
    model = GuardedModel(Jumps(), "toy", meter, 3)
    assert model.capability(FlowMap) is None
    jumped = model.capability(ToData).to_data(x, s, cond)
    assert torch.equal(jumped, Jumps().to_data(x, s, cond))
    assert meter.calls == {"network": 2 * ROWS}


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_rewards_are_cut_with_their_prompts(chunk, inputs):
    x, _, _, cond = inputs
    meter = Meter()
    score = GuardedReward(Toll(), "toll", meter, chunk).score(x, cond.prompts)
    assert torch.equal(score, Toll().score(x, cond.prompts))
    assert meter.rewards.calls == {"toll": ROWS}


@pytest.mark.parametrize("chunk", [2, 100])
def test_no_piece_is_longer_than_the_chunk(chunk, inputs):
    seen = []

    def note(value):
        seen.append(len(value))
        return value

    calls(GuardedModel(Toy(spoil=note), "toy", Meter(), chunk), inputs)["velocity"]()
    assert seen == ([2, 2, 2, 1] if chunk == 2 else [7])


@pytest.mark.parametrize("chunk", [2, 100])
def test_backward_rows_are_counted_once_for_every_pass(chunk, inputs):
    x, s, _, cond = inputs
    x = x.clone().requires_grad_(True)
    meter = Meter()
    model = GuardedModel(Toy(), "toy", meter, chunk)
    reward = GuardedReward(Toll(), "toll", meter, chunk)
    total = reward.score(model.decode(model.velocity(x, s, cond)), cond.prompts).sum()
    assert meter.backward == meter.rewards.backward == {}
    (slope,) = torch.autograd.grad(total, x)
    assert torch.allclose(slope, (s / 3)[:, None].expand(-1, 3))
    rows = {"network": ROWS, "decoder": ROWS}
    assert meter.backward == meter.calls == rows
    assert meter.rewards.backward == meter.rewards.calls == {"toll": ROWS}


SPOILT = {
    "shape": (lambda v: v[:, :2], r"returned \(\d, 2.*expected"),
    "rows": (lambda v: torch.cat((v, v[:1])), r"returned \(\d"),
    "dtype": (lambda v: v.long(), r"torch\.int64"),
    "type": (lambda v: v.tolist(), "a list"),
    "number": (lambda v: 3, "an int"),
    "sparse": (lambda v: v.to_sparse(), r"torch\.sparse_coo"),
    "nothing": (lambda v: None, "a NoneType"),
    "scalar": (lambda v: v.sum(), r"returned \(\)"),
    "nan": (lambda v: v.index_fill(0, torch.tensor([0]), math.nan), "numbers that are not finite"),
    "inf": (lambda v: v.index_fill(0, torch.tensor([0]), math.inf), "numbers that are not finite"),
}


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("what", METHODS)
@pytest.mark.parametrize("fault", SPOILT)
def test_a_model_that_breaks_its_contract_is_named(what, fault, chunk, inputs):
    spoil, said = SPOILT[fault]
    if (what, fault) == ("decode", "shape"):
        spoil = lambda v: v[:, 0]  # noqa: E731
        said = r"returned \(\d,\).*expected \d rows of kind 'vector'"
    model = GuardedModel(Toy(spoil=spoil), "toy", Meter(), chunk)
    with pytest.raises(ContractError, match=rf"^model 'toy': {what} returned .*") as caught:
        calls(model, inputs)[what]()
    assert caught.match(said)


def test_data_of_another_dimension_than_a_reward_scores_name_the_decoder(inputs):
    x, _, _, cond = inputs
    reward = GuardedReward(Toll(), "toll", Meter(), 100, dimension=7)
    with pytest.raises(ContractError, match=r"vectors of 7 numbers, but the model's decode makes"):
        reward.score(x, cond.prompts)


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("fault", [*SPOILT, "half"])
def test_a_reward_that_breaks_its_contract_is_named(fault, chunk, inputs):
    x, _, _, cond = inputs
    spoil, said = SPOILT.get(fault, (lambda v: v.half(), r"torch\.float16"))
    if fault == "shape":
        spoil, said = lambda v: v[:, None], r"returned \(\d, 1\)"
    reward = GuardedReward(Toll(spoil=spoil), "toll", Meter(), chunk)
    with pytest.raises(ContractError, match=r"^reward 'toll': score returned .*") as caught:
        reward.score(x, cond.prompts)
    assert caught.match(said)


@pytest.mark.parametrize(
    ("size", "said"), [(1e160, "as large as 1e\\+160"), (math.nan, "not finite any more")]
)
@pytest.mark.parametrize("what", ["velocity", "posterior_jump", "decode"])
def test_a_model_is_not_to_blame_for_states_that_no_flow_has(what, size, said, inputs):
    x, s, u, cond = inputs
    model = GuardedModel(Toy(spoil=lambda v: v * math.inf), "toy", Meter(), 100)
    with pytest.raises(
        DivergedError, match=rf"^model 'toy': {what} was given states that are {said}"
    ):
        calls(model, (torch.full_like(x, size), s, u, cond))[what]()


def test_score_that_is_missing_passes_where_the_reward_may_miss_one():
    data = torch.ones(3, 2)

    def spoil(value):
        return value.index_fill(0, torch.tensor([1]), math.nan)

    guard = GuardedReward(Sums(spoil), "judge", Meter(), 100, may_miss=True)
    assert guard.score(data, [""] * 3).isnan().tolist() == [False, True, False]
    with pytest.raises(ContractError, match="1 numbers that are not finite"):
        attrs.evolve(guard, inner=Sums(lambda v: v + math.inf)).score(data[:1], [""])
    assert guard.meter.rewards.seconds["judge"] > 0


@attrs.frozen(eq=False)
class Sums(Reward):
    spoil: object

    def score(self, data, prompts):
        return self.spoil(data.flatten(1).sum(1))


def scored(spoil, data):
    return GuardedReward(Sums(spoil), "toll", Meter(), 100).score(data, [""] * len(data))


def test_a_score_that_is_not_finite_says_what_to_do():
    spoil = SPOILT["nan"][0]
    vectors = torch.linspace(-2, 3, 12).reshape(4, 3)
    with pytest.raises(ContractError) as caught:
        scored(spoil, vectors)
    said = "reward 'toll': score returned 1 numbers that are not finite, for data from "
    assert str(caught.value) == (
        said + "-2 to 3; take it out of the recipe, and tell the reward's author"
    )
    pictures = torch.full((4, 3, 2, 2), 0.5)
    with pytest.raises(ContractError, match=r"from 0\.5 to 0\.5; take it out of the recipe"):
        scored(spoil, pictures)
    pictures[1] = -7
    with pytest.raises(ContractError, match=r"from -7 to 0\.5; pictures belong in \[0, 1\]: lower"):
        scored(spoil, pictures)


def test_a_gradient_that_is_not_finite_is_the_rewards():
    data = torch.linspace(0, 1, 12).reshape(4, 3).requires_grad_()
    score = scored(lambda v: (v - v.detach()).sqrt(), 2 * data)
    assert score.isfinite().all()
    with pytest.raises(ContractError) as caught:
        torch.autograd.grad(score.sum(), data)
    said = "reward 'toll': its gradient has 12 numbers that are not finite; use an estimator that "
    said += "follows no gradient, like 'stein', and tell the reward's author"
    assert str(caught.value) == said


def raising(error):
    def spoil(value):
        raise error

    return spoil


@pytest.mark.parametrize("chunk", [2, 100])
def test_out_of_memory_error_names_the_chunk(inputs, chunk):
    x, _, _, cond = inputs
    short, rows = raising(torch.OutOfMemoryError("CUDA out of memory. Tried")), min(chunk, ROWS)
    cure = f"the device's memory is too small for {rows} rows at once; set run.chunk to 1"
    with pytest.raises(PartError) as caught:
        GuardedReward(Toll(spoil=short), "toll", Meter(), chunk).score(x, cond.prompts)
    assert str(caught.value) == f"reward 'toll': score: {cure} or offload = true"
    with pytest.raises(PartError) as caught:
        calls(GuardedModel(Toy(spoil=short), "toy", Meter(), chunk), inputs)["velocity"]()
    assert str(caught.value) == f"model 'toy': velocity: {cure}"


def above(most):
    """Whatever is returned, unless it has more rows: then memory is short."""

    def spoil(value):
        if len(value) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried")
        return value

    return spoil


@pytest.mark.parametrize("what", METHODS)
@pytest.mark.parametrize(("cap", "most", "rows"), [(100, 4, 3), (4, 1, 1), (6, 5, 3)])
def test_rows_that_memory_is_too_small_for_are_halved(what, cap, most, rows, inputs):
    whole, meter, chunks = calls(Toy(), inputs)[what](), Meter(), Chunks(cap)
    with torch.no_grad():
        found = calls(GuardedModel(Toy(spoil=above(most)), "toy", meter, chunks), inputs)[what]()
    assert torch.equal(found, whole)
    assert chunks.rows == {what: rows}
    assert meter.calls == {"decoder" if what == "decode" else "network": ROWS}


def test_scores_that_memory_is_too_small_for_are_halved(inputs):
    x, _, _, cond = inputs
    meter, chunks = Meter(), Chunks(100)
    with torch.no_grad():
        score = GuardedReward(Toll(spoil=above(2)), "toll", meter, chunks).score(x, cond.prompts)
    assert torch.equal(score, Toll().score(x, cond.prompts))
    assert chunks.rows == {"reward 'toll'": 1}
    assert meter.rewards.calls == {"toll": ROWS}


def test_one_row_that_memory_is_too_small_for_says_what_to_change(inputs):
    x, _, _, cond = inputs
    too_small = "the device's memory is too small for a single row; take a smaller model, reward or"
    too_small += " picture, weights of half their precision"
    short = raising(torch.OutOfMemoryError("CUDA out of memory. Tried"))
    with torch.no_grad(), pytest.raises(OutOfMemoryError) as caught:
        GuardedReward(Toll(spoil=short), "toll", Meter(), 2).score(x, cond.prompts)
    assert str(caught.value) == f"reward 'toll': score: {too_small} or offload = true"
    with torch.no_grad(), pytest.raises(OutOfMemoryError) as caught:
        calls(GuardedModel(Toy(spoil=short), "toy", Meter(), 2), inputs)["decode"]()
    assert str(caught.value) == f"model 'toy': decode: {too_small}"


def test_rows_that_are_measured_are_no_calls(inputs):
    x, _, _, cond = inputs
    meter, chunks = Meter(), Chunks(100, DeviceMemory(torch.device("cpu")))
    model = GuardedModel(Toy(), "toy", meter, chunks)
    with torch.no_grad():
        for call in calls(model, inputs).values():
            call()
        GuardedReward(Toll(), "toll", meter, chunks).score(x, cond.prompts)
    assert meter.calls == {"network": 3 * ROWS, "decoder": ROWS}
    assert meter.rewards.calls == {"toll": ROWS}
    assert chunks.rows == dict.fromkeys((*METHODS, "reward 'toll'"), 100)


class Strange(BaseException):
    """No Exception at all."""


ERRORS = (IndexError, SystemExit, EOFError, GeneratorExit, StopIteration, RecursionError, Strange)


@pytest.mark.parametrize("kind", ERRORS)
def test_any_other_error_of_a_part_is_told_as_its_own(kind, inputs):
    x, _, _, cond = inputs
    reward = GuardedReward(Toll(spoil=raising(kind("oh"))), "toll", Meter(), 100)
    with pytest.raises(PartError) as caught:
        reward.score(x, cond.prompts)
    assert str(caught.value).startswith(f"reward 'toll': score raised {kind.__name__}: oh (")
    assert Path(__file__).name in str(caught.value)
    assert type(caught.value.__cause__) is kind
    model = GuardedModel(Toy(spoil=raising(kind())), "toy", Meter(), 100)
    for what, call in calls(model, inputs).items():
        with pytest.raises(PartError, match=f"^model 'toy': {what} raised {kind.__name__} "):
            call()


def test_a_message_of_a_part_is_passed_on_as_it_is(inputs):
    x, _, _, cond = inputs
    refused = raising(PartError("picture: it has another size"))
    with pytest.raises(PartError, match=r"^picture: it has another size$"):
        GuardedReward(Toll(spoil=refused), "toll", Meter(), 100).score(x, cond.prompts)


WRITES = {
    "zero_": lambda x: x.zero_(),
    "data": lambda x: x.data.mul_(2),
    "numpy": lambda x: x.detach().numpy().fill(7),
    "clamp_": lambda x: x.clamp_(0, 1),
    "storage": lambda x: x.untyped_storage().fill_(0),
    "set_": lambda x: x.set_(torch.zeros_like(x)),
}


@attrs.frozen(eq=False)
class Writing(Toy, Reward):
    """Writes into all that it is given; is a model and a reward."""

    write: object = None

    def score(self, data, prompts):
        self.write(data)
        return torch.ones(len(data))

    def velocity(self, x, t, cond):
        return self.written(x, t, cond.tensors["label"])

    def jump(self, x, s, u, cond):
        return self.written(x, s, u, cond.tensors["label"])

    def posterior_jump(self, y, s, u, noisy):
        return self.written(y, s, u, noisy.x, noisy.t, noisy.cond.tensors["label"])

    def decode(self, x1):
        return self.written(x1)

    def written(self, state, *others):
        result = torch.ones_like(state)
        for tensor in (state, *others):
            self.write(tensor)
        return result


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("chunk", [2, 100])
def test_a_part_that_writes_into_its_input_changes_nothing_of_others(write, chunk, inputs):
    x, s, u, cond = inputs
    before = [tensor.clone() for tensor in (x, s, u, cond.tensors["label"])]
    part = Writing(write=write)
    for call in calls(GuardedModel(part, "toy", Meter(), chunk), inputs).values():
        call()
    GuardedReward(part, "toll", Meter(), chunk).score(x, cond.prompts)
    after = (x, s, u, cond.tensors["label"])
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("chunk", [2, 100])
def test_a_part_that_returns_one_buffer_each_time_is_copied(chunk, inputs):
    x, s, _, cond = inputs
    buffer = torch.empty(ROWS, 3, dtype=torch.float64)
    spoil = lambda value: buffer[: len(value)].copy_(value)  # noqa: E731
    model = GuardedModel(Toy(spoil=spoil), "toy", Meter(), chunk)
    first = model.velocity(x, s, cond)
    model.velocity(x + 1, s, cond)
    assert torch.equal(first, Toy().velocity(x, s, cond))


@attrs.frozen(eq=False)
class Halves(Reward):
    """Halves its data in place, and sums them up."""

    how: object

    def score(self, data, prompts):
        return self.how(data).sum(1)


def hidden(data):
    with torch.no_grad():
        return data.mul_(0.5)


@pytest.mark.parametrize("how", [lambda x: x.data.mul_(0.5), hidden])
def test_a_write_that_autograd_does_not_see_is_refused_where_a_gradient_follows(how):
    guarded = GuardedReward(Halves(lambda x: (how(x), x)[1]), "toll", Meter(), 100, True)
    data = torch.ones(4, 3, requires_grad=True)
    with pytest.raises(ContractError, match=r"^reward 'toll': score writes into its input behind"):
        guarded.score(data, [""] * 4)
    with torch.no_grad():
        assert guarded.score(data, [""] * 4).tolist() == [1.5] * 4


def test_a_write_that_autograd_sees_has_its_gradient():
    guarded = GuardedReward(Halves(lambda x: x.mul_(0.5)), "toll", Meter(), 100, True)
    data = torch.ones(4, 3, requires_grad=True)
    score = guarded.score(2 * data, [""] * 4)
    (slope,) = torch.autograd.grad(score.sum(), data)
    assert slope.unique().tolist() == [1.0]
    assert score.tolist() == [3.0] * 4


@pytest.mark.parametrize("what", METHODS)
def test_a_model_that_cuts_gradients_is_named_where_one_follows(what, inputs):
    x, *others = inputs
    model = GuardedModel(Toy(spoil=torch.Tensor.detach), "toy", Meter(), 2)
    told = rf"^model 'toy': {what} cuts gradients inside its call; let it do without no_grad\(\)"
    with pytest.raises(ContractError, match=told):
        calls(model, (x.clone().requires_grad_(), *others))[what]()
    with torch.no_grad():
        calls(model, (x.clone().requires_grad_(), *others))[what]()
    calls(model, inputs)[what]()


def test_a_differentiable_reward_without_a_graph_is_refused_where_a_gradient_follows():
    guarded = GuardedReward(Sums(torch.Tensor.detach), "toll", Meter(), 100, differentiable=True)
    data = torch.ones(4, 3, requires_grad=True)
    with pytest.raises(ContractError, match=r"^reward 'toll' declares that it is differentiable"):
        guarded.score(data, [""] * 4)
    with torch.no_grad():
        guarded.score(data, [""] * 4)


@pytest.mark.parametrize(
    "encode",
    [
        lambda prompts: None,
        lambda prompts: Condition(("a",)),
        lambda prompts: Condition(tuple(prompts), {"label": torch.arange(2)}),
    ],
)
def test_a_condition_with_other_rows_is_refused(encode):
    model = Plain()
    model.encode = encode
    with pytest.raises(ContractError, match=r"^model 'plain': encode returned "):
        GuardedModel(model, "plain", Meter(), 9).encode(["a", "b", "c"])


def test_the_wrong_dtype_of_a_state_is_refused(inputs):
    model = GuardedModel(Toy(spoil=lambda v: v.float()), "toy", Meter(), 100)
    with pytest.raises(ContractError, match=r"torch\.float32, expected \(7, 3\) torch\.float64"):
        calls(model, inputs)["velocity"]()


def test_pictures_have_four_dimensions(inputs):
    model = GuardedModel(Toy(domain="image"), "toy", Meter(), 3)
    assert calls(model, inputs)["decode"]().shape == (ROWS, 3, 2, 2)
    flat = GuardedModel(Toy(domain="image", spoil=lambda v: v.flatten(1)), "toy", Meter(), 3)
    with pytest.raises(ContractError, match="rows of kind 'image'"):
        calls(flat, inputs)["decode"]()


def test_capability_of_a_model_without_it_is_none():
    model = GuardedModel(Plain(), "plain", Meter(), 9)
    assert model.capability(FlowMap) is None
    assert model.capability(PosteriorMap) is None
    assert model.capability(DataSampler) is None
    assert not isinstance(GuardedModel(Toy(), "toy", Meter(), 9), FlowMap | PosteriorMap)


def test_capability_that_costs_no_call_is_the_part_itself():
    model, reward = line()
    (plain,) = reward.terms
    guarded = GuardedModel(model, "mixture", Meter(), 9)
    for kind in (DataSampler, ClosedForm, GaussianMixture):
        assert guarded.capability(kind) is model
    assert guarded.capability(FlowMap) is not model
    term = GuardedReward(plain.reward, "r", Meter(), 9)
    assert term.capability(Quadratic) is plain.reward
    assert term.capability(HasReferenceImages) is None


def test_the_guard_looks_like_its_model():
    model = GuardedModel(Toy(), "toy", Meter(), 9)
    for name in ("path", "shape", "domain", "dtype", "device"):
        assert getattr(model, name) is getattr(model.inner, name)
    assert model.encode(["a", "b"]).prompts == ("a", "b")


def test_replaced_model_keeps_the_guard_of_the_other():
    meter, first, second = Meter(), Toy(), Plain()
    model = replaced(GuardedModel(first, "toy", meter, 3), second)
    assert isinstance(model, GuardedModel)
    assert (model.inner, model.name, model.meter, model.chunks.cap) == (second, "toy", meter, 3)
    assert replaced(first, second) is second


def test_guarded_twice_is_guarded_once():
    model = guarded(Toy())
    assert guarded(model) is model
