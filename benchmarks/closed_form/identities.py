"""Identities that hold to rounding, or to the error of a central difference.

Conversions (V1), the coefficient of the guidance (V2), the flow map's identities (V8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from align.core.model import NoisyState
from align.core.path import expand
from align.core.problem import Problem
from align.core.quadratic import Form
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.models.isotropic import Isotropic
from align.models.mixture import GaussianMixture
from align.modes.distill.eulerian import Eulerian
from align.modes.distill.inner import InnerFlow
from align.modes.distill.semigroup import Semigroup
from align.samplers.glass import glass_velocity
from align.testing.worlds import line
from benchmarks.closed_form.verdicts import order
from benchmarks.table import Table, short

PATHS: tuple[Literal["linear", "trigonometric"], ...] = ("linear", "trigonometric")
ROWS = 256


def worst(found: Tensor, wanted: Tensor) -> float:
    """Largest |found − wanted| / (1 + |wanted|)."""
    return float(((found - wanted).abs() / (1 + wanted.abs())).max())


def grid(model: GaussianMixture) -> NoisyState:
    """41 points from −4 to 4 at each of 19 times from .05 to .95."""
    times = torch.arange(1, 20).double() * 0.05
    points = torch.linspace(-4, 4, 41).double()
    t, x = (each.flatten() for each in torch.meshgrid(times, points, indexing="ij"))
    return NoisyState(x[:, None], t, model.encode([""] * len(t)))


def slope(f: Callable[[Tensor], Tensor], x: Tensor, h: float) -> Tensor:
    """Central difference of f at x."""
    return (f(x + h) - f(x - h)) / (2 * h)


def conversions() -> Table:
    """V1: every conversion of `Path` against the mixture's own closed forms."""
    rows: dict[str, list[float]] = {}
    for kind in PATHS:
        model, _ = line(kind)
        path, noisy = model.path, grid(model)
        x, t = noisy.x, noisy.t
        velocity, denoiser = model.velocity(x, t, noisy.cond), model.denoiser(noisy)
        leaf = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(model.log_prob(leaf, t).sum(), leaf)
        noise = path.noise_from_denoiser(denoiser, x, t)
        by_difference = slope(lambda x, m=model, t=t: m.log_prob(x, t)[:, None], x, 1e-5)  # type: ignore[misc]
        found = {
            "b of D": (path.velocity_from_denoiser(denoiser, x, t), velocity),
            "D of b": (path.denoiser_from_velocity(velocity, x, t), denoiser),
            "s of D": (path.score_from_denoiser(denoiser, x, t), score),
            "D of s": (path.denoiser_from_score(score, x, t), denoiser),
            "s of b": (path.score_from_velocity(velocity, x, t), score),
            "b of s": (path.velocity_from_score(score, x, t), velocity),
            "x of E[I₀] and D": (path.interpolate(noise, denoiser, t), x),
            "b of E[I₀] and D": (path.rate(noise, denoiser, t), velocity),
            "s against differences of log p": (score, by_difference),
        }
        for name, pair in found.items():
            rows.setdefault(name, []).append(worst(*pair))
    lines = []
    for name, errors in rows.items():
        reference = 2e-9 if "differences" in name else 2e-12
        lines.append((name, *map(short, errors), short(reference), order(max(errors), reference)))
    return Table(
        "V1. Conversions", ("what", "linear", "trigonometric", "reference", "verdict"), tuple(lines)
    )


def tilted(kind: Literal["linear", "trigonometric"]) -> GaussianMixture:
    """The mixture p*(x) ∝ p(x) e^{r(x)} of the line, as a model of its own."""
    model, reward = line(kind)
    prior, form = model.prior, Form.of(reward, model.prior.means)
    quadratic = form.quadratic[0]
    logits = torch.log_softmax(prior.log_weights + prior.log_tilts(form), -1)
    variances = prior.variances / (1 + prior.variances * quadratic)
    push = (form.linear @ form.axes.T)[0]
    means = variances * (prior.means[..., 0] / prior.variances + push)
    return GaussianMixture(Isotropic(logits, means[..., None], variances), model.path, model.axes)


