"""Reward `aesthetic`: how much people like a picture, whatever it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import attrs
import torch
from torch import Tensor, nn

from align import Domain, Repeatable, Reward, RewardSpec, option
from align_clip.reward import Clip

WHO = "reward 'aesthetic'"


def _named(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    if not value.strip():
        raise ValueError(f"'{attribute.name}' must name the file of the head's weights")


@final
@attrs.frozen(kw_only=True)
class Aesthetic(RewardSpec, Repeatable):
    """How beautiful people would find a picture, 1 to 10.

    R(x) = a head on the unit features of a CLIP model: a mark of 1 to 10 for most pictures.

    Heads of LAION's layout: one linear layer ('weight', 'bias'), or five without anything between
    them ('layers.0' to 'layers.7'). Both are trained on OpenAI's ViT-L/14, the default of `clip`.

    Reference: LAION-5B, Schuhmann et al., 2022, arXiv:2210.08402, section 3 and appendix B.
    """

    kind: ClassVar[str] = "aesthetic"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    head: str = option(
        "file of the head, like sac+logos+ava1-l14-linearMSE.pth", check=_named, path=True
    )
    weights: str = option(
        "file, folder or hub repository of the CLIP model; '' is the released one",
        default="",
        path=True,
    )
    activation: Literal["auto", "quick_gelu", "gelu"] = option(
        "activation of a CLIP model in a single file; 'auto' knows folders and OpenAI's",
        default="auto",
    )
    tokenizer: str = option(
        "path of a tokenizer.json, or id on the hub; '' is CLIP's", default="", path=True
    )
    revision: str = option("branch, tag or commit of the hub's repository", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)
    dtype: Literal["float32", "bfloat16"] = option(
        "precision of the CLIP model; the head is in float32", default="float32"
    )
    recompute: bool = option(
        "whether layers run again in the backward pass: slower, less memory", default=False
    )
    match_pil: bool = option("whether resizing rounds to 8 bits where PIL does", default=False)

    def files_read(self) -> tuple[Path, ...] | None:
        """The head, and what the CLIP model reads."""
        others = self._clip.files_read()
        return None if others is None else (Path(self.head).expanduser(), *others)

    @property
    def _clip(self) -> Clip:
        """The CLIP model."""
        return Clip(
            weights=self.weights,
            activation=self.activation,
            tokenizer=self.tokenizer,
            revision=self.revision,
            offline=self.offline,
            dtype=self.dtype,
            recompute=self.recompute,
            match_pil=self.match_pil,
        )

    def build(self, device: torch.device) -> Reward:
        """The frozen model and head; raises PartError when their weights cannot be used."""
        from align_clip.engine import ClipReward

        head = loaded(self.head)
        seen: ClipReward = self._clip.build(device)
        has = seen.network.clip.config.projection_dim
        if head[0].in_features != has:
            from align.core.errors import PartError

            text = f"the head takes {head[0].in_features} features, and the CLIP model has {has}"
            raise PartError(f"{WHO}: head: {text}; give the CLIP model it was trained on")
        return _Aesthetic(head.to(device), seen)


def loaded(file: str) -> nn.Sequential:
    """The head in a file, frozen: linear layers one after the other.

    Raises:
        PartError: there is no such file, or it is no such head.
    """
    from align.core.errors import PartError
    from align.io.weights import load_strictly, read

    path = Path(file).expanduser()
    if not path.is_file():
        raise PartError(f"{WHO}: head: no file '{file}', as seen from '{Path.cwd()}'")
    state = _plain(read(path, WHO))
    layers = sorted({int(name.split(".")[0]) for name in state if name.split(".")[0].isdecimal()})
    shapes = [tuple(state[f"{k}.weight"].shape) for k in layers if f"{k}.weight" in state]
    chained = all(one[0] == two[1] for one, two in pairwise(shapes))
    odd = [name for name in state if not name.split(".")[0].isdecimal()]
    if odd or not shapes or len(shapes) < len(layers) or not chained or shapes[-1][0] != 1:
        text = f"'{file}' is no head of linear layers that ends in one number"
        raise PartError(f"{WHO}: head: {text}; give LAION's linear or MLP weights")
    head = nn.Sequential(*(nn.Linear(wide, high) for high, wide in shapes))
    order = {k: number for number, k in enumerate(layers)}
    renamed = {f"{order[int(n.split('.')[0])]}.{n.split('.', 1)[1]}": x for n, x in state.items()}
    load_strictly(head, {n: x.float() for n, x in renamed.items()}, path, f"{WHO}: head")
    return head.requires_grad_(False).eval()


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without 'layers.'; those of a single layer as of the first of several."""
    if set(state) == {"weight", "bias"}:
        return {f"0.{name}": tensor for name, tensor in state.items()}
    return {name.removeprefix("layers."): tensor for name, tensor in state.items()}


@final
@attrs.frozen(eq=False)
class _Aesthetic(Reward):
    head: nn.Sequential
    clip: Any

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Marks (B,), float32, of pictures (B, 3 or 1, H, W) in [0, 1].

        Raises:
            ContractError: the data are no such pictures.
        """
        with torch.autocast(data.device.type, enabled=False):
            marks: Tensor = self.head(self.clip.features(data, WHO).float())
        return marks[:, 0]
