"""Training a meta flow map: on a world that is known, and on pictures made on the spot."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from align.core.errors import PartError
from align.core.model import Condition, FlowMap, NoisyState
from align.core.path import PATHS
from align.core.problem import Problem
from align.core.streams import Streams
from align.datasets.pictures import Pictures
from align.engine.guard import GuardedModel
from align.engine.loop import Observer, execute
from align.engine.meter import Meter
from align.models.network import Network, load
from align.models.network_model import NetworkModel
from align.modes.distill.diagonal import DataTarget
from align.modes.distill.eulerian import Eulerian
from align.modes.distill.lagrangian import Lagrangian
from align.modes.distill.mean_flow import MeanFlow
from align.modes.distill.mode import Distill
from align.modes.distill.semigroup import Semigroup
from align.modes.distill.shortcut import Shortcut
from align.modes.distill.times import Times
from align.modes.distill.weighting import Weighting
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.networks.mlp import MLPConfig
from align.samplers.glass import glass_velocity
from align.testing.checks import objective
from align.testing.distances import w1
from align.testing.worlds import line, line_part
from align.training import weights
from align.training.loop import Optimisation

STREAMS, CPU, SMALL = Streams(0, (0,)), torch.device("cpu"), MLPConfig(width=32, depth=2)


def _mixture(path="linear"):
    part = line_part(path)
    return Problem(GuardedModel(part.build(CPU), "mixture", Meter(), 1 << 20), part=part)


def _trained(state, average=False):
    """The model with the map under training in it."""
    student = state.training.ema if average else state.training.module
    return state.coupling.model.with_net(state.coupling.role, student.net)


def _run(mode, problem, steps=None):
    state, numbers = mode.init(problem, STREAMS), []
    for index in range(steps or mode.steps):
        state, info = mode.step(problem, state, index, STREAMS)
        numbers.append(dict(info.numbers))
    return state, numbers


@torch.no_grad()
def _distances(model, draws=2000, path="linear"):
    """W₁ of one-step draws to exact ones, for three states at each of three times."""
    exact, found = line(path)[0], []
    for t in (0.0, 0.3, 0.6):
        x = torch.tensor([[-0.8], [0.2], [1.0]], dtype=torch.float64)
        noisy = NoisyState(x, torch.full((3,), t, dtype=torch.float64), exact.encode([""] * 3))
        truth = exact.draw_posterior(noisy, draws, Streams(1, (0, 1, 2)))
        label = torch.zeros(3, dtype=torch.int64)
        mine = NoisyState(x.float(), noisy.t.float(), Condition(("",) * 3, {"label": label})).tile(
            draws
        )
        noise = Streams(2, (0, 1, 2)).normal((1,), draws=draws).float().flatten(0, 1)
        ends = torch.zeros(3 * draws), torch.ones(3 * draws)
        jumped = model.posterior_jump(noise, *ends, mine).reshape(draws, 3)
        found += [w1(jumped[:, row].double(), truth[:, row, 0]) for row in range(3)]
    return np.array(found)


EVERY = [
    Semigroup(),
    Shortcut(),
    MeanFlow(),
    Eulerian(),
    Eulerian(velocity="self"),
    Lagrangian(),
    Lagrangian(velocity="teacher"),
]


# One of each way to train a jump: by halves, by the change at its start, by that at its end. The
# others differ in their targets, which have tests of their own beside this file.
@pytest.mark.parametrize(
    ("consistency", "kind"),
    [
        (Semigroup(), "linear"),
        (Semigroup(), "trigonometric"),
        (Eulerian(), "linear"),
        (Lagrangian(velocity="teacher"), "linear"),
    ],
    ids=str,
)
def test_a_small_net_learns_the_posterior_of_a_mixture(consistency, kind, tmp_path):
    mode = Distill(
        net=SMALL,
        consistency=consistency,
        optimisation=Optimisation(batch=192, learning_rate=1e-2, warmup=20, ema_decay=0.97),
        steps=200,
    )
    problem = _mixture(kind)
    before = _distances(_trained(mode.init(problem, STREAMS)), path=kind)
    state, numbers = _run(mode, problem)
    assert all(
        set(each) == {"loss", "norm", "learning_rate", "diagonal", "consistency"}
        for each in numbers
    )
    first, last = (np.mean([n["diagonal"] for n in part]) for part in (numbers[:5], numbers[-20:]))
    assert last < 0.2 * first
    first, last = (np.mean([n["loss"] for n in part]) for part in (numbers[:5], numbers[-20:]))
    assert last < 0.2 * first
    export = mode.export(problem, state)
    assert list(export.modules) == ["posterior"]
    path = tmp_path / "model.safetensors"
    weights.write(path, export.modules, export.about, torch.float32)
    again = load(path, torch.device("cpu"))
    assert again.path == PATHS[kind]
    after = _distances(again, path=kind)
    assert before.mean() > 0.6
    assert after.mean() < 0.3 * before.mean()
    assert after.max() < 0.55


@pytest.mark.parametrize("loss", [Eulerian(), Lagrangian(velocity="teacher")], ids=str)
def test_exact_map_on_the_trigonometric_path_has_no_residual(loss, monkeypatch):
    monkeypatch.setattr(objective, "line", lambda: line("trigonometric"))
    monkeypatch.setattr(objective, "MANY", 3000)
    subject = objective.subject(loss, None)
    objective.exact_map(subject)
    objective.wrong_map(subject)


def test_diagonal_target_is_the_glass_velocity():
    """With all rows on the diagonal, the reported error is that to the teacher."""
    mode = Distill(
        net=SMALL,
        times=Times(diagonal_share=1.0, context_zero=0.5),
        optimisation=Optimisation(batch=16),
    )
    problem, seen = _mixture(), []
    state = mode.init(problem, STREAMS)
    state.training.module.net.register_forward_hook(lambda _, args, out: seen.append((*args, out)))
    _, info = mode.step(problem, state, 0, STREAMS)
    assert "consistency" not in info.numbers
    y, s, u, t, x, _, out = seen[0]
    assert not any(len(each[0]) for each in seen[1:])
    assert torch.equal(s, u)
    assert bool((t == 0).any())
    assert bool((t > 0).any())
    assert not x[t == 0].any()
    exact = line()[0]
    noisy = NoisyState(x.double(), t.double(), exact.encode([""] * 16))
    target = glass_velocity(exact, y.double(), s.double(), noisy)
    error = float((out.detach().double() - target).square().mean())
    assert info.numbers["diagonal"] == pytest.approx(error, rel=1e-4)


def test_share_of_rows_on_the_diagonal_and_times():
    for share, expected in ((0.0, 0), (0.25, 50), (1.0, 200)):
        mode = Distill(
            net=SMALL, times=Times(diagonal_share=share), optimisation=Optimisation(batch=200)
        )
        problem, seen = _mixture(), []
        state = mode.init(problem, STREAMS)
        hook = lambda _, args, seen=seen: seen.append(args)  # noqa: E731
        state.training.module.net.register_forward_pre_hook(hook)
        mode.step(problem, state, 0, STREAMS)
        here, away = seen[0], seen[-1]
        assert len(here[0]) == expected
        assert torch.equal(here[1], here[2])
        if share < 1:
            assert len(away[0]) == 200 - expected
            assert (away[1] <= away[2]).all()
            assert float((away[2] - away[1]).mean()) == pytest.approx(1 / 3, abs=0.06)
            # U² has mean 1/3 and a tenth of the rows is at 0.
            assert float(away[3].mean()) == pytest.approx(0.3, abs=0.08)
            assert 0.03 < float((away[3] == 0).float().mean()) < 0.2


@pytest.mark.parametrize(("share", "name"), [(1.0, "diagonal"), (0.0, "consistency")])
def test_weights(share, name):
    def taken(weighting):
        mode = Distill(
            net=MLPConfig(width=16, depth=1),
            consistency=Eulerian(),
            times=Times(diagonal_share=share),
            weighting=weighting,
            optimisation=Optimisation(batch=1),
        )
        problem = _mixture()
        state = mode.init(problem, STREAMS)
        return mode.step(problem, state, 0, STREAMS)[1].numbers, state

    plain, _ = taken(Weighting())
    # One row of one number: the loss is its square.
    square = plain[name]
    assert plain["loss"] == pytest.approx(square, rel=1e-5)
    for power in (0.5, 1.0):
        numbers, _ = taken(Weighting(diagonal=power, consistency=power, floor=0.3))
        assert numbers[name] == pytest.approx(square, rel=1e-5)
        assert numbers["loss"] == pytest.approx(square / (square + 0.3) ** power, rel=1e-5)
    numbers, state = taken(Weighting(learned=True))
    assert numbers["loss"] == pytest.approx(square, rel=1e-5)
    assert state.training.module.log_loss.leave.bias.grad.abs().max() > 0


def test_targets_from_data_need_no_teacher_and_lead_to_the_same_map():
    """With the mixture's own data, a map taught rates alone finds the posterior too."""
    mode = Distill(
        net=SMALL,
        diagonal=DataTarget(),
        consistency=MeanFlow(),
        optimisation=Optimisation(batch=192, learning_rate=1e-2, warmup=20, ema_decay=0.97),
        steps=200,
    )
    problem, asked = _mixture(), []
    velocity = type(problem.model.inner).velocity
    state = mode.init(problem, STREAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(problem.model.inner), "velocity", lambda *a: asked.append(a) or velocity(*a)
        )
        for index in range(mode.steps):
            state, _ = mode.step(problem, state, index, STREAMS)
    assert not asked
    after = _distances(_trained(state, average=True))
    assert after.mean() < 0.3 * _distances(_trained(mode.init(problem, STREAMS))).mean()


