"""Questions about steering by posterior draws, answered where everything is known.

python -m benchmarks.questions ablation --page docs/results/questions.md
python -m benchmarks.questions draws --page docs/results/questions.md
python -m benchmarks.questions noise --page docs/results/questions.md
python -m benchmarks.questions tilted_map --page docs/results/questions.md
python -m benchmarks.questions renormalised --page docs/results/questions.md
python -m benchmarks.questions size --page docs/results/questions.md
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any, Final, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.draws import make_draws
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.path import PATHS, times_of
from align.core.problem import Problem
from align.core.quadratic import Form
from align.core.reward import Quadratic, Reward, Term, WeightedReward
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.dynamics.sde import SDE
from align.estimators.blend import Blend
from align.estimators.damped import Damped
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.models.mixture import GaussianMixture, Mixture
from align.models.network_model import NetworkModel
from align.modes.distill.coupling import Student
from align.modes.distill.diagonal import DataTarget
from align.modes.distill.mode import Distill, DistillState
from align.modes.distill.times import Times
from align.modes.finetune.evaluation import Evaluation
from align.modes.finetune.mode import FineTune
from align.modes.finetune.stein import SteinObjective
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.rollout import grid
from align.modes.sampling.steer import Steer
from align.modes.studies.tilted_law import TiltedLaw, measures
from align.networks.mlp import MLPConfig
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.gaussian import GaussianPosterior
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import sliced_w2
from align.testing.worlds import sampled
from align.training.latents import Examples
from align.training.loop import Optimisation
from benchmarks.scoreboard import WORLDS
from benchmarks.table import Table, parsed, parser_of, publish, short

CPU: Final = torch.device("cpu")
TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
CHOSEN: Final = ("line", "plane", "25 modes")


def world_of(
    name: str, number: int = 0, weight: float = 1.0
) -> tuple[GaussianMixture, WeightedReward]:
    """A world of the scoreboard with one of its rewards."""
    spec, term = WORLDS[name]().problem(number)
    assert isinstance(spec, Mixture)
    reward = Term(name="likelihood", reward=term.part.build(CPU), weight=weight)
    return spec.build(CPU), WeightedReward((reward,))


def states_of(
    world: tuple[GaussianMixture, WeightedReward], time: float, count: int, repeats: int
) -> tuple[Problem, NoisyState, Streams]:
    """States x_t of the model's law, each `repeats` times, with numbers of their own."""
    model, reward = world
    streams = Streams(5, tuple(range(count)))
    t = torch.full((count,), time, dtype=torch.float64)
    noise = streams.fold_in("noise").normal(model.shape).double()
    x = model.path.interpolate(noise, model.draw(streams), t)
    noisy = NoisyState(x, t, model.encode([""] * count)).tile(repeats)
    problem = Problem(model, reward, MetaFlowMap(), None, noisy.cond)
    return problem, noisy, Streams(7, tuple(range(count * repeats)))


def relative_error(
    problem: Problem, noisy: NoisyState, streams: Streams, estimator: ValueEstimator
) -> tuple[float, float]:
    """Sums over states of the squared error of a shift, and of the squared exact shift."""
    exact = Exact().estimate(problem, noisy, streams=streams).shift
    found = estimator.estimate(problem, noisy, streams=streams).shift
    return float((found - exact).square().sum()), float(exact.square().sum())


def _cells(values: Sequence[Sequence[float]]) -> Iterator[str]:
    """Mean ± standard error of each column; nothing where no problem has a number."""
    numbers = torch.tensor(values, dtype=torch.float64)
    for column in numbers.T:
        known = column[~column.isnan()]
        if len(known) == 0:
            yield ""
            continue
        error = float(known.std(correction=0)) / math.sqrt(max(1, len(known) - 1))
        yield f"{short(float(known.mean()))} ± {short(error)}"


# 1. Value gradient or smoothing?

_Weights: TypeAlias = Literal["softmax", "uniform"]
_Jacobian: TypeAlias = Literal["draw", "denoiser"]
SAMPLERS: Final[dict[str, PosteriorSampler]] = {
    "posterior": MetaFlowMap(),
    "Gaussian about the mean": GaussianPosterior(),
    "mean": DPS(),
}


