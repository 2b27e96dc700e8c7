"""Particles: weights in log space, resampling within each sample, Feynman-Kac potentials.

Each of B samples has M particles, numbers (M, B); states are (M · B, *S), particle-major.

Reference: An introduction to sequential Monte Carlo, Chopin, Papaspiliopoulos, 2020,
doi:10.1007/978-3-030-47845-2, chapters 9 and 10; A general framework for inference-time scaling
and steering of diffusion models, Singhal et al., 2025, arXiv:2501.06848, section 3 (potentials).
"""

from __future__ import annotations

import math
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
    """What the particles of B samples have earned; all (M, B), float64.

    Whatever potentials a path has spent on its way, the last one is e^{r(x1)} over their product,
    so that the target is p*(x) ∝ p(x) e^{r(x)}.

    Attributes:
        log: log weights since the last resampling.
        ratio: log p(x_u | x_t) − log q(x_u | x_t) of moves since the last weighing, for the base
            transition p and the guided one q.
        spent: log of all potentials on each particle's path.
        seen: what the potential remembers: the best value so far, or their sum.
        evidence: log of the estimate of E[e^r] up to the last resampling, (B,).
    """

    log: Tensor
    ratio: Tensor
    spent: Tensor
    seen: Tensor
    evidence: Tensor

    @classmethod
    def equal(cls, particles: int, samples: int, device: torch.device) -> Weights:
        """Before the first step."""
        zero = torch.zeros(particles, samples, dtype=torch.float64, device=device)
        return cls(zero, zero, zero, zero, zero[0])

    @property
    def ess(self) -> Tensor:
        """(Σ w)² / Σ w², (B,)."""
        return 1 / torch.softmax(self.log, 0).square().sum(0)

    @property
    def log_evidence(self) -> Tensor:
        """log of the unbiased estimate of E[e^r] over the base model, (B,), after the last step."""
        return self.evidence + torch.logsumexp(self.log, 0) - math.log(len(self.log))

    def moved(self, ratio: Tensor) -> Weights:
        """After a move with this log ratio."""
        return attrs.evolve(self, ratio=self.ratio + ratio)

    def weighed(self, value: Tensor, potential: Potential, first: bool) -> Weights:
        """After seeing the twists V̂ (M, B).

        "diff": log G = V̂ − V̂ before, so that the product so far is e^V̂.
        "max": log G = the best V̂ so far.   "add": log G = the sum of V̂ so far.
        """
        seen = value
        if not first and potential == "max":
            seen = torch.maximum(self.seen, value)
        elif potential == "add":
            seen = self.seen + value
        gained = value - self.spent if potential == "diff" else seen
        return self._gained(gained, seen)

    def closed(self, reward: Tensor) -> Weights:
        """After the last step, at clean states with rewards r (M, B)."""
        return self._gained(reward - self.spent, self.seen)

    def _gained(self, gained: Tensor, seen: Tensor) -> Weights:
        return attrs.evolve(
            self,
            log=self.log + self.ratio + gained,
            ratio=torch.zeros_like(self.ratio),
            spent=self.spent + gained,
            seen=seen,
        )

    def resampled(self, source: Tensor, done: Tensor) -> Weights:
        """After particle m of sample b was replaced by `source` (M, B), where `done` (B,)."""
        level = torch.logsumexp(self.log, 0) - math.log(len(self.log))
        return Weights(
            log=torch.where(done, 0.0, self.log),
            ratio=self.ratio.gather(0, source),
            spent=self.spent.gather(0, source),
            seen=self.seen.gather(0, source),
            evidence=self.evidence + torch.where(done, level, 0.0),
        )


@final
@attrs.frozen(kw_only=True)
class Selection:
    """How particles are weighed and replaced."""

    resample: Resample
    potential: Potential
    ess_threshold: float

    def survivors(
        self, weights: Weights, value: Tensor, index: int, streams: Streams
    ) -> tuple[Weights, Tensor | None, dict[str, float]]:
        """Weights after the twists `value` (M, B) were seen, who replaces whom, and the ess.

        Particle m of sample b is replaced by number `source` (M, B); None: nobody is.
        """
        if self.resample == "best_per_particle":
            return weights, None, {}
        if self.resample == "best":
            return weights, value.argmax(0).expand_as(value), {}
        weights = weights.weighed(value, self.potential, index == 0)
        ess = weights.ess
        numbers = {"particles": float(ess.mean())}
        poor = ess < self.ess_threshold * len(value)
        if self.resample == "none" or not poor.any():
            return weights, None, numbers
        own = torch.arange(len(value), device=value.device)[:, None]
        source = torch.where(poor, systematic(weights.log, streams), own)
        return weights.resampled(source, poor), source, numbers

    def winner(self, weights: Weights, reward: Tensor, streams: Streams) -> tuple[Weights, Tensor]:
        """The number of each sample's result (B,) when clean states have rewards r (M, B)."""
        if self.resample in ("best", "best_per_particle"):
            return weights, reward.argmax(0)
        weights = weights.closed(reward)
        return weights, chosen(weights.log, streams)


def systematic(log_weights: Tensor, streams: Streams) -> Tensor:
    """Numbers (M, B) of the particles that survive: w_m M of each on average, at least its floor.

    One uniform number a sample: places (m + U)/M on the cumulative weights.
    """
    count = len(log_weights)
    edges = torch.softmax(log_weights, 0).cumsum(0).T.contiguous()
    place = torch.arange(count, device=edges.device)[None]
    places = (place + streams.uniform(()).to(edges)[:, None]) / count
    found = torch.searchsorted(edges, places.contiguous(), right=True)
    return found.clamp(max=count - 1).T.contiguous()


def chosen(log_weights: Tensor, streams: Streams) -> Tensor:
    """One particle's number (B,) for each sample, with the probability of its weight."""
    edges = torch.softmax(log_weights, 0).cumsum(0)
    return (streams.uniform(()).to(edges) > edges[:-1]).sum(0)


def rows_of(source: Tensor) -> Tensor:
    """Rows (M · B,) of particle-major states that hold the particles `source` (M, B)."""
    count = source.shape[1]
    return (source * count + torch.arange(count, device=source.device)).flatten()
