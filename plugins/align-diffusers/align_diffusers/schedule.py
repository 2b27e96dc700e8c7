"""The times and scales of a scheduler on align's linear path I_t = (1 − t) noise + t x1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.path import expand

Prediction: TypeAlias = Literal["epsilon", "v_prediction", "sample"]


class Schedule(ABC):
    """How a pipeline's states, times and network outputs are those of the linear path."""

    @abstractmethod
    def step_time(self, t: Tensor) -> Tensor:
        """The scheduler's own time of t (any shape)."""

    @abstractmethod
    def states(self, x: Tensor, t: Tensor) -> Tensor:
        """The states that the network sees for x (B, *S) at t (B,)."""

    @abstractmethod
    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """b_t(x) (B, *S) from the network's output for these states."""

    @abstractmethod
    def times(self, scheduler: Any) -> tuple[float, ...]:
        """Rising times, up to 1, that a scheduler steps through once it has set them."""

    @abstractmethod
    def begin(self, scheduler: Any, t: float) -> float:
        """Factor of N(0, I) where the scheduler begins, at its first time t."""


@final
@attrs.frozen
class FlowSchedule(Schedule):
    """Flow matching: noise has level σ = 1 − t, the network gives noise − x1.

    Attributes:
        train_steps: the scheduler's time of σ = 1.
    """

    train_steps: int

    def step_time(self, t: Tensor) -> Tensor:
        """(1 − t) `train_steps`."""
        return (1 - t) * self.train_steps

    def states(self, x: Tensor, t: Tensor) -> Tensor:
        """The states themselves."""
        del t
        return x

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Minus the output."""
        del x, t
        return -output

    def times(self, scheduler: Any) -> tuple[float, ...]:
        """1 − σ."""
        return _rising(1 - torch.as_tensor(scheduler.sigmas).double())

    def begin(self, scheduler: Any, t: float) -> float:
        """States begin as the noise itself."""
        del scheduler, t
        return 1.0


@final
@attrs.frozen(eq=False)
class VarianceSchedule(Schedule):
    """Variance preserving: z = √ᾱ x1 + √(1 − ᾱ) ε at step k of a table of ᾱ.

    With σ² = (1 − ᾱ)/ᾱ that is the linear path at t = 1/(1 + σ), where x = z t √(1 + σ²). Euler
    steps there are those of DDIM. Where t is earlier than the table goes, the network sees its
    noisiest step.

    Reference: Denoising Diffusion Implicit Models, Song et al., 2020, arXiv:2010.02502, Eq. 12 to
    14; Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022,
    arXiv:2206.00364, table 1.

    Attributes:
        log_sigmas: log σ of the steps, rising, (K,), float64.
        prediction: what the network gives.
        linear: steps between two of the table are found by σ, and not by log σ.
    """

    log_sigmas: Tensor
    prediction: Prediction
    linear: bool = False

    def step_time(self, t: Tensor) -> Tensor:
        """The step k, with a fraction, of σ = (1 − t)/t."""
        return self._step(t).to(torch.float32)

    def states(self, x: Tensor, t: Tensor) -> Tensor:
        """z = x / √(t² + (1 − t)²)."""
        return x / expand((t.square() + (1 - t).square()).sqrt(), x)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The denoiser minus the predicted noise."""
        z, sigma = self.states(x, t), expand(self._sigma(self._step(t)).to(x.dtype), x)
        signal = (1 + sigma.square()).rsqrt()
        noise = sigma * signal
        if self.prediction == "epsilon":
            return (z - noise * output) / signal - output
        if self.prediction == "sample":
            return output - (z - signal * output) / noise
        return signal * z - noise * output - (signal * output + noise * z)

    def times(self, scheduler: Any) -> tuple[float, ...]:
        """1/(1 + σ) of the scheduler's steps, then 1."""
        steps = torch.as_tensor(scheduler.timesteps).double().cpu()
        return _rising(1 / (1 + self._sigma(steps)))

    def begin(self, scheduler: Any, t: float) -> float:
        """√(t² + (1 − t)²), times what the scheduler makes of its own first noise."""
        first, noise = scheduler.timesteps[0], torch.tensor(float(scheduler.init_noise_sigma))
        scaled = float(scheduler.scale_model_input(noise, first))
        return scaled * math.hypot(t, 1 - t)

    def _step(self, t: Tensor) -> Tensor:
        table = self.log_sigmas.to(t.device)
        t = t.double()
        log_sigma = ((1 - t) / t).log().clamp(table[0], table[-1])
        upper = torch.searchsorted(table, log_sigma).clamp(1, len(table) - 1)
        low, high, value = table[upper - 1], table[upper], log_sigma
        if self.linear:
            low, high, value = low.exp(), high.exp(), value.exp()
        return upper - 1 + (value - low) / (high - low)

    def _sigma(self, step: Tensor) -> Tensor:
        table = self.log_sigmas.to(step.device)
        lower = step.floor().long().clamp(0, len(table) - 2)
        share = step - lower
        if self.linear:
            return (1 - share) * table[lower].exp() + share * table[lower + 1].exp()
        return ((1 - share) * table[lower] + share * table[lower + 1]).exp()


def schedule_of(scheduler: Any, who: str) -> Schedule:
    """How a scheduler's states and times are those of the linear path.

    Raises:
        PartError: it is of a kind whose states are neither.
    """
    config, name = scheduler.config, type(scheduler).__name__
    prediction = config.get("prediction_type", "epsilon")
    flow = name.startswith("FlowMatch") or config.get("use_flow_sigmas", False)
    if flow or prediction == "flow_prediction":
        return FlowSchedule(int(config.num_train_timesteps))
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None or prediction not in ("epsilon", "v_prediction", "sample"):
        raise PartError(
            f"{who}: scheduler {name} with prediction_type '{prediction}' is neither flow matching"
            " nor variance preserving; give the pipeline a scheduler that is, such as DDIMScheduler"
        )
    if config.get("thresholding", False):
        raise PartError(f"{who}: scheduler {name} has 'thresholding', which no velocity has")
    alphas = table.double().cpu()
    alphas = alphas[alphas > 1e-7]  # with zero terminal SNR the last step holds noise alone
    karras = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    linear = config.get("interpolation_type") == "linear" and not any(map(config.get, karras))
    return VarianceSchedule(0.5 * ((1 - alphas) / alphas).log(), prediction, linear)


def _rising(times: Tensor) -> tuple[float, ...]:
    """Each time once, rising, and 1 at the end."""
    known = sorted({round(float(t), 12) for t in times.flatten() if float(t) < 1 - 1e-9})
    return (*known, 1.0)
