"""What fine-tuning `pocket` costs: a step beside a flow-matching step, and when it pays.

    python benchmarks/finetuning.py

Processor time, the shortest of some rounds. Then, from the same measures, the number of samples
from which a run of the recipe is cheaper than steering each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import attrs
import torch
from align_pocket import Pocket, SilhouetteClass
from overhead import CPU, seconds
from torch import Tensor

from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.meter import Meter
from align.estimators.gradient import Gradient
from align.models.network_model import NetworkModel
from align.modes.finetune.draft import Draft
from align.modes.finetune.evaluation import Evaluation
from align.modes.finetune.gradient import TiltGradient
from align.modes.finetune.mode import FineTune
from align.modes.finetune.state import FinetuneState
from align.modes.finetune.stein import TiltStein
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.recipe import Arm, RewardTerm
from align.runner.build import Rewards, build
from align.runner.session import sample
from align.samplers.mfm import MetaFlowMap
from align.training.loop import Optimisation, advance

OBJECTIVES = {
    "reward-weighted flow matching (Stein by the data)": TiltStein(
        draws_from="data", centred=False
    ),
    "Stein, 1 draw": TiltStein(),
    "gradient, 1 draw": TiltGradient(),
    "gradient, 4 draws": TiltGradient(draws=4),
    "DRaFT, last step of 25": Draft(last=1),
}


def problem() -> Problem:
    """All silhouettes, judged for their class."""
    model, sampler = Pocket(prompt="A silhouette of a {class}."), MetaFlowMap()
    mode = BestOfN(n=1)
    arm = Arm(name="", model=model, sampler=sampler, estimator=None, mode=mode)
    term = RewardTerm(part=SilhouetteClass(), name="class")
    return build(arm, Rewards((term,), CPU), CPU, Meter(), samples=8)


def stepping(whole: Problem, mode: FineTune, options: Optimisation) -> Callable[[], object]:
    """A step of fine-tuning, ready to be called."""
    streams = Streams(0, tuple(range(8)))
    state = mode.init(whole, streams)
    losses, tilt = mode.objective.losses, state.tilt

    def step() -> object:
        return advance(state.training, lambda rows: losses(tilt, rows), options, streams, 0, 1000)

    return step


def matching(whole: Problem, mode: FineTune, options: Optimisation) -> Callable[[], object]:
    """A step of flow matching on the same rows with the same network."""
    streams = Streams(0, tuple(range(8)))
    state: FinetuneState = mode.init(whole, streams)
    model = whole.model.capability(NetworkModel)
    assert model is not None

    def loss(rows: Streams) -> tuple[Tensor, Mapping[str, Tensor]]:
        x1, cond = state.clean.rows(rows)
        t, noise = (
            rows.fold_in("t").uniform(()).float(),
            rows.fold_in("noise").normal(model.shape).float(),
        )
        x = expand(1 - t, x1) * noise + expand(t, x1) * x1
        found = state.tilt.student.velocity(x, t, cond)
        return (found - (x1 - noise)).flatten(1).square().mean(1), {}

    return lambda: advance(state.training, loss, options, streams, 0, 1000)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=240, help="of the run that should pay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole, optimisation = problem(), Optimisation(batch=options.batch, warmup=0)
    mode = FineTune(
        pool=48,
        flow_steps=2,
        optimisation=optimisation,
        evaluation=Evaluation(samples=2, flow_steps=2),
    )
    steps = {"flow matching": matching(whole, mode, optimisation)}
    for name, objective in OBJECTIVES.items():
        steps[name] = stepping(whole, attrs.evolve(mode, objective=objective), optimisation)
    times = {name: [seconds(step) for _ in range(options.rounds)] for name, step in steps.items()}
    base = min(times["flow matching"])
    print(
        f"A step of {options.batch} rows\n\n| step | seconds | over flow matching |\n|---|---|---|"
    )
    for name, found in times.items():
        print(f"| {name} | {min(found):.2f} | {min(found) / base:.2f} |", flush=True)
    one = Pocket(prompt="cat")
    terms = [RewardTerm(part=SilhouetteClass(label="cat"), name="cat")]

    def steered(draws: int) -> float:
        mode, estimator = Steer(steps=25), Gradient(draws=draws)

        def made() -> object:
            return sample(
                one,
                mode,
                rewards=terms,
                sampler=MetaFlowMap(),
                estimator=estimator,
                samples=16,
                device="cpu",
            )

        return min(seconds(made) for _ in range(2)) / 16

    plain = (
        min(
            seconds(
                lambda: sample(
                    one, BestOfN(n=1, flow_steps=25), rewards=terms, samples=16, device="cpu"
                )
            )
            for _ in range(2)
        )
        / 16
    )
    training = options.steps * min(times["gradient, 1 draw"])
    print(f"\nA plain sample takes {plain:.3f} s; {options.steps} steps {training:.0f} s.\n")
    print("| steering | seconds a sample | fine-tuning pays from |\n|---|---|---|")
    for draws in (1, 4):
        found = steered(draws)
        print(f"| MFM-G, {draws} draws | {found:.3f} | {training / (found - plain):.0f} samples |")


if __name__ == "__main__":
    main()
