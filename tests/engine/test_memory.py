"""Memory: what a call takes by the byte, and what there is."""

import resource

import pytest
import torch
from torch import nn

from align.engine import memory
from align.engine.flops import counted
from align.engine.memory import DeviceMemory, available, free

CPU = torch.device("cpu")
KB = torch.zeros(256)  # float32


def taken(call):
    return DeviceMemory(CPU).taken(call) / 1024


@pytest.mark.parametrize(
    ("call", "size"),
    [
        (lambda: KB + 1, 1),
        (lambda: (KB + 1) + 1, 2),
        (lambda: [KB + 1 for _ in range(5)], 5),
        (lambda: [KB + 1 for _ in range(5)] and None, 5),
        (lambda: [float((KB + 1).sum()) for _ in range(5)], 1 + 4 / 1024),
        (lambda: KB.reshape(16, 16)[3:], 0),
        (lambda: KB.clone().reshape(16, 16).t()[3:], 1),
        (lambda: KB.split(64), 0),
        (lambda: KB.add_(0), 0),
        (lambda: torch.ones(256, dtype=torch.float64), 2),
        (lambda: None, 0),
    ],
)
def test_living_tensors_are_counted_by_the_byte(call, size):
    assert taken(call) == size


def test_a_way_back_keeps_what_it_needs():
    layers, rows = 6, 3
    net = nn.Sequential(*[nn.Tanh() for _ in range(layers)])
    x = torch.zeros(rows, 256, requires_grad=True)

    def forward():
        with torch.no_grad():
            net(x)

    def back():
        torch.autograd.grad(net(x).sum(), x)

    assert taken(forward) == 2 * rows
    assert layers * rows <= taken(back) <= (layers + 3) * rows


def test_operations_of_a_measurement_are_counted_by_nobody():
    a = torch.ones(4, 4)
    with counted() as counter:
        DeviceMemory(CPU).taken(lambda: a @ a)
        assert counter.total == 0
        _ = a @ a
    assert counter.total == 2 * 4**3


def test_there_is_less_free_than_available():
    assert 0 < free() < available()
    assert DeviceMemory(CPU).free() > 0


def test_free_memory_is_what_the_system_says_is_available(monkeypatch, tmp_path):
    table = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_MACHINE", table)
    for kilobytes in (3000, 2000):  # other processes take and give back: only this is certain
        table.write_text(f"MemTotal: 9000 kB\nMemAvailable: {kilobytes} kB\n")
        assert free() == 1024 * kilobytes


def test_the_process_s_own_limit_counts(monkeypatch):
    limit = 1 << 42

    def getrlimit(kind):
        return (limit, limit) if kind == resource.RLIMIT_AS else (resource.RLIM_INFINITY,) * 2

    monkeypatch.setattr(memory.resource, "getrlimit", getrlimit)
    before = free()
    used = 1024 * memory._of_file(memory.Path("/proc/self/status"), "VmSize:")
    limit = int(used + 50e6)
    assert free() <= 50e6 < before
    assert available() == limit


@pytest.mark.parametrize(
    ("line", "base", "limit", "used", "idle"),
    [
        ("0::/a/b", "", "memory.max", "memory.current", "inactive_file"),
        (
            "4:memory:/a/b",
            "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_every_control_group_around_the_process_counts(
    tmp_path, monkeypatch, line, base, limit, used, idle
):
    groups = tmp_path / "cgroup"
    for inner, most in (("a/b", "max"), ("a", "5000000"), ("", "7000000")):
        folder = groups / base / inner
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(most)
        (folder / used).write_text("3000000")
        (folder / "memory.stat").write_text(f"anon 1\n{idle} 1000000\n")
    own = tmp_path / "own"
    own.write_text(f"3:cpu:/\n{line}\n")
    monkeypatch.setattr(memory, "_GROUPS", groups)
    monkeypatch.setattr(memory, "_OWN_GROUPS", own)
    assert available() == 5e6
    assert free() == 3e6
    (groups / base / "a" / used).write_text("9000000")
    assert free() == 0


def test_a_system_without_such_files_has_its_whole_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "none")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "none")
    assert free() == available() > 0
