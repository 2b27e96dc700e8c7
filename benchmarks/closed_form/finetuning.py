"""Where fine-tuning losses have their minimum (V7), and identities of their gradients (V7b).

The minimum is found by Monte Carlo from posterior draws at one state, not by training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from torch import Tensor, nn

from align.core.draws import Draws, make_draws, weighted_mean
from align.core.model import NoisyState
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.estimators.gradient import gradient_of
from align.samplers.exact import ExactPosterior
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import line
from benchmarks.closed_form.verdicts import order, verdict, verdicts
from benchmarks.table import Table, short

PIECE = 1 << 16
# Steered velocities b*: exact, by MFM-FT's loss, and by a plug-in of two draws.
REFERENCE = {
    (0.3, 0.2): (".9456", ".9367", "3.49"),
    (0.5, -0.4): ("1.8387", "1.8420", "8.31"),
    (0.7, 0.9): (".5768", ".5767", ".49"),
}


@attrs.frozen
class FixedPoints:
    """V7: steered velocities b* at three states, each by `draws` draws."""

    draws: int = 2_000_000

    def tables(self) -> Iterator[Table]:
        """The fixed points, then the identities."""
        yield Table(
            f"V7. Fixed points: steered velocity, {self.draws} draws",
            (
                "t, x",
                "exact",
                "reference",
                "FT-G",
                "reference",
                "FT-GF",
                "Tilt",
                "verdict",
                "two-draw plug-in",
                "reference",
                "verdict",
            ),
            tuple(self._row(t, x, *stated) for (t, x), stated in REFERENCE.items()),
        )
        yield identities()

    def _row(self, t: float, x: float, *stated: str) -> tuple[str, ...]:
        model, reward = line()
        path = model.path
        noisy = NoisyState(
            torch.tensor([[x]]).double(), torch.tensor([t]).double(), model.encode([""])
        )
        base, half = (
            model.velocity(noisy.x, noisy.t, noisy.cond),
            expand(path.half_variance(noisy.t), noisy.x),
        )
        streams = Streams(0, (0,)).fold_in("V7", str(t))

        def draws(sampler: MetaFlowMap | ExactPosterior, purpose: str, gradient: bool) -> Draws:
            problem = Problem(model, reward, sampler, None, noisy.cond, chunks=PIECE)
            own = streams.fold_in(purpose)
            return make_draws(
                problem, noisy, draws=self.draws, budget=4, gradient=gradient, streams=own
            )

        problem = Problem(model, reward, cond=noisy.cond)
        shift = Exact().estimate(problem, noisy, streams=streams).shift
        exact = float(base + expand(path.denoiser_to_velocity(noisy.t), shift) * shift)
        steep = draws(MetaFlowMap(), "steep", True)
        assert steep.reward_grads is not None
        found = [ratio(base + half * steep.reward_grads, steep)]
        plain = draws(MetaFlowMap(), "plain", False)
        found.append(ratio((plain.x1 - noisy.x) / (1 - t), plain))
        true = draws(ExactPosterior(), "true", False)
        noise = path.noise_from_denoiser(true.x1, noisy.x, noisy.t)
        found.append(ratio(path.rate(noise, true.x1, noisy.t), true))
        pairs = base + half * gradient_of(paired(steep))[:, :1]
        guess, error = float(pairs.mean()), float(pairs.std()) / math.sqrt(len(pairs))
        far = {
            name: (mean, short(exact, 6), error)
            for name, (mean, error) in zip(("FT-G", "FT-GF", "Tilt"), found, strict=True)
        }
        cells = [f"{short(mean, 4)} ± {short(error, 4)}" for mean, error in found]
        return (
            f"{t}, {x}",
            short(exact, 4),
            stated[0],
            cells[0],
            stated[1],
            *cells[1:],
            verdicts(far),
            f"{short(guess)} ± {short(error)}",
            stated[2],
            verdict(guess, stated[2], math.sqrt(2) * error),
        )


def ratio(terms: Tensor, draws: Draws) -> tuple[float, float]:
    """Σ w f of terms f (N, 1, 1) with its standard error, by the delta method."""
    mean = weighted_mean(terms, draws.weights)
    apart = draws.weights[..., None] * (terms - mean)
    return float(mean), float(apart.square().sum().sqrt())


def paired(draws: Draws) -> Draws:
    """The draws of one state as two draws at each of half as many."""
    half = len(draws.x1) // 2
    assert draws.reward_grads is not None
    x1, rewards, reward_grads = (
        each[: 2 * half].reshape(2, half, *each.shape[2:])
        for each in (draws.x1, draws.rewards, draws.reward_grads)
    )
    return Draws(x1, rewards, reward_grads, torch.full((half,), 2), draws.point)


def identities(rows: int = 64) -> Table:
    """V7b: by autograd in float64, on a small network and posterior draws of the line."""
    model, reward = line()
    streams = Streams(0, tuple(range(rows)))
    x1, t = model.draw(streams), 0.1 + 0.8 * streams.fold_in("t").uniform(())
    x = model.path.interpolate(streams.fold_in("noise").normal((1,)), x1, t)
    noisy = NoisyState(x, t, model.encode([""] * rows))
    problem = Problem(model, reward, MetaFlowMap(), None, noisy.cond)
    draws = make_draws(problem, noisy, draws=1, budget=4, gradient=True, streams=streams)
    assert draws.reward_grads is not None
    score, pull = draws.rewards[0][:, None], draws.reward_grads[0]
    base, half = model.velocity(x, t, noisy.cond), expand(model.path.half_variance(t), x)
    layers = nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1)
    net = nn.Sequential(*layers).double()

    def slope(loss: Tensor) -> Tensor:
        parts = torch.autograd.grad(loss, tuple(net.parameters()))
        return torch.cat([part.flatten() for part in parts])

    def fine(offset: float) -> Tensor:
        """The gradient of ‖b̂ − sg[b − (e^r − 1)(b̂ − b) + (σ²/2) ∇e^r]‖²; r less an offset."""
        weight, velocity = (score - offset).exp(), net(torch.cat((x, t[:, None]), 1))
        target = base - (weight - 1) * (velocity - base) + half * weight * pull
        return slope((velocity - target.detach()).square().mean())

    velocity = net(torch.cat((x, t[:, None]), 1))
    weighted = slope((score.exp() * (velocity - base - half * pull).square()).mean())
    leaf = x.clone().requires_grad_()
    four = MetaFlowMap().sample(model, NoisyState(leaf, t, noisy.cond), draws=4, streams=streams)
    value = torch.logsumexp(problem.reward_of(four, noisy.cond), 0) - math.log(4)
    (whole,) = torch.autograd.grad(value.sum(), leaf)
    parts = gradient_of(
        make_draws(problem, noisy, draws=4, budget=4, gradient=True, streams=streams)
    )
    found = (
        ("loss = regression weighted by e^r", relative(fine(0.0), weighted), 1e-16),
        (
            "r − 3 multiplies the gradient by e⁻³",
            relative(fine(3.0) * math.exp(3.0), fine(0.0)),
            4e-16,
        ),
        ("∇ log mean e^r = `gradient`'s Σ w Jᵀ∇r", relative(parts, whole), 7e-16),
    )
    lines = tuple((n, short(e), short(ref), order(e, ref)) for n, e, ref in found)
    return Table("V7b. Gradients", ("what", "relative error", "reference", "verdict"), lines)


def relative(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖."""
    return float((found - wanted).norm() / wanted.norm())
