"""Fine-tuning a flow off-policy, so that its own samples follow the tilted law."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor, nn

from align.core.guard import unguarded
from align.core.mode import AlignmentMode, Export, Follows, Info, Need, Trains, Warns
from align.core.option import above, at_least, between, option
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams
from align.models.network import Net, NetworkModel, about_of, make_net, modules_of, network_of
from align.modes.clean import CleanData
from align.modes.evaluation import Evaluation, error_of, euler, fallen, named
from align.modes.tuning import Tuning
from align.nets.surgery import grown
from align.objectives.draft import Draft
from align.objectives.tilt import Tilt
from align.objectives.tilt_gradient import TiltGradient
from align.objectives.tilt_stein import TiltStein
from align.training import checkpoint
from align.training.data import Pictures
from align.training.loop import Optimisation, Training, advance

Objective: TypeAlias = TiltGradient | TiltStein | Draft


@final
@attrs.frozen(kw_only=True)
class FineTune(AlignmentMode[Tuning], Trains[Tuning], Warns[Tuning], Follows):
    """Trains a flow until its own samples have the law p*(x1) ∝ p(x1) e^{r(x1)}.

    Off-policy: clean data are made noisy, a frozen posterior sampler draws from there, and the
    flow's velocity is regressed on what those draws and their rewards say; nothing is simulated,
    and a state needs one draw. c of e^{r − c} is a running log-mean-exp, one number for all states.

    Every `evaluation.every` steps samples from the same noise are scored by all rewards, held-out
    ones too. Afterwards the weights are a flow as any other; the meta flow map of the old flow is
    left out of them.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 6 and Eq. 43.
    """

    kind: ClassVar[str] = "finetune"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "sampler", "reward"})

    objective: Objective = option("what the velocity is taught", default=TiltGradient())
    data: Pictures | None = option(
        "clean pictures; none: what the model draws, or a pool of its samples", default=None
    )
    pool: int = option("samples of the base model, where there are no other clean data",
                       default=512, check=at_least(1))  # fmt: skip
    flow_steps: int = option("Euler steps of samples", default=50, check=at_least(1))
    strength: float = option("factor on the weights of all rewards", default=1.0, check=above(0))
    net: Net | None = option(
        "network of the flow, where the model is not made of networks", default=None
    )
    optimisation: Optimisation = option("how weights are changed", default=Optimisation())
    steps: int = option("number of steps", default=1000, check=at_least(1))
    memory: float = option("share of c that a step keeps", default=0.98, check=between(0, 1))
    evaluation: Evaluation = option("what is measured on the way", default=Evaluation())

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return self.optimisation.batch

    @property
    def gradient_of(self) -> Literal["", "reward", "draws"]:
        """As the objective does."""
        if not self.objective.needs_gradient:
            return ""
        return "draws" if self.objective.draws_posterior else "reward"

    def init(self, problem: Problem, streams: Streams) -> Tuning:
        """Copy the flow, have clean data ready, find the first c, and evaluate the base model.

        Raises:
            PartError: the model has no flow to train.
        """
        model = self._model(problem, streams)
        training = Training.of(model.require_flow(), self.optimisation)
        level = torch.zeros((), dtype=torch.float64, device=model.device)
        student = attrs.evolve(model, flow=training.module)
        problem = self._strengthened(problem)
        clean = CleanData.of(self.data, problem, model, self.pool, self.flow_steps, streams.seed)
        tilt = Tilt(problem=problem, student=student, clean=clean.rows, level=level)
        if self.objective.draws_posterior:
            level.copy_(self._first_level(tilt, streams))
        shown, seed = clean.conditions(self.evaluation.samples), streams.seed
        references, _ = self.evaluation.samples_of(problem, problem.model, shown, seed)
        told, _ = self.evaluation.of(problem, problem.model, shown, references, seed)
        best = {name: torch.tensor(told[name], dtype=torch.float64) for name in named(problem)}
        worst = {name: torch.full_like(value, torch.nan) for name, value in best.items()}
        return Tuning(training, model, tilt, clean, shown, references, best, worst, told, streams)

    def step(
        self, problem: Problem, state: Tuning, index: int, streams: Streams
    ) -> tuple[Tuning, Info]:
        """One step of regression, and sometimes a look at what has come of it."""
        if state.warning and self.evaluation.stop:
            return state, Info({})
        tilt = state.tilt
        found = advance(state.training, lambda rows: self.objective.losses(tilt, rows),
                        self.optimisation, streams, index, self.steps)  # fmt: skip
        if "tilt" in found:
            mean = torch.tensor(found.pop("tilt")).to(tilt.level)
            tilt.level.add_(torch.log(self.memory + (1 - self.memory) * mean))
            found["c"] = float(tilt.level)
        if not self.evaluation.due(index, self.steps):
            return state, Info(found if index else {**found, **state.told})
        tuned = attrs.evolve(state.model, flow=state.training.average)
        told, data = self.evaluation.of(problem, tuned, state.shown, state.references, streams.seed)
        self._judged(problem, state, told)
        return state, Info(found | told, data if state.model.domain == "image" else None)

    @torch.no_grad()
    def finish(self, problem: Problem, state: Tuning) -> Tensor | None:
        """Unsteered samples of the flow, (B, *S), from the noise of other modes."""
        flow = copy.deepcopy(state.training.average).to(problem.model.dtype)
        tuned = attrs.evolve(state.model, flow=flow, dtype=problem.model.dtype)
        cond = tuned.encode(problem.cond.prompts)
        return euler(tuned, cond, state.streams.at("start"), self.flow_steps)

    def _judged(self, problem: Problem, state: Tuning, told: Mapping[str, float]) -> None:
        """Keep the best means so far, and the first that are much below them."""
        now = {name: torch.tensor(told[name], dtype=torch.float64) for name in state.best}
        if not state.warning and fallen(problem, state.best, now, self.evaluation.errors):
            for name, value in now.items():
                state.worst[name].copy_(value)
        for term in problem.reward.terms:
            if now[term.name] > state.best[term.name] and not state.warning:
                for name in (term.name, error_of(term.name)):
                    state.best[name].copy_(now[name])

    def warnings(self, state: Tuning) -> tuple[str, ...]:
        """That the reward was hacked, if it was."""
        return (state.warning,) if state.warning else ()

    def save(self, state: Tuning) -> dict[str, Any]:
        """Weights, their running mean, the optimiser, c, and the best and worst so far."""
        kept = {"level": state.tilt.level, "best": state.best, "worst": state.worst}
        return kept | state.training.save()

    def restore(self, state: Tuning, saved: dict[str, Any]) -> None:
        """Take up where `saved` was."""
        checkpoint.fill(self.save(state), saved)

    def export(self, problem: Problem, state: Tuning) -> Export:
        """The running mean of the flow's weights, and its autoencoder."""

        def export(flow: nn.Module) -> Export:
            model = attrs.evolve(state.model, flow=flow, flow_map=None, posterior=None)
            return Export(modules_of(model), about_of(model))

        return state.training.exported(export)

    def _model(self, problem: Problem, streams: Streams) -> NetworkModel:
        """The model with a flow of its own to train."""
        base = unguarded(problem).model
        if isinstance(base, NetworkModel):
            return base.having("flow", grown(base.highest("flow"), "flow"))
        if self.net is None:
            return network_of(problem)
        size, model = self.net, NetworkModel(
            shape=base.shape, domain=base.domain, device=base.device, guidance=1.0
        )  # fmt: skip
        made = streams.at("weights").initialise(lambda: make_net(size, model.shape, 0, "flow"))
        return model.having("flow", made.to(model.device))

    def _strengthened(self, problem: Problem) -> Problem:
        """The problem with all rewards' weights times `strength`."""
        terms = problem.reward.terms
        stronger = (attrs.evolve(term, weight=self.strength * term.weight) for term in terms)
        return attrs.evolve(problem, reward=WeightedReward(tuple(stronger)))

    def _first_level(self, tilt: Tilt, streams: Streams) -> Tensor:
        """log E e^r over posterior draws of a first batch of rows, ()."""
        assert not isinstance(self.objective, Draft)
        rows = streams.at("level").numbered(0, min(256, self.optimisation.batch))
        at = tilt.noisy(rows, self.objective.start)
        rewards = tilt.draws(at, 1, False, rows.at("draws")).rewards.double()
        return torch.logsumexp(rewards.flatten(), 0) - math.log(rewards.numel())
