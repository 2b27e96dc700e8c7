"""The other side: answers requests about one reward until nobody asks any more."""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.reward import Reward, RewardSpec
from align.errors import AlignError, ContractError
from align.isolation.protocol import VERSION, ConfigRejected, Message, packed, receive

_GONE: Final = Message("gone")


@final
@attrs.frozen(eq=False)
class Read:
    """A reward's specification, read from its table.

    Attributes:
        table: with every option resolved.
        origin: the distribution that it comes from.
    """

    spec: RewardSpec
    table: Mapping[str, Any]
    origin: str


Reads: TypeAlias = Callable[[Mapping[str, Any]], Read]


def serve(source: BinaryIO, sink: BinaryIO, reads: Reads, version: str) -> None:
    """Answer every request, until the process is ended.

    Args:
        source: where requests come from; its end ends the process, whatever it is doing.
        sink: where replies go.
        reads: reads a reward's table; raises Refused.
        version: of align-core here.
    """
    served = _Served(reads)
    sink.write(packed(Message("hello", said={"protocol": VERSION, "version": version})))
    sink.flush()
    for request in _requests(source):
        try:
            reply = packed(served.answer(request))
        except Exception as error:
            reply = packed(_told(error))
        sink.write(reply)
        sink.flush()


def _requests(source: BinaryIO) -> Iterator[Message]:
    """What comes; a thread reads it, so that the end is seen in the middle of a long call."""
    waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def read() -> None:
        try:
            while (request := receive(source)) is not None:
                waiting.put(request)
        finally:
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def _told(error: Exception) -> Message:
    """An error as a reply: mistakes by their message, defects with their traceback."""
    said: dict[str, Any] = {"kind": "", "text": "".join(traceback.format_exception(error))}
    if isinstance(error, AlignError):
        said = {"kind": type(error).__name__, "text": str(error)}
    if isinstance(error, ConfigRejected):
        said["faults"] = error.faults
    return Message("error", said=said)


@final
@attrs.define(eq=False)
class _Served:
    """The reward of this process, and the graphs of scores that may be differentiated yet."""

    reads: Reads
    read: Read | None = None
    reward: Reward | None = None
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))
    graphs: dict[int, tuple[Tensor, Tensor]] = attrs.field(factory=dict)

    def answer(self, request: Message) -> Message:
        """The reply to a request."""
        answers = {"read": self._read, "build": self._build, "score": self._score}
        return (answers | {"pull": self._pull})[request.type](request)

    def _read(self, request: Message) -> Message:
        self.read = self.reads(request.said["table"])
        spec = self.read.spec
        said: dict[str, Any] = {"table": dict(self.read.table), "origin": self.read.origin}
        said |= {"differentiable": spec.differentiable, "domain": spec.domain, "range": spec.range}
        said |= {"kind": spec.kind}
        return Message("read", said=said)

    def _build(self, request: Message) -> Message:
        assert self.read is not None
        # Sums are cut by the number of threads: with as many they have the same bits.
        torch.set_num_threads(request.said["threads"])
        device = torch.device(request.said["device"])
        if self.reward is None or device != self.device:
            self.reward, self.device = self.read.spec.build(device), device
        return Message("built")

    def _score(self, request: Message) -> Message:
        for number in request.said["drop"]:
            self.graphs.pop(number, None)
        number = request.said["graph"]
        data, score = self._scored(request, graph=number is not None)
        if score.requires_grad and number is not None:
            self.graphs[number] = (data, score)
        return Message("score", {"score": score}, {"graph": score.requires_grad})

    def _pull(self, request: Message) -> Message:
        graph = self.graphs.pop(request.said["graph"], None)
        if graph is None and "data" not in request.tensors:
            return _GONE
        data, score = graph or self._scored(request, graph=True)
        along = request.tensors["along"].to(self.device)
        (gradient,) = torch.autograd.grad(score, data, along, allow_unused=True)
        return Message("pulled", {} if gradient is None else {"gradient": gradient})

    def _scored(self, request: Message, *, graph: bool) -> tuple[Tensor, Tensor]:
        assert self.read is not None and self.reward is not None
        data = request.tensors["data"].to(self.device).requires_grad_(graph)
        with torch.set_grad_enabled(graph):
            score = self.reward.score(data, request.said["prompts"])
        if not isinstance(score, Tensor):
            who = f"reward '{self.read.spec.kind}'"
            raise ContractError(f"{who}: score returned a {type(score).__name__}, not a tensor")
        return data, score
