"""What fine-tuning and a map grown from it gave, class by class and in Fréchet distance.

    align run recipes/pocket/finetune.toml
    align run recipes/pocket/finetune_map.toml
    python -m benchmarks.finetuned runs/finetune --arm "strength 1" --map runs/finetune_map

New samples of the base model, of the fine-tuned flow and of both maps, from the same noise, judged
by the rewards of the run. Fréchet distances (MobileNetV2 features, not FID) are to samples of the
flow that a model should agree with, from other noise. Last comes what the tilted law has, by
weights e^{strength r} of the base flow's samples within a class. Prints three Markdown tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from align.metrics.statistics import statistic
from align.models.network import load
from align.models.network_model import NetworkModel
from align.modes.sampling.rollout import flow
from align.recipe import Run
from align.recipe import load as load_recipe
from align.runner.build import Rewards, build
from align.runner.folder import slug
from benchmarks.table import Table, mean_and_error, parsed, parser_of, publish

CPU = torch.device("cpu")


def problem_of(run: Path, count: int) -> tuple[Problem, NetworkModel]:
    """The run's rewards, and its base model."""
    recipe = load_recipe(run / "recipe.toml", catalog=load_catalog()).recipe
    rewards = Rewards(recipe.reward, CPU)
    problem = build(recipe.arms()[0], rewards, Run(samples=count)).problem
    model = problem.model.capability(NetworkModel)
    assert model is not None
    return problem, model


def weights_of(run: Path, arm: str) -> Path:
    """The weights of a run's arm; of the only one, if it has one."""
    alone = run / "model.safetensors"
    return alone if alone.exists() else run / "weights" / slug(arm) / alone.name


@torch.no_grad()
def sampled(
    model: NetworkModel, problem: Problem, seed: int, jumps: int, steps: int = 25
) -> tuple[Tensor, Tensor]:
    """x1 by Euler steps of the flow, or by some jumps of the map from nothing; and decoded."""
    streams = Streams(seed, tuple(range(len(problem.cond))), ("start",))
    noise = streams.normal(model.shape).float()
    made = list[tuple[Tensor, Tensor]]()
    for rows in torch.arange(len(noise)).split(64):
        cut = slice(int(rows[0]), int(rows[-1]) + 1)
        x, cond = noise[cut], problem.cond.rows(cut)
        if jumps:
            noisy = NoisyState(torch.zeros_like(x), torch.zeros(len(x)), cond)
            times = torch.linspace(0, 1, jumps + 1)
            for now, then in pairwise(times):
                x = model.posterior_jump(x, now.expand(len(x)), then.expand(len(x)), noisy)
        else:
            x = flow(model, x, cond, steps=steps)
        made.append((x, model.decode(x)))
    x1, data = (torch.cat(parts) for parts in zip(*made, strict=True))
    return x1, data


@attrs.frozen(eq=False)
class Judged:
    """Samples by several models from the same noise, with their scores.

    Attributes:
        problem: the rewards, and the condition of every sample, classes in turn.
        models: by name the model, the flow that it should agree with, and its jumps (0: its flow).
        steps: Euler steps of a flow.
        scores: by the same names the score of each reward, (n,).
        others: samples of the flows from other noise, by the id of the model.
    """

    problem: Problem
    models: dict[str, tuple[NetworkModel, NetworkModel, int]]
    steps: int = 25
    scores: dict[str, dict[str, Tensor]] = attrs.Factory(dict)
    others: dict[int, Tensor] = attrs.Factory(dict)

    @property
    def names(self) -> list[str]:
        """Names of the rewards."""
        return [term.name for term in self.problem.reward.terms]

    def tables(self, strengths: Sequence[float]) -> Iterator[Table]:
        """By model, by class, and what the tilted law has."""
        of_sets = ("Fréchet distance to its flow", "diversity", "sharpness")
        yield Table("", ("samples by", *self.names, *of_sets), map(self.of_model, self.models))
        columns = (f"{name}, {which}" for name in self.names for which in ("base", "gain"))
        yield Table("", ("class", *columns), self.of_classes())
        head = ("tilted law, strength", *self.names, "effective samples of a class")
        yield Table("", head, map(self.of_law, strengths))

    def of_model(self, name: str) -> tuple[str, ...]:
        """Scores of a model's samples, and statistics of the set."""
        model, teacher, jumps = self.models[name]
        x1, data = sampled(model, self.problem, 0, jumps, self.steps)
        self.scores[name] = self.problem.reward.each(x1, data, self.problem.cond.prompts)
        if id(teacher) not in self.others:
            self.others[id(teacher)] = sampled(teacher, self.problem, 1, 0, self.steps)[1]
        distance = Frechet().compute(data, self.others[id(teacher)])["frechet_mobilenet"]
        diversity = Diversity().compute(data, None)["diversity_mobilenet"]
        sharpness = float(statistic("sharpness", data).mean())
        sets = f"{distance:.1f}", f"{diversity:.3f}", f"{sharpness:.4f}"
        return name, *map(mean_and_error, self.scores[name].values()), *sets

    def of_classes(self) -> Iterator[tuple[str, ...]]:
        """Each class before fine-tuning, and what fine-tuning gained over the same noise."""
        before, after = self.scores["base flow"], self.scores["fine-tuned flow"]
        classes = len(self.problem.prompts)
        for number, prompt in enumerate(self.problem.prompts):
            cells = []
            for name in self.names:
                base, tuned = before[name][number::classes], after[name][number::classes]
                cells += [mean_and_error(base), mean_and_error(tuned - base)]
            yield prompt, *cells

    def of_law(self, strength: float) -> tuple[str, ...]:
        """Rewards of the tilted law, by weights e^{strength r} of the base flow's samples."""
        scores, classes = self.scores["base flow"], len(self.problem.prompts)
        reward = self.problem.reward.of(scores).double().view(-1, classes)
        weights = torch.softmax(strength * reward, 0)
        means = [(weights * scores[name].view(-1, classes)).sum(0).mean() for name in self.names]
        effective = float((1 / weights.square().sum(0)).mean())
        return f"{strength:g}", *(f"{float(mean):.2f}" for mean in means), f"{effective:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = parser_of("benchmarks.finetuned", __doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--arm", default="strength 1")
    parser.add_argument("--map", type=Path)
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.3, 1.0, 3.0])
    parser.add_argument("--each", type=int, default=40, help="samples of a class")
    options, command = parsed(parser, arguments)
    problem, base = problem_of(options.run, 1)
    each = 2 if options.toy else options.each
    rows = range(each * len(problem.prompts))
    problem = attrs.evolve(problem, cond=problem.condition(rows))
    tuned = load(weights_of(options.run, options.arm), CPU, base.guidance)
    models = {"base flow": (base, base, 0), "fine-tuned flow": (tuned, tuned, 0)}
    if base.posterior is not None and options.map:
        models |= {f"base map, {k} jump(s)": (base, base, k) for k in (1, 4)}
    if options.map:
        grown = load(weights_of(options.map, ""), CPU)
        models |= {f"map grown, {k} jump(s)": (grown, tuned, k) for k in (1, 4)}
    judged = Judged(problem, models, 2 if options.toy else 25)
    publish(judged.tables(options.strengths), command, options.page, "finetuned")


if __name__ == "__main__":
    main()
