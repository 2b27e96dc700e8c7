"""The parts of a recipe, loaded and put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from align.core.guard import GuardedModel, GuardedReward
from align.core.meter import Meter
from align.core.model import NoModel
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.errors import PartError
from align.recipe import Arm, RewardTerm
from align.training import parallel


def device_of(name: str) -> torch.device:
    """The device that a recipe asks for; "auto" is CUDA when there is one.

    Raises:
        PartError: CUDA is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise PartError("run.device: torch sees no CUDA device here; use 'auto' or 'cpu'")
    if there and name != "cpu" and not parallel.has_own_gpu():
        raise PartError(
            f"run.device: each process needs a CUDA device of its own, and torch sees"
            f" {torch.cuda.device_count()}; start fewer processes or use 'cpu'"
        )
    return torch.device(("cuda" if there else "cpu") if name == "auto" else name)


def build(
    arm: Arm,
    rewards: Sequence[RewardTerm],
    device: torch.device,
    meter: Meter,
    *,
    samples: int,
    chunk: int = 0,
) -> Problem:
    """Load model and rewards, and put them under guard.

    Raises:
        PartError: a part cannot be loaded.
        PromptError: the model cannot follow its prompt.
    """
    if arm.model is None:
        return Problem(NoModel())
    inner = arm.model.build(device)
    # What fits depends on the network; this is a size at which kernels are busy and memory small.
    rows = chunk or {"image": 64 if device.type == "cpu" else 256, "vector": 1 << 20}[inner.domain]
    model = GuardedModel(inner, arm.model.kind, meter, rows)
    terms = tuple(
        Term(
            name=term.name,
            reward=GuardedReward(term.part.build(device), term.name, meter, rows),
            weight=term.weight,
            held_out=term.held_out,
        )
        for term in rewards
    )
    cond = model.encode([arm.model.prompt] * samples)
    # A way back keeps everything on its way: about four times as much a row.
    back = chunk or rows // 4
    return Problem(model, WeightedReward(terms), arm.sampler, arm.estimator, cond, back)
