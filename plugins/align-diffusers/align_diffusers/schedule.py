"""The times and scales of a scheduler on align's linear path I_t = (1 − t) noise + t x1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, final

import attrs
import torch
from torch import Tensor

from align.core.convention import Prediction, TableConvention, log_sigmas
from align.core.errors import PartError
from align.core.path import expand

PREDICTIONS: Final[Mapping[str, Prediction]] = MappingProxyType(
    {"epsilon": "noise", "v_prediction": "v", "sample": "x0"}
)
"""What align calls a network's prediction, by what variance-preserving schedulers call it."""


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

    def asked(self, t: Tensor) -> Tensor:
        """What the scheduler's list of times holds for a single step at t (1,)."""
        return self.step_time(t)

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
    """Variance preserving: see `TableConvention`, which has the mathematics."""

    table: TableConvention

    def step_time(self, t: Tensor) -> Tensor:
        """The step k, with a fraction, of σ = (1 − t)/t."""
        return self.table.step(t).to(torch.float32)

    def states(self, x: Tensor, t: Tensor) -> Tensor:
        """z = x / √(t² + (1 − t)²)."""
        return self.table.states(x, t)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The clean state minus the noise that the output says."""
        return self.table.velocity(output, x, t)

    def times(self, scheduler: Any) -> tuple[float, ...]:
        """1/(1 + σ) of the scheduler's steps, then 1."""
        steps = torch.as_tensor(scheduler.timesteps).double().to(self.table.log_sigmas.device)
        return _rising(1 / (1 + self.table.sigma(steps)))

    def begin(self, scheduler: Any, t: float) -> float:
        """√(t² + (1 − t)²), times what the scheduler makes of its own first noise."""
        first, noise = scheduler.timesteps[0], torch.tensor(float(scheduler.init_noise_sigma))
        scaled = float(scheduler.scale_model_input(noise, first))
        return scaled * math.hypot(t, 1 - t)


@final
@attrs.frozen
class TrigonometricSchedule(Schedule):
    """TrigFlow: z = cos(s) x1 + sin(s) ε at the angle s; the network gives cos(s) ε − sin(s) x1.

    That is the linear path at t = cos / (cos + sin), where x = z √(t² + (1 − t)²). The scheduler's
    states and outputs are those times `std`, and its list of times has the data's at its end.

    Reference: Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models, Lu, Song,
    2024, arXiv:2410.11081, section 3.

    Attributes:
        std: σ_d, deviation of the data's elements.
    """

    std: float

    def step_time(self, t: Tensor) -> Tensor:
        """The angle s of tan s = (1 − t)/t."""
        return torch.atan2(1 - t, t)

    def asked(self, t: Tensor) -> Tensor:
        """The angle, and that of the data, which is no step."""
        angle = self.step_time(t)
        return torch.cat((angle, torch.zeros_like(angle)))

    def states(self, x: Tensor, t: Tensor) -> Tensor:
        """z = x / √(t² + (1 − t)²)."""
        return x / expand((t.square() + (1 - t).square()).sqrt(), x)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The denoiser cos z − sin F minus the noise sin z + cos F."""
        z, network = self.states(x, t), output / self.std
        angle = expand(self.step_time(t), x)
        cos, sin = angle.cos(), angle.sin()
        return (cos * z - sin * network) - (sin * z + cos * network)

    def times(self, scheduler: Any) -> tuple[float, ...]:
        """cos / (cos + sin) of the scheduler's angles, then 1."""
        angles = torch.as_tensor(scheduler.timesteps).double().cpu().clamp(max=math.pi / 2)
        return _rising(angles.cos() / (angles.cos() + angles.sin()))

    def begin(self, scheduler: Any, t: float) -> float:
        """√(t² + (1 − t)²)."""
        del scheduler
        return math.hypot(t, 1 - t)


def schedule_of(scheduler: Any, who: str, device: torch.device) -> Schedule:
    """How a scheduler's states and times are those of the linear path, on the device of states.

    Raises:
        PartError: it is of a kind whose states are neither.
    """
    config, name = scheduler.config, type(scheduler).__name__
    prediction = config.get("prediction_type", "epsilon")
    flow = name.startswith("FlowMatch") or config.get("use_flow_sigmas", False)
    if flow or prediction == "flow_prediction":
        return FlowSchedule(int(config.num_train_timesteps))
    if prediction == "trigflow":
        return TrigonometricSchedule(float(config.sigma_data))
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None or prediction not in PREDICTIONS:
        raise PartError(
            f"{who}: scheduler {name} with prediction_type '{prediction}' is neither flow matching"
            " nor variance preserving; give the pipeline a scheduler that is, such as DDIMScheduler"
        )
    if config.get("thresholding", False):
        raise PartError(f"{who}: scheduler {name} has 'thresholding', which no velocity has")
    karras = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    linear = config.get("interpolation_type") == "linear" and not any(map(config.get, karras))
    sigmas = log_sigmas(table.cpu()).to(device)
    return VarianceSchedule(TableConvention(sigmas, PREDICTIONS[prediction], linear))


def _rising(times: Tensor) -> tuple[float, ...]:
    """Each time once, rising, and 1 at the end."""
    known = sorted({round(float(t), 12) for t in times.flatten() if float(t) < 1 - 1e-9})
    return (*known, 1.0)
