"""Mixtures of isotropic Gaussians, one for each of B rows, and their posteriors."""

from __future__ import annotations

import math
from typing import final

import attrs
import torch
from torch import Tensor

from align.core.path import expand
from align.core.quadratic import Form
from align.core.streams import Streams


@final
@attrs.frozen(eq=False)
class Isotropic:
    """Σ_k w_k N(m_k, v_k I) for each of B rows.

    Attributes:
        log_weights: log w_k, (B, M); each row sums to one in w.
        means: m_k, (B, M, D).
        variances: v_k >= 0, (B, M).
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor

    def noised(self, alpha: Tensor, beta: Tensor) -> Isotropic:
        """Law of β x + α ε with ε ~ N(0, I): means β m_k, variances α² + β² v_k; α, β are (B,)."""
        variances = (alpha**2)[:, None] + (beta**2)[:, None] * self.variances
        means = expand(beta, self.means) * self.means
        return Isotropic(self.log_weights.expand(variances.shape), means, variances)

    def posterior(self, x: Tensor, alpha: Tensor, beta: Tensor) -> Isotropic:
        """Law of x1 given that β x1 + α ε is `x` (B, D); finite at α = 0 and at β = 0."""
        noised = self.noised(alpha, beta)
        remaining = alpha[:, None] ** 2 / noised.variances
        gain = beta[:, None] * self.variances / noised.variances
        return Isotropic(
            torch.log_softmax(noised.log_terms(x), -1),
            remaining[..., None] * self.means + gain[..., None] * x[:, None],
            remaining * self.variances,
        )

    def log_terms(self, x: Tensor) -> Tensor:
        """log w_k + log N(x; m_k, v_k I), (B, M), at `x` (B, D)."""
        square = (x[:, None] - self.means).square().sum(-1)
        size = x.shape[-1] * torch.log(2 * math.pi * self.variances)
        return self.log_weights - 0.5 * (square / self.variances + size)

    def log_prob(self, x: Tensor) -> Tensor:
        """log density (B,) at `x` (B, D)."""
        return torch.logsumexp(self.log_terms(x), -1)

    def mean(self) -> Tensor:
        """Mean, (B, D)."""
        return (self.log_weights.exp()[..., None] * self.means).sum(1)

    def log_tilts(self, form: Form) -> Tensor:
        """log E_k[e^{r}] of every component, (B, M)."""
        return form.log_means(self.means, self.variances)

    def draw(self, streams: Streams, draws: int, form: Form | None = None) -> Tensor:
        """Draws (N, B, D), after tilting by e^{r} when there is a form.

        The tilted components have precision I/v + P and mean m + v (I + v P)⁻¹ (h − P m).
        """
        size = self.means.shape[-1]
        logits = self.log_weights if form is None else self.log_weights + self.log_tilts(form)
        bounds = torch.softmax(logits, -1).cumsum(-1)[..., :-1]
        place = streams.fold_in("component").uniform((1,), draws=draws).to(bounds)
        chosen = (place > bounds).sum(-1)
        rows = torch.arange(chosen.shape[1], device=chosen.device) % len(self.means)
        means, variances = self.means[rows, chosen], self.variances[rows, chosen][..., None]
        noise = streams.fold_in("element").normal((size,), draws=draws).to(means)
        if form is None:
            return means + variances.sqrt() * noise
        scale = 1 + variances * form.quadratic
        centre = means @ form.axes
        centre = centre + variances / scale * (form.linear - form.quadratic * centre)
        return (centre + (variances / scale).sqrt() * noise) @ form.axes.T
