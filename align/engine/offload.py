"""Rewards whose networks wait in the CPU's memory, so that a GPU holds one of them at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import final

import attrs
import torch
from torch import Tensor, nn

from align.core.model import Able
from align.core.reward import Reward


def networks(reward: Reward) -> tuple[nn.Module, ...]:
    """The networks that a reward holds: in its attributes, and in the attrs objects among them."""
    modules, seen, todo = list[nn.Module](), set[int](), list[object]([reward])
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            modules.append(item)
        elif isinstance(item, Mapping):
            todo += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            todo += item
        elif attrs.has(cls := type(item)):
            todo += [getattr(item, field.name) for field in attrs.fields(cls)]
        elif isinstance(item, Reward):
            todo += getattr(item, "__dict__", {}).values()
    return tuple(modules)


@final
@attrs.frozen(eq=False)
class Offloaded(Reward):
    """A reward whose weights are on the device only while it scores.

    Row i of a score depends on row i of the data alone, so the gradient of the scores' sum holds
    that of every row. It is taken at once, while the weights are there, and waits for the way back.
    So of several rewards no two are on the device together.

    Args:
        inner: the reward.
        waiting: its weights, and the same in the CPU's memory.
        device: where it scores.
    """

    inner: Reward
    waiting: tuple[tuple[Tensor, Tensor], ...]
    device: torch.device

    @classmethod
    def of(cls, reward: Reward, device: torch.device) -> Offloaded:
        """A copy of the reward whose weights wait in the CPU's memory; the reward is left alone.

        So it does not matter who else has its networks. If nobody does, they go with the reward.
        """
        weights = _weights(reward)
        before = [weight.data for weight in weights]
        try:
            for weight in weights:
                weight.data = weight.data.cpu()
            offloaded = copy.deepcopy(reward)
        finally:
            for weight, data in zip(weights, before, strict=True):
                weight.data = data
        pairs = tuple((weight, weight.data) for weight in _weights(offloaded))
        return cls(offloaded, pairs, device)

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The inner reward's score (B,), with its gradient."""
        with self._on_device():
            if not (torch.is_grad_enabled() and data.requires_grad):
                return self.inner.score(data, prompts)
            leaf = data.detach().requires_grad_()
            score = self.inner.score(leaf, prompts)
            if not score.requires_grad:
                return score
            (slope,) = torch.autograd.grad(score.sum(), leaf)
        # Adds nothing to the score, and is what gives it its gradient.
        return score.detach() + (slope * (data - data.detach())).flatten(1).sum(1)

    def capability(self, kind: type[Able]) -> Able | None:
        """What the inner reward can do."""
        return self.inner.capability(kind)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        try:
            for weight, home in self.waiting:
                # The CPU's memory keeps the weights; nothing needs to be copied back.
                weight.data = home.to(self.device, copy=True)
            yield
        finally:
            for weight, home in self.waiting:
                weight.data = home


def _weights(reward: Reward) -> tuple[Tensor, ...]:
    """Parameters and buffers of a reward's networks, each once."""
    nets = networks(reward)
    weights = chain.from_iterable(chain(net.parameters(), net.buffers()) for net in nets)
    return tuple({id(weight): weight for weight in weights}.values())