SHAPE = (4, 4, 4)


def _pictured(seed=0, flow=None):
    """A teacher on latents of 8x8 pictures, its weights random."""

    def made():
        config = DiTConfig(width=16, depth=2, heads=2, patch=2, encoder_depth=1)
        net = flow or DiT(config, SHAPE, 2, "flow")
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_(0, 0.1)
        return net, Autoencoder(AutoencoderConfig(width=8, levels=1, latents=4))

    net, auto = Streams(seed, ()).initialise(made)
    net.requires_grad_(False), auto.requires_grad_(False)
    model = NetworkModel(shape=SHAPE, classes=("cat", "dog"), flow=net, autoencoder=auto)
    return Problem(GuardedModel(model, "network", Meter(), 64))


@pytest.fixture
def pictures(tmp_path):
    """An archive of random 8x8 pictures of two classes."""
    generator = np.random.default_rng(0)
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name in ("dog", "cat"):
            for k in range(3):
                content = io.BytesIO()
                array = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(array).save(content, "PNG")
                member = tarfile.TarInfo(f"set/train/{name}/{k}.png")
                member.size = len(content.getvalue())
                archive.addfile(member, io.BytesIO(content.getvalue()))
    return Pictures(path=str(tmp_path / "set.tar"))


class _Watch(Observer):
    """Keeps numbers and pictures, and the last checkpoint as a file; stops after a step if told."""

    def __init__(self, stop=None):
        self.stop, self.numbers, self.pictures, self.file = stop, [], [], None

    def step(self, index, steps, state, info):
        self.numbers.append(dict(info.numbers))
        self.pictures.append(info.pictures)

    def due(self, index):
        return False

    def stopping(self):
        return len(self.numbers) == self.stop

    def checkpoint(self, saved):
        self.file = io.BytesIO()
        torch.save(saved, self.file)
        self.file.seek(0)


