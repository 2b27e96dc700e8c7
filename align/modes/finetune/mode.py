"""Fine-tuning a flow, so that its own samples follow the tilted law."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Literal, Self, final

import attrs
import torch
from torch import Tensor, nn

from align.core.dataset import DatasetSpec
from align.core.errors import DivergedError, PartError
from align.core.mode import Export, HasWarnings, Info, Need, UsesRewardGradient
from align.core.model import DataSampler, FlowModel
from align.core.network import NetworkSpec
from align.core.objective import Loss
from align.core.option import above, at_least, between, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.about import exported
from align.modes.finetune.data import CleanData
from align.modes.finetune.evaluation import Evaluation, samples, warn_of_growth
from align.modes.finetune.gradient import GradientObjective
from align.modes.finetune.objective import FinetuneObjective
from align.modes.finetune.state import (
    FinetuneState,
    in_dtype_of,
    model_to_train,
    own_module,
    strengthened,
    unguided,
)
from align.modes.finetune.target import TiltedTarget
from align.training.looks import Looks, in_the_plane
from align.training.loop import StepResult, Training
from align.training.lora import Lora
from align.training.mode import Beside, TrainingMode
from align.training.weights import in_float32


@final
@attrs.frozen(kw_only=True)
class FineTune(TrainingMode[FinetuneState], HasWarnings[FinetuneState], UsesRewardGradient):
    """Trains a flow on rewards, so that it needs no steering.

    Trains a flow until its own samples have the law p*(x1) ∝ p(x1) e^{r(x1)}.

    Clean data are made noisy, a frozen posterior sampler draws from there, and the flow's velocity
    is regressed on a target made of those draws and their rewards. This is off-policy: nothing is
    simulated, and one draw a state is enough. The c of e^{r − c} is a running log-mean-exp, one
    number for each prompt. It changes no minimum, and makes rows of all prompts count alike.

    With `path = "tilt"` the weight of the reward comes in stages, each with the flow so far as its
    base model and a pool of that flow's samples as clean data.

    Every `evaluation.every` steps samples from the same noise are scored by all rewards, held-out
    ones too. The exported weights are a flow as any other; the meta flow map of the old flow is
    left out of them.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 6 and Eq. 43;
    Tilt Matching, 2025, arXiv:2512.21829 (path "tilt").
    """

    kind: ClassVar[str] = "finetune"

    objective: FinetuneObjective = option(
        "loss by which the flow learns the tilted law", default=GradientObjective()
    )
    data: DatasetSpec | None = option(
        "clean pictures; without them, draws of the base model, or a pool of its samples",
        default=None,
    )
    pool: int = option(
        "number of samples of the base model that are the clean data where there are no others",
        default=512,
        check=at_least(1),
        grows="rows",
    )
    flow_steps: int = option(
        "Euler steps of the samples of a pool and of the run",
        default=50,
        check=at_least(1),
        grows="calls",
    )
    path: Literal["direct", "tilt"] = option(
        "'direct' trains with the whole weight of the reward; 'tilt' adds a part of it in each"
        " stage",
        default="direct",
    )
    stages: int = option(
        "number of stages of path 'tilt'; unused by 'direct'", default=8, check=at_least(1)
    )
    strength: float = option("factor on the weights of all rewards", default=1.0, check=above(0))
    lora: Lora | None = option(
        "low-rank adapters that are trained; without them all weights are", default=None
    )
    net: NetworkSpec | None = option(
        "untrained network that learns the flow, in place of the model's own module", default=None
    )
    steps: int = option("number of optimisation steps", default=1000, check=at_least(1))
    c_decay: float = option(
        "share of the running mean of e^{r − c} that a step keeps; c is its logarithm",
        default=0.98,
        check=between(0, 1),
    )
    evaluation: Evaluation = option(
        "samples that are scored while the flow is trained", default=Evaluation()
    )

    def __attrs_post_init__(self) -> None:
        if self.path == "tilt" and self.steps % self.stages:
            raise ValueError(f"'stages' must divide 'steps', {self.steps}")

    def other_with(self, steps: int) -> str:
        """Stages of a path are shares of all steps."""
        if self.path == "tilt":
            return "each of its 'stages' is a share of all steps"
        return super().other_with(steps)

    @property
    def needs(self) -> frozenset[Need]:
        """The model and a reward; a sampler too where the objective draws from the posterior."""
        sections: frozenset[Need] = frozenset({"model", "reward"})
        return sections | {"sampler"} if self.objective.needs_sampler else sections

    @property
    def gradient_of(self) -> Literal["", "reward", "draws"]:
        """What the objective takes the reward's gradient through."""
        if not self.objective.needs_gradient:
            return ""
        return "draws" if self.objective.needs_sampler else "reward"

    def check_model(self, model: FlowModel) -> None:
        """Raise OptionError where there is no network, and the model has no module to train."""
        if self.net is None:
            own_module(model)

    def short(self) -> Self:
        """With a pool of one sample, and an evaluation of two."""
        evaluation = attrs.evolve(self.evaluation, samples=2, flow_steps=1)
        return attrs.evolve(self, pool=1, flow_steps=1, evaluation=evaluation)

    def before_steps(self, problem: Problem) -> Beside:
        """The pool, where there is one, and the evaluation of the base model beside itself."""
        drawn = problem.model.capability(DataSampler) is not None
        count = 0 if drawn or self.data is not None else self.pool
        samples = self.evaluation.samples
        return Beside(
            base=count * self.flow_steps + 4 * samples * self.evaluation.flow_steps,
            decoded=2 * samples,
            scored=2 * samples,
        )

    def between_steps(self, problem: Problem) -> Beside:
        """Evaluations, and the pools of further stages."""
        samples, looks = self.evaluation.samples, -(-self.steps // self.evaluation.every)
        rows, stages = samples * self.evaluation.flow_steps, self.stages - 1
        pools = stages * self.pool * self.flow_steps if self.path == "tilt" else 0
        made = Beside(base=rows, own=2 * rows, decoded=samples, scored=samples)
        return Beside(base=pools).plus(made, looks)

    def init(self, problem: Problem, streams: Streams) -> FinetuneState:
        """Copy the flow, prepare clean data, fit the first c, and evaluate the base model.

        Raises:
            PartError: the model has no flow to train.
        """
        model = model_to_train(problem, self.net, streams)
        copied = copy.deepcopy(model.module)
        if model.any_precision:
            in_float32((*copied.parameters(), *copied.buffers()))
        copied = self.lora.adapted(copied, streams) if self.lora else copied
        model = model.with_module(copied)
        training = Training.of(model.module, self.optimisation, whole=not self.lora)
        for layer in training.module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()  # by its own statistics: rows of a batch must not know each other
        log_normalizer = torch.zeros(len(problem.prompts), dtype=torch.float64, device=model.device)
        factor = self.strength / (self.stages if self.path == "tilt" else 1)
        problem = strengthened(problem, factor)
        clean = CleanData.of(self.data, problem, self.pool, self.flow_steps, streams.seed)
        target = TiltedTarget(
            problem=problem,
            student=model,
            clean=clean.rows,
            log_normalizer=log_normalizer,
        )
        if self.objective.unguided:
            target = attrs.evolve(target, view=unguided)
        self._fit_log_normalizer(target, streams)
        conditions, seed = clean.in_turn(range(self.evaluation.samples)), streams.seed
        references, _ = self.evaluation.samples_of(problem, problem.model, conditions, seed)
        base_info, _, scores = self.evaluation.of(
            problem, problem.model, conditions, references, seed
        )
        held_out = [term.name for term in problem.reward.terms if term.held_out]
        state = FinetuneState(
            training=training,
            model=model,
            target=target,
            clean=clean,
            conditions=conditions,
            references=references,
            best={name: {k: score.clone() for k, score in scores.items()} for name in held_out},
            at_hacking={k: torch.full_like(score, torch.nan) for k, score in scores.items()},
            base_info=base_info,
            streams=streams,
        )
        return attrs.evolve(state, anchor=self._anchor(problem, state))

    def loss(self, problem: Problem, state: FinetuneState, rows: Streams, index: int) -> Loss:
        """The loss of the objective."""
        return self.objective.loss(state.target, rows)

    def optimise(
        self, problem: Problem, state: FinetuneState, index: int, streams: Streams
    ) -> StepResult:
        """Take one step down the gradient of the loss."""
        try:
            return super().optimise(problem, state, index, streams)
        except DivergedError as error:
            text = f"{error}; or lower mode.strength, {self.strength:g}, or the rewards' weights"
            raise DivergedError(text) from error

    def step(
        self, problem: Problem, state: FinetuneState, index: int, streams: Streams
    ) -> tuple[FinetuneState, Info]:
        """One step of optimisation, at times a new stage before it and an evaluation after it."""
        if self.evaluation.stop and state.warning(self.evaluation.errors):
            return state, Info({})
        if self.path == "tilt" and index and index % (self.steps // self.stages) == 0:
            state.next_stage(self.pool, self.flow_steps)
            self._fit_log_normalizer(state.target, streams)
        result = self.optimise(problem, state, index, streams)
        numbers = dict(result.metrics)
        if result.group_means:
            self._move_log_normalizer(state.target.log_normalizer, result.group_means)
            numbers["c"] = float(state.target.log_normalizer.mean())
        if not self.evaluation.due(index, self.steps):
            base = state.base_info
            return state, Info(numbers) if index else attrs.evolve(
                base, numbers={**numbers, **base.numbers}
            )
        tuned = state.model.with_module(state.training.ema)
        info, data, scores = self.evaluation.of(
            problem, tuned, state.conditions, state.references, streams.seed
        )
        state.track_held_out(scores, self.evaluation.errors, index + 1)
        state.growth.fill_(info.numbers["growth"])
        looks: Looks | None = Looks(data, state.conditions.prompts)
        if state.model.domain != "image":
            looks = in_the_plane({"base model": state.references, "tuned": data})
        told = Info({**numbers, **info.numbers}, errors=info.errors)
        if looks is None:
            return state, told
        return state, attrs.evolve(told, pictures=looks.pictures, captions=looks.captions)

    @torch.no_grad()
    def finish(self, problem: Problem, state: FinetuneState) -> Tensor:
        """Unsteered samples of the flow, (B, *S), from the noise of other modes."""
        tuned = in_dtype_of(problem.model, state.model, state.training.ema)
        return samples(tuned, problem.cond, state.streams.fold_in("start"), self.flow_steps)

    def warnings(self, state: FinetuneState) -> tuple[str, ...]:
        """That the reward was hacked, if it was, and that the velocity has grown, if it has."""
        hacked = state.warning(self.evaluation.errors)
        longer = warn_of_growth(float(state.growth), state.model.domain)
        return tuple(text for text in (hacked, longer) if text)

    def save(self, state: FinetuneState) -> dict[str, Any]:
        """Weights, averages, optimiser, c, the stage, and the scores of best evaluations."""
        return {
            "log_normalizer": state.target.log_normalizer,
            "best": state.best,
            "at_hacking": state.at_hacking,
            "stage": state.stage,
            "hacked_after": state.hacked_after,
            "growth": state.growth,
            **({"anchor": state.anchor.state_dict()} if state.anchor else {}),
            **state.training.save(),
        }

    def restore(self, state: FinetuneState, saved: Any) -> None:
        """Bring a state fresh from `init` to where `saved` was."""
        super().restore(state, saved)
        if state.stage:
            state.rebuild_stage(self.pool, self.flow_steps)

    def exported_model(self, problem: Problem, state: FinetuneState, network: nn.Module) -> Export:
        """The flow, adapters merged into it, and its autoencoder; adapters as files beside it."""
        files = self.lora.files(network) if self.lora else {}
        merged = self.lora.merged(network) if self.lora else network
        model = state.model.with_module(merged)
        return exported(model, problem.part, {**files, **model.files(network)})

    def _fit_log_normalizer(self, target: TiltedTarget, streams: Streams) -> None:
        """Fit the first c, where one is taken off r."""
        if self.objective.takes_level:
            rows = streams.fold_in("level").numbered(0, 256)
            target.log_normalizer.copy_(self.objective.first_log_normalizer(target, rows))

    def _move_log_normalizer(self, log_normalizer: Tensor, means: tuple[float, ...]) -> None:
        """Move each prompt's c by its mean of e^{r − c}; not that of a prompt without rows."""
        for prompt, mean in enumerate(means):
            if not math.isnan(mean):
                change = math.log(self.c_decay + (1 - self.c_decay) * max(mean, 1e-30))
                log_normalizer[prompt] += change

    def _anchor(self, problem: Problem, state: FinetuneState) -> nn.Module | None:
        """The flow that a later stage starts from; None where there are no stages.

        Raises:
            PartError: the posterior of a later stage cannot be drawn from.
        """
        if self.path == "direct":
            return None
        sampler = problem.sampler
        if self.objective.needs_sampler and sampler is not None and sampler.needs is not None:
            raise PartError(
                f"mode.path: sampler '{sampler.kind}' draws from the posterior of the base model"
                " only, which a later stage has left; use sampler 'glass', or objective 'stein'"
                " with draws_from = 'data'"
            )
        return copy.deepcopy(state.training.ema).to(problem.model.dtype)
