"""What steering and training take on a GPU at the size of MFM-XL/2, with random weights.

    python -m benchmarks.gpu --page docs/results/speed.md       # on CUDA, in at most eight minutes
    python -m benchmarks.gpu --toy                              # tiny networks, anywhere

A meta flow map of the size of DiT-XL/2 makes latents of 4 x 32 x 32 in bfloat16, a decoder of about
as many operations as Stable Diffusion's makes 256 x 256 pictures of them, and a transformer of the
size of CLIP's ViT-H/14 compares these with a fixed text. Nothing is downloaded: what a step takes
does not depend on the weights. Operations of model FLOP utilisation (MFU) are counted, there and
back; the peak is that of dense products in bfloat16.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any, Final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.core.checks import checks_read_once
from align.core.chunks import Chunks
from align.core.mode import AlignmentMode
from align.core.problem import Problem
from align.core.reward import Reward, Term, WeightedReward
from align.core.streams import Streams
from align.engine.flops import counted
from align.engine.guard import GuardedModel, GuardedReward
from align.engine.memory import DeviceMemory
from align.engine.meter import Meter
from align.estimators.gradient import Gradient
from align.io.images import checked, preprocess, standardised
from align.models.network_model import NetworkModel, Precision
from align.modes.finetune.evaluation import Evaluation
from align.modes.finetune.mode import FineTune
from align.modes.sampling.steer import Steer
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.networks.layers import Attention
from align.recipe import Arm
from align.runner.build import Built
from align.runner.observers import NullObserver
from align.runner.plan import Planner
from align.samplers.mfm import MetaFlowMap
from align.training.loop import Optimisation
from benchmarks.speed.objectives import started
from benchmarks.speed.steering import loop
from benchmarks.table import Table, parsed, parser_of, publish, short

CUDA: Final = torch.cuda.is_available()
DEVICE: Final = torch.device("cuda" if CUDA else "cpu")
PEAKS: Final = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
}
"""Operations a second of dense products in bfloat16, by words of a device's name."""
CHUNK: Final = 256
"""Most rows at once, as `align run` has it on a GPU."""
LABEL: Final = "tabby cat"


@attrs.frozen(kw_only=True)
class Size:
    """How large networks and measurements are.

    Attributes:
        net: the transformer.
        shape: of a latent.
        decoder: channels of its widest pictures.
        judge: the tower of the reward.
        precision: of products.
        draws: numbers N of draws a step.
        steps: of a run that is planned.
        batch: rows of a training step.
        rounds: times that a step is repeated.
        backend: of torch's compiler.
    """

    net: DiTConfig
    shape: tuple[int, int, int]
    decoder: int
    judge: Tower
    precision: Precision
    draws: tuple[int, ...]
    steps: int
    batch: int
    rounds: int
    backend: str


@attrs.frozen(kw_only=True)
class Tower:
    """Sizes of a vision transformer of CLIP's form."""

    width: int
    depth: int
    heads: int
    patch: int
    side: int
    features: int


FULL: Final = Size(
    net=DiTConfig(
        width=1152,
        depth=28,
        heads=16,
        patch=2,
        encoder_depth=20,
        data_at=0,
        guidance_scales=(1.0, 2.5),
    ),
    shape=(4, 32, 32),
    decoder=192,
    judge=Tower(width=1280, depth=32, heads=16, patch=14, side=224, features=1024),
    precision="bfloat16",
    draws=(1, 4, 16, 32),
    steps=10,
    batch=16,
    rounds=7,
    backend="inductor",
)
TOY: Final = Size(
    net=DiTConfig(width=16, depth=2, heads=2, patch=2, encoder_depth=1, guidance_scales=(1.0, 2.5)),
    shape=(4, 4, 4),
    decoder=8,
    judge=Tower(width=16, depth=1, heads=2, patch=14, side=28, features=8),
    precision="float32",
    draws=(1, 2),
    steps=2,
    batch=2,
    rounds=1,
    backend="eager",
)


class _Layer(nn.Module):
    """Attention and two linear layers, each after a normalisation and beside the identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, width)."""
        x = x + self.attention(self.norms[0](x))
        moved: Tensor = x + self.mlp(self.norms[1](x))
        return moved


