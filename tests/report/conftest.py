"""A run folder as the record writes it."""

import json

import pytest
import torch
from safetensors.torch import save_file


def arm(name, number, count=2, **more):
    return {
        "name": name,
        "folder": f"samples/{number}",
        "samples": count,
        "scores": {},
        "metrics": {},
        "cost": {"calls": {}, "backward": {}, "flops": 0, "seconds": 0.0, "memory": 0},
    } | more


@pytest.fixture
def arm_of():
    return arm


@pytest.fixture
def folder_of(tmp_path):
    """Write results.json, and states where an arm brings them."""

    def made(*arms, rewards=None, states=()):
        results = {"rewards": rewards or {}, "arms": arms}
        (tmp_path / "results.json").write_text(json.dumps(results))
        for one in arms:
            (tmp_path / one["folder"]).mkdir(parents=True)
        for one, x1 in zip(arms, states, strict=False):
            save_file({"x1": torch.as_tensor(x1)}, tmp_path / one["folder"] / "states.safetensors")
        return tmp_path

    return made
