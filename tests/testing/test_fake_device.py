"""The pretended device: it refuses what a GPU refuses, and gives what the CPU gives."""

import pytest
import torch
from torch import nn

from align.testing.fake_device import FakeDeviceTensor, fake_device


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat((there, here)),
        lambda here, there: there.copy_(here) * here,
        lambda here, there: here[there.argsort()],
        lambda here, there: torch.where(here > 0, there, 0.0),
    ],
)
def test_two_devices_do_not_mix(mixed):
    with fake_device() as device, pytest.raises(RuntimeError, match="on the CPU, others are not"):
        mixed(torch.ones(3), torch.ones(3, device=device))


def test_single_numbers_and_places_may_be_on_the_cpu():
    with fake_device() as device:
        there = torch.arange(3.0, device=device)
        assert (there * torch.tensor(2.0)).tolist() == [0, 2, 4]
        assert there[torch.tensor([2, 0])].tolist() == [2, 0]
        assert float(there.sum()) == 3 and there.cpu().device.type == "cpu"
        assert there.new_tensor([1.0]).tolist() == torch.tensor([1.0], device=device).tolist()


def test_training_on_the_fake_device_equals_training_on_the_cpu():
    def trained(device):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(16, 2)
        ).to(device)
        data = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4).to(device)
        optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
        for _ in range(3):
            optimiser.zero_grad()
            net(data).square().sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
        assert all(
            isinstance(w, FakeDeviceTensor) == (device.type != "cpu") for w in net.parameters()
        )
        return [weight.detach().cpu() for weight in net.parameters()]

    here = trained(torch.device("cpu"))
    with fake_device() as device:
        there = trained(device)
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))
