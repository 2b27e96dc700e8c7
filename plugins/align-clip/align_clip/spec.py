"""What all rewards on CLIP models have in common: their options, and how they are built."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias

import attrs
import torch
from torch import Tensor

from align import Domain, PartError, Repeatable, RewardSpec, option

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import CLIPModel

    from align_clip.engine import ClipReward, View

Activation: TypeAlias = Literal["auto", "quick_gelu", "gelu"]
ACTIVATION: Final = (
    "of a single file, which does not say it: 'quick_gelu' in OpenAI's models, 'gelu' in most of"
    " open_clip's; 'auto' knows folders and OpenAI's archives"
)


@attrs.frozen(kw_only=True)
class ClipSpec(RewardSpec, Repeatable):
    """A reward that compares pictures with prompts in a CLIP model.

    Attributes:
        released: id of the hub's repository that `weights` = '' stands for.
    """

    released: ClassVar[str]

    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    needs_prompt: ClassVar[bool] = True

    weights: str = option(
        "path of a file or folder, or id of a repository on the hub; '' is the released one",
        default="",
        path=True,
    )
    revision: str = option("branch, tag or commit of the hub's repository", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)
    tokenizer: str = option(
        "path of a tokenizer.json, or id on the hub; '' is CLIP's, which is in the package",
        default="",
        path=True,
    )
    dtype: Literal["float32", "bfloat16"] = option(
        "precision of the towers; what comes after them is in float32", default="float32"
    )
    recompute: bool = option(
        "whether the vision tower's layers run again in the backward pass: a tenth of the memory,"
        " a third more time",
        default=False,
    )

    def files_read(self) -> tuple[Path, ...] | None:
        """The weights, and a tokenizer that is not the package's."""
        from align.io.hub import all_stored

        weights = (self.weights or self.released, self.revision)
        return all_stored(weights, *([(self.tokenizer, "main")] if self.tokenizer else []))

    @abstractmethod
    def build(self, device: torch.device) -> ClipReward:
        """Load the reward; raises PartError when its weights cannot be used."""


def assembled(
    spec: ClipSpec,
    load: Callable[[], CLIPModel],
    view: View,
    scale: Callable[[Tensor, float], Tensor],
    device: torch.device,
    *,
    clean: bool,
) -> ClipReward:
    """The reward of a spec around a network.

    Args:
        spec: its common options are followed.
        load: makes the network, in the precision it was saved in; all that is cheap comes before.
        view: how pictures are resized.
        scale: from cosines and the network's own factor to scores.
        device: where the reward computes.
        clean: whether prompts are repaired, as OpenAI's and open_clip's tokenizers do.

    Raises:
        PartError: a package is missing, or the tokenizer or the network cannot be used.
    """
    who = f"reward '{spec.kind}'"
    require(who, ("transformers", "tokenizers", *(("ftfy",) if clean else ())))
    from align_clip import engine, tokens

    tokenizer = tokens.shipped() if not spec.tokenizer else _tokenizer(spec, who)
    network = engine.fitted(load(), tokenizer, who)
    # Before it is rounded to the precision of the towers.
    factor = float(network.logit_scale.detach().double().exp())
    encoders = engine.Encoders(network, recompute=spec.recompute)
    encoders.to(device, getattr(torch, spec.dtype))
    text = engine.Texts(encoders, tokenizer, tokens.cleaned if clean else None)
    return engine.ClipReward(
        network=encoders,
        text=text,
        texts=functools.lru_cache(engine.REMEMBERED)(text.features),
        view=view,
        scale=scale,
        factor=factor,
        who=who,
    )


def _tokenizer(spec: ClipSpec, who: str) -> Tokenizer:
    from align.io.hub import located
    from align_clip.tokens import from_file

    path = located(
        spec.tokenizer,
        "",
        ("tokenizer.json",),
        who=who,
        option="tokenizer",
        offline=spec.offline,
    )
    return from_file(path, who)


def require(who: str, packages: tuple[str, ...]) -> None:
    """Raise PartError, for which `who` is to blame, where a package is not installed."""
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise PartError(f"{who}: package {names} is missing; run 'pip install {names}'")
