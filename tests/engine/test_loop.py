"""The loop: order of calls, stopping, checkpoints, going on."""

import time
from typing import Any, ClassVar

import attrs
import pytest
import torch

from align.core.checks import checks, count_not_finite
from align.core.errors import ContractError, NotFiniteError, PartError
from align.core.mode import AlignmentMode, Export, Info, Trainable
from align.core.model import NoModel
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.loop import Observer, execute
from align.engine.meter import Meter

STREAMS = Streams(0, (0, 1))


class RunObserver(Observer):
    """Writes down all it is told."""

    def __init__(self, log, stop_after=None, every=None):
        self.log, self.stop_after, self.every = log, stop_after, every
        self.saved = []

    def step(self, index, steps, state, info):
        self.log.append(f"told {index} of {steps}: {info.numbers['x']:g}")
        self.last = index

    def due(self, index):
        return self.every is not None and (index + 1) % self.every == 0

    def stopping(self):
        return self.last + 1 == self.stop_after

    def checkpoint(self, saved):
        self.log.append(f"checkpoint {saved['done']}")
        self.saved.append(saved)


@attrs.frozen(kw_only=True)
class Sums(AlignmentMode[Any]):
    """x -> 2 x + index: the order of steps shows in the end."""

    kind: ClassVar[str] = "sums"
    needs: ClassVar[frozenset[str]] = frozenset()
    log: list = attrs.field(factory=list)
    fails: BaseException | None = None
    steps: int = 3

    def init(self, problem, streams):
        self.log.append("init")
        return torch.ones(2)

    def step(self, problem, state, index, streams):
        self.log.append(f"step {index}")
        if self.fails and index == 1:
            raise self.fails
        state = 2 * state + index
        return state, Info({"x": float(state[0])})

    def finish(self, problem, state):
        self.log.append(f"finish, gradients {torch.is_grad_enabled()}")
        return state


@attrs.frozen(kw_only=True)
class Trained(AlignmentMode[Any], Trainable[Any]):
    """The same, as a mode that trains: the state is a list that `restore` fills."""

    kind: ClassVar[str] = "trained"
    needs: ClassVar[frozenset[str]] = frozenset()
    log: list = attrs.field(factory=list)
    steps: int = 4

    @property
    def batch(self):
        return 1

    def init(self, problem, streams):
        return [1.0]

    def step(self, problem, state, index, streams):
        self.log.append(f"step {index}")
        torch.ones(2, 3) @ torch.ones(3, 5)  # 60 floating-point operations
        state[0] = 2 * state[0] + index
        return state, Info({"x": state[0]})

    def finish(self, problem, state):
        return None

    def save(self, state):
        return {"x": state[0]}

    def restore(self, state, saved):
        state[0] = saved["x"]

    def export(self, problem, state):
        return Export({}, {})


def go(mode, watch, saved=None, meter=None):
    problem, meter = Problem(NoModel()), meter or Meter()
    return execute(mode, problem, STREAMS, meter=meter, observer=watch, saved=saved)


def test_order_of_calls():
    mode = Sums()
    outcome = go(mode, RunObserver(mode.log, every=1))
    assert mode.log == [
        "init",
        "step 0",
        "told 0 of 3: 2",
        "step 1",
        "told 1 of 3: 5",
        "step 2",
        "told 2 of 3: 12",
        "finish, gradients False",
    ]
    assert outcome.x1.tolist() == [12, 12]
    assert outcome.state is outcome.x1


@pytest.mark.parametrize("kind", [Sums, Trained])
def test_the_time_of_a_step_is_told_without_the_first(kind, monkeypatch):
    now, durations = [0.0], [9.0, 1.0, 3.0, 2.0]

    def step(self, problem, state, index, streams):
        now[0] += durations[index]
        return state, Info({"x": 1.0})

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(kind, "step", step)
    cost = go(kind(steps=4), RunObserver([]), meter=Meter(began=0.0)).cost
    assert (cost.seconds, cost.step_seconds) == (15, 2)
    # What trains counts its operations in the first step.
    assert cost.warmup_seconds == (7 if kind is Trained else 0)


