"""Checks of what a model can do beyond its velocity: identities of maps, and exact answers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, final
from unittest import SkipTest

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.estimator import ClosedForm
from align.core.model import (
    Able,
    DataSampler,
    DescribesConditions,
    FlowMap,
    FlowModel,
    ModelSpec,
    NoisyState,
    PosteriorMap,
    Scheduled,
    ToData,
    TrainableVelocity,
)
from align.core.reward import Term, WeightedReward
from align.samplers.glass import glass_velocity
from align.testing.probes import Constant, close, denoiser_of, finite, states, streams_of

TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)


@final
@attrs.frozen(eq=False)
class Modelling:
    """A model, built on the CPU."""

    part: ModelSpec
    model: FlowModel

    def noisy(self, times: Sequence[float] = TIMES) -> NoisyState:
        """Noisy states at these times, under the recipe's prompt."""
        return states(self.model, times, self.part.prompt)

    def able(self, kind: type[Able]) -> Able | None:
        """The model as a `kind`, if its specification promises that."""
        return self.model.capability(kind) if self.part.can(kind) else None

    @property
    def digits(self) -> float:
        """To what an identity of exact maps must hold."""
        return 1e-3 if self.model.dtype == torch.float64 else 0.02

    @property
    def step(self) -> float:
        """Of finite differences in time."""
        return 1e-5 if self.model.dtype == torch.float64 else 2e-3


def provides(modelling: Modelling) -> None:
    """It can do what its specification promises; what is not promised is absent or refused."""
    model, part = modelling.model, modelling.part
    noisy = modelling.noisy()
    uses = {
        ToData: _use(model, ToData, lambda it: it.to_data(noisy.x, noisy.t, noisy.cond)),
        FlowMap: _use(model, FlowMap, lambda it: it.jump(noisy.x, noisy.t, noisy.t, noisy.cond)),
        PosteriorMap: _use(
            model, PosteriorMap, lambda it: it.posterior_jump(noisy.x, noisy.t, noisy.t, noisy)
        ),
        DataSampler: _use(model, DataSampler, lambda it: it.draw(streams_of(model, (0,)))),
        Scheduled: _use(model, Scheduled, lambda it: it.times(2)),
        ClosedForm: _use(
            model, ClosedForm, lambda it: it.draw_posterior(noisy, 1, streams_of(model, range(5)))
        ),
    }
    for capability, use in uses.items():
        name, promised = capability.__name__, part.can(capability)
        assert use or not promised, f"promises {name}, but is none"
        if use is None:
            continue
        try:
            use()
        except PartError as error:
            assert not promised, f"promises {name}, but refuses: {error}"
            continue
        assert promised, f"is a {name}, but `provides` does not say so"


def jump_to_data(modelling: Modelling) -> None:
    """A jump from data to data leaves the state; where there is a flow map, jumps are its own."""
    model, noisy = _able(modelling, ToData), modelling.noisy()
    one = torch.ones_like(noisy.t)
    with torch.no_grad():
        there = model.to_data(noisy.x, one, noisy.cond)
        close(there, noisy.x, "a jump from data to data, and its state", digits=modelling.digits)
        if flow_map := modelling.able(FlowMap):
            jumped = flow_map.jump(noisy.x, noisy.t, one, noisy.cond)
            close(model.to_data(noisy.x, noisy.t, noisy.cond), jumped, "to_data, and jump to 1")


def jump_semigroup(modelling: Modelling) -> None:
    """Two jumps are one: X_{w,u} ∘ X_{s,w} = X_{s,u}, and X_{s,s} leaves the state."""
    model, noisy = _able(modelling, FlowMap), modelling.noisy()
    _semigroup(lambda x, s, u: model.jump(x, s, u, noisy.cond), noisy, modelling.digits)


def jump_tangent(modelling: Modelling) -> None:
    """Short jumps follow the flow: ∂X_{s,u}/∂u at u = s is the velocity."""
    model, noisy = _able(modelling, FlowMap), modelling.noisy()
    rate = (
        model.jump(noisy.x, noisy.t, noisy.t + modelling.step, noisy.cond) - noisy.x
    ) / modelling.step
    wanted = modelling.model.velocity(noisy.x, noisy.t, noisy.cond)
    close(rate, wanted, "rate of a short jump, and velocity", digits=modelling.digits)


def posterior_semigroup(modelling: Modelling) -> None:
    """Two inner jumps are one: X_{w,u}(X_{s,w}(y; t, x); t, x) = X_{s,u}(y; t, x)."""
    model, noisy = _able(modelling, PosteriorMap), modelling.noisy()
    _semigroup(
        lambda y, s, u: model.posterior_jump(y, s, u, noisy), _inner(modelling), modelling.digits
    )


def posterior_tangent(modelling: Modelling) -> None:
    """Short inner jumps follow the inner flow of GLASS, which at t = 0 is the velocity."""
    model, inner = _able(modelling, PosteriorMap), _inner(modelling)
    for times in (TIMES, (0.0,) * len(TIMES)):
        noisy = modelling.noisy(times)
        jumped = model.posterior_jump(inner.x, inner.t, inner.t + modelling.step, noisy)
        wanted = glass_velocity(modelling.model, inner.x, inner.t, noisy)
        name = f"rate of a short inner jump at t = {times[0]:g}, and GLASS velocity"
        close((jumped - inner.x) / modelling.step, wanted, name, digits=modelling.digits)


