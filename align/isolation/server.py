"""The side that has the reward: answers requests about it until nobody asks any more."""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, TypeAlias, final

import attrs
import torch
from PIL import Image
from torch import Tensor

from align.core.attribution import described, made, seen
from align.core.chunks import is_out_of_memory, release
from align.core.errors import AlignError, ContractError, OutOfMemoryError
from align.core.option import ConfigErrors
from align.core.prompts import ReadsPrompts
from align.core.reward import HasReferenceImplementation, Reward, RewardSpec
from align.isolation.protocol import (
    CAPABILITIES,
    PROMISES,
    VERSION,
    Message,
    method_of,
    packed,
    receive,
)

_GONE: Final = Message("gone")


@final
@attrs.frozen(eq=False)
class LoadedSpec:
    """A reward's specification, read from its table.

    Attributes:
        spec: the specification.
        table: the same as a table, with every option resolved.
        origin: the distribution that its class comes from.
    """

    spec: RewardSpec
    table: Mapping[str, Any]
    origin: str


ReadTable: TypeAlias = Callable[[Mapping[str, Any]], LoadedSpec]


def serve(source: BinaryIO, sink: BinaryIO, read: ReadTable, version: str) -> None:
    """Answer every request, until the process is ended.

    Args:
        source: where requests come from; its end ends the process, whatever it is doing.
        sink: where replies go.
        read: reads a reward's table; raises ConfigErrors for one with mistakes.
        version: of align-core here.
    """
    server = _Server(read)
    sink.write(packed(Message("hello", payload={"protocol": VERSION, "version": version})))
    sink.flush()
    for request in _requests(source):
        try:
            reply = packed(server.answer(request))
        except BaseException as error:  # SystemExit too: the process ends with its requests
            reply = packed(_error(error))
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


def _error(error: BaseException) -> Message:
    """An error as a reply: mistakes by their message, defects with their traceback."""
    payload: dict[str, Any] = {
        "kind": "",
        "text": described(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    if is_out_of_memory(error):
        payload["kind"] = OutOfMemoryError.__name__
        release()
    elif isinstance(error, AlignError | ConfigErrors):
        payload |= {"kind": type(error).__name__, "text": str(error)}
    if isinstance(error, ConfigErrors):
        payload["errors"] = [(mistake.key, mistake.text) for mistake in error.errors]
    return Message("error", payload=payload)


@final
@attrs.define(eq=False)
class _Server:
    """The reward of this process, and the graphs of scores that may be differentiated yet."""

    read: ReadTable
    loaded: LoadedSpec | None = None
    reward: Reward | None = None
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))
    graphs: dict[int, tuple[Tensor, Tensor]] = attrs.field(factory=dict)

    def answer(self, request: Message) -> Message:
        """The reply to a request."""
        answers = {
            "read": self._read,
            "build": self._build,
            "score": self._score,
            "vjp": self._vjp,
            "capability": self._capability,
            "judge": self._judge,
            "check_prompt": self._check_prompt,
            "left_out": self._left_out,
        }
        return answers[request.type](request)

    def _read(self, request: Message) -> Message:
        self.loaded = self.read(request.payload["table"])
        promises = {name: getattr(self.loaded.spec, name) for name in PROMISES}
        payload = {"table": dict(self.loaded.table), "origin": self.loaded.origin}
        return Message("read", payload=payload | {"promises": promises})

    def _build(self, request: Message) -> Message:
        assert self.loaded is not None
        # Sums are cut by the number of threads: with as many they have the same bits.
        torch.set_num_threads(request.payload["threads"])
        device = torch.device(request.payload["device"])
        if self.reward is None or device != self.device:
            spec = self.loaded.spec
            who = f"reward '{spec.kind}': build"
            self.reward, self.device = made(who, lambda: spec.build(device), Reward), device
        able = self.reward.capability
        names = [name for name, cls in CAPABILITIES.items() if able(cls) is not None]
        return Message("built", payload={"capabilities": names})

    def _score(self, request: Message) -> Message:
        for number in request.payload["drop"]:
            self.graphs.pop(number, None)
        number = request.payload["graph"]
        data, score = self._scored(request, graph=number is not None)
        if score.requires_grad and number is not None:
            self.graphs[number] = (data, score)
        return Message("score", {"score": score}, {"graph": score.requires_grad})

    def _vjp(self, request: Message) -> Message:
        graph = self.graphs.pop(request.payload["graph"], None)
        if graph is None and "data" not in request.tensors:
            return _GONE
        data, score = graph or self._scored(request, graph=True)
        along = request.tensors["along"].to(self.device)
        (gradient,) = torch.autograd.grad(score, data, along, allow_unused=True)
        return Message("vjp", {} if gradient is None else {"gradient": gradient})

    def _capability(self, request: Message) -> Message:
        """What the method of a capability returns: tensors by name, or a few in their order."""
        assert self.reward is not None
        name = request.payload["name"]
        result = getattr(self.reward.capability(CAPABILITIES[name]), method_of(name))()
        pairs = result.items() if isinstance(result, Mapping) else enumerate(result)
        tensors = {str(name): tensor for name, tensor in pairs}
        return Message("capability", tensors, {"names": list(tensors)})

    def _check_prompt(self, request: Message) -> Message:
        assert self.loaded is not None
        self.loaded.spec.check_prompt(request.payload["prompt"])
        return Message("checked")

    def _left_out(self, request: Message) -> Message:
        assert self.reward is not None
        reads = self.reward.capability(ReadsPrompts)
        text = "" if reads is None else reads.left_out(request.payload["prompt"])
        return Message("left_out", payload={"text": text})

    def _judge(self, request: Message) -> Message:
        assert self.loaded is not None
        spec, prompts = self.loaded.spec, request.payload["prompts"]
        if not isinstance(spec, HasReferenceImplementation):
            return Message("judged", payload={"missing": "this reward stands in for no package"})
        tensors = [request.tensors[str(i)] for i in range(len(prompts))]
        try:
            scores = spec.judged([Image.fromarray(x.numpy()) for x in tensors], prompts)
        except ImportError as error:
            return Message("judged", payload={"missing": str(error)})
        return Message("judged", {"scores": scores})

    def _scored(self, request: Message, *, graph: bool) -> tuple[Tensor, Tensor]:
        assert self.loaded is not None and self.reward is not None
        data = request.tensors["data"].to(self.device).requires_grad_(graph)
        with torch.set_grad_enabled(graph):
            score = self.reward.score(data, request.payload["prompts"])
        if not isinstance(score, Tensor):
            who = f"reward '{self.loaded.spec.kind}'"
            raise ContractError(f"{who}: score returned {seen(score)}, not a tensor")
        return data, score
