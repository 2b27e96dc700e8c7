"""What a network of somebody else's is given and what it gives: its states, times and predictions.

A diffusion network may predict the noise, the clean state, their mixture "v", the score or the
velocity, may count its time from the data or from the noise, and its states may be those of another
path. A `Convention` says how all that is the velocity of one of align's paths.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.option import ConfigError, ConfigErrors, between, option
from align.core.path import LinearPath, Path, expand

Prediction: TypeAlias = Literal["velocity", "noise", "x0", "score", "v"]
"""What a network gives, in the words of the field; "x0" is the clean state, align's x1."""

ALSO_CALLED: Final[Mapping[str, Prediction]] = MappingProxyType(
    {
        "eps": "noise",
        "epsilon": "noise",
        "flow": "velocity",
        "flow_prediction": "velocity",
        "sample": "x0",
        "x1": "x0",
        "x_start": "x0",
        "v_prediction": "v",
    }
)
"""What others call these predictions."""

End: TypeAlias = Literal["noise", "data"]

_FIRST: Final = 0.01  # `noise` and `score` say nothing of the data at t = 0
_LAST: Final = 1 - 1e-4  # `x0` says nothing of the noise at t = 1


@final
@attrs.frozen
class Clock:
    """A network's own time: 0 at one end of the path, `end` at the other.

    Attributes:
        zero: whether its time 0 is that of the noise or that of the data.
        end: its time at the other end.
    """

    zero: End = "noise"
    end: float = 1.0

    def time(self, share: Tensor) -> Tensor:
        """The network's time (B,) where this share of the way from noise to data is made."""
        return self.end * (share if self.zero == "noise" else 1 - share)


class Convention(ABC):
    """How a network's states, times and outputs are those of a path of align.

    Attributes:
        path: the path that align's states and velocities belong to.
    """

    path: Path

    @abstractmethod
    def network_time(self, t: Tensor) -> Tensor:
        """The network's own time (B,) of t (B,), in the floating type of t."""

    @abstractmethod
    def states(self, x: Tensor, t: Tensor) -> Tensor:
        """The states that the network is given for x (B, *S) at t (B,)."""

    @abstractmethod
    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """b_t(x) (B, *S) from the network's output (B, *S) for these states and times."""


@final
@attrs.frozen
class PathConvention(Convention):
    """A network whose states are those of the path itself.

    A network of the noise or of the score is asked no earlier than t = 0.01, and one of the clean
    state no later than t = 1 − 10⁻⁴: beyond, its answer does not say the velocity. Earlier states
    are given to it as states of that time, of the same length in standard deviations.

    Attributes:
        path: the interpolant.
        predicts: what the network gives. A velocity points to where its own time grows, and is
            the rate by a time that runs from 0 to 1, whatever `clock.end`.
        clock: the network's time.
    """

    path: Path
    predicts: Prediction = "velocity"
    clock: Clock = Clock()

    def network_time(self, t: Tensor) -> Tensor:
        """The clock's time of t, where the network can be asked there."""
        return self.clock.time(self._asked(t))

    def states(self, x: Tensor, t: Tensor) -> Tensor:
        """The states, but scaled where the network is asked at another time."""
        if self.predicts in ("velocity", "v"):
            return x
        asked = self._asked(t)
        return x * expand((self._variance(asked) / self._variance(t)).sqrt(), x)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """b = α' ε + β' D of the noise ε and the clean state D that the output says."""
        if self.predicts == "velocity":
            return output if self.clock.zero == "noise" else -output
        t, z = self._asked(t), self.states(x, t)
        alpha, beta = self.path.alpha(t), self.path.beta(t)
        noise, clean = predicted_ends(self.predicts, output, z, alpha, beta)
        return self.path.rate(noise, clean, t)

    def _asked(self, t: Tensor) -> Tensor:
        """The times at which the network is asked."""
        if self.predicts in ("noise", "score"):
            return t.clamp(min=_FIRST)
        return t.clamp(max=_LAST) if self.predicts == "x0" else t

    def _variance(self, t: Tensor) -> Tensor:
        """Variance of states of white data."""
        return self.path.alpha(t).square() + self.path.beta(t).square()


