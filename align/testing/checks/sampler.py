"""Checks of posterior samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, final
from unittest import SkipTest

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.estimator import ClosedForm
from align.core.model import FlowModel, NoisyState
from align.core.sampler import PosteriorSampler
from align.testing.checks.form import form
from align.testing.distances import w1
from align.testing.probes import Plain, close, denoiser_of, finite, size, states, streams_of
from align.testing.probes import untouched as unmoved
from align.testing.worlds import line

TIMES: Final = (0.2, 0.35, 0.5, 0.65, 0.8)


@final
@attrs.frozen(eq=False)
class Sampling:
    """A sampler and the model it is tried on."""

    part: PosteriorSampler
    model: FlowModel

    def noisy(self) -> NoisyState:
        """Noisy states at five times."""
        return states(self.model, TIMES)

    def draws(
        self, noisy: NoisyState, draws: int, samples: Sequence[int] = (), first: int = 0
    ) -> Tensor:
        """Draws (N, B, *S) for samples 0 .. B − 1, or those named."""
        streams = streams_of(self.model, samples or range(len(noisy.x)))
        streams = streams.after(first) if first else streams
        return self.part.sample(self.model, noisy, draws=draws, streams=streams)


def subject(part: PosteriorSampler, on: Callable[[], FlowModel] | None) -> Sampling:
    """The sampler on a model, or on three Gaussians on the line."""
    return Sampling(part, on() if on else line()[0])


def shape(sampling: Sampling) -> None:
    """Draws are (N, B, *S) of the states' type, on their device, and finite."""
    noisy = sampling.noisy()
    for draws in (1, 3):
        result = sampling.draws(noisy, draws)
        wanted = (draws, *noisy.x.shape)
        assert result.shape == wanted, f"{tuple(result.shape)}, expected (N, B, *S) = {wanted}"
        assert result.dtype == noisy.x.dtype, (
            f"draws are {result.dtype}, the states {noisy.x.dtype}"
        )
        assert result.device == noisy.x.device, (
            f"draws are on {result.device}, not {noisy.x.device}"
        )
        finite(result, "draws")


def ends_of_time(sampling: Sampling) -> None:
    """Draws are finite at t = 0, and near t = 1 they are the state itself."""
    noisy = states(sampling.model, (0.0, 0.0, 0.999, 0.999))
    result = sampling.draws(noisy, 2)
    finite(result, "draws at t = 0 and t = 0.999")
    gap = float((result[:, 2:] - noisy.x[2:]).abs().max())
    assert gap < 0.02 * max(1.0, size(noisy.x)), f"draws at t = 0.999 are {gap:.3g} from the state"


def draws_are_numbered(sampling: Sampling) -> None:
    """Draw n is the same whatever the number of draws, whenever it is made."""
    noisy = sampling.noisy()
    four = sampling.draws(noisy, 4)
    close(sampling.draws(noisy, 4), four, "draws made twice from the same streams")
    close(sampling.draws(noisy, 2), four[:2], "the first two of four draws")
    for first in (1, 3):
        alone = sampling.draws(noisy, 1, first=first)[0]
        close(alone, four[first], f"draw {first}, and draw 0 of streams.after({first})")


def rows_are_independent(sampling: Sampling) -> None:
    """A state's draws are the same alone, among others and in another order."""
    noisy = sampling.noisy()
    together = sampling.draws(noisy, 3)
    for rows in ((0,), (3, 1)):
        few = sampling.draws(noisy.rows(torch.tensor(rows)), 3, samples=rows)
        close(few, together[:, list(rows)], f"draws at states {rows}, and among others")


def random_state(sampling: Sampling) -> None:
    """Torch's global random state is left as it was."""
    with unmoved(sampling.model.device, "sample"):
        sampling.draws(sampling.noisy(), 2)


def inputs_untouched(sampling: Sampling) -> None:
    """The states and times it is given are not changed in place."""
    noisy = sampling.noisy()
    x, t = noisy.x.clone(), noisy.t.clone()
    sampling.draws(noisy, 2)
    assert torch.equal(noisy.x, x), "sample changes the states in place"
    assert torch.equal(noisy.t, t), "sample changes the times in place"


