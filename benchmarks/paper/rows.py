"""The rows of the paper's page: what is claimed, which recipes show it, and what must hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.reward import WeightedReward
from align.core.streams import Streams
from align.metrics.sliced_wasserstein import sliced_w2
from align.models.mixture import GaussianMixture
from align.testing.worlds import measured, plane
from benchmarks.paper import figures
from benchmarks.paper.evidence import ERRORS, Check, Evidence, Number, Verdict

Checks: TypeAlias = Callable[[Evidence], Sequence[Check]]
Drawing: TypeAlias = Callable[[Evidence, Path], None]


@final
@attrs.frozen(eq=False)
class Row:
    """One table or figure of the paper.

    Attributes:
        name: of the row, for `--only`.
        title: what it shows.
        source: the figure or table of the paper.
        claim: what the paper says.
        here: what is otherwise here.
        recipes: files in recipes/ by the names of their runs, in the order in which they are run.
        checks: the statements that decide, from the runs.
        seeds: how often each study is run, for the error of numbers that have none of their own.
        shown: pictures of the run folders that the page shows.
        draw: makes a figure of its own.
        imagenet: the recipes that stand in where the public weights are asked for, by the names of
            those that they replace; "" for one that is not needed then.
    """

    name: str
    title: str
    source: str
    claim: str
    here: str
    recipes: Mapping[str, str]
    checks: Checks
    seeds: int = 1
    shown: tuple[str, ...] = ()
    draw: Drawing | None = None
    imagenet: Mapping[str, str] = attrs.field(factory=dict)


def higher(
    runs: Evidence, recipe: str, arm: str, other: str, reward: str, *, decides: bool = True
) -> Check:
    """That an arm's samples score higher than another's from the same noise."""
    return Check.paired(
        f"{arm} scores higher than {other}, by {reward}",
        runs.scores(recipe, arm, reward),
        runs.scores(recipe, other, reward),
        decides=decides,
    )


# Rows 1 and 2: pictures ------------------------------------------------------------------------


def teaser(runs: Evidence) -> list[Check]:
    """Steered samples score higher than unsteered ones from the same noise."""
    return [
        higher(runs, "teaser", "MFM-G, 4 draws", "unsteered", name)
        for name in runs.results("teaser").rewards
    ]


def posterior_draws(runs: Evidence) -> list[Check]:
    """Draws lie far apart early, and near to each other late."""
    names = [arm.name for arm in runs.results("posterior_draws").arms]

    def apart(name: str) -> list[float]:
        x1 = runs.states("posterior_draws", name).flatten(1)
        return [float(distance) for distance in (x1 - x1.mean(0)).norm(dim=1)]

    def check(early: str, late: str, *, decides: bool) -> Check:
        text = f"draws from {early} are farther apart than from {late}"
        return Check.paired(text, apart(early), apart(late), decides=decides)

    whole = check(names[0], names[-1], decides=True)
    return [whole, *(check(*pair, decides=False) for pair in pairwise(names))]


# Rows 3 and 13: the mixture in the plane -------------------------------------------------------

EXACT: Final = 8
"""Sets of exact draws whose distances from another say how near a perfect sampler would come."""


@final
@attrs.frozen(eq=False)
class Plane:
    """Distances of samples from the exact tilted law of the 2-D mixture."""

    model: GaussianMixture
    reward: WeightedReward

    @classmethod
    def of(cls, std: float) -> Plane:
        """With the measurement of the paper, of deviation `std`."""
        return cls(plane()[0], measured(((1.2, -0.8),), (-1.0,), std))

    def exact(self, seed: int, count: int) -> Tensor:
        """Exact draws (count, 2)."""
        streams = Streams(seed, tuple(range(count))).fold_in("exact")
        return self.model.draw_tilted(self.reward, streams)

    def distance(self, x1: Tensor) -> Number:
        """Sliced W2 from exact draws; its error is the deviation of that of exact draws."""
        target = self.exact(0, len(x1))
        return Number(sliced_w2(x1, target), self.floor(len(x1)).error)

    def floor(self, count: int) -> Number:
        """Sliced W2 of exact draws: mean, and the deviation of a single one."""
        target = self.exact(0, count)
        sets = (self.exact(seed, count) for seed in range(1, EXACT + 1))
        found = torch.tensor([sliced_w2(x1, target) for x1 in sets])
        return Number(float(found.mean()), float(found.std()))


def steered_plane(runs: Evidence) -> list[Check]:
    """With more draws samples come nearer to the tilted law, and nearer than DPS."""
    law, checks = Plane.of(0.2), list[Check]()
    for dynamics in ("ODE", "SDE"):
        far = law.distance(runs.states("plane", f"DPS, {dynamics}"))
        for method in ("MFM-G", "MFM-GF"):
            one, many = (
                law.distance(runs.states("plane", f"{method}, N = {n}, {dynamics}"))
                for n in (1, 64)
            )
            name = f"{method} with N = 64, {dynamics}"
            checks += [
                Check.greater(f"DPS is farther from the tilted law than {name}", far, many),
                Check.greater(f"one draw is farther from it than {name}", one, many),
            ]
    particles = law.distance(runs.states("plane", "TDS, 16 particles"))
    best = law.distance(runs.states("plane", "MFM-GF, N = 64, SDE"))
    text = "16 particles (TDS) are farther from it than MFM-GF with N = 64, SDE"
    return [*checks, Check.greater(text, particles, best, decides=False)]


def tuned(runs: Evidence) -> list[Check]:
    """One call of the tuned flow's map gives the law that the tuned flow gives in 60 steps."""
    law = Plane.of(0.5)
    before, flow, one, four = (
        law.distance(runs.states("tuned", name))
        for name in (
            "the mixture, unsteered",
            "tuned flow, 60 steps",
            "tuned map, 1 call",
            "tuned map, 4 calls",
        )
    )
    return [
        Check.greater(
            "the mixture is farther from the tilted law than the tuned flow", before, flow
        ),
        Check.greater("it is farther from it than one call of the tuned map", before, one),
        near("one call of the tuned map is as near to it as the tuned flow", one, flow),
        near("four calls are as near to it as the tuned flow", four, flow, decides=False),
        near(
            "one call of the tuned map has the tuned flow's mean reward",
            runs.mean("tuned", "tuned map, 1 call", "likelihood"),
            runs.mean("tuned", "tuned flow, 60 steps", "likelihood"),
            below=False,
        ),
    ]


