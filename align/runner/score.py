"""Rewards and metrics of pictures that lie in a folder, whoever made them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, final

import attrs
import torch
from torch import Tensor

from align.core.attribution import attributed
from align.core.chunks import Chunks
from align.core.errors import AlignError, PartError, PromptError
from align.core.metric import (
    MergedStates,
    finish_metric,
    named_apart,
    prepare_metric,
    update_metric,
)
from align.engine.guard import GuardedReward
from align.engine.memory import DeviceMemory
from align.engine.meter import Meter
from align.io.files import write
from align.io.images import opened
from align.io.listed_pictures import ListedPicture, require_whole
from align.io.numbers import with_error
from align.io.text import markdown
from align.recipe.scoring import Scoring
from align.report.schema import moments
from align.runner.build import Rewards

FILES: Final = ("table.md", "table.csv", "scores.csv")
_ROWS: Final = 32  # pictures that are read at once
_MANY: Final = 20  # mistakes that are told


@final
@attrs.frozen
class FolderScores:
    """What rewards and metrics say of pictures.

    Attributes:
        pictures: in their order.
        scores: of each picture, by the name of the reward; NaN where one is missing.
        metrics: numbers of all pictures together.
        failures: why a metric has no numbers, such as too few pictures.
    """

    pictures: tuple[ListedPicture, ...]
    scores: dict[str, list[float]]
    metrics: dict[str, float]
    failures: tuple[str, ...] = ()

    def numbers(self) -> dict[str, tuple[float, float | None]]:
        """Every number by its name, with its standard error where it is a mean over pictures."""
        means = {name: moments(scores) for name, scores in self.scores.items()}
        return {**means, **{name: (value, None) for name, value in self.metrics.items()}}

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Heads and cells of a table with a row for each number."""
        shown = [[name, with_error(*number)] for name, number in self.numbers().items()]
        return ["number", f"of {len(self.pictures)} pictures"], shown

    def save(self, folder: Path) -> None:
        """Write table.md, table.csv and scores.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        heads, rows = self.rows()
        lines = [[markdown(cell) for cell in row] for row in (heads, *rows)]
        lines.insert(1, ["---"] * len(heads))
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        write(folder / FILES[0], text)
        numbers = [
            [name, repr(value), "" if error is None else repr(error)]
            for name, (value, error) in self.numbers().items()
        ]
        write(folder / FILES[1], _csv([["number", "value", "error"], *numbers]))
        names = list(self.scores)
        each = [
            [picture.name, picture.prompt, *(repr(self.scores[name][n]) for name in names)]
            for n, picture in enumerate(self.pictures)
        ]
        write(folder / FILES[2], _csv([["file", "prompt", *names], *each]))


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


@torch.no_grad()
def score_pictures(
    pictures: Sequence[ListedPicture],
    scoring: Scoring,
    device: torch.device,
    watch: Callable[[int], object] = lambda count: None,
) -> FolderScores:
    """Score pictures by rewards, and measure them by metrics.

    Args:
        pictures: in files.
        scoring: the rewards and metrics.
        device: where they compute.
        watch: is told how many pictures have been scored since it was told last.

    Raises:
        PartError: before anything is scored: with one line for every file that is no picture; or a
            part or a reference cannot be loaded.
        PromptError: with one line for every prompt that a reward cannot follow.
    """
    _check_prompts(pictures, scoring)
    require_whole(list(pictures))
    meter, chunks = Meter(), Chunks(64 if device.type == "cpu" else 256, DeviceMemory(device))
    rewards = [
        GuardedReward(reward, term.name, meter, chunks, may_miss=term.part.may_miss)
        for term, reward in zip(
            scoring.reward, Rewards(scoring.reward, device).loaded(), strict=True
        )
    ]
    scores: dict[str, list[float]] = {term.name: [] for term in scoring.reward}
    for metric in scoring.metric:
        prepare_metric(metric, device)
    merged = [MergedStates(metric) for metric in scoring.metric]
    for batch, data in _batches(pictures):
        there = data.to(device)
        prompts = tuple(picture.prompt for picture in batch)
        for reward in rewards:
            scores[reward.name] += reward.score(there, prompts).tolist()
        for states in merged:
            states.add(update_metric(states.metric, there))
        watch(len(batch))
    found, failures = list[dict[str, float]](), list[str]()
    for states in merged:
        try:
            found.append(finish_metric(states.metric, states.state(), None))
        except AlignError as error:  # which takes nothing from what is measured already
            failures.append(str(error))
    (numbers,) = named_apart([found], scores)
    return FolderScores(tuple(pictures), scores, numbers, tuple(failures))


def _batches(pictures: Sequence[ListedPicture]) -> Iterator[tuple[list[ListedPicture], Tensor]]:
    """Pictures of one size that follow each other, (B, 3, H, W) in [0, 1]."""
    batch, tensors = list[ListedPicture](), list[Tensor]()
    for picture in pictures:
        tensor = opened(picture.path).tensor
        if batch and (len(batch) == _ROWS or tensors[0].shape != tensor.shape):
            yield batch, torch.stack(tensors)
            batch, tensors = [], []
        batch.append(picture)
        tensors.append(tensor)
    yield batch, torch.stack(tensors)


def _check_prompts(pictures: Sequence[ListedPicture], scoring: Scoring) -> None:
    """Raise an error of one line for each prompt that a reward cannot follow."""
    needing = [term for term in scoring.reward if term.part.needs_prompt]
    if needing and not any(picture.place for picture in pictures):
        raise PartError(
            f"reward '{needing[0].name}' compares pictures with prompts; name a file that has them,"
            " --prompts FILE, a .csv or .jsonl with the columns 'file' and 'prompt'"
        )
    errors = list[str]()
    for term in needing:
        for picture in pictures:
            reason = "an empty prompt; write one" if not picture.prompt.strip() else ""
            try:
                with attributed(f"reward '{term.name}': check_prompt"):
                    term.part.check_prompt(picture.prompt)
            except PromptError as error:
                reason = reason or str(error)
            if reason:
                errors.append(f"{picture.place}: reward '{term.name}': {reason}")
    if errors:
        more = [f"and {len(errors) - _MANY} more"] if len(errors) > _MANY else []
        raise PromptError("\n".join([*errors[:_MANY], *more]))
