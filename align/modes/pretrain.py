"""Training a flow by flow matching."""

from __future__ import annotations

from typing import Any, ClassVar, final

import attrs
import torch
from torch import Tensor, nn

from align.core.dataset import DatasetSpec
from align.core.mode import AlignmentMode, Export, Info, Need, Trainable
from align.core.model import Condition
from align.core.option import at_least, between, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.about import about_of, modules_of
from align.models.network_model import NetworkModel, network_of
from align.modes.sampling.rollout import flow
from align.training.latents import Examples, encoded
from align.training.loop import Optimisation, Training, advance


@final
@attrs.frozen(eq=False)
class FlowState:
    """Weights under way, the latents they are trained on, and the model they belong to."""

    training: Training
    examples: Examples
    model: NetworkModel


@final
@attrs.frozen(kw_only=True)
class Pretrain(AlignmentMode[FlowState], Trainable[FlowState]):
    """Trains the flow of the model: min E ‖b_t(I_t, c) − İ_t‖² over data, noise and time.

    Reference: Flow Matching for Generative Modeling, Lipman et al., 2022, arXiv:2210.02747, Eq. 9;
    Classifier-Free Diffusion Guidance, Ho, Salimans, 2022, arXiv:2207.12598, Alg. 1 (dropout).
    """

    kind: ClassVar[str] = "pretrain"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    data: DatasetSpec = option("the data")
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

    def init(self, problem: Problem, streams: Streams) -> FlowState:
        """Encode the pictures; training starts from the model's own weights."""
        model = network_of(problem)
        examples = encoded(self.data, model.encoding())
        return FlowState(Training.of(model.require_flow(), self.optimisation), examples, model)

    def step(
        self, problem: Problem, state: FlowState, index: int, streams: Streams
    ) -> tuple[FlowState, Info]:
        """One step of flow matching."""
        model = state.model
        student = attrs.evolve(model, flow=state.training.module, guidance=1.0)

        def loss(rows: Streams) -> tuple[Tensor, dict[str, Tensor]]:
            x1, label = state.examples.rows(rows, self.dropout)
            noise = rows.fold_in("noise").normal(model.shape).to(x1)
            t = rows.fold_in("time").uniform(()).to(x1)
            x = model.path.interpolate(noise, x1, t)
            rate = model.path.rate(noise, x1, t)
            cond = Condition(("",) * len(x), {"label": label})
            return (student.velocity(x, t, cond) - rate).square().flatten(1).mean(1), {}

        numbers = advance(state.training, loss, self.optimisation, streams, index, self.steps)
        due = (index + 1) % self.sample_every == 0 or index + 1 == self.steps
        shown = due and model.domain == "image"
        return state, Info(numbers, self._pictures(state, streams) if shown else None)

    def finish(self, problem: Problem, state: FlowState) -> None:
        """No samples: the last step's pictures show what was learnt."""

    def save(self, state: FlowState) -> dict[str, Any]:
        """Weights, their running mean and the optimiser."""
        return state.training.save()

    def restore(self, state: FlowState, saved: dict[str, Any]) -> None:
        """Take up where `saved` was."""
        state.training.restore(saved)

    def export(self, problem: Problem, state: FlowState) -> Export:
        """The running mean of the flow's weights, and its autoencoder."""

        def export(flow: nn.Module) -> Export:
            model = attrs.evolve(state.model, flow=flow)
            return Export(modules_of(model), about_of(model))

        return state.training.exported(export)

    @torch.no_grad()
    def _pictures(self, state: FlowState, streams: Streams) -> Tensor:
        model = attrs.evolve(state.model, flow=state.training.ema)
        start = streams.fold_in("start").normal(model.shape).to(model.device, model.dtype)
        cond = model.class_grid(len(streams.samples))
        return model.decode(flow(model, start, cond, steps=25))
