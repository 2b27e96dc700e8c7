"""The triangular map between two mixtures: coordinate by coordinate, equal CDFs."""

from __future__ import annotations

import math
from typing import final

import attrs
import torch
from torch import Tensor

from align.models.isotropic import Isotropic

_TINY = 1e-300
_FLOOR = 1e-24  # of a variance, for a component that has shrunk to a point
_ROUNDS = 200


def transport(y: Tensor, source: Isotropic, target: Isotropic) -> Tensor:
    """Where the triangular map that takes `source` to `target` sends `y`.

    F_target(z_d | z_1 .. z_{d−1}) = F_source(y_d | y_1 .. y_{d−1}) for every coordinate d. In one
    dimension this is the flow map between two times of a flow. It is differentiable in `y` and in
    both mixtures, by the implicit function theorem.

    Args:
        y: (B, D).
        source: B mixtures in D dimensions.
        target: B mixtures in D dimensions.

    Returns:
        z, (B, D).

    Reference: Remarks on a multivariate transformation, Rosenblatt, 1952,
    doi:10.1214/aoms/1177729394.
    """
    before, after = _Line.of(source), _Line.of(target)
    alike = (_alike(source) & _alike(target)).tolist()
    result: list[Tensor] = []
    for d in range(y.shape[-1]):
        if alike[d]:
            # One Gaussian, from which no later coordinate learns anything.
            scale = (target.variances[:, 0] / source.variances[:, 0].clamp(min=_FLOOR)).sqrt()
            result.append(target.means[:, 0, d] + scale * (y[:, d] - source.means[:, 0, d]))
            continue
        start = before.along(source.means[..., d])
        end = after.along(target.means[..., d])
        result.append(_match(y[:, d], start, end))
        before, after = start.conditioned(y[:, d]), end.conditioned(result[-1])
    return torch.stack(result, -1)


def _alike(law: Isotropic) -> Tensor:
    """Which coordinates all components agree about, (D,): none where their widths differ."""
    means, variances = law.means.detach(), law.variances.detach()
    equal = bool((variances == variances[:, :1]).all())
    return (means == means[:, :1]).all(1).all(0) & equal


@final
@attrs.frozen(eq=False)
class _Line:
    """Mixtures on a line for R rows; components come first, (M, R), so that sums over them fly."""

    logits: Tensor
    means: Tensor
    stds: Tensor

    @classmethod
    def of(cls, law: Isotropic) -> _Line:
        """Before any coordinate is known."""
        stds = law.variances.T.clamp(min=_FLOOR).sqrt().contiguous()
        return cls(law.log_weights.T.contiguous(), torch.zeros_like(stds), stds)

    def along(self, means: Tensor) -> _Line:
        """The next coordinate, whose component means are (R, M)."""
        return attrs.evolve(self, logits=self.logits.log_softmax(0), means=means.T.contiguous())

    def conditioned(self, x: Tensor) -> _Line:
        """Weights after the coordinate was seen at `x` (R,)."""
        logits = self.logits - 0.5 * ((x - self.means) / self.stds).square() - self.stds.log()
        return attrs.evolve(self, logits=logits)

    def tail(self, x: Tensor, side: Tensor) -> Tensor:
        """P(X < x) where `side` is +1 and P(X > x) where it is −1, (R,); small ones are precise."""
        reach = side * (self.means - x) / self.stds
        terms: Tensor = self.logits.exp() * torch.special.erfc(reach * math.sqrt(0.5))
        return terms.sum(0) / 2

    def density(self, x: Tensor) -> Tensor:
        """Density at `x`, (R,)."""
        far = ((x - self.means) / self.stds).square()
        terms: Tensor = self.logits.exp() * torch.exp(-0.5 * far) / self.stds
        return terms.sum(0) / math.sqrt(2 * math.pi)

    def detached(self, rows: Tensor | None = None) -> _Line:
        """Some rows, or all, without the graph."""
        parts = (part.detach() for part in (self.logits, self.means, self.stds))
        return _Line(*(part if rows is None else part[:, rows] for part in parts))


def _match(y: Tensor, before: _Line, after: _Line) -> Tensor:
    """z (R,) with F_after(z) = F_before(y): solved without a graph, then one Newton step on it."""
    with torch.no_grad():
        fixed = before.detached()
        side = torch.where(fixed.tail(y.detach(), torch.ones_like(y)) > 0.5, -1.0, 1.0).to(y)
    level = before.tail(y, side)
    solved = _solve(level.detach(), side, after.detached())
    slope = after.detached().density(solved).clamp(min=_TINY)
    newton = side * (after.tail(solved, side) - level) / slope
    # Between two far points a CDF is flat, and a Newton step there would be noise.
    safe = newton.abs() < 1e-3 * after.stds.amin(0)
    z: Tensor = solved - torch.where(safe, newton, 0.0)
    return z


@torch.no_grad()
def _solve(level: Tensor, side: Tensor, line: _Line) -> Tensor:
    """Root z (R,) of line.tail(z, side) = level: Newton on the logarithm, kept in a bracket."""
    level = level.clamp(min=_TINY)
    quantiles = line.means + line.stds * side * torch.special.ndtri(level)
    low, high = quantiles.amin(0), quantiles.amax(0)
    z = (line.logits.exp() * quantiles).sum(0).clamp(low, high)
    result: Tensor = z.clone()
    rows = torch.arange(len(z), device=z.device)
    last = high - low
    for _ in range(_ROUNDS):
        tail = line.tail(z, side).clamp(min=_TINY)
        above = (tail > level) == (side > 0)
        low, high = torch.where(above, low, z), torch.where(above, z, high)
        step = -side * torch.log(tail / level) * tail / line.density(z).clamp(min=_TINY)
        good = (z + step > low) & (z + step < high) & (step.abs() <= 0.5 * last)
        step = torch.where(good, step, (low + high) / 2 - z)
        z, last = z + step, step.abs()
        result[rows] = z
        open_ = last > 1e-6 * line.stds.amin(0) + 4e-16 * z.abs()
        if not open_.any():
            break
        rows, z, last, low, high = (part[open_] for part in (rows, z, last, low, high))
        level, side, line = level[open_], side[open_], line.detached(open_)
    return result
