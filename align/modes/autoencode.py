"""Training an autoencoder, the outer layer of a latent model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor, nn

from align.catalog.registry import load_catalog
from align.core.autoencoder import AutoencoderSpec
from align.core.chunks import Chunks
from align.core.dataset import DatasetSpec
from align.core.errors import PartError
from align.core.mode import Export, Need
from align.core.objective import Loss
from align.core.option import at_least, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.memory import DeviceMemory
from align.models.about import spec_table
from align.models.network import autoencoder_in
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.training import weights
from align.training.data import AT_ONCE
from align.training.latents import of_pictures
from align.training.loop import Training, pieces
from align.training.mode import TrainingMode, TrainingState
from align.training.perceptual import Features, Perceptual, perceptual_distance
from align.training.reader import Reader


@final
@attrs.frozen(eq=False)
class AutoencoderState(TrainingState):
    """An autoencoder under training.

    Attributes:
        reader: of the pictures.
        features: the features of the perceptual term; None without one.
    """

    reader: Reader
    features: Features | None = None


@final
@attrs.frozen(kw_only=True)
class Autoencode(TrainingMode[AutoencoderState]):
    """Trains an autoencoder, for flows in its latents.

    Trains an autoencoder on the L1 distance of pictures and of their gradients.

    Latents are pulled towards the origin and blurred by a little noise, so that the decoder is
    smooth. At the end they are scaled to mean 0 and deviation 1 over the data.
    """

    kind: ClassVar[str] = "autoencode"
    needs: ClassVar[frozenset[Need]] = frozenset()

    data: DatasetSpec = option("pictures that the autoencoder is trained on")
    net: AutoencoderSpec = option("network of the autoencoder", default=AutoencoderConfig())
    weights: str = option(
        "weights file of an autoencoder with the same options as 'net', to start from; empty for"
        " random weights",
        default="",
        path=True,
    )
    perceptual: Perceptual | None = option(
        "distance in the features of a network, which is added to the loss", default=None
    )
    steps: int = option("number of optimisation steps", default=2000, check=at_least(1))
    noise: float = option(
        "standard deviation of the noise that is added to latents in training",
        default=0.1,
        check=at_least(0),
    )
    sample_every: int = option(
        "steps from one set of pictures in the record to the next", default=500, check=at_least(1)
    )

    def init(self, problem: Problem, streams: Streams) -> AutoencoderState:
        """Find the pictures and make the network."""
        reader = Reader.of(self.data, self.net.colours)
        net = streams.fold_in("weights").initialise(lambda: Autoencoder(self.net))
        if self.weights:
            self._read_weights(net)
        training = Training.of(net.to(streams.device), self.optimisation)
        features = self.perceptual.load(streams.device) if self.perceptual else None
        return AutoencoderState(training, reader, features)

    def loss(self, problem: Problem, state: AutoencoderState, rows: Streams, index: int) -> Loss:
        """L1 distance of pictures and reconstructions, size of latents, perceptual term."""
        net = _autoencoder(state.training.module)

        def later_rows() -> Iterator[Streams]:
            for later in range(index, self.steps):
                yield from pieces(self.optimisation, rows, later)

        pictures = self._mirrored(state.reader.read_next(rows, later_rows), rows)
        latents = net.encode(pictures)
        noise = rows.fold_in("blur").normal(tuple(latents.shape[1:])).to(latents)
        decoded = net.decode(latents + self.noise * noise).float()
        pairs = [(decoded, pictures)]
        pairs += [(decoded.diff(dim=d), pictures.diff(dim=d)) for d in (2, 3)]
        distance = sum((a - b).abs().flatten(1).mean(1) for a, b in pairs)
        loss = distance + 1e-3 * latents.square().flatten(1).mean(1)
        if not (self.perceptual and state.features) or index < self.perceptual.from_step:
            return Loss(loss)
        perceptual = perceptual_distance(state.features, decoded, pictures)
        return Loss(loss + self.perceptual.weight * perceptual, {"perceptual": perceptual})

    @torch.no_grad()
    def pictures(
        self, problem: Problem, state: AutoencoderState, streams: Streams, index: int
    ) -> Tensor:
        """Sixteen pictures and their reconstructions, alternating."""
        net, rows = _autoencoder(state.training.ema), streams.numbered(index * self.batch, 16)
        pictures = self._mirrored(state.reader.read(rows), rows)
        return torch.stack((pictures, net.decode(net.encode(pictures))), 1).flatten(0, 1)

    @torch.no_grad()
    def exported_model(
        self, problem: Problem, state: AutoencoderState, network: nn.Module
    ) -> Export:
        """The autoencoder, with the scale of its latents over the data."""
        net = _autoencoder(network)
        shape = _set_scale(net, state.reader)
        about = {"autoencoder": spec_table(self.net, load_catalog()), "shape": shape}
        return Export({"autoencoder": net}, about)

    def _read_weights(self, net: Autoencoder) -> None:
        """Fill the network from the file; its latents stay unscaled until the end of training."""
        file = Path(self.weights)
        spec, _ = autoencoder_in(file)
        if spec != self.net:
            raise PartError(
                f"mode.weights: '{file}' holds an autoencoder with other options than 'net'"
            )
        weights.read(file, {"autoencoder": net})
        net.mean.zero_(), net.std.fill_(1)

    def _mirrored(self, pictures: Tensor, rows: Streams) -> Tensor:
        """Pictures (b, C, H, W) of these rows of training in [0, 1], some of them mirrored."""
        pictures = pictures.to(rows.device, non_blocking=True) / 255.0
        if not self.data.mirror:
            return pictures
        flip = rows.fold_in("mirror").uniform(()) < 0.5
        return torch.where(flip[:, None, None, None], pictures.flip(-1), pictures)


def _autoencoder(module: nn.Module) -> Autoencoder:
    assert isinstance(module, Autoencoder)
    return module


def _set_scale(net: Autoencoder, reader: Reader) -> tuple[int, ...]:
    """Scale the latents of all pictures to mean 0 and deviation 1; returns their shape."""
    device = net.mean.device
    net.mean.zero_(), net.std.fill_(1)
    chunks = Chunks(AT_ONCE, DeviceMemory(device))
    sums, count = torch.zeros(2, *net.mean.shape, dtype=torch.float64), 0
    for pictures in reader.chunks():
        latents = of_pictures(pictures.to(device), net.encode, chunks)
        x64 = latents.double().cpu()
        powers = torch.stack((x64, x64.square()))
        sums, count = sums + powers.sum((1, 3, 4), keepdim=True), count + x64[:, 0].numel()
    mean = sums[0] / count
    variance = (sums[1] - count * mean.square()) / (count - 1)
    net.mean.copy_(mean), net.std.copy_(variance.sqrt())
    return tuple(latents.shape[1:])
