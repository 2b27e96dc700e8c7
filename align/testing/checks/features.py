"""Checks of feature networks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, final

import attrs
import torch
from torch import Tensor

from align.core.features import FeatureExtractor, FeatureNetwork, PictureFeatures
from align.core.streams import Streams
from align.testing.checks.form import form
from align.testing.probes import close
from align.testing.probes import untouched as unmoved

_CPU: Final = torch.device("cpu")


@final
@attrs.frozen(eq=False)
class Looking:
    """A loaded network, and pictures (B, 3, H, W) of 8 bits, at least two, to try it on."""

    part: FeatureNetwork
    extractor: FeatureExtractor
    pictures: Tensor

    @functools.cached_property
    def kinds(self) -> dict[str, Tensor]:
        """The features of all pictures, by what they are."""
        return _kinds(self.extractor.extract(self.pictures))


def subject(part: FeatureNetwork, on: Callable[[], Tensor] | None) -> Looking:
    """The network, loaded, on pictures; by default on noise of 40 x 56 pixels."""
    noise = Streams(5, (0, 1)).uniform((3, 40, 56)).float()
    pictures = on() if on else (noise * 255).round() / 255
    return Looking(part, part.build(_CPU), pictures)


def _kinds(features: PictureFeatures) -> dict[str, Tensor]:
    named = {name: getattr(features, name) for name in ("pooled", "spatial", "logits")}
    return {name: rows for name, rows in named.items() if rows is not None}


def shape(looking: Looking) -> None:
    """Features are finite numbers, a row for each picture, as many for pictures of any size."""
    larger = torch.nn.functional.interpolate(looking.pictures[:1], scale_factor=2)
    other = _kinds(looking.extractor.extract(larger))
    for name, rows in looking.kinds.items():
        assert rows.dim() == 2, f"'{name}' are {tuple(rows.shape)}, expected a row for each picture"
        assert len(rows) == len(looking.pictures), f"'{name}' have {len(rows)} rows"
        assert bool(rows.isfinite().all()), f"'{name}' are not all finite"
        assert other[name].shape == (1, rows.shape[1]), (
            f"larger pictures have other numbers of '{name}'"
        )


def promises(looking: Looking) -> None:
    """It makes spatial features and logits if it says so, and a logit for each class it names."""
    part, kinds = looking.part, looking.kinds
    for name, promised in (("spatial", part.has_spatial), ("logits", part.has_logits)):
        assert (name in kinds) == promised, f"has_{name} is {promised}, but it is not so"
    if part.classes:
        count = kinds["logits"].shape[1]
        assert len(part.classes) == count, f"{len(part.classes)} classes and {count} logits"


def rows_are_independent(looking: Looking) -> None:
    """A picture's features are the same alone and among others."""
    for name, alone in _kinds(looking.extractor.extract(looking.pictures[-1:])).items():
        close(alone, looking.kinds[name][-1:], f"'{name}' of a picture alone, and among others")


def repeatable(looking: Looking) -> None:
    """A network that is loaded again makes the same features."""
    again = _kinds(looking.part.build(_CPU).extract(looking.pictures[:1]))
    for name, rows in looking.kinds.items():
        close(again[name], rows[:1], f"'{name}' of the network loaded again")


def random_state(looking: Looking) -> None:
    """Torch's global random state is left as it was."""
    with unmoved(_CPU, "extract"):
        looking.extractor.extract(looking.pictures[:1])


def inputs_untouched(looking: Looking) -> None:
    """Pictures are not changed in place."""
    before = looking.pictures[:1].clone()
    looking.extractor.extract(pictures := before.clone())
    assert torch.equal(before, pictures), "extract changes the pictures in place"


CHECKS: Final = (
    form,
    shape,
    promises,
    rows_are_independent,
    repeatable,
    random_state,
    inputs_untouched,
)
