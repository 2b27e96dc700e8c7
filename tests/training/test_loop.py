"""One optimisation step, and runs that are stopped and taken up again."""

import io
import math
import subprocess
import sys
from itertools import pairwise
from typing import ClassVar

import attrs
import pytest
import torch
from torch import nn

from align.core.errors import OutOfMemoryError, PartError
from align.core.mode import Export
from align.core.model import NoModel
from align.core.objective import GroupedValues, Loss
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.loop import Observer, execute
from align.engine.meter import Meter
from align.testing.fake_device import fake_device
from align.training import checkpoint
from align.training.loop import Optimisation, Training, advance, learning_rate_at
from align.training.mode import TrainingMode, TrainingState
from tests.waiting import Waiting


def test_rate_grows_then_falls():
    options = Optimisation(learning_rate=2.0, warmup=4)
    rates = [learning_rate_at(options, index, 12) for index in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert all(late < early for early, late in pairwise(rates[4:]))
    expected = 2 * (0.02 + 0.98 * (1 + math.cos(math.pi * 4 / 8)) / 2)
    assert rates[8] == pytest.approx(expected)
    assert 0.04 < rates[11] < 0.12
    assert learning_rate_at(options, 12, 12) == pytest.approx(0.04)
    flat = Optimisation(learning_rate=2.0, warmup=2, decay="none")
    assert [learning_rate_at(flat, index, 5) for index in range(5)] == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert learning_rate_at(Optimisation(learning_rate=2.0, warmup=0), 0, 5) == 2.0
    assert learning_rate_at(Optimisation(learning_rate=2.0, warmup=9), 4, 5) == pytest.approx(
        10 / 9
    )


def test_warmup_that_is_left_out_takes_at_most_a_tenth_of_the_steps():
    options = Optimisation(learning_rate=2.0, decay="none")
    for steps, warmup in ((5, 0), (50, 5), (1999, 199), (2000, 200), (100_000, 200)):
        rates = [learning_rate_at(options, index, steps) for index in range(warmup + 1)]
        assert rates == pytest.approx(
            [2.0 * min(1, (n + 1) / max(1, warmup)) for n in range(warmup + 1)]
        )
    given = Optimisation(learning_rate=2.0, warmup=200, decay="none")
    assert learning_rate_at(given, 0, 50) == pytest.approx(0.01)


def test_rate_with_decay_end_is_constant_and_falls_to_zero():
    options = Optimisation(learning_rate=2.0, warmup=2, decay="end", decay_share=0.4)
    rates = [learning_rate_at(options, index, 10) for index in range(10)]
    assert rates == pytest.approx([1, 2, 2, 2, 2, 2, 2, 1.5, 1, 0.5])
    # 0 would be the rate of the step after the last.
    assert learning_rate_at(options, 10, 10) == 0
    flat = Optimisation(learning_rate=2.0, warmup=0, decay="end", decay_share=0.0)
    assert {learning_rate_at(flat, index, 10) for index in range(10)} == {2.0}


def step(training, loss, options, index, steps):
    """A step down a loss that is the same for every row."""
    whole = lambda rows: Loss(loss().expand(len(rows.samples)))  # noqa: E731
    return advance(training, whole, options, Streams(0, (0,)), index, steps).metrics


class _Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("count", torch.tensor(0))


def test_step_is_adam_s_and_says_what_it_did():
    module = _Scalar()
    options = Optimisation(learning_rate=0.1, warmup=2, max_grad_norm=0.5)
    training = Training.of(module, options)
    numbers = step(training, lambda: (module.w * torch.tensor([3.0, -4.0])).sum(), options, 0, 9)
    assert numbers == pytest.approx({"loss": 3.0 - 8.0, "norm": 5.0, "learning_rate": 0.05})
    # Adam's first step has the size of the rate, whatever the gradient's.
    assert module.w.tolist() == pytest.approx([0.95, 2.05], abs=1e-6)


def test_gradient_is_clipped():
    module = _Scalar()
    options = Optimisation(learning_rate=0.1, max_grad_norm=0.5)
    training = Training.of(module, options)
    step(training, lambda: (module.w * torch.tensor([3.0, -4.0])).sum(), options, 0, 9)
    assert module.w.grad.tolist() == pytest.approx([0.3, -0.4], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", lambda w: torch.optim.AdamW([w], 0.1, (0.8, 0.95), weight_decay=0.3)),
        (
            "radam",
            lambda w: torch.optim.RAdam(
                [w], 0.1, (0.8, 0.95), weight_decay=0.3, decoupled_weight_decay=True
            ),
        ),
    ],
)
def test_optimisers_are_torch_s(name, reference):
    module, w = _Scalar(), nn.Parameter(torch.tensor([1.0, 2.0]))
    options = Optimisation(
        learning_rate=0.1,
        warmup=0,
        decay="none",
        max_grad_norm=1e9,
        optimiser=name,
        betas=(0.8, 0.95),
        weight_decay=0.3,
    )
    training, other = Training.of(module, options), reference(w)
    scale = torch.tensor([3.0, -4.0])
    for index in range(12):
        step(training, lambda: (module.w * scale).square().sum(), options, index, 12)
        other.zero_grad()
        (w * scale).square().sum().backward()
        other.step()
        assert torch.allclose(module.w, w, rtol=1e-6)
    assert not torch.allclose(w, torch.tensor([1.0, 2.0]), atol=0.1)


