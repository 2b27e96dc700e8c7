"""Steering on a two-dimensional mixture, beside the exact tilted law.

python benchmarks/closed_form.py --particles 4096 --steps 1000

The example is that of Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.1.1 and
appendix F.1, with the exact posterior map in place of a network.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, Literal

import torch
from torch import Tensor

from align.core.estimator import ValueEstimator
from align.core.mode import AlignmentMode
from align.core.problem import Problem
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.modes.best_of_n import BestOfN
from align.modes.steer import Steer
from align.samplers.dps import PointMass
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import masses, sliced_w2
from align.testing.worlds import plane

CENTRES = ((-3.0, -3.0), (0.0, 0.0), (3.0, 3.0))

# Sliced W2 by ODE and by SDE, and mode masses by ODE, of an earlier independent implementation.
REFERENCE = {
    "unsteered": ("1.93", "1.88", ".33/.33/.34"),
    "exact": (".18/.09", ".066", ".55/.39/.07"),
    "dps": ("2.72", "1.56", ".98/.02/0"),
    "stein 1": ("1.93", "1.90", ".34/.32/.34"),
    "stein 4": (".64", ".52", ".51/.36/.13"),
    "stein 16": (".155", ".086", ".56/.36/.08"),
    "stein 64": (".118", ".098", ".56/.37/.07"),
    "gradient 1": ("3.82", "2.27", "1/0/0"),
    "gradient 4": ("2.40", "1.67", ".97/.03/0"),
    "gradient 16": (".77", ".74", ".68/.31/.02"),
    "gradient 64": (".171", "", ".56/.39/.06"),
}


def parts(row: str) -> tuple[PosteriorSampler | None, ValueEstimator | None]:
    """Sampler and estimator of a row of the table."""
    name, _, draws = row.partition(" ")
    if name == "unsteered":
        return None, None
    if name == "exact":
        return None, Exact()
    if name == "dps":
        return PointMass(), Gradient(draws=1)
    kinds = {"stein": Stein, "gradient": Gradient}
    return MetaFlowMap(), kinds[name](draws=int(draws))


def sample(
    row: str,
    dynamics: Literal["ode", "sde"],
    *,
    particles: int,
    steps: int,
    axes: str = "standard",
    normalise: Literal["none", "clip", "renorm"] = "none",
    seed: int = 0,
) -> Tensor:
    """Samples (B, 2) of one row."""
    model, reward = plane(diagonal=axes == "diagonal")
    sampler, estimator = parts(row)
    cond = model.encode([""] * particles)
    problem = Problem(model, reward, sampler, estimator, cond)
    mode: AlignmentMode[Any] = (
        BestOfN(flow_steps=steps, dynamics=dynamics)
        if estimator is None
        else Steer(steps=steps, dynamics=dynamics, normalise=normalise)
    )
    streams = Streams(seed, tuple(range(particles)))
    state = mode.init(problem, streams)
    for index in range(mode.steps):
        state, _ = mode.step(problem, state, index, streams)
    result = mode.finish(problem, state)
    if result is None:
        raise RuntimeError("the mode made no samples")
    return result


def target(particles: int, seed: int = 1) -> Tensor:
    """Draws (B, 2) of the tilted law."""
    model, reward = plane()
    return model.draw_tilted(reward, Streams(seed, tuple(range(particles))))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", default=",".join(REFERENCE), help="comma-separated rows")
    parser.add_argument("--dynamics", choices=("ode", "sde"), default="ode")
    parser.add_argument("--axes", choices=("standard", "diagonal"), default="standard")
    parser.add_argument("--normalise", choices=("none", "clip", "renorm"), default="none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    exact = target(options.particles)
    centres = torch.tensor(CENTRES, dtype=exact.dtype)
    floor = sliced_w2(exact, target(options.particles, seed=2))
    print(f"{options.particles} particles, {options.steps} steps, {options.dynamics},", end=" ")
    print(f"axes {options.axes}, normalise {options.normalise}, seed {options.seed}")
    print(f"exact against exact: sliced W2 {floor:.3f}, masses {_text(masses(exact, centres))}\n")
    print("| sampler | sliced W2 | reference | masses | reference | mean reward | seconds |")
    print("|---|---|---|---|---|---|---|")
    for row in options.rows.split(","):
        began = time.perf_counter()
        x1 = sample(
            row,
            options.dynamics,
            particles=options.particles,
            steps=options.steps,
            axes=options.axes,
            normalise=options.normalise,
            seed=options.seed,
        )
        seconds = time.perf_counter() - began
        reference = REFERENCE.get(row, ("", "", ""))
        mean = plane()[1].total(x1, [""] * len(x1)).mean()
        print(
            f"| {row} | {sliced_w2(x1, exact):.3f} | {reference[options.dynamics == 'sde']} "
            f"| {_text(masses(x1, centres))} | {reference[2]} | {mean:.2f} | {seconds:.0f} |",
            flush=True,
        )


def _text(shares: Tensor) -> str:
    return "/".join(f"{share:.2f}".lstrip("0") for share in shares.tolist())


if __name__ == "__main__":
    main()