@pytest.mark.parametrize("consistency", EVERY, ids=str)
def test_a_transformer_starts_as_a_copy_and_trains(pictures, consistency):
    mode = Distill(
        data=pictures,
        consistency=consistency,
        optimisation=Optimisation(batch=8, learning_rate=1e-2, warmup=0, ema_decay=0.5),
        steps=2,
        sample_every=1,
    )
    problem = _pictured()
    state, teacher = mode.init(problem, STREAMS), problem.model.inner
    y, x = STREAMS.numbered(0, 5).normal(SHAPE, draws=2).float()
    s, t = STREAMS.numbered(0, 5).uniform((2,)).float().T
    noisy = NoisyState(x, t, teacher.encode(["cat", "dog", "", "cat", "dog"]))
    expected = teacher.velocity(y, s, noisy.cond)
    assert float(expected.std()) > 0.05
    with torch.no_grad():
        assert torch.equal(_trained(state).posterior_velocity(y, s, s, noisy), expected)
    watch = _Watch()
    outcome = execute(mode, problem, STREAMS, meter=problem.model.meter, observer=watch)
    assert all(np.isfinite(list(numbers.values())).all() for numbers in watch.numbers)
    assert {"loss", "diagonal", "consistency"} <= set(watch.numbers[0])
    assert watch.pictures[0].shape == (4 * 8, 3, 8, 8)
    assert outcome.cost.flops > 0
    assert outcome.cost.calls["network"] > 0
    export = mode.export(problem, outcome.state)
    assert set(export.modules) == {"flow", "posterior", "autoencoder"}
    with torch.no_grad():
        # The teacher is left as it was, the map is not.
        assert torch.equal(teacher.velocity(y, s, noisy.cond), expected)
        moved = _trained(outcome.state).posterior_velocity(y, s, s, noisy) - expected
    assert float(moved.abs().max()) > 1e-3


