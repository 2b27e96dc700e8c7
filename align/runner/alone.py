"""Whether parts treat a sample alone otherwise than among others, which no part may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from align.core.errors import AlignError
from align.core.path import times_of
from align.core.problem import Problem
from align.engine.guard import guarded
from align.runner.build import Built

_AMONG: Final = 4  # samples that a model is asked about at once
_ROUNDED: Final = 0.03  # of the root mean square: more than half precision rounds


def dependent_model(built: Built, x1: Tensor, data: Tensor) -> tuple[str, ...]:
    """Whether the model moves or decodes the last sample alone otherwise than among others.

    It costs five rows of the network and one of the decoder.
    """
    if len(x1) < 2:
        return ()
    model, cond = guarded(built.problem.model), built.problem.cond
    t = times_of(x1, 0.5)
    noise = built.streams.fold_in("alone").normal(model.shape).to(x1)
    x = model.path.interpolate(noise, x1, t)

    def velocity(rows: slice) -> Tensor:
        return model.velocity(x[rows], t[rows], cond.rows(rows))

    def decoded(rows: slice) -> Tensor:
        return model.decode(x1[rows])

    notes = list[str]()
    last, among = slice(len(x1) - 1, None), slice(max(0, len(x1) - _AMONG), None)
    for what, ask, known in (("velocity", velocity, None), ("decode", decoded, data)):
        who = f"model '{model.name}': {what}"
        try:
            usual = (ask(among) if known is None else known)[-1:].double()
        except AlignError:  # samples that no flow has any more
            continue
        try:
            alone = ask(last).double()
        except AlignError as error:
            notes.append(f"{who} cannot be asked about a sample alone: {error}")
            continue
        if not float((alone - usual).norm()) <= _ROUNDED * float(usual.norm()):
            notes.append(
                f"{who} of a sample alone is another than among others: row i of it must depend on"
                " row i of what it is given alone, and be the same each time."
            )
    return tuple(notes)


def dependent_rewards(
    problem: Problem, x1: Tensor, data: Tensor, scores: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Which rewards score the last sample alone otherwise than among the others.

    That is by more than half a percent of the largest score and a percent of the scores' deviation,
    far beyond rounding. It costs a row of every reward.
    """
    if len(data) < 2:
        return ()
    prompts, notes = problem.cond.prompts[-1:], list[str]()
    for term in problem.reward.scoring:
        among = scores[term.name].double()
        if bool(among.isnan().any()):  # a service that fails now and then
            continue
        allowed = 0.005 * float(among.abs().max()) + 0.01 * float(among.std())
        try:
            alone = float(term.score(x1[-1:], data[-1:], prompts))
        except AlignError as error:
            notes.append(f"reward '{term.name}' cannot score a sample alone: {error}")
            continue
        if not abs(alone - float(among[-1])) <= allowed:
            notes.append(
                f"reward '{term.name}' scores a sample alone otherwise than among others: row i of"
                " a score must depend on row i of the data alone, and be the same each time."
            )
    return tuple(notes)
