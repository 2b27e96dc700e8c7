"""Models in weights files, as training leaves them; and untrained ones, for it to train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as File
from typing import Any, ClassVar, final

import attrs
import torch
from torch import nn

from align.core.model import Domain, FlowMap, ModelSpec, PosteriorMap
from align.core.option import option
from align.core.streams import Streams
from align.errors import PartError
from align.models.network_model import ROLES, Net, NetworkModel, Precision, make_net
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.networks.mlp import MLP, MLPConfig
from align.training import weights


@final
@attrs.frozen(kw_only=True)
class Network(ModelSpec):
    """A model trained by `pretrain` or `distill`, or an untrained one for them to train."""

    kind: ClassVar[str] = "network"

    weights: str = option("weights file of a run (model.safetensors)", default="")
    net: Net | None = option("architecture of an untrained flow, instead of weights", default=None)
    autoencoder: str = option("weights file of the untrained flow's autoencoder", default="")
    classes: tuple[str, ...] = option("class names of the untrained flow", default=())
    prompt: str = option("names the class of every sample; empty for no class", default="")
    guidance: float = option("classifier-free guidance scale of the flow; 1 is none", default=1.0)
    precision: Precision = option(
        "of the networks' products; 'bfloat16' is faster on a GPU", default="float32"
    )

    def __attrs_post_init__(self) -> None:
        if bool(self.weights) == (self.net is not None):
            raise ValueError("expected either 'weights' or 'net' with 'autoencoder'")

    @property
    def domain(self) -> Domain:
        """As the weights file says."""
        return "vector" if self.weights and not self._about.get("autoencoder") else "image"

    @property
    def provides(self) -> frozenset[type]:
        """A flow map or a meta flow map, and so a flow map, if the weights file holds one."""
        held = set(self._about.get("nets", {})) if self.weights else set()
        maps = {FlowMap} if held & {"flow_map", "posterior"} else set[type]()
        return frozenset(maps | ({PosteriorMap} if "posterior" in held else set()))

    @property
    def _about(self) -> dict[str, Any]:
        return weights.about(File(self.weights))

    def build(self, device: torch.device) -> NetworkModel:
        """Load the weights, or make the untrained flow."""
        if self.weights:
            found = load(File(self.weights), device, self.guidance)
            return attrs.evolve(found, precision=self.precision)
        if not self.autoencoder or self.net is None:
            raise PartError("model: an untrained flow needs 'autoencoder', the file of its weights")
        file = File(self.autoencoder)
        about = weights.about(file)
        model = _empty(
            {
                **about,
                "nets": {"flow": attrs.asdict(self.net) | {"kind": self.net.kind}},
                "classes": self.classes,
            },
            device,
        )
        weights.read(file, {"autoencoder": model.require_autoencoder()})
        return attrs.evolve(model, guidance=self.guidance, precision=self.precision)


def load(file: File, device: torch.device, guidance: float = 1.0) -> NetworkModel:
    """The model in a weights file, frozen.

    Raises:
        PartError: the file is missing, or is not what it says it is.
    """
    about = weights.about(file)
    if "nets" not in about:
        raise PartError(f"weights: '{file}' holds an autoencoder alone, not a model")
    model = attrs.evolve(_empty(about, device), guidance=guidance)
    weights.read(file, modules_of(model))
    return model


def about_of(model: NetworkModel) -> dict[str, Any]:
    """What a weights file must say, so that `load` rebuilds the model."""
    nets = {name: getattr(model, name) for name in ROLES}
    said: dict[str, Any] = {
        "shape": model.shape,
        "classes": model.classes,
        "nets": {
            name: attrs.asdict(net.config) | {"kind": net.config.kind, "role": net.role}
            for name, net in nets.items()
            if isinstance(net, DiT | MLP)
        },
    }
    if model.autoencoder is not None:
        said["autoencoder"] = attrs.asdict(model.autoencoder.config)
    return said


def modules_of(model: NetworkModel) -> dict[str, nn.Module]:
    """The networks of a model by their names in a weights file."""
    named = {name: getattr(model, name) for name in (*ROLES, "autoencoder")}
    return {name: module for name, module in named.items() if module is not None}


def _empty(about: Mapping[str, Any], device: torch.device) -> NetworkModel:
    """A model of the right networks, their weights still to be read."""
    shape, classes = tuple(about["shape"]), tuple(about.get("classes", ()))

    def built() -> NetworkModel:
        nets = {}
        for name, said in about["nets"].items():
            sizes = {key: value for key, value in said.items() if key not in ("kind", "role")}
            config: Net = {"dit": DiTConfig, "mlp": MLPConfig}[said["kind"]](**sizes)
            # A flow may be the diagonal of a map.
            role = said.get("role", ROLES[name])
            nets[name] = make_net(config, shape, len(classes), role)
        outer = about.get("autoencoder")
        auto = Autoencoder(AutoencoderConfig(**outer)) if outer else None
        for module in (*nets.values(), *([auto] if auto else [])):
            module.to(device).eval().requires_grad_(False)
        domain: Domain = "image" if auto else "vector"
        return NetworkModel(
            shape=shape,
            classes=classes,
            autoencoder=auto,
            domain=domain,
            device=device,
            flow=nets.get("flow"),
            flow_map=nets.get("flow_map"),
            posterior=nets.get("posterior"),
        )

    return Streams(0, ()).fold_in("network").initialise(built)