def ablation(options: argparse.Namespace) -> Iterator[Table]:
    """MFM-G taken apart: its draws, its weights, its Jacobian; and MFM-GF beside it.

    A draw about the denoiser moves as the denoiser does, so that there both Jacobians are one.
    """

    def row(draws: str, weights: _Weights, jacobian: _Jacobian | Literal["none"]) -> list[str]:
        estimator: ValueEstimator = Stein(draws=16)
        if jacobian != "none":
            estimator = Gradient(draws=16, weights=weights, jacobian=jacobian)
        cells = [draws, weights, jacobian]
        for name in options.worlds:
            errors, sizes = list[Tensor](), list[Tensor]()
            worlds = [world_of(name, number) for number in range(options.problems)]
            for world, time in product(worlds, TIMES):
                problem, noisy, streams = states_of(world, time, options.states, 1)
                problem = attrs.evolve(problem, sampler=SAMPLERS[draws])
                exact = Exact().estimate(problem, noisy, streams=streams).shift
                found = estimator.estimate(problem, noisy, streams=streams).shift
                errors.append((found - exact).norm(dim=1))
                sizes.append(exact.norm(dim=1))
            error, size = torch.cat(errors), torch.cat(sizes)
            rough = [roughness(world, SAMPLERS[draws], estimator, options) for world in worlds]
            whole = float((error.square().sum() / size.square().sum()).sqrt())
            numbers = (float((error / size).median()), whole, sum(rough) / len(rough))
            cells += map(short, numbers)
        return cells

    kinds: Sequence[tuple[str, _Weights, _Jacobian | Literal["none"]]] = (
        ("posterior", "softmax", "draw"),
        ("posterior", "softmax", "denoiser"),
        ("posterior", "uniform", "draw"),
        ("posterior", "uniform", "denoiser"),
        ("Gaussian about the mean", "softmax", "denoiser"),
        ("Gaussian about the mean", "uniform", "denoiser"),
        ("mean", "softmax", "denoiser"),
        ("posterior", "softmax", "none"),
    )
    measured = ("median error", "error", "roughness")
    heads = [f"{name}: {what}" for name in options.worlds for what in measured]
    title = "Relative error of the shift, and how much rougher it is along a path; 16 draws"
    yield Table(title, ("draws", "weights", "Jacobian", *heads), (row(*kind) for kind in kinds))


def roughness(
    world: tuple[GaussianMixture, WeightedReward],
    sampler: PosteriorSampler,
    estimator: ValueEstimator,
    options: argparse.Namespace,
) -> float:
    """Length of the path that the estimated shift takes, over that of the exact one.

    Both along the same straight lines from noise to draws of the tilted law, with the same numbers
    at all times, so that what is rough is the estimate and not its noise.
    """
    model, reward = world
    streams = Streams(9, tuple(range(options.states)))
    x1 = model.draw_tilted(reward, streams)
    noise = streams.fold_in("noise").normal(model.shape).double()
    problem = Problem(model, reward, sampler, None, model.encode([""] * len(x1)))
    shifts = list[list[Tensor]]()
    for time in torch.linspace(0.1, 0.9, options.stops).tolist():
        t = times_of(x1, time)
        noisy = NoisyState(model.path.interpolate(noise, x1, t), t, problem.cond)
        parts = (Exact(), estimator)
        shifts.append([p.estimate(problem, noisy, streams=streams).shift for p in parts])
    exact, found = (
        sum(float((b[k] - a[k]).norm(dim=1).sum()) for a, b in pairwise(shifts)) for k in (0, 1)
    )
    return found / exact


# 2. The law of draws

EDGES: Final = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)


def draws(options: argparse.Namespace) -> Iterator[Table]:
    """Error of the shift against the variance of r given the state, and what buys draws back."""

    def likelihood(name: str, weight: float) -> tuple[GaussianMixture, WeightedReward]:
        return world_of(name, 0, weight)

    def linear(name: str, weight: float) -> tuple[GaussianMixture, WeightedReward]:
        model = world_of(name)[0]
        slope = torch.eye(model.shape[0], dtype=torch.float64)[0]
        return model, WeightedReward((Term(name="linear", reward=Linear(slope), weight=weight),))

    yield _worth("A linear reward h x₁, h from .3 to 3", linear, (0.3, 1.0, 3.0), options)
    title = "Likelihoods of a measurement, times .1 to 3"
    yield _worth(title, likelihood, (0.1, 0.3, 1.0, 3.0), options)
    yield _bought_back(options)


