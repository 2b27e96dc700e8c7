"""How good the packaged models are: are samples of their class, and what does the autoencoder keep?

    python scripts/quality.py classes silhouettes data/silhouettes.tar
    python scripts/quality.py classes photographs data/animals64.tar --guidance 2.5 --samples 12
    python scripts/quality.py rebuilt photographs data/animals64.tar

Both commands judge by classifiers that no model was trained with, beside the validation pictures of
the archive that the variant was trained on. `rebuilt` takes another autoencoder by `--weights`, and
by `--picture` it draws two pictures of every class, each beside its reconstruction. Each prints a
Markdown table, in minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import attrs
import torch
from align_imagenet.labels import index_of
from align_imagenet.loading import load as load_classifier
from align_imagenet.pictures import resized
from align_pocket import Pocket
from align_pocket.judges import load, prepared
from torch import Tensor, nn

from align.datasets.pictures import Pictures
from align.io.images import mosaic, save_picture, to_bytes
from align.models.network import autoencoder_in
from align.models.network_model import NetworkModel
from align.modes.sampling.best_of_n import BestOfN
from align.networks.autoencoder import Autoencoder
from align.runner.direct import sample
from align.training import weights
from align.training.data import Labelled
from align.training.data import load as load_pictures

CPU = torch.device("cpu")
VariantName = Literal["silhouettes", "photographs"]


def show(*cells: str | float) -> None:
    """Print one row of a Markdown table."""
    texts = (f"{cell:.3f}" if isinstance(cell, float) else cell for cell in cells)
    print("| " + " | ".join(texts) + " |", flush=True)


def head(*names: str) -> None:
    """Print the names of the columns."""
    show(*names)
    show(*["---"] * len(names))


@attrs.frozen
class Variant:
    """A variant of the model with two classifiers that say which class (B,) pictures show."""

    name: VariantName
    model: NetworkModel
    judges: dict[str, Callable[[Tensor], Tensor]]

    @classmethod
    def of(cls, name: VariantName) -> Variant:
        """The variant and its judges; neither was used to train it."""
        model = Pocket(variant=name).build(CPU)
        assert isinstance(model, NetworkModel)
        if name == "silhouettes":
            kinds: tuple[Literal["conv", "patch"], ...] = ("conv", "patch")
            return cls(name, model, {kind: of_silhouettes(load(kind, CPU)) for kind in kinds})
        among = [index_of(label) for label in model.classes]
        networks = ("efficientnet_lite0", "squeezenet")
        judges = {kind: of_photographs(load_classifier(kind, CPU), among) for kind in networks}
        return cls(name, model, judges)

    def agreement(self, data: Tensor, label: int) -> list[float]:
        """Share of pictures that each judge takes for the class."""
        return [float((judge(data) == label).float().mean()) for judge in self.judges.values()]

    def held(self, archive: str) -> Labelled:
        """The validation pictures."""
        data = Pictures(path=archive, split="val")
        colours = self.model.require_autoencoder().config.colours
        return load_pictures(data, colours, self.model.classes)


def of_silhouettes(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Classes by a judge of silhouettes."""
    return lambda data: torch.as_tensor(network(prepared(data)).argmax(1))


def of_photographs(network: nn.Module, among: list[int]) -> Callable[[Tensor], Tensor]:
    """Classes by a network of ImageNet, among some."""
    return lambda data: torch.as_tensor(network(resized(data, 128, 128))[:, among].argmax(1))


@torch.no_grad()
def classes(variant: VariantName, archive: str, guidance: float, samples: int) -> None:
    """Class agreement of unsteered samples beside that of validation pictures."""
    world = Variant.of(variant)
    held = world.held(archive)
    head("class", *(f"{which}, {judge}" for which in ("samples", "real") for judge in world.judges))
    rows = []
    for label, name in enumerate(world.model.classes):
        spec = Pocket(variant=variant, prompt=name, guidance=guidance)
        result = sample(spec, BestOfN(n=1), samples=samples)
        assert result.data is not None
        real = (held.pictures[held.labels == label] / 255.0).expand(-1, 3, -1, -1)
        rows.append([*world.agreement(result.data, label), *world.agreement(real, label)])
        show(name, *rows[-1])
    show("mean", *torch.tensor(rows).mean(0).tolist())


@torch.no_grad()
def rebuilt(
    variant: VariantName, archive: str, file: Path | None = None, picture: Path | None = None
) -> None:
    """Class agreement of validation pictures before and after the autoencoder.

    Args:
        variant: whose classes and judges these are, and whose autoencoder where no file is given.
        archive: the validation pictures.
        file: weights file of another autoencoder.
        picture: PNG to draw pictures and reconstructions into.
    """
    world = Variant.of(variant)
    held = world.held(archive)
    auto = autoencoder_of(file) if file else world.model.require_autoencoder()
    if picture:
        draw(held, auto, picture)
    agreed, errors = dict[str, list[Tensor]](), list[Tensor]()
    for rows in torch.arange(len(held)).split(145):
        real = held.pictures[rows] / 255.0
        decoded = auto.decode(auto.encode(real)).clamp(0, 1)
        errors.append((decoded - real).square().flatten(1).mean(1))
        for which, data in (("real", real), ("rebuilt", decoded)):
            for name, judge in world.judges.items():
                right = judge(data.expand(-1, 3, -1, -1)) == held.labels[rows]
                agreed.setdefault(f"{which}, {name}", []).append(right.float())
    head("decibels", *agreed)
    decibels = float(-10 * torch.cat(errors).log10().mean())
    show(decibels, *(float(torch.cat(right).mean()) for right in agreed.values()))


def autoencoder_of(file: Path) -> Autoencoder:
    """The autoencoder in a weights file."""
    spec, _ = autoencoder_in(file)
    auto = Autoencoder(spec).eval()
    weights.read(file, {"autoencoder": auto})
    return auto


def draw(held: Labelled, auto: Autoencoder, picture: Path) -> None:
    """Draw two pictures of every class, each beside its reconstruction."""
    rows = [(held.labels == label).nonzero()[:2, 0] for label in range(len(held.classes))]
    real = held.pictures[torch.cat(rows)] / 255.0
    decoded = auto.decode(auto.encode(real)).clamp(0, 1)
    save_picture(picture, mosaic(to_bytes(torch.stack((real, decoded), 1).flatten(0, 1))))


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("classes", "rebuilt"))
    parser.add_argument("variant", choices=("silhouettes", "photographs"))
    parser.add_argument("archive")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--samples", type=int, default=64, help="samples of each class")
    parser.add_argument("--weights", type=Path, help="weights file of another autoencoder")
    parser.add_argument("--picture", type=Path, help="PNG with pictures and reconstructions")
    options = parser.parse_args()
    if options.what == "classes":
        classes(options.variant, options.archive, options.guidance, options.samples)
    else:
        rebuilt(options.variant, options.archive, options.weights, options.picture)


if __name__ == "__main__":
    main()
