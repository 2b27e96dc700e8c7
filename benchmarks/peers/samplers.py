"""Samplers of azula and deepinv for a Gaussian mixture and y = A x + s n, for `peers.py`.

The smallest adapters that hand them the mixture's own denoiser: what they compute is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from align.core.model import Condition, NoisyState
from align.models.mixture import GaussianMixture

DATA_STD = 0.7
"""Deviation of the data that a user may guess, for whoever asks for one."""


@attrs.frozen
class Measured:
    """A mixture on the linear path, a matrix A (K, D), what was observed (K,) and its deviation."""

    model: GaussianMixture
    matrix: Tensor
    observed: Tensor
    std: float

    def apply(self, x: Tensor) -> Tensor:
        """A x, (..., K)."""
        return x @ self.matrix.to(x).T

    def denoiser(self, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        """E[x1 | signal · x1 + noise · ε = x] for x (B, D), by the model that `align` follows."""
        scale = (signal + noise).expand(len(x))
        state = NoisyState(x / scale[:, None], signal.expand(len(x)) / scale, Condition(("",)))
        return self.model.denoiser(state)


@attrs.frozen
class Peer:
    """A sampler by name: called with the problem, steps, samples and a seed, returns (B, D).

    Attributes:
        population: whether the samples are particles of one population.
    """

    name: str
    sample: Callable[[Measured, int, int, int], Tensor]
    population: bool = False


def point_twist(problem: Measured) -> Callable[[Tensor, Tensor], Tensor]:
    """log p(y | x1 = D) of denoised states D (B, D), (B, K): azula's own example of a twist."""

    def twist(x: Tensor, _: Tensor) -> Tensor:
        return -0.5 * ((problem.apply(x) - problem.observed) / problem.std).square()

    return twist


def gaussian_twist(problem: Measured) -> Callable[[Tensor, Tensor], Tensor]:
    """log p(y | x_t), (B,), of x1 ~ N(D, v I), v = s² r²/(s² + r²): what a user may write instead.

    azula documents no such twist, but hands every twist the ratio r of noise to signal.
    """

    def twist(x: Tensor, ratio: Tensor) -> Tensor:
        variance = (DATA_STD * ratio) ** 2 / (DATA_STD**2 + ratio**2)
        rows = problem.matrix
        noise = problem.std**2 * torch.eye(len(rows), dtype=rows.dtype)
        law = MultivariateNormal(problem.apply(x), noise + variance * rows @ rows.T)
        logs: Tensor = law.log_prob(problem.observed)
        return logs

    return twist


ZETAS = {2: (1.0, 3.0), 64: (3.0, 30.0)}
"""Of azula's DPS by number of dimensions: the best two of 1, 3, 10, 30 on two other problems."""


def azula_methods(size: int) -> dict[str, Callable[..., Any]]:
    """Methods of azula by name: called with a denoiser, the problem, and options of the sampler."""
    from azula.guidance.dps import DPSSampler
    from azula.guidance.mmps import MMPSDenoiser
    from azula.guidance.tds import TDSSampler
    from azula.guidance.tmpd import TMPDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDPMSampler

    def dps(zeta: float) -> Callable[..., Any]:
        return lambda denoiser, problem, **options: DPSSampler(
            denoiser, problem.observed, problem.apply, zeta=zeta, **options
        )

    def mmps(denoiser: Any, problem: Measured, **options: Any) -> Any:
        noise = IsotropicCovariance(torch.tensor(problem.std**2).double())
        solved = MMPSDenoiser(
            denoiser, problem.observed, problem.apply, noise, solver="gmres", iterations=3
        )
        return DDPMSampler(solved, **options)

    def tmpd(denoiser: Any, problem: Measured, **options: Any) -> Any:
        solved = TMPDenoiser(denoiser, problem.observed, problem.apply, problem.std**2)
        return DDPMSampler(solved, **options)

    def tds(twist: Callable[..., Any]) -> Callable[..., Any]:
        return lambda denoiser, problem, **options: TDSSampler(denoiser, twist(problem), **options)

    return {
        **{f"DPS, zeta {zeta:g}": dps(zeta) for zeta in ZETAS[size]},
        "MMPS": mmps,
        "TMPD": tmpd,
        "TDS": tds(point_twist),
        "TDS + Gaussian twist": tds(gaussian_twist),
        "TDS + Gaussian twist, VE": tds(gaussian_twist),
    }


def azula(size: int) -> Iterator[Peer]:
    """DPS, MMPS, TMPD and TDS of azula, on its rectified schedule unless the name says another."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import RectifiedSchedule, VESchedule

    class Analytic(Denoiser):  # type: ignore[misc]
        """E[x1 | x_t]; azula's time runs from data to noise."""

        def __init__(self, problem: Measured, schedule: Any) -> None:
            super().__init__()
            self.schedule, self.problem = schedule, problem

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            signal, noise = (part.to(x_t) for part in self.schedule(t))
            return DiracPosterior(self.problem.denoiser(x_t, signal, noise))

    def peer(name: str, make: Callable[..., Any]) -> Peer:
        def sample(problem: Measured, steps: int, rows: int, seed: int) -> Tensor:
            torch.manual_seed(seed)
            exploding = name.endswith("VE")
            schedule = VESchedule(1e-2, 1e2) if exploding else RectifiedSchedule()
            sampler = make(
                Analytic(problem, schedule), problem, steps=steps, silent=True, dtype=torch.float64
            )
            _, noise = schedule(torch.ones((), dtype=torch.float64))
            start = torch.randn(rows, problem.matrix.shape[1], dtype=torch.float64)
            found: Tensor = sampler(noise * start)
            return found

        return Peer(f"azula {name}", sample, population=name.startswith("TDS"))

    for name, make in azula_methods(size).items():
        yield peer(name, make)


def deepinv(_: int) -> Iterator[Peer]:
    """DPS and MMPS of deepinv, on "images" of one row; it asks in single precision."""
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

        def __init__(self, problem: Measured) -> None:
            super().__init__()
            self.problem = problem

        def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
            noise = torch.as_tensor(sigma).double().flatten()
            denoised = self.problem.denoiser(x[:, 0, 0].double(), torch.ones_like(noise), noise)
            return denoised[:, None, None].to(x)

    def dps(denoiser: Any, steps: int) -> Any:
        # Our data are not pictures: there is no map from [0, 1], and no clip to [−1, 1].
        made = DPS(denoiser, num_steps=steps + 1, weight=20.0, minus_one_one=False)
        made.data_fidelity.clip = None
        return made

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
            sampler = make(Analytic(problem), steps)
            found: Tensor = sampler(observed, physics, x_init=shape)
            return found[:, 0, 0].detach()

        return Peer(f"deepinv {name}", sample)

    yield peer("DPS, weight 20", dps)
    yield peer("MMPS", mmps)
