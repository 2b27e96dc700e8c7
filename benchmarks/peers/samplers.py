"""Samplers of azula and deepinv for a Gaussian mixture and y = A x + s n, for `peers.py`.

The smallest adapters that hand them the mixture's own denoiser: what they compute is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from align.models.isotropic import Isotropic


@attrs.frozen
class Measured:
    """A mixture as one row, a matrix A (K, D), what was observed (K,) and the noise's deviation."""

    prior: Isotropic
    matrix: Tensor
    observed: Tensor
    std: float

    def apply(self, x: Tensor) -> Tensor:
        """A x, (..., K)."""
        return x @ self.matrix.to(x).T


@attrs.frozen
class Peer:
    """A sampler by name: called with the problem, steps, samples and a seed, returns (B, D).

    Attributes:
        population: whether the samples are particles of one population.
    """

    name: str
    sample: Callable[[Measured, int, int, int], Tensor]
    population: bool = False


def azula() -> Iterator[Peer]:
    """DPS, MMPS and TDS of azula."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.guidance.dps import DPSSampler
    from azula.guidance.mmps import MMPSDenoiser
    from azula.guidance.tds import TDSSampler
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import RectifiedSchedule
    from azula.sample import DDPMSampler

    class Analytic(Denoiser):  # type: ignore[misc]
        """E[x1 | x_t]; azula's time runs from data to noise."""

        def __init__(self, prior: Isotropic) -> None:
            super().__init__()
            self.schedule, self.prior = RectifiedSchedule(), prior

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            signal, noise = (part.to(x_t).expand(len(x_t)) for part in self.schedule(t))
            return DiracPosterior(self.prior.posterior(x_t, noise, signal).mean())

    def dps(zeta: float) -> Callable[..., Any]:
        return lambda denoiser, problem, **options: DPSSampler(
            denoiser, problem.observed, problem.apply, zeta=zeta, **options
        )

    def mmps(denoiser: Any, problem: Measured, **options: Any) -> Any:
        noise = IsotropicCovariance(torch.tensor(problem.std**2).double())
        solved = MMPSDenoiser(
            denoiser, problem.observed, problem.apply, noise, solver="cg", iterations=2
        )
        return DDPMSampler(solved, **options)

    def tds(denoiser: Any, problem: Measured, **options: Any) -> Any:
        def twist(x: Tensor, _: Tensor) -> Tensor:
            return -0.5 * ((problem.apply(x) - problem.observed) / problem.std).square()

        return TDSSampler(denoiser, twist, **options)

    def peer(name: str, make: Callable[..., Any], population: bool = False) -> Peer:
        def sample(problem: Measured, steps: int, rows: int, seed: int) -> Tensor:
            torch.manual_seed(seed)
            denoiser = Analytic(problem.prior)
            sampler = make(denoiser, problem, steps=steps, silent=True, dtype=torch.float64)
            start = torch.randn(rows, problem.matrix.shape[1], dtype=torch.float64)
            found: Tensor = sampler(start)
            return found

        return Peer(f"azula {name}", sample, population)

    yield peer("DPS, zeta 1", dps(1.0))
    yield peer("DPS, zeta 10", dps(10.0))
    yield peer("MMPS", mmps)
    yield peer("TDS", tds, population=True)


def deepinv() -> Iterator[Peer]:
    """DPS and MMPS of deepinv, on "images" of one row; it calls denoisers in single precision."""
    from deepinv.physics import GaussianNoise, LinearPhysics
    from deepinv.sampling import (
        DPS,
        DDPMSolver,
        MomentMatchingDataFidelity,
        PosteriorDiffusion,
        VariancePreservingDiffusion,
    )

    class Analytic(torch.nn.Module):
        """E[x1 | x1 + σ ε], (B, 1, 1, D)."""

        def __init__(self, prior: Isotropic) -> None:
            super().__init__()
            self.prior = prior

        def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
            level = torch.as_tensor(sigma).double().flatten().expand(len(x))
            law = self.prior.posterior(x[:, 0, 0].double(), level, torch.ones_like(level))
            return law.mean()[:, None, None].to(x)

    def dps(guidance: str) -> Callable[..., Any]:
        def make(denoiser: Any, steps: int) -> Any:
            # Our data are not pictures: there is no map from [0, 1], and no clip to [−1, 1].
            made = DPS(denoiser, num_steps=steps + 1, guidance=guidance, minus_one_one=False)
            made.data_fidelity.clip = None
            return made

        return make

    def mmps(denoiser: Any, steps: int) -> Any:
        return PosteriorDiffusion(
            MomentMatchingDataFidelity(),
            denoiser,
            VariancePreservingDiffusion(alpha=1.0),
            DDPMSolver(torch.linspace(1, 0, steps + 1, dtype=torch.float64)),
            minus_one_one=False,
        )

    def peer(name: str, make: Callable[..., Any]) -> Peer:
        def sample(problem: Measured, steps: int, rows: int, seed: int) -> Tensor:
            torch.manual_seed(seed)
            physics = LinearPhysics(
                A=lambda x, **_: problem.apply(x),
                A_adjoint=lambda y, **_: y @ problem.matrix.to(y),
                noise_model=GaussianNoise(problem.std),
            )
            observed = problem.observed.expand(rows, 1, 1, -1)
            shape = (rows, 1, 1, problem.matrix.shape[1])
            sampler = make(Analytic(problem.prior), steps)
            found: Tensor = sampler(observed, physics, x_init=shape)
            return found[:, 0, 0].detach()

        return Peer(f"deepinv {name}", sample)

    yield peer("DPS, norm", dps("norm"))
    yield peer("DPS, annealed", dps("annealed"))
    yield peer("MMPS", mmps)
