"""Parts on a CUDA device: the same numbers as on the CPU, within stated rounding.

pytest tests/gpu                        # skipped where torch sees no CUDA device
pytest tests/gpu --gpu-device cpu       # the bodies, where there is none
python tests/gpu/record.py              # and a row in docs/results/gpu.md
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import attrs
import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from align.core.model import NoisyState
from align.core.objective import Loss
from align.core.problem import Problem
from align.core.reward import Reward, Term, WeightedReward
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.dynamics.sde import SDE
from align.engine.guard import GuardedModel
from align.engine.loop import execute
from align.engine.meter import Meter, forget_peak, peak_memory
from align.engine.offload import Offloaded
from align.estimators.gradient import Gradient
from align.models.mixture import Mixture
from align.models.network_model import NetworkModel
from align.modes.sampling.steer import Steer
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.runner.observers import NullObserver
from align.runner.session import run
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import measured
from align.training import parallel

CPU = torch.device("cpu")
SHAPE, CLASSES = (4, 8, 8), ("cat", "dog")
NETWORK = {"rtol": 1e-4, "atol": 1e-4}
"""Rounding of one pass through a float32 network: sums in another order."""
SAMPLES = {"rtol": 1e-2, "atol": 1e-2}
"""Rounding after some steps, each of which goes on from the last."""
HALF = 0.05
"""Relative error of one pass with bfloat16 products, which have 8 bits."""
MEGABYTE = 1 << 20
RECIPE = """
[run]
device = "{device}"
out = "{out}"

[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0, 0.0], [2.0, 1.0]]
stds = [0.5, 0.7]

[mode]
kind = "distill"
net = {{ kind = "mlp", width = 8, depth = 2 }}
steps = 4

[mode.optimisation]
batch = 16
warmup = 2
precision = "{precision}"
"""


def shaken(module, seed):
    """The module with random weights, the same on every device, so that all its parts matter."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        tensor.normal_(0, 0.2, generator=generator)
    if isinstance(module, Autoencoder):
        module.std.abs_().add_(1)
    return module.eval().requires_grad_(False)


def network_model(device, **options):
    """A flow, a meta flow map and an autoencoder of one small size, on a device."""
    net = DiTConfig(width=32, depth=2, heads=2, patch=2, encoder_depth=1)
    outer = Autoencoder(AutoencoderConfig(width=8, levels=1, latents=SHAPE[0]))
    return NetworkModel(
        shape=SHAPE,
        classes=CLASSES,
        flow=shaken(DiT(net, SHAPE, len(CLASSES), "flow"), 0).to(device),
        posterior=shaken(DiT(net, SHAPE, len(CLASSES), "meta_flow_map"), 1).to(device),
        autoencoder=shaken(outer, 2).to(device),
        device=device,
        **options,
    )


class Judge(Reward):
    """A reward by a network of its own."""

    def __init__(self, net):
        self.net = net

    def score(self, data, prompts):
        """One number a picture."""
        return self.net(data).squeeze(1)


def judge(device):
    """A small convolution with a head, on a device."""
    layers = (
        torch.nn.Conv2d(3, 8, 3, stride=2),
        torch.nn.SiLU(),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(1),
    )
    net = torch.nn.Sequential(*layers)
    net(torch.zeros(1, 3, 16, 16))  # the lazy layer takes its size from a picture
    return Judge(shaken(net, 3).to(device))


@attrs.frozen(eq=False)
class Steered:
    """What a run of a mode gave: states, pictures, and its cost."""

    x1: torch.Tensor
    data: torch.Tensor
    meter: Meter


def steered(mode, device, rows=4, reward=None, **options):
    """Samples by a mode through the engine, with the networks of this file."""
    meter = Meter()
    model = GuardedModel(network_model(device, **options), "network", meter, 64)
    terms = WeightedReward((Term(name="judge", reward=reward or judge(device), weight=1.0),))
    cond = model.encode([CLASSES[row % 2] for row in range(rows)])
    problem = Problem(model, terms, MetaFlowMap(), Gradient(draws=2), cond)
    streams = Streams(0, tuple(range(rows)), device=device)
    outcome = execute(mode, problem, streams, meter=meter, observer=NullObserver())
    return Steered(outcome.x1, model.decode(outcome.x1), meter)


