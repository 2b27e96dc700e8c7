"""Training a flow map or a meta flow map: from data, from a teacher, or from both."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor, nn

from align.core.dataset import DatasetSpec
from align.core.mode import AlignmentMode, Export, Info, Need, Trainable
from align.core.model import DataSampler
from align.core.network import NetworkSpec, grown, make_network
from align.core.option import at_least, between, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.errors import PartError
from align.models.about import about_of, modules_of
from align.models.network_model import NetworkModel, network_of
from align.modes.distill.coupling import Coupling, Student
from align.modes.distill.diagonal import Data, Teacher
from align.modes.distill.eulerian import Eulerian
from align.modes.distill.lagrangian import Lagrangian
from align.modes.distill.mean_flow import MeanFlow
from align.modes.distill.semigroup import Semigroup
from align.modes.distill.shortcut import Shortcut
from align.modes.distill.times import Times
from align.modes.distill.weighting import LogLossNet, Weighting
from align.training.latents import encoded
from align.training.loop import Optimisation, Training, advance

AnyConsistency: TypeAlias = Semigroup | Shortcut | Eulerian | Lagrangian | MeanFlow


@final
@attrs.frozen(eq=False)
class MapState:
    """Weights under way, and what they are trained on."""

    training: Training
    coupling: Coupling


@final
@attrs.frozen(kw_only=True)
class Distill(AlignmentMode[MapState], Trainable[MapState]):
    """Teaches a map its inner velocity on the diagonal, and its jumps to be consistent with it.

        L = E ‖v_{s,s}(I_s; t, x_t) − target‖² + E ‖residual of the consistency‖²

    each row weighed as `weighting` says. The context x_t = α_t ε + β_t x1 and the inner state
    I_s = α_s ε' + β_s x1 share x1. A flow map has no context: everything is at t = 0. Training
    starts from an exact copy of what the model has: a flow, a flow map or a meta flow map.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 33 and 73.
    """

    kind: ClassVar[str] = "distill"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    role: Literal["meta_flow_map", "flow_map"] = option("what is trained", default="meta_flow_map")
    data: DatasetSpec | None = option(
        "the pictures; without them x1 is drawn from the teacher, if it can", default=None
    )
    net: NetworkSpec | None = option(
        "network of the map; without it, an exact copy of the best the model has", default=None
    )
    diagonal: Teacher | Data = option("what the diagonal is taught", default=Teacher())
    consistency: AnyConsistency = option("what makes jumps consistent", default=Semigroup())
    guidance: float = option(
        "classifier-free guidance baked into targets from data; a teacher has `model.guidance`",
        default=1.0,
        check=at_least(1),
    )
    times: Times = option("the times that are trained", default=Times())
    weighting: Weighting = option("how much rows count", default=Weighting())
    optimisation: Optimisation = option("how weights are changed", default=Optimisation())
    steps: int = option("number of steps", default=4000, check=at_least(1))
    dropout: float = option(
        "share of rows trained without their class", default=0.1, check=between(0, 1)
    )
    sample_every: int = option(
        "steps between pictures in the record", default=500, check=at_least(1)
    )

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return self.optimisation.batch

    def init(self, problem: Problem, streams: Streams) -> MapState:
        """Make the map and read the pictures."""
        teacher = problem.model
        if self.net is None or teacher.capability(NetworkModel) is not None:
            model = network_of(problem)
        else:
            model = NetworkModel(shape=teacher.shape, domain=teacher.domain, device=teacher.device)
        if self.data is None and teacher.capability(DataSampler) is None:
            raise PartError("mode: this teacher cannot draw its own data; give 'mode.data'")
        student = streams.fold_in("weights").initialise(lambda: self._untrained(model))
        examples = encoded(self.data, model.encoding()) if self.data else None
        return MapState(
            Training.of(student.to(model.device), self.optimisation),
            Coupling(problem, model, self.role, examples, self.dropout, self.guidance),
        )

    def step(
        self, problem: Problem, state: MapState, index: int, streams: Streams
    ) -> tuple[MapState, Info]:
        """One step on the diagonal and off it."""
        student, done = state.training.module, index / self.steps
        assert isinstance(student, Student)

        def loss(rows: Streams) -> tuple[Tensor, dict[str, Tensor]]:
            noisy, inner = state.coupling.inner(student.net, rows, self.times.context(rows, done))
            s, u, alone = self.times.jumps(rows, done)
            s, u, alone = s.to(noisy.t), u.to(noisy.t), alone.to(noisy.t.device)
            near, far = torch.nonzero(alone)[:, 0], torch.nonzero(~alone)[:, 0]
            on = inner(near)
            y, here = on.state(s[near]), s[near]
            straight = on.average(y, here, here) - self.diagonal.target(on, here)
            residual = self.consistency.residual(inner(far), s[far], u[far])
            squares = [each.float().flatten(1).square() for each in (straight, residual)]
            chosen = torch.cat((near, far))
            losses = self.weighting.losses(
                torch.cat([each.sum(1) for each in squares]),
                alone[chosen],
                torch.stack((s, u, noisy.t), 1)[chosen],
                student.level,
            )
            said = dict(zip(("diagonal", "consistency"), squares, strict=True))
            return losses, {name: each.mean(1) for name, each in said.items()}

        numbers = advance(state.training, loss, self.optimisation, streams, index, self.steps)
        due = (index + 1) % self.sample_every == 0 or index + 1 == self.steps
        if not due or state.coupling.model.domain != "image":
            return state, Info(numbers)
        shown = streams.numbered(index * self.optimisation.batch, 8)
        return state, Info(numbers, state.coupling.pictures(self._averaged(state), shown))

    def finish(self, problem: Problem, state: MapState) -> None:
        """No samples: the last step's pictures show what was learnt."""

    def save(self, state: MapState) -> dict[str, Any]:
        """Weights, their running mean and the optimiser."""
        return state.training.save()

    def restore(self, state: MapState, saved: dict[str, Any]) -> None:
        """Take up where `saved` was."""
        state.training.restore(saved)

    def export(self, problem: Problem, state: MapState) -> Export:
        """The running mean of the map's weights, beside what the model had."""

        def export(student: nn.Module) -> Export:
            assert isinstance(student, Student)
            model = state.coupling.model.with_net(self.role, student.net)
            return Export(modules_of(model), about_of(model))

        return state.training.exported(export)

    def _untrained(self, model: NetworkModel) -> Student:
        if self.net is not None:
            net = make_network(self.net, model.shape, len(model.classes), self.role)
        else:
            net = grown(model.highest_rung(self.role), self.role)
        return Student(net, LogLossNet() if self.weighting.learned else None)

    def _averaged(self, state: MapState) -> nn.Module:
        """The map with the running mean of its weights."""
        student = state.training.ema
        assert isinstance(student, Student)
        return student.net
