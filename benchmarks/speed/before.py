"""What became faster since another checkout: times of both, measured in turn.

    python -m benchmarks.speed.before ../earlier/.venv/bin/python ../earlier --rounds 9

Each checkout has a process of its own, which stays, and one of them works at a time. Times are
those of the processor; a ratio is the median over the rounds of the earlier time over the one now.
Beside it stands the ratio of this checkout to itself, measured likewise, in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from align.core.model import Condition
from align.core.problem import Problem
from align.core.reward import Reward, Term, WeightedReward
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.engine.allocator import keep_freed
from align.engine.guard import GuardedModel, GuardedReward
from align.engine.loop import execute
from align.engine.meter import Meter
from align.estimators.gaussian import GaussianValue
from align.estimators.gradient import Gradient
from align.models.mixture import GaussianMixture, Mixture
from align.models.network_model import NetworkModel
from align.modes.sampling.steer import Steer
from align.networks.mlp import MLPConfig
from align.rewards.linear import Likelihood
from align.runner.observers import NullObserver
from align.samplers.mfm import MetaFlowMap

CPU = torch.device("cpu")
Call = Callable[[], object]


class Near(Reward):
    """−‖x‖²: a reward that costs nothing."""

    def score(self, data: torch.Tensor, prompts: object) -> torch.Tensor:
        """Scores of vectors (B, D)."""
        return -data.square().sum(1)


def numbers(rows: int, *shape: int) -> Call:
    """Normal random numbers."""
    streams = Streams(0, tuple(range(rows))).fold_in("x", 3)
    return lambda: streams.normal(shape)


def mixture(size: int) -> GaussianMixture:
    """25 components."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(25, size, generator=generator)
    points = tuple(tuple(map(float, mean)) for mean in means)
    return Mixture(weights=(1.0,) * 25, means=points, stds=(0.2,) * 25).build(CPU)


def velocity(rows: int, size: int, *, back: bool) -> Call:
    """The velocity of a mixture, and the way back."""
    model, x = mixture(size), Streams(0, tuple(range(rows))).normal((size,))
    t, cond = torch.full((rows,), 0.7).double(), Condition(("",) * rows)

    def call() -> object:
        leaf = x.clone().requires_grad_(back)
        found = model.velocity(leaf, t, cond)
        return torch.autograd.grad(found.sum(), leaf) if back else found

    return call


def measured(rows: int, size: int) -> Call:
    """Five steps of the mixture steered by the closed value of a measurement."""
    part = Likelihood(matrix=((1.0,) * size,), observed=(0.3,), std=0.1)
    term = Term(name="likelihood", reward=part.build(CPU))
    return steered(mixture(size), term, None, GaussianValue(), rows, 5)


def toy(rows: int, draws: int) -> Call:
    """A hundred steps of MFM-G with networks of 32 units."""
    config = MLPConfig(width=32, depth=2)
    flow = Streams(0, (), ("flow",)).initialise(lambda: config.build((2,), 0, "flow"))
    posterior = Streams(0, (), ("map",)).initialise(lambda: config.build((2,), 0, "meta_flow_map"))
    for net in (flow, posterior):
        net.eval().requires_grad_(False)
    model = NetworkModel(shape=(2,), domain="vector", flow=flow, posterior=posterior)
    term = Term(name="near", reward=Near(), weight=0.01)
    return steered(model, term, MetaFlowMap(), Gradient(draws=draws), rows, 100)


def steered(inner: Any, term: Term, sampler: Any, estimator: Any, rows: int, steps: int) -> Call:
    """A run through the engine, as `align run` does it."""
    meter = Meter()
    model = GuardedModel(inner, "model", meter, 1 << 20)
    reward: Any = GuardedReward(term.reward, term.name, meter, 1 << 20, True)
    terms = WeightedReward((Term(name=term.name, reward=reward, weight=term.weight),))
    problem = Problem(model, terms, sampler, estimator, model.encode([""] * rows))
    mode, streams = Steer(steps=steps, dynamics=ODE()), Streams(0, tuple(range(rows)))
    return lambda: execute(mode, problem, streams, meter=meter, observer=NullObserver())


def decoding(rows: int) -> Call:
    """Pictures of the model `pocket`."""
    from align_pocket import Pocket

    model = Pocket(prompt="cat").build(CPU)
    x1 = Streams(0, tuple(range(rows))).normal(model.shape).float()

    def call() -> object:
        with torch.no_grad():
            return model.decode(x1)

    return call


SUBJECTS: Mapping[str, Callable[[], Call]] = {
    "16 random numbers": lambda: numbers(8, 2),
    "50,176 random numbers": lambda: numbers(64, 16, 7, 7),
    "velocity of a mixture, 1024 x 2": lambda: velocity(1024, 2, back=False),
    "velocity of a mixture, 256 x 64": lambda: velocity(256, 64, back=False),
    "the same, there and back": lambda: velocity(256, 64, back=True),
    "5 steps with the closed value, 256 x 64": lambda: measured(256, 64),
    "100 steps of MFM-G, toy networks, 8 rows, 1 draw": lambda: toy(8, 1),
    "100 steps of MFM-G, toy networks, 8 rows, 4 draws": lambda: toy(8, 4),
    "decoding of 16 pictures of `pocket`": lambda: decoding(16),
}


def work() -> None:
    """Time the subjects whose names come in, each for as many calls as take a tenth of a second."""
    torch.set_num_threads(1)
    keep_freed()
    calls, counts = dict[str, Call](), dict[str, int]()
    for line in sys.stdin:
        name = line.strip()
        if name not in calls:
            calls[name] = SUBJECTS[name]()
            calls[name](), calls[name]()
            counts[name] = max(1, round(0.1 / max(1e-6, seconds(calls[name], 1))))
        print(seconds(calls[name], counts[name]), flush=True)


def seconds(call: Call, count: int) -> float:
    """Processor time of a call."""
    began = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - began) / count


class Checkout:
    """A process that times subjects with the code of a checkout."""

    def __init__(self, python: str, folder: str) -> None:
        command = [python, str(Path(__file__).resolve()), "--work"]
        paths = [folder, *map(str, Path(folder).glob("plugins/*"))]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1"},
        )

    def time(self, name: str) -> float:
        """Seconds of a call of a subject."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", help="interpreter of the earlier checkout")
    parser.add_argument("folder", help="the earlier checkout")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="subjects whose name has this in it")
    options = parser.parse_args()
    here = str(Path(__file__).resolve().parents[2])
    earlier = Checkout(options.python, str(Path(options.folder).resolve()))
    now, again = (Checkout(sys.executable, here) for _ in range(2))
    print("| what | earlier, ms | now, ms | earlier / now | now / now |\n|---|---|---|---|---|")
    for name in [name for name in SUBJECTS if options.only in name]:
        rounds = [[one.time(name) for one in (earlier, now, again)] for _ in range(options.rounds)]
        old, new, _ = (1e3 * min(column) for column in zip(*rounds, strict=True))
        ratios = [statistics.median(row[k] / row[1] for row in rounds) for k in (0, 2)]
        print(f"| {name} | {old:.3g} | {new:.3g} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)
    for each in (earlier, now, again):
        each.process.terminate()


if __name__ == "__main__":
    work() if "--work" in sys.argv else main()
