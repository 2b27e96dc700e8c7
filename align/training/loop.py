"""One optimisation step, shared by everything that trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor, nn

from align.core.option import above, at_least, between, option
from align.core.streams import Streams

Loss: TypeAlias = Callable[[Streams], tuple[Tensor, Mapping[str, Tensor]]]
"""Losses (b,) of some rows of a batch, and named numbers, each of as many rows as it is about.

Row i of all of training is sample i of the streams: what a row is made of depends on (seed, i)
alone, so a batch may be cut anywhere.
"""


@final
@attrs.frozen(kw_only=True)
class Optimisation:
    """How weights are changed."""

    batch: int = option("rows of a step", default=128, check=at_least(1))
    accumulate: int = option(
        "pieces of a batch that go through the network one after the other", default=1,
        check=at_least(1),
    )  # fmt: skip
    rate: float = option("learning rate after the warm-up", default=1e-3, check=above(0))
    warmup: int = option("steps over which the rate grows", default=200, check=at_least(0))
    decay: Literal["none", "cosine"] = option("course of the rate after that", default="cosine")
    weight_decay: float = option("AdamW's", default=0.0, check=at_least(0))
    clip: float = option("largest norm of the gradient", default=1.0, check=above(0))
    average: float = option("decay of the running mean of weights", default=0.999,
                            check=between(0, 1))  # fmt: skip
    precision: Literal["float32", "bfloat16"] = option("of forward passes", default="float32")

    def __attrs_post_init__(self) -> None:
        if self.batch % self.accumulate:
            raise ValueError(f"'accumulate' must divide 'batch', {self.batch}")


@final
@attrs.define(eq=False)
class Training:
    """Weights under way: the only mutable state of a run, saved whole in its checkpoints."""

    module: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer

    @classmethod
    def of(cls, module: nn.Module, options: Optimisation) -> Training:
        """Begin to train `module`."""
        module.train().requires_grad_(True)
        average = copy.deepcopy(module).eval().requires_grad_(False)
        optimiser = torch.optim.AdamW(
            module.parameters(), options.rate, (0.9, 0.99), weight_decay=options.weight_decay
        )
        return cls(module, average, optimiser)

    def save(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up where `saved` was."""
        self.module.load_state_dict(saved["module"])
        self.average.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])


def rate_at(options: Optimisation, index: int, steps: int) -> float:
    """Learning rate of step `index` of `steps`."""
    if index < options.warmup:
        return options.rate * (index + 1) / options.warmup
    if options.decay == "none":
        return options.rate
    done = (index - options.warmup) / max(1, steps - options.warmup)
    return options.rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def advance(
    training: Training, loss: Loss, options: Optimisation, streams: Streams, index: int, steps: int
) -> dict[str, float]:
    """Step `index` of `steps`, down the gradient of the mean loss; returns means for the record."""
    rate = rate_at(options, index, steps)
    for group in training.optimiser.param_groups:
        group["lr"] = rate
    training.optimiser.zero_grad(set_to_none=True)
    seen: dict[str, list[Tensor]] = {}
    for rows in pieces(options, streams, index):
        with torch.autocast(
            rows.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"
        ):
            losses, said = loss(rows)
        (losses.sum() / options.batch).backward()
        for name, values in {"loss": losses, **said}.items():
            seen.setdefault(name, []).append(values.detach().double())
    norm = nn.utils.clip_grad_norm_(training.module.parameters(), options.clip)
    training.optimiser.step()
    # Early on the running mean forgets faster, so that it does not remember the start.
    keep = min(options.average, (1 + index) / (10 + index))
    with torch.no_grad():
        old, new = training.average.state_dict(), training.module.state_dict()
        for name, tensor in old.items():
            if tensor.is_floating_point():
                tensor.lerp_(new[name], 1 - keep)
            else:
                tensor.copy_(new[name])
    means = {name: torch.cat(values) for name, values in seen.items()}
    found = {name: float(values.mean()) for name, values in means.items() if len(values)}
    return found | {"norm": float(norm), "rate": rate}


def pieces(options: Optimisation, streams: Streams, index: int) -> Iterator[Streams]:
    """The rows of batch number `index`, as many at a time as go through the network at once."""
    size = options.batch // options.accumulate
    for first in range(index * options.batch, (index + 1) * options.batch, size):
        yield streams.numbered(first, size)