def doob() -> Table:
    """V2: the tilted mixture's velocity less the mixture's is (σ²/2) ∇V; V is log p*/p."""
    lines = []
    for kind, reference in zip(PATHS, (1.5e-9, 2.8e-9), strict=True):
        (model, reward), other = line(kind), tilted(kind)
        noisy = grid(model)
        x, t, cond = noisy.x, noisy.t, noisy.cond
        added = other.velocity(x, t, cond) - model.velocity(x, t, cond)

        def value(x: Tensor, t: Tensor = t) -> Tensor:
            noisy = NoisyState(x, t, cond)  # noqa: B023
            return model.value(noisy, reward)[:, None]  # noqa: B023

        steep = expand(model.path.half_variance(t), x) * slope(value, x, 1e-5)
        problem, streams = Problem(model, reward, cond=cond), Streams(0, tuple(range(len(t))))
        shift = Exact().estimate(problem, noisy, streams=streams).shift
        pulled = expand(model.path.denoiser_to_velocity(t), x) * shift
        ratio = value(x)[:, 0] - other.log_prob(x, t) + model.log_prob(x, t)
        spread = float((ratio - ratio.mean()).abs().max())
        for name, error, stated in (
            ("b* − b = (σ²/2) ∇V, V by differences", worst(steep, added), reference),
            ("b* − b = c · shift of estimator `exact`", worst(pulled, added), reference),
            ("V − log p*/p is constant", spread, 3e-14),
        ):
            lines.append((name, kind, short(error), short(stated), order(error, stated)))
    return Table("V2. Guidance", ("what", "path", "error", "reference", "verdict"), tuple(lines))


def flow_map() -> Table:
    """V8: the exact posterior map of the line, by central differences and by align's losses."""
    model, _ = line()
    streams = Streams(0, tuple(range(ROWS)))
    x1, t = model.draw(streams), 0.9 * streams.fold_in("t").uniform(())
    context = model.path.interpolate(streams.fold_in("context").normal((1,)), x1, t)
    noisy = NoisyState(context, t, model.encode([""] * ROWS))
    s = 0.05 + 0.6 * streams.fold_in("s").uniform(())
    u = s + 0.05 + (0.9 - s) * streams.fold_in("u").uniform(())
    noise = streams.fold_in("inner").normal((1,))
    y = model.path.interpolate(noise, x1, s)
    gap = expand(u - s, y)

    def jump(y: Tensor, s: Tensor, u: Tensor) -> Tensor:
        return model.posterior_jump(y, s, u, noisy)

    def inner(y: Tensor, s: Tensor) -> Tensor:
        return glass_velocity(model, y, s, noisy)

    def average(y: Tensor, s: Tensor, u: Tensor) -> Tensor:
        wide = expand(u - s, y)
        mean = (jump(y, s, u) - y) / torch.where(wide > 0, wide, 1.0)
        return torch.where(wide > 0, mean, inner(y, s))

    along, h = inner(y, s), 1e-5
    end = jump(y, s, u)
    carried = slope(lambda s: jump(y, s, u), s, h) + along * slope(lambda y: jump(y, s, u), y, h)
    change = slope(lambda s: average(y, s, u), s, h)
    change = change + along * slope(lambda y: average(y, s, u), y, h)
    middle = (s + u) / 2
    flow = InnerFlow(
        path=model.path,
        noise=noise,
        x1=x1,
        average=average,
        unconditional=average,
        teacher=inner,
        guidance=1.0,
        streams=streams,
    )
    by_teacher = Eulerian(velocity="teacher").residual(flow, s, u)
    by_itself = Eulerian(velocity="self").residual(flow, s, u)
    halves = Semigroup().residual(flow, s, u)
    found = (
        ("LSD: ∂ᵤX − b̄(X)", worst(slope(lambda u: jump(y, s, u), u, h), inner(end, u)), "4.5e-9"),
        ("ESD: ∂ₛX + b̄ ∂X", worst(carried, torch.zeros_like(y)), "5e-8"),
        ("MF: v − b̄ − (u − s)(∂ₛv + b̄ ∂v)", worst(along + gap * change, (end - y) / gap), "2e-8"),
        ("PSD: X ∘ X − X", worst(jump(jump(y, s, middle), middle, u), end), "4e-16"),
        ("`eulerian`, teacher", float(by_teacher.abs().max()), "5e-8"),
        ("`eulerian`, self", float(by_itself.abs().max()), "5e-8"),
        ("`semigroup`, times u − s", float((gap * halves).abs().max()), "4e-16"),
    )
    lines = tuple((n, short(e), ref, order(e, float(ref))) for n, e, ref in found)
    return Table("V8. Flow-map identities", ("what", "error", "reference", "verdict"), lines)


def tables() -> Iterator[Table]:
    """V1, V2 and V8."""
    yield conversions()
    yield doob()
    yield flow_map()
