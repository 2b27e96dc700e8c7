"""A network in the user's own Python file, or a function, as a flow."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, final

import attrs
import torch
from loguru import logger
from torch import Tensor, nn

from align.core.attribution import attributed, check_followed, described, seen
from align.core.convention import Convention, TableConvention
from align.core.errors import ContractError, PartError, PromptError
from align.core.model import (
    Able,
    ClassConditional,
    Condition,
    Domain,
    Scheduled,
    TrainableVelocity,
    clamped,
)
from align.core.path import Path
from align.core.prompts import ReadsPrompts, match_class, others_named
from align.io.python_code import Code

WHO: Final = "model 'torch'"
# Pictures of which a larger share is further beyond [0, 1] have another range.
_FAR, _MUCH = 0.5, 0.5


@final
@attrs.frozen(kw_only=True, eq=False)
class TorchModel(TrainableVelocity, Scheduled, ClassConditional, ReadsPrompts):
    """A network f(x, t), f(x, t, label) or f(x, t, name=tensor, ...) whose output is converted.

    Attributes:
        network: is called with states in its own floating type, and times (B,) in that of align's
            states, float32 or float64.
        convention: how states, times and output are those of align.
        shape: S, the shape of one state.
        domain: of what `decoder` makes.
        classes: names of the classes, whose labels are their places; none for a model of none.
        label: name of the argument that labels go to; the third one where empty.
        null_class: whether label len(`classes`) means "no class".
        encoder: makes the tensors that the network is given by name of a list of B prompts.
        decoder: makes data of clean states; None where states are data.
        precision: floating type of the network's states.
        device: where the states live.
        code: the code that they are from, which may import what lies beside it.
    """

    any_precision: ClassVar[bool] = True

    network: Callable[..., Tensor]
    convention: Convention
    shape: tuple[int, ...]
    domain: Domain
    classes: tuple[str, ...] = ()
    label: str = ""
    null_class: bool = False
    encoder: Callable[[list[str]], Mapping[str, Tensor]] | None = None
    decoder: Callable[[Tensor], Tensor] | None = None
    precision: torch.dtype
    device: torch.device
    code: Code
    path: Path = attrs.field(init=False)
    dtype: torch.dtype = attrs.field(init=False)
    _decoded: list[bool] = attrs.field(factory=list, init=False)
    _grids: dict[int, tuple[float, ...]] = attrs.field(factory=dict, init=False)

    @path.default
    def _path(self) -> Path:
        return self.convention.path

    @dtype.default
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.precision, torch.float32)

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Labels of the classes that the prompts name, or what the encoder makes of them."""
        tensors: Mapping[str, Tensor] = {}
        if self.encoder is not None:
            with self.code.importable(), torch.no_grad():
                tensors = self.encoder(list(prompts))
            self._check(prompts, tensors)
        elif self.classes:
            labels = [self._label(prompt) for prompt in prompts]
            tensors = {"label": torch.tensor(labels, device=self.device)}
        elif named := next((prompt for prompt in prompts if prompt), ""):
            raise PromptError(
                f"model 'torch' has neither 'classes' nor 'encode', so it cannot follow the prompt"
                f" '{named}'; leave it empty"
            )
        return Condition(tuple(prompts), {k: v.to(self.device) for k, v in tensors.items()})

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """b_t(x), (B, *S), of what the network predicts there."""
        # a copy, as the network may write into it, and x is what its output is converted with
        states = self.convention.states(x, t).to(self.precision, copy=True)
        given: list[Tensor] = [states, self.convention.network_time(t)]
        named = dict(cond.tensors)
        if self.encoder is None and "label" in named:
            label = named.pop("label")
            if self.label:
                named[self.label] = label
            else:
                given.append(label)
        output = self._called(given, named)
        plain = isinstance(output, Tensor) and output.layout == torch.strided
        if not plain or output.shape != x.shape or not output.is_floating_point():
            raise ContractError(
                f"{WHO}: the network of '{self.code.where}' returned {seen(output)}, expected a"
                f" tensor {tuple(x.shape)} of a floating type"
            )
        check_followed(f"{WHO}: the network of '{self.code.where}'", output, x)
        return self.convention.velocity(output.to(x.dtype), x, t)

    def decode(self, x1: Tensor) -> Tensor:
        """Data of clean states: pictures (B, 3, H, W) are clamped, and keep their gradient."""
        data = x1
        if self.decoder is not None:
            with self.code.importable():
                data = self.decoder(x1)
        if self.domain == "vector" or not isinstance(data, Tensor) or data.dim() != 4:
            return data  # the guard says what is wrong
        if not self._decoded:
            self._decoded.append(True)
            self._tell_if_far(data.detach())
        return clamped(data)

    def capability(self, kind: type[Able]) -> Able | None:
        """A table has times of its own, a module can be trained, and classes can be named."""
        able: Mapping[type, bool] = {
            Scheduled: self._table is not None,
            TrainableVelocity: not self._untrainable,
            ClassConditional: bool(self.classes),
            ReadsPrompts: bool(self.classes),
        }
        return super().capability(kind) if able.get(kind, True) else None

    @property
    def module(self) -> nn.Module:
        """The network; raises PartError where it is no module."""
        if self._untrainable:
            text = f"'{self.code.where}' has {self._untrainable}, which cannot be trained"
            raise PartError(f"{WHO}: {text}; return an nn.Module")
        assert isinstance(self.network, nn.Module)
        return self.network

    @property
    def _untrainable(self) -> str:
        """What the network is where it cannot be trained; empty where it can."""
        if isinstance(self.network, torch.jit.ScriptModule):
            return "a module of TorchScript"
        return "" if isinstance(self.network, nn.Module) else "a function"

    def with_module(self, module: nn.Module) -> TorchModel:
        """The model with another module of the same architecture."""
        return attrs.evolve(self, network=module, precision=precision_of(module))

    def times(self, steps: int) -> tuple[float, ...]:
        """Those of the steps of DDIM through the table."""
        assert self._table is not None
        if steps not in self._grids:
            self._grids[steps] = self._table.times(steps)
        return self._grids[steps]

    def begin(self, noise: Tensor, steps: int) -> Tensor:
        """N(0, I) (B, *S) as states at the first of these times."""
        first = self.times(steps)[0]
        return noise * math.hypot(first, 1 - first)

    def left_out(self, prompt: str) -> str:
        """The classes that a prompt names beside the one that counts."""
        return others_named(prompt, self.classes) if prompt else ""

    @property
    def _table(self) -> TableConvention | None:
        return self.convention if isinstance(self.convention, TableConvention) else None

    def _called(self, given: list[Tensor], named: Mapping[str, Tensor]) -> Tensor:
        """What the network returns; raises PartError that says what a call that failed was like."""
        try:
            with self.code.importable():
                return self.network(*given, **named)
        except (LookupError, TypeError, ValueError, AssertionError) as error:
            times = given[1]
            shapes = [f"{tuple(tensor.shape)}" for tensor in given]
            shapes += [f"{name} {tuple(tensor.shape)}" for name, tensor in named.items()]
            first, last = (f"{float(time):g}" for time in (times.min(), times.max()))
            labels = given[2] if len(given) > 2 else named.get(self.label)
            told = f" and labels up to {int(labels.max())}" if labels is not None else ""
            raise PartError(
                f"{WHO}: the network of '{self.code.where}' raised {described(error)}, called with"
                f" tensors {', '.join(shapes)} at its times {first} to {last}{told}; see the"
                " options 'shape', 'time_end', 'zero' and 'classes'; --traceback shows the whole"
                " way"
            ) from error

    def _tell_if_far(self, data: Tensor) -> None:
        """Tell the user of pictures that are lost where they are clamped."""
        far = ((data < -_FAR) | (data > 1 + _FAR)).double().mean()
        if far > _MUCH:
            logger.bind(notice=True).warning(
                "{}: {:.0%} of the values of pictures are beyond [0, 1] by more than {}, and are"
                " clamped; 'decode' must name a function that makes pictures in [0, 1]",
                WHO,
                float(far),
                _FAR,
            )

    def _label(self, prompt: str) -> int:
        if not prompt and self.null_class:
            return len(self.classes)
        return match_class(prompt, self.classes)

    def _check(self, prompts: Sequence[str], tensors: object) -> None:
        """Raise ContractError unless an encoder returned tensors by name, a row each prompt."""
        rows = isinstance(tensors, Mapping) and all(
            isinstance(name, str) and isinstance(v, Tensor) and v.shape[:1] == (len(prompts),)
            for name, v in tensors.items()
        )
        if not rows:
            raise ContractError(
                f"{WHO}: the encoder of '{self.code.where}' must return a dictionary of tensors by"
                f" name, with a row for each of {len(prompts)} prompts"
            )


