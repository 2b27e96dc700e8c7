"""A small run of several blocks, for tests of executors: whoever makes them, the bits are the same.

Its reward can end the process that scores a block, and the run's own process can end in the middle,
both by SIGKILL.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final, final
from unittest import mock

import attrs

from align.catalog.registry import Catalog, load_catalog
from align.runner.session import Result, run

BLOCKS: Final = 15
"""Blocks of all arms; they are 8 tasks, 7 of which have two arms each."""

_RECIPE: Final = """\
[run]
samples = 28
block = 4
unsteered = 32
device = "cpu"

[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0, 0.0], [2.0, 1.0]]
stds = [0.5, 0.7]

[[reward]]
kind = "python"
file = "{reward}"
function = "right"

[[metric]]
kind = "sliced_wasserstein"

[mode]
kind = "best_of_n"
flow_steps = 5

[[compare]]
name = "plain"

[[compare]]
name = "best of 2"
mode.n = 2

[[compare]]
name = "best of all"
mode = {{ n = 2, pool = "shared" }}
"""
_REWARD: Final = """\
import os, signal
from pathlib import Path

MARKER = Path(__file__).with_name("marker")


def right(data, prompts):
    # The first process that scores a block ends: it sees the marker alone.
    if len(data) == 4 and MARKER.exists():
        MARKER.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return data[:, 0]
"""
_DRIVER: Final = """\
import os, signal, sys

from align.runner.fanout import Fanout
from align.testing.blocks import catalog_of, run

done = Fanout.done


def dies(self, task):
    done(self, task)
    if task.arms:
        os.kill(os.getpid(), signal.SIGKILL)


Fanout.done = dies
run(sys.argv[1], sets=sys.argv[3:], progress=False, catalog=catalog_of(sys.argv[2]))
"""


@final
@attrs.frozen
class SmallRun:
    """The run in a folder, which nothing else is in.

    Attributes:
        folder: of the recipe and of all that is made of it.
        plugin: the module that brings the executor; "" for one of align.
    """

    folder: Path
    plugin: str = ""

    def __attrs_post_init__(self) -> None:
        """Write the recipe and its reward."""
        reward = self.folder / "reward.py"
        reward.write_text(_REWARD)
        self.recipe.write_text(_RECIPE.format(reward=reward))
        (self.folder / "driver.py").write_text(_DRIVER)

    @property
    def recipe(self) -> Path:
        """The recipe's file."""
        return self.folder / "recipe.toml"

    def made(self, name: str, on: str = "", *, killed: bool = False) -> Result:
        """Run it; the report is left out, as it takes longer than the run.

        Args:
            name: of the run folder; a run that is there goes on.
            on: the executor as a table of TOML; "" for this process alone.
            killed: whether a process ends in the middle of a block.
        """
        marker = self.folder / "marker"
        if killed:
            marker.touch()
        with mock.patch("align.runner.session.reported", lambda folder: ()):
            sets = self.sets(name, on)
            result = run(self.recipe, sets=sets, progress=False, catalog=catalog_of(self.plugin))
        assert not marker.exists(), "no process has ended"
        return result

    def sets(self, name: str, on: str = "") -> list[str]:
        """What is set for a run with an executor."""
        out = f'run.out="{self.folder / name}"'
        return [out, f"run.on={on}"] if on else [out]

    def driver(self, name: str, on: str) -> list[str]:
        """A file of Python with arguments: runs it, and ends when a block of an arm is done."""
        arguments = [self.recipe, self.plugin, *self.sets(name, on)]
        return [str(self.folder / "driver.py"), *map(str, arguments)]


def catalog_of(plugin: str) -> Catalog:
    """The parts of align, and those of a plugin's module."""
    return load_catalog([EntryPoint(plugin, plugin, "align")] if plugin else [])


def bits(folder: Path) -> tuple[dict[str, bytes], Sequence[dict[str, Any]], list[str]]:
    """Bytes of the samples of a run, and its numbers but for what depends on who made them."""
    arms = json.loads((folder / "results.json").read_text())["arms"]
    for arm in arms:
        cost = arm["cost"].items()
        arm["cost"] = {k: v for k, v in cost if "seconds" not in k and k != "memory"}
        arm.pop("plan")
    states = {p.parent.name: p.read_bytes() for p in folder.glob("samples/*/states.safetensors")}
    return states, arms, sorted((folder / "metrics.jsonl").read_text().splitlines())


def kept(folder: Path) -> int:
    """How many blocks of arms a run that was ended has in its folder."""
    return len(list(folder.glob("blocks/*/*.safetensors")))
