"""Pictures on the way: what a sampler takes the clean samples to be, step by step."""

from __future__ import annotations

from typing import Final, final

import attrs
import torch
from torch import Tensor

from align.core.draws import Count
from align.core.mode import Info
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.io.images import frames
from align.runner.build import Built

_SAMPLES: Final = 2
_DRAWS: Final = 2


@final
@attrs.frozen(eq=False)
class Film:
    """Decodes posterior draws of the first samples at some of the steps.

    Nobody is charged for it: neither calls nor seconds.

    Args:
        model: of the arm, under guard.
        every: steps between pictures; 0 for none, "auto" for those of `frames`.
    """

    model: GuardedModel
    every: Count

    @classmethod
    def of(cls, built: Built, every: Count) -> Film | None:
        """The film of an arm; None where nothing could be seen."""
        model = built.problem.model
        if isinstance(model, GuardedModel) and model.domain == "image":
            return cls(model, every)
        return None

    def seen(self, index: int, steps: int, info: Info) -> Info:
        """What a step says, with a picture of its draws if the step is one to look at."""
        if info.pictures is not None or info.draws is None or not self._due(index, steps):
            return info
        with self.model.meter.uncharged(), torch.no_grad():
            return attrs.evolve(info, pictures=self._frame(info.draws[:, :_SAMPLES]))

    def _due(self, index: int, steps: int) -> bool:
        if self.every == "auto":
            return index in frames(steps)
        return self.every > 0 and (index % self.every == 0 or index == steps - 1)

    def _frame(self, draws: Tensor) -> Tensor:
        """A tall picture (1, 3, H, W) of draws (N, B, *S): of each sample two, and their spread.

        The spread is that of all N draws, in grey: black where they agree.
        """
        count, samples = draws.shape[:2]
        decoder = attrs.evolve(self.model, meter=Meter())
        pictures = decoder.decode(draws.flatten(0, 1)).float().unflatten(0, (count, samples))
        shown = [pictures[:_DRAWS]]
        if count > 1:
            spread = 2 * pictures.std(0).mean(1, keepdim=True)
            shown.append(spread.expand_as(pictures[0])[None])
        column = torch.cat(shown).transpose(0, 1)  # (B, pictures of a sample, C, H, W)
        return column.permute(2, 0, 1, 3, 4).flatten(1, 3)[None]
