"""Do the parts of a recipe go together: asked before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, final

import attrs

from align.catalog.registry import Catalog
from align.core.dataset import DatasetSpec
from align.core.errors import AlignError, PartError, PromptError
from align.core.estimator import ValueEstimator
from align.core.mode import ReportsKL, Trainable, UsesComparisons, UsesRewardGradient
from align.core.model import ModelSpec
from align.core.network import NetworkSpec, shape_problems
from align.core.option import ConfigError, Key
from align.core.prompts import expand_prompt, match_class
from align.core.reward import LATENT
from align.core.study import Study
from align.engine.memory import available
from align.io.prompt_file import PromptFile
from align.recipe.schema import Arm, Recipe
from align.recipe.sizes import needs

_MANY: Final = 4  # more names than this are no advice


@final
@attrs.frozen
class _Question:
    """One arm of a recipe, which sections its own table holds, and bytes of memory there are."""

    recipe: Recipe
    arm: Arm
    index: int
    changed: frozenset[str]
    catalog: Catalog
    memory: float

    def error(self, text: str, *sections: str) -> ConfigError:
        """An error about `sections`, shown at the first that the arm's own table holds, if any."""
        changed = [name for name in sections if name in self.changed]
        key: Key = ("compare", self.index, changed[0]) if changed else (sections[0],)
        return ConfigError(key, text)

    def instead(self, contract: str, *, but: str = "", **wanted: Any) -> str:
        """The advice "; use sampler 'a' or 'b'": parts whose class has the wanted attributes.

        Those whose attribute `but` is true are left out.
        """
        names = [
            f"'{kind}'"
            for kind, entry in sorted(self.catalog.parts[contract].items())
            if all(getattr(entry.cls, name, None) == value for name, value in wanted.items())
            and getattr(entry.cls, but, None) is not True
        ]
        if not names or len(names) > _MANY:
            return f"; use another {contract}"
        return f"; use {contract} " + " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def check_compatibility(
    recipe: Recipe, document: Mapping[str, Any], catalog: Catalog
) -> list[ConfigError]:
    """Every reason why the parts of any arm do not go together.

    Args:
        recipe: whose parts are asked.
        document: it was read from; says what each [[compare]] table changes.
        catalog: from which other parts are suggested.
    """
    return list(dict.fromkeys(problems(recipe, document, catalog)))


def problems(
    recipe: Recipe, document: Mapping[str, Any], catalog: Catalog
) -> Iterator[ConfigError]:
    """What `check_compatibility` finds, as it finds it, so that who needs the first may stop."""
    tables, memory = document.get("compare") or [{}], available()
    for index, (arm, table) in enumerate(zip(recipe.arms(), tables, strict=True)):
        question = _Question(recipe, arm, index, frozenset(table), catalog, memory)
        try:
            for check in _CHECKS:
                yield from check(question)
        # A specification may look at its files to say what it makes.
        except AlignError as error:
            yield question.error(str(error), "model")


def _present(ask: _Question) -> Iterator[ConfigError]:
    """Every section the mode needs is there."""
    arm = ask.arm
    for name in ("model", "sampler", "estimator"):
        if name in arm.mode.needs and getattr(arm, name) is None:
            article = "an" if name == "estimator" else "a"
            text = f"'{arm.mode.kind}' needs {article} {name}, but the recipe has none"
            yield ask.error(f"{text}; add [{name}]", "mode")
    plain = isinstance(arm.mode, ReportsKL) and arm.mode.is_base
    optimises = "reward" in arm.mode.needs and not plain
    if optimises and all(term.held_out for term in ask.recipe.reward):
        text = f"'{arm.mode.kind}' needs a reward to optimise, but the recipe has none; "
        if ask.recipe.reward:
            text = f"'{arm.mode.kind}' needs a reward to optimise, but every reward is held out; "
        yield ask.error(text + "add a [[reward]] that is not held out", "mode")


def _estimator(ask: _Question) -> ValueEstimator | None:
    """The estimator, if the mode asks it."""
    return ask.arm.estimator if "estimator" in ask.arm.mode.needs else None


