"""Training a flow map or a meta flow map: from data, from a teacher, or from both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self, final

import attrs
import torch
from torch import nn

from align.core.dataset import DatasetSpec
from align.core.errors import OptionError
from align.core.mode import Export, Need
from align.core.model import Condition, DataSampler, FlowModel, ModelSpec
from align.core.network import NetworkSpec, grown, make_network
from align.core.objective import Loss
from align.core.option import ConfigError, at_least, between, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.about import exported
from align.models.network_model import NetworkModel, nothing_to_grow_from, student_of
from align.modes.distill.consistency import ConsistencyLoss
from align.modes.distill.coupling import Clean, Coupling, Student
from align.modes.distill.diagonal import DiagonalTarget, TeacherTarget
from align.modes.distill.semigroup import Semigroup
from align.modes.distill.tilt import ROWS, Tilt
from align.modes.distill.times import Times
from align.modes.distill.weighting import LogLossNet, Weighting
from align.modes.pool import pool_of
from align.training.latents import Examples
from align.training.looks import POINTS, Looks
from align.training.loop import Training
from align.training.mode import Beside, TrainingMode, TrainingState


@final
@attrs.frozen(eq=False)
class DistillState(TrainingState):
    """A map under training.

    Attributes:
        coupling: the rows that it is trained on.
        tilt: their weights, where the map is to draw from the tilted posterior.
    """

    coupling: Coupling
    tilt: Tilt | None = None


@final
@attrs.frozen(kw_only=True)
class Distill(TrainingMode[DistillState]):
    """Trains a flow map or a meta flow map from a flow.

    Trains a map on the inner velocity on its diagonal, and on consistent jumps off it.

        L = E ‖v_{s,s}(I_s; t, x_t) − target‖² + E ‖residual of the consistency loss‖²

    Each row is weighed by `weighting`. The context x_t = α_t ε + β_t x1 and the inner state
    I_s = α_s ε' + β_s x1 share x1. A flow map has no context: all of its rows are at t = 0.
    Training starts from an exact copy of what the model has: a flow, a flow map or a meta flow map.

    With `tilt` a row counts e^{r(x1) − c} too. The mean of İ_s given (I_s, x_t) is then that of
    p*(x1 | x_t) ∝ p(x1 | x_t) e^{r(x1)}, and consistent jumps are what they were: in one go, the
    map is that of the fine-tuned flow, whose velocity is v_{t,t}(x; 0, 0).

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 33 and 73; Eq. 20 for
    means that are weighed by e^r.
    """

    kind: ClassVar[str] = "distill"

    role: Literal["meta_flow_map", "flow_map"] = option(
        "what the network is trained to be", default="meta_flow_map"
    )
    data: DatasetSpec | None = option(
        "data that x1 is taken from; without them, draws of the teacher, or a pool of its samples",
        default=None,
    )
    pool: int = option(
        "number of samples of the teacher that x1 is taken from where there are no data; they are"
        " made for model.prompt, and are no more than training sees",
        default=2048,
        check=at_least(1),
        grows="rows",
    )
    flow_steps: int = option(
        "Euler steps of the samples of a pool", default=50, check=at_least(1), grows="calls"
    )
    net: NetworkSpec | None = option(
        "network of the map; without it, an exact copy of the best that the model has", default=None
    )
    diagonal: DiagonalTarget = option(
        "target of the map on its diagonal, the inner velocity", default=TeacherTarget()
    )
    consistency: ConsistencyLoss = option(
        "loss that makes long jumps consistent", default=Semigroup()
    )
    guidance: float = option(
        "classifier-free guidance baked into targets from data; a teacher has `model.guidance`",
        default=1.0,
        check=at_least(1),
    )
    times: Times = option("distribution of the times that are trained", default=Times())
    weighting: Weighting = option("weights of the rows in the loss", default=Weighting())
    dropout: float = option(
        "share of rows trained without their class", default=0.1, check=between(0, 1)
    )
    tilt: bool = option(
        "whether rows count e^{r(x1) − c}, so that the map draws from the tilted posterior; rewards"
        " need no gradient, and their weights are the strength",
        default=False,
    )
    sample_every: int = option(
        "steps from one set of pictures in the record to the next", default=500, check=at_least(1)
    )

    def __attrs_post_init__(self) -> None:
        if not self.tilt:
            return
        for name, part in (("diagonal", self.diagonal), ("consistency", self.consistency)):
            if part.follows_teacher:
                kinds = "kind = 'data'" if name == "diagonal" else "velocity = 'self'"
                raise ValueError(
                    f"'tilt' needs a '{name}' with {kinds}: a teacher's velocity is not tilted"
                )

    @property
    def needs(self) -> frozenset[Need]:
        """The model, and a reward to tilt by."""
        return frozenset({"model", "reward"} if self.tilt else {"model"})

    def spec_problems(self, model: ModelSpec) -> Iterator[ConfigError]:
        """That there is no network, and the model has none."""
        if self.net is None and model.has_networks is False:
            yield ConfigError(("net",), f"the model has {nothing_to_grow_from(self.role)}")

    def check_model(self, model: FlowModel) -> None:
        """Raise OptionError where there is no network, and the model has none."""
        if self.net is None:
            networks = model.capability(NetworkModel)
            if networks is None:
                text = f"mode.net: the model has {nothing_to_grow_from(self.role)}"
                raise OptionError(text, ("mode", "net"))
            networks.highest_rung(self.role)

    def other_with(self, steps: int) -> str:
        """Shares of all steps, and a pool that is as large as training is long, are others."""
        for name in ("diagonal_until", "full_length_at", "context_start"):
            if getattr(self.times, name):
                return f"its '{name}' is a share of all steps"
        if self.data is None and min(self.steps, steps) * self.batch < self.pool:
            return "its 'pool' is no larger than training is long"
        return super().other_with(steps)

    def short(self) -> Self:
        """With a pool of one sample."""
        return attrs.evolve(self, pool=1, flow_steps=1)

    def before_steps(self, problem: Problem) -> Beside:
        """The pool, where there is one."""
        drawn = problem.model.capability(DataSampler) is not None
        count = 0 if drawn or self.data is not None else min(self.pool, self.steps * self.batch)
        rows = ROWS if self.tilt else 0
        return Beside(base=count * self.flow_steps, decoded=rows, scored=rows)

    def init(self, problem: Problem, streams: Streams) -> DistillState:
        """Make the map, and read or make its clean data.

        Raises:
            PartError: the model has no network that the map could start from, and there is no
                `net`; or `Clean.of` raises it.
        """
        model = student_of(problem)
        student = streams.fold_in("weights").initialise(lambda: self._untrained(model))

        def pool(conditions: Condition) -> Examples:
            count = min(self.pool, self.steps * self.batch)  # no more than training sees
            return pool_of(problem, problem.model, conditions, count, self.flow_steps, streams.seed)

        clean = Clean.of(self.data, problem, model, self.dropout, pool)
        return DistillState(
            Training.of(student.to(model.device), self.optimisation),
            Coupling(problem, model, self.role, clean, self.guidance),
            Tilt.of(problem, clean, streams) if self.tilt else None,
        )

    def loss(self, problem: Problem, state: DistillState, rows: Streams, index: int) -> Loss:
        """The squares on the diagonal and off it, weighed."""
        student, progress = _student(state.training.module), index / self.steps
        contexts, inner = state.coupling.inner(
            student.net, rows, self.times.context(rows, progress)
        )
        s, u, on_diagonal = self.times.jumps(rows, progress)
        s, u, on_diagonal = s.to(contexts.t), u.to(contexts.t), on_diagonal.to(contexts.t.device)
        near, far = torch.nonzero(on_diagonal)[:, 0], torch.nonzero(~on_diagonal)[:, 0]
        diagonal = inner(near)
        y, now = diagonal.state(s[near]), s[near]
        error = diagonal.average(y, now, now) - self.diagonal.target(diagonal, now)
        jumps = inner(far)
        residual = self.consistency.residual(jumps, s[far], u[far])
        squares = [difference.float().flatten(1).square() for difference in (error, residual)]
        chosen = torch.cat((near, far))
        values = self.weighting.losses(
            torch.cat([square.sum(1) for square in squares]),
            on_diagonal[chosen],
            torch.stack((s, u, contexts.t), 1)[chosen],
            student.log_loss,
        )
        if state.tilt is not None:
            x1 = torch.cat((diagonal.x1, jumps.x1))
            values = values * state.tilt.weights(x1, contexts.cond.rows(chosen))
        metrics = dict(zip(("diagonal", "consistency"), squares, strict=True))
        return Loss(values, {name: square.mean(1) for name, square in metrics.items()})

    def pictures(
        self, problem: Problem, state: DistillState, streams: Streams, index: int
    ) -> Looks | None:
        """Clean states and one-step draws by the map with averaged weights."""
        first, student = index * self.batch, _student(state.training.ema)
        if state.coupling.model.domain == "image":
            return state.coupling.looks(student.net, streams.numbered(first, 8))
        if state.coupling.model.shape != (2,):
            return None
        return state.coupling.looks(student.net, streams.numbered(first, POINTS))

    def exported_model(self, problem: Problem, state: DistillState, network: nn.Module) -> Export:
        """The map, beside what the model had; a tilted one alone, which is also the flow."""
        model, net = state.coupling.model, _student(network).net
        if self.tilt:
            model = model.with_module(net)
        return exported(model.with_net(self.role, net), problem.part)

    def _untrained(self, model: NetworkModel) -> Student:
        if self.net is not None:
            net = make_network(
                self.net, model.network_shape, len(model.classes), self.role, model.features
            )
        else:
            net = grown(model.highest_rung(self.role), self.role)
        return Student(net, LogLossNet() if self.weighting.learned else None)


def _student(module: nn.Module) -> Student:
    assert isinstance(module, Student)
    return module
