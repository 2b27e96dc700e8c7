"""Numbers of the host on a device, without waiting for what the device has been given to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def on_device(numbers: Sequence[int], device: torch.device | str) -> Tensor:
    """Whole numbers (N,) as an int64 tensor there.

    `torch.tensor(numbers, device=device)` waits until a GPU has done all that it was given.
    """
    tensor, place = torch.from_numpy(np.array(numbers, dtype=np.int64)), torch.device(device)
    # From memory that is pinned to its place a copy waits for nothing.
    return (tensor.pin_memory() if place.type == "cuda" else tensor).to(place, non_blocking=True)