def test_several_running_means():
    module = _Scalar()
    options = Optimisation(learning_rate=0.1, warmup=0, ema_decay=0.25, ema_decays=(0.0, 0.1))
    training = Training.of(module, options)
    means = {rate: module.w.detach().clone() for rate in (0.25, 0.0, 0.1)}
    for index in range(8):
        step(training, lambda: module.w.square().sum(), options, index, 8)
        for rate, mean in means.items():
            keep = min(rate, (1 + index) / (10 + index))
            means[rate] = keep * mean + (1 - keep) * module.w.detach()
    assert torch.allclose(training.ema.w, means[0.25])
    export = training.exported(lambda module: Export({"net": module}, {}))
    assert torch.equal(export.modules["net"].w, training.ema.w)
    assert list(export.others) == ["0", "0.1"]
    for name, other in export.others.items():
        assert torch.allclose(other().modules["net"].w, means[float(name)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema_decays": (0.999,)}, "different from 'ema_decay'"),
        ({"ema_decays": (0.9, 0.9)}, "all different"),
        ({"ema_decays": (1.1,)}, "from 0 to 1"),
        ({"betas": (0.9, 1.0)}, "'betas' must be two numbers from 0 to less than 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Optimisation(**options)


def test_a_checkpoint_of_another_network_is_refused():
    saved = Training.of(nn.Linear(2, 1), Optimisation()).save()
    other = Training.of(nn.Linear(2, 1, bias=False), Optimisation())
    with pytest.raises(PartError, match=r"checkpoint is of another network \(bias\)"):
        other.restore(saved)


class Tied(nn.Module):
    """Two layers with one weight, and a mask whose entries are infinite."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("mask", torch.full((2,), -torch.inf))

    def forward(self, x):
        return self.second(self.first(x)) + self.mask.exp().sum()


def test_average_of_a_shared_weight_moves_once_and_infinite_constants_stay():
    module = Tied()
    options = Optimisation(warmup=1, decay="none", learning_rate=0.1, ema_decay=0.5)
    training = Training.of(module, options)
    before = module.first.weight.detach().clone()
    step(training, lambda: module(torch.ones(1, 1)).square().sum(), options, 1, 10)
    share = 2 / 11  # early on an average forgets faster than 'ema_decay' says
    wanted = share * before + (1 - share) * module.first.weight
    torch.testing.assert_close(training.ema.first.weight, wanted)
    torch.testing.assert_close(training.ema.second.weight, wanted)
    assert torch.equal(training.ema.mask, module.mask)
    again = Training.of(Tied(), options)
    again.restore(training.save())  # weights must be finite, and constants need not
    assert torch.equal(again.module.second.weight, module.first.weight)


def test_average_follows_the_weights():
    module = _Scalar()
    options = Optimisation(learning_rate=0.1, warmup=0, ema_decay=0.25)
    training = Training.of(module, options)
    assert not any(p.requires_grad for p in training.ema.parameters())
    assert not training.ema.training
    mean = module.w.detach().clone()
    for index in range(5):
        module.count += 1
        step(training, lambda: module.w.square().sum(), options, index, 5)
        keep = min(0.25, (1 + index) / (10 + index))
        mean = keep * mean + (1 - keep) * module.w.detach()
        assert torch.allclose(training.ema.w, mean)
        assert int(training.ema.count) == index + 1
    assert not torch.allclose(mean, module.w, atol=1e-4)


def test_begins_to_train_a_frozen_module():
    module = _Scalar().requires_grad_(False).eval()
    training = Training.of(module, Optimisation(weight_decay=0.3))
    assert module.w.requires_grad
    assert module.training
    assert training.ema.w is not module.w
    assert training.optimiser.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_that_of_forward_passes_only(precision):
    torch.manual_seed(0)
    module, seen = nn.Linear(4, 4), []
    options = Optimisation(precision=precision)
    training = Training.of(module, options)

    def loss():
        out = module(torch.ones(2, 4))
        seen.append(out.dtype)
        return out.float().square().sum()

    step(training, loss, options, 0, 3)
    assert seen == [getattr(torch, precision)]
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert module.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("grad_accumulation", [2, 3])
def test_a_batch_in_pieces_is_the_same_step(grad_accumulation):
    def trained(grad_accumulation):
        training = Training.of(
            Streams(0, ()).initialise(lambda: nn.Linear(2, 1)),
            options := (
                Optimisation(
                    batch=6, grad_accumulation=grad_accumulation, learning_rate=0.1, warmup=0
                )
            ),
        )

        def loss(rows):
            seen.append(rows.samples)
            x = rows.normal((2,)).float()
            odd = torch.tensor([n % 2 == 1 for n in rows.samples])
            return Loss((training.module(x)[:, 0] - x[:, 0]).square(), {"odd": x[odd, 1]})

        seen = []
        results = [advance(training, loss, options, Streams(0, (0,)), i, 3) for i in range(3)]
        return [result.metrics for result in results], training.module.weight.detach(), seen

    whole, weight, _ = trained(1)
    parts, again, seen = trained(grad_accumulation)
    for one, two in zip(whole, parts, strict=True):
        assert one == pytest.approx(two, rel=1e-5)
    assert torch.allclose(weight, again, rtol=1e-5)
    assert sum(seen, ()) == tuple(range(18))
    assert len(seen) == 3 * grad_accumulation
    with pytest.raises(ValueError, match="'grad_accumulation' must divide 'batch', 6"):
        Optimisation(batch=6, grad_accumulation=4)


@attrs.frozen(kw_only=True)
class Fit(TrainingMode[TrainingState]):
    """Fits a small net to the sine of numbers from its streams."""

    kind: ClassVar[str] = "toy_fit"
    needs = frozenset()

    def init(self, problem, streams):
        net = streams.initialise(
            lambda: nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1))
        )
        return TrainingState(Training.of(net, self.optimisation))

    def loss(self, problem, state, rows, index):
        x = rows.normal((1,)).float()
        return Loss((state.training.module(x) - x.sin()).square().mean(1), {"x": x[:, 0]})

    def exported_model(self, problem, state, network):
        return Export({"net": network}, {})


FIT = Fit(steps=6, optimisation=Optimisation(batch=8, warmup=2, ema_decay=0.9, weight_decay=0.1))


class _Watch(Observer):
    """Keeps checkpoints as files are kept, and stops after a step if told."""

    def __init__(self, stop=None, every=None):
        self.stop, self.every, self.seen, self.files = stop, every, [], []

    def step(self, index, steps, state, info):
        self.seen.append((index, dict(info.numbers)))

    def due(self, index):
        return self.every is not None and (index + 1) % self.every == 0

    def stopping(self):
        return self.stop is not None and self.seen[-1][0] + 1 == self.stop

    def checkpoint(self, saved):
        file = io.BytesIO()
        torch.save(saved, file)
        self.files.append(file)

    def last(self):
        self.files[-1].seek(0)
        return torch.load(self.files[-1], weights_only=True)


def _run(watch, saved=None):
    return execute(
        FIT, Problem(NoModel()), Streams(5, (0,)), meter=Meter(), observer=watch, saved=saved
    )


def test_a_resumed_run_ends_in_the_same_bits():
    straight = _Watch()
    whole = _run(straight).state
    stopped, resumed = _Watch(stop=3), _Watch()
    with pytest.raises(KeyboardInterrupt):
        _run(stopped)
    assert [index for index, _ in stopped.seen] == [0, 1, 2]
    saved = stopped.last()
    assert saved["done"] == 3
    again = _run(resumed, saved).state
    assert stopped.seen + resumed.seen == straight.seen
    for name in ("module", "ema"):
        first, second = (getattr(state.training, name).state_dict() for state in (whole, again))
        assert all(torch.equal(first[key], second[key]) for key in first)
    fresh = FIT.init(Problem(NoModel()), Streams(5, (0,))).training.module.state_dict()
    assert not torch.equal(fresh["0.weight"], whole.training.module.state_dict()["0.weight"])
    assert straight.last()["done"] == 6


def test_checkpoints_when_due_and_at_the_end():
    watch = _Watch(every=4)
    _run(watch)
    dones = []
    for file in watch.files:
        file.seek(0)
        dones.append(torch.load(file, weights_only=True)["done"])
    assert dones == [4, 6]


OPTIMISERS = {
    "SGD": lambda w: torch.optim.SGD(w, 0.1, momentum=0.9),
    "Adagrad": lambda w: torch.optim.Adagrad(w, 0.1),
    "Adafactor": lambda w: torch.optim.Adafactor(w, 0.1),
    "NAdam": lambda w: torch.optim.NAdam(w, 0.1),
    "ASGD": lambda w: torch.optim.ASGD(w, 0.1),
    "counting": lambda w: CountingSGD(w, 0.1),
}


class CountingSGD(torch.optim.SGD):
    """Steps whose length depends on a count that is a plain number of the state."""

    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                count = self.state[weight].setdefault("count", 0)
                self.state[weight]["count"] = count + 1
                weight.grad.div_(1 + count)
        return super().step(closure)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_any_optimiser_resumes_from_a_checkpoint_to_the_same_bits(name, tmp_path):
    options = Optimisation(batch=4, learning_rate=0.1, warmup=0)

    def begun():
        net = Streams(0, ()).initialise(lambda: nn.Linear(2, 3))
        training = Training.of(net, options)
        training.optimiser = OPTIMISERS[name](list(net.parameters()))
        return training

    def loss_of(training):
        return lambda rows: Loss(training.module(rows.normal((2,)).float()).square().mean(1))

    def steps(training, first, last):
        for index in range(first, last):
            advance(training, loss_of(training), options, Streams(0, (0,)), index, 6)

    straight, stopped, resumed = begun(), begun(), begun()
    steps(straight, 0, 6)
    steps(stopped, 0, 3)
    progress = {"done": 3, "flops": None, "meter": {}}
    checkpoint.write(tmp_path, {**progress, "state": stopped.save()})
    resumed.restore(checkpoint.read(tmp_path)["state"])
    steps(resumed, 3, 6)
    for key, tensor in straight.module.state_dict().items():
        assert torch.equal(tensor, resumed.module.state_dict()[key])
    assert not torch.equal(straight.module.weight, stopped.module.weight)


def test_group_means_are_those_of_the_rows_of_each_group():
    training = Training.of(_Scalar(), options := Optimisation(batch=6, grad_accumulation=2))

    def loss(rows):
        numbers = torch.tensor(rows.samples)
        weights = GroupedValues(numbers.double(), numbers % 2, 3)
        return Loss(training.module.w.sum() * torch.ones(3), {}, weights)

    even, odd, empty = advance(training, loss, options, Streams(0, (0,)), 0, 1).group_means
    assert (even, odd) == (2.0, 3.0)
    assert math.isnan(empty)


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (1, "12 rows of a batch at once; set mode.optimisation.grad_accumulation to 2"),
        (2, "6 rows of a batch at once; set mode.optimisation.grad_accumulation to 4"),
        (4, "3 rows of a batch at once; set mode.optimisation.grad_accumulation to 12"),
        (12, "a single row; take a smaller model, reward or picture, weights of half their"),
    ],
)
@pytest.mark.parametrize("back", [False, True])
def test_a_batch_that_memory_is_too_small_for_says_how_to_cut_it(pieces, said, back):
    def fail(*_):
        raise RuntimeError("CUDA error: out of memory")

    def loss(rows):
        if not back:
            fail()
        values = scalar.w.sum().expand(len(rows.samples)).clone()
        values.register_hook(fail)
        return Loss(values)

    scalar, options = _Scalar(), Optimisation(batch=12, grad_accumulation=pieces)
    training = Training.of(scalar, options)
    with pytest.raises(OutOfMemoryError, match=f"memory is too small for {said}"):
        advance(training, loss, options, Streams(0, (0,)), 0, 10)


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_step_waits_for_the_device_before_weights_are_moved_and_after(pieces):
    with fake_device() as device:
        net = Streams(0, ()).initialise(lambda: nn.Linear(2, 2)).to(device)
        options = Optimisation(batch=4, grad_accumulation=pieces)
        training = Training.of(net, options)

        def loss(rows):
            square = net(rows.normal((2,)).float()).square().sum(1)
            return Loss(square, {"twice": 2 * square})

        with Waiting() as waiting:
            streams = Streams(0, (0,), device=device)
            first, second = (
                advance(training, loss, options, streams, index, 9).metrics for index in range(2)
            )
    assert first["twice"] == pytest.approx(2 * first["loss"]) and second != first
    assert waiting.counts == {"tolist": 4}


def test_first_step_and_checkpoint_import_nothing_that_was_not_imported_before(tmp_path):
    code = """
import sys, pathlib, torch
from align.engine.meter import Meter
from align.training import checkpoint
from align.training.loop import Optimisation, Training, import_all
import_all()
before = set(sys.modules)
net = torch.nn.Linear(2, 2)
training = Training.of(net, Optimisation(batch=2))
net(torch.ones(1, 2)).sum().backward()
training.optimiser.step()
saved = {"done": 1, "meter": Meter().save(torch.device("cpu")), "state": training.save()}
checkpoint.write(pathlib.Path(sys.argv[1]), saved, {"arm": "a"})
print(sum(name.startswith("torch") for name in set(sys.modules) - before))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10
