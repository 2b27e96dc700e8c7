"""Weights of CLIP models, whoever saved them, in transformers' CLIPModel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import torch
from torch import Tensor

from align import PartError
from align.io.hub import located
from align.io.weights import is_archive, load_strictly, read, seems

if TYPE_CHECKING:
    from transformers import CLIPModel

Activation: TypeAlias = Literal["quick_gelu", "gelu"]
FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a folder."""

# Heads have 64 channels, except in the largest vision towers of open_clip: by width, their number.
_HEADS: Final = {1280: 16, 1408: 16, 1664: 16}
# OpenAI's archives hold three numbers besides the weights.
_NUMBERS: Final = frozenset({"input_resolution", "context_length", "vocab_size"})
_RENAMED: Final = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_PROJECTIONS: Final = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
_LAYERS: Final = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_WITHIN: Final = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named as OpenAI and open_clip name them, by the names of transformers.

    Projections are transposed, and what makes queries, keys and values is cut in three. A name
    that is not known stays as it is.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in _PROJECTIONS:
            found[_PROJECTIONS[name]] = tensor.T.contiguous()
            continue
        start = next((start for start in _LAYERS if name.startswith(start)), "")
        number, _, rest = name.removeprefix(start).partition(".")
        layer, (stem, _, kind) = _LAYERS.get(start, "") + number, rest.rpartition(".")
        if not start:
            found[_RENAMED.get(name, name)] = tensor
        elif stem in _WITHIN:
            found[f"{layer}.{_WITHIN[stem]}.{kind}"] = tensor
        elif rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = rest.rpartition("_")[2]
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{layer}.self_attn.{part}_proj.{kind}"] = piece
        else:
            found[name] = tensor
    return found


def sizes(state: Mapping[str, Tensor], activation: Activation) -> dict[str, Any]:
    """The configuration of transformers for tensors named as OpenAI and open_clip name them.

    Raises:
        KeyError: a tensor that tells a size is missing.
    """
    tokens, text = state["token_embedding.weight"].shape
    vision, _, patch, _ = state["visual.conv1.weight"].shape
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    return {
        "projection_dim": state["text_projection"].shape[1],
        "text_config": {
            "vocab_size": tokens,
            "max_position_embeddings": len(state["positional_embedding"]),
            "bos_token_id": tokens - 2,
            "eos_token_id": tokens - 1,
            "pad_token_id": tokens - 1,
            **_tower(state, "transformer.resblocks.", text, text // 64, activation),
        },
        "vision_config": {
            "patch_size": patch,
            "image_size": patch * grid,
            **_tower(
                state,
                "visual.transformer.resblocks.",
                vision,
                _HEADS.get(vision, vision // 64),
                activation,
            ),
        },
    }


def _tower(
    state: Mapping[str, Tensor], start: str, width: int, heads: int, activation: Activation
) -> dict[str, Any]:
    within = [name.removeprefix(start) for name in state if name.startswith(start)]
    return {
        "hidden_size": width,
        "intermediate_size": len(state[f"{start}0.mlp.c_fc.weight"]),
        "num_attention_heads": heads,
        "num_hidden_layers": len({name.partition(".")[0] for name in within}),
        "hidden_act": activation,
    }


def network_of(
    weights: str,
    activation: Literal["auto"] | Activation,
    *,
    who: str,
    revision: str,
    offline: bool,
) -> CLIPModel:
    """The model of a folder, of a repository of the hub, or of one file.

    Args:
        weights: a path, or an id of the hub.
        activation: of one file; "auto" knows OpenAI's archives.
        who: for messages.
        revision: branch, tag or commit of the repository.
        offline: whether nothing may be downloaded.

    Raises:
        PartError: there is no such model, or a file of it is damaged.
    """
    find = partial(located, weights, weights, who=who, revision=revision, offline=offline)
    if not Path(weights).expanduser().is_file():
        return from_folder(find(("config.json",)), find(FILES), who)
    path = find(FILES)
    if activation == "auto":
        if not is_archive(path):
            cure = "set activation = 'quick_gelu' for OpenAI's weights, 'gelu' for open_clip's"
            raise PartError(f"{who}: '{path}' does not say which activation it has; {cure}")
        activation = "quick_gelu"
    return from_file(path, activation, who)


def from_file(path: Path, activation: Activation, who: str) -> CLIPModel:
    """The model of one file by OpenAI or open_clip, in the precision it is saved in.

    Raises:
        PartError: the file is damaged, or is not such a model.
    """
    state = {name: tensor for name, tensor in read(path, who).items() if name not in _NUMBERS}
    try:
        config = sizes(state, activation)
    except (KeyError, ValueError) as error:
        text = f"'{path}' is not a CLIP model as OpenAI and open_clip save it"
        raise PartError(f"{who}: {text}; it seems to be {seems(state)}") from error
    return _filled(config, renamed(state), path, who)


def from_folder(config: Path, path: Path, who: str) -> CLIPModel:
    """The model of a 'config.json' and a file of weights, as transformers saves both.

    Raises:
        PartError: a file is damaged, or is not of such a model.
    """
    try:
        said = json.loads(config.read_text())
    except (OSError, ValueError) as error:
        raise PartError(f"{who}: '{config}' is no configuration: {error}") from error
    if not isinstance(said, dict) or said.get("model_type") != "clip":
        kind = said.get("model_type") if isinstance(said, dict) else type(said).__name__
        raise PartError(f"{who}: '{config}' is of a model of type '{kind}', not 'clip'")
    state = read(path, who)
    # transformers saved these constants among the weights until 4.31.
    kept = {name: x for name, x in state.items() if not name.endswith(".position_ids")}
    return _filled(said, kept, path, who)


def _filled(config: dict[str, Any], state: dict[str, Tensor], path: Path, who: str) -> CLIPModel:
    """A model without memory of its own, then given the tensors of a file; draws no numbers."""
    try:
        from transformers import CLIPConfig, CLIPModel
    except Exception as error:  # with a torchvision that does not fit torch: a RuntimeError
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        cure = (
            "run \"pip install 'transformers>=4.45'\"; if torchvision is named here, uninstall it"
            " or install the one built for this torch"
        )
        raise PartError(f"{who}: transformers cannot be imported ({text}); {cure}") from error
    with torch.device("meta"):
        network = CLIPModel(CLIPConfig.from_dict(config))
    load_strictly(network, state, path, who)
    for tower in (network.text_model.embeddings, network.vision_model.embeddings):
        tower.position_ids = torch.arange(tower.position_ids.shape[-1])[None]
    return network