@attrs.frozen(kw_only=True)
class Spoilt(Trained):
    """Its second step has a number that a check refuses."""

    def step(self, problem, state, index, streams):
        found = super().step(problem, state, index, streams)
        refused = NotFiniteError("part 'x' returned 1 numbers that are not finite")
        number = torch.tensor(torch.nan if index == 1 else 0.0)
        checks().add(lambda bad: refused if bad[0] else None, count_not_finite(number))
        self.log.append("goes on")
        return found


def test_nothing_is_told_or_kept_of_a_step_whose_checks_fail():
    mode = Spoilt()
    watch = RunObserver(mode.log, every=1)
    with pytest.raises(NotFiniteError, match=r"^part 'x' returned 1 .* finite; in step 2 of 4$"):
        go(mode, watch)
    told = ["step 0", "goes on", "told 0 of 4: 2", "checkpoint 1", "step 1", "goes on"]
    assert mode.log == told
    assert [saved["done"] for saved in watch.saved] == [1]


def test_a_run_that_samples_is_stopped_without_a_checkpoint():
    mode = Sums()
    with pytest.raises(KeyboardInterrupt):
        go(mode, RunObserver(mode.log, stop_after=2))
    assert mode.log[-1] == "told 1 of 3: 5"


def test_checkpoints_when_due_and_at_the_end():
    mode = Trained(steps=5)
    watch = RunObserver(mode.log, every=2)
    outcome = go(mode, watch)
    assert [saved["done"] for saved in watch.saved] == [2, 4, 5]
    assert watch.saved[-1]["state"] == {"x": outcome.state[0]}
    assert mode.log.index("told 1 of 5: 5") + 1 == mode.log.index("checkpoint 2")
    assert outcome.x1 is None


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_stopping_and_going_on_is_as_not_stopping(stop):
    whole = go(Trained(), RunObserver([]))
    mode = Trained()
    watch = RunObserver(mode.log, stop_after=stop)
    with pytest.raises(KeyboardInterrupt):
        go(mode, watch)
    assert [saved["done"] for saved in watch.saved] == [stop]
    later = Trained()
    rest = RunObserver(later.log)
    outcome = go(later, rest, saved=watch.saved[-1])
    steps = [line for line in later.log if line.startswith("step")]
    assert steps == [f"step {index}" for index in range(stop, 4)]
    assert outcome.state == whole.state


def test_costs_are_those_of_all_sessions():
    first, meter = RunObserver([], stop_after=3), Meter()
    meter.count("network", torch.ones(5))
    meter.began -= 100
    with pytest.raises(KeyboardInterrupt):
        go(Trained(), first, meter=meter)
    meter = Meter()
    meter.count("network", torch.ones(2))
    cost = go(Trained(), RunObserver([]), first.saved[-1], meter).cost
    assert cost.flops == 60 * 4
    assert cost.calls == {"network": 7}
    assert 100 <= cost.seconds < 150


def test_an_error_says_in_which_step():
    with pytest.raises(ContractError, match=r"^model 'x' returned nothing; in step 2 of 3$"):
        go(Sums(fails=ContractError("model 'x' returned nothing")), RunObserver([]))
    with pytest.raises(PartError, match=r"^no memory; in step 2 of 3$"):
        go(Sums(fails=PartError("no memory")), RunObserver([]))
    for kind in (ZeroDivisionError, SystemExit, EOFError):
        with pytest.raises(PartError) as caught:
            go(Sums(fails=kind("oh")), RunObserver([]))
        told = str(caught.value)
        assert told.startswith(f"mode 'sums': step raised {kind.__name__}: oh (")
        assert told.endswith("; in step 2 of 3")


def test_a_problem_without_a_model_says_so():
    mode = Sums(fails=None)
    problem = Problem(NoModel())
    assert problem.model.encode(["a"]).prompts == ("a",)
    for call in (lambda: problem.model.velocity(None, None, None), lambda: problem.model.decode(0)):
        with pytest.raises(ContractError, match="does not say so in its `needs`"):
            call()
    assert mode.needs == frozenset()
