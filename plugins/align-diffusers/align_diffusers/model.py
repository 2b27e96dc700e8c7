"""A text-to-image pipeline of diffusers as a flow."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from align.core.attribution import check_followed
from align.core.errors import PartError
from align.core.model import (
    Able,
    Condition,
    DescribesConditions,
    Domain,
    Licensed,
    Scheduled,
    ToData,
    TokenGrid,
    TrainableVelocity,
    clamped,
)
from align.core.path import LinearPath, expand
from align_diffusers.lora import lora_files
from align_diffusers.offload import Placement
from align_diffusers.probe import (
    ProbeMethods,
    RawPictures,
    RecorderMethods,
    Texts,
    TimesRecorded,
    Untouched,
    first_argument,
    with_methods,
)
from align_diffusers.row_times import RowTimes, agree, spread_all
from align_diffusers.schedule import schedule_of

NEEDED: Final = ("latents", "output_type", "prompt")
BY_ALIGN: Final = frozenset(
    {
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
        "generator",
        "latents",
        "negative_prompt",
        "num_images_per_prompt",
        "num_inference_steps",
        "output_type",
        "prompt",
        "return_dict",
        "sigmas",
        "timesteps",
    }
)
GUIDANCE: Final = frozenset({"guidance_scale", "true_cfg_scale"})
"""Factors of guidance that asks the network twice, where they are more than 1."""

BY_STEP: Final = re.compile(
    r"(?:^|_)(?:start|stop|end|interval|trunc\w*|warmup)(?:_|$)|^skip_(?:guidance|layer)"
)
"""Names of arguments that say at which steps of a sampler something begins or ends."""


def refuse(arguments: Collection[str]) -> None:
    """Raise ValueError for arguments of a pipeline's call that nobody but align can give."""
    for name in sorted(arguments):
        if name in BY_ALIGN or name.endswith("_embeds"):
            raise ValueError(f"'{name}' is given by align; leave it out")
        if name == "eta":
            raise ValueError(
                f"'{name}' is noise of the scheduler's own steps, which align takes in its place;"
                " leave it out"
            )
        if BY_STEP.search(name):
            raise ValueError(
                f"'{name}' depends on the number of the step, and a velocity has none; leave it out"
            )


