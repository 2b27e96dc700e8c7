"""Each check of an autoencoder catches one that breaks it, and no other check does."""

from itertools import count
from typing import ClassVar

import attrs
import pytest
import torch
from torch import nn

from align.core.autoencoder import AutoencoderSpec
from align.core.option import option
from align.testing.checks import autoencoder as checks

BUILT = count()  # a number that no two networks share


@attrs.frozen(kw_only=True)
class Halving(AutoencoderSpec):
    """One convolution each way, spoilt by `fault`."""

    kind: ClassVar[str] = "halving"

    colours: int = option("channels of a picture", default=3)
    latents: int = option("channels of a latent", default=4)
    fault: str = option("what is wrong", default="")

    def layers(self):
        encoder = Layer(self.fault, nn.Conv2d(3, 4, 2, 2))
        side = 4 if self.fault == "size" else 2
        return encoder, Layer("", nn.ConvTranspose2d(4, 3, side, side))


class Layer(nn.Module):
    """A convolution, spoilt by `fault`."""

    def __init__(self, fault, convolution):
        super().__init__()
        self.fault, self.convolution = fault, convolution
        if fault == "idle weights":
            self.idle = nn.Linear(2, 2)
        if fault == "hidden weights":
            self.scale = torch.rand(1)
        if fault == "unseeded":
            with torch.no_grad():
                self.convolution.bias.fill_(next(BUILT))

    def forward(self, x):
        out = self.convolution(x)
        return {
            "another batch": lambda: out + 0.1 * out.sum(0),
            "hidden weights": lambda: out + getattr(self, "scale", 0),
            "global": lambda: out + 0 * torch.rand(()),
        }.get(self.fault, lambda: out)()


@attrs.frozen(kw_only=True)
class Opaque(Halving):
    """Has an option that is no plain value."""

    kind: ClassVar[str] = "opaque"

    units: object = option("units", default=(4,))


FAULTS = [
    ("", set()),
    ("size", {"shape"}),
    ("another batch", {"rows_are_independent"}),
    ("idle weights", {"gradient"}),
    ("hidden weights", {"state_dict"}),
    ("unseeded", {"weights_are_seeded"}),
    ("global", {"weights_are_seeded"}),
]


def failed(part):
    """Names of the checks that an autoencoder fails."""
    names = set()
    for check in checks.CHECKS:
        try:
            check(checks.subject(part, None))
        except Exception:
            names.add(check.__name__)
    return names


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
def test_a_broken_autoencoder_fails_the_check_of_its_fault(fault, expected):
    assert failed(Halving(fault=fault)) == expected


def test_options_that_json_changes_fail_their_check():
    assert failed(Opaque()) == {"options_are_plain"}


def test_every_check_is_seen_to_fail():
    seen = set().union(*(expected for _, expected in FAULTS)) | {"options_are_plain", "form"}
    assert {check.__name__ for check in checks.CHECKS} == seen
