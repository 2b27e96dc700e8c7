"""What steering and fine-tuning cost on a CUDA device at the size of DiT-XL/2, with random weights.

    python benchmarks/scale.py
    python benchmarks/scale.py --width 64 --depth 2 --heads 2 --rows 2      (where there is no GPU)

256 x 256 pictures, latents of 4 x 32 x 32, a meta flow map in bfloat16, and a classifier of 224 x
224 pictures as the reward. Weights do not matter to what a step takes. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
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
from align.models.network_model import NetworkModel
from align.modes.finetune.evaluation import Evaluation
from align.modes.finetune.mode import FineTune
from align.modes.sampling.steer import Steer
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.samplers.mfm import MetaFlowMap
from align.training.loop import Optimisation

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
SHAPE = (4, 32, 32)


def problem(net: DiTConfig, chunk: int) -> Problem:
    """A tilt of random networks of that size by a classifier."""
    with DEVICE:
        outer = AutoencoderConfig(width=64, levels=3, latents=SHAPE[0])
        model = NetworkModel(
            shape=SHAPE,
            classes=("tabby cat",),
            posterior=DiT(net, SHAPE, 1, "meta_flow_map"),
            autoencoder=Autoencoder(outer),
            device=DEVICE,
            precision="bfloat16",
        )
    for module in (model.posterior, model.autoencoder):
        assert module is not None
        module.eval().requires_grad_(False)
    judge = ImageNet(label="tabby cat", size=224).build(DEVICE)
    guarded = GuardedModel(model, "network", Meter(), chunk)
    reward = WeightedReward((Term(name="cat", reward=judge, weight=1.0),))
    cond = model.encode(["tabby cat"] * chunk)
    return Problem(guarded, reward, MetaFlowMap(), Gradient(draws=1), cond=cond)


def took(call: Callable[[], object], count: int) -> tuple[float, float]:
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
    return seconds, torch.cuda.max_memory_allocated() / 1e9 if CUDA else float("nan")


def row(what: str, seconds: float, memory: float) -> None:
    """Print one row of the table."""
    print(f"| {what} | {seconds:.3f} | {memory:.1f} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=1152)
    parser.add_argument("--depth", type=int, default=28)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--count", type=int, default=3)
    options = parser.parse_args()
    rows = options.rows
    net = DiTConfig(
        width=options.width,
        depth=options.depth,
        heads=options.heads,
        patch=2,
        encoder_depth=max(1, options.depth * 5 // 7),
    )
    whole = problem(net, rows)
    assert isinstance(whole.model, GuardedModel) and isinstance(whole.model.inner, NetworkModel)
    size = sum(w.numel() for w in whole.model.inner.require_velocity().parameters())
    print(f"{size / 1e6:.0f} M parameters, {rows} rows at a time\n")
    print("| what | seconds | GB |\n|---|---|---|")
    streams, mode = Streams(0, tuple(range(rows)), device=DEVICE), Steer(steps=50)
    for draws in (1, 4):
        steered = attrs.evolve(whole, estimator=Gradient(draws=draws))
        state = mode.init(steered, streams)
        step = partial(mode.step, steered, state, 10, streams)
        row(f"a step of steering, MFM-G, draws: {draws}", *took(step, options.count))
    tune = FineTune(
        pool=rows,
        flow_steps=2,
        evaluation=Evaluation(samples=2, flow_steps=2),
        optimisation=Optimisation(batch=rows, precision="bfloat16"),
        steps=1000,
    )
    under_way = tune.init(whole, streams)
    step = partial(tune.step, whole, under_way, 3, streams)
    row("a step of fine-tuning, 1 draw", *took(step, options.count))


if __name__ == "__main__":
    main()
