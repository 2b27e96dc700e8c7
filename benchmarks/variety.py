"""How various steered samples are, and what a call of the network buys.

python -m benchmarks.variety diversity --page docs/results/questions.md
python -m benchmarks.variety calls --page docs/results/questions.md
python -m benchmarks.variety class_calls --page docs/results/questions.md
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias, final

import attrs
import numpy as np
import torch
from align_pocket import Pocket, SilhouetteClass
from align_pocket.features import Silhouettes
from torch import Tensor

from align.core.estimator import ValueEstimator
from align.core.mode import AlignmentMode
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.dynamics.renoise import Renoise
from align.dynamics.sde import SDE
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.estimators.blend import Blend
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.search import Search
from align.estimators.stein import Stein
from align.metrics.features import extracted
from align.metrics.neighbours import density_coverage
from align.metrics.variety import root_of, vendi_score
from align.models.mixture import GaussianMixture
from align.modes.sampling.best_noise import BestNoise
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.modes.studies.tilted_law import divergence
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.mfm import MetaFlowMap
from benchmarks.questions import CPU, world_of
from benchmarks.table import Table, parsed, parser_of, publish, short

Method: TypeAlias = tuple[AlignmentMode[Any], PosteriorSampler, ValueEstimator]
NEIGHBOURS: Final = 5
MANY: Final = 2048  # draws that stand for a law


def made(
    problem: Problem, mode: AlignmentMode[Any], count: int, *, paired: bool, seed: int = 0
) -> Tensor:
    """Clean states (2 · `count`, *S); paired, row i and row `count` + i start from one noise."""
    streams = Streams(seed, tuple(range(2 * count)))
    state = mode.init(problem, Streams(seed, tuple(range(count)) * 2) if paired else streams)
    for index in range(mode.steps):
        state, _ = mode.step(problem, state, index, streams)
    x1 = mode.finish(problem, state)
    assert x1 is not None
    return x1


def given_the_noise(rows: Tensor) -> float:
    """Variance of paired rows (2 · n, D) given the noise, over all of it."""
    first, second = rows.double().chunk(2)
    return float((first - second).square().sum(1).mean() / 2 / rows.double().var(0).sum())


# 3. Diversity


@final
@attrs.frozen(eq=False)
class Tilts:
    """The laws p e^{λ r} of one problem, for λ that rise: their mean r and their nats from p."""

    model: GaussianMixture
    reward: WeightedReward
    seed: int
    weights: Tensor
    means: Tensor
    nats: Tensor

    @classmethod
    def of(cls, where: str, number: int) -> Tilts:
        """λ from a tenth to a hundred; KL(p e^{λr} | p) is λ E[r] − V₀."""
        model, reward = world_of(where, number)
        weights, means, nats = torch.logspace(-1, 2, 40).double(), list[float](), list[float]()
        streams, x = Streams(number, tuple(range(MANY))), torch.zeros(1, *model.shape).double()
        noisy = NoisyState(x, torch.zeros(1).double(), model.encode([""]))
        for weight in weights.tolist():
            tilted = reward.times(weight)
            r = reward.total(model.draw_tilted(tilted, streams), [""] * MANY)
            means.append(float(r.mean()))
            nats.append(weight * means[-1] - float(model.value(noisy, tilted)))
        return cls(model, reward, number, weights, torch.tensor(means), torch.tensor(nats))

    def draws(self, known: Tensor, wanted: float, count: int, name: str) -> Tensor:
        """Draws of the law whose mean r, or whose nats, are as much; else of the first or last."""
        x, y = known.cummax(0).values.numpy(), self.weights.log().numpy()
        weight = math.exp(float(np.interp(wanted, x, y)))
        streams = Streams(self.seed, tuple(range(count)), (name,))
        return self.model.draw_tilted(self.reward.times(weight), streams)


def diversity(options: argparse.Namespace) -> Iterator[Table]:
    """Samples of methods beside the law p e^{λ r} of as much reward, and of as many nats."""
    steps, count = options.steps, options.rows
    ode, sde = Steer(steps=steps), Steer(steps=steps, dynamics=SDE(), grid="log_snr")
    exact, few = ExactPosterior(), Stein(draws=8)
    methods: dict[str, Method] = {
        "exact gradient, ODE": (ode, exact, Exact()),
        "exact gradient, SDE": (sde, exact, Exact()),
        "MFM-GF, 8 draws, ODE": (ode, exact, few),
        "MFM-GF, 8 draws, SDE": (sde, exact, few),
        "blend, 4 draws, ODE": (ode, MetaFlowMap(), Blend(draws=4)),
        "DPS": (ode, DPS(), Gradient(draws=1)),
        "MFM-G, 4 draws, renormalised": (
            attrs.evolve(ode, guidance_norm="renorm"),
            MetaFlowMap(),
            Gradient(draws=4),
        ),
        "MFM-Search, 8 draws": (attrs.evolve(ode, dynamics=Renoise()), exact, Search(draws=8)),
        "best of 9": (BestOfN(n=9, flow_steps=steps), exact, Exact()),
    }
    measured = ("coverage", "spread", "modes")
    head = ("method", "KL of r", "r", *(f"equal r: {what}" for what in measured))
    head += (*(f"equal nats: {what}" for what in measured), "given the noise")
    for where in options.worlds:
        tilts = [Tilts.of(where, number) for number in range(options.problems)]
        body = list[list[str]]()
        for name in ("draws of the tilted law", *methods):
            found = [_varied(tilt, methods.get(name), count) for tilt in tilts]
            body.append([name, *map(_mean_and_error, torch.tensor(found).double().T)])
        title = f"{where}: shares of what the law p e^(λ r) has at equal r, and at equal nats"
        yield Table(title, head, body)


def _mean_and_error(values: Tensor) -> str:
    if values.isnan().any():
        return ""
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{short(float(values.mean()))} ± {short(error, 2) if len(values) > 1 else '?'}"


def _varied(tilts: Tilts, method: Method | None, count: int) -> list[float]:
    """Nats, r, what of coverage, spread and modes two laws have, and variance given the noise."""
    model, reward = tilts.model, tilts.reward
    if method is None:
        x1, alone = tilts.draws(tilts.weights, 1.0, count, "method"), math.nan
    else:
        mode, sampler, estimator = method
        problem = Problem(model, reward, sampler, estimator, model.encode([""] * (2 * count)))
        paired = not isinstance(mode, BestOfN)
        pairs = made(problem, mode, count, paired=paired, seed=tilts.seed)
        x1, alone = pairs[:count], given_the_noise(pairs) if paired else math.nan
    r = reward.total(x1, [""] * count)
    base = reward.total(model.draw(Streams(tilts.seed, tuple(range(MANY)))), [""] * MANY)
    nats, mean = divergence(r, base), float(r.mean())
    shares = list[float]()
    for known, wanted in ((tilts.means, mean), (tilts.nats, nats)):
        law, other = (
            tilts.draws(known, wanted, many, at) for many, at in ((MANY, "law"), (count, "other"))
        )
        covered = [_coverage(x, law[:count]) for x in (x1, other)]
        ours, theirs = (_spread_and_modes(model, x) for x in (x1, law))
        shares += [covered[0] / covered[1], ours[0] / theirs[0], ours[1] / theirs[1]]
    return [nats, mean, *shares, alone]


def _coverage(x: Tensor, reference: Tensor) -> float:
    return density_coverage(x, reference, min(NEIGHBOURS, len(x) - 1))[1]


def _spread_and_modes(model: GaussianMixture, x: Tensor) -> tuple[float, float]:
    """Deviation of x (n, D), and the effective number of its modes."""
    shares = torch.bincount(model.prior.log_terms(x).argmax(1)).double() / len(x)
    kinds = torch.special.entr(shares).sum().exp()
    return math.sqrt(float(x.var(0).sum())), float(kinds)


# 8. What are 100x fewer calls?

FEATURES: Final = Silhouettes(network="patch")  # of the judge that is not followed
WEIGHT: Final = 2.0
SIZES: Final = (1, 4, 16, 32, 64)


@final
@attrs.frozen(eq=False)
class Pool:
    """Unsteered samples: pictures, log-odds by the judge that is followed, and by the other."""

    data: Tensor
    r: Tensor
    held: Tensor
    calls: float

    def best_of(self, n: float) -> tuple[float, float]:
        """Means of both over all choices of n samples of the pool, each standing for its best.

        Sample k of M in rising order is the best of a share C(k − 1, n − 1) / C(M, n) of them.
        """
        order = self.r.argsort()
        rank = torch.arange(1, len(order) + 1).double()
        log = torch.lgamma(rank) - torch.lgamma((rank - n + 1).clamp(min=1e-9))
        shares = torch.softmax(log.masked_fill(rank < n, -math.inf), 0)
        return float((shares * self.r[order]).sum()), float((shares * self.held[order]).sum())

    def as_good_as(self, held: float) -> float:
        """The n whose best has as much by the other judge; infinity where none has."""
        sizes = [2 ** (k / 4) for k in range(int(4 * math.log2(len(self.r) / 4)) + 1)]
        return next((n for n in sizes if self.best_of(n)[1] >= held), math.inf)

    def at(self, nats: float) -> tuple[float, float]:
        """Means of both under the law p e^{λ r} with this divergence, by weights on the pool."""
        scales = torch.logspace(-2, 2, 161).double()[:, None]
        log = torch.log_softmax(scales * self.r, 1)
        apart = (log.exp() * log).sum(1) + math.log(len(self.r))
        place = int(torch.searchsorted(apart, max(0.0, nats)).clamp(max=len(scales) - 1))
        shares = log[place].exp()
        return float((shares * self.r).sum()), float((shares * self.held).sum())


def calls(options: argparse.Namespace) -> Iterator[Table]:
    """From any animal to cats."""
    yield _calls(options, "Any animal to cats", "")


def class_calls(options: argparse.Namespace) -> Iterator[Table]:
    """From cats to better ones."""
    yield _calls(options, "Cats to better cats", "cat")


def _calls(options: argparse.Namespace, title: str, prompt: str) -> Table:
    """Methods, and the best of N that the other judge likes as well."""
    steps, count, meter = options.pocket_steps, options.pictures, Meter()
    model = GuardedModel(Pocket().build(CPU), "pocket", meter, 64)
    judge, other = (
        SilhouetteClass(label="cat", network=name).build(CPU) for name in ("conv", "patch")
    )
    reward = WeightedReward((Term(name="cat", reward=judge, weight=WEIGHT),))

    @torch.no_grad()
    def pictures(method: Method, rows: int, *, paired: bool) -> Pool:
        mode, sampler, estimator = method
        before, cond = _network(meter), model.encode([prompt] * (2 * rows))
        problem = Problem(model, reward, sampler, estimator, cond)
        x1 = made(problem, mode, rows, paired=paired)
        spent = (_network(meter) - before) / (2 * rows)
        data = torch.cat([model.decode(part) for part in x1.split(64)])
        r, held = (part.score(data, [""] * len(data)).double() for part in (judge, other))
        return Pool(data, r, held, spent)

    plain: Method = BestOfN(n=1, flow_steps=steps), MetaFlowMap(), Stein()
    pool = pictures(plain, options.pool // 2, paired=False)
    body = list[list[str]]()
    for size in (size for size in SIZES if size * 4 <= len(pool.r)):
        groups = pool.r[: len(pool.r) // size * size].reshape(-1, size)
        best = groups.argmax(1) + size * torch.arange(len(groups))
        chosen = Pool(pool.data[best], pool.r[best], pool.held[best], size * pool.calls)
        means = (
            f"{short(x)} ± {_error(y)}"
            for x, y in zip(pool.best_of(size), (chosen.r, chosen.held), strict=True)
        )
        nats = math.log(size) - (size - 1) / size
        law = (short(x) for x in pool.at(nats))
        vendi = _vendi(chosen.data, count)
        body.append(
            [f"best of {size}", f"{chosen.calls:g}", *means, short(nats), *law, "", vendi, ""]
        )
    ode = Steer(steps=steps)
    renormalised = attrs.evolve(ode, guidance_norm="renorm")
    methods: dict[str, Method] = {
        "MFM-G, 1 draw": (ode, MetaFlowMap(), Gradient(draws=1)),
        "MFM-G, 4 draws": (ode, MetaFlowMap(), Gradient(draws=4)),
        "MFM-GF, 4 draws": (ode, MetaFlowMap(), Stein(draws=4)),
        "MFM-GF, 4 draws, SDE": (
            attrs.evolve(ode, dynamics=SDE(), grid="log_snr"),
            MetaFlowMap(),
            Stein(draws=4),
        ),
        "DPS": (ode, DPS(), Gradient(draws=1)),
        "MFM-G, 1 draw, renormalised": (renormalised, MetaFlowMap(), Gradient(draws=1)),
        f"best of {options.drafts} drafts": (
            BestNoise(n=options.drafts, flow_steps=steps),
            MetaFlowMap(),
            Stein(),
        ),
    }
    for name, method in methods.items():
        paired = not isinstance(method[0], BestNoise) and name != "DPS"
        steered = pictures(method, count, paired=paired)
        nats = divergence(steered.r, pool.r)
        held, error = float(steered.held.mean()), float(_error(steered.held, paired))
        sizes = [pool.as_good_as(held + k * error) for k in (-1, 0, 1)]
        bought = [_times(n, pool, steered.calls) for n in sizes]
        shared = ""
        if paired:
            shared = short(given_the_noise(extracted(FEATURES, steered.data).pooled))
        body.append(
            [
                name,
                f"{steered.calls:g}",
                f"{short(float(steered.r.mean()))} ± {_error(steered.r, paired)}",
                f"{short(held)} ± {_error(steered.held, paired)}",
                short(nats),
                *(short(x) for x in pool.at(nats)),
                f"{bought[1]} ({bought[0]} to {bought[2]})",
                _vendi(steered.data[:count], count),
                shared,
            ]
        )
    head = (
        "method",
        "NFE",
        "judge",
        "other judge",
        "KL of r",
        "law at these nats: judge",
        "law at these nats: other",
        "NFE of the best of N that the other judge likes as well, over its own",
        f"Vendi of {count}",
        "given the noise",
    )
    return Table(f"{title}, a pool of {len(pool.r)}, {steps} steps, λ = {WEIGHT:g}", head, body)


def _times(n: float, pool: Pool, spent: float) -> str:
    """NFE of the best of n over those spent; a bound where the pool is too small to tell."""
    whole = n if n < math.inf else len(pool.r) / 4
    return f"{'' if n < math.inf else 'over '}{whole * pool.calls / spent:.2g}"


def _network(meter: Meter) -> int:
    return meter.calls["network"] + meter.backward["network"]


def _error(values: Tensor, paired: bool = False) -> str:
    """Standard error of a mean; of paired rows, from the means of the pairs."""
    if paired:
        values = values.unflatten(0, (2, -1)).mean(0)
    return short(float(values.std()) / math.sqrt(len(values)), 2)


def _vendi(data: Tensor, count: int) -> str:
    """Kinds of pictures among the first `count`, by the other judge; "" where there are fewer."""
    if len(data) < count:
        return ""
    return short(vendi_score(root_of(extracted(FEATURES, data[:count]).pooled)))


PARTS: Final[dict[str, Callable[[argparse.Namespace], Iterator[Table]]]] = {
    "diversity": diversity,
    "calls": calls,
    "class_calls": class_calls,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one question."""
    parser = parser_of("benchmarks.variety", __doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--problems", type=int, default=5)
    options, command = parsed(parser, arguments)
    sizes: dict[str, Any] = {"steps": 32, "rows": 64, "pocket_steps": 16, "pictures": 10}
    sizes |= {"pool": 384, "drafts": 64, "worlds": ("line", "plane", "25 modes")}
    if options.toy:
        options.problems = 1
        sizes = {"steps": 2, "rows": 4, "pocket_steps": 1, "pictures": 2, "pool": 4}
        sizes |= {"drafts": 2, "worlds": ("line",)}
    for name, size in sizes.items():
        setattr(options, name, size)
    publish(PARTS[options.part](options), command, options.page, options.part)


if __name__ == "__main__":
    main()
