"""Parts that compute nothing: what recipes are checked with."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import attrs

from align.catalog.hookspecs import hookimpl
from align.core.errors import PartError
from align.core.estimator import ValueEstimator
from align.core.metric import Metric
from align.core.mode import AlignmentMode
from align.core.model import FlowMap, ModelSpec, PosteriorMap
from align.core.option import above, at_least, option
from align.core.reward import RewardSpec
from align.core.sampler import PosteriorSampler


@final
@attrs.frozen(kw_only=True)
class Vectors(ModelSpec):
    """Makes vectors."""

    kind: ClassVar[str] = "toy_vectors"
    prompt: str = option("what to make", default="")
    size: int = option("entries of a vector", default=2, check=at_least(1))
    domain = "vector"
    provides = frozenset({FlowMap})

    def build(self, device):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Images(ModelSpec):
    """Makes images."""

    kind: ClassVar[str] = "toy_images"
    prompt: str = option("what to make", default="")
    file: str = option("weights", default="there")
    domain = "image"

    @property
    def provides(self):
        if self.file == "away":
            raise PartError("the weights are away; fetch them")
        return frozenset({PosteriorMap})

    def build(self, device):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Exact(PosteriorSampler):
    """Needs a meta flow map."""

    kind: ClassVar[str] = "toy_map"
    differentiable: ClassVar[bool] = True
    exact_for: ClassVar[str] = "all"
    needs: ClassVar[type | None] = PosteriorMap

    def sample(self, model, noisy, *, draws, streams):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Stiff(PosteriorSampler):
    """Has no gradient."""

    kind: ClassVar[str] = "toy_stiff"
    differentiable: ClassVar[bool] = False
    exact_for: ClassVar[str] = "none"
    needs: ClassVar[type | None] = None

    def sample(self, model, noisy, *, draws, streams):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Slope(ValueEstimator):
    """Needs gradients."""

    kind: ClassVar[str] = "toy_slope"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None
    draws: int = option("posterior draws", default=4, check=at_least(1))

    def estimate(self, problem, noisy, *, streams):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Flat(ValueEstimator):
    """Needs no gradient."""

    kind: ClassVar[str] = "toy_flat"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = False
    needs_model: ClassVar[type | None] = FlowMap
    draws: int = option("posterior draws", default=4, check=at_least(1))

    def estimate(self, problem, noisy, *, streams):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Smooth(RewardSpec):
    """Scores anything."""

    kind: ClassVar[str] = "toy_smooth"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Literal["image", "vector"] | None] = None
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    version: Literal["v2.0", "v2.1"] = option("which weights", default="v2.1")

    def build(self, device):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Jpeg(RewardSpec):
    """Scores images, without a gradient."""

    kind: ClassVar[str] = "toy_jpeg"
    differentiable: ClassVar[bool] = False
    domain: ClassVar[Literal["image", "vector"] | None] = "image"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    quality: int = option("of the file")

    def build(self, device):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Reader(RewardSpec):
    """Compares images with the prompt."""

    kind: ClassVar[str] = "toy_reader"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Literal["image", "vector"] | None] = "image"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_prompt: ClassVar[bool] = True

    def build(self, device):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Sharpness(Metric):
    """Measures images."""

    kind: ClassVar[str] = "toy_sharpness"
    domain: ClassVar[Literal["image", "vector"] | None] = "image"
    needs_references: ClassVar[bool] = False

    def compute(self, samples, references):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Schedule:
    """A plain table."""

    rate: float = option("rate", default=0.1, check=above(0))
    stages: tuple[int, ...] = option("stages", default=(1, 2))


@final
@attrs.frozen(kw_only=True)
class Wide:
    """One side of a closed union."""

    kind: ClassVar[str] = "wide"
    width: int = option("units", default=8)


@final
@attrs.frozen(kw_only=True)
class Deep:
    """The other side of a closed union."""

    kind: ClassVar[str] = "deep"
    depth: int = option("layers", default=3)


def _less_than_steps(mode, attribute, value) -> None:
    if value >= mode.steps:
        raise ValueError(f"'{attribute.name}' must be less than 'steps', got {value}")


class Steps(AlignmentMode[Any]):
    """What the modes below share: nothing that anyone calls."""

    def init(self, problem, streams):
        raise NotImplementedError

    def step(self, problem, state, index, streams):
        raise NotImplementedError

    def finish(self, problem, state):
        raise NotImplementedError


@final
@attrs.frozen(kw_only=True)
class Guide(Steps):
    """Steers with everything there is.

    Reference: None, Nobody, 2026.
    """

    kind: ClassVar[str] = "toy_guide"
    needs: ClassVar[frozenset[str]] = frozenset({"model", "sampler", "estimator", "reward"})
    steps: int = option("steps", default=50, check=at_least(1))
    warm: int = option("steps without guidance", default=0, check=_less_than_steps)
    scale: float = option("factor", default=1.0, check=above(0))
    loud: bool = option("whether to tell", default=False)
    label: str = option("a name", default='"\\ tab\t é\x7f\n')
    sizes: tuple[int, ...] = option("sizes", default=(1, 2))
    span: tuple[float, float] = option("from and to", default=(0.0, float("inf")))
    grid: tuple[tuple[float, ...], ...] = option("grid", default=((1.0,), ()))
    schedule: Schedule = option("schedule", default=Schedule())
    schedules: tuple[Schedule, ...] = option("schedules", default=())
    extra: Schedule | None = option("schedule", default=None)
    net: Wide | Deep = option("net", default=Wide())
    count: int | Literal["all"] = option("how many", default="all")
    by_name: dict[str, float] = attrs.field(factory=dict)
    inner: PosteriorSampler | None = option("another sampler", default=None)
    teacher: ModelSpec | None = option("another model", default=None)


@final
@attrs.frozen(kw_only=True)
class Pick(Steps):
    """Takes the best of some."""

    kind: ClassVar[str] = "toy_pick"
    needs: ClassVar[frozenset[str]] = frozenset({"model", "reward"})
    n: int = option("how many")

    steps = 1


@hookimpl
def align_models():
    return [Vectors, Images]


@hookimpl
def align_samplers():
    return [Exact, Stiff]


@hookimpl
def align_estimators():
    return [Slope, Flat]


@hookimpl
def align_rewards():
    return [Smooth, Jpeg, Reader]


@hookimpl
def align_metrics():
    return [Sharpness]


@hookimpl
def align_modes():
    return [Guide, Pick]
