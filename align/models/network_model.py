"""A model made of networks: a flow, its maps, and an autoencoder around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeVar, final

import attrs
import torch
from torch import Tensor, nn

from align.core.errors import PartError
from align.core.model import (
    ClassConditional,
    Condition,
    Domain,
    FlowMap,
    FlowModel,
    NoisyState,
    PosteriorMap,
    TrainableVelocity,
)
from align.core.network import LADDER, Role, VelocityNetwork
from align.core.path import LinearPath, Path, expand, path_name
from align.core.problem import Problem
from align.core.prompts import ReadsPrompts, match_class, others_named
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
@attrs.frozen(kw_only=True, eq=False)
class NetworkModel(TrainableVelocity, FlowMap, PosteriorMap, ClassConditional, ReadsPrompts):
    """A class-conditional model on latents, pictures or vectors.

    The velocity is the flow's; without a flow it is the diagonal v_{t,t}(x) of the flow map, or
    v_{t,t}(x; 0, 0) of the meta flow map. Label len(`classes`) means "no class".

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
    dtype: torch.dtype = torch.float32
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Labels by the longest class name that occurs in each prompt."""
        labels = [self._label(prompt) for prompt in prompts]
        return Condition(tuple(prompts), {"label": torch.tensor(labels, device=self.device)})

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """b_t(x), guided; (B, *S)."""
        net = self.require_velocity()
        label, zero = self._labels(cond), torch.zeros_like(t)
        if self.rows_per_velocity == 1:
            return self._velocity(net, x, t, t, zero, torch.zeros_like(x), label)
        both = [torch.cat((v, v)) for v in (x, t, t, zero, torch.zeros_like(x))]
        labels = torch.cat((label, torch.full_like(label, len(self.classes))))
        conditional, plain = self._velocity(net, *both, labels).chunk(2)
        return plain + self.guidance * (conditional - plain)

    @property
    def rows_per_velocity(self) -> int:
        """Two with guidance that no network embeds: rows of the class, and rows of none."""
        return 1 if self.guidance == 1.0 or self.embeds_guidance else 2

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network of the velocity is told the guidance scale."""
        net = self.flow or self.flow_map or self.posterior
        return bool(getattr(net, "guidance_scales", ()))

    def jump(self, x: Tensor, s: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """x + (u − s) v_{s,u}(x), by the flow map or the meta flow map without a context."""
        return x + expand(u - s, x) * self.average_velocity(x, s, u, cond)

    def average_velocity(self, x: Tensor, s: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """v_{s,u}(x), the average velocity of the jump; (B, *S)."""
        net, zero = _required(self.flow_map or self.posterior, "flow map"), torch.zeros_like(s)
        return self._velocity(net, x, s, u, zero, torch.zeros_like(x), self._labels(cond))

    def posterior_jump(self, y: Tensor, s: Tensor, u: Tensor, noisy: NoisyState) -> Tensor:
        """y + (u − s) v_{s,u}(y; t, x); (B, *S)."""
        return y + expand(u - s, y) * self.posterior_velocity(y, s, u, noisy)

    def posterior_velocity(self, y: Tensor, s: Tensor, u: Tensor, noisy: NoisyState) -> Tensor:
        """v_{s,u}(y; t, x), the average velocity of the jump; (B, *S)."""
        net = _required(self.posterior, "meta flow map")
        # At t = 0 the state says nothing of x1; zeros are how training tells the network so.
        context = torch.where(expand(noisy.t, noisy.x) > 0, noisy.x, torch.zeros_like(noisy.x))
        return self._velocity(net, y, s, u, noisy.t, context, self._labels(noisy.cond))

    def decode(self, x1: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1]; clamped, but with the gradient of the identity."""
        if self.autoencoder is None:
            return x1
        pictures = self._called(self.autoencoder.decode, x1)
        pictures = pictures + (pictures.clamp(0, 1) - pictures).detach()
        return pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures

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
        """The model without guidance; as it is, where the network itself guides."""
        return self if self.embeds_guidance else attrs.evolve(self, guidance=1.0)

    def highest_rung(self, role: Role) -> VelocityNetwork:
        """The network of the highest role up to `role`, from which one of that role can grow.

        Raises:
            PartError: there is none.
        """
        nets = {"flow": self.flow, "flow_map": self.flow_map, "meta_flow_map": self.posterior}
        candidates = [nets[rung] for rung in LADDER[: LADDER.index(role) + 1]]
        networks = [net for net in candidates if isinstance(net, VelocityNetwork)]
        if not networks:
            raise PartError(f"model: its weights hold nothing that a {role} can grow from")
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

    def _velocity(self, net: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
        """A network's velocity; `others` end with the labels, which choose the guidance scale."""
        if not getattr(net, "guidance_scales", ()):
            return self._called(net, x, *others)
        unnamed = others[-1] == len(self.classes)
        scale = torch.where(unnamed, self.null_guidance, self.guidance)
        return self._called(net, x, *others, scale)

    def _labels(self, cond: Condition) -> Tensor:
        """The label of each row (B,); no class, where the condition has none."""
        label = cond.tensors.get("label")
        if label is None:
            label = torch.full((len(cond),), len(self.classes), device=self.device)
        return label

    def _called(self, net: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
        """A network's result for `x`, in the floating type of `x`."""
        if self.precision == "float32":
            return net(x, *others).to(x.dtype)
        with torch.autocast(x.device.type, torch.bfloat16):
            return net(x, *others).to(x.dtype)

    def _label(self, prompt: str) -> int:
        if not self.classes or not prompt:
            return len(self.classes)
        return self.reader.index_in(prompt) if self.reader else match_class(prompt, self.classes)


def encoding_of(model: FlowModel) -> Encoding:
    """How training data become states of a model; of one that is no NetworkModel, vectors alone."""
    networks = model.capability(NetworkModel)
    if networks is not None:
        return networks.encoding()
    conditional = model.capability(ClassConditional)
    return Encoding(
        encode=None,
        shape=model.shape,
        classes=conditional.classes if conditional else (),
        device=model.device,
    )


def network_of(problem: Problem) -> NetworkModel:
    """The problem's model as networks that can be trained, in float32.

    Raises:
        PartError: it is not made of networks, or no weights file can name its path.
    """
    model = problem.model.capability(NetworkModel)
    if model is None:
        raise PartError("model: only a model made of networks can be trained; use kind 'network'")
    path_name(model.path)
    return attrs.evolve(model, precision="float32")


def without_networks(base: FlowModel) -> NetworkModel:
    """A model without networks yet: of the states and the path of `base`, for a student of it.

    Raises:
        PartError: no weights file can name the path.
    """
    path_name(base.path)
    return NetworkModel(shape=base.shape, domain=base.domain, path=base.path, device=base.device)


def _required(module: Made | None, name: str) -> Made:
    if module is None:
        raise PartError(f"model: its weights hold no {name}")
    return module