@final
@attrs.frozen(eq=False)
class TableConvention(Convention):
    """A network of variance-preserving states z = √ᾱ x1 + √(1 − ᾱ) ε, at step k of a table of ᾱ.

    With σ² = (1 − ᾱ)/ᾱ that is the linear path at t = 1/(1 + σ), where x = z t √(1 + σ²). Euler
    steps there are those of DDIM. Where t is earlier or later than the table goes, the network sees
    its noisiest or its cleanest step.

    Reference: Denoising Diffusion Implicit Models, Song et al., 2020, arXiv:2010.02502, Eq. 12 to
    14; Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022,
    arXiv:2206.00364, table 1.

    Attributes:
        log_sigmas: log σ of the steps that hold data, rising, (K,), float64, on the device of the
            states.
        predicts: what the network gives; no table says what a velocity is.
        linear: whether steps between two of the table are found by σ, and not by log σ.
        clock: the network's time, whose share of the way is linear in k; by default k itself.
        count: steps of the whole table, whose last ones may hold noise alone; by default K.
    """

    log_sigmas: Tensor
    predicts: Prediction
    linear: bool = False
    clock: Clock | None = None
    count: int | None = None
    path: Path = attrs.field(factory=LinearPath, init=False)

    def network_time(self, t: Tensor) -> Tensor:
        """The clock's time of the step of σ = (1 − t)/t."""
        step, last = self.step(t), (self.count or len(self.log_sigmas)) - 1
        return (step if self.clock is None else self.clock.time(1 - step / last)).to(t.dtype)

    def states(self, x: Tensor, t: Tensor) -> Tensor:
        """z = x / √(t² + (1 − t)²)."""
        return x / expand((t.square() + (1 - t).square()).sqrt(), x)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The clean state minus the noise that the output says."""
        sigma = self.sigma(self.step(t))
        signal = (1 + sigma.square()).rsqrt()
        noise, clean = predicted_ends(
            self.predicts, output, self.states(x, t), sigma * signal, signal
        )
        return clean - noise

    def step(self, t: Tensor) -> Tensor:
        """The step k, with a fraction, of σ = (1 − t)/t; float64, of any shape."""
        t, table = t.double(), self.log_sigmas
        log_sigma = ((1 - t) / t).log().clamp(table[0], table[-1])
        upper = torch.searchsorted(table, log_sigma).clamp(1, len(table) - 1)
        low, high, value = table[upper - 1], table[upper], log_sigma
        if self.linear:
            low, high, value = low.exp(), high.exp(), value.exp()
        return upper - 1 + (value - low) / (high - low)

    def sigma(self, step: Tensor) -> Tensor:
        """σ of steps with a fraction, float64, of any shape."""
        lower = step.floor().long().clamp(0, len(self.log_sigmas) - 2)
        low, high, share = self.log_sigmas[lower], self.log_sigmas[lower + 1], step - lower
        if self.linear:
            return (1 - share) * low.exp() + share * high.exp()
        return ((1 - share) * low + share * high).exp()

    def times(self, steps: int) -> tuple[float, ...]:
        """So many steps of DDIM, from the noisiest of the table to the data, as rising times.

        They are steps of the table, evenly spaced, as long as there are enough.
        """
        last = len(self.log_sigmas) - 1
        numbers = last * (1 - torch.arange(steps).double() / steps)
        numbers = numbers.round() if steps <= last else numbers
        return (*(1 / (1 + self.sigma(numbers.to(self.log_sigmas.device)))).tolist(), 1.0)

    def begin(self, noise: Tensor, steps: int) -> Tensor:
        """N(0, I) (B, *S) as z at the first of these times, in align's states."""
        (first, *_) = self.times(steps)
        return noise * math.hypot(first, 1 - first)


