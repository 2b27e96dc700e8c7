"""Several processes that train one set of weights, started by torchrun."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from datetime import timedelta
from typing import Any, Final, Literal, final

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from align.core.streams import Streams
from align.errors import PartError, PeerFailedError

Parallel = Literal["ddp", "fsdp"]

COUNTS: Final = ("calls", "backward", "reward_calls", "reward_backward")
"""What of a cost is counted by name, so that counts of several processes are added."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, if it did.

    Raises:
        ToldError: instead of any error, where another process failed before: one speaks for all.
    """
    started = {"WORLD_SIZE", "RANK", "LOCAL_RANK"} <= os.environ.keys()
    if not started or os.environ["WORLD_SIZE"] == "1" or distributed.is_initialized():
        yield
        return
    own = has_own_gpu()
    if own:
        torch.cuda.set_device(_local())
    store, rank, count = next(rendezvous("env://"))
    # A script may run one recipe after the other; each has keys of its own.
    store = PrefixStore(f"align {store.add(f'joins of {rank}', 1)}", store)
    # Others may have to wait for hours while one encodes its pictures.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if own else "gloo",
        store=store,
        rank=rank,
        world_size=count,
        timeout=timedelta(days=1),
    )
    try:
        yield
    except BaseException as error:
        if store.add("failed", 1) > 1:
            raise PeerFailedError from error
        raise
    # The first has a report to write yet; torch aborts a process that leaves the others early.
    distributed.barrier()
    distributed.destroy_process_group()


def _local() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def has_own_gpu() -> bool:
    """Whether there is a CUDA device for this process alone."""
    return torch.cuda.is_available() and _local() < torch.cuda.device_count()


def count() -> int:
    """Number of processes of this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def first() -> bool:
    """Whether this is the process that keeps the record and talks to the user."""
    return rank() == 0


def anyone(asked: bool) -> bool:
    """Whether it is so in any of the processes; all of them must ask."""
    if count() == 1:
        return asked
    asking = torch.tensor(float(asked))
    distributed.all_reduce(asking, distributed.ReduceOp.MAX)
    return bool(asking)


def summed(numbers: Tensor) -> Tensor:
    """The sum of all processes' numbers, on the CPU; all of them must ask."""
    numbers = numbers.cpu()
    if count() > 1:
        distributed.all_reduce(numbers)
    return numbers


def agree(done: int) -> None:
    """Check that all processes begin after the same step.

    Raises:
        PartError: they do not.
    """
    dones = _gathered(done)
    if len(set(dones)) > 1:
        raise PartError(
            "run.out: the processes see different checkpoints, of steps"
            f" {', '.join(map(str, dones))}; put the run folder on a disk that all of them share"
        )


def total(costs: Mapping[str, Any]) -> dict[str, Any]:
    """Costs of all processes: counts and operations are added, of the rest the largest counts."""
    found, every = dict(costs), _gathered(dict(costs))
    for name in costs:
        values = [each[name] for each in every]
        if name in COUNTS:
            found[name] = dict(sum(map(Counter, values), Counter[str]()))
        elif name == "flops":
            found[name] = sum(values)
        elif name in ("seconds", "memory"):
            found[name] = max(values)
    return found


def _gathered(value: Any) -> list[Any]:
    """That value of every process."""
    if count() == 1:
        return [value]
    found = [None] * count()
    distributed.all_gather_object(found, value)
    return found


@final
class _Seen(nn.Module):
    """A module seen through its loss: one forward pass, however often the loss calls it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, loss: Callable[[Streams], Any], rows: Streams) -> Any:
        return loss(rows)


def replica(module: nn.Module, how: Parallel) -> nn.Module:
    """Takes a loss and rows to the loss of the rows; gradients are means over the processes.

    With "fsdp", weights are spread over the processes from now on: those of the blocks (children of
    a `ModuleList`) are put together while a block is at work, the others while the loss is.
    """
    seen = _Seen(module)
    if count() == 1:
        return seen
    if how == "ddp":
        return DistributedDataParallel(seen)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(module.parameters()).device.type, (count(),))
    for several in reversed(list(module.modules())):
        for block in several if isinstance(several, nn.ModuleList) else ():
            fully_shard(block, mesh=mesh)
    fully_shard(seen, mesh=mesh)
    return seen


def silent(replica: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Keep gradients to oneself until the `last` piece of a batch."""
    if isinstance(replica, DistributedDataParallel) and not last:
        quiet: AbstractContextManager[None] = replica.no_sync()
        return quiet
    return nullcontext()


def spread(tensor: Tensor) -> bool:
    """Whether each process has a part of the tensor only."""
    if count() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all of its parts; where it is spread, all processes must ask."""
    full: Tensor = tensor.full_tensor() if spread(tensor) else tensor  # type: ignore[attr-defined]
    return full


def whole_module(module: nn.Module) -> nn.Module:
    """The module itself, or if its weights are spread, one that has all of them."""
    tensors = module.state_dict()
    if not any(map(spread, tensors.values())):
        return module
    full = deepcopy(module)
    full.load_state_dict({name: whole(tensor) for name, tensor in tensors.items()}, assign=True)
    return full.requires_grad_(False)


def copied(blank: nn.Module, module: nn.Module) -> nn.Module:
    """`blank`, which is like `module`, with a copy of its weights, spread as they are."""
    tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    blank.load_state_dict(tensors, assign=True)
    return blank.eval().requires_grad_(False)
