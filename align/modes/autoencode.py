"""Training an autoencoder, the outer layer of a latent model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, final

import attrs
import torch
from torch import Tensor, nn

from align.catalog.registry import load_catalog
from align.core.autoencoder import AutoencoderSpec
from align.core.dataset import DatasetSpec
from align.core.mode import AlignmentMode, Export, Info, Need, Trainable
from align.core.option import at_least, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.about import spec_table
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.training.loop import Optimisation, Training, advance, pieces
from align.training.reader import Reader


@final
@attrs.frozen(eq=False)
class AutoencoderState:
    """Weights under way, and what reads the pictures they are trained on."""

    training: Training
    reader: Reader


@final
@attrs.frozen(kw_only=True)
class Autoencode(AlignmentMode[AutoencoderState], Trainable[AutoencoderState]):
    """Trains an autoencoder on L1 distance of pictures and of their gradients.

    Latents are pulled towards the origin and blurred by a little noise, so that the decoder is
    smooth; at the end they are scaled to unit deviation over the data.
    """

    kind: ClassVar[str] = "autoencode"
    needs: ClassVar[frozenset[Need]] = frozenset()

    data: DatasetSpec = option("the pictures")
    net: AutoencoderSpec = option("the autoencoder's network", default=AutoencoderConfig())
    optimisation: Optimisation = option("how weights are changed", default=Optimisation())
    steps: int = option("number of steps", default=2000, check=at_least(1))
    noise: float = option("deviation of the noise on latents", default=0.1, check=at_least(0))
    sample_every: int = option(
        "steps between pictures in the record", default=500, check=at_least(1)
    )

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return self.optimisation.batch

    def init(self, problem: Problem, streams: Streams) -> AutoencoderState:
        """Find the pictures and make the network."""
        reader = Reader.of(self.data, self.net.colours)
        net = streams.fold_in("weights").initialise(lambda: Autoencoder(self.net))
        return AutoencoderState(Training.of(net.to(streams.device), self.optimisation), reader)

    def step(
        self, problem: Problem, state: AutoencoderState, index: int, streams: Streams
    ) -> tuple[AutoencoderState, Info]:
        """One step on a batch of pictures."""
        net = state.training.module
        assert isinstance(net, Autoencoder)

        def coming() -> Iterator[Streams]:
            for later in range(index, self.steps):
                yield from pieces(self.optimisation, streams, later)

        def loss(rows: Streams) -> tuple[Tensor, dict[str, Tensor]]:
            pictures = self._mirrored(state.reader.read_next(rows, coming), rows)
            latents = net.encode(pictures)
            blur = rows.fold_in("blur").normal(tuple(latents.shape[1:])).to(latents)
            remade = net.decode(latents + self.noise * blur).float()
            pairs = [(remade, pictures)]
            pairs += [(remade.diff(dim=d), pictures.diff(dim=d)) for d in (2, 3)]
            apart = sum((one - two).abs().flatten(1).mean(1) for one, two in pairs)
            return apart + 1e-3 * latents.square().flatten(1).mean(1), {}

        numbers = advance(state.training, loss, self.optimisation, streams, index, self.steps)
        due = index + 1 == self.steps or (index + 1) % self.sample_every == 0
        rows = streams.numbered(index * self.optimisation.batch, 16)
        return state, Info(numbers, self._remade(state, rows) if due else None)

    def finish(self, problem: Problem, state: AutoencoderState) -> None:
        """No samples."""

    def save(self, state: AutoencoderState) -> dict[str, Any]:
        """Weights, their running mean and the optimiser."""
        return state.training.save()

    def restore(self, state: AutoencoderState, saved: dict[str, Any]) -> None:
        """Take up where `saved` was."""
        state.training.restore(saved)

    def export(self, problem: Problem, state: AutoencoderState) -> Export:
        """The running mean of the weights, with the scale of its latents over the data."""

        @torch.no_grad()
        def export(net: nn.Module) -> Export:
            assert isinstance(net, Autoencoder)
            shape = _scale(net, state.reader)
            about = {"autoencoder": spec_table(self.net, load_catalog()), "shape": shape}
            return Export({"autoencoder": net}, about)

        return state.training.exported(export)

    def _mirrored(self, pictures: Tensor, rows: Streams) -> Tensor:
        """Pictures (b, C, H, W) of these rows of training in [0, 1], some of them mirrored."""
        pictures = pictures.to(rows.device, non_blocking=True) / 255.0
        if not self.data.mirror:
            return pictures
        flip = rows.fold_in("mirror").uniform(()) < 0.5
        return torch.where(flip[:, None, None, None], pictures.flip(-1), pictures)

    @torch.no_grad()
    def _remade(self, state: AutoencoderState, rows: Streams) -> Tensor:
        """The pictures of some rows and their reconstructions, alternating."""
        net = state.training.ema
        assert isinstance(net, Autoencoder)
        pictures = self._mirrored(state.reader.read(rows), rows)
        return torch.stack((pictures, net.decode(net.encode(pictures))), 1).flatten(0, 1)


def _scale(net: Autoencoder, reader: Reader) -> tuple[int, ...]:
    """Scale the latents of all pictures to mean 0 and deviation 1; returns their shape."""
    net.mean.zero_(), net.std.fill_(1)
    sums, count = torch.zeros(2, *net.mean.shape, dtype=torch.float64), 0
    for chunk in reader.chunks():
        latents = net.encode(chunk.to(net.mean.device) / 255.0)
        each = latents.double().cpu()
        powers = torch.stack((each, each.square()))
        sums, count = sums + powers.sum((1, 3, 4), keepdim=True), count + each[:, 0].numel()
    mean = sums[0] / count
    variance = (sums[1] - count * mean.square()) / (count - 1)
    net.mean.copy_(mean), net.std.copy_(variance.sqrt())
    return tuple(latents.shape[1:])
