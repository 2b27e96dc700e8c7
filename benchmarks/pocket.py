"""What steering the embedded model gains: MFM-G at several weights beside the best of N.

    python -m benchmarks.pocket

Cats, judged by one classifier that is optimised and one that is held out. Best of N: means over
disjoint groups of one pool of unsteered samples. An hour on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from align_imagenet.metrics import Diversity
from align_pocket import Pocket, SilhouetteClass
from align_pocket.judges import CLASSES, load, prepared
from torch import Tensor

from align.core.estimator import ValueEstimator
from align.core.sampler import PosteriorSampler
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.metrics.statistics import ImageStatistics
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.recipe import RewardTerm
from align.runner.direct import sample
from align.runner.results import ArmResult
from align.samplers.dps import DPS
from align.samplers.mfm import MetaFlowMap
from benchmarks.table import Table, parsed, parser_of, publish

CPU = torch.device("cpu")
JUDGES = ("conv", "patch")
"""The judge that is optimised, and the one that is held out."""
HEAD = (
    "arm",
    "reward (conv)",
    "held out (patch)",
    "class agreement, conv",
    "class agreement, patch",
    "diversity",
    "edges",
    "NFE (network calls)",
    "seconds a sample",
)


def terms(label: str, weight: float) -> tuple[RewardTerm, ...]:
    """The judge that is optimised and the one that is held out."""
    return (
        RewardTerm(part=SilhouetteClass(label=label), weight=weight, name="conv"),
        RewardTerm(part=SilhouetteClass(label=label, network="patch"), held_out=True, name="patch"),
    )


@attrs.frozen
class Sizes:
    """Samples of an arm, unsteered samples, Euler steps, and the N of best of N."""

    samples: int = 32
    pool: int = 3000
    steps: int = 50
    best_of: tuple[int, ...] = (1, 10, 100, 1000)


@attrs.frozen
class Steering:
    """Steered and unsteered samples of one class, measured alike."""

    label: str
    sizes: Sizes
    judges: dict[str, torch.nn.Module]

    @classmethod
    def of(cls, label: str, sizes: Sizes) -> Steering:
        """The class, with both judges."""
        return cls(label, sizes, {name: load(name, CPU) for name in JUDGES})

    @torch.no_grad()
    def agreement(self, data: Tensor) -> list[float]:
        """Share of silhouettes (B, 3, H, W) that each judge takes for the class."""
        index, views = CLASSES.index(self.label), prepared(data)
        return [
            float((judge(views).argmax(1) == index).float().mean())
            for judge in self.judges.values()
        ]

    def rows(self) -> Iterator[Sequence[str]]:
        """One row an arm."""
        sizes, model = self.sizes, Pocket(prompt=self.label)
        began = time.perf_counter()
        plain = BestOfN(n=1, flow_steps=sizes.steps)
        unsteered = sample(model, plain, rewards=terms(self.label, 1.0), samples=sizes.pool)
        spent = (time.perf_counter() - began) / sizes.pool
        for n in sizes.best_of:
            yield self.best_of(unsteered, n, spent)
        steer, mfm = Steer(steps=sizes.steps), MetaFlowMap()
        for weight in (1.0, 2.0, 5.0):
            for draws in (1, 4):
                name = f"MFM-G, {draws} draw(s), λ = {weight:g}"
                yield self.arm(name, steer, mfm, Gradient(draws=draws), weight)
        renormalised = attrs.evolve(steer, guidance_norm="renorm")
        for draws in (1, 4):
            name = f"MFM-G, {draws} draw(s), λ = 2, renormalised"
            yield self.arm(name, renormalised, mfm, Gradient(draws=draws), 2.0)
        yield self.arm("MFM-GF, 16 draws, λ = 2", steer, mfm, Stein(draws=16), 2.0)
        yield self.arm("DPS, λ = 2", steer, DPS(), Gradient(draws=1), 2.0)
        yield self.tilted(unsteered, 2.0)

    def arm(
        self,
        name: str,
        mode: Steer,
        sampler: PosteriorSampler,
        estimator: ValueEstimator,
        weight: float,
    ) -> Sequence[str]:
        """Steered samples."""
        began = time.perf_counter()
        result = sample(
            Pocket(prompt=self.label),
            mode,
            rewards=terms(self.label, weight),
            samples=self.sizes.samples,
            sampler=sampler,
            estimator=estimator,
        )
        seconds = (time.perf_counter() - began) / self.sizes.samples
        cost = result.cost
        calls = (cost.calls["network"] + cost.backward.get("network", 0)) / self.sizes.samples
        return self.row(name, data_of(result), result.scores, calls, seconds)

    def best_of(self, result: ArmResult, n: int, spent: float) -> Sequence[str]:
        """The best of each group of n unsteered samples, which took `spent` seconds each."""
        reward, calls = result.scores["conv"], result.cost.calls["network"] / self.sizes.pool
        groups = reward[: len(reward) // n * n].reshape(-1, n)
        best = groups.argmax(1) + torch.arange(len(groups)) * n
        scores = {name: score[best] for name, score in result.scores.items()}
        name = f"best of {n} ({len(best)} groups)"
        return self.row(name, data_of(result)[best], scores, calls * n, spent * n)

    def row(
        self, name: str, data: Tensor, scores: Mapping[str, Tensor], calls: float, seconds: float
    ) -> Sequence[str]:
        """Rewards, agreement, diversity and edges of at most 256 samples, and cost of a sample."""
        few, conv = data[:256], scores["conv"]
        diverse = Diversity().compute(few, None)["diversity_mobilenet"] if len(few) > 1 else 0.0
        edges = ImageStatistics().compute(few, None)["edges"]
        error = float(conv.std()) / len(conv) ** 0.5 if len(conv) > 1 else float("nan")
        numbers = (float(scores["patch"].mean()), *self.agreement(data), diverse, edges)
        return (
            name,
            f"{float(conv.mean()):.3f} ± {error:.3f}",
            *(f"{number:.3f}" for number in numbers),
            f"{calls:g}",
            f"{seconds:.3f}",
        )

    def tilted(self, result: ArmResult, weight: float) -> Sequence[str]:
        """What the tilted law itself has, by importance weights on the pool."""
        shares = torch.softmax(weight * result.scores["conv"], 0)
        means = (f"{float((shares * result.scores[name]).sum()):.3f}" for name in JUDGES)
        ess = float(1 / shares.square().sum())
        name = f"tilted law, λ = {weight:g} (weighted pool, ESS {ess:.0f})"
        return name, *means, *[""] * (len(HEAD) - 3)


def data_of(result: ArmResult) -> Tensor:
    """The samples of an arm as its rewards see them."""
    if result.data is None:
        raise ValueError(f"arm '{result.name}' made no samples")
    return result.data


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = parser_of("benchmarks.pocket", __doc__)
    parser.add_argument("--label", choices=CLASSES, default="cat")
    parser.add_argument("--samples", type=int, default=32, help="of each steered arm")
    parser.add_argument("--pool", type=int, default=3000, help="unsteered samples")
    options, command = parsed(parser, arguments)
    sizes = Sizes(options.samples, options.pool)
    if options.toy:
        sizes = Sizes(samples=1, pool=4, steps=2, best_of=(1, 2))
    title = f"{options.label}, {sizes.samples} samples, {sizes.steps} Euler steps"
    table = Table(title, HEAD, Steering.of(options.label, sizes).rows())
    publish([table], command, options.page, "steering")


if __name__ == "__main__":
    main()
