"""Best of N noises: each is judged by a preview, and the flow follows the best."""

from __future__ import annotations

import math
from typing import ClassVar, final

import attrs

from align.core.mode import ReportsKL
from align.core.option import above, at_least, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.modes.sampling.noises import NoiseMode, Noises


@final
@attrs.frozen(kw_only=True)
class BestNoise(NoiseMode, ReportsKL[Noises]):
    """Best-of-N noises by cheap previews; zero-order search.

    N noises are led to the data by a preview: one jump of the model's map, or `preview_steps` steps
    of the flow of any model. The noise whose preview has the highest reward is then followed by the
    whole flow.

        x1 = flow(ε_best),   best = argmax_n r(X_{0,1}(ε_n)).

    That is `best_of_n` as far as the preview is the flow's end, for N + `flow_steps` network calls
    a sample instead of N · `flow_steps`. Candidate 0 starts where `steer` starts, and candidates
    are those of `best_of_n`. The choice is among noises, so that KL(q | p) is at most log N − (N −
    1)/N, whatever previews are like.

    With more `rounds` each looks at N neighbours of the best noise so far and moves to the best of
    them, if it is better: zero-order search, which climbs any reward, black boxes too.

        ε' = √(1 − ρ²) ε_best + ρ ξ,   ξ ~ N(0, I),   ρ = `radius`.

    A neighbour of noise from N(0, I) is from N(0, I). Nothing bounds the KL then.

    Our own variants. Flash-BoN, 2026, arXiv:2607.04461, too finishes the best of many cheap
    candidates; a summary of it was read, and no equation.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.2.2 (the
    baseline Best-of-N); zero-order search of Inference-time scaling for diffusion models beyond
    scaling denoising steps, Ma et al., 2025, arXiv:2501.09732, by other people's code:
    github.com/sayakpaul/tt-scale-flux, commit 8b47348, main.py, and 1a0a941, utils.py. There a
    noise is judged by the whole flow, neighbours keep its length at a cosine of .95 (ρ = .31), and
    a round without a better one begins at a fresh noise.
    """

    kind: ClassVar[str] = "best_noise"

    n: int = option("noises that are compared in a round", default=16, check=at_least(1))
    rounds: int = option(
        "rounds; from the second on, noises are neighbours of the best so far",
        default=1,
        check=at_least(1),
    )
    radius: float = option(
        "distance ρ of neighbours, of which 1 are independent noises", default=0.5, check=above(0)
    )

    def __attrs_post_init__(self) -> None:
        if self.radius > 1:
            raise ValueError(f"'radius' must be at most 1, got {self.radius:g}")

    def look(self, problem: Problem, state: Noises, index: int, streams: Streams) -> Noises:
        """N previews and their rewards."""
        model, rows = problem.model, len(streams.samples)
        at_once, around = max(1, problem.chunks.cap // max(1, rows)), state.noise
        kept = math.sqrt(1 - self.radius**2)
        for first in range(0, self.n, at_once):
            numbers = range(first, min(self.n, first + at_once))
            purposes = [("candidate", k) if k or index else () for k in numbers]
            branches = streams.branched(*purposes)
            branches = branches.fold_in("round", index) if index else branches.fold_in("start")
            noise = branches.normal(model.shape).to(around).unflatten(0, (len(numbers), rows))
            noise = kept * around + self.radius * noise if index else noise
            cond = problem.cond.tile(len(numbers))
            previews = self.previews(model, noise.flatten(0, 1), cond).reshape(noise.shape)
            rewards = problem.reward_of(previews, problem.cond)
            for candidate in zip(noise, previews, rewards, strict=True):
                state = state.or_better(*candidate)
        return state

    def path_kl(self, state: Noises) -> float | None:
        """log N − (N − 1)/N, for a reward without ties; not known after more rounds than one."""
        return math.log(self.n) - (self.n - 1) / self.n if self.rounds == 1 else None

    @property
    def is_base(self) -> bool:
        """Whether there is nothing to choose from: one noise."""
        return self.n == self.rounds == 1
