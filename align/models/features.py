"""What a model's conditions say in numbers, for networks that are trained in the model's place."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from align.core.errors import ContractError
from align.core.model import ClassConditional, Condition, DescribesConditions, FlowModel

POOLED: Final = 4096
"""Numbers of a row above which a tensor is averaged over all but its last dimension."""
WAVES: Final = 8


def features_of(model: FlowModel, cond: Condition) -> Tensor | None:
    """Numbers (B, F), float32, that say what B samples are conditioned on; None for none.

    The model says them itself where it `DescribesConditions`. Of any other they are the tensors of
    its condition, in the order of their names: floats as they are, averaged over all but the last
    dimension where a row has more than 4096; of whole numbers n, cosines and sines of n/10000^(k/8)
    for k from 0 to 7. Labels of a model with classes are left out: networks embed them.

    Raises:
        ContractError: the model says something else than (B, F).
    """
    own = model.capability(DescribesConditions)
    if own is not None:
        features = own.features(cond)
        if features.dim() != 2 or len(features) != len(cond):
            raise ContractError(
                f"model: features returned {tuple(features.shape)}, expected ({len(cond)}, F)"
            )
        return features.float()
    classes = model.capability(ClassConditional)
    parts = [
        _row_numbers(tensor)
        for name, tensor in sorted(cond.tensors.items())
        if classes is None or not is_label(name, tensor)
    ]
    return torch.cat(parts, 1) if parts else None


def is_label(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a condition has the number of a class for each row."""
    return name == "label" and tensor.dim() == 1 and _whole(tensor)


def _row_numbers(tensor: Tensor) -> Tensor:
    """A tensor with B rows as (B, F)."""
    if _whole(tensor):
        frequencies = 10_000 ** -(torch.arange(WAVES, device=tensor.device) / WAVES)
        angles = tensor.flatten(1 if tensor.dim() > 1 else 0)[..., None].float() * frequencies
        return torch.cat((angles.cos(), angles.sin()), -1).reshape(len(tensor), -1)
    numbers = tensor.float().reshape(len(tensor), -1)
    if numbers.shape[1] <= POOLED or tensor.dim() < 3:
        return numbers
    return tensor.float().flatten(1, -2).mean(1)


def _whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.dtype == torch.bool)
