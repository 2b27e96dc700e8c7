"""Checks of autoencoders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

import attrs
import torch
from torch import Tensor

from align.catalog.registry import Entry, Origin, load_catalog
from align.core.autoencoder import AutoencoderSpec
from align.core.streams import Streams
from align.models.about import spec_in, spec_table
from align.networks.autoencoder import Autoencoder
from align.testing.checks.form import form
from align.testing.checks.network import randomised
from align.testing.probes import close, finite
from align.testing.probes import untouched as unmoved


@final
@attrs.frozen(eq=False)
class Trial:
    """An architecture, and pictures (B, C, H, W) in [0, 1] to try it on."""

    part: AutoencoderSpec
    pictures: Tensor

    def network(self, seed: int = 0) -> Autoencoder:
        """An autoencoder with random weights."""
        net = Streams(seed, ()).initialise(lambda: Autoencoder(self.part))
        return net.eval().requires_grad_(False)


def subject(part: AutoencoderSpec, on: Callable[[], Tensor] | None) -> Trial:
    """The architecture on pictures; by default on noise of 32 x 32 pixels."""
    noise = Streams(5, tuple(range(4))).uniform((part.colours, 32, 32)).float()
    return Trial(part, on() if on else noise)


def shape(trial: Trial) -> None:
    """Latents have the declared channels, and decode to pictures of the size that went in."""
    net = trial.network()
    latents = net.encode(trial.pictures)
    rows, channels = latents.shape[:2]
    assert latents.dim() == 4, f"latents are {tuple(latents.shape)}"
    assert (rows, channels) == (len(trial.pictures), trial.part.latents), (
        f"latents are {tuple(latents.shape)}, expected {trial.part.latents} channels"
    )
    decoded = net.decode(latents)
    assert decoded.shape == trial.pictures.shape, f"pictures came back {tuple(decoded.shape)}"
    finite(latents, "latents")
    finite(decoded, "decoded pictures")


def rows_are_independent(trial: Trial) -> None:
    """A picture's latent and a latent's picture are the same alone and among others."""
    net = randomised(trial.network())
    latents = net.encode(trial.pictures)
    decoded = net.decode(latents)
    for rows in ([0], [3, 1]):
        close(net.encode(trial.pictures[rows]), latents[rows], f"latents {rows}, and among others")
        close(net.decode(latents[rows]), decoded[rows], f"pictures {rows}, and among others")


def gradient(trial: Trial) -> None:
    """Every weight has a gradient, and so have the pictures."""
    net, pictures = trial.network().requires_grad_(True).train(), trial.pictures.clone()
    net.decode(net.encode(pictures.requires_grad_())).square().sum().backward()
    for key, parameter in net.named_parameters():
        used = parameter.grad is not None
        assert used, f"'{key}' takes no part; several processes could not train it"
    assert pictures.grad is not None and bool(pictures.grad.any()), "pictures have no gradient"


def state_dict(trial: Trial) -> None:
    """Weights that are saved and loaded into another autoencoder make the same one."""
    net, other = randomised(trial.network()), trial.network(seed=1)
    other.load_state_dict(net.state_dict())
    close(other.encode(trial.pictures), net.encode(trial.pictures), "latents of loaded weights")


def options_are_plain(trial: Trial) -> None:
    """The options survive JSON, in which a weights file keeps them."""
    cls, origin = type(trial.part), Origin("tried", "tried", "0")
    catalog = attrs.evolve(load_catalog(()), parts={"autoencoder": {cls.kind: Entry(cls, origin)}})
    table = json.loads(json.dumps(spec_table(trial.part, catalog)))
    assert spec_in(table, "autoencoder", Path("file"), catalog) == trial.part, "other options"


def weights_are_seeded(trial: Trial) -> None:
    """Untrained weights depend on torch's global generator alone, and calls leave it alone."""
    first, second = (trial.network().state_dict() for _ in range(2))
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), f"'{key}' is another with the same seed"
    net = trial.network()
    with unmoved(torch.device("cpu"), "the autoencoder"):
        net.decode(net.encode(trial.pictures))


CHECKS: Final = (
    form,
    shape,
    rows_are_independent,
    gradient,
    state_dict,
    options_are_plain,
    weights_are_seeded,
)
