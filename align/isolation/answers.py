"""The side that has the reward: its answers to messages, whatever carries them."""

from __future__ import annotations

import os
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, TypeAlias, final

import attrs
import torch
from PIL import Image
from torch import Tensor

from align.core.attribution import described, made, seen
from align.core.chunks import is_out_of_memory, release
from align.core.errors import AlignError, ContractError, OutOfMemoryError
from align.core.option import ConfigErrors
from align.core.prompts import ReadsPrompts
from align.core.reward import Compares, HasReferenceImplementation, Reward, RewardSpec
from align.io.paths import beside
from align.isolation.protocol import CAPABILITIES, PROMISES, Message, method_of

_GONE: Final = Message("gone")


@final
@attrs.frozen(eq=False)
class LoadedSpec:
    """A reward's specification, read from its table.

    Attributes:
        spec: the specification.
        table: the same as a table, with every option resolved.
        origin: the distribution that its class comes from.
        reward: built of it already, for everybody who asks; None where each builds their own.
    """

    spec: RewardSpec
    table: Mapping[str, Any]
    origin: str
    reward: Reward | None = None


ReadTable: TypeAlias = Callable[[Mapping[str, Any]], LoadedSpec]


@final
@attrs.frozen(eq=False)
class Graphs:
    """Graphs of scores that may be differentiated yet, the oldest dropped where they are too many.

    Attributes:
        most: that are kept; None for all.
        kept: data and scores, by whom they are for and by number.
    """

    most: int | None = None
    kept: OrderedDict[Hashable, tuple[Tensor, Tensor]] = attrs.field(factory=OrderedDict)

    def keep(self, key: Hashable, data: Tensor, score: Tensor) -> None:
        """Keep a graph."""
        self.kept[key] = data, score
        while self.most is not None and len(self.kept) > self.most:
            self.kept.popitem(last=False)

    def pop(self, key: Hashable) -> tuple[Tensor, Tensor] | None:
        """Data and scores of a graph, which is not kept any longer; None where it is not there."""
        return self.kept.pop(key, None)


