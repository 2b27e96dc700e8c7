"""One optimisation step, shared by everything that trains."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor, nn

from align.core.mode import Export
from align.core.option import above, at_least, between, option
from align.core.streams import Streams
from align.errors import PartError
from align.training import checkpoint, parallel
from align.training.parallel import Parallel

Loss: TypeAlias = Callable[[Streams], tuple[Tensor, Mapping[str, Tensor]]]
"""Losses (b,) of some rows of a batch, and named numbers, each of as many rows as it is about.

Row i of all of training is sample i of the streams: what a row is made of depends on (seed, i)
alone, so a batch may be cut anywhere.
"""


@final
@attrs.frozen(kw_only=True)
class Optimisation:
    """How weights are changed.

    Reference: Decoupled Weight Decay Regularization, Loshchilov, Hutter, 2017, arXiv:1711.05101,
    Alg. 2 (AdamW); On the Variance of the Adaptive Learning Rate and Beyond, Liu et al., 2019,
    arXiv:1908.03265, Alg. 2 (RAdam).
    """

    batch: int = option("rows of a step, of all processes together", default=128, check=at_least(1))
    grad_accumulation: int = option(
        "pieces of a batch that go through the network one after the other",
        default=1,
        check=at_least(1),
    )
    optimiser: Literal["adamw", "radam"] = option("what makes steps of gradients", default="adamw")
    betas: tuple[float, float] = option(
        "decay of its means of gradients and of their squares", default=(0.9, 0.99)
    )
    learning_rate: float = option("learning rate after the warm-up", default=1e-3, check=above(0))
    warmup: int = option("steps over which the rate grows", default=200, check=at_least(0))
    decay: Literal["none", "cosine"] = option("course of the rate after that", default="cosine")
    weight_decay: float = option(
        "of weights, apart from the gradient", default=0.0, check=at_least(0)
    )
    max_grad_norm: float = option("largest norm of the gradient", default=1.0, check=above(0))
    ema_decay: float = option(
        "decay of the running mean of weights", default=0.999, check=between(0, 1)
    )
    ema_decays: tuple[float, ...] = option(
        "decays of further means, each kept in a weights file of its own", default=()
    )
    precision: Literal["float32", "bfloat16"] = option("of forward passes", default="float32")
    parallel: Parallel = option(
        "what several processes do: 'ddp', each has all weights; 'fsdp', each has a share of them",
        default="ddp",
    )

    def __attrs_post_init__(self) -> None:
        if self.batch % self.grad_accumulation:
            raise ValueError(f"'grad_accumulation' must divide 'batch', {self.batch}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("'betas' must be two numbers from 0 to less than 1")
        means = (self.ema_decay, *self.ema_decays)
        if not all(0 <= mean <= 1 for mean in means) or len({*means}) < len(means):
            raise ValueError("'ema_decays' must be from 0 to 1, each another and none 'ema_decay'")


@final
@attrs.define(eq=False)
class Training:
    """Weights under way: the only mutable state of a run, saved whole in its checkpoints.

    Attributes:
        module: what is trained.
        means: running means of its weights, by their decays; `ema` is the first.
        optimiser: of the weights.
        replica: takes a loss and rows to the loss of the rows.
    """

    module: nn.Module
    means: Mapping[float, nn.Module]
    optimiser: torch.optim.Optimizer
    replica: nn.Module

    @classmethod
    def of(cls, module: nn.Module, options: Optimisation, *, whole: bool = True) -> Training:
        """Begin to train `module`, the whole of it or what of it requires gradients.

        Raises:
            PartError: the batch cannot be shared by the processes.
        """
        share = parallel.count() * options.grad_accumulation
        if options.batch % share:
            pieces = options.grad_accumulation
            raise PartError(
                f"mode.optimisation.batch: {parallel.count()} processes with {pieces}"
                f" pieces each cannot share {options.batch} rows; use a multiple of {share}"
            )
        module.train()
        if whole:
            module.requires_grad_(True)
        blanks = {rate: copy.deepcopy(module) for rate in (options.ema_decay, *options.ema_decays)}
        replica = parallel.replica(module, options.parallel)
        means = {rate: parallel.copied(blank, module) for rate, blank in blanks.items()}
        return cls(module, means, _optimiser(module, options), replica)

    @property
    def ema(self) -> nn.Module:
        """The first running mean; where weights are spread, all processes must ask for it."""
        return parallel.whole_module(next(iter(self.means.values())))

    def exported(self, export: Callable[[nn.Module], Export]) -> Export:
        """What `export` makes of the first running mean, and beside it of the others."""

        def other(mean: nn.Module) -> Export:
            return export(parallel.whole_module(mean))

        further = list(self.means.items())[1:]
        others = {f"{rate:g}": functools.partial(other, mean) for rate, mean in further}
        return attrs.evolve(export(self.ema), others=others)

    def save(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors, under way and not copied."""
        named = [
            (k, weight) for k, weight in self.module.named_parameters() if weight.requires_grad
        ]
        return {
            "module": self.module.state_dict(),
            "means": {str(rate): mean.state_dict() for rate, mean in self.means.items()},
            "optimiser": {name: self.optimiser.state[weight] for name, weight in named},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up where `saved` was, with as many processes as there are now."""
        checkpoint.fill(self.save(), saved)


def _optimiser(module: nn.Module, options: Optimisation) -> torch.optim.Optimizer:
    """The optimiser, its state there from the start so that it can be restored in place."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    decay = options.weight_decay
    optimiser: torch.optim.Optimizer
    if options.optimiser == "radam":
        optimiser = torch.optim.RAdam(
            weights,
            options.learning_rate,
            options.betas,
            weight_decay=decay,
            decoupled_weight_decay=True,
        )
    else:
        optimiser = torch.optim.AdamW(
            weights, options.learning_rate, options.betas, weight_decay=decay
        )
    for weight in weights:
        moments = {name: torch.zeros_like(weight.data) for name in ("exp_avg", "exp_avg_sq")}
        optimiser.state[weight] = {"step": torch.tensor(0.0), **moments}
    return optimiser


def rate_at(options: Optimisation, index: int, steps: int) -> float:
    """Learning rate of step `index` of `steps`."""
    if index < options.warmup:
        return options.learning_rate * (index + 1) / options.warmup
    if options.decay == "none":
        return options.learning_rate
    done = (index - options.warmup) / max(1, steps - options.warmup)
    return options.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def advance(
    training: Training, loss: Loss, options: Optimisation, streams: Streams, index: int, steps: int
) -> dict[str, float]:
    """Step `index` of `steps`, down the gradient of the mean loss; returns means for the record."""
    rate = rate_at(options, index, steps)
    for group in training.optimiser.param_groups:
        group["lr"] = rate
    training.optimiser.zero_grad(set_to_none=True)
    seen: dict[str, list[Tensor]] = {}
    for number, rows in enumerate(pieces(options, streams, index), 1):
        half = torch.autocast(
            rows.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"
        )
        with parallel.silent(training.replica, last=number == options.grad_accumulation):
            with half:
                losses, said = training.replica(loss, rows)
            # Gradients are means over the processes, and the batch is that of all of them.
            (losses.sum() * (parallel.count() / options.batch)).backward()
        for name, values in {"loss": losses, **said}.items():
            seen.setdefault(name, []).append(values.detach().double())
    norm = nn.utils.clip_grad_norm_(training.module.parameters(), options.max_grad_norm)
    training.optimiser.step()
    for decay, mean in training.means.items():
        # Early on a running mean forgets faster, so that it does not remember the start.
        _follow(mean, training.module, min(decay, (1 + index) / (10 + index)))
    return _means(seen) | {"norm": float(parallel.whole(norm)), "learning_rate": rate}


@torch.no_grad()
def _follow(mean: nn.Module, module: nn.Module, keep: float) -> None:
    """Move the mean's weights to `keep` of themselves and 1 − `keep` of the module's."""
    new = module.state_dict()
    for name, tensor in mean.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(new[name], 1 - keep)
        else:
            tensor.copy_(new[name])


def _means(seen: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """The mean of each number over the rows of all processes."""
    rows = [torch.cat(values) for values in seen.values()]
    sums = parallel.summed(torch.stack([values.sum() for values in rows]))
    counts = parallel.summed(torch.tensor([len(values) for values in rows]))
    means = zip(seen, sums.tolist(), counts.tolist(), strict=True)
    return {name: one / many for name, one, many in means if many}


def pieces(options: Optimisation, streams: Streams, index: int) -> Iterator[Streams]:
    """This process's rows of batch number `index`, as many at a time as go through a network."""
    share = options.batch // parallel.count()
    begin = index * options.batch + parallel.rank() * share
    for first in range(begin, begin + share, share // options.grad_accumulation):
        yield streams.numbered(first, share // options.grad_accumulation)