def _worth(
    title: str,
    world: Callable[[str, float], tuple[GaussianMixture, WeightedReward]],
    weights: Sequence[float],
    options: argparse.Namespace,
) -> Table:
    """What draws are worth, by the variance of r over them."""
    spread, ess = list[Tensor](), list[Tensor]()
    errors: dict[int, list[Tensor]] = {16: [], 64: []}
    for name, weight, time in product(options.worlds, weights, TIMES):
        problem, noisy, streams = states_of(
            world(name, weight), time, options.states, options.repeats
        )
        problem = attrs.evolve(problem, sampler=ExactPosterior())
        few = noisy.rows(slice(options.states))
        many = make_draws(
            attrs.evolve(problem, cond=few.cond),
            few,
            draws=512,
            budget=512,
            gradient=False,
            streams=streams.fold_in("many").rows(slice(options.states)),
        )
        spread.append(many.rewards.var(0))
        ess.append(many.ess / 512)
        exact = Exact().estimate(problem, noisy, streams=streams).shift
        for count, found in errors.items():
            estimator = Stein(draws=count, centring="velocity")
            shift = estimator.estimate(problem, noisy, streams=streams).shift
            off = (shift - exact).square().sum(1) / exact.square().sum(1)
            found.append(off.unflatten(0, (options.repeats, -1)).mean(0))
    variance, share = torch.cat(spread), torch.cat(ess)
    squares = {count: torch.cat(found) for count, found in errors.items()}

    def row(low: float, high: float) -> list[str]:
        inside = (variance >= low) & (variance < high)
        cells = [f"{low:g} to {high:g}", str(int(inside.sum()))]
        if not inside.any():
            return [*cells, *[""] * 6]
        s = variance[inside]
        law = {count: (s.exp() * (1 + 1 / s) / count).median().sqrt() for count in squares}
        pairs = [(squares[count][inside].median().sqrt(), law[count]) for count in squares]
        shown = [share[inside].median(), (-s.median()).exp(), *(x for pair in pairs for x in pair)]
        return [*cells, *(short(float(x)) for x in shown)]

    heads = [f"{count} draws: {what}" for count in errors for what in ("error", "the law")]
    head = ("Var(r given x_t)", "states", "ESS / N", "e^(−Var)", *heads)
    return Table(f"{title}: medians over states", head, [row(*edge) for edge in pairwise(EDGES)])


def _bought_back(options: argparse.Namespace) -> Table:
    """By how much fewer draws a method has the same error."""
    count = 8
    methods: dict[str, ValueEstimator] = {
        "MFM-GF, centred by the draws' mean": Stein(draws=count),
        "MFM-GF, by regression": Stein(draws=count, centring="regression"),
        "MFM-G": Gradient(draws=count),
        "MFM-G, antithetic": Gradient(draws=count, noise="antithetic"),
        "MFM-G, Sobol": Gradient(draws=count, noise="sobol"),
        "blend": Blend(draws=count),
        "damped": Damped(draws=count),
    }
    plain = Stein(draws=count, centring="velocity")

    def row(name: str) -> list[str]:
        cells = [name]
        for where in options.worlds:
            sums = [0.0, 0.0]
            for time in TIMES:
                problem, noisy, streams = states_of(world_of(where), time, options.states, 8)
                for place, one in enumerate((plain, methods[name])):
                    sums[place] += relative_error(problem, noisy, streams, one)[0]
            cells.append(short(sums[0] / sums[1]))
        return cells

    title = f"What buys draws back: squared error of plain MFM-GF over the method's, {count} draws"
    return Table(title, ("method", *options.worlds), map(row, methods))


# 4. SDE or ODE?


