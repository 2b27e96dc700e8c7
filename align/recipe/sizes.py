"""What the numbers of a recipe would need, so that none is begun that cannot end.

Every estimate is a lower bound, of what must be in memory at once, or of how long nothing but the
loop takes; networks and what they keep on their way back come on top.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, final

import attrs

from align.core.autoencoder import AutoencoderSpec
from align.core.dynamics import Dynamics
from align.core.mode import AlignmentMode, Trainable
from align.core.network import NetworkSpec
from align.core.objective import Objective
from align.core.option import Grows, Key
from align.core.study import Study
from align.recipe.schema import Arm, Recipe, Run

_PICTURES: Final = 256  # samples of a block where `run.block` is 0
_VECTORS: Final = 16384
_NUMBER: Final = 4  # bytes
_ROW: Final = 80  # bytes that Python keeps of a row: its number, its prompt, its score
_TIME: Final = 32  # bytes of one number in a list
_COPIES: Final = 5  # of a weight in training: itself, gradient, two means of the optimiser, average
_CALL: Final = 1e-4  # seconds; no step of a mode and no call of a model is faster
_DAY: Final = 24 * 3600.0
_LONGEST: Final = 7 * _DAY

_SAMPLES: Final[Key] = ("run", "samples")
_PARTICLES: Final[Key] = ("mode", "particles")
_BATCH: Final[Key] = ("mode", "optimisation", "batch")
_NOUNS: Final = {
    "n": "candidates",
    "flow_steps": "steps",
    "preview_steps": "steps",
    "pool": "samples of a pool",
    "size": "pixels a side",
    "side": "pixels a side",
}
"""What options with other names than their nouns count."""


@final
@attrs.frozen
class Need:
    """What one number of a recipe asks for, at least.

    Attributes:
        key: of the number, within the recipe or an arm.
        text: the number with its noun.
        memory: bytes that are held at once.
        seconds: duration of the loop alone.
        times: keys of the other numbers that it is multiplied by.
    """

    key: Key
    text: str
    memory: float = 0.0
    seconds: float = 0.0
    times: tuple[Key, ...] = ()

    def refusal(self, available: float) -> str | None:
        """Why it cannot be, if it cannot; `available` are the bytes that there are."""
        if self.memory > available:
            return (
                f"{self.text} need at least {readable(self.memory)} of memory, and there are"
                f" {readable(available)} here; use fewer"
            )
        if self.seconds > _LONGEST:
            days = self.seconds / _DAY
            long = f"{days / 365:,.0f} years" if days > 730 else f"{days:.0f} days"
            return f"{self.text} take {long} at least; use fewer"
        return None


def needs(recipe: Recipe, arm: Arm) -> Iterator[Need]:
    """What the numbers of an arm ask for, each on its own."""
    run, mode, shape = recipe.run, arm.mode, arm.model.state_shape if arm.model else None
    # A state and its data; nothing is known of one whose weights are not read.
    state = 2 * _NUMBER * math.prod(shape or (1,))
    row, samples, together = _ROW + state, run.samples, samples_together(run, arm)
    yield Need(_SAMPLES, f"{samples:,} samples", samples * _ROW + together * state)
    if "reward" in mode.needs and run.unsteered:
        count = run.unsteered
        yield Need(("run", "unsteered"), f"{count:,} unsteered samples", count * row)
    particles = getattr(mode, "particles", 1)
    if particles > 1:
        rows = particles * together
        yield Need(_PARTICLES, f"{particles:,} particles", rows * row, times=(_SAMPLES,))
    if isinstance(mode, Trainable):
        yield Need(_BATCH, f"{mode.batch:,} rows of a batch", mode.batch * row)
    yield from _steps(mode)
    for use in _uses(recipe, arm):
        yield from use.needs(state)


def is_cut(mode: AlignmentMode[Any]) -> bool:
    """Whether a mode makes samples in blocks; training and studies run in one, in one process."""
    return not isinstance(mode, Trainable | Study)


def samples_together(run: Run, arm: Arm) -> int:
    """Samples of an arm that are in memory at once: a block; all, where a mode is not cut."""
    if not is_cut(arm.mode) or not arm.mode.independent:
        return run.samples
    vectors = arm.model is not None and arm.model.domain == "vector"
    return min(run.samples, run.block or (_VECTORS if vectors else _PICTURES))


def _steps(mode: AlignmentMode[Any]) -> Iterator[Need]:
    """The steps of a mode, by the option that says their number, if there is one."""
    name = next((name for name in ("steps", "n") if name in attrs.fields_dict(type(mode))), "")
    if name:
        count = mode.steps
        grid = _TIME * count if hasattr(mode, "power") and name == "steps" else 0
        text, inner = f"{count:,} {_NOUNS.get(name, name)}", getattr(mode, "flow_steps", 1)
        rounds = count * inner if name == "n" and count >= inner else count
        yield Need(("mode", name), text, grid, rounds * _CALL)


@final
@attrs.frozen
class _Use:
    """A part with the tables and parts among its options, and how a run uses it.

    Attributes:
        key: of the part.
        part: its options are looked at.
        rounds: how often it is used, one after the other.
        rows: how many of it are held at once, beside each other; 0 for rows of its own.
        copies: of the weights of its networks.
        times: keys of the numbers that `rounds` and `rows` are made of.
        of_steps: rounds and rows of what is used in every step: dynamics and objectives.
    """

    key: Key
    part: Any
    rounds: int = 1
    rows: int = 0
    copies: int = 1
    times: tuple[Key, ...] = ()
    of_steps: tuple[int, int] = (1, 1)

    def needs(self, state: int) -> Iterator[Need]:
        """What its numbers ask for; a state takes `state` bytes."""
        for field in attrs.fields(type(self.part)):
            key = (*self.key, field.alias or field.name)
            value = getattr(self.part, field.name)
            many = value if isinstance(value, tuple) else (value,)
            if grows := field.metadata.get("grows"):
                counts = [count for count in many if isinstance(count, int)]
                yield from self._need(grows, key, max(counts, default=0), state)
            for place, inner in enumerate(many):
                if isinstance(inner, NetworkSpec | AutoencoderSpec):
                    yield from self._weights(key, inner)
                if attrs.has(type(inner)):
                    where = (*key, place) if many is value else key
                    use = attrs.evolve(self, key=where, part=inner)
                    if isinstance(inner, Dynamics | Objective):
                        rounds, rows = self.of_steps
                        times = (*self.times, ("mode", "steps"), ("mode", "flow_steps"), _BATCH)
                        use = attrs.evolve(use, rounds=rounds, rows=rows, times=times)
                    yield from use.needs(state)

    def _need(self, grows: Grows, key: Key, count: int, state: int) -> Iterator[Need]:
        name = str(key[-1])
        text = f"{count:,} {_NOUNS.get(name, name.replace('_', ' '))}"
        if grows == "calls":
            yield Need(key, text, 0, count * self.rounds * _CALL, self.times)
        elif grows == "rows":
            size = self.rows * state if self.rows else _ROW + state
            yield Need(key, text, count * size, times=self.times)
        else:
            yield Need(key, text, count**2 * 3 * _NUMBER)

    def _weights(self, key: Key, spec: NetworkSpec | AutoencoderSpec) -> Iterator[Need]:
        if weights := spec.weights_at_least:
            text = f"the {weights:.3g} weights of '{spec.kind}'"
            yield Need(key, text, weights * self.copies * _NUMBER)


def _uses(recipe: Recipe, arm: Arm) -> Iterator[_Use]:
    """The parts that an arm uses."""
    mode, estimator, samples = arm.mode, arm.estimator, samples_together(recipe.run, arm)
    several, trains = "n" in attrs.fields_dict(type(mode)), isinstance(mode, Trainable)
    rounds = mode.steps * (getattr(mode, "flow_steps", 1) if several else 1)
    times: tuple[Key, ...] = (("mode", "steps"), ("mode", "n"), ("mode", "flow_steps"))
    yield _Use(
        ("mode",),
        mode,
        mode.steps if several else 1,
        samples if isinstance(mode, Study) else 0,
        _COPIES if trains else 1,
        times[1:2],
        of_steps=(rounds, mode.batch if isinstance(mode, Trainable) else samples),
    )
    rows = samples * getattr(mode, "particles", 1)
    times += (_SAMPLES, _PARTICLES, _BATCH)
    asked = bool(estimator and "estimator" in mode.needs)
    if estimator and asked:
        yield _Use(("estimator",), estimator, rounds, rows, times=times)
    if arm.sampler and (
        "sampler" in mode.needs or (asked and estimator and estimator.needs_sampler)
    ):
        draws = getattr(estimator, "draws", 1) if asked else 1
        rows = mode.batch if isinstance(mode, Trainable) else rows
        rows *= draws if isinstance(draws, int) else 1
        once = 1 if isinstance(mode, Study) else rounds
        known = (*times, ("estimator", "draws"))
        yield _Use(("sampler",), arm.sampler, once, rows, times=known)
    if arm.model:
        yield _Use(("model",), arm.model)
    for index, term in enumerate(recipe.reward):
        yield _Use(("reward", index), term.part)
    for index, metric in enumerate(recipe.metric):
        yield _Use(("metric", index), metric)


def readable(count: float) -> str:
    """A number of bytes with its unit."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} EB"
