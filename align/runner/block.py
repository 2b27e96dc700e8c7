"""What is made of some samples of an arm, and what the blocks of an arm are together."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, final

import attrs
import cattrs
import torch
from loguru import logger
from torch import Tensor

from align.core.attribution import attributed
from align.core.departure import Traits
from align.core.metric import MergedStates, Metric, State, update_metric
from align.core.mode import HasWarnings, Info, ReportsKL
from align.core.model import FlowModel, Licensed
from align.core.prompts import ReadsPrompts, prompt_notes
from align.core.streams import Streams
from align.core.study import Findings, Study
from align.engine.loop import Outcome
from align.engine.meter import Cost
from align.io.tensors import packed, unpacked
from align.runner.alone import dependent_model, dependent_rewards
from align.runner.build import Built

_X1, _DATA, _NORM, _RESIDUAL = "x1", "data", "norm", "residual"


@final
@attrs.frozen(eq=False)
class Block:
    """Some samples of an arm, or all of them together.

    Attributes:
        samples: how many there are; 0 of a mode that makes none.
        x1, data: clean states (B, *S), and decoded; None where they are on the disk alone.
        scores: every reward's score (B,) by name, held-out ones included.
        traits: what is compared with base samples, where there are any.
        path_kl: by the mode's own account, where it has one.
        cost: of the samples; decoding and scoring them at the end is not part of it.
        plan: what the arm was said to cost before it began, if it was planned.
        steps: what each step said.
        notes: what must be said beside the numbers.
        inputs: digests of the files that prompts are from, by their paths.
        licence: of the model's weights, as their card states it; "" where it states none.
        given: pictures (C, H, W) that samples are to be seen beside, by name.
        kept: what each metric keeps of the samples, in the recipe's order.
        chunks: how many rows went through the parts at once, by part.
        findings: of a study.
        latents: what the model makes of fixed states, as `latents_of` says.
    """

    samples: int
    x1: Tensor | None = None
    data: Tensor | None = None
    scores: Mapping[str, Tensor] = attrs.field(factory=dict)
    traits: Traits | None = None
    path_kl: float | None = None
    cost: Cost = attrs.field(factory=Cost)
    plan: Cost | None = None
    steps: tuple[Info, ...] = ()
    notes: tuple[str, ...] = ()
    inputs: Mapping[str, str] = attrs.field(factory=dict)
    licence: str = ""
    given: Mapping[str, Tensor] = attrs.field(factory=dict)
    kept: tuple[State, ...] = ()
    chunks: Mapping[str, int] = attrs.field(factory=dict)
    findings: Findings | None = None
    latents: tuple[float, ...] = ()

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        built: Built,
        outcome: Outcome,
        metrics: Sequence[Metric] = (),
        *,
        compared: bool = False,
        last: bool = True,
    ) -> Self:
        """Decode and score samples, and keep of them what metrics ask for.

        Args:
            built: the arm, with these samples alone.
            outcome: how its mode ended.
            metrics: of the recipe.
            compared: whether the samples are compared with those of the base model.
            last: whether these are the arm's last samples, by one of which parts are tried.
        """
        mode, problem, x1 = built.arm.mode, built.problem, outcome.x1
        block = cls(
            samples=0,
            cost=outcome.cost,
            path_kl=mode.path_kl(outcome.state) if isinstance(mode, ReportsKL) else None,
            notes=_notes_of(built, outcome),
            inputs=built.inputs,
            licence=_licence_of(built) or "",
            chunks=dict(problem.chunks.rows),
            findings=mode.findings(outcome.state) if isinstance(mode, Study) else None,
        )
        if x1 is None:
            return block
        data = problem.model.decode(x1)
        scores = problem.reward.each(x1, data, problem.cond.prompts)
        logger.info("{}: {}", built.arm.name, {n: float(s.mean()) for n, s in scores.items()})
        notes = block.notes
        if last:
            notes += dependent_model(built, x1, data) + dependent_rewards(problem, x1, data, scores)
        compared = compared and len(x1) == len(problem.cond)
        return attrs.evolve(
            block,
            samples=len(x1),
            x1=x1,
            data=data,
            scores=scores,
            traits=Traits.of(problem.model, x1, problem.cond, built.streams) if compared else None,
            notes=notes,
            kept=tuple(update_metric(metric, data) for metric in metrics),
            latents=latents_of(problem.model),
        )

    @classmethod
    def joined(cls, blocks: Iterable[Self], metrics: Sequence[Metric]) -> Self:
        """All samples together, of blocks in the order of their samples.

        Costs are added up, and numbers of steps are means over the samples. Of more than one block
        the states and pictures stay on the disk; vectors are kept. What metrics keep is merged as
        blocks come, so that it is in memory for few blocks at a time.
        """
        every, merged = list[Self](), [MergedStates(metric) for metric in metrics]
        for block in blocks:
            if every:
                every[0] = every[0].on_disk()
            every.append(attrs.evolve(block.on_disk() if every else block, kept=()))
            for states, state in zip(merged, block.kept, strict=False):  # a mode may make none
                states.add(state)
        kept = tuple(states.state() for states in merged) if every[0].samples else ()
        if len(every) == 1:
            return attrs.evolve(every[0], kept=kept)
        counts = [block.samples for block in every]
        traits = [block.traits for block in every if block.traits is not None]
        kls = [block.path_kl for block in every if block.path_kl is not None]
        return cls(
            samples=sum(counts),
            x1=_together([block.x1 for block in every]),
            data=_together([block.data for block in every]),
            scores={
                name: torch.cat([block.scores[name] for block in every]) for name in every[0].scores
            },
            traits=Traits.joined(traits) if len(traits) == len(every) else None,
            path_kl=_mean(kls, counts) if len(kls) == len(every) else None,
            cost=total_cost([block.cost for block in every]),
            plan=every[0].plan,
            steps=tuple(
                _mean_info(infos, counts)
                for infos in zip(*(block.steps for block in every), strict=True)
            ),
            notes=tuple(dict.fromkeys(note for block in every for note in block.notes)),
            inputs=every[0].inputs,
            licence=every[0].licence,
            given=every[0].given,
            kept=kept,
            chunks=_fewest([block.chunks for block in every]),
            latents=every[0].latents,
        )

    def on_disk(self) -> Self:
        """Without states and pictures that can be read from the disk again."""
        if self.data is not None and self.data.dim() < 4:
            return self
        return attrs.evolve(self, x1=None, data=None)

    def packed(self, about: Mapping[str, Any]) -> bytes:
        """As a file; decoded pictures are left out, as they have files of their own.

        Args:
            about: says what the block is of.
        """
        tensors = dict[str, Tensor]()
        if self.x1 is not None:
            tensors[_X1] = self.x1
        if self.data is not None and self.data.dim() < 4:
            tensors[_DATA] = self.data
        if self.traits is not None:
            tensors |= {_NORM: self.traits.norm, _RESIDUAL: self.traits.residual}
        for place, info in enumerate(self.steps):
            if info.pictures is not None:
                tensors[f"looks {place}"] = info.pictures
        tensors |= {f"score {name}": score for name, score in self.scores.items()}
        tensors |= {f"given {name}": picture for name, picture in self.given.items()}
        for place, state in enumerate(self.kept):
            tensors |= {f"metric {place} {name}": tensor for name, tensor in state.items()}
        facts = {
            **about,
            "samples": self.samples,
            "path_kl": self.path_kl,
            "cost": cattrs.unstructure(self.cost),
            "plan": self.plan and cattrs.unstructure(self.plan),
            "steps": [[dict(info.numbers), dict(info.errors)] for info in self.steps],
            "notes": list(self.notes),
            "inputs": dict(self.inputs),
            "licence": self.licence,
            "chunks": dict(self.chunks),
            "scores": list(self.scores),
            "given": list(self.given),
            "kept": [list(state) for state in self.kept],
            "latents": list(self.latents),
        }
        return packed(tensors, facts)

    @classmethod
    def unpacked(cls, content: bytes, about: Mapping[str, Any]) -> Self | None:
        """Of a file; None where it is damaged, or of something else than `about` says."""
        found = unpacked(content)
        if found is None:
            return None
        facts, tensors = found
        if any(facts.get(name) != value for name, value in about.items()):
            return None
        traits = _NORM in tensors
        return cls(
            samples=facts["samples"],
            x1=tensors.get(_X1),
            data=tensors.get(_DATA),
            scores={name: tensors[f"score {name}"] for name in facts["scores"]},
            traits=Traits(tensors[_NORM], tensors[_RESIDUAL]) if traits else None,
            path_kl=facts["path_kl"],
            cost=cattrs.structure(facts["cost"], Cost),
            plan=cattrs.structure(facts["plan"], Cost) if facts["plan"] else None,
            steps=tuple(
                Info(numbers, tensors.get(f"looks {place}"), errors)
                for place, (numbers, errors) in enumerate(facts["steps"])
            ),
            notes=tuple(facts["notes"]),
            inputs=facts["inputs"],
            licence=facts["licence"],
            given={name: tensors[f"given {name}"] for name in facts["given"]},
            kept=tuple(
                {name: tensors[f"metric {place} {name}"] for name in names}
                for place, names in enumerate(facts["kept"])
            ),
            chunks=facts["chunks"],
            latents=tuple(facts["latents"]),
        )


@torch.no_grad()
def latents_of(model: FlowModel) -> tuple[float, ...]:
    """By what a model is known to have the latents of another: some of what it makes of one state.

    The number of entries of the data comes first.
    """
    x1 = Streams(0, (0,), ("latents",), model.device).normal(model.shape).to(model.dtype)
    data = model.decode(x1).detach().double().flatten().cpu()
    return (float(len(data)), *data[:: max(1, len(data) // 64)].tolist())


def _notes_of(built: Built, outcome: Outcome) -> tuple[str, ...]:
    """What mode, prompts, sampler and weights have to say beside the arm's numbers."""
    mode, sampler = built.arm.mode, built.arm.sampler
    notes = tuple(mode.warnings(outcome.state)) if isinstance(mode, HasWarnings) else ()
    notes += _prompt_notes(built)
    notes += built.arm.model.file_notes() if built.arm.model else ()
    if sampler and built.arm.draws:
        with attributed(f"sampler '{sampler.kind}': notes"):
            notes += tuple(sampler.notes(built.problem.model))
    licence = _licence_of(built)
    if licence is not None:
        stated = f"'{licence}', as their card states" if licence else "not stated by their card"
        notes += (f"the licence of the weights is {stated}",)
    return notes


