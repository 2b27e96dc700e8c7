"""Generative models as the rest of `align` sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar, final

import attrs
import torch
from torch import Tensor, nn

from align.core.attribution import attributed, made
from align.core.errors import ContractError
from align.core.option import ConfigError
from align.core.path import LinearPath, Path
from align.core.streams import Streams

Domain = Literal["image", "vector"]
Able = TypeVar("Able")


@final
@attrs.frozen(eq=False)
class Condition:
    """What B samples are conditioned on: their prompts, and tensors with B rows each."""

    prompts: tuple[str, ...]
    tensors: Mapping[str, Tensor] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, rows: slice | Tensor) -> Condition:
        """The condition of some of the rows, given as a slice or as their numbers."""
        if isinstance(rows, slice):
            prompts = self.prompts[rows]
        else:
            prompts = tuple(self.prompts[row] for row in rows.tolist())
        return Condition(prompts, {k: v[rows] for k, v in self.tensors.items()})

    def copy(self) -> Condition:
        """The same condition in tensors of its own."""
        return Condition(self.prompts, {k: v.clone() for k, v in self.tensors.items()})

    def tile(self, times: int) -> Condition:
        """The condition of (times · B) rows, draw-major like `draws.flatten(0, 1)`."""
        if times == 1:
            return self
        tensors = {k: v.repeat(times, *[1] * (v.dim() - 1)) for k, v in self.tensors.items()}
        return Condition(self.prompts * times, tensors)


@final
@attrs.frozen(eq=False)
class NoisyState:
    """A batch of noisy states: `x` (B, *S) at times `t` (B,) under a condition."""

    x: Tensor
    t: Tensor
    cond: Condition

    def rows(self, rows: slice | Tensor) -> NoisyState:
        """Some of the rows, given as a slice or as their numbers."""
        return NoisyState(self.x[rows], self.t[rows], self.cond.rows(rows))

    def copy(self) -> NoisyState:
        """The same states in tensors of their own; a graph is kept."""
        return NoisyState(self.x.clone(), self.t.clone(), self.cond.copy())

    def tile(self, times: int) -> NoisyState:
        """(times · B) rows, draw-major like `draws.flatten(0, 1)`."""
        if times == 1:
            return self
        spread = [1] * (self.x.dim() - 1)
        return NoisyState(
            self.x.repeat(times, *spread), self.t.repeat(times), self.cond.tile(times)
        )


class FlowModel(ABC):
    """A flow from noise to data.

    Attributes:
        path: the interpolant the velocity belongs to.
        shape: S, the shape of one state.
        domain: what `decode` makes, "image" for (B, C, H, W) in [0, 1] or "vector" for (B, D).
        dtype: floating type of the states.
        device: where the states live.
    """

    path: Path
    shape: tuple[int, ...]
    domain: Domain
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Turn B prompts into a condition; raises PromptError for one it cannot follow."""

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """b_t(x) = E[İ_t | I_t = x]; x is (B, *S), t is (B,), the result is (B, *S)."""

    @abstractmethod
    def decode(self, x1: Tensor) -> Tensor:
        """Clean states (B, *S) to what rewards see; keeps the graph, does not clamp."""

    @property
    def rows_per_velocity(self) -> int:
        """Rows that the network sees for a row of `velocity`: 2 with classifier-free guidance."""
        return 1

    def capability(self, kind: type[Able]) -> Able | None:
        """The model as a `kind`, for instance a `FlowMap`; None where it cannot do that.

        Ask this instead of `isinstance`: a run hands out models under a guard, which counts calls.
        What costs network calls comes back under the same guard, everything else as it is.
        """
        return self if isinstance(self, kind) else None


class Licensed(ABC):
    """Capability: its weights have a licence of their own.

    Attributes:
        licence: as the card of the weights states it; "" where it states none.
    """

    licence: str


class ClassConditional(ABC):
    """Capability: its samples may be of a class.

    Attributes:
        classes: their names; a prompt may have "{class}" for each in turn.
    """

    classes: tuple[str, ...]


