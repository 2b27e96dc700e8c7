from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from align.engine.cost import LivingBytes, PartCost, Use, bytes_of, part_cost, rows_within
from align.engine.meter import Meter

WIDTH, LAYERS = 256, 4
ROW = 4 * WIDTH  # bytes


def _network() -> nn.Module:
    layers = (m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU()))
    return nn.Sequential(*layers).requires_grad_(False)


def _cost(*, gradient: bool = True) -> PartCost:
    net = _network()

    def call(x: Tensor, meter: Meter) -> Tensor:
        result: Tensor = meter.measured("network", len(x), lambda: net(x))
        return meter.count("network", result)

    return part_cost(call, lambda rows: torch.ones(rows, WIDTH), gradient=gradient, use=Use(8))


def test_bytes_of_a_network_are_those_of_its_layers() -> None:
    cost = _cost()
    assert cost.forward.peak.slope == 2 * ROW  # a layer's input and its output
    assert cost.forward.kept.slope == ROW
    assert cost.way_back is not None
    assert cost.way_back.kept.slope == LAYERS * ROW  # what each ReLU made
    assert cost.way_back.peak.slope >= cost.way_back.kept.slope
    assert cost.forward.peak.fixed == 0


def test_flops_are_those_of_torch() -> None:
    assert _cost().forward.flops.of(3) == 3 * LAYERS * 2 * WIDTH**2


def test_seconds_are_positive_and_grow_with_rows() -> None:
    seconds = _cost().cost(gradient=True).seconds
    assert 0 < seconds.of(1) <= seconds.of(64)


@pytest.mark.parametrize(("use", "timed"), [(Use(4, 40), [2, 4]), (Use(4, 39), [2]), (Use(2), [2])])
def test_slow_part_is_timed_with_four_rows_where_the_run_has_many(
    monkeypatch: pytest.MonkeyPatch, use: Use, timed: list[int]
) -> None:
    monkeypatch.setattr("align.engine.cost._SLOW", 0.0)
    called = []

    def call(x: Tensor, _: Meter) -> Tensor:
        called.append(len(x))
        return x

    part_cost(call, lambda rows: torch.ones(rows, 3), gradient=False, use=use)
    assert called[2:] == timed  # the first two are watched


def test_part_without_gradient_has_no_way_back() -> None:
    constant = part_cost(
        lambda x, _: x.detach() + 1, lambda rows: torch.ones(rows, 3), gradient=True, use=Use(2)
    )
    assert constant.way_back is None
    assert constant.cost(gradient=True) is constant.forward


def test_fake_tensors_count_as_real_ones() -> None:
    peaks = []
    for mode in (FakeTensorMode(), None):
        with mode or torch.no_grad(), torch.enable_grad():
            net, x = _network(), torch.ones(5, WIDTH).requires_grad_()
            with LivingBytes() as living:
                torch.autograd.grad(net(x).sum(), x)
        peaks.append(living.peak)
    assert peaks[0] == peaks[1]


def test_freed_bytes_are_taken_off() -> None:
    x = torch.ones(1000)
    with LivingBytes() as living:
        y = x + 1
        assert living.now == 4000
        del y
        (x + 1).add_(1)
        x.view(10, 100).t()
    assert (living.now, living.peak) == (0, 4000)


@pytest.mark.parametrize("gradient", [False, True])
def test_rows_that_fit_are_the_most_that_do(gradient: bool) -> None:
    parts = [_cost(), _cost()]

    def needed(rows: int) -> float:
        return bytes_of(parts, rows, gradient=gradient)

    rows = rows_within(1e6, needed)
    assert needed(rows) <= 1e6 < needed(rows + 1)
    assert rows_within(1.0, needed) == 1


def test_graphs_of_earlier_parts_are_kept() -> None:
    part = _cost()
    assert part.way_back
    alone = bytes_of([part], 7, gradient=True)
    both = bytes_of([part, part], 7, gradient=True)
    assert both == alone + part.way_back.kept.of(7)
    assert bytes_of([part, part], 7, gradient=False) == bytes_of([part], 7, gradient=False)