def near(
    statement: str, number: Number, other: Number, *, below: bool = True, decides: bool = True
) -> Check:
    """That a number is not above another by more than `ERRORS` errors of their difference.

    Where it may not be far `below` either, it must be near on both sides.
    """
    gap = number - other
    assert gap.error is not None
    far = gap.value if below else abs(gap.value)
    verdict: Verdict = "holds" if far <= ERRORS * gap.error else "does not hold"
    return Check(statement, f"{number} against {other}", verdict, decides)


# Row 4: classes in shares ----------------------------------------------------------------------


def class_shares(runs: Evidence, arm: str) -> tuple[dict[str, float], int]:
    """Share of each class that the reward names, and the number of samples."""
    numbers = runs.arm("classes", arm)
    prefix = "share of "
    shares = {n.removeprefix(prefix): v for n, v in numbers.metrics.items() if n.startswith(prefix)}
    return shares, numbers.samples


def tilted_shares(runs: Evidence) -> dict[str, float]:
    """Shares of the tilted law: w_i times the model's own shares, which the unsteered arm has."""
    own, count = class_shares(runs, "unsteered")
    w = runs.recipe("classes")["reward"][0]["shares"]
    # Half a sample more, so that a class that none of few samples has is not ruled out.
    weights = {name: w[name] * (share * count + 0.5) for name, share in own.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def class_distance(runs: Evidence, arm: str) -> Number:
    """L2 distance of an arm's shares from those of the tilted law, all other classes as one."""
    shares, count = class_shares(runs, arm)
    wanted = tilted_shares(runs)
    gaps = [shares[name] - wanted[name] for name in wanted]
    gaps.append(1 - sum(shares.values()))
    rest = [*shares.values(), max(0.0, 1 - sum(shares.values()))]
    error = math.sqrt(sum(share * (1 - share) for share in rest) / count / len(rest))
    return Number(math.hypot(*gaps), error)


def classes(runs: Evidence) -> list[Check]:
    """Posterior draws give the classes in the tilted law's shares, better than a point does."""
    far, point, few, many = (
        class_distance(runs, arm) for arm in ("unsteered", "DPS", "MFM-G, 1 draw", "MFM-G, 4 draws")
    )
    free = class_distance(runs, "MFM-GF, 8 draws")
    return [
        Check.greater("unsteered shares are farther from those of p e^r than MFM-G's", far, many),
        Check.greater("DPS is farther from them than MFM-G with 4 draws", point, many),
        Check.greater("one draw is farther from them than 4", few, many, decides=False),
        Check.greater("unsteered shares are farther than MFM-GF's", far, free, decides=False),
    ]


# Rows 5 to 8: the map --------------------------------------------------------------------------


def fidelity(runs: Evidence) -> list[Check]:
    """Samples become better with calls, and one call is better than a step of the flow."""
    mfm = runs.points("fidelity", "refinement, MFM")
    flow = runs.points("fidelity", "the flow by Euler steps")
    return [
        *(
            Check.greater(f"{a} call is farther from the data than {b}", mfm["", a], mfm["", b])
            for a, b in ((1, 2), (2, 4))
        ),
        *(
            Check.greater(
                f"{n} Euler steps are farther from the data than {n} calls of the map",
                flow["", n],
                mfm["", n],
                decides=n == 1,
            )
            for n in (1, 2, 4)
            if ("", n) in flow
        ),
    ]


def training(runs: Evidence) -> list[Check]:
    """The distilled map with powers (.5, 1) is the best at 2 and at 4 calls."""
    study = "training_fidelity"
    best = runs.points(study, "distilled, p = (.5, 1)")
    others = ("data, p = (1, 1)", "distilled, p = (1, 1)")
    return [
        *(
            Check.greater(
                f"'{name}' is farther from the data in {n:g} calls than 'distilled, p = (.5, 1)'",
                runs.points(study, name)["", n],
                best["", n],
            )
            for name in others
            for n in (2.0, 4.0)
        ),
        *(
            Check.greater(
                f"it is farther in {n:g} calls than 'distilled, unweighted'",
                best["", n],
                runs.points(study, "distilled, unweighted")["", n],
                decides=False,
            )
            for n in (2.0, 4.0)
        ),
    ]


def posterior_recovery(runs: Evidence) -> list[Check]:
    """At equal calls draws of the map are nearer to the data than those of GLASS."""
    mfm, glass = (runs.points("posterior_recovery", name) for name in ("MFM", "GLASS"))
    return [
        Check.greater(
            f"{panel}: GLASS is farther from the data than MFM, {calls:g} calls a draw",
            glass[panel, calls],
            mfm[panel, calls],
            decides=calls == 1,
        )
        for panel, calls in mfm
    ]


def value_correlation(runs: Evidence) -> list[Check]:
    """At one call values of the map's draws rank states better than those of GLASS."""
    checks = list[Check]()
    for recipe, which in (("value_correlation", "pocket"), ("mixture_values", "mixture")):
        mfm, glass = (
            runs.points(recipe, arms)
            for arms in (
                ("MFM", "GLASS") if which == "pocket" else ("MFM, exact map", "GLASS, Euler")
            )
        )
        checks += [
            Check.greater(
                f"{which}, {panel}: Pearson's r is higher by MFM than by GLASS, one call a draw",
                mfm[panel, calls],
                glass[panel, calls],
            )
            for panel, calls in mfm
            if calls == 1
        ]
    return checks


# Rows 9 to 11: steering ------------------------------------------------------------------------

STEERED: Final = ("MFM-G, 1 draw", "MFM-G, 4 draws")


def best_of(runs: Evidence, reward: str = "r") -> tuple[float, Number]:
    """NFE and score of the best of the largest groups."""
    if "best_of_n" not in runs.folders:  # on the public weights it is an arm
        largest = "best of 1000"
        first = next(iter(runs.results("steering").rewards))
        name = first if reward == "r" else reward
        return runs.nfe("steering", largest), runs.mean("steering", largest, name)
    (arm,) = runs.results("best_of_n").arms
    found = runs.points("best_of_n", arm.name)
    _, calls = max(place for place in found if place[0] == reward)
    return calls, found[reward, calls]


def steering(runs: Evidence) -> list[Check]:
    """One guided particle scores higher than the best of the largest groups, for fewer calls."""
    first, *held = runs.results("steering").rewards
    calls, best = best_of(runs)
    checks = [
        Check.greater(
            f"{name} scores higher than the best of N with {calls / runs.nfe('steering', name):.0f}"
            " times its calls",
            runs.mean("steering", name, first),
            best,
        )
        for name in STEERED
    ]
    return checks + [
        Check.greater(
            f"so it does by {judge}, which is held out ({name})",
            runs.mean("steering", name, judge),
            best_of(runs, judge)[1],
            decides=False,
        )
        for judge in held
        for name in STEERED
    ]


def search(runs: Evidence) -> list[Check]:
    """Search scores higher with more particles, and higher than unsteered samples."""
    first, *held = runs.results("search").rewards
    names = [arm.name for arm in runs.results("search").arms]
    return [
        higher(runs, "search", more, fewer, name, decides=name == first)
        for name in (first, *held)
        for fewer, more in pairwise(names)
    ]


def grid(runs: Evidence) -> list[Check]:
    """Guided samples score higher from the same noise, and more with 32 draws than with one."""
    first, *held = runs.results("grid").rewards
    return [
        higher(runs, "grid", more, fewer, name, decides=name == first)
        for name in (first, *held)
        for more, fewer in (
            ("MFM-G, 1 draw", "unsteered"),
            ("MFM-G, 32 draws", "MFM-G, 1 draw"),
        )
    ]


# Row 12: fine-tuning ---------------------------------------------------------------------------


def finetune(runs: Evidence) -> list[Check]:
    """Every strength raises the trained reward, and those that are held out."""
    names = [arm.name for arm in runs.results("finetune").arms if arm.name.startswith("strength")]
    first, *held = runs.results("finetune").rewards
    return [
        *(
            higher(runs, "finetune", name, "unsteered", reward)
            for reward in (first, *held)
            for name in names
        ),
        higher(runs, "finetune", names[-1], names[0], first, decides=False),
    ]


ROWS: Final = (
    Row(
        name="teaser",
        title="Eight classes, steered",
        source="Fig. 1",
        claim="Steering by a meta flow map raises the reward of samples of any class.",
        here="Eight silhouettes and a judge of classes, in place of ImageNet and HPSv2;"
        " the three scenes by text are not made. A second judge, which nobody"
        " followed, must agree.",
        recipes={"teaser": "paper/teaser.toml"},
        checks=teaser,
        shown=("teaser/grid.png",),
        imagenet={"teaser": "imagenet/teaser.toml"},
    ),
    Row(
        name="draws",
        title="Posterior draws of one picture",
        source="Section 4",
        claim="One call of the map draws what a noisy picture may still become: many"
        " pictures early, one picture late.",
        here="One silhouette at five times, eight draws each.",
        recipes={"posterior_draws": "paper/posterior_draws.toml"},
        checks=posterior_draws,
        shown=("posterior_draws/grid.png",),
    ),
    Row(
        name="plane",
        title="A linear inverse problem in the plane",
        source="Fig. 4 and 11, section 7.1.1",
        claim="With more draws, steering by a learnt map comes nearer to the posterior of"
        " the inverse problem, by ODE and by SDE; DPS misses it.",
        here="512 samples and 60 steps in place of 4,096 and 1,000; N to 64 in place of"
        " 128; TDS with 16 particles a sample. Distances are sliced W2 from exact"
        " draws.",
        recipes={"plane_map": "paper/plane_map.toml", "plane": "paper/plane.toml"},
        checks=steered_plane,
        draw=figures.plane,
        shown=("plane/scatter.png",),
    ),
    Row(
        name="classes",
        title="A mixture of classes",
        source="Fig. 5, section 7.1.2",
        claim="Steering by e^r = Σ w_i p(y_i | x) gives the classes in the shares that the"
        " tilted law has; DPS does not.",
        here="Ten silhouettes in place of digits; N to 8 in place of 32, and 4 particles"
        " in place of 64. The shares of the tilted law are w_i times those of"
        " unsteered samples.",
        recipes={"classes": "paper/classes.toml"},
        checks=classes,
        draw=figures.class_shares,
    ),
    Row(
        name="fidelity",
        title="Samples of a few calls",
        source="Table 2 (FID 3.72, 2.40 and 1.97 in 1, 2 and 4 calls)",
        claim="Unsteered samples become better from 1 to 2 to 4 calls of the map, and are"
        " good from the first.",
        here="Fréchet distance of a judge's features to samples of the flow in 100 steps: no FID.",
        recipes={"fidelity": "paper/fidelity.toml"},
        checks=fidelity,
        seeds=2,
        shown=("fidelity/study.png",),
        imagenet={"fidelity": "imagenet/fidelity.toml"},
    ),
    Row(
        name="training",
        title="How the map is trained",
        source="Table 4",
        claim="A map that is distilled, with powers (.5, 1) of its adaptive weights, is"
        " better in 2 and 4 calls than one that is trained on data, or with powers"
        " (1, 1).",
        here="Small maps of the 2-D mixture in place of ImageNet, one training each: the"
        " errors are of measuring, and not of training again.",
        recipes={
            "training": "paper/training.toml",
            "training_fidelity": "paper/training_fidelity.toml",
        },
        checks=training,
        seeds=2,
        shown=("training_fidelity/study.png",),
    ),
    Row(
        name="recovery",
        title="Posterior draws have the law of the data",
        source="Fig. 6A",
        claim="At one call a draw, the map's draws are nearer to the data than those of"
        " GLASS, at every time.",
        here="Fréchet distance of a judge's features, 64 samples, two seeds.",
        recipes={"posterior_recovery": "paper/posterior_recovery.toml"},
        checks=posterior_recovery,
        seeds=2,
        shown=("posterior_recovery/study.png",),
        imagenet={"posterior_recovery": "imagenet/posterior_recovery.toml"},
    ),
    Row(
        name="values",
        title="Values by draws of one call",
        source="Fig. 6B",
        claim="At one call a draw, values by the map's draws correlate better with those by"
        " long rollouts than values by GLASS.",
        here="Silhouettes with a judge in place of ImageReward, and the 2-D mixture, whose"
        " rollouts are precise.",
        recipes={
            "value_correlation": "paper/value_correlation.toml",
            "mixture_values": "closed_form/value_correlation.toml",
        },
        checks=value_correlation,
        shown=("value_correlation/study.png", "mixture_values/study.png"),
        imagenet={"value_correlation": "imagenet/value_correlation.toml"},
    ),
    Row(
        name="steering",
        title="Reward against calls",
        source="Fig. 7 and 18 to 20",
        claim="One particle guided by a few draws scores higher than the best of 1000"
        " samples, for a hundredth of the calls.",
        here="The best of 96 in groups of one pool; one λ; guidance as long as the drift,"
        " as in the paper. The judge that is held out is the one to believe.",
        recipes={"best_of_n": "paper/best_of_n.toml", "steering": "paper/steering.toml"},
        checks=steering,
        draw=figures.reward_over_calls,
        imagenet={"best_of_n": "", "steering": "imagenet/tabby_cat.toml"},
    ),
    Row(
        name="search",
        title="Search over particles",
        source="Fig. 14 to 17",
        claim="Search without gradients scores higher, and the more particles the higher.",
        here="M = 1, 3 and 9 with four draws each, in place of M to 64.",
        recipes={"search": "paper/search.toml"},
        checks=search,
        shown=("search/grid.png",),
    ),
    Row(
        name="grid",
        title="The same noise with 1 and 32 draws",
        source="Grids of pictures, section 7.2.2",
        claim="From the same noise, guided samples score higher than unsteered ones, and"
        " higher with 32 draws than with one.",
        here="Any animal, steered towards cats, with the guidance of the formula.",
        recipes={"grid": "paper/grid.toml"},
        checks=grid,
        shown=("grid/grid.png",),
    ),
    Row(
        name="finetune",
        title="Fine-tuning at three strengths",
        source="Fig. 9 and 10, section 7.2.3",
        claim="Fine-tuning raises the reward that is trained at every strength, and rewards"
        " that are held out with it.",
        here="40 steps of 24 rows in place of 10,000; a judge of classes in place of HPSv2.",
        recipes={"finetune": "paper/finetune.toml"},
        checks=finetune,
        shown=("finetune/grid.png",),
        imagenet={"finetune": "imagenet/finetune.toml"},
    ),
    Row(
        name="tuned_map",
        title="A map of the fine-tuned flow",
        source="Not in the paper: a question that it leaves open",
        claim="A fine-tuned flow can be given a meta flow map in turn, whose single call"
        " has the tilted law.",
        here="The 2-D mixture, where the tilted law is known.",
        recipes={
            "tuned_flow": "paper/tuned_flow.toml",
            "tuned_map": "paper/tuned_map.toml",
            "tuned": "paper/tuned.toml",
        },
        checks=tuned,
        shown=("tuned/scatter.png",),
    ),
)