@pytest.mark.parametrize("consistency", [Semigroup(), Eulerian()])
def test_a_resumed_run_ends_in_the_same_bits(pictures, consistency):
    mode = Distill(
        data=pictures,
        consistency=consistency,
        optimisation=Optimisation(batch=8),
        steps=4,
        sample_every=2,
    )

    def run(watch, saved=None):
        return execute(mode, _pictured(), STREAMS, meter=Meter(), observer=watch, saved=saved)

    straight, stopped, resumed = _Watch(), _Watch(stop=2), _Watch()
    whole = run(straight).state
    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    again = run(resumed, torch.load(stopped.file, weights_only=True)).state
    assert stopped.numbers + resumed.numbers == straight.numbers
    assert torch.equal(resumed.pictures[-1], straight.pictures[-1])
    for name in ("module", "ema"):
        one, two = (getattr(each.training, name).state_dict() for each in (whole, again))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_wrong_distillation_is_refused(pictures):
    for problem in (_mixture(), Problem(NetworkModel(shape=(2,), domain="vector"))):
        with pytest.raises(PartError, match="no network that a meta_flow_map can grow from; name"):
            Distill(data=pictures).init(problem, STREAMS)


def test_the_ladder(pictures, tmp_path):
    """Flow, flow map, meta flow map: each begins as the one before, and a file brings it back."""
    common = {"data": pictures, "steps": 2, "sample_every": 1}
    fast = Optimisation(batch=8, learning_rate=1e-2, warmup=0, ema_decay=0.0)
    problem = _pictured()
    first = Distill(role="flow_map", optimisation=fast, **common)
    watch = _Watch()
    outcome = execute(first, problem, STREAMS, meter=problem.model.meter, observer=watch)
    assert watch.pictures[0].shape == (2 * 8, 3, 8, 8)
    export = first.export(problem, outcome.state)
    assert set(export.modules) == {"flow", "flow_map", "autoencoder"}
    path = tmp_path / "model.safetensors"
    weights.write(path, export.modules, export.about, torch.float32)
    model = load(path, torch.device("cpu"))
    assert Network(weights=str(path)).provides == {FlowMap}
    y, x = STREAMS.numbered(0, 5).normal(SHAPE, draws=2).float()
    s, u = STREAMS.numbered(0, 5).uniform((2,)).float().sort(1).values.T
    cond = model.encode(["cat", "dog", "", "cat", "dog"])
    jumped = model.jump(y, s, u, cond)
    straight = y + (u - s)[:, None, None, None] * problem.model.inner.velocity(y, s, cond)
    assert not torch.allclose(jumped, straight, atol=1e-3)
    again = Problem(GuardedModel(model, "network", Meter(), 64))
    state = Distill(optimisation=fast, **common).init(again, STREAMS)
    assert torch.equal(_trained(state).posterior_jump(y, s, u, NoisyState(x, u, cond)), jumped)


def test_a_flow_map_has_no_context(pictures):
    mode = Distill(role="flow_map", data=pictures, optimisation=Optimisation(batch=8))
    problem, seen = _pictured(), []
    state = mode.init(problem, STREAMS)
    state.training.module.net.register_forward_pre_hook(lambda _, args: seen.append(args))
    mode.step(problem, state, 0, STREAMS)
    assert not any(t.any() or x.any() for _, _, _, t, x, _ in seen)


def test_training_goes_on_from_a_map_the_model_already_has(pictures):
    problem = _pictured()
    mode = Distill(data=pictures, optimisation=Optimisation(batch=8, learning_rate=1e-2, warmup=0))
    state = mode.init(problem, STREAMS)
    state, _ = mode.step(problem, state, 0, STREAMS)
    moved = _trained(state)
    again = mode.init(Problem(GuardedModel(moved, "network", Meter(), 64)), STREAMS)
    for key, tensor in again.training.module.net.state_dict().items():
        assert torch.equal(tensor, moved.posterior.state_dict()[key])


def test_guidance_is_baked_into_rates(pictures):
    """The target of a named row moves by ω times what its class changes; a nameless one stays."""
    found = []
    for guidance in (1.0, 2.5):
        mode = Distill(
            data=pictures,
            diagonal=DataTarget(),
            guidance=guidance,
            dropout=0.0,
            times=Times(diagonal_share=1.0),
            optimisation=Optimisation(batch=8),
        )
        problem = _pictured()
        state = mode.init(problem, STREAMS)
        rows = STREAMS.numbered(0, 8)
        t = torch.full((8,), 0.3)
        _, inner = state.coupling.inner(state.training.module.net, rows, t)
        one = inner(torch.arange(8))
        s = torch.full((8,), 0.5)
        y = one.state(s)
        named, plain = (f(y, s, s).detach() for f in (one.average, one.unconditional))
        assert float((named - plain).abs().max()) > 1e-2
        found.append((mode.diagonal.target(one, s), named - plain))
    (base, _), (guided, apart) = found
    assert torch.allclose(guided, base + 0.6 * apart, atol=1e-5)
