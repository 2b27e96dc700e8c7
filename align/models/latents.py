"""Training rows: clean states of a model, encoded once, with their classes."""

from __future__ import annotations

from typing import final

import attrs
import torch
from torch import Tensor

from align.core.streams import Streams
from align.models.network import NetworkModel
from align.training.data import Pictures, load, order


@final
@attrs.frozen(eq=False)
class Examples:
    """Clean states (V, R, *S) in V views (plain, and mirrored), and classes (R,).

    Label `unnamed` means "no class".
    """

    states: Tensor
    labels: Tensor
    unnamed: int

    def rows(self, streams: Streams, dropout: float) -> tuple[Tensor, Tensor]:
        """States (b, *S) and labels (b,) of the rows of training that `streams` numbers.

        A share `dropout` of the labels is replaced by "no class".
        """
        places = torch.tensor(streams.samples)
        rows = order(streams.at("order"), self.states.shape[1], places).to(self.states.device)
        view = (streams.at("view").uniform(()) * len(self.states)).long()
        dropped = streams.at("dropout").uniform(()) < dropout
        labels = torch.where(dropped, self.unnamed, self.labels[rows])
        return self.states[view, rows], labels


@torch.no_grad()
def encoded(data: Pictures, model: NetworkModel) -> Examples:
    """All pictures of `data` as states of `model`; their classes matter if the model has any."""
    autoencoder = model.require_autoencoder()
    pictures = load(data, autoencoder.config.colours, model.classes)
    views = []
    for mirrored in (False, True) if data.mirror else (False,):
        chunks = pictures.pictures.split(256)
        moved = ((c.flip(-1) if mirrored else c).to(model.device) / 255.0 for c in chunks)
        views.append(torch.cat([autoencoder.encode(c) for c in moved]))
    named = pictures.labels if model.classes else torch.zeros_like(pictures.labels)
    labels = named.to(model.device)
    return Examples(torch.stack(views), labels, len(model.classes))