@final
@attrs.frozen(eq=False)
class Linear(Reward, Quadratic):
    """R(x) = h · x with h = `slope` (D,)."""

    slope: Tensor

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of vectors (B, D)."""
        return data @ self.slope

    def quadratic(self) -> tuple[Tensor, Tensor, Tensor]:
        """P = 0, h and c = 0."""
        zero = torch.zeros(len(self.slope), len(self.slope), dtype=torch.float64)
        return zero, self.slope, zero[0, 0]


def predicted(steps: int, slope: float, count: int, clamp: float, start: float) -> float:
    """Variance of the samples of N(0, 1) that a linear reward tilts, with estimated shifts.

    With v = α²/(α² + β²), the posterior's variance, the exact shift is h v, and the mean of N draws
    weighed by e^{h x1} has the variance q = e^{h² v} (1 + h² v) v / N about it (delta method). An
    Euler step of width Δ with noise level κ = min(σ²/2, clamp) multiplies the deviation from the
    mean path by 1 + Δ (a − κ/(α² + β²)), where a x is the velocity, and adds
    2 κ Δ + Δ² c² (1 + κ/(σ²/2))² q to the variance.
    """
    path = PATHS["linear"]
    variance = 1.0
    for now, then in pairwise(grid(steps, start, 1.0)):
        t = torch.tensor(now, dtype=torch.float64)
        alpha, beta = float(path.alpha(t)), float(path.beta(t))
        whole, width = alpha**2 + beta**2, then - now
        v = alpha**2 / whole
        growth = (beta - alpha) / whole
        half = float(path.half_variance(t))
        level = min(half, clamp)
        strength = slope**2 * v
        q = math.exp(strength) * (1 + strength) * v / count
        factor = float(path.denoiser_to_velocity(t)) * (1 + level / half)
        kept = 1 + width * (growth - level / whole)
        variance = kept**2 * variance + 2 * level * width + (width * factor) ** 2 * q
    return variance


def noise(options: argparse.Namespace) -> Iterator[Table]:
    """The noise level as a dial between ODE and SDE."""
    slope, start = 1.0, 0.01
    reward = Linear(torch.tensor([slope], dtype=torch.float64))
    model = Mixture(weights=(1.0,), means=((0.0,),), stds=(1.0,)).build(CPU)
    world = model, WeightedReward((Term(name="linear", reward=reward),))
    parts: dict[str, tuple[ValueEstimator, int]] = {
        "exact": (Exact(), 10**12),
        "16 draws": (Stein(draws=16, centring="velocity"), 16),
        "4 draws": (Stein(draws=4, centring="velocity"), 4),
    }

    def row(steps: int, clamp: float) -> list[str]:
        cells = [str(steps), "0, the ODE" if clamp == 0 else f"{clamp:g}"]
        for estimator, count in parts.values():
            dynamics = SDE(clamp=clamp) if clamp else SDE(clamp=1e-9)
            mode = Steer(steps=steps, dynamics=dynamics, start=start)
            x1 = sampled(mode, world, options.rows, sampler=ExactPosterior(), estimator=estimator)
            law = predicted(steps, slope, count, clamp, start)
            cells += [f"{float(x1.var()):.3f}", f"{law:.3f}", f"{float(x1.mean()) - slope:+.3f}"]
        return cells

    levels = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, math.inf)
    heads = [f"{name}: {what}" for name in parts for what in ("variance", "formula", "mean − h")]
    error = math.sqrt(2 / options.rows)
    yield Table(
        f"Variance of the samples (1 is right; its standard error is {error:.3f})",
        ("steps", "largest noise level", *heads),
        (row(steps, level) for steps in options.steps for level in levels),
    )


# 5. A fine-tuned meta flow map in one go

PARTS_OF_TIME: Final = (0.3, 0.6)  # at which posterior draws are compared


def tilted_map(options: argparse.Namespace) -> Iterator[Table]:
    """Maps of the tilted flow by as many steps: in one go, in two, and as well as can be."""
    rows, names = range(options.rows), ("r above exact", "spread in modes", "mode masses", "SW2")
    found = dict[str, list[dict[str, float]]]()
    for number in range(options.problems):
        base, streams = world_of("plane", number), Streams(0, tuple(rows))
        problem = Problem(*base, cond=base[0].encode([""] * len(rows)))
        law = TiltedLaw.of(problem, streams, len(rows), 1)
        maps = _tilted_maps(number, options.maps)
        halved = base[0], base[1].times(0.5)
        steer, stein = Steer(steps=options.steps[-1] // 2), Stein(draws=16)
        half, guided = (maps["half"], halved[1]), MetaFlowMap()
        samples = {
            "exact draws": law.others(problem, streams),
            "the mixture": base[0].draw(streams),
            "exact gradient, λ": sampled(steer, base, len(rows), estimator=Exact()),
            "MFM-GF, λ": sampled(steer, base, len(rows), sampler=ExactPosterior(), estimator=stein),
            "half in one go, then MFM-GF, λ/2": sampled(
                steer, half, len(rows), sampler=guided, estimator=stein
            ),
        }
        for name, model in maps.items():
            if name != "half":
                flow = BestOfN(n=1, flow_steps=options.steps[-1] // 2)
                samples[f"{name}: one call"] = _jumped(model, streams)
                samples[f"{name}: its velocity"] = sampled(flow, (model, base[1]), len(rows))
        for name, x1 in samples.items():
            x1 = x1.double()
            rewards = problem.reward_of(x1[None], problem.cond)[0]
            each = dict(measures(problem, law, x1, rewards, known=None))
            kept = {key: each.get(key, math.nan) for key in names}
            trained, _, kind = name.partition(": ")
            if kind == "one call":
                kept |= _posteriors(maps[trained], base, options.states)
            found.setdefault(name, []).append(kept)
        given = _posteriors(None, base, options.states)
        found["exact draws"][-1] |= given
    heads = (*names, *(f"draws at t = {t:g}: SW2" for t in PARTS_OF_TIME))

    body = [
        [name, *_cells([[each.get(head, math.nan) for head in heads] for each in values])]
        for name, values in found.items()
    ]
    yield Table(f"The plane, {options.problems} rewards", ("samples", *heads), body)


def _tilted_maps(number: int, steps: int) -> dict[str, NetworkModel]:
    """Meta flow maps of the plane's tilted flow, by name; `half` by half of the reward."""
    (model, reward), net = world_of("plane", number), MLPConfig(width=64, depth=3)
    optimisation = Optimisation(batch=512, learning_rate=2e-3, ema_decay=0.99)
    times = Times(full_jump_share=0.5)
    mode = Distill(
        net=net, diagonal=DataTarget(), times=times, optimisation=optimisation, steps=steps
    )
    tilted, problem = attrs.evolve(mode, tilt=True), Problem(model, reward)

    def trained(mode: Distill, problem: Problem) -> NetworkModel:
        return _map_of(mode, mode.init(problem, Streams(0, (0,))), problem, 0)

    begun = mode.init(problem, Streams(0, (0,)))
    x1 = model.draw_tilted(reward, Streams(2, tuple(range(64 * steps))))
    exact = Examples(x1[None].float(), torch.zeros(len(x1), dtype=torch.int64), 1)
    clean = attrs.evolve(begun.coupling.clean, examples=exact)
    begun = attrs.evolve(begun, coupling=attrs.evolve(begun.coupling, clean=clean))
    tune = FineTune(
        net=net,
        objective=SteinObjective(draws_from="data"),
        steps=steps // 2,
        optimisation=optimisation,
        evaluation=Evaluation(every=steps, samples=2, flow_steps=1),
    )
    tuned = tune.init(problem, Streams(0, (0,)))
    for index in range(tune.steps):
        tuned, _ = tune.step(problem, tuned, index, Streams(0, (0,)))
    flow = tuned.model.with_module(tuned.training.ema)
    second = Distill(
        net=net, times=times, optimisation=optimisation, steps=steps - tune.steps, pool=8 * steps
    )
    return {
        "in one go": trained(tilted, problem),
        "in two goes": trained(second, Problem(flow)),
        "from exact draws": _map_of(mode, begun, problem, 0),
        "half": trained(tilted, attrs.evolve(problem, reward=reward.times(0.5))),
    }


