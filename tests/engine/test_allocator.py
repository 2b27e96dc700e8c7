"""Freed memory is kept for the next step, and can be handed back."""

import resource
import subprocess
import sys

import pytest

from align.engine import allocator

CODE = """
import resource, sys
from align.engine import allocator
if sys.argv[1] == "keep":
    allocator.keep_freed()

def step():
    return [b"x" * (4 << 20) for _ in range(64)]  # 256 MB in pieces of 4 MB

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

step(), step()
before = faults()
for _ in range(4):
    step()
print(faults() - before, resident(), end=" ")
allocator.return_freed()
print(resident())
"""


@pytest.mark.skipif(allocator._library() is None, reason="needs the C library of Linux")
def test_kept_memory_costs_the_next_step_no_page_faults():
    def run(how):
        done = subprocess.run(
            [sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True
        )
        return [int(number) for number in done.stdout.split()]

    pages = (256 << 20) // resource.getpagesize()
    faults, before, after = run("keep")
    assert faults < 0.05 * pages
    assert before - after > 200 << 20
    assert run("leave")[0] > pages


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "plan9")
    assert allocator._library() is None
    allocator.keep_freed(), allocator.return_freed()