def _sampling(ask: _Question) -> Iterator[ConfigError]:
    """An estimator that draws has something to draw from."""
    estimator, arm = _estimator(ask), ask.arm
    if (
        estimator
        and estimator.needs_sampler
        and not arm.sampler
        and "sampler" not in arm.mode.needs
    ):
        text = f"'{estimator.kind}' draws from the posterior, but the recipe has no sampler"
        yield ask.error(f"{text}; add [sampler]", "estimator", "mode")


def _gradients(ask: _Question) -> Iterator[ConfigError]:
    """What follows a gradient gets one from every reward and, if it draws, from the sampler."""
    estimator, arm = _estimator(ask), ask.arm
    if estimator and estimator.needs_gradient:
        who, advice = (
            f"estimator '{estimator.kind}'",
            ask.instead("estimator", but="needs_quadratic", needs_gradient=False),
        )
        sections: tuple[str, ...] = ("mode", "estimator")
        through_draws = estimator.needs_sampler
    elif isinstance(arm.mode, UsesRewardGradient) and arm.mode.gradient_of:
        who, advice = "this objective", "; use objective 'stein'"
        sections, through_draws = ("mode",), arm.mode.gradient_of == "draws"
    else:
        return
    needs = f"'{arm.mode.kind}' with {who} needs"
    for term in ask.recipe.reward:
        if not term.held_out and not term.part.differentiable:
            text = f"{needs} the reward's gradient, but reward '{term.name}' has none"
            yield ask.error(text + advice, *sections)
    if through_draws and arm.sampler and not arm.sampler.differentiable:
        text = f"{needs} the gradient of the draws, but sampler '{arm.sampler.kind}' has none"
        advice = ask.instead("sampler", differentiable=True)
        yield ask.error(text + advice, *sections, "sampler")


def _comparing(ask: _Question) -> Iterator[ConfigError]:
    """A reward that compares samples is asked where there are several to choose from."""
    mode, estimator = ask.arm.mode, _estimator(ask)
    for index, term in enumerate(ask.recipe.reward):
        if not term.part.compares:
            continue
        text = f"reward '{term.name}' compares samples, and has no score of one alone, but"
        cure = "take one that scores, or 'best_of_n', or 'steer' with estimator 'search'"
        key: Key = ("reward", index)
        if term.held_out:
            yield ConfigError((*key, "held_out"), f"{text} what is held out scores each; {cure}")
        if term.normalise != "none":
            yield ConfigError((*key, "normalise"), f"{text} '{term.normalise}' needs such scores")
        if "reward" in mode.needs and not isinstance(mode, UsesComparisons):
            yield _at(ask, key, f"{text} '{mode.kind}' needs one of every sample; {cure}")
        elif getattr(mode, "pool", "own") == "shared":
            yield ask.error(f'{text} pool = "shared" needs such scores; leave it out', "mode")
        if estimator and getattr(estimator, "draws", None) == "auto":
            why = f"{text} draws = 'auto' needs such scores; give their number"
            yield ask.error(why, "estimator")
        elif estimator and (estimator.needs_gradient or not estimator.needs_sampler):
            why = f"{text} estimator '{estimator.kind}' needs such scores; take 'search' or 'stein'"
            yield ask.error(why, "estimator")


def _missing(ask: _Question) -> Iterator[ConfigError]:
    """A reward whose scores may be missing is measured alone, and by no training."""
    for index, term in enumerate(ask.recipe.reward):
        if not term.part.may_miss:
            continue
        cure = 'let it stop at the first score that it cannot make (on_failure = "stop")'
        text = f"reward '{term.name}' may leave scores out, and"
        if not term.held_out:
            why = f"{text} what is optimised needs one of every sample"
            yield ConfigError(("reward", index), f"{why}; hold it out (held_out = true), or {cure}")
        elif isinstance(ask.arm.mode, Trainable):
            why = f"'{ask.arm.mode.kind}' compares the same samples' scores from step to step"
            yield ConfigError(("reward", index), f"{text} {why}; {cure}")


