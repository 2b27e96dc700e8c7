"""What a map is trained on: coupled contexts and inner flows; and the student itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs
import torch
from torch import Tensor, nn

from align.core.dataset import DatasetSpec
from align.core.errors import PartError
from align.core.model import Condition, DataSampler, FlowModel, NoisyState
from align.core.network import Role
from align.core.path import times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.network_model import NetworkModel, null_of
from align.modes.distill.inner import AverageVelocity, InnerFlow
from align.modes.distill.weighting import LogLossNet
from align.samplers.glass import glass_velocity
from align.training.latents import Examples, encoded
from align.training.looks import Looks, in_the_plane


@final
class Student(nn.Module):
    """Everything that is trained: a map, and the network of its log loss where that is learnt."""

    def __init__(self, net: nn.Module, log_loss: LogLossNet | None) -> None:
        super().__init__()
        self.net, self.log_loss = net, log_loss


@final
@attrs.frozen(eq=False)
class Clean:
    """Clean states with their conditions: data, draws of the teacher, or a pool of its samples.

    Attributes:
        problem: the problem, whose model is the teacher.
        model: the model that the map belongs to.
        conditions: what rows are conditioned on, by the numbers that label them; the last one is
            no class, where `has_null`. None where labels are all of a condition.
        has_null: whether rows may be trained without their condition.
        examples: the clean states; None where the teacher draws them.
        dropout: share of rows without their condition.
    """

    problem: Problem
    model: NetworkModel
    conditions: Condition | None
    has_null: bool
    examples: Examples | None
    dropout: float

    @classmethod
    def of(
        cls,
        data: DatasetSpec | None,
        problem: Problem,
        model: NetworkModel,
        dropout: float,
        pool: Callable[[Condition], Examples],
    ) -> Clean:
        """Encode the data, or make a `pool` of the teacher's samples if it cannot draw any.

        Raises:
            PartError: the data are not the model's, or do not say which prompt they are of.
        """
        if data is not None and model.teacher is None:
            examples = encoded(data, model.encoding())
            return cls(problem, model, None, True, examples, dropout)
        if data is not None and not model.classes and len(problem.prompts) > 1:
            raise PartError(
                f"mode.data: rows do not say which of {len(problem.prompts)} prompts they are of;"
                " leave the data out, so that the model makes samples for each"
            )
        named = model.classes if data is not None and model.classes else problem.prompts
        null = null_of(problem.model) is not None
        prompts = (*named, "") if null else tuple(named)
        clean = cls(problem, model, problem.model.encode(prompts), null, None, dropout)
        if data is not None:
            examples = encoded(data, model.encoding())
        elif problem.model.capability(DataSampler) is not None:
            return clean
        else:
            examples = pool(problem.model.encode(problem.prompts))
        return attrs.evolve(clean, examples=attrs.evolve(examples, null_label=len(named)))

    def rows(self, rows: Streams) -> tuple[Tensor, Condition]:
        """Clean states (b, *S) of these rows of training, and their conditions."""
        if self.examples is not None:
            x1, label = self.examples.rows(rows, self.dropout if self.has_null else 0.0)
            if self.conditions is None:
                return x1, Condition(("",) * len(x1), {"label": label})
            return x1, self.conditions.rows(label)
        teacher = self.problem.model.capability(DataSampler)
        assert teacher is not None
        assert self.conditions is not None
        x1 = teacher.draw(rows.fold_in("data")).to(self.model.dtype)
        known = len(self.conditions) - self.has_null
        return x1, self.conditions.rows(torch.tensor([row % known for row in rows.samples]))

    def names(self, cond: Condition) -> tuple[str, ...]:
        """What rows of a condition are of: their prompts, or the names of their classes."""
        if self.conditions is not None or "label" not in cond.tensors:
            return cond.prompts
        classes = (*self.model.classes, "")
        return tuple(classes[label] for label in cond.tensors["label"].tolist())

    def null(self, count: int) -> Condition:
        """A condition of `count` rows of no class.

        Raises:
            PartError: the teacher follows no empty prompt.
        """
        if self.conditions is None:
            return self.model.null_condition(count)
        if not self.has_null:
            raise PartError(
                "mode.guidance: guidance is away from samples of no prompt, and the model refuses"
                " an empty one; leave guidance out"
            )
        return self.conditions.rows(torch.full((count,), len(self.conditions) - 1))


@final
@attrs.frozen(eq=False)
class Coupling:
    """Rows of clean data, each seen twice: as a context x_t and as a state of the inner flow.

    Attributes:
        problem: the problem, whose model is the teacher.
        model: the model that the map belongs to.
        role: role of the map in the model.
        clean: the clean data.
        guidance: guidance that is baked into targets from data.
    """

    problem: Problem
    model: NetworkModel
    role: Role
    clean: Clean
    guidance: float

    def inner(
        self, student: nn.Module, rows: Streams, t: Tensor
    ) -> tuple[NoisyState, Callable[[Tensor], InnerFlow]]:
        """Contexts at times t (b,), and a function that makes the inner flow of given rows."""
        x1, cond = self.clean.rows(rows)
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
                unconditional=lambda y, s, u: self._average(
                    model, attrs.evolve(contexts, cond=self.clean.null(len(chosen)))
                )(y, s, u),
                teacher=lambda y, s: _teacher_velocity(self.problem.model, y, s, contexts),
                streams=rows.rows(chosen),
            )

        return noisy, inner

    def _average(self, model: NetworkModel, noisy: NoisyState) -> AverageVelocity:
        if self.role == "flow_map":
            return lambda y, s, u: model.average_velocity(y, s, u, noisy.cond)
        return lambda y, s, u: model.posterior_velocity(y, s, u, noisy)

    @torch.no_grad()
    def looks(self, student: nn.Module, rows: Streams) -> Looks | None:
        """Clean states, and one-step draws: by the flow map, or given their states at some t.

        Pictures with their classes, and points with the times.
        """
        x1, cond = self.clean.rows(rows)
        model, shown = self.model.with_net(self.role, student), {"data": x1}
        noise = Streams(0, tuple(range(len(x1)))).normal(model.shape, draws=2).to(x1)
        zero = times_of(x1, 0.0)
        if self.role == "flow_map":
            shown["jumps from noise"] = model.jump(noise[1], zero, zero + 1, cond)
        for time in (0.0, 0.2, 0.5) if self.role != "flow_map" else ():
            noisy = NoisyState(model.path.interpolate(noise[0], x1, zero + time), zero + time, cond)
            draws = model.posterior_jump(noise[1], zero, zero + 1, noisy)
            shown[f"draws at t = {time:g}"] = draws
        if model.domain == "vector":
            return in_the_plane({name: model.decode(states) for name, states in shown.items()})
        names = self.clean.names(cond)
        return Looks(model.decode(torch.cat([*shown.values()])), names * len(shown))


@torch.no_grad()
def _teacher_velocity(teacher: FlowModel, y: Tensor, s: Tensor, noisy: NoisyState) -> Tensor:
    """The teacher's GLASS velocity in its own precision, and back in the student's; (B, *S)."""
    if len(y) == 0:
        return y
    s = s.clamp(max=1 - 1e-4)
    x = noisy.x.to(teacher.dtype)
    exact = NoisyState(x, times_of(x, noisy.t), noisy.cond)
    return glass_velocity(teacher, y.to(x), times_of(x, s), exact).to(y)