def _licence_of(built: Built) -> str | None:
    """Of the model's weights; None where they have none of their own."""
    licensed = built.problem.model.capability(Licensed)
    return licensed.licence if licensed else None


def _prompt_notes(built: Built) -> tuple[str, ...]:
    """What the model and the rewards leave out of the prompts."""
    problem, model = built.problem, built.arm.model
    if model is None:
        return ()
    parts = [(f"model '{model.kind}'", problem.model.capability(ReadsPrompts))]
    for term in problem.reward.terms:
        parts.append((f"reward '{term.name}'", term.reward.capability(ReadsPrompts)))
    prompts = problem.cond.prompts
    return tuple(note for who, part in parts if part for note in prompt_notes(who, part, prompts))


def total_cost(costs: Sequence[Cost]) -> Cost:
    """What several things cost together, one after the other; they are not in memory at once."""
    calls, backward, rewards, back = (Counter[str]() for _ in range(4))
    seconds = defaultdict[str, float](float)
    for cost in costs:
        calls.update(cost.calls)
        backward.update(cost.backward)
        rewards.update(cost.reward_calls)
        back.update(cost.reward_backward)
        for name, spent in cost.reward_seconds.items():
            seconds[name] += spent
    return Cost(
        calls=dict(calls),
        backward=dict(backward),
        reward_calls=dict(rewards),
        reward_backward=dict(back),
        reward_seconds=dict(seconds),
        flops=sum(cost.flops for cost in costs),
        seconds=math.fsum(cost.seconds for cost in costs),
        warmup_seconds=math.fsum(cost.warmup_seconds for cost in costs),
        step_seconds=math.fsum(cost.step_seconds for cost in costs),
        memory=max(cost.memory for cost in costs),
    )


