"""Stand-ins for a pipeline's scheduler and picture processor.

A pipeline's `__call__` knows how its network is called: guidance, packing, scaling, signs. With a
`probe` in place of its scheduler it makes one network output, at one time, and with none it only
decodes. So no line of this package knows one pipeline from another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from align.core.errors import PartError


class _StepResult(tuple[Tensor, ...]):
    """What `step` returns, and a network: pipelines take an item, or ask by name."""

    __slots__ = ()

    @property
    def prev_sample(self) -> Tensor:
        """The next state."""
        return self[0]

    @property
    def sample(self) -> Tensor:
        """The network's output."""
        return self[0]


class TimesRecorded(Exception):
    """Ends a pipeline's call as soon as it has set its times."""


class _Timed(ABC):
    """A scheduler's `set_timesteps`, with every argument that pipelines look for in it."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """Take the times that the pipeline asks for."""
        given = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu}
        arguments = {name: value for name, value in given.items() if value is not None} | others
        if not {"timesteps", "sigmas"} & arguments.keys():
            arguments["num_inference_steps"] = num_inference_steps
        self.take_times(device, arguments)

    @abstractmethod
    def take_times(self, device: Any, arguments: Mapping[str, Any]) -> None:
        """Set the times, for these arguments of the scheduler's own method."""


class ProbeMethods(_Timed):
    """Methods that make a scheduler a probe; its class and configuration stay the real ones.

    Attributes:
        asked: times that the pipeline steps through, in the scheduler's own units: one, or none.
        output: the model output of the last step.
    """

    asked: Tensor
    output: Tensor | None

    def take_times(self, device: Any, arguments: Mapping[str, Any]) -> None:
        """Step through what was asked for, whatever the pipeline says."""
        del device, arguments
        self.timesteps = self.asked
        self.num_inference_steps = len(self.asked)

    def scale_model_input(self, sample: Tensor, *_: Any, **__: Any) -> Tensor:
        """The state as it is: the caller has scaled it."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **_: Any) -> _StepResult:
        """Keep the model output, and leave the state where it is."""
        del timestep
        self.output = model_output
        sample = sample.to(model_output.dtype)  # as the real ones do
        return _StepResult((sample, sample))

    @property
    def init_noise_sigma(self) -> float:
        """Given latents are not scaled."""
        return 1.0

    @init_noise_sigma.setter
    def init_noise_sigma(self, value: float) -> None:
        """Leave it: some schedulers set theirs."""


class RecorderMethods(_Timed):
    """Methods that make a scheduler end the pipeline's call once it has its real times."""

    def take_times(self, device: Any, arguments: Mapping[str, Any]) -> None:
        """The real times, by the real scheduler; raises TimesRecorded."""
        super(_Timed, self).set_timesteps(device=device, **arguments)  # type: ignore[misc]
        raise TimesRecorded


def with_methods(scheduler: Any, methods: type) -> Any:
    """A scheduler of the same configuration whose class has these methods before its own."""
    cls = type(scheduler)
    made: Any = type(cls.__name__, (methods, cls), {}).from_config(scheduler.config)  # type: ignore[attr-defined]
    return made


