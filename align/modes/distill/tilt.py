"""Rows that count e^{r(x1) − c}, so that a map learns the tilted posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, final

import attrs
import torch
from loguru import logger
from torch import Tensor

from align.core.model import Condition
from align.core.problem import Problem
from align.core.streams import Streams
from align.modes.distill.coupling import Clean

ROWS: Final = 1024
"""Rows that c is measured on."""
_FEW: Final = 0.1  # share of rows that carry the weight, below which a notice is due


@final
@attrs.frozen(eq=False)
class Tilt:
    """The weights of rows of training: with them all means over x1 are those of p e^r.

    Attributes:
        problem: has the reward.
        clean: the clean data.
        log_normalizers: the c of each prompt or class, about log E e^r; it changes no minimum, and
            makes rows of all prompts count alike.
    """

    problem: Problem
    clean: Clean
    log_normalizers: Mapping[str, float]

    @classmethod
    @torch.no_grad()
    def of(cls, problem: Problem, clean: Clean, streams: Streams) -> Tilt:
        """Measure c on rows that training would see; say so where few of them carry the weight."""
        tilt, rows = cls(problem, clean, {}), streams.fold_in("level").numbered(0, ROWS)
        parts, names, cap = list[Tensor](), list[str](), problem.chunks.cap
        for first in range(0, ROWS, cap):
            x1, cond = clean.rows(rows.rows(slice(first, min(first + cap, ROWS))))
            parts.append(tilt.rewards(x1, cond))
            names.extend(clean.names(cond))
        rewards, found = torch.cat(parts), dict[str, float]()
        for name in dict.fromkeys(names):
            own = rewards[torch.tensor([other == name for other in names], device=rewards.device)]
            found[name] = float(own.logsumexp(0)) - math.log(len(own))
        weights = torch.exp(rewards - rewards.new_tensor([found[name] for name in names]))
        share = float(weights.sum().square() / weights.square().sum()) / ROWS
        if share < _FEW:
            logger.bind(notice=True).warning(
                "mode.tilt: {:.1%} of the rows carry the weight, so that the map will be noisy;"
                " lower the rewards' weights, or tilt a model that is tilted in part",
                share,
            )
        return cls(problem, clean, found)

    def rewards(self, x1: Tensor, cond: Condition) -> Tensor:
        """r (b,) of clean states (b, *S), in full precision."""
        named = attrs.evolve(cond, prompts=self.clean.names(cond))
        with torch.autocast(x1.device.type, enabled=False):
            draws = x1[None].to(self.problem.model.dtype)
            return self.problem.reward_of(draws, named)[0].double()

    @torch.no_grad()
    def weights(self, x1: Tensor, cond: Condition) -> Tensor:
        """e^{r − c} (b,) of rows with these clean states and conditions."""
        rewards, names = self.rewards(x1, cond), self.clean.names(cond)
        return torch.exp(rewards - rewards.new_tensor(list(map(self._log_normalizer, names))))

    def _log_normalizer(self, name: str) -> float:
        """The c of a prompt; the mean of the others' where no row of it was seen."""
        every = self.log_normalizers.values()
        return self.log_normalizers.get(name, sum(every) / max(1, len(every)))
