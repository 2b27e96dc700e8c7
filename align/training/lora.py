"""Low-rank adapters: a few weights beside those of a network, which stay as they are."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Mapping
from typing import Any, TypeVar, final

import attrs
from safetensors.torch import save
from torch import nn

from align.core.errors import PartError
from align.core.option import above, at_least, option
from align.core.streams import Streams
from align.training.weights import in_float32

Net = TypeVar("Net", bound=nn.Module)


@final
@attrs.frozen(kw_only=True)
class Lora:
    """W + (α/r) B A beside every linear layer's W, with A and B of rank r; B is 0 at the start.

    Reference: LoRA: Low-Rank Adaptation of Large Language Models, Hu et al., 2021,
    arXiv:2106.09685, Eq. 3; made by peft.
    """

    rank: int = option("rank r", default=8, check=at_least(1))
    alpha: float = option("scale α; adapters count α/r", default=8.0, check=above(0))

    def __attrs_post_init__(self) -> None:
        if importlib.util.find_spec("peft") is None:
            raise ValueError("peft is not installed; pip install 'align-core[lora]'")

    def adapted(self, net: Net, streams: Streams) -> Net:
        """A frozen copy of a network with adapters, which alone require gradients.

        Raises:
            PartError: peft is not installed, or the network has no linear layers.
        """
        if not _linear_layers(net):
            raise PartError(
                f"mode.lora: adapters lie beside linear layers (torch.nn.Linear), and"
                f" {type(net).__name__} has none; leave lora out, so that all weights are trained"
            )
        peft = _peft()
        own = copy.deepcopy(net).requires_grad_(False)

        def made() -> Net:
            adapted: Net = peft.inject_adapter_in_model(self._config(own), own)
            return adapted

        return streams.fold_in("adapters").initialise(made)

    def merged(self, net: Net) -> Net:
        """A copy of an adapted network whose adapters are part of its weights, in float32."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        own = copy.deepcopy(net)
        in_float32(own.parameters())
        adapted = [name for name, part in own.named_modules() if isinstance(part, BaseTunerLayer)]
        for name in adapted:
            part: Any = own.get_submodule(name)
            part.merge()
            parent, _, child = name.rpartition(".")
            setattr(own.get_submodule(parent), child, part.get_base_layer())
        return own.requires_grad_(False)

    def files(self, net: nn.Module) -> Mapping[str, bytes]:
        """The adapters alone, as peft keeps them."""
        peft = _peft()
        state = peft.get_peft_model_state_dict(net)
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        config = self._config(net).to_dict()
        config["target_modules"] = sorted(config["target_modules"])
        config["base_model_name_or_path"] = None
        text = json.dumps(config, indent=1, sort_keys=True, default=str) + "\n"
        return {
            "adapter_model.safetensors": save(kept),
            "adapter_config.json": text.encode(),
        }

    def _config(self, net: nn.Module) -> Any:
        return _peft().LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=_linear_layers(net)
        )


def _linear_layers(net: nn.Module) -> list[str]:
    """The names of a network's linear layers, whether they have adapters or not."""
    return [
        name.removesuffix(".base_layer")
        for name, part in net.named_modules()
        if isinstance(part, nn.Linear) and ".lora_" not in name
    ]


def _peft() -> Any:
    try:
        import peft
    except (ImportError, RuntimeError) as error:  # a torchvision of another build raises the latter
        text = f"mode.lora: peft cannot be imported ({error}); pip install 'align-core[lora]'"
        raise PartError(text) from error
    return peft
