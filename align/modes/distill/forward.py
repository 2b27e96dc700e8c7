"""Forward-mode derivatives of a map under training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def derivative(
    call: Callable[..., Tensor], noisy: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """A function's value, and its derivative along a direction: both (B, *S).

    In float32, and by attention that is written out: the fused kernels know no forward mode.
    """
    full = torch.autocast(noisy[0].device.type, enabled=False)
    with full, sdpa_kernel(SDPBackend.MATH):
        value, change, *_ = torch.func.jvp(call, noisy, along)
    return value, change