def states(model, device, rows=3):
    """Times and noisy states, the same on every device."""
    generator = torch.Generator().manual_seed(5)
    y, x = torch.randn((2, rows, *model.shape), generator=generator).to(device)
    s, u, t = torch.rand((3, rows), generator=generator).to(device)
    cond = model.encode([CLASSES[row % 2] for row in range(rows)])
    return y, s, u, NoisyState(x, t, cond)


def test_streams_on_the_device_give_the_numbers_of_the_cpu(device):
    here, there = (Streams(7, tuple(range(50)), device=where) for where in (CPU, device))
    assert torch.equal(here.uniform((9,)), there.uniform((9,)).cpu())
    for draws in (1, 3):
        numbers = there.fold_in("noise").normal((5, 2), draws=draws)
        assert numbers.device.type == device.type
        wanted = here.fold_in("noise").normal((5, 2), draws=draws)
        torch.testing.assert_close(numbers.cpu(), wanted, rtol=1e-12, atol=1e-12)


def test_networks_on_the_device_give_the_numbers_of_the_cpu(device):
    results = []
    for where in (CPU, device):
        model = network_model(where, guidance=1.5)
        y, s, u, noisy = states(model, where)
        velocity = model.velocity(noisy.x, noisy.t, noisy.cond)
        x1 = model.posterior_jump(y, s, u, noisy)
        results.append((velocity, x1, model.decode(x1)))
    for wanted, found in zip(*results, strict=True):
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), wanted, **NETWORK)


def test_gradient_through_map_decoder_and_reward_is_that_of_the_cpu(device):
    slopes = []
    for where in (CPU, device):
        model, reward = network_model(where), judge(where)
        y, s, u, noisy = states(model, where)
        leaf = noisy.x.clone().requires_grad_()
        x1 = model.posterior_jump(y, s, u, NoisyState(leaf, noisy.t, noisy.cond))
        (slope,) = torch.autograd.grad(reward.score(model.decode(x1), [""] * 3).sum(), leaf)
        slopes.append(slope.cpu())
    assert slopes[0].abs().max() > 0
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dynamics", [ODE(), SDE()], ids=["ode", "sde"])
def test_steered_samples_on_the_device_are_those_of_the_cpu(device, dynamics):
    mode = Steer(steps=5, dynamics=dynamics)
    here, there = steered(mode, CPU), steered(mode, device)
    assert there.x1.device.type == device.type
    torch.testing.assert_close(there.x1.cpu(), here.x1, **SAMPLES)
    torch.testing.assert_close(there.data.cpu(), here.data, **SAMPLES)
    assert there.meter.calls == here.meter.calls
    assert there.meter.backward == here.meter.backward


def test_exact_values_on_the_device_are_those_of_the_cpu(device):
    reward, values = measured(((1.0,),), (1.0,), 0.6), []
    for where in (CPU, device):
        model = Mixture(weights=(0.4, 0.6), means=((-2.0,), (1.0,)), stds=(0.4, 0.7)).build(where)
        x = torch.linspace(-3, 3, 20, dtype=torch.float64, device=where)[:, None]
        noisy = NoisyState(x, torch.full_like(x[:, 0], 0.4), model.encode([""] * 20))
        values.append(model.value(noisy, reward))
    assert values[1].device.type == device.type
    assert values[0].std() > 0.1
    torch.testing.assert_close(values[1].cpu(), values[0], rtol=1e-9, atol=1e-9)


def trained(device, folder, precision="float32"):
    """The losses of a short training run on a device, and its folder."""
    out = folder / f"{device.type}_{precision}"
    file = folder / f"{out.name}.toml"
    file.write_text(RECIPE.format(device=device.type, out=out, precision=precision))
    run(file, progress=False)
    return losses(out), out


