"""A reward as one term of a recipe: the part, its weight, and how its scores are used."""

from __future__ import annotations

from typing import Any, Final, final

import attrs

from align.core.normalise import Normalise
from align.core.option import option
from align.core.reward import RewardSpec


def _rising(_: Any, attribute: attrs.Attribute[Any], value: tuple[float, float] | None) -> None:
    if value and not value[0] < value[1]:
        raise ValueError(f"'{attribute.name}' must be [low, high] with low below high")


@final
@attrs.frozen(kw_only=True)
class RewardTerm:
    """One [[reward]] table of a recipe: a reward with its own options, and how it is used."""

    part: RewardSpec
    weight: float = option("the factor λ in p*(x) ∝ p(x) e^{λ r(x)}", default=1.0)
    normalise: Normalise = option(
        "how scores are brought to a common scale by those of base samples: 'zscore' to mean 0 and"
        " standard deviation 1, 'rank' to the share of base samples that score lower",
        default="none",
    )
    clip: tuple[float, float] | None = option(
        "lowest and highest score that counts; applied after normalising",
        default=None,
        check=_rising,
        infinite=True,
    )
    held_out: bool = option("whether the reward is only measured, and not optimised", default=False)
    offload: bool = option(
        "whether the reward's networks stay in CPU memory and are on the GPU only while it scores",
        default=False,
    )
    name: str = option("name of the reward in tables and records; its kind if empty", default="")


TERM_OPTIONS: Final = tuple(
    field.name for field in attrs.fields(RewardTerm) if field.name != "part"
)
"""Keys of a [[reward]] table that are not the part's own."""