class ToData(ABC):
    """Capability: jumps from any state to the data, and to no other time, in one call.

    Networks that were distilled to few steps can do that. Their velocity is that of a straight line
    to where the jump ends, x + (1 − t) b = X_{t,1}(x): no flow's, so that it holds no score. Where
    a model can jump to other times too, as a `FlowMap` can, its velocity is the flow's.
    """

    @abstractmethod
    def to_data(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """X_{s,1}(x): clean states (B, *S) from x (B, *S) at times s (B,).

        A row costs as many rows of the network as one of `velocity`.
        """


class FlowMap(ToData):
    """Capability: jumps along the flow in one call."""

    @abstractmethod
    def jump(self, x: Tensor, s: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """X_{s,u}(x): the flow from time s to time u, both (B,); x is (B, *S)."""

    def to_data(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """The jump to time 1; a row costs what one of `jump` does."""
        return self.jump(x, s, torch.ones_like(s), cond)


class PosteriorMap(ABC):
    """Capability: a meta flow map, the flow map of the inner flow towards p(x1 | x_t).

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 4.
    """

    @abstractmethod
    def posterior_jump(self, y: Tensor, s: Tensor, u: Tensor, noisy: NoisyState) -> Tensor:
        """X_{s,u}(y; t, x): inner state y (B, *S) from inner time s to u, both (B,)."""


class DataSampler(ABC):
    """Capability: draws of clean data, exactly as the model's law has them."""

    @abstractmethod
    def draw(self, streams: Streams) -> Tensor:
        """Clean data x1, one row for each row of `streams`: (B, *S)."""


class Scheduled(ABC):
    """Capability: a sampler of its own, which stops at times of its choice."""

    @abstractmethod
    def times(self, steps: int) -> tuple[float, ...]:
        """The `steps` + 1 times of its sampler, rising, the last of them 1."""

    @abstractmethod
    def begin(self, noise: Tensor, steps: int) -> Tensor:
        """Noise N(0, I), (B, *S), as states at the first of these times."""


class DescribesConditions(ABC):
    """Capability: says in numbers what its samples are conditioned on.

    A network that is trained in the model's place is told them. Without this capability it is told
    the tensors of the condition. A model whose conditions have none, or tensors whose shape depends
    on the prompt, needs it.
    """

    @abstractmethod
    def features(self, cond: Condition) -> Tensor:
        """(B, F), with the same F for all conditions; row i depends on row i of `cond` alone."""


class TokenGrid(ABC):
    """Capability: its states are tokens (L, C) of a picture, as packed latents are.

    A network that is trained in the model's place sees them as pictures (C, rows, columns).
    """

    @property
    @abstractmethod
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns that the L tokens lie on, row by row."""


class EncodesPictures(ABC):
    """Capability: turns pictures into states, so that `mode.data` may be a set of pictures."""

    @abstractmethod
    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] as clean states x1, (B, *S), the inverse of `decode`."""


class TrainableVelocity(FlowModel):
    """Capability: a flow whose velocity is made by one torch module, which can be trained in place.

    Mode `finetune` trains a copy of the module (`copy.deepcopy`), all of its weights or low-rank
    adapters in its linear layers, and calls `velocity` of the model that has the copy in place. So
    an implementer gives:

    - `module`, of which `velocity` makes its result by forward passes that keep the graph. What is
      around it (guidance, scaling, a text encoder) stays as it is and is not trained.
    - `with_module`, the same model with another module of that architecture in its place.
    - `unguided`, where `velocity` has guidance that can be taken off.
    - `files`, where users of the module expect weights in a format of its own.

    A model that can do so only with some options overrides `capability`.

    The weights file of a run has the state dict of the trained module and names the model's part:
    kind, options and distribution. Whoever opens the file builds that part, and reads the state
    dict into its `module`, names and shapes compared strictly. So `module` must be the same
    architecture whenever the part is built with the same options.

    Attributes:
        any_precision: whether `with_module` takes a module of any floating type. Then a module in
            half precision is trained as a copy in float32, as updates are lost in half precision.
    """

    any_precision: ClassVar[bool] = False

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The module that is trained; raises PartError where there is none."""

    @abstractmethod
    def with_module(self, module: nn.Module) -> Self:
        """The model with `module` in place of its own, and all else shared; `self` stays as it is.

        What was made for the velocity of the old module, such as maps, is left out.
        """

    def unguided(self) -> Self:
        """The model whose velocity has no guidance; itself, where there is none to take off."""
        return self

    def files(self, module: nn.Module) -> Mapping[str, bytes]:
        """Further files of a run, by name: the trained `module` as its own users read it.

        With `mode.lora` the module has peft's adapters in it, not merged.
        """
        return {}


@attrs.frozen(kw_only=True)
class ModelSpec(ABC):
    """A model as a recipe names it: options only, until `build` loads weights."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def domain(self) -> Domain:
        """What the model makes, known before it is built."""

    @property
    @abstractmethod
    def provides(self) -> frozenset[type]:
        """The capabilities the model will have: ToData, FlowMap, PosteriorMap, DataSampler, ...

        TrainableVelocity need not be among them: it is asked of the model itself.
        """

    @property
    @abstractmethod
    def prompt(self) -> str:
        """What samples are made for: a prompt, or one that stands for several (`expand_prompt`)."""

    @property
    def prompts(self) -> str:
        """File of prompts, of which sample i has line i, in place of `prompt`; "" for none.

        A model that follows prompts has it as an option, by `prompts_option`.
        """
        return ""

    @property
    def known_classes(self) -> Sequence[str] | None:
        """Names of the classes of which a prompt names one; None where only `build` tells.

        `align check` refuses a prompt that names none of them.
        """
        return None

    @classmethod
    def wrap(cls, loaded: object, **options: Any) -> ModelSpec | None:
        """What `align.wrap` makes of a model that is loaded already; None if it is of another kind.

        Args:
            loaded: any object; what is not this kind's is looked at without importing anything.
            options: such as a prompt.
        """
        return None

    @property
    def has_networks(self) -> bool | None:
        """Whether it has networks of align, of which others grow; None where only `build` tells."""
        return None

    def can(self, capability: type) -> bool:
        """Whether one of those that it provides is this capability, as a FlowMap is a ToData."""
        return any(issubclass(kind, capability) for kind in self.provides)

    @property
    def state_shape(self) -> tuple[int, ...] | None:
        """S, the shape of one state, where it is known before the model is built."""
        return None

    def file_problems(self) -> Iterable[ConfigError]:
        """What is wrong with options beside the files that they name, by the option's key.

        `align check` asks it, so files are read no further than to what they say of themselves.
        """
        return ()

    def file_notes(self) -> tuple[str, ...]:
        """What must be said beside a run's numbers about files that the options name."""
        return ()

    def sketch(self, device: torch.device) -> tuple[FlowModel, Sequence[nn.Module]] | None:
        """The model as `build` would make it, but of networks on torch's device "meta", and these.

        `align plan` derives from them what calls cost where the weights are not there. None where
        only the weights say what the networks are.

        Args:
            device: where the model would be; its own `device` is that.
        """
        return None

    @abstractmethod
    def build(self, device: torch.device) -> FlowModel:
        """Load the model; raises PartError when its weights cannot be used."""


@final
@attrs.frozen
class NoModel(FlowModel):
    """Stands where a recipe has no [model]; a mode that does not ask for one never calls it."""

    path: Path = LinearPath()
    shape: tuple[int, ...] = ()
    domain: Domain = "vector"
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")

    def encode(self, prompts: Sequence[str]) -> Condition:
        """No prompt can be followed, and none is refused."""
        return Condition(tuple(prompts))

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Raises ContractError."""
        raise ContractError("the mode uses a model, but does not say so in its `needs`")

    def decode(self, x1: Tensor) -> Tensor:
        """Raises ContractError."""
        raise ContractError("the mode uses a model, but does not say so in its `needs`")


def clamped(pictures: Tensor) -> Tensor:
    """What a decoder made, as pictures (B, 3, H, W) in [0, 1] with the gradient of the identity.

    One channel, (B, 1, H, W), becomes three equal ones.
    """
    pictures = pictures + (pictures.clamp(0, 1) - pictures).detach()
    return pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures


def build_model(spec: ModelSpec, device: torch.device) -> FlowModel:
    """What `spec.build` returns; see there for what it raises.

    Raises:
        ContractError: it returned no model, or one that is not what the specification says.
        PartError: it raised something else than a message to the user.
    """
    who = f"model '{spec.kind}'"
    model = made(f"{who}: build", lambda: spec.build(device), FlowModel)
    with attributed(who):
        _refuse_other_form(who, spec, model)
    return model


def _refuse_other_form(who: str, spec: ModelSpec, model: FlowModel) -> None:
    types: dict[str, Any] = {"path": Path, "shape": tuple, "dtype": torch.dtype}
    for name, expected in {**types, "device": (torch.device, str)}.items():
        value = getattr(model, name, None)
        if not isinstance(value, expected):
            raise ContractError(f"{who}: its {name} is {value!r}, expected a {name}")
    if model.domain != spec.domain:
        text = f"{who} makes {model.domain}s, but its specification says {spec.domain}s"
        raise ContractError(text)
    for kind in spec.provides:
        if model.capability(kind) is None:
            raise ContractError(f"{who} declares that it is a {kind.__name__}, but it is none")
