"""What a run costs."""

import time

import pytest
import torch
from torch import nn

from align.engine.meter import Meter, forget_peak, peak_memory

CPU = torch.device("cpu")


def linear(rows, meter, net):
    x = torch.ones(rows, net.in_features, requires_grad=True)
    return x, meter.count("network", meter.measured("network", rows, lambda: net(x)))


def test_flops_of_a_linear_network():
    meter, net = Meter(), nn.Linear(5, 7, bias=False).requires_grad_(False)
    linear(4, meter, net)
    assert meter.row_flops == {"network": 2 * 5 * 7}
    linear(11, meter, net)
    assert meter.cost(CPU).flops == (4 + 11) * 2 * 5 * 7


def test_a_backward_pass_counts_as_much_as_a_forward_pass():
    meter, net = Meter(), nn.Linear(5, 7, bias=False).requires_grad_(False)
    _, y = linear(4, meter, net)
    y.sum().backward()
    cost = meter.cost(CPU)
    assert (cost.calls, cost.backward) == ({"network": 4}, {"network": 4})
    assert cost.flops == 2 * 4 * 2 * 5 * 7


def test_only_the_first_call_of_a_part_is_measured():
    meter, small, large = Meter(), nn.Linear(5, 1, bias=False), nn.Linear(5, 100, bias=False)
    linear(1, meter, small)
    linear(1, meter, large)
    meter.measured("decoder", 1, lambda: large(torch.ones(1, 5)))
    assert meter.row_flops == {"network": 10, "decoder": 1000}


def test_what_a_first_call_takes_longer_is_told_apart(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = Meter(began=0.0)

    def call(tally, rows, seconds):
        def made():
            now[0] += seconds
            return torch.ones(rows)

        tally.measured("part", rows, made)

    for rows, seconds in ((2, 10), (4, 2), (4, 5)):  # the second call takes half a second a row
        call(meter, rows, seconds)
    call(meter.rewards, 3, 4)
    cost = meter.cost(CPU)
    assert (cost.seconds, cost.warmup_seconds, cost.steady_seconds) == (21, 9, 12)
    call(meter.rewards, 3, 1)
    again = Meter(began=now[0])
    again.restore(meter.save(CPU))
    for each in (meter.cost(CPU), again.cost(CPU)):
        assert (each.seconds, each.warmup_seconds, each.steady_seconds) == (22, 12, 10)


def test_step_flops_stand_for_all():
    meter = Meter()
    linear(1, meter, nn.Linear(5, 7))
    meter.step_flops = 123
    assert meter.cost(CPU).flops == 123


def test_the_clock_and_the_costs_own_copies():
    meter = Meter(began=time.perf_counter() - 100)
    assert meter.cost(CPU).seconds >= 100
    meter.begin()
    cost = meter.cost(CPU)
    assert 0 <= cost.seconds < 50
    meter.calls["network"] += 1
    assert cost.calls == {}


def test_peak_memory_sees_a_large_tensor():
    forget_peak(CPU)
    before = peak_memory(CPU)
    if not 0 < before < 1 << 50:
        pytest.skip("this system does not say")
    big = torch.ones(8 << 20, dtype=torch.float64)  # 64 MiB
    del big
    assert peak_memory(CPU) >= before + (48 << 20)
