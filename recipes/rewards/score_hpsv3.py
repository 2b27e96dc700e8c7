"""HPSv3 by its own package, for kind 'isolated': docs/how_to/rewards.md says how."""

import torch

_JUDGES = {}


def score(data, prompts):
    """The mean score mu (B,), with its gradient, of pictures (B, 3, H, W) in [0, 1]."""
    device = str(data.device)
    if device not in _JUDGES:
        from hpsv3 import HPSv3RewardInferencer

        judge = HPSv3RewardInferencer(device=device, differentiable=True)
        judge.model.requires_grad_(False)
        if data.device.type == "cpu":
            # The package casts what its head, in float32, reads on CUDA alone.
            judge.model.float()
        _JUDGES[device] = judge
    levels = 255 * data.clamp(0, 1)
    # One by one, as a batch pads its texts; the second number of each is a deviation.
    rows = [
        _JUDGES[device].reward([picture], [prompt])[0, 0]
        for picture, prompt in zip(levels, prompts, strict=True)
    ]
    return torch.stack(rows).float()