def predicted_ends(
    predicts: Prediction, output: Tensor, x: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """The noise ε and the clean state D, both (B, *S), with x = α ε + β D, that an output says.

    A "v" is β ε − α D, a score −ε/α.

    Reference: Progressive Distillation for Fast Sampling of Diffusion Models, Salimans, Ho, 2022,
    arXiv:2202.00512, appendix D (v); Score-Based Generative Modeling through Stochastic
    Differential Equations, Song et al., 2021, arXiv:2011.13456 (score).

    Args:
        predicts: what the output is; "velocity" is none of the two ends.
        output: of the network, (B, *S).
        x: the states that it was given, (B, *S).
        alpha: coefficient of the noise in x, (B,).
        beta: coefficient of the data in x, (B,).
    """
    a, b = expand(alpha, x), expand(beta, x)
    if predicts == "x0":
        return (x - b * output) / a, output
    if predicts == "v":
        norm = expand(alpha.square() + beta.square(), x)
        return (a * x + b * output) / norm, (b * x - a * output) / norm
    if predicts == "velocity":
        raise ValueError("a velocity needs the rates of its path")
    noise = -a * output if predicts == "score" else output
    return noise, (x - a * noise) / b


_MOST_STEPS: Final = 1_000_000
_STEPS: Final = 1000
_BETA_START: Final = 1e-4
_BETA_END: Final = 0.02


def _betas(_: Any, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:
    if value and (len(value) < 2 or not all(0 < beta <= 1 for beta in value)):
        raise ValueError(f"'{attribute.name}' must be at least two numbers above 0, up to 1")


def _falling(
    spec: NoiseSchedule, attribute: attrs.Attribute[Any], value: tuple[float, ...]
) -> None:
    falls = all(before > after for before, after in pairwise(value))
    if value and not (len(value) > 1 and falls and value[0] < 1 and value[-1] >= 0):
        raise ValueError(f"'{attribute.name}' must be at least two numbers that fall from below 1")
    if value and spec.betas:
        raise ValueError("expected either 'betas' or 'alphas_cumprod', got both")


def _after_start(spec: NoiseSchedule, attribute: attrs.Attribute[Any], value: float | None) -> None:
    start, end = getattr(spec, "beta_start", None), _BETA_END if value is None else value
    if not (_BETA_START if start is None else start) < end < 1:
        raise ValueError(f"'{attribute.name}' must be above 'beta_start' and below 1")


@final
@attrs.frozen(kw_only=True)
class NoiseSchedule:
    """The table of a variance-preserving diffusion: how much noise its states have at each step.

    Reference: Denoising Diffusion Probabilistic Models, Ho et al., 2020, arXiv:2006.11239 (linear);
    Improved Denoising Diffusion Probabilistic Models, Nichol, Dhariwal, 2021, arXiv:2102.09672,
    Eq. 17 (cosine); High-Resolution Image Synthesis with Latent Diffusion Models, Rombach et al.,
    2022, arXiv:2112.10752 (scaled_linear).
    """

    name: Literal["linear", "cosine", "scaled_linear"] | None = option(
        "betas that rise linearly, whose square roots do, or the cosine's; if left out 'linear'",
        default=None,
    )
    steps: int | None = option(
        "steps of the named table; if left out 1000",
        default=None,
        check=attrs.validators.optional(between(2, _MOST_STEPS)),
    )
    beta_start: float | None = option(
        "first beta of a table that rises; if left out 0.0001",
        default=None,
        check=attrs.validators.optional(between(1e-9, 1)),
    )
    beta_end: float | None = option(
        "its last beta; if left out 0.02", default=None, check=_after_start
    )
    betas: tuple[float, ...] = option(
        "the betas themselves, in place of a named table", default=(), check=_betas
    )
    alphas_cumprod: tuple[float, ...] = option(
        "the products of 1 - beta themselves, in place of a named table",
        default=(),
        check=_falling,
    )

    def __attrs_post_init__(self) -> None:
        given = next((name for name in ("betas", "alphas_cumprod") if getattr(self, name)), "")
        unread = ["name", "steps"] if given else []
        unread += ["beta_start", "beta_end"] if given or self.name == "cosine" else []
        table = f"'{given}'" if given else f"'name' = '{self.name}'"
        errors = [
            ConfigError((name,), f"{table} leaves nothing to '{name}'; leave it out")
            for name in unread
            if getattr(self, name) is not None
        ]
        if errors:
            raise ConfigErrors(errors)
        sigmas = self.log_sigmas(torch.device("cpu"))
        if len(sigmas) < 2:
            raise ValueError(
                f"{len(sigmas)} of its {self.count} steps hold data, with a product of 1 - beta"
                " above 1e-7; at least two must"
            )
        if not (sigmas.isfinite().all() and (sigmas.diff() > 0).all()):
            raise ValueError("its steps must add noise each; some betas are too small to count")

    @property
    def count(self) -> int:
        """Steps of the table, with those that hold noise alone."""
        return len(self.betas or self.alphas_cumprod) or self.steps or _STEPS

    def log_sigmas(self, device: torch.device) -> Tensor:
        """log σ = ½ log((1 − ᾱ)/ᾱ) of the steps that hold data, rising, (K,), float64."""
        return log_sigmas(self._alphas().to(device))

    def _alphas(self) -> Tensor:
        if self.alphas_cumprod:
            return torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        return (1 - self._table()).cumprod(0)

    def _table(self) -> Tensor:
        if self.betas:
            return torch.tensor(self.betas, dtype=torch.float64)
        steps = self.steps or _STEPS
        first = _BETA_START if self.beta_start is None else self.beta_start
        last = _BETA_END if self.beta_end is None else self.beta_end
        if self.name == "scaled_linear":
            return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64).square()
        if self.name != "cosine":
            return torch.linspace(first, last, steps, dtype=torch.float64)
        share = torch.arange(steps + 1, dtype=torch.float64) / steps
        alphas = ((share + 0.008) / 1.008 * torch.pi / 2).cos().square()
        return (1 - alphas[1:] / alphas[:-1]).clamp(max=0.999)


def log_sigmas(alphas: Tensor) -> Tensor:
    """log σ = ½ log((1 − ᾱ)/ᾱ), rising, (K,), of a table of ᾱ, as float64.

    With zero terminal signal-to-noise ratio the last steps hold noise alone; they are left out.
    """
    alphas = alphas.double()
    alphas = alphas[alphas > 1e-7]
    return 0.5 * ((1 - alphas) / alphas).log()
