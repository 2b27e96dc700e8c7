"""Posterior samples from jumps to data: make the state noisier, jump, weigh, choose."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.model import FlowMap, FlowModel, NoisyState, ToData
from align.core.option import above, at_least, option
from align.core.path import Path, expand
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams


@final
@attrs.frozen(kw_only=True)
class Renoise(PosteriorSampler):
    """Models with a flow map: draws by importance weights.

    x1 = X_{s,1}(x_s), where x_s is x_t made noisier: one of K, by importance weights.

        x_s = c x + ρ ε,   c = β_s / β_t,   ρ² = α_s² − c² α_t²,   z = X_{s,1}(x_s),
        log w = log p_s(x_s) − |x − β_t z|² / (2 α_t²) + |ε|² / 2.

    The target is p(z | x) ∝ p_1(z) N(x; β_t z, α_t² I). The map carries p_s to p_1, so that
    p_1(z) = p_s(x_s) |∂x_s/∂z|, and the proposal's density is N(x_s; c x, ρ² I) |∂x_s/∂z|: w is
    their ratio, whatever the map, and each draw is one of its own K candidates by w.

    Two things are not exact. K is finite, so that draws lean towards the proposal. And networks
    give only the score, so that log p_s(x_s) − log p_s(c x) is taken by the midpoint rule as
    ρ ε · ∇ log p_s(c x + ρ ε / 2), which is exact where p_s is Gaussian. A linear expansion around
    c x would not do: ρ is so large that the curvature decides. A network that was distilled to jump
    to data alone has no velocity of a flow, and so no score: its weights are a heuristic.

    The earlier time s is where α_s²/β_s² = g (2 + g / S²), g = α_t²/β_t². For Gaussian data of
    standard deviation S the proposal then is the posterior, and all weights are equal.

    Reference: Diamond Maps: Efficient Reward Alignment via Stochastic Flow Maps, Holderrieth et
    al., 2026, arXiv:2602.05993 (weighted; the choice of s and the midpoint rule are our own).
    """

    kind: ClassVar[str] = "renoise"
    differentiable: ClassVar[bool] = False
    exact_for: ClassVar[str] = (
        "an exact flow map of Gaussian data: with one candidate if its elements have `data_std`, "
        "else in the limit of many"
    )
    needs: ClassVar[type | None] = ToData

    candidates: int = option(
        "candidates K that each draw is chosen from",
        default=4,
        check=at_least(1),
        grows="rows",
    )
    data_std: float = option(
        "standard deviation S of the data's elements; it sets how much noise is added",
        default=1.0,
        check=above(0),
    )

    @torch.no_grad()
    def sample(
        self, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
    ) -> Tensor:
        """Draws (N, B, *S) of x1; costs N · K jumps and as many velocities a state."""
        jumps = model.capability(ToData)
        if jumps is None:
            raise PartError("sampler 'renoise' needs a model that jumps to data; use 'glass'")
        path, shape = model.path, (self.candidates, *model.shape)
        noise = streams.fold_in("posterior").normal(shape, draws=draws).to(noisy.x).movedim(2, 0)
        s, scale, spread = self._earlier(path, noisy.t)
        centre, moved = expand(scale, noisy.x) * noisy.x, expand(spread, noisy.x) * noise
        times, cond = s.repeat(self.candidates * draws), noisy.cond.tile(self.candidates * draws)
        start, middle = (centre + moved).flatten(0, 2), (centre + moved / 2).flatten(0, 2)
        z = jumps.to_data(start, times, cond).reshape(noise.shape)
        velocity = model.velocity(middle, times, cond)
        score = path.score_from_velocity(velocity, middle, times).reshape(noise.shape)
        residual = (noisy.x - expand(path.beta(noisy.t), noisy.x) * z) / expand(
            path.alpha(noisy.t), noisy.x
        )
        terms = score * moved - residual.square() / 2 + noise.square() / 2
        edges = torch.softmax(terms.flatten(3).sum(-1), 0).cumsum(0)[:-1]
        place = streams.fold_in("choice").uniform((), draws=draws).to(edges)
        chosen = (place > edges).sum(0, keepdim=True)
        return torch.take_along_dim(z, expand(chosen, z), 0)[0]

    def notes(self, model: FlowModel) -> tuple[str, ...]:
        """That the weights are a heuristic, where the model jumps to data alone."""
        if self.candidates == 1 or model.capability(FlowMap) is not None:
            return ()
        return (
            "the network was distilled to jump to data, so that its velocity is no flow's and holds"
            " no score: the weights by which 'renoise' chooses its draws are a heuristic",
        )

    def _earlier(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s, c and ρ, each (B,); at t = 0 they are 0, 0 and 1."""
        t = t.clamp(min=torch.finfo(t.dtype).eps)
        ratio = (path.alpha(t) / path.beta(t)) ** 2
        growth = 2 + ratio / self.data_std**2
        s = path.time_at(ratio * growth)
        return s, path.beta(s) / path.beta(t), path.alpha(s) * (1 - 1 / growth).sqrt()
