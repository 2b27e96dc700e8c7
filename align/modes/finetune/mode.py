"""Fine-tuning a flow off-policy, so that its own samples follow the tilted law."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor, nn

from align.core.dataset import DatasetSpec
from align.core.mode import (
    AlignmentMode,
    Export,
    HasWarnings,
    Info,
    Need,
    Trainable,
    UsesRewardGradient,
)
from align.core.network import NetworkSpec
from align.core.option import above, at_least, between, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.errors import PartError
from align.models.about import about_of, modules_of
from align.modes.finetune.data import CleanData
from align.modes.finetune.draft import Draft
from align.modes.finetune.evaluation import Evaluation, samples
from align.modes.finetune.gradient import TiltGradient
from align.modes.finetune.state import FinetuneState, strengthened, trained, unguided
from align.modes.finetune.stein import TiltStein
from align.modes.finetune.target import TiltedTarget
from align.training import checkpoint
from align.training.loop import Optimisation, Training, advance
from align.training.lora import Lora

Objective: TypeAlias = TiltGradient | TiltStein | Draft


@final
@attrs.frozen(kw_only=True)
class FineTune(
    AlignmentMode[FinetuneState],
    Trainable[FinetuneState],
    HasWarnings[FinetuneState],
    UsesRewardGradient,
):
    """Trains a flow until its own samples have the law p*(x1) ∝ p(x1) e^{r(x1)}.

    With path "tilt" the weight of the reward comes in stages, each with the flow so far as its base
    model and a pool of that flow's samples as clean data.

    Off-policy: clean data are made noisy, a frozen posterior sampler draws from there, and the
    flow's velocity is regressed on what those draws and their rewards say; nothing is simulated,
    and a state needs one draw. c of e^{r − c} is a running log-mean-exp, one number for
    each prompt: what c is changes no minimum, and so rows of all prompts count alike.

    Every `evaluation.every` steps samples from the same noise are scored by all rewards, held-out
    ones too. Afterwards the weights are a flow as any other; the meta flow map of the old flow is
    left out of them.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 6 and Eq. 43;
    Tilt Matching, 2025, arXiv:2512.21829 (path "tilt").
    """

    kind: ClassVar[str] = "finetune"

    objective: Objective = option("what the velocity is taught", default=TiltGradient())
    data: DatasetSpec | None = option(
        "clean pictures; none: what the model draws, or a pool of its samples", default=None
    )
    pool: int = option(
        "samples of the base model, where there are no other clean data",
        default=512,
        check=at_least(1),
    )
    flow_steps: int = option("Euler steps of samples", default=50, check=at_least(1))
    path: Literal["direct", "tilt"] = option(
        "'direct', in one go; 'tilt', a little of the reward's weight in each stage",
        default="direct",
    )
    stages: int = option("of path 'tilt'", default=8, check=at_least(1))
    strength: float = option("factor on the weights of all rewards", default=1.0, check=above(0))
    lora: Lora | None = option("adapters that are trained; none: all weights", default=None)
    net: NetworkSpec | None = option(
        "network of the flow, where the model is not made of networks", default=None
    )
    optimisation: Optimisation = option("how weights are changed", default=Optimisation())
    steps: int = option("number of steps", default=1000, check=at_least(1))
    c_decay: float = option("share of c that a step keeps", default=0.98, check=between(0, 1))
    evaluation: Evaluation = option("what is measured on the way", default=Evaluation())

    def __attrs_post_init__(self) -> None:
        if self.path == "tilt" and self.steps % self.stages:
            raise ValueError(f"'stages' must divide 'steps', {self.steps}")

    @property
    def needs(self) -> frozenset[Need]:
        """A sampler, where the objective draws."""
        parts: frozenset[Need] = frozenset({"model", "reward"})
        return parts | {"sampler"} if self.objective.needs_sampler else parts

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return self.optimisation.batch

    @property
    def gradient_of(self) -> Literal["", "reward", "draws"]:
        """As the objective does."""
        if not self.objective.needs_gradient:
            return ""
        return "draws" if self.objective.needs_sampler else "reward"

    def init(self, problem: Problem, streams: Streams) -> FinetuneState:
        """Copy the flow, have clean data ready, find the first c, and evaluate the base model.

        Raises:
            PartError: the model has no flow to train.
        """
        model = trained(problem, self.net, streams)
        if self.lora:
            model = model.with_net("flow", self.lora.adapted(model.require_flow(), streams))
        training = Training.of(model.require_flow(), self.optimisation, whole=not self.lora)
        level = torch.zeros(len(problem.prompts), dtype=torch.float64, device=model.device)
        factor = self.strength / (self.stages if self.path == "tilt" else 1)
        problem = strengthened(problem, factor)
        clean = CleanData.of(self.data, problem, model, self.pool, self.flow_steps, streams.seed)
        student = attrs.evolve(model, flow=training.module)
        tilt = TiltedTarget(
            problem=problem, student=student, clean=clean.rows, log_normalizer=level
        )
        tilt = attrs.evolve(tilt, seen=unguided) if self.objective.unguided else tilt
        self._fit_log_normalizer(tilt, streams)
        shown, seed = clean.conditions(self.evaluation.samples), streams.seed
        references, _ = self.evaluation.samples_of(problem, problem.model, shown, seed)
        told, _, scores = self.evaluation.of(problem, problem.model, shown, references, seed)
        held = [term.name for term in problem.reward.terms if term.held_out]
        best = {name: {key: value.clone() for key, value in scores.items()} for name in held}
        worst = {name: torch.full_like(value, torch.nan) for name, value in scores.items()}
        state = FinetuneState(
            training, model, tilt, clean, shown, references, best, worst, told, streams
        )
        return attrs.evolve(state, anchor=self._anchor(problem, state))

    def step(
        self, problem: Problem, state: FinetuneState, index: int, streams: Streams
    ) -> tuple[FinetuneState, Info]:
        """One step of regression, and sometimes a look at what has come of it."""
        if self.evaluation.stop and self.warnings(state):
            return state, Info({})
        if self.path == "tilt" and index and index % (self.steps // self.stages) == 0:
            state.next_stage(self.pool, self.flow_steps)
            self._fit_log_normalizer(state.tilt, streams)
        tilt = state.tilt
        found = advance(
            state.training,
            lambda rows: self.objective.losses(tilt, rows),
            self.optimisation,
            streams,
            index,
            self.steps,
        )
        for name in [name for name in found if name.startswith("tilt ")]:
            mean = max(found.pop(name), 1e-30)
            moved = math.log(self.c_decay + (1 - self.c_decay) * mean)
            tilt.log_normalizer[int(name.removeprefix("tilt "))] += moved
            found["c"] = float(tilt.log_normalizer.mean())
        if not self.evaluation.due(index, self.steps):
            return state, Info(found if index else {**found, **state.told})
        tuned = attrs.evolve(state.model, flow=state.training.ema)
        told, data, scores = self.evaluation.of(
            problem, tuned, state.shown, state.references, streams.seed
        )
        state.track_held_out(scores, self.evaluation.errors, index + 1)
        return state, Info(found | told, data if state.model.domain == "image" else None)

    @torch.no_grad()
    def finish(self, problem: Problem, state: FinetuneState) -> Tensor | None:
        """Unsteered samples of the flow, (B, *S), from the noise of other modes."""
        flow = copy.deepcopy(state.training.ema).to(problem.model.dtype)
        tuned = attrs.evolve(state.model, flow=flow, dtype=problem.model.dtype)
        cond = tuned.encode(problem.cond.prompts)
        return samples(tuned, cond, state.streams.fold_in("start"), self.flow_steps)

    def warnings(self, state: FinetuneState) -> tuple[str, ...]:
        """That the reward was hacked, if it was."""
        said = state.warning(self.evaluation.errors)
        return (said,) if said else ()

    def save(self, state: FinetuneState) -> dict[str, Any]:
        """Weights, their running mean, the optimiser, c, and the best and worst so far."""
        kept = {"level": state.tilt.log_normalizer, "best": state.best, "worst": state.at_hacking}
        counts = {"stage": state.stage, "hacked": state.hacked}
        anchor = {"anchor": state.anchor.state_dict()} if state.anchor else {}
        return kept | counts | anchor | state.training.save()

    def restore(self, state: FinetuneState, saved: dict[str, Any]) -> None:
        """Take up where `saved` was."""
        checkpoint.fill(self.save(state), saved)
        if state.stage:
            state.rebuild_stage(self.pool, self.flow_steps)

    def export(self, problem: Problem, state: FinetuneState) -> Export:
        """The running mean of the flow's weights, adapters merged into them; its autoencoder."""

        def export(flow: nn.Module) -> Export:
            files = self.lora.files(flow) if self.lora else {}
            plain = self.lora.merged(flow) if self.lora else flow
            model = attrs.evolve(state.model, flow=plain, flow_map=None, posterior=None)
            return Export(modules_of(model), about_of(model), files=files)

        return state.training.exported(export)

    def _fit_log_normalizer(self, tilt: TiltedTarget, streams: Streams) -> None:
        """Find the first c, where rows count e^{r − c}."""
        if self.objective.weighs:
            rows = streams.fold_in("level").numbered(0, 256)
            tilt.log_normalizer.copy_(self.objective.first_log_normalizer(tilt, rows))

    def _anchor(self, problem: Problem, state: FinetuneState) -> nn.Module | None:
        """What a later stage starts from, once there is one.

        Raises:
            PartError: its posterior cannot be drawn from.
        """
        if self.path == "direct":
            return None
        sampler = problem.sampler
        if self.objective.needs_sampler and sampler is not None and sampler.needs is not None:
            raise PartError(
                f"mode.path: sampler '{sampler.kind}' draws from the base model's posterior alone,"
                " which a later stage has left; use sampler 'glass', or objective 'stein' by 'data'"
            )
        return copy.deepcopy(state.training.ema).to(problem.model.dtype)