@final
@attrs.define(eq=False)
class Answerer:
    """Answers the messages of one that asks, by one reward.

    Attributes:
        read: reads a reward's table; raises ConfigErrors for one with mistakes.
        graphs: of scores that may be differentiated; others that ask may keep theirs there too.
        device: where the reward is; whoever asks says it while nobody else has built the reward.
    """

    read: ReadTable
    graphs: Graphs = attrs.field(factory=Graphs)
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))
    _loaded: LoadedSpec | None = attrs.field(default=None, init=False)
    _reward: Reward | None = attrs.field(default=None, init=False)
    _threads: int | None = attrs.field(default=None, init=False)

    def answer(self, request: Message) -> Message:
        """The reply to a request; "error" where something is raised."""
        try:
            return self._answered(request)
        except BaseException as error:  # SystemExit too: the process ends with its requests
            return error_reply(error)

    def _answered(self, request: Message) -> Message:
        answers = {
            "read": self._read,
            "build": self._build,
            "score": self._score,
            "compare": self._compare,
            "calls": self._calls,
            "vjp": self._vjp,
            "capability": self._capability,
            "judge": self._judge,
            "check_prompt": self._check_prompt,
            "left_out": self._left_out,
        }
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        return answers[request.type](request)

    def _read(self, request: Message) -> Message:
        with beside(request.payload.get("beside")):
            self._loaded = self.read(request.payload["table"])
        promises = {name: getattr(self._loaded.spec, name) for name in PROMISES}
        payload = {"table": dict(self._loaded.table), "origin": self._loaded.origin}
        return Message("read", payload=payload | {"promises": promises})

    def _build(self, request: Message) -> Message:
        assert self._loaded is not None
        # Sums are cut by the number of threads: with as many they have the same bits.
        self._threads = min(request.payload["threads"], _most_threads())
        torch.set_num_threads(self._threads)
        if self._loaded.reward is not None:
            self._reward = self._loaded.reward
        else:
            self._reward = self._own(torch.device(request.payload["device"]))
        able = self._reward.capability
        names = [name for name, cls in CAPABILITIES.items() if able(cls) is not None]
        return Message("built", payload={"capabilities": names})

    def _own(self, device: torch.device) -> Reward:
        """The reward, built on this device unless it is there already."""
        assert self._loaded is not None
        if self._reward is None or device != self.device:
            spec = self._loaded.spec
            who = f"reward '{spec.kind}': build"
            self._reward, self.device = made(who, lambda: spec.build(device), Reward), device
        return self._reward

    def _score(self, request: Message) -> Message:
        for number in request.payload["drop"]:
            self.graphs.pop((self, number))
        number = request.payload["graph"]
        data, score = self._scored(request, graph=number is not None)
        if score.requires_grad and number is not None:
            self.graphs.keep((self, number), data, score)
        return Message("score", {"score": score}, {"graph": score.requires_grad})

    def _compare(self, request: Message) -> Message:
        with torch.no_grad():
            data = request.tensors["data"].to(self.device)
            score = self._judge_of_groups().compare(data, request.payload["prompts"])
        return Message("score", {"score": score})

    def _calls(self, request: Message) -> Message:
        calls = self._judge_of_groups().calls(request.payload["members"])
        return Message("calls", payload={"calls": calls})

    def _judge_of_groups(self) -> Compares:
        judge = self._reward.capability(Compares) if self._reward else None
        if judge is None:
            raise ContractError("the reward does not compare samples")
        return judge

    def _vjp(self, request: Message) -> Message:
        graph = self.graphs.pop((self, request.payload["graph"]))
        if graph is None and "data" not in request.tensors:
            return _GONE
        data, score = graph or self._scored(request, graph=True)
        along = request.tensors["along"].to(self.device)
        (gradient,) = torch.autograd.grad(score, data, along, allow_unused=True)
        return Message("vjp", {} if gradient is None else {"gradient": gradient})

    def _capability(self, request: Message) -> Message:
        """What the method of a capability returns: tensors by name, or a few in their order."""
        assert self._reward is not None
        name = request.payload["name"]
        result = getattr(self._reward.capability(CAPABILITIES[name]), method_of(name))()
        pairs = result.items() if isinstance(result, Mapping) else enumerate(result)
        tensors = {str(name): tensor for name, tensor in pairs}
        return Message("capability", tensors, {"names": list(tensors)})

    def _check_prompt(self, request: Message) -> Message:
        assert self._loaded is not None
        self._loaded.spec.check_prompt(request.payload["prompt"])
        return Message("checked")

    def _left_out(self, request: Message) -> Message:
        assert self._reward is not None
        reads = self._reward.capability(ReadsPrompts)
        text = "" if reads is None else reads.left_out(request.payload["prompt"])
        return Message("left_out", payload={"text": text})

    def _judge(self, request: Message) -> Message:
        assert self._loaded is not None
        spec, prompts = self._loaded.spec, request.payload["prompts"]
        if not isinstance(spec, HasReferenceImplementation):
            return Message("judged", payload={"missing": "this reward stands in for no package"})
        tensors = [request.tensors[str(i)] for i in range(len(prompts))]
        try:
            scores = spec.judged([Image.fromarray(x.numpy()) for x in tensors], prompts)
        except ImportError as error:
            return Message("judged", payload={"missing": str(error)})
        return Message("judged", {"scores": scores})

    def _scored(self, request: Message, *, graph: bool) -> tuple[Tensor, Tensor]:
        assert self._loaded is not None and self._reward is not None
        data = request.tensors["data"].to(self.device).requires_grad_(graph)
        with torch.set_grad_enabled(graph):
            score = self._reward.score(data, request.payload["prompts"])
        if not isinstance(score, Tensor):
            who = f"reward '{self._loaded.spec.kind}'"
            raise ContractError(f"{who}: score returned {seen(score)}, not a tensor")
        return data, score


def _most_threads() -> int:
    """Threads beyond which nobody may ask; more than there are processors help nobody."""
    return max(os.cpu_count() or 1, torch.get_num_threads())


def error_reply(error: BaseException) -> Message:
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
