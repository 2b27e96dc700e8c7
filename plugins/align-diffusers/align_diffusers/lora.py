"""Low-rank adapters as `pipe.load_lora_weights` reads them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import nn

FILE: Final = "pytorch_lora_weights.safetensors"


def lora_files(pipe: Any, name: str, module: nn.Module) -> Mapping[str, bytes]:
    """The adapters of a pipeline's network in a file, written by the pipeline's own class.

    Args:
        pipe: the pipeline.
        name: of the network among its components.
        module: the network, with peft's adapters in it.

    Returns:
        The file by its name; none where the network has no adapters, or where the class of the
        pipeline has no format for them.
    """
    save = getattr(type(pipe), "save_lora_weights", None)
    configs: Mapping[str, Any] | None = getattr(module, "peft_config", None)
    if save is None or not configs:
        return {}
    from peft import get_peft_model_state_dict

    adapter, config = next(iter(configs.items()))
    metadata = config.to_dict() | {"target_modules": sorted(config.target_modules)}
    arguments = {
        f"{name}_lora_layers": get_peft_model_state_dict(module, adapter_name=adapter),
        f"{name}_lora_adapter_metadata": metadata,
    }
    with tempfile.TemporaryDirectory() as folder:
        save(folder, **arguments)
        return {FILE: (Path(folder) / FILE).read_bytes()}
