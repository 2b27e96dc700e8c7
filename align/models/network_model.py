"""A model made of networks: a flow, its maps, and an autoencoder around them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, TypeVar, final

import attrs
import torch
from torch import Tensor, nn

from align.core.errors import AlignError, OptionError, PartError
from align.core.model import (
    Able,
    ClassConditional,
    Condition,
    DescribesConditions,
    Domain,
    EncodesPictures,
    FlowMap,
    FlowModel,
    ModelSpec,
    NoisyState,
    PosteriorMap,
    Scheduled,
    ToData,
    TokenGrid,
    TrainableVelocity,
    clamped,
)
from align.core.network import LADDER, Role, VelocityNetwork
from align.core.path import LinearPath, Path, expand, path_name, times_of
from align.core.problem import Problem
from align.core.prompts import ReadsPrompts, match_class, others_named
from align.models.features import features_of, is_label
from align.networks.autoencoder import Autoencoder
from align.training.latents import Encoding, digest

Made = TypeVar("Made", bound=nn.Module)
Precision: TypeAlias = Literal["float32", "bfloat16"]


ROLES: Mapping[str, Role] = MappingProxyType(
    {"flow": "flow", "flow_map": "flow_map", "posterior": "meta_flow_map"}
)
"""The roles of a model's networks, by their names in a weights file."""


@final
@attrs.frozen
class ClassReader:
    """Finds the class that a prompt names, where names alone do not say it.

    Attributes:
        index_in: the class of a prompt; raises PromptError for one that names none.
        others_in: what to say of a prompt that names several, as `ReadsPrompts.left_out`.
        numbers_of: the classes that a data set's own names of classes mean; raises ValueError for
            one that means none.
    """

    index_in: Callable[[str], int]
    others_in: Callable[[str], str]
    numbers_of: Callable[[Sequence[str]], list[int]]


@final
@attrs.frozen(eq=False)
class Teacher:
    """The model in whose place networks were or will be trained.

    Attributes:
        model: encodes prompts, decodes states, and has the velocity where no flow was trained.
        part: what it was built from, which weights files name; None where it was built by hand.
    """

    model: FlowModel
    part: ModelSpec | None


