"""Training a flow by flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, final

import attrs
import torch
from torch import Tensor, nn

from align.core.dataset import DatasetSpec
from align.core.errors import PartError
from align.core.mode import Export, Need
from align.core.model import Condition
from align.core.objective import Loss
from align.core.option import at_least, between, option
from align.core.path import times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.about import about_of, modules_of
from align.models.network_model import NetworkModel, network_of
from align.modes.sampling.rollout import flow
from align.training.latents import Examples, encoded
from align.training.looks import POINTS, Looks, in_the_plane
from align.training.loop import Training
from align.training.mode import Beside, TrainingMode, TrainingState

PICTURE_STEPS: Final = 25
"""Steps of the samples in pictures."""

CHUNK: Final = 128
"""Rows of an evaluation that go through the network at once."""


@final
@attrs.frozen(eq=False)
class FlowState(TrainingState):
    """A flow under training.

    Attributes:
        examples: the latents of the pictures, with their classes.
        model: the model that the flow belongs to.
        held_out: latents that the flow is not trained on, or None.
    """

    examples: Examples
    model: NetworkModel
    held_out: Examples | None = None


@final
@attrs.frozen(kw_only=True)
class Pretrain(TrainingMode[FlowState]):
    """Trains a flow on data.

    Trains the flow of the model: min E ‖b_t(I_t, c) − İ_t‖² over data, noise and time.

    Reference: Flow Matching for Generative Modeling, Lipman et al., 2022, arXiv:2210.02747, Eq. 9;
    Classifier-Free Diffusion Guidance, Ho, Salimans, 2022, arXiv:2207.12598, Alg. 1 (dropout).
    """

    kind: ClassVar[str] = "pretrain"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    data: DatasetSpec = option("data that the flow is trained on")
    dropout: float = option(
        "share of rows trained without their class", default=0.1, check=between(0, 1)
    )
    sample_every: int = option(
        "steps from one set of pictures in the record to the next", default=500, check=at_least(1)
    )
    held_out: DatasetSpec | None = option(
        "data that the flow is not trained on: every 'sample_every' steps, the loss of the averaged"
        " weights on them is recorded, and that on the data that it is trained on",
        default=None,
    )
    held_out_rows: int = option(
        "number of rows in each of these two losses, with the same noise and times every time",
        default=1024,
        check=at_least(1),
        grows="rows",
    )

    def init(self, problem: Problem, streams: Streams) -> FlowState:
        """Encode the pictures; training starts from the model's own weights.

        Raises:
            PartError: there is no flow to train, or it belongs to a model of another kind.
        """
        model = network_of(problem)
        if model.teacher is not None:
            raise PartError(
                "model: its networks are told what the model that they learned from says of a"
                " prompt, and data do not say that; use mode 'distill' or 'finetune'"
            )
        examples = encoded(self.data, model.encoding())
        held_out = encoded(self.held_out, model.encoding()) if self.held_out else None
        training = Training.of(model.require_flow(), self.optimisation)
        return FlowState(training, examples, model, held_out)

    def between_steps(self, problem: Problem) -> Beside:
        """Samples in pictures, and rows of the losses on data."""
        shown = len(problem.cond) if problem.model.domain == "image" else 0
        shown = POINTS if problem.model.shape == (2,) else shown
        rows = shown * PICTURE_STEPS + (2 * self.held_out_rows if self.held_out else 0)
        return Beside(own=-(-self.steps // self.sample_every) * rows)

    def loss(self, problem: Problem, state: FlowState, rows: Streams, index: int) -> Loss:
        """‖b_t(I_t, c) − İ_t‖², a number of the state."""
        model = attrs.evolve(state.model, flow=state.training.module, guidance=1.0)
        return Loss(_flow_matching(model, *state.examples.rows(rows, self.dropout), rows))

    @torch.no_grad()
    def evaluate(
        self, problem: Problem, state: FlowState, streams: Streams, index: int
    ) -> Mapping[str, float]:
        """Losses of the averaged weights, on held-out data and on as many rows of the others."""
        if state.held_out is None:
            return {}
        model = attrs.evolve(state.model, flow=state.training.ema, guidance=1.0)
        every = streams.fold_in("held_out").numbered(0, self.held_out_rows)
        chunks = [
            every.rows(slice(first, first + CHUNK)) for first in range(0, self.held_out_rows, CHUNK)
        ]

        def mean(examples: Examples) -> float:
            losses = [_flow_matching(model, *examples.rows(rows, 0.0), rows) for rows in chunks]
            return float(torch.cat(losses).double().mean())

        return {"held_out": mean(state.held_out), "trained_on": mean(state.examples)}

    @torch.no_grad()
    def pictures(
        self, problem: Problem, state: FlowState, streams: Streams, index: int
    ) -> Looks | None:
        """Samples of the flow with averaged weights, in all classes; points beside the data."""
        model, pictures = attrs.evolve(state.model, flow=state.training.ema), True
        if state.model.domain != "image":
            if model.shape != (2,):
                return None
            streams, pictures = streams.numbered(0, POINTS), False
        start = streams.fold_in("start").normal(model.shape).to(model.device, model.dtype)
        cond = model.class_grid(len(streams.samples))
        samples = flow(model, start, cond, steps=PICTURE_STEPS)
        if pictures:
            return Looks(model.decode(samples), cond.prompts)
        data, _ = state.examples.rows(streams.fold_in("shown"), 0.0)
        return in_the_plane({"data": data, "samples": samples})

    def exported_model(self, problem: Problem, state: FlowState, network: nn.Module) -> Export:
        """The flow and its autoencoder."""
        model = attrs.evolve(state.model, flow=network)
        return Export(modules_of(model), about_of(model))


def _flow_matching(model: NetworkModel, x1: Tensor, label: Tensor, rows: Streams) -> Tensor:
    """Losses (b,) of clean states (b, *S), with the noise and the times of their rows."""
    noise = rows.fold_in("noise").normal(model.shape).to(x1)
    t = times_of(x1, rows.fold_in("time").uniform(()))
    x = model.path.interpolate(noise, x1, t)
    rate = model.path.rate(noise, x1, t)
    cond = Condition(("",) * len(x), {"label": label})
    return (model.velocity(x, t, cond) - rate).square().flatten(1).mean(1)
