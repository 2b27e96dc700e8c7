"""The plugin's part around a scorer of the package's form, by the checks of its contract.

The package itself is asked in tests/parity.
"""

import sys
from types import ModuleType

import pytest
from align_imscore import Imscore
from torch import nn

from align import Streams
from align.testing import conformance


class LAIONAestheticScorer(nn.Module):
    """Has a network and `from_pretrained`, and answers (B, 1), as the package's has."""

    def __init__(self):
        super().__init__()
        self.head = Streams(0, (0,)).initialise(lambda: nn.Linear(3, 1))

    @classmethod
    def from_pretrained(cls, place):
        return cls()

    def score(self, pixels, prompts):
        return self.head(pixels.square().mean((2, 3)))


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """A module where the package has the scorer."""
    for name in ("imscore", "imscore.aesthetic", "imscore.aesthetic.model"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["imscore.aesthetic.model"].LAIONAestheticScorer = LAIONAestheticScorer


def pictures():
    return 0.2 + 0.6 * Streams(0, (0, 1)).uniform((3, 24, 32)).float()


test_imscore = conformance("reward", lambda: Imscore(scorer="laion_aesthetic"), on=pictures)
