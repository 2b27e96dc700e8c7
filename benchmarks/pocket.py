"""How good the embedded model is, and what steering it gains.

    python benchmarks/pocket.py classes   silhouettes data/silhouettes.tar
    python benchmarks/pocket.py rebuilt   silhouettes data/silhouettes.tar
    python benchmarks/pocket.py posterior silhouettes data/silhouettes.tar
    python benchmarks/pocket.py steering

The first: are samples of their class? The second: what is left of validation pictures after the
autoencoder? The third: one-step draws against GLASS. These also take `photographs
data/animals64.tar`, and the first then a guidance scale and a number of samples a class. The last:
MFM-G against best-of-N. Each prints a Markdown table;
minutes each on two cores, the last one the longest. The silhouettes' archive is written by
plugins/align-pocket/scripts/silhouettes.py.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable

import attrs
import torch
from align_imagenet.features import features
from align_imagenet.labels import index_of
from align_imagenet.loading import load as load_classifier
from align_imagenet.metrics import Diversity
from align_imagenet.pictures import resized
from align_pocket import Pocket, SilhouetteClass
from align_pocket.judges import CLASSES, load, prepared
from torch import Tensor

from align.core.model import NoisyState
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.datasets.pictures import Pictures
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.metrics.frechet import frechet_distance
from align.metrics.statistics import ImageStatistics
from align.models.network_model import NetworkModel
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.recipe import RewardTerm
from align.runner.record import ArmResult
from align.runner.session import sample
from align.samplers.dps import DPS
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.training.data import Labelled
from align.training.data import load as load_pictures

CPU = torch.device("cpu")


def row(*cells: object) -> None:
    """Print one row of a table."""
    said = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells]
    print("| " + " | ".join(said) + " |", flush=True)


def head(*cells: str) -> None:
    """Print the head of a table."""
    row(*cells)
    row(*["---"] * len(cells))


@attrs.frozen
class Variant:
    """A variant of the model with two classifiers that say which class (B,) pictures show."""

    model: NetworkModel
    spec: Callable[[str], Pocket]
    judges: dict[str, Callable[[Tensor], Tensor]]

    @classmethod
    def of(cls, name: str) -> Variant:
        """The variant and its judges; neither was used to train it."""

        def spec(prompt: str) -> Pocket:
            return Pocket(variant=name, prompt=prompt)  # type: ignore[arg-type]

        model = spec("").build(CPU)
        assert isinstance(model, NetworkModel)
        if name == "silhouettes":
            small = {kind: load(kind, CPU) for kind in ("conv", "patch")}
            return cls(
                model,
                spec,
                {
                    kind: lambda data, net=net: net(prepared(data)).argmax(1)
                    for kind, net in small.items()
                },
            )
        among = [index_of(label) for label in model.classes]
        large = {kind: load_classifier(kind, CPU) for kind in ("efficientnet_lite0", "squeezenet")}
        return cls(
            model,
            spec,
            {
                kind: lambda data, net=net: net(resized(data, 128, 128))[:, among].argmax(1)
                for kind, net in large.items()
            },
        )

    def agreement(self, data: Tensor, label: int) -> list[float]:
        """Share of pictures that each judge takes for the class."""
        return [float((judge(data) == label).float().mean()) for judge in self.judges.values()]

    def held(self, archive: str) -> Labelled:
        """The validation pictures."""
        data = Pictures(path=archive, split="val")
        return load_pictures(
            data, self.model.require_autoencoder().config.colours, self.model.classes
        )


@functools.cache
def silhouettes() -> Variant:
    """The variant that is steered; its weights are read once."""
    return Variant.of("silhouettes")


@torch.no_grad()
def agreement(data: Tensor, label: int) -> list[float]:
    """Share of silhouettes that each judge takes for the class."""
    return silhouettes().agreement(data, label)


@torch.no_grad()
def classes(variant: str, archive: str, guidance: str = "1", samples: str = "64") -> None:
    """Class agreement of unsteered samples beside that of validation pictures."""
    world = Variant.of(variant)
    held = world.held(archive)
    head("class", *(f"{who}, {judge}" for who in ("samples", "real") for judge in world.judges))
    rows = []
    for label, name in enumerate(world.model.classes):
        spec = attrs.evolve(world.spec(name), guidance=float(guidance))
        side = sample(spec, BestOfN(n=1), samples=int(samples))
        assert side.data is not None
        real = (held.pictures[held.labels == label] / 255.0).expand(-1, 3, -1, -1)
        rows.append([*world.agreement(side.data, label), *world.agreement(real, label)])
        row(name, *rows[-1])
    row("mean", *torch.tensor(rows).mean(0).tolist())


@torch.no_grad()
def rebuilt(variant: str, archive: str) -> None:
    """Class agreement of validation pictures before and after the autoencoder."""
    world = Variant.of(variant)
    held, auto = world.held(archive), world.model.require_autoencoder()
    agreed, noise = dict[str, list[Tensor]](), list[Tensor]()
    for rows in torch.arange(len(held)).split(145):
        real = held.pictures[rows] / 255.0
        made = auto.decode(auto.encode(real)).clamp(0, 1)
        noise.append((made - real).square().flatten(1).mean(1))
        for who, data in (("real", real), ("rebuilt", made)):
            for name, judge in world.judges.items():
                right = judge(data.expand(-1, 3, -1, -1)) == held.labels[rows]
                agreed.setdefault(f"{who}, {name}", []).append(right.float())
    head("decibels", *agreed)
    row(
        float(-10 * torch.cat(noise).log10().mean()),
        *(float(torch.cat(right).mean()) for right in agreed.values()),
    )


@torch.no_grad()
def posterior(variant: str, archive: str) -> None:
    """Frechet distance between validation pictures and posterior draws given their noisy states."""
    world = Variant.of(variant)
    held, model = world.held(archive), world.model
    states = model.require_autoencoder().encode(held.pictures / 255.0)
    cond = model.encode([held.classes[label] for label in held.labels.tolist()])
    streams = Streams(0, tuple(range(len(states))))
    noise = streams.fold_in("noise").normal(model.shape).to(states)
    real = features(model.decode(states), CPU)
    samplers: list[tuple[str, PosteriorSampler]] = [
        *((f"MFM, {k} step(s)", MetaFlowMap(steps=k)) for k in (1, 2, 4)),
        *((f"GLASS, {k} step(s)", Glass(steps=k)) for k in (1, 2, 4, 8, 16)),
    ]
    times = (0.1, 0.2, 0.5)
    head("sampler", *(f"t = {t}" for t in times), "ms a draw")
    for name, sampler in samplers:
        began, found = time.perf_counter(), []
        for t in times:
            noisy = NoisyState(
                model.path.interpolate(noise, states, torch.full((len(states),), t)),
                torch.full((len(states),), t),
                cond,
            )
            x1 = torch.cat(
                [
                    sampler.sample(model, noisy.rows(r), draws=1, streams=streams.rows(r))[0]
                    for r in (slice(i, i + 128) for i in range(0, len(states), 128))
                ]
            )
            found.append((name, t, x1))
        spent = 1000 * (time.perf_counter() - began) / len(states) / len(times)
        scores = [frechet_distance(features(model.decode(x1), CPU), real) for _, _, x1 in found]
        row(name, *scores, spent)


def terms(label: str, weight: float) -> tuple[RewardTerm, ...]:
    """The judge that is optimised and the one that is held out."""
    return (
        RewardTerm(part=SilhouetteClass(label=label), weight=weight, name="conv"),
        RewardTerm(part=SilhouetteClass(label=label, network="patch"), held_out=True, name="patch"),
    )


def describe(name: str, side: ArmResult, seconds: float, label: str) -> None:
    """One row: reward, held-out reward, agreement, diversity, statistics, cost."""
    assert side.data is not None
    count = len(side.data)
    calls = (side.cost.calls["network"] + side.cost.backward.get("network", 0)) / count
    conv, patch = side.scores["conv"], side.scores["patch"]
    diversity = Diversity().compute(side.data, None)["diversity_mobilenet"]
    edges = ImageStatistics().compute(side.data, None)["edges"]
    row(
        name,
        f"{conv.mean():.3f} ± {conv.std() / count**0.5:.3f}",
        float(patch.mean()),
        *agreement(side.data, CLASSES.index(label)),
        diversity,
        edges,
        f"{calls:g}",
        seconds / count,
    )


def steering(label: str = "cat", samples: int = 32, pool: int = 3000) -> None:
    """MFM-G at several weights, plain and renormalised, beside the best of N of one pool."""
    model = Pocket(prompt=label)
    head(
        "arm",
        "reward (conv)",
        "held out (patch)",
        "class agreement, conv",
        "patch",
        "diversity",
        "edges",
        "network calls",
        "seconds a sample",
    )

    def arm(name: str, draws: int, weight: float, **options: object) -> None:
        began = time.perf_counter()
        stein, dps = options.pop("stein", False), options.pop("dps", False)
        estimator = Stein(draws=draws) if stein else Gradient(draws=draws)
        side = sample(
            model,
            Steer(**options),
            rewards=terms(label, weight),
            samples=samples,  # type: ignore[arg-type]
            sampler=DPS() if dps else MetaFlowMap(),
            estimator=estimator,
        )
        describe(name, side, time.perf_counter() - began, label)

    began = time.perf_counter()
    unsteered = sample(model, BestOfN(n=1), rewards=terms(label, 1.0), samples=pool)
    spent = (time.perf_counter() - began) / pool
    best_of(unsteered, spent, label)
    for weight in (1.0, 2.0, 5.0):
        for draws in (1, 4):
            arm(f"MFM-G, {draws} draw(s), λ = {weight:g}", draws, weight)
    for draws in (1, 4):
        arm(f"MFM-G, {draws} draw(s), λ = 2, renormalised", draws, 2.0, normalise="renorm")
    arm("MFM-GF, 16 draws, λ = 2", 16, 2.0, stein=True)
    arm("DPS, λ = 2", 1, 2.0, dps=True)
    tilted(unsteered, 2.0, label)


def best_of(side: ArmResult, spent: float, label: str) -> None:
    """Means over disjoint groups of a pool of unsteered samples, of the best of each group."""
    assert side.data is not None
    reward, per = side.scores["conv"], side.cost.calls["network"] / len(side.scores["conv"])
    for n in (1, 10, 100, 1000):
        groups = reward[: len(reward) // n * n].reshape(-1, n)
        best = groups.argmax(1) + torch.arange(len(groups)) * n
        chosen = ArmResult(
            f"best of {n}",
            None,
            side.data[best],
            {name: score[best] for name, score in side.scores.items()},
            {},
            side.cost,
        )
        patch, data = chosen.scores["patch"], chosen.data
        assert data is not None
        few = data[:256]
        spread = Diversity().compute(few, None)["diversity_mobilenet"] if len(few) > 1 else 0.0
        conv = chosen.scores["conv"]
        error = conv.std() / len(conv) ** 0.5
        row(
            f"best of {n} ({len(best)} groups)",
            f"{conv.mean():.3f} ± {error:.3f}",
            float(patch.mean()),
            *agreement(data, CLASSES.index(label)),
            spread,
            ImageStatistics().compute(few, None)["edges"],
            f"{per * n:g}",
            spent * n,
        )


def tilted(side: ArmResult, weight: float, label: str) -> None:
    """What the tilted law itself has, by importance weights on the pool."""
    shares = torch.softmax(weight * side.scores["conv"], 0)
    ess = float(1 / shares.square().sum())
    row(
        f"tilted law, λ = {weight:g} (weighted pool, ESS {ess:.0f})",
        float((shares * side.scores["conv"]).sum()),
        float((shares * side.scores["patch"]).sum()),
        "",
        "",
        "",
        "",
        "",
        "",
    )


if __name__ == "__main__":
    asked = {"classes": classes, "rebuilt": rebuilt, "posterior": posterior, "steering": steering}
    asked[sys.argv[1]](*sys.argv[2:])