def _quadratic(ask: _Question) -> Iterator[ConfigError]:
    """An estimator that knows values of quadratic rewards alone gets no others."""
    estimator = _estimator(ask)
    if not estimator or not estimator.needs_quadratic:
        return
    terms = [term for term in ask.recipe.reward if not term.held_out]
    advice = "use estimator 'stein'"
    if all(term.part.differentiable for term in terms):
        advice = "use estimator 'gradient' or 'stein'"
    advice += "" if ask.arm.sampler else ", with a [sampler]"
    for term in terms:
        text = f"'{estimator.kind}' knows the value of quadratic rewards alone, and '{term.name}'"
        if not term.part.is_quadratic:
            yield ask.error(f"{text} is none; {advice}", "estimator")
        elif term.clip or term.normalise == "rank":
            bent, key = ("clip", "clip") if term.clip else ("ranks", "normalise")
            text = f"{text} is none with its {bent}; take '{key}' out, or {advice}"
            yield ask.error(text, "estimator")


def _references(ask: _Question) -> Iterator[ConfigError]:
    """Metrics have samples to measure, and others to compare them with."""
    arms = ask.recipe.arms()
    for index, metric in enumerate(ask.recipe.metric):
        if all(isinstance(arm.mode, Study) for arm in arms):
            text = f"'{metric.kind}' measures samples, and '{ask.arm.mode.kind}' makes none"
            yield ConfigError(("metric", index), f"{text}; take it out")
        elif metric.needs_references and len(arms) < 2:
            text = f"'{metric.kind}' compares the samples of each arm with those of the first, and"
            text += " there is one arm only; add [[compare]] tables, or take it out"
            yield ConfigError(("metric", index), text)


def _model_files(ask: _Question) -> Iterator[ConfigError]:
    """The files that the model's options name go with the others."""
    for error in ask.arm.model.file_problems() if ask.arm.model else ():
        outer: Key = ("compare", ask.index, "model") if "model" in ask.changed else ("model",)
        yield error.under(*outer)


def _mode_and_model(ask: _Question) -> Iterator[ConfigError]:
    """The mode's own options go with the model, and its networks with the model's states."""
    arm = ask.arm
    if not arm.model:
        return
    errors = list(arm.mode.spec_problems(arm.model))
    for _, option, part in _trained_on(arm):
        shape = arm.model.state_shape
        if shape and isinstance(part, NetworkSpec) and part.domain in (None, arm.model.domain):
            errors += (error.under(option) for error in shape_problems(part, shape))
    changed = ask.changed & {"mode", "model"}
    for error in errors:
        section = "mode" if "mode" in changed else "model"
        yield ask.error(error.text, section) if changed else error.under("mode")


def _capabilities(ask: _Question) -> Iterator[ConfigError]:
    """The model can do what the sampler and the estimator ask of it."""
    arm, estimator = ask.arm, _estimator(ask)
    wants: list[tuple[str, Any, type | None]] = []
    if arm.sampler and arm.draws:
        wants.append(("sampler", arm.sampler, arm.sampler.needs))
    if estimator:
        wants.append(("estimator", estimator, estimator.needs_model))
    for section, part, capability in wants:
        if arm.model and capability and not arm.model.can(capability):
            text = f"'{part.kind}' needs a model with {capability.__name__}, but "
            yield ask.error(text + _provided(arm.model), section, "model")


def _provided(model: ModelSpec) -> str:
    names = _listed(capability.__name__ for capability in model.provides)
    return f"model '{model.kind}' has only {names}" if names else f"model '{model.kind}' has none"


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))


def _domains(ask: _Question) -> Iterator[ConfigError]:
    """Rewards and metrics look at what the model makes."""
    model = ask.arm.model
    if not model:
        return
    for index, term in enumerate(ask.recipe.reward):
        if term.part.domain not in (None, LATENT, model.domain):
            text = f"'{term.part.kind}' scores {term.part.domain}s, but model '{model.kind}' makes"
            yield _at(ask, ("reward", index), f"{text} {model.domain}s")
    for index, metric in enumerate(ask.recipe.metric):
        if metric.domain not in (None, model.domain):
            text = f"'{metric.kind}' measures {metric.domain}s, but model '{model.kind}' makes"
            yield _at(ask, ("metric", index), f"{text} {model.domain}s")
    for contract, option, part in _trained_on(ask.arm):
        if part.domain not in (None, model.domain):
            text = f"{contract} '{part.kind}' of mode.{option} is for {part.domain}s, but model"
            text += f" '{model.kind}' makes {model.domain}s"
            changed = ask.changed & {"mode", "model"}
            yield (
                ask.error(text, "mode", "model") if changed else ConfigError(("mode", option), text)
            )


