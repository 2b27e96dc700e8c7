"""One optimisation step, shared by everything that trains."""

from __future__ import annotations

import copy
import functools
import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor, nn

from align.core.checks import checks
from align.core.chunks import is_out_of_memory, too_small
from align.core.errors import DivergedError, OutOfMemoryError, PartError
from align.core.mode import Export
from align.core.network import VelocityNetwork
from align.core.objective import GroupedValues, Loss
from align.core.option import above, at_least, between, option
from align.core.streams import Streams
from align.training import checkpoint, parallel
from align.training.parallel import Parallel
from align.training.weights import in_float32

LossFunction: TypeAlias = Callable[[Streams], Loss]
"""The loss of some rows of a batch.

Row i of all of training is sample i of the streams: what a row is made of depends on (seed, i)
alone, so a batch may be cut anywhere.
"""


@final
@attrs.frozen(eq=False)
class StepResult:
    """What one optimisation step measured, over the rows of all processes.

    Attributes:
        metrics: means of the loss and of its metrics, the norm of the gradient before clipping,
            and the learning rate.
        group_means: mean of `Loss.weights` in each group, NaN in a group without rows; empty where
            rows are not weighed.
    """

    metrics: Mapping[str, float]
    group_means: tuple[float, ...] = ()


@final
@attrs.frozen(kw_only=True)
class Optimisation:
    """How weights are updated: batches, optimiser, learning rate, averages and precision.

    Reference: Decoupled Weight Decay Regularization, Loshchilov, Hutter, 2017, arXiv:1711.05101,
    Alg. 2 (AdamW); On the Variance of the Adaptive Learning Rate and Beyond, Liu et al., 2019,
    arXiv:1908.03265, Alg. 2 (RAdam).
    """

    batch: int = option(
        "number of rows in a step, over all processes", default=128, check=at_least(1)
    )
    grad_accumulation: int = option(
        "number of pieces of a batch that go through the network one after the other",
        default=1,
        check=at_least(1),
    )
    optimiser: Literal["adamw", "radam", "sgd"] = option(
        "update rule; 'sgd' has Nesterov momentum", default="adamw"
    )
    betas: tuple[float, float] = option(
        "decay of the optimiser's averages of gradients and of their squares; 'sgd' takes the first"
        " as its momentum",
        default=(0.9, 0.99),
    )
    learning_rate: float = option("learning rate after the warm-up", default=1e-3, check=above(0))
    warmup: int | None = option(
        "number of steps over which the learning rate rises linearly; if left out 200, or a tenth"
        " of all steps where that is fewer",
        default=None,
        check=attrs.validators.optional(at_least(0)),
    )
    decay: Literal["none", "cosine", "end"] = option(
        "course of the learning rate after the warm-up; 'cosine' falls to a fiftieth, 'end' stays"
        " constant and then falls linearly to 0",
        default="cosine",
    )
    decay_share: float = option(
        "share of the steps, the last ones, over which the learning rate falls with 'end'",
        default=0.25,
        check=between(0, 1),
    )
    weight_decay: float = option(
        "share of the weights, times the learning rate, that a step takes off them; 'sgd' adds it"
        " to the gradient",
        default=0.0,
        check=at_least(0),
    )
    max_grad_norm: float = option(
        "norm to which a longer gradient is clipped; inf clips none",
        default=1.0,
        check=above(0),
        infinite=True,
    )
    ema_decay: float = option(
        "decay of the running average of the weights, which the exported model has",
        default=0.999,
        check=between(0, 1),
    )
    ema_decays: tuple[float, ...] = option(
        "decays of further running averages; each is exported to a weights file of its own",
        default=(),
    )
    precision: Literal["float32", "bfloat16"] = option(
        "number format of the network's forward pass", default="float32"
    )
    parallel: Parallel = option(
        "how several processes share the work: with 'ddp' each has all weights, with 'fsdp' each"
        " has a share of them",
        default="ddp",
    )

    def __attrs_post_init__(self) -> None:
        if self.batch % self.grad_accumulation:
            raise ValueError(f"'grad_accumulation' must divide 'batch', {self.batch}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("'betas' must be two numbers from 0 to less than 1")
        decays = (self.ema_decay, *self.ema_decays)
        if not all(0 <= decay <= 1 for decay in decays) or len({*decays}) < len(decays):
            raise ValueError(
                "'ema_decays' must be from 0 to 1, all different and different from 'ema_decay'"
            )


@final
@attrs.define(eq=False)
class Training:
    """The module under training with its averages and optimiser, saved whole in checkpoints.

    Attributes:
        module: the module that is trained.
        averages: modules with running averages of its weights, by decay; `ema` is the first.
        optimiser: the optimiser of the weights that require gradients.
        replica: the module as one of several processes: it takes a `LossFunction` and rows to the
            values of the loss and to the loss.
    """

    module: nn.Module
    averages: Mapping[float, nn.Module]
    optimiser: torch.optim.Optimizer
    replica: nn.Module

    @classmethod
    def of(cls, module: nn.Module, options: Optimisation, *, whole: bool = True) -> Training:
        """Begin to train `module`: all of its weights, or those that require gradients already.

        Adapters and networks of align are in float32 from then on, as half precision loses updates.

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
        # Modules of other packages may count on the precision that they were loaded in.
        if not whole or isinstance(module, VelocityNetwork):
            in_float32(weight for weight in module.parameters() if weight.requires_grad)
        decays = (options.ema_decay, *options.ema_decays)
        copies = {decay: copy.deepcopy(module) for decay in decays}
        replica = parallel.replica(module, options.parallel)
        averages = {decay: parallel.with_weights_of(module, c) for decay, c in copies.items()}
        return cls(module, averages, _optimiser(module, options), replica)

    @property
    def ema(self) -> nn.Module:
        """The first running average; where weights are sharded, all processes must ask for it."""
        return parallel.whole_module(next(iter(self.averages.values())))

    def exported(self, export: Callable[[nn.Module], Export]) -> Export:
        """What `export` makes of the first running average, and beside it of the others."""

        def other(average: nn.Module) -> Export:
            return export(parallel.whole_module(average))

        further = list(self.averages.items())[1:]
        others = {f"{decay:g}": functools.partial(other, average) for decay, average in further}
        return attrs.evolve(export(self.ema), others=others)

    def save(self) -> dict[str, Any]:
        """The tensors that the next step depends on, by name; they are not copied."""
        return {
            "module": self.module.state_dict(),
            "averages": {str(decay): a.state_dict() for decay, a in self.averages.items()},
            "optimiser": _as_tensors(self._optimiser_state()),
        }

    def restore(self, saved: Mapping[str, Any] | Path) -> None:
        """Bring everything to where `saved` was; what it was saved by may be other processes.

        Raises:
            PartError: as `checkpoint.fill` and `resume`.
        """
        tensors = self.save()
        checkpoint.fill(tensors, saved)
        self.resume(tensors)

    def resume(self, tensors: Mapping[str, Any]) -> None:
        """Go on from what `save` returned, once a checkpoint has been copied into it.

        Raises:
            PartError: a weight or an average of the checkpoint is not finite.
        """
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        modules = (self.module, *self.averages.values())
        lengths = [_length(module.parameters()) for module in modules]
        if not all(map(math.isfinite, lengths)):
            raise PartError(
                "run.out: its checkpoint holds weights that are not finite, so that training cannot"
                " go on from there; remove it"
            )
        state = _with_values(self._optimiser_state(), tensors["optimiser"])
        set_optimizer_state_dict(self.module, self.optimiser, state)

    def _optimiser_state(self) -> dict[str, Any]:
        """The optimiser's state and options, by the names of the weights."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        return get_optimizer_state_dict(self.module, self.optimiser)


def import_all() -> None:
    """Import what torch imports in a first step and a first checkpoint.

    It takes longer than many a step, and belongs to no arm of a comparison.
    """
    for name in ("torch._dynamo", "torch.distributed.checkpoint.state_dict"):
        importlib.import_module(name)


def _as_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors and numbers of an optimiser's state, the numbers as tensors; nothing else of it."""
    tensors: dict[str, Any] = {}
    for name, value in _items(state):
        if isinstance(value, Mapping | list | tuple):
            tensors[name] = _as_tensors(dict(_items(value)))
        elif isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            tensors[name] = torch.tensor(value, dtype=torch.float64)
    return tensors


def _with_values(state: Any, tensors: Mapping[str, Any]) -> Any:
    """An optimiser's state with the values of its `_as_tensors`."""
    if isinstance(state, Mapping):
        return {name: _with_values(v, tensors.get(str(name), {})) for name, v in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_with_values(v, tensors.get(name, {})) for name, v in _items(state))
    if isinstance(tensors, Tensor):
        return tensors if isinstance(state, Tensor) else type(state)(tensors.item())
    return state


def _items(values: Any) -> Iterable[tuple[str, Any]]:
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
    return ((str(name), value) for name, value in pairs)


def _optimiser(module: nn.Module, options: Optimisation) -> torch.optim.Optimizer:
    """The optimiser of the weights that require gradients."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    rate, betas, decay = options.learning_rate, options.betas, options.weight_decay
    if options.optimiser == "radam":
        return torch.optim.RAdam(
            weights, rate, betas, weight_decay=decay, decoupled_weight_decay=True
        )
    if options.optimiser == "sgd":
        momentum = betas[0]
        return torch.optim.SGD(weights, rate, momentum, weight_decay=decay, nesterov=momentum > 0)
    return torch.optim.AdamW(weights, rate, betas, weight_decay=decay)


def learning_rate_at(options: Optimisation, index: int, steps: int) -> float:
    """Learning rate of step `index` of `steps`."""
    warmup = min(200, steps // 10) if options.warmup is None else options.warmup
    if index < warmup:
        return options.learning_rate * (index + 1) / warmup
    if options.decay == "none":
        return options.learning_rate
    if options.decay == "end":
        remaining = (steps - index) / max(1.0, options.decay_share * steps)
        return options.learning_rate * min(1.0, remaining)
    progress = (index - warmup) / max(1, steps - warmup)
    return options.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)


def advance(
    training: Training,
    loss_of: LossFunction,
    options: Optimisation,
    streams: Streams,
    index: int,
    steps: int,
) -> StepResult:
    """Take step `index` of `steps` down the gradient of the mean loss of a batch.

    Raises:
        DivergedError: the loss, the gradient's norm or a weight is not finite any more; in all
            processes at once. Weights and averages are those before the step, unless it was the
            step that spoilt the weights.
        OutOfMemoryError: memory is too small for a piece of the batch.
    """
    learning_rate = learning_rate_at(options, index, steps)
    for group in training.optimiser.param_groups:
        group["lr"] = learning_rate
    training.optimiser.zero_grad(set_to_none=True)
    losses: list[Loss] = []
    for number, rows in enumerate(pieces(options, streams, index), 1):
        reduced = torch.autocast(
            rows.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"
        )
        last = number == options.grad_accumulation
        with _fitting(options, len(rows.samples)), parallel.no_sync(training.replica, last=last):
            with reduced:
                values, loss = training.replica(loss_of, rows)
            # Gradients are means over the processes, and the batch is that of all of them.
            (values.sum() * (parallel.count() / options.batch)).backward()
        losses.append(loss.detached())
    norm = nn.utils.clip_grad_norm_(training.module.parameters(), options.max_grad_norm)
    metrics = _means(losses, norm) | {"learning_rate": learning_rate}
    for name, what in (("loss", "the loss"), ("norm", "the norm of the gradient")):
        if not math.isfinite(metrics[name]):
            raise DivergedError(_cure(f"{what} is {metrics[name]:g}", options, learning_rate))
    try:
        training.optimiser.step()
    except RuntimeError as error:
        if "overflow" not in str(error):  # torch's word for a factor that is no float of a weight
            raise
        text = "a step is longer than a weight can be"
        raise DivergedError(_cure(text, options, learning_rate)) from error
    length = _length(w for w in training.module.parameters() if w.requires_grad)
    if not math.isfinite(length):
        text = (
            f"the norm of the weights is {length:g} after a gradient of norm {metrics['norm']:.2g}"
        )
        raise DivergedError(_cure(text, options, learning_rate))
    for decay, average in training.averages.items():
        # Early on a running average forgets faster, so that it does not remember the start.
        _update_average(average, training.module, min(decay, (1 + index) / (10 + index)))
    return StepResult(metrics, _group_means([loss.weights for loss in losses]))


@contextmanager
def _fitting(options: Optimisation, rows: int) -> Iterator[None]:
    """Where memory is too small for so many rows of a batch, say into how many pieces to cut it.

    Raises:
        OutOfMemoryError: it is too small.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if rows == 1:
            raise OutOfMemoryError(too_small("a step of training", rows)) from error
        share = options.batch // parallel.count()
        more = next(k for k in range(2 * share // rows, share + 1) if share % k == 0)
        text = f"the device's memory is too small for {rows} rows of a batch at once"
        cure = f"set mode.optimisation.grad_accumulation to {more}"
        raise OutOfMemoryError(f"{text}; {cure}") from error


def _cure(what: str, options: Optimisation, learning_rate: float) -> str:
    """A sentence on training that has diverged: what is not finite, and what to lower."""
    cures = [
        f"lower mode.optimisation.learning_rate, {options.learning_rate:g}"
        f" ({learning_rate:.2g} in this step)",
        f"or max_grad_norm, {options.max_grad_norm:g}",
    ]
    if options.weight_decay:
        cures.append(f"or weight_decay, {options.weight_decay:g}")
    if options.precision != "float32":
        cures.append("or take precision = 'float32'")
    return f"training has diverged: {what}; {', '.join(cures)}"


@torch.no_grad()
def _length(weights: Iterable[Tensor]) -> float:
    """The norm of all weights together, over all processes; not finite if one of them is not."""
    floating = [w.detach() for w in weights if w.is_floating_point() and w.numel()]
    # Weights that are sharded and buffers that are not make no total together.
    sharded = [w for w in floating if parallel.sharded(w)]
    others = [w for w in floating if not parallel.sharded(w)]
    totals = [nn.utils.get_total_norm(part) for part in (sharded, others) if part]
    return math.hypot(*checks().read(*map(parallel.whole, totals)))


@torch.no_grad()
def _update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move the average's weights to `decay` of themselves and 1 − `decay` of the module's.

    Buffers are copied: they are constants, which may be infinite, or means already.
    """
    weights, moved = dict(module.named_parameters(remove_duplicate=False)), set[int]()
    for name, weight in average.named_parameters(remove_duplicate=False):
        if id(weight) in moved:
            continue  # one weight of two layers
        moved.add(id(weight))
        if weight.is_floating_point():
            weight.lerp_(weights[name], 1 - decay)
    buffers = dict(module.named_buffers(remove_duplicate=False))
    for name, buffer in average.named_buffers(remove_duplicate=False):
        buffer.copy_(buffers[name])


def _means(losses: Sequence[Loss], norm: Tensor) -> dict[str, float]:
    """The mean of the loss and of each metric over the rows of all processes; and "norm".

    A GPU is waited for once, and the checks of the step are read too, before weights are moved.
    """
    values: dict[str, list[Tensor]] = {}
    for loss in losses:
        for name, tensor in {"loss": loss.values, **loss.metrics}.items():
            values.setdefault(name, []).append(tensor.detach().double())
    rows = [torch.cat(tensors) for tensors in values.values()]
    length, *sums = checks().read(parallel.whole(norm), *(row.sum() for row in rows))
    counts = [float(len(row)) for row in rows]
    totals, all_rows = parallel.summed(torch.tensor([sums, counts], dtype=torch.float64)).tolist()
    means = zip(values, totals, all_rows, strict=True)
    return {name: total / count for name, total, count in means if count} | {"norm": length}


def _group_means(weights: Sequence[GroupedValues | None]) -> tuple[float, ...]:
    """The mean of each group's values over the rows of all processes; NaN where it has none."""
    grouped = [each for each in weights if each is not None]
    if not grouped:
        return ()
    values = torch.cat([each.values.detach().double() for each in grouped])
    groups = torch.cat([each.groups for each in grouped])
    members = [values[groups == group] for group in range(grouped[0].count)]
    sums = parallel.summed(torch.stack([member.sum() for member in members]))
    counts = parallel.summed(torch.tensor([len(member) for member in members]))
    means = zip(sums.tolist(), counts.tolist(), strict=True)
    return tuple(total / count if count else math.nan for total, count in means)


def pieces(options: Optimisation, streams: Streams, index: int) -> Iterator[Streams]:
    """This process's rows of batch number `index`, as many at a time as go through a network."""
    share = options.batch // parallel.count()
    begin = index * options.batch + parallel.rank() * share
    for first in range(begin, begin + share, share // options.grad_accumulation):
        yield streams.numbered(first, share // options.grad_accumulation)
