"""What the checks try parts with: noisy states, and models and rewards that tell on their users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import attrs
import torch
from torch import Tensor

from align.core.model import Able, Condition, DataSampler, Domain, FlowModel, NoisyState
from align.core.path import Path
from align.core.reward import Quadratic, Reward, WeightedReward
from align.core.streams import Streams


def streams_of(model: FlowModel, samples: Sequence[int], seed: int = 0) -> Streams:
    """Streams for these samples, on the model's device."""
    return Streams(seed, tuple(samples), device=model.device)


def states(model: FlowModel, times: Sequence[float], prompt: str = "", seed: int = 7) -> NoisyState:
    """Noisy states, one for each of the times, of the model's own data if it can draw them."""
    streams = streams_of(model, range(len(times)), seed)
    noise = streams.fold_in("noise").normal(model.shape).to(model.device, model.dtype)
    data = model.capability(DataSampler)
    if data is not None:
        x1 = data.draw(streams).to(noise)
    else:
        x1 = streams.fold_in("data").normal(model.shape).to(noise)
    t = torch.tensor(list(times), device=model.device, dtype=model.dtype)
    return NoisyState(model.path.interpolate(noise, x1, t), t, model.encode([prompt] * len(times)))


def denoiser_of(model: FlowModel, noisy: NoisyState) -> Tensor:
    """D_t(x), (B, *S), from the velocity."""
    velocity = model.velocity(noisy.x, noisy.t, noisy.cond)
    return model.path.denoiser_from_velocity(velocity, noisy.x, noisy.t)


def close(actual: Tensor, expected: Tensor, label: str, digits: float | None = None) -> None:
    """Assert that two tensors agree to `digits` of the larger's size; `said` begins the message.

    By default that is far above what another order of summation changes.
    """
    assert actual.shape == expected.shape, (
        f"{label}: {tuple(actual.shape)}, not {tuple(expected.shape)}"
    )
    if not actual.numel():
        return
    actual, expected = actual.detach(), expected.detach()
    is_float64 = actual.dtype == expected.dtype == torch.float64
    allowed = (1e-7 if is_float64 else 1e-3) if digits is None else digits
    same = (actual == expected) | ((actual - expected).abs() <= allowed * size(expected, actual))
    gap = float((actual - expected)[~same].abs().max()) if not same.all() else 0.0
    assert same.all(), f"{label}: they differ by up to {gap:.3g}"


def size(*tensors: Tensor) -> float:
    """Largest magnitude among the finite numbers; 1e-6 where there is none."""
    numbers = (x.detach()[x.detach().isfinite()].abs() for x in tensors)
    return max(1e-6, *(float(x.max()) for x in numbers if x.numel()))


def finite(actual: Tensor, label: str) -> None:
    """Assert that all numbers are finite."""
    bad = int((~actual.isfinite()).sum())
    assert not bad, f"{label}: {bad} of {actual.numel()} numbers are not finite"


@contextmanager
def untouched(device: torch.device, label: str) -> Iterator[None]:
    """Assert that torch's global generators are afterwards as they were before."""

    def now() -> list[Tensor]:
        actual = [torch.get_rng_state()]
        return [*actual, torch.cuda.get_rng_state(device)] if device.type == "cuda" else actual

    before = now()
    yield
    same = all(torch.equal(a, b) for a, b in zip(before, now(), strict=True))
    assert same, f"{label} draws from torch's global generator; draw from the streams"


@final
class Plain(FlowModel):
    """A model without any of its capabilities."""

    def __init__(self, inner: FlowModel) -> None:
        self.inner = inner
        self.path: Path = inner.path
        self.shape: tuple[int, ...] = inner.shape
        self.domain: Domain = inner.domain
        self.dtype: torch.dtype = inner.dtype
        self.device: torch.device = inner.device

    def encode(self, prompts: Sequence[str]) -> Condition:
        """The inner model's."""
        return self.inner.encode(prompts)

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The inner model's."""
        return self.inner.velocity(x, t, cond)

    def decode(self, x1: Tensor) -> Tensor:
        """The inner model's."""
        return self.inner.decode(x1)


class GradientAsked(Exception):
    """A reward was asked for its gradient."""


@final
@attrs.frozen(eq=False)
class Watched(Reward):
    """A reward that raises GradientAsked when its gradient is asked for."""

    inner: Reward

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The inner reward's."""

        def asked(_: Tensor) -> None:
            raise GradientAsked

        score = self.inner.score(data, prompts)
        if score.requires_grad:
            score.register_hook(asked)
        return score

    def capability(self, kind: type[Able]) -> Able | None:
        """What the inner reward can do."""
        return self.inner.capability(kind)


@final
@attrs.frozen(eq=False)
class Constant(Reward, Quadratic):
    """R(x) = c for vectors of `dimension` numbers."""

    level: float
    dimension: int

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """c, (B,)."""
        return data.new_full((len(data),), self.level)

    def quadratic(self) -> tuple[Tensor, Tensor, Tensor]:
        """P = 0, h = 0 and c."""
        zero = torch.zeros(self.dimension, dtype=torch.float64)
        return zero.diag(), zero, torch.tensor(self.level, dtype=torch.float64)


def scaled(reward: WeightedReward, factor: float) -> WeightedReward:
    """The reward with every weight times `factor`."""
    terms = (attrs.evolve(term, weight=term.weight * factor) for term in reward.terms)
    return WeightedReward(tuple(terms))
