"""Particles: weights in log space, resampling within each sample, Feynman-Kac potentials.

Each of B samples has M particles, numbers (M, B); states are (M · B, *S), particle-major.

Reference: An introduction to sequential Monte Carlo, Chopin, Papaspiliopoulos, 2020,
doi:10.1007/978-3-030-47845-2, chapters 9 and 10; A general framework for inference-time scaling
and steering of diffusion models, Singhal et al., 2025, arXiv:2501.06848, section 3 (potentials).
"""

from __future__ import annotations

from typing import Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.streams import Streams

Resample: TypeAlias = Literal["none", "systematic", "best", "best_per_particle"]
Potential: TypeAlias = Literal["diff", "max", "add"]


@final
@attrs.frozen(eq=False)
class Weights:
    """Log weights of the particles of B samples, and what they are made from; (M, B), float64.

    Whatever potentials a path has collected on its way, the last one is e^{r(x1)} over their
    product, so that the target is p*(x) ∝ p(x) e^{r(x)}.

    Attributes:
        log: log weights since the last resampling.
        log_ratio: log p(x_u | x_t) − log q(x_u | x_t) of moves since the last weighing, for the
            base transition p and the guided one q.
        log_potentials: log of the product of all potentials on each particle's path.
        memory: what the potential remembers of earlier values: the best so far, or their sum.
    """

    log: Tensor
    log_ratio: Tensor
    log_potentials: Tensor
    memory: Tensor

    @classmethod
    def equal(cls, particles: int, samples: int, device: torch.device) -> Weights:
        """Equal weights, before the first step."""
        zero = torch.zeros(particles, samples, dtype=torch.float64, device=device)
        return cls(zero, zero, zero, zero)

    @property
    def ess(self) -> Tensor:
        """Effective sample size (Σ w)² / Σ w², (B,)."""
        return 1 / torch.softmax(self.log, 0).square().sum(0)

    def after_move(self, log_ratio: Tensor) -> Weights:
        """The weights after a move with this log ratio (M, B) of base and guided transition."""
        return attrs.evolve(self, log_ratio=self.log_ratio + log_ratio)

    def after_values(self, value: Tensor, potential: Potential, first: bool) -> Weights:
        """The weights once the particles have estimated values V̂ (M, B); `first` at the first step.

        "diff": log G = V̂ − V̂ before, so that the product so far is e^V̂.
        "max": log G = the best V̂ so far.   "add": log G = the sum of V̂ so far.
        """
        memory = value
        if not first and potential == "max":
            memory = torch.maximum(self.memory, value)
        elif potential == "add":
            memory = self.memory + value
        log_potential = value - self.log_potentials if potential == "diff" else memory
        return self._multiplied(log_potential, memory)

    def after_rewards(self, reward: Tensor) -> Weights:
        """The weights after the last step, at clean states with rewards r (M, B)."""
        return self._multiplied(reward - self.log_potentials, self.memory)

    def _multiplied(self, log_potential: Tensor, memory: Tensor) -> Weights:
        return Weights(
            log=self.log + self.log_ratio + log_potential,
            log_ratio=torch.zeros_like(self.log_ratio),
            log_potentials=self.log_potentials + log_potential,
            memory=memory,
        )

    def after_resampling(self, source: Tensor, resampled: Tensor) -> Weights:
        """The weights once particle m of sample b is a copy of particle `source` (M, B).

        `resampled` (B,) are the samples whose particles were drawn anew; their weights are equal.
        """
        return Weights(
            log=torch.where(resampled, 0.0, self.log),
            log_ratio=self.log_ratio.gather(0, source),
            log_potentials=self.log_potentials.gather(0, source),
            memory=self.memory.gather(0, source),
        )


@final
@attrs.frozen(kw_only=True)
class Selection:
    """How particles are weighed and replaced."""

    resample: Resample
    potential: Potential
    ess_threshold: float

    def select(
        self, weights: Weights, value: Tensor, index: int, streams: Streams
    ) -> tuple[Weights, Tensor | None, dict[str, Tensor]]:
        """Weigh the particles by their estimated values V̂ (M, B), and choose which go on.

        Returns:
            The new weights; the number (M, B) of the particle that each one becomes a copy of, or
            None if all stay; and numbers () for the record.
        """
        if self.resample == "best_per_particle":
            return weights, None, {}
        if self.resample == "best":
            return weights, value.argmax(0).expand_as(value), {}
        weights = weights.after_values(value, self.potential, index == 0)
        ess = weights.ess
        numbers = {"particles": ess.mean()}
        low = ess < self.ess_threshold * len(value)
        if self.resample == "none" or not low.any():
            return weights, None, numbers
        same = torch.arange(len(value), device=value.device)[:, None]
        source = torch.where(low, systematic(weights.log, streams), same)
        return weights.after_resampling(source, low), source, numbers

    def winner(self, weights: Weights, reward: Tensor, streams: Streams) -> tuple[Weights, Tensor]:
        """The last weights, and each sample's result, given rewards r (M, B) of clean states.

        The result is the number of a particle, (B,): the best one, or one drawn by its weight.
        """
        if self.resample in ("best", "best_per_particle"):
            return weights, reward.argmax(0)
        weights = weights.after_rewards(reward)
        return weights, categorical(weights.log, streams)


def systematic(log_weights: Tensor, streams: Streams) -> Tensor:
    """Numbers (M, B) of the particles that survive: w_m M of each on average.

    One uniform number a sample: places (m + U)/M on the cumulative weights. Particle m has ⌊M w_m⌋
    or ⌈M w_m⌉ copies, so that fewer lineages end than where copies are drawn one by one.
    Variance-aware systematic resampling (VASR, Shekhar et al., 2026, arXiv:2604.06779) has these
    masses and places, by its abstract.
    """
    count = len(log_weights)
    edges = torch.softmax(log_weights, 0).cumsum(0).T.contiguous()
    place = torch.arange(count, device=edges.device)[None]
    places = (place + streams.uniform(()).to(edges)[:, None]) / count
    numbers = torch.searchsorted(edges, places.contiguous(), right=True)
    return numbers.clamp(max=count - 1).T.contiguous()


def categorical(log_weights: Tensor, streams: Streams) -> Tensor:
    """The number (B,) of one particle for each sample, drawn by its weight."""
    edges = torch.softmax(log_weights, 0).cumsum(0)
    return (streams.uniform(()).to(edges) > edges[:-1]).sum(0)


def rows_of(source: Tensor) -> Tensor:
    """Rows (M · B,) of particle-major states that hold the particles `source` (M, B)."""
    count = source.shape[1]
    return (source * count + torch.arange(count, device=source.device)).flatten()
