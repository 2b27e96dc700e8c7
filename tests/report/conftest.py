"""A run folder as the record writes it."""

import attrs
import pytest
import torch
from safetensors.torch import save_file

from align.report.schema import ArmNumbers, RunResults, save


def arm(name, number, count=2, **more):
    return ArmNumbers(name=name, folder=f"samples/{number}", samples=count, **more)


@pytest.fixture
def arm_of():
    return arm


@pytest.fixture
def folder_of(tmp_path):
    """Write results.json, and states where an arm brings them."""

    def written(*arms, results=RunResults(), states=()):  # noqa: B008
        save(tmp_path, attrs.evolve(results, arms=arms))
        for one in arms:
            (tmp_path / one.folder).mkdir(parents=True)
        for one, x1 in zip(arms, states, strict=False):
            save_file({"x1": torch.as_tensor(x1)}, tmp_path / one.folder / "states.safetensors")
        return tmp_path

    return written
