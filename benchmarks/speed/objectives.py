"""What a step of each objective of `distill` costs, on the transformer of `pocket`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import attrs
import torch
from align_pocket import Pocket

from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.network_model import NetworkModel
from align.modes.distill.coupling import Clean, Coupling
from align.modes.distill.diagonal import DataTarget
from align.modes.distill.mode import Distill, DistillState
from align.modes.distill.times import Times
from align.training.latents import Examples
from align.training.loop import Optimisation, Training
from benchmarks.objectives import OBJECTIVES
from benchmarks.speed.timing import CPU, Sizes, shortest
from benchmarks.table import Table


def started(
    name: str, model: NetworkModel, plain: bool, optimisation: Optimisation
) -> Callable[[], object]:
    """A step of `distill` on random latents; a plain one is flow matching on data alone."""
    diagonal, consistency = OBJECTIVES[name]
    mode = Distill(
        diagonal=DataTarget() if plain else diagonal,
        consistency=consistency,
        times=Times(diagonal_share=1.0 if plain else 0.5),
        optimisation=optimisation,
    )
    problem = Problem(GuardedModel(model, "pocket", Meter(), 1 << 20))
    streams, indices = Streams(0, (0,), device=model.device), count()
    states = streams.numbered(0, 256).normal(model.shape).float()[None]
    labels = torch.zeros(256, dtype=torch.int64, device=model.device)
    examples = Examples(states, labels, len(model.classes))
    student = streams.initialise(lambda: mode._untrained(model)).to(model.device)
    clean = Clean(problem, model, None, True, examples, 0.1)
    coupling = Coupling(problem, model, "meta_flow_map", clean, 1.0)
    state = DistillState(Training.of(student, mode.optimisation), coupling)
    return lambda: mode.step(problem, state, next(indices), streams)


def tables(sizes: Sizes) -> Iterator[Table]:
    """Times of a step, in flow-matching steps of as many rows through the same network."""
    model = Pocket().build(CPU)
    assert isinstance(model, NetworkModel)
    latents = attrs.evolve(model, autoencoder=None)
    optimisation = Optimisation(batch=sizes.batch)
    plain = started("semigroup", latents, True, optimisation)

    def row(name: str) -> tuple[str, str]:
        calls = {"objective": started(name, latents, False, optimisation), "plain": plain}
        times = shortest(calls, sizes.rounds)
        return name, f"{times['objective'] / times['plain']:.2f}"

    yield Table(
        f"A step of {sizes.batch} rows, shortest of {sizes.rounds} rounds",
        ("objective", "time of a step, in flow-matching steps"),
        map(row, list(OBJECTIVES)[:2] if sizes.toy else OBJECTIVES),
    )
