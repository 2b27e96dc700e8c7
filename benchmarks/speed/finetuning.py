"""What fine-tuning `pocket` costs: a step beside a flow-matching step, and when it pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
from align_pocket import Pocket, SilhouetteClass

from align.core.estimator import ValueEstimator
from align.core.mode import AlignmentMode
from align.core.objective import Loss
from align.core.path import expand
from align.core.problem import Problem
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.estimators.gradient import Gradient
from align.models.network_model import NetworkModel
from align.modes.finetune.draft import Draft
from align.modes.finetune.evaluation import Evaluation
from align.modes.finetune.gradient import GradientObjective
from align.modes.finetune.mode import FineTune
from align.modes.finetune.state import FinetuneState
from align.modes.finetune.stein import SteinObjective
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.recipe import Arm, RewardTerm, Run
from align.runner.build import Rewards, build
from align.runner.direct import sample
from align.samplers.mfm import MetaFlowMap
from align.training.loop import Optimisation, advance
from benchmarks.speed.timing import CPU, Sizes, shortest
from benchmarks.table import Table

OBJECTIVES: dict[str, GradientObjective | SteinObjective | Draft] = {
    "reward-weighted flow matching (Stein by the data)": SteinObjective(
        draws_from="data", centred=False
    ),
    "Stein, 1 draw": SteinObjective(),
    "gradient, 1 draw": GradientObjective(),
    "gradient, 4 draws": GradientObjective(draws=4),
    "DRaFT, last step of 25": Draft(last=1),
}
RUN = 240
"""Steps of the run of fine-tuning that should pay."""


def problem() -> Problem:
    """All silhouettes, judged for their class."""
    model, sampler = Pocket(prompt="A silhouette of a {class}."), MetaFlowMap()
    mode = BestOfN(n=1)
    arm = Arm(name="", model=model, sampler=sampler, estimator=None, mode=mode)
    term = RewardTerm(part=SilhouetteClass(), name="class")
    return build(arm, Rewards((term,), CPU), Run(samples=8)).problem


def stepping(whole: Problem, mode: FineTune, options: Optimisation) -> Callable[[], object]:
    """A step of fine-tuning, ready to be called."""
    streams = Streams(0, tuple(range(8)))
    state = mode.init(whole, streams)
    loss, target = mode.objective.loss, state.target

    def step() -> object:
        return advance(state.training, lambda rows: loss(target, rows), options, streams, 0, 1000)

    return step


def matching(whole: Problem, mode: FineTune, options: Optimisation) -> Callable[[], object]:
    """A step of flow matching on the same rows with the same network."""
    streams = Streams(0, tuple(range(8)))
    state: FinetuneState = mode.init(whole, streams)
    model = whole.model.capability(NetworkModel)
    assert model is not None

    def loss(rows: Streams) -> Loss:
        x1, cond = state.clean.rows(rows)
        t, noise = (
            rows.fold_in("t").uniform(()).float(),
            rows.fold_in("noise").normal(model.shape).float(),
        )
        x = expand(1 - t, x1) * noise + expand(t, x1) * x1
        velocity = state.target.student.velocity(x, t, cond)
        return Loss((velocity - (x1 - noise)).flatten(1).square().mean(1))

    return lambda: advance(state.training, loss, options, streams, 0, 1000)


def tables(sizes: Sizes) -> Iterator[Table]:
    """Steps of training, then the number of samples from which a run is cheaper than steering."""
    whole, optimisation = problem(), Optimisation(batch=sizes.batch, warmup=0)
    mode = FineTune(
        pool=sizes.batch,
        flow_steps=2,
        optimisation=optimisation,
        evaluation=Evaluation(samples=2, flow_steps=2),
    )
    steps: dict[str, Callable[[], object]] = {
        "flow matching": matching(whole, mode, optimisation),
        **{
            name: stepping(whole, attrs.evolve(mode, objective=objective), optimisation)
            for name, objective in OBJECTIVES.items()
            if not sizes.toy or name == "gradient, 1 draw"
        },
    }
    times = shortest(steps, sizes.rounds)
    matched = times["flow matching"]
    yield Table(
        f"A training step of {sizes.batch} rows, shortest of {sizes.rounds} rounds",
        ("step", "seconds", "over flow matching"),
        [(name, f"{time:.2f}", f"{time / matched:.2f}") for name, time in times.items()],
    )
    training = RUN * times["gradient, 1 draw"]
    samples, flow_steps = sizes.rows, 2 if sizes.toy else 25
    arms: dict[str, Callable[[], object]] = {
        "none": partial(sampled, BestOfN(n=1, flow_steps=flow_steps), samples),
        **{
            f"MFM-G, {draws} draws": partial(
                sampled, Steer(steps=flow_steps), samples, MetaFlowMap(), Gradient(draws=draws)
            )
            for draws in ((1,) if sizes.toy else (1, 4))
        },
    }
    spent = {name: time / samples for name, time in shortest(arms, 2).items()}
    plain = spent.pop("none")
    yield Table(
        f"A plain sample takes {plain:.3f} s; {RUN} steps take {training:.0f} s",
        ("steering", "seconds a sample", "fine-tuning pays from"),
        [
            (name, f"{time:.3f}", f"{training / (time - plain):.0f} samples")
            for name, time in spent.items()
        ],
    )


def sampled(
    mode: AlignmentMode[Any],
    samples: int,
    sampler: PosteriorSampler | None = None,
    estimator: ValueEstimator | None = None,
) -> None:
    """Cats by a mode, for the reward of their class."""
    terms = [RewardTerm(part=SilhouetteClass(label="cat"), name="cat")]
    sample(
        Pocket(prompt="cat"),
        mode,
        rewards=terms,
        sampler=sampler,
        estimator=estimator,
        samples=samples,
        device="cpu",
    )
