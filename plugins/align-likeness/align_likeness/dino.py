"""Likeness by DINOv2: the cosine of class tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from align_classifier.dinov2 import MEAN, SIDE, STD, load_network
from torch import Tensor

from align.io.images import preprocess, standardised
from align_likeness.parts import Likeness


def likeness(
    weights: str, revision: str, offline: bool, match_pil: bool, picture: Tensor
) -> Likeness:
    """The likeness to a picture (3, H, W); raises PartError when the weights cannot be used."""
    who = "likeness 'dinov2'"
    network = load_network(weights, revision, offline, who).to(picture.device)

    def tokens(pictures: Tensor) -> Tensor:
        seen = preprocess(pictures, SIDE, "squash", match_pil)
        token: Tensor = network(standardised(seen, MEAN, STD)).pooler_output
        return F.normalize(token.float(), dim=-1)

    with torch.no_grad():
        wanted = tokens(picture[None].float())
    return lambda pictures: (tokens(pictures) * wanted).sum(-1)
