"""What a map is trained on: coupled contexts and inner flows; and the student itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs
import torch
from torch import Tensor, nn

from align.core.model import Condition, DataSampler, FlowModel, NoisyState
from align.core.network import Role
from align.core.path import times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.network_model import NetworkModel
from align.modes.distill.inner import AverageVelocity, InnerFlow
from align.modes.distill.weighting import LogLossNet
from align.samplers.glass import glass_velocity
from align.training.latents import Examples


@final
class Student(nn.Module):
    """Everything that is trained: a map, and the network of its log loss where that is learnt."""

    def __init__(self, net: nn.Module, log_loss: LogLossNet | None) -> None:
        super().__init__()
        self.net, self.log_loss = net, log_loss


@final
@attrs.frozen(eq=False)
class Coupling:
    """Rows of clean data, each seen twice: as a context x_t and as a state of the inner flow.

    Attributes:
        problem: the problem, whose model is the teacher.
        model: the model that the map belongs to.
        role: role of the map in the model.
        examples: the clean data; None where the teacher draws them.
        dropout: share of rows without their class.
        guidance: guidance that is baked into targets from data.
    """

    problem: Problem
    model: NetworkModel
    role: Role
    examples: Examples | None
    dropout: float
    guidance: float

    def clean(self, rows: Streams) -> tuple[Tensor, Condition]:
        """Clean states (b, *S) of these rows of training, and their classes."""
        if self.examples is not None:
            x1, label = self.examples.rows(rows, self.dropout)
        else:
            teacher = self.problem.model.capability(DataSampler)
            assert teacher is not None
            x1 = teacher.draw(rows.fold_in("data")).to(self.model.dtype)
            label = torch.zeros(len(x1), dtype=torch.int64, device=x1.device)
        return x1, Condition(("",) * len(x1), {"label": label})

    def inner(
        self, student: nn.Module, rows: Streams, t: Tensor
    ) -> tuple[NoisyState, Callable[[Tensor], InnerFlow]]:
        """Contexts at times t (b,), and a function that makes the inner flow of given rows."""
        x1, cond = self.clean(rows)
        t = torch.zeros_like(t) if self.role == "flow_map" else t
        t, shape = times_of(x1, t), self.model.shape
        noisy = NoisyState(
            self.model.path.interpolate(rows.fold_in("context").normal(shape).to(x1), x1, t),
            t,
            cond,
        )
        noise, model = (
            rows.fold_in("inner").normal(shape).to(x1),
            self.model.with_net(self.role, student),
        )

        def inner(chosen: Tensor) -> InnerFlow:
            contexts = noisy.rows(chosen)
            return InnerFlow(
                path=model.path,
                noise=noise[chosen],
                x1=x1[chosen],
                guidance=self.guidance,
                average=self._average(model, contexts),
                unconditional=self._average(
                    model, attrs.evolve(contexts, cond=model.null_condition(len(chosen)))
                ),
                teacher=lambda y, s: _teacher_velocity(self.problem.model, y, s, contexts),
                streams=rows.rows(chosen),
            )

        return noisy, inner

    def _average(self, model: NetworkModel, noisy: NoisyState) -> AverageVelocity:
        if self.role == "flow_map":
            return lambda y, s, u: model.average_velocity(y, s, u, noisy.cond)
        return lambda y, s, u: model.posterior_velocity(y, s, u, noisy)

    @torch.no_grad()
    def pictures(self, student: nn.Module, rows: Streams) -> Tensor:
        """Clean pictures, and one-step draws: by the flow map, or given their states at some t."""
        x1, cond = self.clean(rows)
        model, shown = self.model.with_net(self.role, student), [x1]
        noise = Streams(0, tuple(range(len(x1)))).normal(model.shape, draws=2).to(x1)
        zero = times_of(x1, 0.0)
        if self.role == "flow_map":
            return model.decode(torch.cat((x1, model.jump(noise[1], zero, zero + 1, cond))))
        for time in (0.0, 0.2, 0.5):
            noisy = NoisyState(model.path.interpolate(noise[0], x1, zero + time), zero + time, cond)
            shown.append(model.posterior_jump(noise[1], zero, zero + 1, noisy))
        return model.decode(torch.cat(shown))


@torch.no_grad()
def _teacher_velocity(teacher: FlowModel, y: Tensor, s: Tensor, noisy: NoisyState) -> Tensor:
    """The teacher's GLASS velocity in its own precision, and back in the student's; (B, *S)."""
    if len(y) == 0:
        return y
    s = s.clamp(max=1 - 1e-4)
    x = noisy.x.to(teacher.dtype)
    exact = NoisyState(x, times_of(x, noisy.t), noisy.cond)
    return glass_velocity(teacher, y.to(x), times_of(x, s), exact).to(y)