def _map_of(mode: Distill, state: DistillState, problem: Problem, seed: int) -> NetworkModel:
    """The map after all steps, whose diagonal is the velocity too."""
    for index in range(mode.steps):
        state, _ = mode.step(problem, state, index, Streams(seed, (0,)))
    student = state.training.ema
    assert isinstance(student, Student)
    return state.coupling.model.with_module(student.net).with_net(mode.role, student.net)


@torch.no_grad()
def _jumped(model: NetworkModel, streams: Streams, calls: int = 1) -> Tensor:
    """Samples by a few calls of a map."""
    x = streams.fold_in("start").normal(model.shape).float()
    one, cond = torch.ones(len(x)), model.encode([""] * len(x))
    for call in range(calls):
        x = model.jump(x, one * call / calls, one * (call + 1) / calls, cond)
    return x


@torch.no_grad()
def _posteriors(
    tilted: NetworkModel | None, world: tuple[GaussianMixture, WeightedReward], states: int
) -> dict[str, float]:
    """SW2 of one-call draws to the exact tilted posterior, a mean over states of the tilted flow.

    Without a map other exact draws stand in its place.
    """
    (model, reward), draws, found = world, 256, dict[str, float]()
    streams = Streams(6, tuple(range(states)))
    for time in PARTS_OF_TIME:
        t = torch.full((states,), time, dtype=torch.float64)
        noise = streams.fold_in("noise").normal(model.shape).double()
        x = model.path.interpolate(noise, model.draw_tilted(reward, streams), t)
        noisy = NoisyState(x, t, model.encode([""] * states))
        law = model.posterior(noisy)
        form = Form.of(reward, law.means)
        exact = law.draw(streams, draws, form)
        drawn = law.draw(streams.fold_in("others"), draws, form)
        if tilted is not None:
            y = streams.fold_in("inner").normal(model.shape, draws=draws).float().flatten(0, 1)
            zero = torch.zeros(len(y))
            many = NoisyState(x.float(), t.float(), noisy.cond).tile(draws)
            drawn = (
                tilted.posterior_jump(y, zero, zero + 1, many).double().unflatten(0, (draws, -1))
            )
        pairs = [sliced_w2(drawn[:, row], exact[:, row]) for row in range(states)]
        found[f"draws at t = {time:g}: SW2"] = sum(pairs) / states
    return found


