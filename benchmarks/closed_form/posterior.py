"""Samplers of the posterior on the line: GLASS (V4), refinement (V9), early stopping (V10)."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

from align.core.model import FlowModel, NoisyState
from align.core.streams import Streams
from align.models.mixture import GaussianMixture
from align.samplers.exact import ExactPosterior
from align.samplers.glass import InnerFlow, glass_velocity
from align.samplers.refine import refine
from align.samplers.transition import glass_transition, stopping_time
from align.testing.distances import w1
from align.testing.worlds import line
from benchmarks.closed_form.identities import PATHS, worst
from benchmarks.closed_form.verdicts import order, verdict
from benchmarks.table import Table, short


def states(model: GaussianMixture) -> tuple[Tensor, Tensor, NoisyState]:
    """41 inner states y at each of 60 (t, s, x): rows y (R, 1), s (R,) and the contexts."""
    times = (0.05, 0.3, 0.6, 0.9), (0.05, 0.3, 0.6, 0.8, 0.95), (-1.5, 0.2, 1.8)
    axes = [torch.tensor(each).double() for each in times] + [torch.linspace(-3, 3, 41).double()]
    t, s, x, y = (each.flatten() for each in torch.meshgrid(*axes, indexing="ij"))
    return y[:, None], s, NoisyState(x[:, None], t, model.encode([""] * len(t)))


def conditioned(model: GaussianMixture, y: Tensor, s: Tensor, noisy: NoisyState) -> Tensor:
    """The inner velocity by conditioning the mixture on both observations, one after the other."""
    path = model.path
    law = model.posterior(noisy).posterior(y, path.alpha(s), path.beta(s))
    return path.velocity_from_denoiser(law.mean(), y, s)


def published(model: GaussianMixture, y: Tensor, s: Tensor, noisy: NoisyState) -> Tensor:
    """The inner velocity in the algebra of the published code, for the linear path alone."""
    t, x = noisy.t[:, None], noisy.x
    s_ = s[:, None]
    q = (t * (1 - s_)) ** 2 + (s_ * (1 - t)) ** 2
    p = (1 - t) ** 2 / q.clamp(min=1e-6)
    root = p.sqrt()
    later = 1 / (1 + (1 - s_) * root)
    seen = later * ((1 - s_) ** 2 * (t / q) * x + s_ * p * y)
    velocity = model.velocity(seen, later[:, 0], noisy.cond)
    quadratic = ((1 - t) ** 2 * (1 + s_) - t**2 * (1 - s_)) / q - (p + root)
    return later * (1 - s_) * (t / q) * x + quadratic * later * y + later * root * velocity


def drift() -> Table:
    """V4: the inner velocity against brute force, in both algebras, and its limits."""
    lines: list[tuple[str, ...]] = []

    def add(what: str, kind: str, error: float, reference: float) -> None:
        lines.append((what, kind, short(error), short(reference), order(error, reference)))

    for kind, reference in zip(PATHS, (2e-11, 2.8e-12), strict=True):
        model, _ = line(kind)
        y, s, noisy = states(model)
        wanted = conditioned(model, y, s, noisy)
        add(
            "against conditioning on both",
            kind,
            worst(glass_velocity(model, y, s, noisy), wanted),
            reference,
        )
        if kind == "linear":
            error = worst(published(model, y, s, noisy), wanted)
            add("the published code's algebra", kind, error, reference)
        zero = torch.zeros_like(s)
        start = NoisyState(noisy.x, zero, noisy.cond)
        plain = worst(glass_velocity(model, y, s, start), model.velocity(y, s, noisy.cond))
        add("t → 0: the flow's velocity", kind, plain, reference)
        ahead = model.path.velocity_from_denoiser(model.denoiser(noisy), y, zero)
        add(
            "s → 0: towards D", kind, worst(glass_velocity(model, y, zero, noisy), ahead), reference
        )
        one = flowed(model, y, noisy, 1)
        error = worst(one, model.denoiser(noisy))
        add("one step: D", kind, error, reference)
    head = ("what", "path", "relative error", "reference", "verdict")
    return Table("V4. GLASS's inner velocity", head, tuple(lines))


def flowed(model: FlowModel, y: Tensor, noisy: NoisyState, steps: int) -> Tensor:
    """The inner flow from noise y (B, *S) to the posterior by Euler steps."""
    inner = InnerFlow.of(model, noisy)
    return inner.to(torch.ones_like(noisy.t), y, steps=steps, method="euler")


def convergence(count: int) -> Table:
    """V4: W1 of K Euler steps to the posterior at t = .35, x = .2, at `count` quantiles of ε.

    On the line both maps rise with ε, so that W1 is the mean of their distance.
    """
    model, _ = line()
    noise = torch.special.ndtri((torch.arange(count).double() + 0.5) / count)[:, None]
    noisy = NoisyState(
        torch.full_like(noise, 0.2), torch.full_like(noise[:, 0], 0.35), model.encode([""] * count)
    )
    one = torch.ones_like(noisy.t)
    exact = model.posterior_jump(noise, 0 * one, one, noisy)
    lines = []
    references = {1: "1.143", 2: ".604", 4: ".329", 16: ".080", 64: ".022", 256: ".007"}
    for steps, reference in references.items():
        found = flowed(model, noise, noisy, steps)
        distance = float((found - exact).abs().mean())
        lines.append(
            (str(steps), short(distance, 4), reference, verdict(distance, reference, 0.007))
        )
    head = ("K", "W1", "reference (floor .007)", "verdict, in floors")
    return Table("V4. Euler steps of the inner flow", head, tuple(lines))


def refinement(count: int) -> Table:
    """V9: K exact posterior draws, each made noisy again, against draws of the mixture."""
    model, _ = line()
    cond = model.encode([""] * count)

    def draws(seed: int) -> Tensor:
        return model.draw(Streams(seed, tuple(range(count))))[:, 0]

    exact = draws(1)
    floors = [w1(draws(seed), exact) for seed in range(2, 6)]
    lines = []
    for steps in (1, 2, 4, 8):
        rows = Streams(0, tuple(range(count))).fold_in("V9", steps)
        found = refine(model, ExactPosterior(), cond, steps=steps, streams=rows)[:, 0]
        distance = w1(found, exact)
        within = "agrees" if distance <= 1.5 * max(floors) else "differs"
        lines.append((str(steps), short(distance, 4), ".011 to .014", within))
    floor = f"{short(min(floors), 4)} to {short(max(floors), 4)}"
    lines.append(("exact draws, four sets", floor, ".011 to .014", "the floor"))
    head = ("K", "W1", "reference", "verdict")
    return Table(f"V9. Refinement, {count} samples", head, tuple(lines))


def transition(count: int) -> Table:
    """V10: the inner flow stopped early, against the memoryless kernel of the mixture."""
    lines = []
    model, _ = line()
    path = model.path
    for before, after, x in ((0.35, 0.6, 0.2), (0.1, 0.2, 0.2), (0.6, 0.9, 1.0)):
        rows = Streams(0, tuple(range(count))).fold_in("V10")
        t, u = (torch.full((count,), time).double() for time in (before, after))
        noisy = NoisyState(torch.full((count, 1), x).double(), t, model.encode([""] * count))
        end = stopping_time(path, t, u)
        told = sum((path.beta(each) / path.alpha(each)) ** 2 for each in (t, end))
        error = float((path.time_at(1 / torch.as_tensor(told)) - u).abs().max())
        inner = InnerFlow.of(model, noisy)
        found = glass_transition(inner, u, steps=40, method="heun", noise=rows.normal((1,)))
        scale = path.beta(t) / path.beta(u)
        missing = (path.alpha(t) ** 2 - (scale * path.alpha(u)) ** 2).sqrt()
        law = model.prior.noised(path.alpha(u), path.beta(u)).posterior(noisy.x, missing, scale)
        exact, other = (law.draw(Streams(seed, tuple(range(count))), 1)[0, :, 0] for seed in (1, 2))
        distance, floor = w1(found[:, 0], exact), w1(other, exact)
        within = "agrees" if distance <= 2 * floor else "differs"
        lines.append(
            (
                f"{before} → {after} from {x}",
                short(error),
                short(distance, 4),
                short(floor, 4),
                ".0037 (floor .0078)",
                within,
            )
        )
    head = ("step", "error of the time reached", "W1", "floor", "reference", "verdict")
    return Table(f"V10. Early stopping, {count} draws", head, tuple(lines))


@attrs.frozen
class Posterior:
    """V4, V9 and V10, by `draws` draws, and quantiles of the noise where no draw is needed."""

    draws: int = 40_000
    quantiles: int = 20_000

    def tables(self) -> Iterator[Table]:
        """Velocity, convergence, refinement, early stopping."""
        yield drift()
        yield convergence(self.quantiles)
        yield refinement(self.draws)
        yield transition(self.draws * 5 // 4)