class Untouched:
    """Stands where a network is, and returns the states that it is given.

    Attributes:
        calls: what it was given, positional and by name.
    """

    def __init__(self, network: Any) -> None:
        self._network: Final = network
        self.calls: Final[list[tuple[tuple[Any, ...], dict[str, Any]]]] = []

    def __call__(self, *states: Any, **named: Any) -> _StepResult:
        """The states, for a network's output."""
        self.calls.append((states, named))
        return _StepResult((first_argument(states, named),))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def first_argument(positional: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """The states among the arguments of a network: by their usual names, or else the first."""
    names = [name for name in ("hidden_states", "sample") if name in named]
    return named[names[0]] if names else [*positional, *named.values()][0]


class RawPictures:
    """A picture processor that hands pictures on as the decoder made them."""

    def __init__(self, processor: Any) -> None:
        self._processor: Final = processor

    def postprocess(self, image: Tensor, *_: Any, **__: Any) -> Tensor:
        """The pictures, untouched: graph, range and type."""
        return image

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


class Texts:
    """What a pipeline's `encode_prompt` returned, prompt by prompt.

    Each prompt is encoded alone, once. A pipeline that pads to the longest prompt of a batch then
    gives a sample the same text whatever stands beside it.
    """

    def __init__(self, encode_prompt: Any) -> None:
        self._encode_prompt: Final = encode_prompt
        self._answers: Final[dict[str, list[Any]]] = {}
        self._recording: list[Any] | None = None
        self._replayed: list[str] = []
        self._place = 0

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._answers

    def record(self, prompt: str) -> Recording:
        """A context in which the encoder's answers are kept for this prompt."""
        return Recording(self, prompt)

    def keep(self, prompt: str, answers: list[Any]) -> None:
        """Answer so for a prompt; raises PartError if the answers cannot be rows of a batch."""
        for known in self._answers.values():
            for answer, other in zip(answers, known, strict=False):
                _check_shared(answer, other)
        self._answers[prompt] = answers

    def replay(self, prompts: list[str]) -> None:
        """Answer the next calls for these prompts, one row each."""
        self._replayed, self._place = prompts, 0

    def sizes(self, prompt: str) -> tuple[Any, ...]:
        """What prompts must agree in to be rows of one call."""
        return tuple(_sizes(answer) for answer in self._answers[prompt])

    def numbers(self, prompt: str) -> Tensor:
        """What was answered for a prompt as numbers (F,): each embedding's mean over its tokens."""
        found = [*_embeddings(self._answers[prompt])]
        return torch.cat([part.float().flatten(0, -2).mean(0) for part in found])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take the place of `encode_prompt`."""
        if self._recording is not None:
            answer = self._encode_prompt(*args, **kwargs)
            self._recording.append(answer)
            return answer
        place, self._place = self._place, self._place + 1
        return _joined([self._answers[prompt][place] for prompt in self._replayed])


class Recording:
    """The context of `Texts.record`."""

    def __init__(self, texts: Texts, prompt: str) -> None:
        self._texts, self._prompt = texts, prompt

    def __enter__(self) -> None:
        self._texts._recording = []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        answers, self._texts._recording = self._texts._recording, None
        if kind is None or issubclass(kind, TimesRecorded):
            self._texts.keep(self._prompt, answers or [])


def _embeddings(answer: Any) -> Iterator[Tensor]:
    """The embeddings (..., D) in an answer of the encoder."""
    if isinstance(answer, Tensor):
        if answer.is_floating_point() and answer.dim() > 1:
            yield answer
    elif isinstance(answer, tuple | list):
        for part in answer:
            yield from _embeddings(part)


def _sizes(answer: Any) -> Any:
    if isinstance(answer, Tensor):
        return tuple(answer.shape)
    if isinstance(answer, tuple):
        return tuple(_sizes(part) for part in answer)
    return type(answer).__name__  # a list has an entry a prompt, of any length


def _check_shared(answer: Any, other: Any) -> None:
    """What has no row of a batch is the same for all prompts, or they cannot be told apart."""
    if isinstance(answer, Tensor) and isinstance(other, Tensor):
        shared = answer.dim() == 0 or len(answer) != 1
        if shared and answer.shape == other.shape and not torch.equal(answer, other):
            rows = "no row" if answer.dim() == 0 else f"{len(answer)} rows"
            raise PartError(f"the pipeline's encode_prompt gives {rows} for one prompt, not one")
    elif isinstance(answer, tuple) and isinstance(other, tuple):
        for part, same in zip(answer, other, strict=False):
            _check_shared(part, same)
    elif isinstance(answer, Mapping) and isinstance(other, Mapping):
        for key in answer.keys() & other.keys():
            _check_shared(answer[key], other[key])


def _joined(answers: list[Any]) -> Any:
    """Answers for single prompts as the answer for all of them."""
    first = answers[0]
    if isinstance(first, tuple):
        return tuple(_joined(list(parts)) for parts in zip(*answers, strict=True))
    if isinstance(first, list):
        return [part for answer in answers for part in answer]
    if isinstance(first, Mapping):
        return {key: _joined([answer[key] for answer in answers]) for key in first}
    # Positions of tokens, as FLUX has them, are the same for all rows and have no row of a batch.
    if isinstance(first, Tensor) and first.dim() > 0 and first.shape[0] == 1:
        return torch.cat(answers)
    return first