def losses(folder):
    """The losses that a run has recorded."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_training_steps_on_the_device_have_the_losses_of_the_cpu(device, tmp_path):
    (tmp_path / "here").mkdir()
    here, _ = trained(CPU, tmp_path / "here")
    there, folder = trained(device, tmp_path)
    assert len(there) == 4
    assert there == pytest.approx(here, rel=1e-3)
    assert (folder / "model.safetensors").stat().st_size


def test_training_in_bfloat16_has_losses_near_those_of_float32(device, tmp_path):
    full, _ = trained(device, tmp_path)
    half, _ = trained(device, tmp_path, "bfloat16")
    assert half != full
    assert half == pytest.approx(full, rel=HALF)


def test_bfloat16_network_is_near_float32_and_has_states_in_float32(device):
    full, half = network_model(device), network_model(device, precision="bfloat16")
    _, _, _, noisy = states(full, device)
    wanted, found = (m.velocity(noisy.x, noisy.t, noisy.cond) for m in (full, half))
    assert found.dtype == torch.float32
    error = float((found - wanted).norm() / wanted.norm())
    assert 0 < error < HALF


def test_steering_in_bfloat16_is_finite_and_near_float32(device):
    mode = Steer(steps=3)
    full, half = steered(mode, device).x1, steered(mode, device, precision="bfloat16").x1
    assert half.isfinite().all()
    assert float((half - full).norm() / full.norm()) < 4 * HALF


def test_offloaded_reward_scores_alike_and_leaves_the_device(device):
    reward = judge(device)
    data = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(device)
    leaf = data.clone().requires_grad_()
    wanted = reward.score(leaf, [""] * 4)
    (slope,) = torch.autograd.grad(wanted.sum(), leaf)
    offloaded = Offloaded.of(reward, device)
    again = data.clone().requires_grad_()
    found = offloaded.score(again, [""] * 4)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), again)[0], slope)
    assert {weight.device.type for weight in offloaded.inner.net.parameters()} == {"cpu"}


def test_steering_with_an_offloaded_reward_gives_the_same_samples(device):
    mode = Steer(steps=2)
    offloaded = Offloaded.of(judge(device), device)
    plain, moved = steered(mode, device), steered(mode, device, reward=offloaded)
    torch.testing.assert_close(moved.x1, plain.x1, **NETWORK)


def test_peak_of_memory_counts_what_is_allocated_on_the_device(device):
    forget_peak(device)
    before = peak_memory(device)
    held = torch.ones(64 * MEGABYTE // 4, device=device)
    peak = peak_memory(device)
    assert peak - before > 50 * MEGABYTE
    assert float(held.sum()) == 16 * MEGABYTE
    del held
    assert peak_memory(device) == pytest.approx(peak, rel=0.05)


@contextmanager
def group_of_one(device):
    """A process group that has this process alone."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def test_ddp_of_one_process_has_the_gradients_of_the_module_alone(device, monkeypatch):
    def gradients(net, replica):
        net.requires_grad_(True)

        def loss(rows):
            x = rows.normal(SHAPE).float()
            t, label = torch.full((len(x),), 0.5, device=device), torch.zeros(len(x)).long()
            velocity = net(x, t, t, 0 * t, 0 * x, label.to(device))
            return Loss(velocity.square().flatten(1).mean(1))

        values, _ = replica(loss, Streams(0, (0, 1), device=device))
        values.sum().backward()
        return [weight.grad for weight in net.parameters()]

    alone = network_model(device).flow
    wanted = gradients(alone, parallel.replica(alone, "ddp"))
    with group_of_one(device):
        wrapped = network_model(device).flow.requires_grad_(True)
        with monkeypatch.context() as patched:
            patched.setattr(parallel, "count", lambda: 2)  # one process trains unwrapped
            replica = parallel.replica(wrapped, "ddp")
        assert isinstance(replica, DistributedDataParallel)
        found = gradients(wrapped, replica)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in wanted)
    for one, other in zip(wanted, found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, **NETWORK)


def test_training_under_torchrun_with_one_process_is_training_alone(device, tmp_path):
    alone, _ = trained(device, tmp_path)
    out, file = tmp_path / "torchrun", tmp_path / "torchrun.toml"
    file.write_text(RECIPE.format(device=device.type, out=out, precision="float32"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
    command = [sys.executable, *launcher, "-m", "align", "run", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert losses(out) == pytest.approx(alone, rel=1e-6)