def _trained_on(arm: Arm) -> Iterator[tuple[str, str, NetworkSpec | DatasetSpec]]:
    """Networks and data sets among the mode's own options, with their contracts and names."""
    for field in attrs.fields(type(arm.mode)):
        part = getattr(arm.mode, field.name)
        if isinstance(part, NetworkSpec | DatasetSpec):
            yield "network" if isinstance(part, NetworkSpec) else "dataset", field.name, part


def _statistics(ask: _Question) -> Iterator[ConfigError]:
    """A reward that is normalised has samples to take its statistics from."""
    for index, term in enumerate(ask.recipe.reward):
        if term.normalise != "none" and not term.held_out and not ask.recipe.run.unsteered:
            text = f"'{term.normalise}' takes its statistics from unsteered samples, but "
            text += "run.unsteered is 0; set it to 64"
            yield ConfigError(("reward", index, "normalise"), text)


def _prompts(ask: _Question) -> Iterator[ConfigError]:
    """The prompt can be read, and is one that the rewards can follow."""
    model = ask.arm.model
    if not model:
        return
    prompt: Key = ("model", "prompts" if model.prompts else "prompt")
    prompt = ("compare", ask.index, *prompt) if "model" in ask.changed else prompt
    try:
        classes = model.known_classes
        prompts = expand_prompt(model.prompt, classes)
        if model.prompts:
            prompts = _prompts_of_file(model, ask.recipe.run.samples)
        for text in filter(None, prompts if classes else ()):
            match_class(text, classes or ())
    except (PromptError, PartError) as error:
        yield ConfigError(prompt, str(error))
        return
    for index, term in enumerate(ask.recipe.reward):
        if term.part.needs_prompt and not all(text.strip() for text in prompts):
            text = f"'{term.part.kind}' compares pictures with the prompt, but model"
            text += f" '{model.kind}' has none; set model.prompt"
            yield _at(ask, ("reward", index), text)
            continue
        for text in prompts:
            try:
                if "{class}" not in text:
                    term.part.check_prompt(text)
            except PromptError as error:
                yield ConfigError(prompt, f"reward '{term.name}': {error}")
                break


def _prompts_of_file(model: ModelSpec, samples: int) -> tuple[str, ...]:
    """The prompts of the model's file; raises PartError if it does not do."""
    if model.prompt:
        raise PartError("'prompts' stands in place of 'prompt'; leave one of them out")
    file = PromptFile.read(model.prompts)
    file.require(samples)
    return file.prompts


def _dimensions(ask: _Question) -> Iterator[ConfigError]:
    """Rewards of vectors score those of the model's dimension."""
    model = ask.arm.model
    for index, term in enumerate(ask.recipe.reward if model else ()):
        scored = term.part.dimension
        shape = model.state_shape if model and scored is not None else None
        if model and shape and (scored,) != shape and model.domain == "vector":
            text = f"'{term.part.kind}' scores vectors of {scored} numbers, but model"
            yield _at(ask, ("reward", index), f"{text} '{model.kind}' makes vectors of {shape[0]}")


def _sizes(ask: _Question) -> Iterator[ConfigError]:
    """What the numbers need is there."""
    refused = set[Key]()
    for need in needs(ask.recipe, ask.arm):
        reason = need.refusal(ask.memory)
        if reason and not refused.intersection(need.times):
            refused.add(need.key)
            changed = need.key[0] in ask.changed
            yield ConfigError(("compare", ask.index, *need.key) if changed else need.key, reason)


def _at(ask: _Question, key: Key, text: str) -> ConfigError:
    """An error at `key`, or at the arm's own model where that is to blame."""
    return ask.error(text, "model") if "model" in ask.changed else ConfigError(key, text)


_CHECKS: Final = (
    _present,
    _model_files,
    _mode_and_model,
    _sampling,
    _gradients,
    _missing,
    _comparing,
    _quadratic,
    _references,
    _capabilities,
    _domains,
    _dimensions,
    _sizes,
    _statistics,
    _prompts,
)