def differentiable(sampling: Sampling) -> None:
    """`differentiable` is true if and only if draws carry a gradient, and it is the right one."""
    noisy = sampling.noisy()
    x = noisy.x.clone().requires_grad_()
    with torch.enable_grad():
        result = sampling.draws(NoisyState(x, noisy.t, noisy.cond), 2)
    if not sampling.part.differentiable:
        assert not result.requires_grad, "draws carry a gradient, but `differentiable` is false"
        return
    assert result.requires_grad, "draws carry no gradient, but `differentiable` is true"
    streams = streams_of(sampling.model, range(len(x)), seed=3)
    factor = streams.fold_in("factor").normal(sampling.model.shape, draws=2).to(x)
    direction = streams.fold_in("way").normal(sampling.model.shape).to(x)
    (gradient,) = torch.autograd.grad((result * factor).sum(), x)
    is_float64 = x.dtype == torch.float64
    step = 1e-5 if is_float64 else 1e-2
    with torch.no_grad():
        ends = [
            sampling.draws(NoisyState(noisy.x + h * direction, noisy.t, noisy.cond), 2)
            for h in (step, -step)
        ]
    slope = ((ends[0] - ends[1]) / (2 * step) * factor).flatten(2).sum((0, 2))
    slope_by_gradient = (gradient * direction).flatten(1).sum(1)
    close(
        slope_by_gradient,
        slope,
        "gradient, and finite differences",
        digits=1e-4 if is_float64 else 0.05,
    )


def point(sampling: Sampling) -> None:
    """`point` is true if and only if every draw is the denoiser."""
    noisy = sampling.noisy()
    result, wanted = sampling.draws(noisy, 3), denoiser_of(sampling.model, noisy)
    if sampling.part.point:
        close(result, wanted.expand_as(result), "draws of a point, and the denoiser")
        return
    gap = float((result - wanted).abs().max())
    assert gap > 1e-3 * size(wanted), "every draw is the denoiser, but `point` is false"


def needs(sampling: Sampling) -> None:
    """On a model without its capability it raises PartError; without `needs` it works there."""
    plain, noisy = Sampling(sampling.part, Plain(sampling.model)), sampling.noisy()
    if sampling.part.needs is None:
        finite(plain.draws(noisy, 1), "draws from a model without capabilities")
        return
    try:
        plain.draws(noisy, 1)
    except PartError:
        return
    raise AssertionError(f"works without {sampling.part.needs.__name__}, which it says it needs")


def exact(sampling: Sampling, draws: int = 3000) -> None:
    """Draws follow the posterior: as near to exact draws as other exact draws are."""
    model, noisy = sampling.model.capability(ClosedForm), states(sampling.model, TIMES * 3)
    if model is None:
        raise SkipTest("the model does not know its posterior")

    def drawn(seed: int, count: int = draws) -> Tensor:
        return model.draw_posterior(
            noisy, count, streams_of(sampling.model, range(len(noisy.x)), seed)
        )

    with torch.no_grad():
        result = sampling.draws(noisy, 1 if sampling.part.point else draws)
    law = drawn(8, 4 * draws)
    floor, far = sum(apart(drawn(seed), law) for seed in range(9, 13)) / 4, apart(result, law)
    # Over 15 states the distance of exact draws varies by a tenth of itself.
    assert far < 1.5 * floor, f"W₁ to the posterior is {far:.3g}; exact draws have {floor:.3g}"


def apart(a: Tensor, b: Tensor) -> float:
    """Mean of W₁ over the states and coordinates of draws (N, B, *S), each in its own deviation."""
    a, b = (x.flatten(2).double() for x in (a, b))
    lines = [(row, place) for row in range(a.shape[1]) for place in range(a.shape[2])]
    far = [w1(a[:, i, j], b[:, i, j]) / max(float(b[:, i, j].std()), 1e-6) for i, j in lines]
    return sum(far) / len(far)


CHECKS: Final = (
    form,
    shape,
    ends_of_time,
    draws_are_numbered,
    rows_are_independent,
    random_state,
    inputs_untouched,
    differentiable,
    point,
    needs,
    exact,
)