@final
@attrs.frozen(kw_only=True, eq=False)
class NetworkModel(TrainableVelocity, FlowMap, PosteriorMap, ClassConditional, ReadsPrompts):
    """A class-conditional model on latents, pictures or vectors.

    The velocity is the flow's; without a flow it is the teacher's, or else the diagonal v_{t,t}(x)
    of the flow map, or v_{t,t}(x; 0, 0) of the meta flow map. Label len(`classes`) means "no
    class".

    Attributes:
        flow: network of b_t(x), or None.
        flow_map: network of v_{s,u}(x), or None.
        posterior: network of v_{s,u}(y; t, x), or None.
        autoencoder: between pictures and states, or None where states are vectors.
        guidance: classifier-free guidance scale w, 1 is none. A network that embeds scales is
            told w, whatever its role; without such, the flow is b_∅ + w (b_c − b_∅).
        null_guidance: what a network that embeds scales is told for rows of no class.
        reader: finds the class that a prompt names; None for the longest name of `classes`.
        precision: of the networks' inner products; weights and states are float32.
        path: the interpolant that the networks were or will be trained on.
        teacher: a model of another kind that the networks belong to, whose prompts, pictures and
            capabilities they have; None for a model made of networks alone.
        features: numbers of a condition of the teacher that networks are told; see `features_of`.
        token_grid: rows and columns of states that are tokens (L, C), which networks see as
            pictures; None of other states.
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    flow: nn.Module | None = None
    flow_map: nn.Module | None = None
    posterior: nn.Module | None = None
    autoencoder: Autoencoder | None = None
    guidance: float = 1.0
    null_guidance: float = 1.0
    reader: ClassReader | None = None
    precision: Precision = "float32"
    domain: Domain = "image"
    path: Path = attrs.field(factory=LinearPath)
    teacher: Teacher | None = None
    features: int = 0
    token_grid: tuple[int, int] | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))

    def encode(self, prompts: Sequence[str]) -> Condition:
        """The teacher's conditions; or labels by the longest class name in each prompt."""
        if self.teacher is not None:
            return self.teacher.model.encode(prompts)
        labels = [self._label(prompt) for prompt in prompts]
        return Condition(tuple(prompts), {"label": torch.tensor(labels, device=self.device)})

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """b_t(x), guided; (B, *S)."""
        if self.flow is None and self.teacher is not None:
            model = self.teacher.model
            own = x.to(model.dtype)
            return model.velocity(own, times_of(own, t), cond).to(x)
        net, zero = self.require_velocity(), torch.zeros_like(t)
        told = self._told(cond)
        if self.rows_per_velocity == 1:
            return self._velocity(net, x, t, t, zero, torch.zeros_like(x), told)
        both = [torch.cat((v, v)) for v in (x, t, t, zero, torch.zeros_like(x))]
        told = told.with_null(self._told(self.null_condition(len(x))))
        conditional, plain = self._velocity(net, *both, told).chunk(2)
        return plain + self.guidance * (conditional - plain)

    @property
    def rows_per_velocity(self) -> int:
        """Two with guidance that no network embeds: rows of the class, and rows of none."""
        if self.flow is None and self.teacher is not None:
            return self.teacher.model.rows_per_velocity
        return 1 if self.guidance == 1.0 or self.embeds_guidance else 2

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network of the velocity is told the guidance scale."""
        net = self.flow or self.flow_map or self.posterior
        return bool(getattr(net, "guidance_scales", ()))

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Shape of one state as the networks see it."""
        return (self.shape[-1], *self.token_grid) if self.token_grid else self.shape

    def jump(self, x: Tensor, s: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """x + (u − s) v_{s,u}(x), by the flow map or the meta flow map without a context."""
        return x + expand(u - s, x) * self.average_velocity(x, s, u, cond)

    def average_velocity(self, x: Tensor, s: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """v_{s,u}(x), the average velocity of the jump; (B, *S)."""
        net, zero = _required(self.flow_map or self.posterior, "flow map"), torch.zeros_like(s)
        return self._velocity(net, x, s, u, zero, torch.zeros_like(x), self._told(cond))

    def posterior_jump(self, y: Tensor, s: Tensor, u: Tensor, noisy: NoisyState) -> Tensor:
        """y + (u − s) v_{s,u}(y; t, x); (B, *S)."""
        return y + expand(u - s, y) * self.posterior_velocity(y, s, u, noisy)

    def posterior_velocity(self, y: Tensor, s: Tensor, u: Tensor, noisy: NoisyState) -> Tensor:
        """v_{s,u}(y; t, x), the average velocity of the jump; (B, *S)."""
        net = _required(self.posterior, "meta flow map")
        # At t = 0 the state says nothing of x1; zeros are how training tells the network so.
        context = torch.where(expand(noisy.t, noisy.x) > 0, noisy.x, torch.zeros_like(noisy.x))
        return self._velocity(net, y, s, u, noisy.t, context, self._told(noisy.cond))

    def decode(self, x1: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], clamped, but with the gradient of the identity.

        Vectors as they are, and with a teacher what it makes of states.
        """
        if self.teacher is not None:
            return self.teacher.model.decode(x1.to(self.teacher.model.dtype)).to(x1.dtype)
        if self.autoencoder is None:
            return x1
        return clamped(self._called(self.autoencoder.decode, x1))

    def require_flow(self) -> nn.Module:
        """The flow; raises PartError where there is none."""
        return _required(self.flow, "flow")

    def require_velocity(self) -> nn.Module:
        """The network of the velocity: the flow, or else a map; PartError if there is neither."""
        return _required(self.flow or self.flow_map or self.posterior, "flow")

    @property
    def module(self) -> nn.Module:
        """The network of the velocity."""
        return self.require_velocity()

    def with_module(self, module: nn.Module) -> NetworkModel:
        """The model with `module` as its flow; maps of the old flow are left out."""
        return attrs.evolve(self, flow=module, flow_map=None, posterior=None)

    def unguided(self) -> NetworkModel:
        """The model without guidance; a network that embeds scales is told 1."""
        if self.flow is None and self.teacher is not None:
            own = self.teacher.model.capability(TrainableVelocity)
            plain = (
                self.teacher if own is None else attrs.evolve(self.teacher, model=own.unguided())
            )
            return attrs.evolve(self, teacher=plain)
        return attrs.evolve(self, guidance=1.0)

    def highest_rung(self, role: Role) -> VelocityNetwork:
        """The network of the highest role up to `role`, from which one of that role can grow.

        Raises:
            OptionError: there is none.
        """
        nets = {"flow": self.flow, "flow_map": self.flow_map, "meta_flow_map": self.posterior}
        candidates = [nets[rung] for rung in LADDER[: LADDER.index(role) + 1]]
        networks = [net for net in candidates if isinstance(net, VelocityNetwork)]
        if not networks:
            text = f"mode.net: the model has {nothing_to_grow_from(role)}"
            raise OptionError(text, ("mode", "net"))
        return networks[-1]

    def with_net(self, role: Role, net: nn.Module) -> NetworkModel:
        """The model with `net` in that role."""
        if role == "flow":
            return attrs.evolve(self, flow=net)
        if role == "flow_map":
            return attrs.evolve(self, flow_map=net)
        return attrs.evolve(self, posterior=net)

    def require_autoencoder(self) -> Autoencoder:
        """The autoencoder; raises PartError where there is none."""
        return _required(self.autoencoder, "autoencoder")

    def encoding(self) -> Encoding:
        """How training data become states of this model."""
        if self.teacher is not None:
            return encoding_of(self.teacher.model)
        outer = self.autoencoder
        numbers_of = self.reader.numbers_of if self.reader else None
        if outer is None:
            return Encoding(
                encode=None,
                shape=self.shape,
                classes=self.classes,
                numbers_of=numbers_of,
                device=self.device,
            )
        return Encoding(
            encode=outer.encode,
            colours=outer.config.colours,
            fingerprint=lambda: digest(outer),
            shape=self.shape,
            classes=self.classes,
            numbers_of=numbers_of,
            device=self.device,
        )

    def left_out(self, prompt: str) -> str:
        """The classes that a prompt names beside the one that counts."""
        if self.teacher is not None:
            reads = self.teacher.model.capability(ReadsPrompts)
            return reads.left_out(prompt) if reads else ""
        if not prompt:
            return ""
        return self.reader.others_in(prompt) if self.reader else others_named(prompt, self.classes)

    def class_grid(self, rows: int) -> Condition:
        """A condition of `rows` rows that goes through the classes in turn."""
        names = self.classes or ("",)
        return self.encode([names[row % len(names)] for row in range(rows)])

    def null_condition(self, rows: int) -> Condition:
        """A condition of `rows` rows of no class."""
        return self.encode([""] * rows)

    def capability(self, kind: type[Able]) -> Able | None:
        """What the networks can do, and what the teacher can that their training left as it was."""
        if self.teacher is None or self._has_nets_for(kind):
            return super().capability(kind)
        if self.flow is None or kind in KEPT:
            return self.teacher.model.capability(kind)
        return None

    def _has_nets_for(self, kind: type) -> bool:
        """Whether the model is a `kind` itself, and has the networks that this takes."""
        if kind in (FlowMap, ToData):
            return bool(self.flow_map or self.posterior)
        return self.posterior is not None if kind is PosteriorMap else isinstance(self, kind)

    def _velocity(self, net: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
        """A network's velocity; `others` end with what it is told of the condition."""
        if self.token_grid:
            grid, *times, context, told = self.token_grid, *others
            as_picture = attrs.evolve(self, shape=self.network_shape, token_grid=None)
            x, context = (state.mT.unflatten(2, grid) for state in (x, context))
            return as_picture._velocity(net, x, *times, context, told).flatten(2).mT
        *states, told = others
        named = {} if told.features is None else {"features": told.features}
        if not getattr(net, "guidance_scales", ()):
            return self._called(net, x, *states, told.label, **named)
        unnamed = told.label == len(self.classes)
        scale = torch.where(unnamed, self.null_guidance, self.guidance)
        return self._called(net, x, *states, told.label, scale, **named)

    def _told(self, cond: Condition) -> _Told:
        """What networks are told of a condition."""
        label = cond.tensors.get("label") if self.classes or self.teacher is None else None
        if label is None or not is_label("label", label):
            label = torch.full((len(cond),), len(self.classes), device=self.device)
        features = None
        if self.teacher is not None and self.features:
            features = features_of(self.teacher.model, cond)
        found = 0 if features is None else features.shape[1]
        if found != self.features:
            raise PartError(
                f"model: conditions of its teacher have {found} numbers here, and its networks are"
                f" told {self.features}; the teacher must have the capability DescribesConditions"
            )
        return _Told(label, features)

    def _called(
        self, net: Callable[..., Tensor], x: Tensor, *others: Tensor, **named: Tensor
    ) -> Tensor:
        """A network's result for `x`, in the floating type of `x`."""
        if self.precision == "float32":
            return net(x, *others, **named).to(x.dtype)
        with torch.autocast(x.device.type, torch.bfloat16):
            return net(x, *others, **named).to(x.dtype)

    def _label(self, prompt: str) -> int:
        if not self.classes or not prompt:
            return len(self.classes)
        return self.reader.index_in(prompt) if self.reader else match_class(prompt, self.classes)


KEPT: Final = frozenset({Scheduled, DescribesConditions, EncodesPictures})
"""Capabilities of a teacher that do not depend on its velocity."""


@final
@attrs.frozen(eq=False)
class _Told:
    """What networks are told of a condition: labels (B,), and features (B, F) if there are any."""

    label: Tensor
    features: Tensor | None

    def with_null(self, null: _Told) -> _Told:
        """These rows, and after them those of no class."""
        if self.features is None or null.features is None:
            return _Told(torch.cat((self.label, null.label)), None)
        features = torch.cat((self.features, null.features))
        return _Told(torch.cat((self.label, null.label)), features)


def encoding_of(model: FlowModel) -> Encoding:
    """How training data become states of any model: vectors as they are, if it encodes none."""
    networks = model.capability(NetworkModel)
    if networks is not None:
        return networks.encoding()
    conditional, own = model.capability(ClassConditional), model.capability(EncodesPictures)
    return Encoding(
        encode=own.encode_pictures if own else None,
        fingerprint=(lambda: _fingerprint(model, own)) if own else None,
        shape=model.shape,
        classes=conditional.classes if conditional else (),
        device=model.device,
    )


@torch.no_grad()
def _fingerprint(model: FlowModel, encoder: EncodesPictures) -> str:
    """Tells an encoder from others: by the states of a picture of all colours from 0 to 1."""
    like = model.decode(torch.zeros((1, *model.shape), dtype=model.dtype, device=model.device))
    shades = torch.linspace(0, 1, like[0].numel(), dtype=like.dtype, device=like.device)
    states = encoder.encode_pictures(shades.reshape(like.shape)).float().cpu()
    return hashlib.sha256(states.numpy().tobytes()).hexdigest()


def network_of(problem: Problem) -> NetworkModel:
    """The problem's model as networks that can be trained, in float32.

    Raises:
        PartError: it is not made of networks, or no weights file can name its path.
    """
    model = problem.model.capability(NetworkModel)
    if model is None:
        raise PartError("model: only a model made of networks can be trained; use kind 'network'")
    if model.teacher is None:
        path_name(model.path)
    return attrs.evolve(model, precision="float32")


def student_of(problem: Problem) -> NetworkModel:
    """The problem's model, or one without networks yet that is to learn from it.

    The student has the states, path, prompts and pictures of the model, which is its teacher.

    Raises:
        PartError: no weights file can name the path, or labels are no numbers of classes.
    """
    base = problem.model
    if base.capability(NetworkModel) is not None:
        return network_of(problem)
    conditional = base.capability(ClassConditional)
    classes = conditional.classes if conditional else ()
    cond, null = base.encode(problem.prompts), null_of(base)
    if classes:
        for known in (cond, null) if null is not None else (cond,):
            _check_labels(known, len(classes))
    features = features_of(base, cond)
    return NetworkModel(
        shape=base.shape,
        classes=classes,
        domain=base.domain,
        path=base.path,
        teacher=Teacher(base, problem.part),
        features=0 if features is None else features.shape[1],
        token_grid=token_grid_of(base),
        device=base.device,
    )


def token_grid_of(model: FlowModel) -> tuple[int, int] | None:
    """Rows and columns that the tokens of a state lie on; None where a state has none."""
    tokens = model.capability(TokenGrid)
    return tokens.token_grid if tokens else None


def null_of(model: FlowModel) -> Condition | None:
    """The condition of one row without a prompt; None where the model follows no empty one."""
    try:
        return model.encode([""])
    except AlignError:
        return None


def _check_labels(cond: Condition, classes: int) -> None:
    """Raise PartError for a label that is no number of a class, and not that of no class."""
    label = cond.tensors.get("label")
    if label is None or not is_label("label", label):
        return
    for number in label[(label < 0) | (label > classes)][:1].tolist():
        raise PartError(
            f"model: its condition has label {number}, but its {classes} classes are counted from"
            f" 0, and label {classes} means no class"
        )


def nothing_to_grow_from(role: Role) -> str:
    """What a model lacks where no network of such a role can begin as a copy of its own."""
    return f"no network that a {role} can grow from; name one, net = {{ kind = ... }}"


def _required(module: Made | None, name: str) -> Made:
    if module is None:
        raise PartError(f"model: its weights hold no {name}")
    return module
