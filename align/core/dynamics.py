"""Dynamics: how a noisy state takes one step towards the data, with a reward's guidance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.attribution import attributed, seen
from align.core.checks import checks, count_changed
from align.core.errors import AlignError, ContractError
from align.core.path import Path, expand
from align.core.streams import Streams

GuidanceNorm: TypeAlias = Literal["none", "clip", "renorm"]


def norms(x: Tensor) -> Tensor:
    """Euclidean norm of each row of `x` (B, *S), (B,)."""
    lengths: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return lengths


def normalise_guidance(guidance: Tensor, drift: Tensor, norm: GuidanceNorm, scale: float) -> Tensor:
    """Guidance g (B, *S), scaled by λ and compared with the drift b (B, *S) that it is added to.

        "none": λ g.   "clip": λ g min(1, ‖b‖/‖g‖).   "renorm": λ g ‖b‖/‖g‖.

    Norms are those of single rows. With "renorm" the strength of the reward is lost and only its
    direction is left, so that the tilted law is no longer the target.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 136 ("renorm").
    """
    if norm == "none":
        return scale * guidance
    length, limit = norms(guidance), norms(drift)
    if norm == "clip":
        limit = limit.clamp(max=length)
    # The direction first: guidance of length zero stays zero.
    tiny = torch.finfo(guidance.dtype).tiny
    direction = guidance / expand(length.clamp(min=tiny), guidance)
    return scale * expand(limit, guidance) * direction


@final
@attrs.frozen(eq=False)
class FlowEvaluation:
    """What the model and the reward say at B states.

    Attributes:
        velocity: b_t(x) of the base model, (B, *S).
        shift: D*_t(x) − D_t(x), (B, *S): how far the reward moves the denoiser; 0 without a reward.
    """

    velocity: Tensor
    shift: Tensor


@final
@attrs.frozen(eq=False)
class Slope:
    """A drift and the guidance that is added to it, both (B, *S)."""

    drift: Tensor
    guidance: Tensor

    @property
    def total(self) -> Tensor:
        """Drift and guidance together, (B, *S)."""
        return self.drift + self.guidance

    @property
    def strength(self) -> Tensor:
        """‖guidance‖ / ‖drift‖ of each row, (B,)."""
        tiny = torch.finfo(self.drift.dtype).tiny
        return norms(self.guidance) / norms(self.drift).clamp(min=tiny)


@final
@attrs.frozen(eq=False)
class GuidedFlow:
    """The flow that a step follows, and how strongly a reward guides it.

    Attributes:
        path: the model's interpolant.
        evaluate: velocity and shift at any states (B, *S) and times (B,). Each call is counted: it
            costs a network call a row, and what the value estimator costs.
        norm: how guidance is compared with the drift; see `normalise_guidance`.
        scale: factor λ of the guidance.
    """

    path: Path
    evaluate: Callable[[Tensor, Tensor], FlowEvaluation]
    norm: GuidanceNorm = "none"
    scale: float = 1.0

    def slope(self, guidance: Tensor, drift: Tensor) -> Slope:
        """A drift with its guidance (B, *S), after scaling and normalising the guidance."""
        return Slope(drift, normalise_guidance(guidance, drift, self.norm, self.scale))

    def velocity(self, x: Tensor, t: Tensor) -> Slope:
        """The velocity b with its guidance c_t (D* − D), for one evaluation; t is in [0, 1)."""
        here = self.evaluate(x, t)
        factor = expand(self.path.denoiser_to_velocity(t), x)
        return self.slope(factor * here.shift, here.velocity)


@final
@attrs.frozen(eq=False)
class GaussianStep:
    """The Gaussian N(mean + push, std² I) that a next state was drawn from.

    The base model's own step, without guidance, is drawn from N(mean, std² I). A step without noise
    is not pushed: one point instead of another is infinitely far from it in KL, and no weight makes
    up for it.

    Attributes:
        mean: where the step goes without guidance, (B, *S).
        push: what guidance adds to the mean, (B, *S); without effect where std is 0.
        std: standard deviation of the noise, (B,); 0 only in a step to t = 1.
        noise: the standard normal numbers that were drawn, (B, *S).
    """

    mean: Tensor
    push: Tensor
    std: Tensor
    noise: Tensor

    @classmethod
    def draw(cls, mean: Tensor, push: Tensor, std: Tensor, streams: Streams) -> GaussianStep:
        """Draw the noise of a step from `streams`, one row a state."""
        return cls(mean, push, std, step_noise(std, mean, streams))

    @property
    def x(self) -> Tensor:
        """The state that was drawn, (B, *S)."""
        std = expand(self.std, self.mean)
        return self.mean + torch.where(std > 0, self.push, 0) + std * self.noise

    @property
    def kl(self) -> Tensor:
        """½ ‖push‖² / std², (B,), float64: KL of this step from the base model's; 0 without noise.

        Summed over a path this is Girsanov's ½ ∫ ‖guidance‖²/σ² dt.
        """
        return 0.5 * self._difference.square().flatten(1).sum(1)

    @property
    def log_ratio(self) -> Tensor:
        """log p(x'|x) − log q(x'|x), (B,), float64, for base p and guided q; 0 without noise."""
        return -(self.kl + (self._difference * self.noise).flatten(1).sum(1))

    @property
    def _difference(self) -> Tensor:
        """The push in standard deviations, (B, *S), float64."""
        noisy = expand(self.std > 0, self.push)
        std = torch.where(noisy, expand(self.std, self.push), 1)
        return torch.where(noisy, self.push / std, 0).double()


@final
@attrs.frozen(eq=False)
class Transition:
    """A step that was taken.

    Attributes:
        x: the next states, (B, *S); those of `gaussian`, where there is one.
        strength: ‖guidance‖ / ‖drift‖ where the step began, (B,), for the record.
        gaussian: the Gaussian that `x` was drawn from; None from a dynamics without a density.
    """

    x: Tensor
    strength: Tensor
    gaussian: GaussianStep | None = None


def step_noise(std: Tensor, x: Tensor, streams: Streams) -> Tensor:
    """Standard normal numbers like `x` (B, *S), one row a row of `streams`; 0 where std is 0.

    Args:
        std: deviations (B,) that the numbers are to be multiplied by.
        x: gives shape, type and device.
        streams: of the step.
    """
    return torch.where(expand(std > 0, x), streams.normal(tuple(x.shape[1:])).to(x), 0)


@attrs.frozen(kw_only=True)
class Dynamics(ABC):
    """Takes a state from time t to a later time u, along the flow or by way of clean states.

    Without guidance many short steps lead from noise to the law of the model. With the exact shift
    they lead to the tilted law p*(x) ∝ p(x) e^{r(x)}.

    A subclass states a property either as a class attribute, or as a property where it depends on
    the options.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def has_density(self) -> bool:
        """Whether each step is drawn from a Gaussian that it returns, with and without guidance.

        Only then can particles be weighed by their steps, and is the KL of guided paths from
        unguided ones known.
        """

    @abstractmethod
    def step(
        self, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, streams: Streams
    ) -> Transition:
        """One step from states x (B, *S) at times t (B,) in [0, 1) to times u (B,) in (t, 1].

        Args:
            flow: velocity and shift at any states and times; each evaluation costs network calls.
            x: the states.
            t: their times.
            u: the times to go to.
            streams: random numbers for this step alone, one row a state. Row b of the result may
                depend on row b of the arguments only.
        """


def take_step(
    dynamics: Dynamics, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, streams: Streams
) -> Transition:
    """What `dynamics.step` returns, checked.

    Raises:
        ContractError: the result is no transition of these states, or states or times were changed.
        PartError: the dynamics raised something else than a message to the user.
    """
    who, before, then = f"dynamics '{dynamics.kind}'", x.clone(), t.clone()
    with attributed(who):
        # The states themselves, no copy: what is known of them is remembered by their identity.
        transition = dynamics.step(flow, x, t, u.clone(), streams)
        if not isinstance(transition, Transition):
            raise ContractError(f"{who} returned {seen(transition)}, expected a Transition")
        after = transition.x
        if after.shape != x.shape or after.dtype != x.dtype:
            got = f"{tuple(after.shape)} {after.dtype}"
            raise ContractError(f"{who} returned {got}, expected {tuple(x.shape)} {x.dtype}")

    def error(numbers: Sequence[float]) -> AlignError | None:
        text = f"{who} writes into its states or times; it must work on a clone()"
        return ContractError(text) if any(numbers) else None

    checks().add(error, count_changed(x, before), count_changed(t, then))
    return transition