def population(modelling: Modelling) -> None:
    """Its own data are like states, and row i is the same whatever the other rows."""
    model = _able(modelling, DataSampler)
    together = model.draw(streams_of(modelling.model, range(6)))
    assert together.shape == (6, *modelling.model.shape), f"data are {tuple(together.shape)}"
    finite(together, "data")
    alone = model.draw(streams_of(modelling.model, (4,)))
    close(alone[0], together[4], "data of sample 4 alone, and among others")


def scheduled(modelling: Modelling) -> None:
    """Its sampler's times rise to 1, one more than steps, and it begins with scaled noise."""
    model, noise = _able(modelling, Scheduled), modelling.noisy().x
    for steps in (1, 2, 10):
        times = model.times(steps)
        assert len(times) == steps + 1, f"{steps} steps have {len(times)} times"
        assert times[0] >= 0 and times[-1] == 1, f"times run from {times[0]} to {times[-1]}"
        assert all(now < later for now, later in pairwise(times)), f"times do not rise: {times}"
        begun = model.begin(noise, steps)
        finite(begun, "first states")
        close(
            model.begin(2 * noise, steps), 2 * begun, "first states of twice the noise, and twice"
        )


def trainable_velocity(modelling: Modelling) -> None:
    """Its velocity follows the weights of a copy of its module, and its own stay as they are."""
    model = modelling.model.capability(TrainableVelocity)
    if model is None:
        raise SkipTest("its velocity cannot be trained")
    noisy, module = modelling.noisy(), copy.deepcopy(model.module)
    other, before = model.with_module(module), model.velocity(noisy.x, noisy.t, noisy.cond)
    found = other.velocity(noisy.x, noisy.t, noisy.cond)
    close(found, before, "velocity with a copy of its module, and its own")
    module.requires_grad_(True)
    other.velocity(noisy.x, noisy.t, noisy.cond).square().sum().backward()
    moved = [weight for weight in module.parameters() if weight.grad is not None]
    assert any(weight.grad is not None and weight.grad.any() for weight in moved), (
        "no weight of its module has a gradient"
    )
    with torch.no_grad():
        for weight in moved:
            weight.add_(0.1)
        changed = other.velocity(noisy.x, noisy.t, noisy.cond)
        after = model.velocity(noisy.x, noisy.t, noisy.cond)
    assert not torch.equal(changed, found.detach()), "its velocity is not that of the module"
    assert torch.equal(after, before), "a module put in place of its own changes the model itself"
    again = modelling.part.build(torch.device("cpu")).capability(TrainableVelocity)
    shapes = [
        {name: tensor.shape for name, tensor in built.module.state_dict().items()}
        for built in (model, again)
        if built is not None
    ]
    assert len(shapes) == 2 and shapes[0] == shapes[1], "built again, it has another module"


def describes_conditions(modelling: Modelling) -> None:
    """What it says of conditions in numbers is (B, F), and a row is the same among others."""
    model, prompt = modelling.model.capability(DescribesConditions), modelling.part.prompt
    if model is None:
        raise SkipTest("it says nothing of its conditions")
    three = model.features(modelling.model.encode([prompt] * 3))
    assert three.dim() == 2 and len(three) == 3, f"three conditions became {tuple(three.shape)}"
    finite(three, "features")
    one = model.features(modelling.model.encode([prompt]))
    close(three[:1], one, "features of three conditions, and of one")


def closed_form(modelling: Modelling) -> None:
    """Its posterior has the denoiser for a mean, and a constant reward has itself for a value."""
    model, noisy = _able(modelling, ClosedForm), modelling.noisy()
    draws = model.draw_posterior(noisy, 4000, streams_of(modelling.model, range(len(noisy.x))))
    gap = (draws.mean(0) - denoiser_of(modelling.model, noisy)).abs()
    allowed = 5 * draws.std(0) / len(draws) ** 0.5 + 1e-6
    assert (gap < allowed).all(), "the mean of posterior draws is not the denoiser"
    term = Term(name="constant", reward=Constant(0.7, modelling.model.shape[0]))
    value = model.value(noisy, WeightedReward((term,)))
    close(value, torch.full_like(value, 0.7), "value of a constant reward of 0.7")


def _use(
    model: FlowModel, kind: type[Able], use: Callable[[Able], object]
) -> Callable[[], object] | None:
    """What uses the model as a `kind`; None where it cannot do that."""
    part = model.capability(kind)
    return None if part is None else lambda: use(part)


def _able(modelling: Modelling, kind: type[Able]) -> Able:
    """The model as a `kind`; raises SkipTest where it does not promise that."""
    model = modelling.able(kind)
    if model is None:
        raise SkipTest(f"it does not provide a {kind.__name__}")
    return model


def _inner(modelling: Modelling) -> NoisyState:
    """Inner states and their inner times, in another order than the outer ones."""
    return modelling.noisy(tuple(reversed(TIMES)))


def _semigroup(
    jump: Callable[[Tensor, Tensor, Tensor], Tensor], noisy: NoisyState, digits: float
) -> None:
    s, w, u = noisy.t, noisy.t + 0.4 * (1 - noisy.t), torch.ones_like(noisy.t)
    with torch.no_grad():
        close(jump(noisy.x, s, s), noisy.x, "a jump of no length, and its state", digits=digits)
        for end in (u, noisy.t + 0.7 * (1 - noisy.t)):
            twice, once = jump(jump(noisy.x, s, w), w, end), jump(noisy.x, s, end)
            close(twice, once, "two jumps, and one", digits=digits)
