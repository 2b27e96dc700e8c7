"""Study: what does the best of N samples gain, for every N at the cost of one pool?"""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.mode import AlignmentMode, Info, Need
from align.core.option import at_least, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.core.study import Findings, Point, Study
from align.engine.guard import guarded
from align.modes.sampling.rollout import flow
from align.modes.studies import setting


@final
@attrs.frozen(eq=False)
class Pool:
    """Scores of all samples, and the network calls that one takes.

    Attributes:
        scores: r and each reward that is held out, (B,), by name.
        calls: of the network, for each sample.
    """

    scores: dict[str, Tensor]
    calls: float = 0.0


@final
@attrs.frozen(kw_only=True)
class BestOfGroups(AlignmentMode[Pool], Study[Pool]):
    """Measures what the best of N samples gains, for several N.

    One pool of `run.samples` unsteered samples is split into disjoint groups of N, for each N anew.

        mean over groups of max_{i in group} r(x_i), and of the held-out rewards of the same x_i.

    Groups do not overlap, so that the error is that of independent numbers. Mode `best_of_n` makes
    the samples themselves; this mode asks for many N what one pool can tell.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.2.2 and appendix
    F.3 (Best-of-N from 128,000 samples).
    """

    kind: ClassVar[str] = "best_of_groups"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "reward"})
    steps: ClassVar[int] = 1

    sizes: tuple[int, ...] = option(
        "samples N of a group",
        default=(1, 10, 100, 1000),
        check=setting.every(lambda n: n >= 1, "sizes of at least 1"),
    )
    flow_steps: int = option(
        "Euler steps from noise to data", default=50, check=at_least(1), grows="calls"
    )

    def init(self, problem: Problem, streams: Streams) -> Pool:
        """Nothing yet.

        Raises:
            PartError: a group has more samples than there are.
        """
        if (largest := max(self.sizes)) > (count := len(streams.samples)):
            raise PartError(f"run.samples: {count}, and a group of mode.sizes has {largest}")
        return Pool({})

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Pool, index: int, streams: Streams
    ) -> tuple[Pool, Info]:
        """The whole pool and its scores; an arm after another with the same pool makes none."""
        if state.scores:
            return state, Info({})
        model, count = guarded(problem.model), len(streams.samples)

        def make() -> list[Tensor]:
            start = streams.fold_in("start")
            return [
                flow(
                    model,
                    start.rows(cut).normal(model.shape).to(model.device, model.dtype),
                    problem.cond.rows(cut),
                    steps=self.flow_steps,
                )
                for cut in setting.cuts(problem, count)
            ]

        pieces, calls = setting.counted(model, make)
        parts, first = list[dict[str, Tensor]](), 0
        for x1 in pieces:
            cond = problem.cond.rows(slice(first, first + len(x1)))
            scores = problem.reward.each(x1, problem.model.decode(x1), cond.prompts)
            held = {t.name: scores[t.name] for t in problem.reward.terms if t.held_out}
            parts.append({"r": problem.reward_of(x1[None], cond)[0], **held})
            first += len(x1)
        scores = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        mean = float(scores["r"].mean())
        return Pool(scores, calls / count), Info({"reward": mean, "NFE": calls / count})

    def finish(self, problem: Problem, state: Pool) -> None:
        """No samples."""

    def restart(self, last: Pool) -> Pool:
        """The pool, which depends on nothing that an arm with this mode and model may change."""
        return last

    def findings(self, state: Pool) -> Findings:
        """Means over groups and their errors, over calls: r, and each held-out reward."""
        points = [
            Point(name, n * state.calls, *mean_of_chosen(state.scores["r"], scores, n))
            for name, scores in state.scores.items()
            for n in self.sizes
        ]
        return Findings("score of the best of N", "NFE a sample", tuple(points))


def mean_of_chosen(r: Tensor, scores: Tensor, n: int) -> tuple[float, float | None]:
    """Mean and standard error of the scores of each disjoint group's best by r.

    Args:
        r: of the pool, (B,).
        scores: by any reward, (B,).
        n: samples of a group; what is left over counts in no group.

    Returns:
        The error is None for a single group.
    """
    groups = len(r) // n
    best = r[: groups * n].reshape(groups, n).argmax(1) + n * torch.arange(groups, device=r.device)
    chosen = scores[best].double()
    return float(chosen.mean()), setting.standard_error(chosen)
