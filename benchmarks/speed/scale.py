"""What steering and fine-tuning take at the size of DiT-XL/2, with random weights, in seconds.

256 x 256 pictures, latents of 4 x 32 x 32, a meta flow map in bfloat16, and a classifier of 224 x
224 pictures as the reward. Weights do not matter to what a step takes. A toy one is a small
transformer, and runs on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import attrs
import torch
from align_imagenet import ImageNet

from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.estimators.gradient import Gradient
from align.models.network_model import NetworkModel, Precision
from align.modes.finetune.evaluation import Evaluation
from align.modes.finetune.mode import FineTune
from align.modes.sampling.steer import Steer
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.samplers.mfm import MetaFlowMap
from align.training.loop import Optimisation
from benchmarks.speed.timing import Sizes
from benchmarks.table import Table

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


@attrs.frozen
class Scale:
    """Networks of one size: the transformer, latents, width of the autoencoder, judged pictures."""

    net: DiTConfig
    shape: tuple[int, int, int]
    width: int
    judged: int
    precision: Precision

    @classmethod
    def of(cls, toy: bool) -> Scale:
        """DiT-XL/2, or what a CPU does in a second."""
        if toy:
            net = DiTConfig(width=64, depth=2, heads=2, patch=2, encoder_depth=1)
            return cls(net, (4, 8, 8), 8, 32, "float32")
        net = DiTConfig(width=1152, depth=28, heads=16, patch=2, encoder_depth=20)
        return cls(net, (4, 32, 32), 64, 224, "bfloat16")

    def problem(self, chunk: int) -> Problem:
        """A tilt of random networks of that size by a classifier."""
        with DEVICE:
            outer = AutoencoderConfig(width=self.width, levels=3, latents=self.shape[0])
            model = NetworkModel(
                shape=self.shape,
                classes=("tabby cat",),
                posterior=DiT(self.net, self.shape, 1, "meta_flow_map"),
                autoencoder=Autoencoder(outer),
                device=DEVICE,
                precision=self.precision,
            )
        for module in (model.posterior, model.autoencoder):
            assert module is not None
            module.eval().requires_grad_(False)
        judge = ImageNet(label="tabby cat", size=self.judged).build(DEVICE)
        guarded = GuardedModel(model, "network", Meter(), chunk)
        reward = WeightedReward((Term(name="cat", reward=judge, weight=1.0),))
        cond = model.encode(["tabby cat"] * chunk)
        return Problem(guarded, reward, MetaFlowMap(), Gradient(draws=1), cond=cond)


def took(call: Callable[[], object], count: int) -> tuple[str, str]:
    """Seconds of one call, the mean of `count` after one more, and the peak of memory in GB."""
    call()
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for _ in range(count):
        call()
    if CUDA:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / count
    return f"{seconds:.3f}", f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if CUDA else ""


def tables(sizes: Sizes) -> Iterator[Table]:
    """Seconds of a step, and gigabytes."""
    scale = Scale.of(sizes.toy)
    whole = scale.problem(sizes.rows)
    weights = sum(w.numel() for w in bare_network(whole).require_velocity().parameters())
    yield Table(
        f"{weights / 1e6:.0f} M parameters, {sizes.rows} rows at a time",
        ("what", "seconds", "GB"),
        rows(whole, sizes, scale.precision),
    )


def rows(whole: Problem, sizes: Sizes, precision: Precision) -> Iterator[tuple[str, str, str]]:
    """A step of steering, then one of fine-tuning."""
    streams, mode = Streams(0, tuple(range(sizes.rows)), device=DEVICE), Steer(steps=50)
    for draws in (1, 4):
        steered = attrs.evolve(whole, estimator=Gradient(draws=draws))
        state = mode.init(steered, streams)
        step = partial(mode.step, steered, state, 10, streams)
        yield f"a step of steering, MFM-G, draws: {draws}", *took(step, sizes.rounds)
    tune = FineTune(
        pool=sizes.rows,
        flow_steps=2,
        evaluation=Evaluation(samples=2, flow_steps=2),
        optimisation=Optimisation(batch=sizes.rows, precision=precision),
        steps=1000,
    )
    tuned = tune.init(whole, streams)
    yield (
        "a step of fine-tuning, 1 draw",
        *took(partial(tune.step, whole, tuned, 3, streams), sizes.rounds),
    )


def bare_network(whole: Problem) -> NetworkModel:
    """The network behind the guard."""
    model = whole.model.capability(NetworkModel)
    assert model is not None
    return model
