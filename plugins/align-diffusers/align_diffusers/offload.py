"""Components of a pipeline that wait in the CPU's memory while they are not used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Use: TypeAlias = Literal["encoders", "network", "decoder"]

_CPU: Final = torch.device("cpu")


class Placement:
    """Where the components of a pipeline are: where they were put, or one use at a time.

    Args:
        pipe: the pipeline.
        network: name of its network; `vae` is its decoder, and every other module encodes prompts.
        device: where components are used.
        offload: whether they wait elsewhere. On the CPU nobody has to, and nothing is moved.
    """

    def __init__(self, pipe: Any, network: str, device: torch.device, offload: bool) -> None:
        uses: Mapping[str, Use] = {network: "network", "vae": "decoder"}
        self.device: Final = device
        self._modules: dict[Use, list[nn.Module]] = {"encoders": [], "network": [], "decoder": []}
        for name, component in pipe.components.items():
            if isinstance(component, nn.Module):
                self._modules[uses.get(name, "encoders")].append(component)
        self.offloads: Final = offload and device.type != "cpu"
        self._here: Use | None = None
        if not self._modules["encoders"]:
            self.use("network")  # a pipeline is where some component of it is

    def use(self, wanted: Use) -> None:
        """Bring the modules of this use to the device, and the others away from it."""
        if not self.offloads or self._here == wanted or not self._modules[wanted]:
            return
        away = [use for use in self._modules if use != wanted]
        for module in (module for use in away for module in self._modules[use]):
            module.to(_CPU)
        for module in self._modules[wanted]:
            module.to(self.device)
        self._here = wanted

    def call(self, wanted: Use, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x) with its modules here; where a gradient follows, again on the way back.

        By then others may have taken their place, so that nothing of the way there is kept.
        """

        def called(x: Tensor) -> Tensor:
            self.use(wanted)
            return function(x)

        if not (self.offloads and torch.is_grad_enabled() and x.requires_grad):
            return called(x)
        result: Tensor = checkpoint(called, x, use_reentrant=False, preserve_rng_state=False)
        return result
