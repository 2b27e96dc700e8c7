"""What sampling a pipeline of diffusers by align costs, in passes of its network.

The pipelines are Stable Diffusion 3 and FLUX.1 with random weights, a network whose pass takes 0.1
seconds or more, and a decoder that costs next to nothing. The reward is that of a picture's
brightness. Needs the plugin `diffusers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.estimators.gradient import Gradient
from align.modes.sampling.rollout import flow
from align.modes.sampling.steer import Steer
from align.rewards.statistic import PictureStatistic
from align.samplers.dps import DPS
from benchmarks.speed.steering import steered
from benchmarks.speed.timing import CPU, Sizes, seconds
from benchmarks.table import Table

PROMPTS = ["a cat", "a dog on a mat"]
SHORT = {"max_sequence_length": 12}


def tables(sizes: Sizes) -> Iterator[Table]:
    """One table a pipeline; a row an arm."""
    for name, pipe in pipelines(sizes.toy).items():
        title = f"{name}: 2 samples, {sizes.steps} steps, median of {sizes.rounds} rounds"
        head = ("what", "in passes of the network", "smallest and largest", "wanted")
        yield Table(title, head, rows(pipe, sizes))


def pipelines(toy: bool) -> Mapping[str, Any]:
    """Pipelines by name, with networks of a size that a CPU feels."""
    from align_diffusers.testing import flux, sd3, sd3_network
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    torch.set_num_threads(1)
    small, large = sd3(), flux()
    if not toy:
        small.register_modules(transformer=sd3_network(layers=6, heads=8, width=64, side=32))
        config = large.transformer.config
        large.register_modules(
            transformer=FluxTransformer2DModel(
                **dict(config)
                | {"num_layers": 3, "num_single_layers": 3, "num_attention_heads": 32}
            )
        )
    for pipe in (small, large):
        pipe.set_progress_bar_config(disable=True)
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval().requires_grad_(False)
    return {"Stable Diffusion 3, no guidance": small, "FLUX.1": large}


def rows(pipe: Any, sizes: Sizes) -> Iterator[tuple[str, str, str, str]]:
    """Medians of the arms' times, in those of the network's bare passes."""
    passes = "the network's passes again: the noise of these figures"
    wanted = {
        "the pipeline's own loop": "",
        "unsteered, by align": "1.07 of the pipeline's",
        "bare passes and their ways back": "",
        "`steer` with `dps`": "1.07 of those",
        "guidance in `callback_on_step_end`": "",
    }
    arms = calls(pipe, sizes.steps)
    times: dict[str, list[float]] = {name: [] for name in arms}
    for call in arms.values():
        call()
    for _ in range(sizes.rounds):
        for name, call in arms.items():
            times[name].append(seconds(call))
    bare = times["passes"]
    unit = median(bare)
    yield f"the network's {sizes.steps} passes, {unit / sizes.steps:.3f} s each", "1", "", ""
    for name, label in (("passes again", passes), *((name, name) for name in wanted)):
        ratios = [one / reference for one, reference in zip(times[name], bare, strict=True)]
        apart = f"{min(ratios):.3f} to {max(ratios):.3f}"
        yield label, f"{median(ratios):.3f}", apart, wanted.get(name, "1")


def calls(pipe: Any, steps: int) -> Mapping[str, Callable[[], object]]:
    """What is timed, in the order in which it is."""
    from align_diffusers.model import PipelineModel

    side = 2 * pipe.transformer.config.get("sample_size", 32)
    arguments: dict[str, Any] = {**SHORT, "guidance_scale": 1.0, "height": side, "width": side}
    model = PipelineModel(pipe, arguments)
    guarded = GuardedModel(model, "diffusers", Meter(), 64)
    reward = PictureStatistic(of="brightness").build(CPU)
    weighed = WeightedReward((Term(name="bright", reward=reward, weight=100.0),))
    cond = guarded.encode(PROMPTS)
    problem = Problem(guarded, weighed, DPS(), Gradient(), cond)
    noise = torch.randn(2, *model.shape)
    given = seen(pipe, model, noise)

    def passes() -> None:
        with torch.no_grad():
            for _ in range(steps):
                pipe.transformer(**given)

    def returned() -> None:
        """What guidance through the network cannot do without: a graph of each pass, and its end.

        The weights are frozen, so the way back is to the states alone.
        """
        for _ in range(steps):
            z = given["hidden_states"].detach().requires_grad_()
            velocity = pipe.transformer(**given | {"hidden_states": z})[0]
            torch.autograd.grad(velocity.square().sum(), z)

    def own(**more: Any) -> object:
        call = {"prompt": PROMPTS, "latents": noise.clone(), "num_inference_steps": steps}
        return pipe(**call, output_type="latent", **arguments, **more)

    def unsteered() -> None:
        with torch.no_grad():
            flow(guarded, noise, cond, steps=steps)

    def nudged(_: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What documents of diffusers show: a pass of its own in the callback, with a graph."""
        sigma = float(t) / 1000
        with torch.enable_grad():
            z = tensors["latents"].detach().requires_grad_()
            velocity = pipe.transformer(**given | {"hidden_states": z})[0]
            pictures = model.decode(z - sigma * velocity)
            total = 100 * reward.score(pictures, PROMPTS).sum()
            (gradient,) = torch.autograd.grad(total, z)
        return {"latents": tensors["latents"] + sigma / steps * gradient}

    return {
        "passes": passes,
        "passes again": passes,
        "the pipeline's own loop": own,
        "unsteered, by align": unsteered,
        "bare passes and their ways back": returned,
        "`steer` with `dps`": lambda: steered(problem, Steer(steps=steps), 2),
        "guidance in `callback_on_step_end`": lambda: own(callback_on_step_end=nudged),
    }


def seen(pipe: Any, model: Any, noise: Tensor) -> dict[str, Any]:
    """What the pipeline's network is given for a step of these states."""
    given: dict[str, Any] = {}
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: given.update(kwargs), with_kwargs=True
    )
    try:
        with torch.no_grad():
            model.velocity(noise, torch.full((2,), 0.5), model.encode(PROMPTS))
    finally:
        hook.remove()
    return given
