"""Model `imagenet`: the public transformers of ImageNet 256, from their files as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, final

import attrs
import torch
from loguru import logger
from torch import nn

from align import (
    Domain,
    FlowMap,
    ModelSpec,
    PartError,
    PosteriorMap,
    PromptError,
    Repeatable,
    at_least,
    option,
)
from align.core.prompts import expand_prompt
from align.io.hub import all_stored, is_id
from align.models.network_model import ClassReader, NetworkModel
from align_imagenet.labels import index_in, numbers_of, others_in, spellings
from align_imagenet.layouts import LAYOUTS, Name

if TYPE_CHECKING:
    from align.networks.autoencoder import Autoencoder
    from align.networks.dit import DiT

_FILES: Final = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors"})
# A map with rows for guidance was trained on this one for classes, and on 1 for no class.
_TRAINED: Final = 2.5


def _there(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    is_file = attribute.name == "weights"
    may_be_id = is_id(value) and not (is_file and Path(value).suffix in _FILES)
    if value and not may_be_id and not Path(value).expanduser().exists():
        what = "file" if is_file else "folder"
        raise ValueError(f"'{attribute.name}': no {what} '{value}', as seen from '{Path.cwd()}'")


def _classes(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    try:
        for prompt in expand_prompt(value, None):
            if prompt and "{class}" not in prompt:
                index_in(prompt)
    except PromptError as error:
        raise ValueError(f"'{attribute.name}': {error}") from error


@final
@attrs.frozen(kw_only=True)
class ImageNetModel(ModelSpec, Repeatable):
    """ImageNet in 256 pixels, from published weights.

    A transformer of ImageNet 256 in latents: SiT, REPA, DMF or MFM, from its public file.

    It is a model of networks like any other: `distill` and `finetune` start from it.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430; Decoupled MeanFlow, Lee et
    al., 2025, arXiv:2510.24474; SiT, Ma et al., 2024, arXiv:2401.08740; REPA, Yu et al., 2024,
    arXiv:2410.06940.
    """

    kind: ClassVar[str] = "imagenet"
    domain: ClassVar[Domain] = "image"

    layout: Name = option(
        "whose file it is: 'mfm' (a meta flow map), 'dmf' (a flow map), 'sit' or 'repa' (flows)"
    )
    weights: str = option(
        "path of a file or folder, or id of a repository on the hub; '' is the released XL/2",
        default="",
        check=_there,
        path=True,
    )
    prompt: str = option(
        "names the class of every sample, by name, synonym or number; empty for no class",
        default="",
        check=_classes,
    )
    guidance: float | None = option(
        "guidance scale. 'mfm' has rows for 1 and 2.5 and takes the nearest; left out: 2.5 for"
        " classes and 1 for no class, as it was trained. Others: scale of classifier-free guidance"
        " of the velocity, with two network rows for each; left out: 1, which is none",
        default=None,
    )
    dtype: Literal["float32", "bfloat16"] = option(
        "precision of the transformer's blocks, 97 % of its weights; times, modulations and states"
        " are in float32",
        default="float32",
    )
    ema: bool = option(
        "whether the running average of the weights is taken where the file holds one",
        default=True,
    )
    heads: int = option(
        "attention heads; 0 is what the sizes XL, L, B and S have", default=0, check=at_least(0)
    )
    encoder_depth: int = option(
        "blocks of a map that see the start time; 0 is what maps of the sizes XL and B have",
        default=0,
        check=at_least(0),
    )
    compile: bool = option(
        "whether the network is compiled: a minute at the start, then faster on a GPU",
        default=False,
    )
    vae: str = option(
        "folder of an AutoencoderKL of diffusers, or its id on the hub; '' is the one that the"
        " layout was trained with",
        default="",
        check=_there,
        path=True,
    )
    vae_dtype: Literal["float32", "bfloat16"] = option(
        "precision of the autoencoder", default="float32"
    )
    slice: bool = option(
        "whether pictures are decoded one after the other: less memory", default=False
    )
    tile: int = option(
        "side in latents of the tiles that are decoded one after the other, such as 16; 0 decodes"
        " all at once",
        default=0,
        check=at_least(0),
    )
    recompute: bool = option(
        "whether the decoder's blocks run again in the backward pass: less memory, more time",
        default=False,
    )
    revision: str = option("branch, tag or commit of the hub's repository", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)

    def __attrs_post_init__(self) -> None:
        if not self.weights and not LAYOUTS[self.layout].repo:
            raise ValueError(f"layout '{self.layout}' has no usual place on the hub; set 'weights'")

    @property
    def provides(self) -> frozenset[type]:
        """What the layout's network is."""
        return {
            "flow": frozenset[type](),
            "flow_map": frozenset({FlowMap}),
            "meta_flow_map": frozenset({FlowMap, PosteriorMap}),
        }[LAYOUTS[self.layout].role]

    def files_read(self) -> tuple[Path, ...] | None:
        """The transformer's file, and the autoencoder's folder."""
        layout = LAYOUTS[self.layout]
        weights = (self.weights or layout.repo, self.revision)
        return all_stored(weights, (self.vae or layout.vae, "main"))

    def build(self, device: torch.device) -> NetworkModel:
        """Load the network and its autoencoder; raises PartError when they cannot be used."""
        from align.io.hub import located
        from align_imagenet import layouts, vae

        layout, who = LAYOUTS[self.layout], "model 'imagenet'"
        path = located(
            self.weights,
            layout.repo,
            layout.files,
            who=who,
            revision=self.revision,
            offline=self.offline,
        )
        outer = vae.load(
            self.vae or layout.vae,
            vae.KL(slice=self.slice, tile=self.tile, recompute=self.recompute),
            getattr(torch, self.vae_dtype),
            offline=self.offline,
            who=who,
        )
        net = layouts.network(
            path,
            self.layout,
            heads=self.heads,
            encoder_depth=self.encoder_depth,
            averaged=self.ema,
            dtype=getattr(torch, self.dtype),
            who=who,
        )
        if outer.config.latents != net.shape[0]:
            raise PartError(
                f"{who}: vae: its latents have {outer.config.latents} channels, and the"
                f" transformer's states have {net.shape[0]}; name another one"
            )
        if self.compile:
            net.compile()
        self._warn()
        return self._of(net.to(device), outer.to(device), device)

    def sketch(self, device: torch.device) -> tuple[NetworkModel, tuple[nn.Module, ...]] | None:
        """The released XL/2 and its autoencoder; of another file only the file knows the sizes."""
        from align_imagenet import layouts, vae

        if self.weights:
            return None
        like = vae.KL(slice=self.slice, tile=self.tile, recompute=self.recompute)
        outer = vae.sketch(like, getattr(torch, self.vae_dtype))
        net = layouts.released(self.layout, getattr(torch, self.dtype))
        return self._of(net, outer, device), (net, outer)

    def _of(self, net: DiT, outer: Autoencoder, device: torch.device) -> NetworkModel:
        model = NetworkModel(
            shape=net.shape,
            classes=spellings(),
            reader=ClassReader(index_in, others_in, numbers_of),
            autoencoder=outer,
            guidance=self._guidance,
            null_guidance=1.0 if self.guidance is None else self.guidance,
            domain="image",
            device=device,
        )
        return model.with_net(LAYOUTS[self.layout].role, net)

    @property
    def _guidance(self) -> float:
        if self.guidance is not None:
            return self.guidance
        return _TRAINED if LAYOUTS[self.layout].scales else 1.0

    def _warn(self) -> None:
        """Say where a row of guidance is asked for that was not trained for such prompts."""
        scales = LAYOUTS[self.layout].scales
        if not scales or self.guidance is None:
            return
        trained = _TRAINED if self.prompt else 1.0
        nearest = min(scales, key=lambda scale: abs(scale - self._guidance))
        if nearest != trained:
            rows = "classes" if self.prompt else "no class"
            logger.bind(notice=True).warning(
                "model 'imagenet': guidance {:g} takes the row of {:g}, but for {} the map was"
                " trained with {:g} alone",
                self._guidance,
                nearest,
                rows,
                trained,
            )