def _together(pieces: Sequence[Tensor | None]) -> Tensor | None:
    """All rows; None where some are not here."""
    here = [piece for piece in pieces if piece is not None]
    return torch.cat(here) if here and len(here) == len(pieces) else None


def _mean(values: Sequence[float], counts: Sequence[int]) -> float:
    """Mean over all samples of means over some of them."""
    return math.fsum(v * n for v, n in zip(values, counts, strict=True)) / sum(counts)


def _mean_info(infos: Sequence[Info], counts: Sequence[int]) -> Info:
    """What a step says of all samples: means, of those blocks that say something."""
    numbers, errors = dict[str, float](), dict[str, float]()
    for name in dict.fromkeys(name for info in infos for name in info.numbers):
        said = [(i, n) for i, n in zip(infos, counts, strict=True) if name in i.numbers]
        sizes = [n for _, n in said]
        numbers[name] = _mean([i.numbers[name] for i, _ in said], sizes)
        if all(name in i.errors for i, _ in said):
            errors[name] = math.hypot(*(i.errors[name] * n for i, n in said)) / sum(sizes)
    return Info(numbers, infos[0].pictures, errors)


def _fewest(rows: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The fewest rows that went through each part at once."""
    fewest = dict[str, int]()
    for of_one in rows:
        for part, count in of_one.items():
            fewest[part] = min(count, fewest.get(part, count))
    return fewest
