"""Training a meta flow map from a teacher that has a velocity."""

from __future__ import annotations

from typing import Any, ClassVar, final

import attrs
import torch
from torch import Tensor, nn

from align.core.guard import unguarded
from align.core.mode import AlignmentMode, Export, Info, Need, Trains
from align.core.model import At, Condition, FlowModel, Population
from align.core.option import above, at_least, between, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.errors import PartError
from align.models.latents import Examples, encoded
from align.models.network import (
    Net,
    NetworkModel,
    about_of,
    make_net,
    modules_of,
    network_of,
)
from align.nets.dit import DiT, meta_flow_map_from
from align.objectives.eulerian import Eulerian
from align.objectives.semigroup import Semigroup
from align.samplers.glass import glass_velocity
from align.training.data import Pictures
from align.training.loop import Optimisation, Training, advance


@final
@attrs.frozen(eq=False)
class MapState:
    """Weights under way, the model they belong to, and the examples, if they are not drawn."""

    training: Training
    model: NetworkModel
    examples: Examples | None


@final
@attrs.frozen(kw_only=True)
class Distill(AlignmentMode[MapState], Trains[MapState]):
    """Trains a meta flow map on the teacher's GLASS velocity, and its jumps to be consistent.

        L = E w(Δ₁) ‖Δ₁‖² + E w(Δ₂) ‖Δ₂‖²,   w(Δ) = 1 / (‖Δ‖² + c)^p without gradient,
        Δ₁ = v_{s,s}(I_s; t, x_t) − b̄_s(I_s; t, x_t),   Δ₂ the consistency's residual.

    The context x_t = α_t ε + β_t x1 and the inner state I_s = α_s ε' + β_s x1 share x1. Weights
    (p > 0; the paper's best are 0.5 and 1) suit consistencies with a teacher; a self-consistency,
    whose residual is small for any constant map, then lets the diagonal go.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 33 and 73.
    """

    kind: ClassVar[str] = "distill"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    data: Pictures | None = option(
        "the pictures; without them x1 is drawn from the teacher, if it can", default=None
    )
    net: Net | None = option(
        "network of the map; without it, an exact copy of the teacher's flow", default=None
    )
    consistency: Semigroup | Eulerian = option("what makes jumps consistent", default=Semigroup())
    optimisation: Optimisation = option("how weights are changed", default=Optimisation())
    steps: int = option("number of steps", default=4000, check=at_least(1))
    dropout: float = option("share of rows trained without their class", default=0.1,
                            check=between(0, 1))  # fmt: skip
    diagonal: float = option("share of a batch's rows on the diagonal", default=0.5,
                             check=between(0, 1))  # fmt: skip
    context_power: float = option("context times are t = U^power", default=2.0,
                                  check=at_least(0))  # fmt: skip
    context_zero: float = option("share of rows whose context time is 0", default=0.1,
                                 check=between(0, 1))  # fmt: skip
    adapt_diagonal: float = option("p of the weight on the diagonal; 0 is none", default=0.0)
    adapt_consistency: float = option("p of the weight off the diagonal", default=0.0)
    floor: float = option("c of the weights", default=0.01, check=above(0))
    look: int = option("steps between pictures in the record", default=500, check=at_least(1))

    def init(self, problem: Problem, streams: Streams) -> MapState:
        """Make the map and read the pictures."""
        teacher = unguarded(problem).model
        if self.net is None or isinstance(teacher, NetworkModel):
            model = network_of(problem)
        else:
            model = NetworkModel(shape=teacher.shape, domain=teacher.domain, device=teacher.device)
        posterior = streams.at("weights").initialise(lambda: self._untrained(model))
        model = attrs.evolve(model, posterior=posterior.to(model.device))
        examples = encoded(self.data, model) if self.data else None
        if examples is None and not isinstance(teacher, Population):
            raise PartError("mode: this teacher cannot draw its own data; give 'mode.data'")
        return MapState(Training.of(posterior, self.optimisation), model, examples)

    def step(
        self, problem: Problem, state: MapState, index: int, streams: Streams
    ) -> tuple[MapState, Info]:
        """One step on the diagonal and off it."""
        student = attrs.evolve(state.model, posterior=state.training.module)

        def loss(rows: Streams) -> tuple[Tensor, dict[str, Tensor]]:
            x1, label = self._examples(problem, state, rows)
            at = self._context(state.model, x1, label, rows)
            noise = rows.at("inner").normal(state.model.shape).to(x1)
            ends = rows.at("inner times").uniform((2,)).to(x1).sort(1).values
            alone = self._alone(rows).to(x1.device)
            s = torch.where(alone, rows.at("s").uniform(()).to(x1), ends[:, 0])
            u = torch.where(alone, s, ends[:, 1])
            y = state.model.path.interpolate(noise, x1, s)
            here, away = torch.nonzero(alone)[:, 0], torch.nonzero(~alone)[:, 0]
            near, far = at.rows(here), at.rows(away)
            target = _inner(problem.model, y[here], s[here], near)
            straight = student.posterior_velocity(y[here], s[here], s[here], near)
            residual = self.consistency.residual(
                lambda a, b, c: student.posterior_velocity(a, b, c, far),
                lambda a, b: _inner(problem.model, a, b, far),
                y[away], s[away], u[away], rows.rows(away),
            )  # fmt: skip
            said = {"diagonal": straight - target, "consistency": residual}
            said = {name: each.float().flatten(1).square() for name, each in said.items()}
            first = _weighed(said["diagonal"].sum(1), self.adapt_diagonal, self.floor)
            second = _weighed(said["consistency"].sum(1), self.adapt_consistency, self.floor)
            return torch.cat((first, second)), {n: each.mean(1) for n, each in said.items()}

        numbers = advance(state.training, loss, self.optimisation, streams, index, self.steps)
        look = (index + 1) % self.look == 0 or index + 1 == self.steps
        show = look and state.model.domain == "image"
        shown = streams.numbered(index * self.optimisation.batch, 8)
        return state, Info(numbers, self._pictures(problem, state, shown) if show else None)

    def finish(self, problem: Problem, state: MapState) -> None:
        """No samples: the last step's pictures show what was learnt."""

    def save(self, state: MapState) -> dict[str, Any]:
        """Weights, their running mean and the optimiser."""
        return state.training.save()

    def restore(self, state: MapState, saved: dict[str, Any]) -> None:
        """Take up where `saved` was."""
        state.training.restore(saved)

    def export(self, problem: Problem, state: MapState) -> Export:
        """The running mean of the map's weights, beside the teacher's flow where it has one."""
        model = attrs.evolve(state.model, posterior=state.training.average)
        return Export(modules_of(model), about_of(model))

    def _untrained(self, model: NetworkModel) -> nn.Module:
        """The map before training: its own network, or a copy of the model's flow."""
        if self.net is not None:
            return make_net(self.net, model.shape, len(model.classes), context=True)
        flow = model.require_flow()
        if not isinstance(flow, DiT):
            raise PartError("mode: only a 'dit' flow can be copied; give the map its own 'net'")
        return meta_flow_map_from(flow)

    def _examples(self, problem: Problem, state: MapState, rows: Streams) -> tuple[Tensor, Tensor]:
        """Clean states (b, *S) and labels (b,) of these rows of training."""
        if state.examples is not None:
            return state.examples.rows(rows, self.dropout)
        teacher = unguarded(problem).model
        assert isinstance(teacher, Population)
        x1 = teacher.draw(rows.at("data")).to(state.model.dtype)
        return x1, torch.zeros(len(x1), dtype=torch.int64, device=x1.device)

    def _alone(self, rows: Streams) -> Tensor:
        """Which rows (b,) are on the diagonal: evenly spread over all rows of training."""
        numbers = torch.tensor(rows.samples, dtype=torch.float64)
        return ((numbers + 1) * self.diagonal).floor() > (numbers * self.diagonal).floor()

    def _context(self, model: NetworkModel, x1: Tensor, label: Tensor, fresh: Streams) -> At:
        """Noisy states of x1 at times that are often early, sometimes 0."""
        t = fresh.at("t").uniform(()).to(x1) ** self.context_power
        t = torch.where(fresh.at("zero").uniform(()).to(x1) < self.context_zero, 0.0, t)
        # Times of exactly 1 leave nothing to learn and divide by zero.
        t = t.clamp(max=1 - 1e-3)
        noise = fresh.at("context").normal(model.shape).to(x1)
        x = model.path.interpolate(noise, x1, t)
        return At(x, t, Condition(("",) * len(x), {"label": label}))

    @torch.no_grad()
    def _pictures(self, problem: Problem, state: MapState, rows: Streams) -> Tensor:
        """Clean pictures, and one-step draws given their states at t = 0, 0.2 and 0.5."""
        model = attrs.evolve(state.model, posterior=state.training.average)
        x1, label = self._examples(problem, state, rows)
        cond, shown = Condition(("",) * len(x1), {"label": label}), [x1]
        noise = Streams(0, tuple(range(len(x1)))).normal(model.shape, draws=2).to(x1)
        zero = torch.zeros(len(x1)).to(x1)
        for time in (0.0, 0.2, 0.5):
            at = At(model.path.interpolate(noise[0], x1, zero + time), zero + time, cond)
            shown.append(model.posterior_jump(noise[1], zero, zero + 1, at))
        return model.decode(torch.cat(shown))


def _weighed(square: Tensor, power: float, floor: float) -> Tensor:
    """w(Δ) ‖Δ‖² (b,) of ‖Δ‖² (b,)."""
    return square / (square.detach() + floor) ** power


@torch.no_grad()
def _inner(teacher: FlowModel, y: Tensor, s: Tensor, at: At) -> Tensor:
    """The teacher's GLASS velocity in its own precision, and back in the student's; (B, *S)."""
    if len(y) == 0:
        return y
    s = s.clamp(max=1 - 1e-4)
    exact = At(at.x.to(teacher.dtype), at.t.to(teacher.dtype), at.cond)
    return glass_velocity(teacher, y.to(teacher.dtype), s.to(teacher.dtype), exact).to(y)