def network_in(code: Code, name: str, device: torch.device) -> Callable[..., Tensor]:
    """What the user's function returns, frozen and on the device where it is a module.

    Raises:
        PartError: there is no such function, or it raised something.
        ContractError: it returned nothing that can be called.
    """
    made: Any = code.named(name, WHO)
    if not isinstance(made, nn.Module):
        with code.importable(), attributed(f"{WHO}: '{name}' of '{code.where}'"):
            made = made()
    if not callable(made) or isinstance(made, type):
        raise ContractError(
            f"{WHO}: '{name}' of '{code.where}' returned {seen(made)}, expected a network: an"
            " nn.Module or a function of (x, t)"
        )
    network: Callable[..., Tensor] = frozen(made, device)
    return network


def check_arguments(
    network: Callable[..., Tensor], code: Code, labels: list[str], *, named: bool, others: bool
) -> None:
    """Raise PartError unless a network takes states, times, and labels where there are classes.

    Args:
        network: a module or a function.
        code: that it is from, for the message.
        labels: name of the labels' argument; empty where there are no classes.
        named: whether they are given by that name, or else as the third argument.
        others: whether it is given other tensors too, by names that are not known yet.
    """
    try:
        signature = inspect.signature(
            network.forward if isinstance(network, nn.Module) else network
        )
    except (TypeError, ValueError):
        return  # such as a function in C
    given = ["x", "t", *([] if named else labels)]
    bind = signature.bind_partial if others else signature.bind
    try:
        bind(*given, **(dict.fromkeys(labels) if named else {}))
    except TypeError as error:
        cure = "give 'classes' if it is told a label, or 'encode'"
        if labels:
            cure = "name one of them as 'label'" if named else "leave 'classes' out"
        call = ", ".join([*given, *(f"{name}={name}" for name in labels if named)])
        raise PartError(
            f"{WHO}: the network of '{code.where}' is called as f({call}), but has the arguments"
            f" {signature}: {error}; {cure}"
        ) from error


def frozen(network: Any, device: torch.device) -> Any:
    """A module that is not to be trained, on the device; a function whose weights make no graph."""
    if isinstance(network, nn.Module):
        network = network.to(device).eval()
        for parameter in network.parameters():  # TorchScript has no method for all of them
            parameter.requires_grad_(False)
        return network

    @functools.wraps(network, updated=())
    def call(*given: Any, **named: Any) -> Any:
        followed = isinstance(given[0], Tensor) and given[0].requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and followed):
            return network(*given, **named)

    return call


def precision_of(network: object) -> torch.dtype:
    """Floating type of a module's weights, or else of its buffers; float32 for a function."""
    if isinstance(network, nn.Module):
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
    return torch.float32