class VisionTower(nn.Module):
    """A vision transformer of CLIP's form.

    Reference: Learning Transferable Visual Models From Natural Language Supervision, Radford et
    al., 2021, arXiv:2103.00020, section 2.4.
    """

    def __init__(self, size: Tower) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size.width, size.patch, size.patch, bias=False)
        self.first = nn.Parameter(torch.randn(1, 1, size.width))
        tokens = (size.side // size.patch) ** 2 + 1
        self.positions = nn.Parameter(torch.randn(1, tokens, size.width))
        self.before, self.after = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.layers = nn.Sequential(*(_Layer(size.width, size.heads) for _ in range(size.depth)))
        self.features = nn.Linear(size.width, size.features, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (B, features) of standardised pictures (B, 3, side, side)."""
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.first.expand(len(pixels), -1, -1), patches), 1) + self.positions
        features: Tensor = self.features(self.after(self.layers(self.before(tokens))[:, 0]))
        return features


@attrs.frozen(eq=False)
class Alike(Reward):
    """The cosine between a picture's features and those of a text (1, features)."""

    tower: VisionTower
    text: Tensor
    side: int

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of pictures (B, 3, H, W) in [0, 1]."""
        pictures = checked(data, "reward 'alike'")
        seen = standardised(preprocess(pictures, self.side, "shortest side, centre crop"))
        features = self.tower(seen.to(self.text.dtype))
        return F.cosine_similarity(features.float(), self.text.float())


def random_problem(size: Size) -> Problem:
    """One sample of random networks of that size, steered by the reward of one."""
    dtype = getattr(torch, size.precision)
    with DEVICE:
        outer = AutoencoderConfig(width=size.decoder, levels=3, latents=size.shape[0])
        net, autoencoder = DiT(size.net, size.shape, 1, "meta_flow_map"), Autoencoder(outer)
        tower = VisionTower(size.judge).to(dtype)
        text = torch.randn(1, size.judge.features, dtype=dtype)
    for module in (net, autoencoder, tower):
        module.eval().requires_grad_(False)
    net.blocks.to(dtype)
    inner = NetworkModel(
        shape=size.shape,
        classes=(LABEL,),
        posterior=net,
        autoencoder=autoencoder,
        guidance=2.5,
        device=DEVICE,
        precision=size.precision,
    )
    meter, chunks = Meter(), Chunks(CHUNK, DeviceMemory(DEVICE))
    model = GuardedModel(inner, "mfm", meter, chunks)
    judge = GuardedReward(Alike(tower, text, size.judge.side), "alike", meter, chunks, True)
    reward = WeightedReward((Term(name="alike", reward=judge, weight=1.0),))
    cond = model.encode([LABEL])
    return Problem(model, reward, MetaFlowMap(), Gradient(), cond, chunks, (LABEL,))


def wait() -> None:
    """Until the device has done what it was given."""
    if CUDA:
        torch.cuda.synchronize()


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began


def medians(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The median seconds of each call, of so many rounds of all of them in turn."""
    times = [[seconds(call) for call in calls] for _ in range(rounds)]
    return [median(row) for row in zip(*times, strict=True)]


def peak(call: Callable[[], object]) -> float:
    """The most bytes that a call takes beyond what is there before."""
    if not CUDA:
        return DeviceMemory(DEVICE).taken(call)
    wait()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return float(torch.cuda.max_memory_allocated() - before)


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, there and back."""
    with counted() as counter:
        call()
    return counter.total


def best_of(device: str) -> float | None:
    """Operations a second that a device of that name can do; None where that is not known."""
    if "MIG" in device:  # a part of one
        return None
    found = (best for known, best in PEAKS.items() if re.search(rf"\b{known}\b", device))
    return next(found, None)


def utilisation(flops: float, took: float) -> str:
    """The share of what the device can do, in per cent; "" where that is not known."""
    best = best_of(torch.cuda.get_device_name()) if CUDA else None
    return f"{100 * flops / took / best:.1f} %" if best else ""


def step_of(mode: AlignmentMode[Any], problem: Problem, rows: int = 1) -> Callable[[], None]:
    """The eleventh step of a mode, ready to be called."""
    streams = Streams(0, tuple(range(rows)), device=DEVICE)
    state = mode.init(problem, streams)

    def step() -> None:
        with checks_read_once():
            mode.step(problem, state, 10, streams)

    return step


def measured(step: Callable[[], object], took: float) -> tuple[str, str, str, str]:
    """Milliseconds, operations, utilisation and peak memory of a step."""
    flops = operations(step)
    return (
        f"{1e3 * took:.1f}",
        short(flops / 1e12),
        utilisation(flops, took),
        short(peak(step) / 1e9),
    )


def steering(problem: Problem, size: Size) -> Iterator[tuple[str, ...]]:
    """A row a number of draws, beside a loop of the same calls with nothing around it."""
    for draws in size.draws:
        own = attrs.evolve(problem, estimator=Gradient(draws=draws))
        step, bare = step_of(Steer(steps=50), own), partial(loop, own, 1, 1, draws)
        for call in (step, step, bare):  # the first ones choose kernels and sizes of chunks
            call()
        took, alone = medians((step, bare), size.rounds)
        yield str(draws), *measured(step, took), f"{100 * (1 - alone / took):.1f} %"


def planning(problem: Problem, size: Size) -> Iterator[tuple[str, ...]]:
    """A row a number of draws: what `align plan` says of a run, and what the run takes."""
    mode, streams = Steer(steps=size.steps), Streams(0, (0,), device=DEVICE)
    for draws in size.draws:
        estimator = Gradient(draws=draws)
        arm = Arm(name="", model=None, sampler=problem.sampler, estimator=estimator, mode=mode)
        own = attrs.evolve(problem, estimator=estimator)
        run = Built(arm, own, streams, Meter())
        plan = Planner().plan(run)
        execute = partial(run.execute, NullObserver())
        execute()
        took, most = medians((execute,), 3)[0], peak(execute)
        yield (
            str(draws),
            *(short(number / 1e9) for number in (plan.above, most)),
            f"{plan.above / most:.2f}",
            *(short(number) for number in (plan.cost.seconds, took)),
            f"{plan.cost.seconds / took:.2f}",
        )


def training(problem: Problem, size: Size) -> Iterator[tuple[str, ...]]:
    """A step of flow matching, one with a consistency loss, and one of fine-tuning."""
    optimisation = Optimisation(batch=size.batch, precision=size.precision)
    tuning = FineTune(
        pool=size.batch,
        flow_steps=2,
        evaluation=Evaluation(samples=2, flow_steps=2),
        optimisation=optimisation,
        steps=1000,
    )
    model = problem.model.capability(NetworkModel)
    assert model is not None
    latents, name = attrs.evolve(model, autoencoder=None), "semigroup, from data"
    steps: dict[str, Callable[[], Callable[[], object]]] = {
        "flow matching": partial(started, name, latents, True, optimisation),
        "half of it semigroup loss": partial(started, name, latents, False, optimisation),
        "fine-tuning by the reward, 1 draw": partial(step_of, tuning, problem, size.batch),
    }
    plain = 0.0
    for what, start in steps.items():
        step = start()
        step()
        (took,) = medians((step,), size.rounds)
        plain = plain or took
        yield what, *measured(step, took), f"{took / plain:.2f}"
        del step  # the weights of the next one need its room


def compiling(problem: Problem, size: Size) -> Iterator[tuple[str, ...]]:
    """A step as it is, and with a network that torch compiles as the option `compile` does."""
    draws = size.draws[1]
    own = attrs.evolve(problem, estimator=Gradient(draws=draws))
    step = step_of(Steer(steps=50), own)
    model = problem.model.capability(NetworkModel)
    assert model is not None
    before = 0.0
    for compiled in (False, True):
        if compiled:
            model.require_velocity().compile(backend=size.backend)
        first = seconds(step)
        step()
        (took,) = medians((step,), size.rounds)
        before = before or took
        what = "compiled" if compiled else "as it is"
        yield what, f"{first:.1f}", f"{1e3 * took:.1f}", f"{took / before:.2f}"


def until(end: float, rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The rows whose measurement begins before `end`, a time of the monotonic clock."""
    rest = iter(rows)
    while time.monotonic() < end and (row := next(rest, None)):
        yield row


def tables(size: Size, end: float) -> Iterator[Table]:
    """Steering, training, and what compiling gains; rows that would begin after `end` are left."""
    problem = random_problem(size)
    device = torch.cuda.get_device_name() if CUDA else "a CPU"
    what = ("ms", "TFLOP", "MFU", "GB beyond those between steps")
    for title, head, rows in (
        (
            f"A step of steering one sample on {device}, median of {size.rounds}",
            ("N", *what, "share outside the networks"),
            steering(problem, size),
        ),
        (
            f"What `align plan` says of a run of {size.steps} steps, and what it takes",
            ("N", "GB planned", "GB taken", "ratio", "s planned", "s taken", "ratio"),
            planning(problem, size),
        ),
        (
            f"A step of training, {size.batch} rows",
            ("step", *what, "times flow matching"),
            training(problem, size),
        ),
        (
            f"torch.compile, N = {size.draws[1]}",
            ("network", "s, the first step", "ms", "times as it is"),
            compiling(problem, size),
        ),
    ):
        if time.monotonic() < end:
            yield Table(title, head, until(end, rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = parser_of("benchmarks.gpu", __doc__)
    parser.add_argument(
        "--minutes", type=float, default=7.0, help="no further row is begun after so many"
    )
    options, command = parsed(parser, arguments)
    if not CUDA and not options.toy:
        parser.error("torch sees no CUDA device here; --toy runs anywhere")
    end = time.monotonic() + 60 * options.minutes
    publish(tables(TOY if options.toy else FULL, end), command, options.page, "gpu")


if __name__ == "__main__":
    main()
