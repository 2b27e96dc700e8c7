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

from align.core.errors import PartError, PeerFailedError
from align.core.objective import Loss
from align.core.streams import Streams

Parallel = Literal["ddp", "fsdp"]

COUNTS: Final = ("calls", "backward", "reward_calls", "reward_backward")
"""What of a cost is counted by name, so that counts of several processes are added."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, if it did.

    Raises:
        PeerFailedError: instead of any error, where another process failed before and has said why.
    """
    started = {"WORLD_SIZE", "RANK", "LOCAL_RANK"} <= os.environ.keys()
    if not started or os.environ["WORLD_SIZE"] == "1" or distributed.is_initialized():
        yield
        return
    on_gpu = has_own_gpu()
    if on_gpu:
        torch.cuda.set_device(_local())
    store, rank, count = next(rendezvous("env://"))
    # A script may run one recipe after the other; each has keys of its own.
    store = PrefixStore(f"align {store.add(f'joins of {rank}', 1)}", store)
    # Others may have to wait for hours while one encodes its pictures.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
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


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any of the processes; all of them must ask."""
    if count() == 1:
        return flag
    flags = torch.tensor(float(flag))
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return bool(flags)


def barrier() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        distributed.barrier()


def summed(numbers: Tensor) -> Tensor:
    """The sum of all processes' numbers, on the CPU; all of them must ask."""
    numbers = numbers.cpu()
    if count() > 1:
        distributed.all_reduce(numbers)
    return numbers


def check_same_step(done: int) -> None:
    """Check that all processes begin after the same number of steps.

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
    """Costs of all processes: sums of calls and operations, else the largest.

    Times and memory are one number, and operations of a row one for each part.
    """
    combined, gathered = dict(costs), _gathered(dict(costs))
    for name in costs:
        values = [costs_of_one[name] for costs_of_one in gathered]
        if name in COUNTS:
            combined[name] = dict(sum(map(Counter, values), Counter[str]()))
        elif name == "flops":
            combined[name] = sum(values)
        elif isinstance(costs[name], Mapping):
            parts = {part for of_one in values for part in of_one}
            combined[name] = {
                part: max(of_one.get(part, 0) for of_one in values) for part in sorted(parts)
            }
        else:
            combined[name] = max(values)
    return combined


def of_first(value: Any) -> Any:
    """The value that the first process has; all of them must ask."""
    return _gathered(value)[0]


def _gathered(value: Any) -> list[Any]:
    """The value of every process, in the order of their ranks."""
    if count() == 1:
        return [value]
    values = [None] * count()
    distributed.all_gather_object(values, value)
    return values


@final
class _WithLoss(nn.Module):
    """A module whose forward pass is that of its loss, however often the loss calls the module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, loss_of: Callable[[Streams], Loss], rows: Streams) -> tuple[Tensor, Loss]:
        loss = loss_of(rows)
        # Torch looks for the tensors that gradients start from in tuples, not inside of objects.
        return loss.values, loss


def replica(module: nn.Module, how: Parallel) -> nn.Module:
    """A module that takes a loss function and rows to values and loss of the rows.

    Its gradients are means over the processes. With "fsdp", weights are sharded over the processes
    from now on: those of the blocks (children of a `ModuleList`) are gathered while a block is at
    work, the others while the loss is.
    """
    with_loss = _WithLoss(module)
    if count() == 1:
        return with_loss
    if how == "ddp":
        return DistributedDataParallel(with_loss)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(module.parameters()).device.type, (count(),))
    for blocks in reversed(list(module.modules())):
        for block in blocks if isinstance(blocks, nn.ModuleList) else ():
            fully_shard(block, mesh=mesh)
    fully_shard(with_loss, mesh=mesh)
    return with_loss


def no_sync(replica: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Let processes exchange gradients with the `last` piece of a batch only."""
    if isinstance(replica, DistributedDataParallel) and not last:
        context: AbstractContextManager[None] = replica.no_sync()
        return context
    return nullcontext()


def sharded(tensor: Tensor) -> bool:
    """Whether each process has a part of the tensor only."""
    if count() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all of its parts; where it is sharded, all processes must ask."""
    if count() == 1:
        return tensor
    from torch.distributed.tensor import DTensor

    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full


def whole_module(module: nn.Module) -> nn.Module:
    """The module itself, or if its weights are sharded, one that has all of them."""
    tensors = module.state_dict()
    if not any(map(sharded, tensors.values())):
        return module
    full = deepcopy(module)
    full.load_state_dict({name: whole(tensor) for name, tensor in tensors.items()}, assign=True)
    return full.requires_grad_(False)


def with_weights_of(module: nn.Module, other: nn.Module) -> nn.Module:
    """`other`, which is built like `module`, with copies of its weights, sharded as they are."""
    tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    other.load_state_dict(tensors, assign=True)
    return other.eval().requires_grad_(False)