# 6. Renormalised guidance


def renormalised(options: argparse.Namespace) -> Iterator[Table]:
    """Guidance whose length is the drift's, beside the law at as many nats."""
    draws = Gradient(draws=16)
    steps = max(1, options.steps[-1] // 2)
    methods: dict[str, tuple[Steer, ValueEstimator, PosteriorSampler]] = {}
    for scale in (0.5, 1.0, 2.0):
        mode = Steer(steps=steps, scale=scale)
        methods[f"exact gradient, times {scale:g}"] = mode, Exact(), MetaFlowMap()
    for scale in (0.25, 0.5, 1.0, 2.0):
        mode = Steer(steps=steps, guidance_norm="renorm", scale=scale)
        methods[f"exact gradient, renormalised, times {scale:g}"] = mode, Exact(), MetaFlowMap()
    for norm in ("none", "clip", "renorm"):
        mode = Steer(steps=steps, guidance_norm=norm)
        methods[f"MFM-G, 16 draws, guidance_norm '{norm}'"] = mode, draws, MetaFlowMap()
    methods["MFM-G, 16 draws, damped"] = Steer(steps=steps), Damped(draws=16), MetaFlowMap()
    methods["DPS"] = Steer(steps=steps), Gradient(draws=1), DPS()
    methods["DPS, renormalised"] = (
        Steer(steps=steps, guidance_norm="renorm"),
        Gradient(draws=1),
        DPS(),
    )
    names = ("KL of r", "r lost at equal nats", "r above exact", "spread in modes", "SW2")

    def rows(where: str) -> Iterator[list[str]]:
        worlds = [world_of(where, k) for k in range(options.problems)]
        problems = [Problem(*world, cond=world[0].encode([""] * options.rows)) for world in worlds]
        streams = Streams(0, tuple(range(options.rows)))
        laws = [TiltedLaw.of(problem, streams, 2048, 1) for problem in problems]
        exact = [law.others(p, streams) for law, p in zip(laws, problems, strict=True)]
        for name in ("draws of the tilted law", *methods):
            found = list[Tensor]()
            for world, problem, law, x1 in zip(worlds, problems, laws, exact, strict=True):
                if name in methods:
                    mode, estimator, sampler = methods[name]
                    x1 = sampled(mode, world, options.rows, sampler=sampler, estimator=estimator)
                rewards = problem.reward_of(x1[None], problem.cond)[0]
                each = measures(problem, law, x1, rewards, known=None)
                found.append(torch.tensor([each.get(name, math.nan) for name in names]).double())
            values = torch.stack(found)
            mean, count = values.nanmean(0), max(1, len(values) - 1)
            error = ((values - mean).square().nanmean(0) / count).sqrt()
            pairs = zip(mean.tolist(), error.tolist(), strict=True)
            yield [name, *(f"{short(m)} ± {short(e)}" for m, e in pairs)]

    for where in options.worlds[:2]:
        yield Table(where, ("method", *names), rows(where))


# 7. Can a network of equal size hold the map?


def size(options: argparse.Namespace) -> Iterator[Table]:
    """Flows and maps by networks of the same sizes, on grids of more and more modes."""
    flow_steps = options.steps[0]

    def measured(side: int, width: int, seed: int) -> list[float]:
        places = torch.linspace(-3, 3, side).tolist()
        means = tuple(product(places, places))
        spec = Mixture(weights=(1.0,) * side**2, means=means, stds=(0.2,) * side**2)
        model, streams = spec.build(CPU), Streams(seed, tuple(range(options.rows)))
        exact = model.draw(streams)
        world = model, WeightedReward(())
        flow = BestOfN(n=1, flow_steps=flow_steps)
        net = MLPConfig(width=width, depth=3)
        alone = _learnt(model, net, "flow_map", 1.0, options.maps, seed)
        both = _learnt(model, net, "meta_flow_map", 0.5, options.maps, seed)
        by_flow, by_diagonal, by_teacher = (
            sampled(flow, (one, world[1]), options.rows, seed=seed) for one in (alone, both, model)
        )
        found = [
            by_teacher,
            by_flow,
            by_diagonal,
            _jumped(both, streams),
            _jumped(both, streams, 4),
        ]
        values = [sliced_w2(x1.double(), exact) for x1 in found]
        nearest = [torch.cdist(x1.double(), model.prior.means[0]).min(1).values for x1 in found]
        strays = [float((far > 0.8).double().mean()) for far in nearest]  # four deviations
        return [*values, *(strays[k] for k in (1, 2, 3, 4))]

    names = ("exact flow", "flow", "map's velocity", "map, 1 call", "map, 4 calls")
    heads = [*(f"{name}: SW2" for name in names), *(f"{name}: strays" for name in names[1:])]

    def row(side: int, width: int) -> list[str]:
        values = [measured(side, width, seed) for seed in range(options.problems)]
        return [str(side**2), str(width), *_cells(values)]

    title = (
        f"Samples of networks of equal size, {options.maps} steps each; {options.problems} seeds"
    )
    sizes = product(options.sides, options.widths)
    yield Table(title, ("modes", "width", *heads), (row(*pair) for pair in sizes))


def _learnt(
    model: GaussianMixture,
    net: MLPConfig,
    role: Literal["meta_flow_map", "flow_map"],
    diagonal: float,
    steps: int,
    seed: int,
) -> NetworkModel:
    """What a network learns from the exact velocity; by the diagonal alone that is the flow."""
    mode = Distill(
        net=net,
        role=role,
        times=Times(diagonal_share=diagonal, full_jump_share=0.3),
        optimisation=Optimisation(batch=256, learning_rate=3e-3, ema_decay=0.99),
        steps=steps,
    )
    return _map_of(mode, mode.init(Problem(model), Streams(seed, (0,))), Problem(model), seed)


PARTS: Final[dict[str, Callable[[argparse.Namespace], Iterator[Table]]]] = {
    "ablation": ablation,
    "draws": draws,
    "noise": noise,
    "tilted_map": tilted_map,
    "renormalised": renormalised,
    "size": size,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of one question."""
    parser = parser_of("benchmarks.questions", __doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--problems", type=int, default=4)
    options, command = parsed(parser, arguments)
    sizes: dict[str, Any] = {"states": 64, "repeats": 16, "stops": 65, "rows": 2048}
    sizes |= {"steps": (32, 128), "maps": 600, "sides": (2, 4, 8), "widths": (16, 64)}
    if options.part == "renormalised":
        sizes["rows"] = 128
    if options.part == "size":
        sizes["maps"] = 500
    if options.toy:
        options.problems = 1
        sizes = {"states": 4, "repeats": 2, "stops": 3, "rows": 16, "steps": (2,), "maps": 2}
        sizes |= {"sides": (2,), "widths": (4,)}
    for name, size in sizes.items():
        setattr(options, name, size)
    options.worlds = CHOSEN[:1] if options.toy else CHOSEN
    publish(PARTS[options.part](options), command, options.page, options.part)


if __name__ == "__main__":
    main()
