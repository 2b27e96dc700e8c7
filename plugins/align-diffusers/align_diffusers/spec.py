"""Model `diffusers`: a text-to-image pipeline, from a folder or the Hugging Face hub."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, final

import attrs
import torch

from align import ModelSpec, PartError, Repeatable, at_least, option, prompts_option
from align.core.model import Domain, Scheduled, ToData
from align.io.hub import all_stored, is_id
from align_diffusers.licence import licence_of
from align_diffusers.model import PipelineModel, network_name, refuse
from align_diffusers.offload import Placement


def _named(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    if not value.strip():
        raise ValueError(f"'{attribute.name}' must be a folder or an id of the hub")


_ARGUMENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "guidance": "guidance_scale",
        "true_guidance": "true_cfg_scale",
        "height": "height",
        "width": "width",
    }
)
"""How the pipeline's call names what an option says."""


def _ours(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
    for name, argument in _ARGUMENTS.items():
        if argument in value:
            raise ValueError(f"'{argument}' in '{attribute.name}' is option '{name}'; set that")
    refuse(value)


@attrs.frozen(kw_only=True)
class _Pipeline(ModelSpec):
    """What a pipeline is asked for, wherever it is from."""

    kind: ClassVar[str] = "diffusers"
    domain: ClassVar[Domain] = "image"
    has_networks: ClassVar[bool | None] = False

    prompt: str = option("text that pictures are made for", default="")
    prompts: str = prompts_option()
    negative_prompt: str | None = option(
        "text that guidance leads away from; the pipeline's own if left out", default=None
    )
    guidance: float | None = option(
        "the pipeline's guidance_scale; its own default if left out",
        default=None,
        check=attrs.validators.optional(at_least(0)),
    )
    true_guidance: float | None = option(
        "the pipeline's true_cfg_scale, where it has one; its own default if left out",
        default=None,
        check=attrs.validators.optional(at_least(0)),
    )
    height: int | None = option(
        "height of pictures in pixels; the pipeline's own if left out",
        default=None,
        check=attrs.validators.optional(at_least(1)),
    )
    width: int | None = option(
        "width of pictures in pixels; the pipeline's own if left out",
        default=None,
        check=attrs.validators.optional(at_least(1)),
    )
    call: Mapping[str, Any] = option(
        "further arguments of the pipeline's call, such as max_sequence_length",
        default=attrs.Factory(dict),
        check=_ours,
    )
    tile: bool = option(
        "whether the decoder works tile by tile: slower, less memory", default=False
    )
    offload: bool = option(
        "whether encoders, network and decoder wait in the CPU's memory while they are not used:"
        " less memory of the device, and a call more where a gradient is taken",
        default=False,
    )
    distilled: bool = option(
        "whether the network was distilled to jump to data in one call, as those of FLUX.1-schnell,"
        " SDXL-Turbo, LCM and SANA-Sprint were; sampler 'renoise' needs that",
        default=False,
    )

    @property
    def provides(self) -> frozenset[type]:
        """A sampler of its own; jumps to data where the network was distilled to make them."""
        return frozenset({Scheduled, ToData} if self.distilled else {Scheduled})

    def follow(self, pipe: Any, device: torch.device, licence: str) -> PipelineModel:
        """The model of a pipeline, frozen and on the device, or where `offload` has it wait.

        Raises:
            PartError: the pipeline cannot be followed.
        """
        placement = Placement(pipe, network_name(pipe), device, self.offload)
        pipe = pipe if placement.offloads else pipe.to(device)
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.requires_grad_(False).eval()
        if self.tile:
            _tile(pipe)
        given = {argument: getattr(self, name) for name, argument in _ARGUMENTS.items()}
        arguments = {name: value for name, value in given.items() if value is not None}
        model = PipelineModel(
            pipe,
            {**self.call, **arguments},
            self.negative_prompt,
            distilled=self.distilled,
            placement=placement,
            licence=licence,
        )
        if self.negative_prompt and model.rows_per_velocity == 1:
            raise PartError(
                "model 'diffusers': 'negative_prompt' is not read, as the pipeline does not guide;"
                " leave it out, or set a larger 'guidance' or 'true_guidance'"
            )
        return model


@final
@attrs.frozen(kw_only=True)
class Diffusers(_Pipeline, Repeatable):
    """Text-to-image pipelines of the package diffusers.

    A text-to-image pipeline of diffusers, with its own guidance, scheduler and decoder.

    Reference: Diffusers: State-of-the-art diffusion models, von Platen et al., 2022,
    https://github.com/huggingface/diffusers.
    """

    weights: str = option(
        "folder of a pipeline, or id of a repository on the hub", check=_named, path=True
    )
    dtype: Literal["float32", "bfloat16", "float16"] = option(
        "precision of weights and networks; states are in float32", default="float32"
    )
    revision: str = option("branch, tag or commit of the repository on the hub", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)

    @classmethod
    def wrap(cls, loaded: object, **options: Any) -> ModelSpec | None:
        """A pipeline that is loaded already; options are those of the kind but for its weights."""
        library = sys.modules.get("diffusers")
        if library is None or not isinstance(loaded, library.DiffusionPipeline):
            return None
        try:
            return Loaded(pipe=loaded, **options)
        except (TypeError, ValueError) as error:
            raise PartError(f"model 'diffusers': {error}") from error

    def files_read(self) -> tuple[Path, ...] | None:
        """The pipeline's folder, or what the hub's cache has of its repository."""
        return all_stored((self.weights, self.revision))

    def build(self, device: torch.device) -> PipelineModel:
        """Load the pipeline; raises PartError when it cannot be used."""
        pipe = _loaded(self)
        return self.follow(pipe, device, licence_of(self.weights, self.revision, self.offline))


@final
@attrs.frozen(kw_only=True)
class Loaded(_Pipeline):
    """A pipeline that a script has loaded; its modules are used, frozen and moved as they are."""

    pipe: Any = attrs.field(eq=id, repr=False)

    def build(self, device: torch.device) -> PipelineModel:
        """Follow the pipeline; raises PartError when that cannot be done."""
        name = str(self.pipe.config.get("_name_or_path") or "")
        return self.follow(self.pipe, device, licence_of(name, offline=True) if name else "")


def _tile(pipe: Any) -> None:
    """Let the decoder work tile by tile; raises PartError where it cannot."""
    if not hasattr(getattr(pipe, "vae", None), "enable_tiling"):
        raise PartError(f"pipeline {type(pipe).__name__} has no decoder in tiles; leave 'tile' out")
    pipe.vae.enable_tiling()


def _loaded(spec: Diffusers) -> Any:
    """The pipeline that a spec names, in its precision."""
    folder = Path(spec.weights).expanduser()
    where = f"model 'diffusers': weights: '{spec.weights}'"
    if not folder.is_dir() and not is_id(spec.weights):
        raise PartError(f"{where}: no such folder, as seen from '{Path.cwd()}'")
    try:
        from diffusers import DiffusionPipeline

        return DiffusionPipeline.from_pretrained(
            str(folder) if folder.is_dir() else spec.weights,
            revision=spec.revision,
            dtype=getattr(torch, spec.dtype),
            local_files_only=spec.offline or folder.is_dir(),
        )
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PartError(f"{where}: {lines[0]}") from error
