"""What fine-tuning and a map grown from it gave, class by class and in Fréchet distance.

    align run recipes/pocket/finetune.toml
    align run recipes/pocket/finetune_map.toml
    python benchmarks/finetuned.py runs/finetune --arm "strength 1" --map runs/finetune_map

New samples of the base model, of the fine-tuned flow and of both maps, from the same noise, judged
by the rewards of the run. Fréchet distances (MobileNetV2 features, not FID) are to samples of the
flow that a model should agree with, from other noise. Last comes what the tilted law has, by
weights e^{strength r} of the base flow's samples within a class. Prints three Markdown tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import attrs
import torch
from align_imagenet.metrics import Diversity, Frechet
from torch import Tensor

from align.catalog.registry import load_catalog
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.meter import Meter
from align.metrics.statistics import statistic
from align.models.network import load
from align.models.network_model import NetworkModel
from align.modes.sampling.rollout import flow
from align.recipe import load as load_recipe
from align.runner.build import Rewards, build
from align.runner.record import slug

CPU = torch.device("cpu")


def problem_of(run: Path, count: int) -> tuple[Problem, NetworkModel]:
    """The run's rewards, and its base model."""
    recipe = load_recipe(run / "recipe.toml", catalog=load_catalog()).recipe
    rewards = Rewards(recipe.reward, CPU)
    problem = build(recipe.arms()[0], rewards, CPU, Meter(), samples=count)
    model = problem.model.capability(NetworkModel)
    assert model is not None
    return problem, model


def weights_of(run: Path, arm: str) -> Path:
    """The weights of a run's arm; of the only one, if it has one."""
    alone = run / "model.safetensors"
    return alone if alone.exists() else run / "weights" / slug(arm) / alone.name


@torch.no_grad()
def sampled(model: NetworkModel, problem: Problem, seed: int, jumps: int) -> Tensor:
    """Pictures by 25 Euler steps of the flow, or by some jumps of the map from nothing."""
    streams = Streams(seed, tuple(range(len(problem.cond))), ("start",))
    noise = streams.normal(model.shape).float()
    made = []
    for rows in torch.arange(len(noise)).split(64):
        cut = slice(int(rows[0]), int(rows[-1]) + 1)
        x, cond = noise[cut], problem.cond.rows(cut)
        if jumps:
            noisy = NoisyState(torch.zeros_like(x), torch.zeros(len(x)), cond)
            times = torch.linspace(0, 1, jumps + 1)
            for now, then in pairwise(times):
                x = model.posterior_jump(x, now.expand(len(x)), then.expand(len(x)), noisy)
        else:
            x = flow(model, x, cond, steps=25)
        made.append(model.decode(x))
    return torch.cat(made)


def row(*cells: object) -> None:
    """Print one row of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--arm", default="strength 1")
    parser.add_argument("--map", type=Path)
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.3, 1.0, 3.0])
    parser.add_argument("--each", type=int, default=40, help="samples of a class")
    options = parser.parse_args()
    problem, base = problem_of(options.run, 1)
    prompts = len(problem.prompts)
    count = options.each * prompts
    problem = attrs.evolve(problem, cond=problem.condition(range(count)))
    tuned = load(weights_of(options.run, options.arm), CPU, base.guidance)
    models = {"base flow": (base, base, 0), "fine-tuned flow": (tuned, tuned, 0)}
    if base.posterior is not None and options.map:
        models |= {f"base map, {k} jump(s)": (base, base, k) for k in (1, 4)}
    if options.map:
        grown = load(weights_of(options.map, ""), CPU)
        models |= {f"map grown, {k} jump(s)": (grown, tuned, k) for k in (1, 4)}
    names = [term.name for term in problem.reward.terms]
    row("samples by", *names, "Fréchet distance to its flow", "diversity", "sharpness")
    row(*["---"] * (len(names) + 4))
    scores, other = dict[str, dict[str, Tensor]](), dict[int, Tensor]()
    for name, (model, teacher, jumps) in models.items():
        data = sampled(model, problem, 0, jumps)
        scores[name] = problem.reward.each(data, problem.cond.prompts)
        if id(teacher) not in other:
            other[id(teacher)] = sampled(teacher, problem, 1, 0)
        apart = Frechet().compute(data, other[id(teacher)])["frechet_mobilenet"]
        spread = Diversity().compute(data, None)["diversity_mobilenet"]
        sharp = float(statistic("sharpness", data).mean())
        row(
            name, *map(said, scores[name].values()), f"{apart:.1f}", f"{spread:.3f}", f"{sharp:.4f}"
        )
    print()
    row("class", *(f"{name}, {who}" for name in names for who in ("base", "gain")))
    row(*["---"] * (1 + 2 * len(names)))
    for number, prompt in enumerate(problem.prompts):
        own: Callable[[Tensor], Tensor] = lambda each, k=number: each[k::prompts]  # noqa: E731
        cells = []
        for name in names:
            before, after = own(scores["base flow"][name]), own(scores["fine-tuned flow"][name])
            cells += [said(before), said(after - before)]
        row(prompt, *cells)
    print()
    row("tilted law, strength", *names, "effective samples of a class")
    row(*["---"] * (2 + len(names)))
    reward = problem.reward.of(scores["base flow"]).double().view(-1, prompts)
    for strength in options.strengths:
        weights = torch.softmax(strength * reward, 0)
        means = [(weights * scores["base flow"][name].view(-1, prompts)).sum(0) for name in names]
        cells = [f"{float(each.mean()):.2f}" for each in means]
        row(strength, *cells, f"{float((1 / weights.square().sum(0)).mean()):.1f}")


def said(values: Tensor) -> str:
    """Mean and standard error of values (n,)."""
    return f"{float(values.mean()):.2f} ± {float(values.std()) / len(values) ** 0.5:.2f}"


if __name__ == "__main__":
    main()
