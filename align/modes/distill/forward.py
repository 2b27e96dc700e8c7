"""Forward-mode derivatives of a map under training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def derivative(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """A function's value, and its derivative along `tangents`; both (B, *S).

    It is computed in float32, and with unfused attention: fused kernels have no forward mode.
    """
    full_precision = torch.autocast(inputs[0].device.type, enabled=False)
    with full_precision, sdpa_kernel(SDPBackend.MATH):
        value, slope, *_ = torch.func.jvp(function, inputs, tangents)
    return value, slope