@final
class PipelineModel(TrainableVelocity, Scheduled, ToData, TokenGrid, DescribesConditions, Licensed):
    """A pipeline's own call, asked for one network output at a time.

    Guidance, packing, scaling and signs are the pipeline's own, and so is the decoder. States are
    latents in the layout that the pipeline gives them: in float32, whatever the precision of the
    network, or in float64 where the network is.

    Args:
        pipe: a text-to-image pipeline, in the precision and on the device that it runs with. A
            shallow copy is used, so the pipeline can be used as before.
        arguments: further keyword arguments of its call: guidance_scale, height, width, ...
        negative_prompt: what guidance leads away from; None where the pipeline is given none.
        distilled: whether the network was distilled to jump to data in one call.
        placement: where its components are; where they are now, if that is left out.
        licence: of its weights, as their card states it.

    Raises:
        PartError: the pipeline lacks what the adapter needs, or has what it cannot follow.
    """

    def __init__(
        self,
        pipe: Any,
        arguments: Mapping[str, Any] | None = None,
        negative_prompt: str | None = None,
        *,
        distilled: bool = False,
        placement: Placement | None = None,
        licence: str = "",
    ) -> None:
        self._who: Final = f"pipeline {type(pipe).__name__}"
        self._arguments = dict(arguments or {})
        self._negative: Final = negative_prompt
        self._network_name: Final = network_name(pipe)
        self._network: nn.Module = getattr(pipe, self._network_name)
        call = type(pipe).__call__
        self._known: Final = frozenset(inspect.signature(call).parameters)
        self._check(pipe)
        self._call: Final = getattr(call, "__wrapped__", call)  # without its no_grad
        self.device = placement.device if placement else torch.device(pipe.device)
        self._placement: Final = placement or Placement(
            pipe, self._network_name, self.device, offload=False
        )
        self.licence = licence
        self._schedule: Final = schedule_of(pipe.scheduler, self._who, self.device)
        self._scheduler: Final = pipe.scheduler
        self._begins: Final[dict[int, tuple[tuple[float, ...], float]]] = {}
        self._distilled: Final = distilled
        self._stepless = True
        self._pipe = copy.copy(pipe)
        self._probe: Final = with_methods(pipe.scheduler, ProbeMethods)
        self._texts: Final = Texts(pipe.encode_prompt)
        replaced = {
            "scheduler": self._probe,
            "encode_prompt": self._texts,
            "image_processor": RawPictures(getattr(pipe, "image_processor", None)),
            "maybe_free_model_hooks": lambda: None,
            "_progress_bar_config": {"disable": True},
        }
        changes_pictures = ("safety_checker", "watermark")
        replaced |= dict.fromkeys(name for name in changes_pictures if hasattr(pipe, name))
        for name, value in replaced.items():  # not as registered components of the pipeline
            object.__setattr__(self._pipe, name, value)
        self.path = LinearPath()
        self.domain: Domain = "image"
        self._precision: Final[torch.dtype] = getattr(pipe, self._network_name).dtype
        self.dtype = torch.promote_types(self._precision, torch.float32)
        self.shape = self._shape()
        self._by_rows, self._rows = self._first_look()

    def capability(self, kind: type[Able]) -> Able | None:
        """Jumps to data are those of a network that was distilled; a grid is that of tokens."""
        if kind is ToData and not self._distilled:
            return None
        return None if kind is TokenGrid and self._grid() is None else super().capability(kind)

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of packed latents, which have the shape of a picture."""
        grid = self._grid()
        if grid is None:
            raise PartError(f"{self._who}: its states {self.shape} are no tokens of a picture")
        return grid

    def _grid(self) -> tuple[int, int] | None:
        """So many rows and columns as L tokens have in squares of a picture; None where none do."""
        if len(self.shape) != 2:
            return None
        with torch.no_grad():
            zeros = torch.zeros((1, *self.shape), dtype=self.dtype, device=self.device)
            height, width = self.decode(zeros).shape[-2:]
        rows = round(math.sqrt(self.shape[0] * height / width))
        columns = self.shape[0] // max(1, rows)
        whole = rows * columns == self.shape[0] and rows * width == columns * height
        return (rows, columns) if whole else None

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Every prompt by the pipeline's own encoders, alone and once."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._texts:
                self._record(prompt)
        return Condition(tuple(prompts))

    def features(self, cond: Condition) -> Tensor:
        """The texts as the pipeline's encoders embed them, averaged over their tokens; (B, F)."""
        self.encode(cond.prompts)
        numbers = {prompt: self._texts.numbers(prompt) for prompt in dict.fromkeys(cond.prompts)}
        return torch.stack([numbers[prompt] for prompt in cond.prompts]).to(self.device)

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """b_t(x), guided as the pipeline is; rows whose texts have one size are one call of it.

        Rows of different times are calls of their own where the pipeline does not spread a time
        over its rows as others do.
        """
        self.encode(cond.prompts)
        times = itertools.repeat(0.0) if self._by_rows else t.tolist()
        groups: dict[tuple[Any, ...], list[int]] = {}
        for row, (time, prompt) in enumerate(zip(times, cond.prompts, strict=False)):
            groups.setdefault((time, self._texts.sizes(prompt)), []).append(row)
        if len(groups) == 1:
            return self._guided(x, t, list(cond.prompts))
        parts = [
            self._guided(x[rows], t[rows], [cond.prompts[row] for row in rows])
            for rows in groups.values()
        ]
        order = torch.tensor([row for rows in groups.values() for row in rows], device=x.device)
        return torch.cat(parts)[order.argsort()]

    def to_data(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """X_{s,1}(x) by one call: the denoiser, at the boundary as the scheduler mixes it.

        Consistency models are c_out D + c_skip z there, Song et al., 2023, arXiv:2303.01469, Eq. 5.
        """
        x1 = x + expand(1 - s, x) * self.velocity(x, s, cond)
        scalings = getattr(self._scheduler, "get_scalings_for_boundary_condition_discrete", None)
        if scalings is None:
            return x1
        skip, out = (expand(part, x) for part in scalings(self._schedule.step_time(s)))
        return out * x1 + skip * self._schedule.states(x, s)

    def decode(self, x1: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1]; clamped, but with the gradient of the identity."""

        def decoded(x1: Tensor) -> Tensor:
            latents = x1.to(self._precision)
            return self._ask_no_step([""] * len(x1), latents=latents, output_type="pt")

        pictures = self._placement.call("decoder", decoded, x1)
        if pictures.dim() != 4:
            raise PartError(f"{self._who} decodes to {pictures.dim()} dimensions, not to pictures")
        check_followed(self._who, pictures, x1)
        pictures = pictures.to(x1.dtype) / 2 + 0.5
        return clamped(pictures)

    @property
    def rows_per_velocity(self) -> int:
        """What the network sees when the pipeline is asked for one row."""
        return self._rows

    def times(self, steps: int) -> tuple[float, ...]:
        """The times that the pipeline steps through in so many steps, rising, up to 1."""
        return self._sampler(steps)[0]

    def begin(self, noise: Tensor, steps: int) -> Tensor:
        """N(0, I) (B, *S) as the states that the pipeline starts so many steps from."""
        return noise * self._sampler(steps)[1]

    def _check(self, pipe: Any) -> None:
        """Raise PartError unless the pipeline, its arguments and prompts can be followed."""
        known = self._known
        missing = [name for name in NEEDED if name not in known]
        missing += [name for name in ("scheduler", "encode_prompt") if not hasattr(pipe, name)]
        if missing:
            text = ", ".join(f"'{name}'" for name in missing)
            raise PartError(f"{self._who} lacks {text}, which align needs to ask it for one step")
        if "num_frames" in known:
            raise PartError(f"{self._who} makes video; align has rewards of pictures only")
        given = {*self._arguments, *(() if self._negative is None else ("negative_prompt",))}
        if unknown := sorted(given - known):
            text = ", ".join(f"'{name}'" for name in unknown)
            raise PartError(f"{self._who} takes no {text} in its call; leave it out")
        try:
            refuse(self._arguments)
        except ValueError as error:
            raise PartError(f"{self._who}: {error}") from error

    @property
    def module(self) -> nn.Module:
        """The network; raises PartError where it may wait on the CPU."""
        if self._placement.offloads:
            raise PartError(
                f"{self._who}: a network that is offloaded cannot be trained; leave 'offload' out"
            )
        return self._network

    def with_module(self, module: nn.Module) -> PipelineModel:
        """The pipeline with another network in its place; prompts are encoded by the same."""
        made = copy.copy(self)
        made._pipe, made._network = copy.copy(self._pipe), module
        object.__setattr__(made._pipe, self._network_name, module)
        return made

    def unguided(self) -> PipelineModel:
        """The pipeline whose network sees each row once; guidance that it is told stays.

        Raises:
            PartError: no argument of its call takes guidance off.
        """
        if self.rows_per_velocity == 1:
            return self
        for name in GUIDANCE & self._known:
            made = copy.copy(self)
            made._arguments = self._arguments | {name: 1.0}
            made._by_rows, made._rows = made._first_look()
            if made.rows_per_velocity == 1:
                return made
        raise PartError(f"{self._who}: its guidance cannot be taken off; use another objective")

    def files(self, module: nn.Module) -> Mapping[str, bytes]:
        """Adapters as `pipe.load_lora_weights` reads them, where the pipeline can."""
        return lora_files(self._pipe, self._network_name, module)

    def _guided(self, x: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
        """b_t(x) of rows that have one time, and texts of one size."""
        return self._placement.call("network", lambda x: self._velocity(x, t, prompts), x)

    def _velocity(self, x: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
        """The same, of a network that is on the device."""
        self._probe.output = None
        hook = self._network.register_forward_pre_hook(
            lambda _, args, kwargs: spread_all(args, kwargs), with_kwargs=True
        )
        try:
            self._ask_step(x, t, prompts)
        finally:
            hook.remove()
        output, self._probe.output = self._probe.output, None
        if output is None:
            raise PartError(f"{self._who} made no step of its scheduler in its call")
        check_followed(self._who, output, x)
        return self._schedule.velocity(output.to(x.dtype), x, t)

    def _ask_step(self, x: Tensor, t: Tensor, prompts: list[str]) -> None:
        """The pipeline's call for one step from these states."""
        asked = self._schedule.asked(t if self._by_rows else t[:1])
        rows = asked.reshape(-1, len(t)) if self._by_rows else asked[:, None]
        self._probe.asked = RowTimes.of(rows)
        states = self._schedule.states(x, t).to(self._precision)
        self._ask(prompts, latents=states, output_type="latent")

    def _first_look(self) -> tuple[bool, int]:
        """Whether rows of a call may have different times, and rows that the network sees of one.

        The network is not asked: what it would be given for two rows is compared with what it would
        be given for each. A pipeline that cannot do without its network's output is asked once.
        """
        t = torch.tensor([0.3, 0.6], device=self.device)
        x = torch.arange(2 * math.prod(self.shape), device=self.device).to(self.dtype).sin()
        x = x.reshape(2, *self.shape)
        self._by_rows = True
        with torch.no_grad():
            try:
                both, one, two = (
                    self._seen(x[rows], t[rows]) for rows in (slice(2), slice(1), slice(1, 2))
                )
            except Exception:
                self._by_rows = False
                return False, self._counted(x[:1], t[:1])
        return agree(both, one, two), sum(len(first_argument(*call)) for call in one)

    def _counted(self, x: Tensor, t: Tensor) -> int:
        """Rows that the network sees for a step from these states."""
        seen = list[int]()
        hook = self._network.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(len(first_argument(args, kwargs))),
            with_kwargs=True,
        )
        try:
            self._guided(x, t, [""] * len(x))
        finally:
            hook.remove()
        return sum(seen)

    def _seen(self, x: Tensor, t: Tensor) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """What the network would be given for a step from these states."""
        stand_in = Untouched(self._network)
        with self._bypassed(stand_in):
            self._ask_step(x, t, [""] * len(x))
        return [spread_all(*call) for call in stand_in.calls]

    @contextmanager
    def _bypassed(self, stand_in: Untouched) -> Iterator[None]:
        """The pipeline with something else in place of its network."""
        object.__setattr__(self._pipe, self._network_name, stand_in)
        try:
            yield
        finally:
            object.__setattr__(self._pipe, self._network_name, self._network)

    def _record(self, prompt: str) -> Tensor:
        """Encode a prompt and keep what came of it; returns latents that no network has seen."""
        self._placement.use("encoders")
        with torch.no_grad(), self._texts.record(prompt):
            return self._ask_no_step([prompt], output_type="latent")

    def _shape(self) -> tuple[int, ...]:
        """Of one state; learns whether the pipeline's call can be asked for no step at all."""
        try:
            return tuple(self._record("").shape[1:])
        except UnboundLocalError:  # of what its last step would have made
            self._stepless = False
            return tuple(self._record("").shape[1:])

    def _ask_no_step(self, prompts: list[str], **given: Any) -> Tensor:
        """The pipeline's call without its network: with no step, or with one that changes nothing.

        Pipelines of consistency models decode what their last step made, and so need one.
        """
        if self._stepless:
            self._probe.asked = torch.empty(0, device=self.device)
            result: Tensor = self._ask(prompts, **given)
            return result
        self._probe.asked = self._schedule.asked(torch.full((1,), 0.5, device=self.device))
        with self._bypassed(Untouched(self._network)):
            latents: Tensor = self._ask(prompts, **given)
        return latents

    def _sampler(self, steps: int) -> tuple[tuple[float, ...], float]:
        """Times of the pipeline's own sampler, and what it scales its first noise by."""
        if steps not in self._begins:
            scheduler = self._scheduled(steps)
            times = self._schedule.times(scheduler)
            if len(times) != steps + 1:
                raise PartError(
                    f"{self._who}: its {type(self._scheduler).__name__} makes {len(times) - 1} of"
                    f' {steps} steps; take grid = "uniform", or another scheduler'
                )
            self._begins[steps] = times, self._schedule.begin(scheduler, times[0])
        return self._begins[steps]

    def _scheduled(self, steps: int) -> Any:
        """The real scheduler, once the pipeline has set its times."""
        recorder = with_methods(self._scheduler, RecorderMethods)
        object.__setattr__(self._pipe, "scheduler", recorder)
        try:
            with torch.no_grad():
                self._ask([""], output_type="latent", num_inference_steps=steps)
        except TimesRecorded:
            return recorder
        finally:
            object.__setattr__(self._pipe, "scheduler", self._probe)
        raise PartError(f"{self._who} set no times in its call")

    def _ask(self, prompts: list[str], **given: Any) -> Any:
        """The pipeline's call for these prompts."""
        arguments = {"num_inference_steps": 1, "return_dict": False} | self._arguments | given
        if "intermediate_timesteps" in self._known and arguments["num_inference_steps"] != 2:
            arguments.setdefault("intermediate_timesteps", None)  # which are of two steps alone
        if self._negative is not None:
            arguments["negative_prompt"] = [self._negative] * len(prompts)
        self._texts.replay(prompts)
        with nullcontext() if "latents" in given else _random_state_kept(self.device):
            return self._call(self._pipe, prompt=prompts, **arguments)[0]


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """A call without latents draws some, which nobody keeps: leave torch's numbers as they were."""
    here = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if here is not None:
            torch.cuda.set_rng_state(here, device)


def network_name(pipe: Any) -> str:
    """The component that predicts velocity or noise; raises PartError where there is none."""
    for name in ("transformer", "unet"):
        if getattr(pipe, name, None) is not None:
            return name
    raise PartError(f"pipeline {type(pipe).__name__} has neither a transformer nor a unet")
