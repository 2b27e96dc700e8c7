"""Another virtual environment, and a reward that does whatever its prompt says."""

import subprocess
import sys
from pathlib import Path

import pytest

import align
from align.isolation.reward import Isolated

OBEDIENT = """\
import os, sys, time, warnings
from pathlib import Path
from align.core.errors import PartError

def score(data, prompts):
    word, _, text = prompts[0].partition(" ")
    if word == "once" and not Path(text).exists():
        Path(text).touch()
        print("no memory left")
        os._exit(3)
    if word == "die":
        print("farewell", file=sys.stderr)
        os.abort()
    if word == "sleep":
        time.sleep(60)
    if word == "exit":
        sys.exit(0)
    if word == "raise":
        raise ValueError(text)
    if word == "mistake":
        raise PartError(text)
    if word == "shout":
        os.write(1, b"\\xff" * 100)
    if word == "list":
        return [1.0]
    return (data.sin() * data).flatten(1).sum(1)
"""


@pytest.fixture(scope="session")
def own():
    """The environment of the tests themselves."""
    return sys.prefix


@pytest.fixture(scope="session")
def obedient_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "obedient.py"
    path.write_text(OBEDIENT)
    return str(path)


@pytest.fixture(scope="module")
def obedient(own, obedient_file):
    """The obedient reward, isolated."""
    part = Isolated(venv=own, timeout=100.0, reward={"kind": "python", "file": obedient_file})
    yield part
    part.close()


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A virtual environment with nothing in it."""
    place = tmp_path_factory.mktemp("bare") / "venv"
    command = [sys.executable, "-m", "venv", "--without-pip", str(place)]
    subprocess.run(command, check=True)
    return place


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """A virtual environment with a plugin that is not installed here."""
    place = tmp_path_factory.mktemp("other") / "venv"
    command = [sys.executable, "-m", "venv", "--without-pip", str(place)]
    subprocess.run(command, check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = place / "lib" / version / "site-packages"
    # Packages of this interpreter, wherever its own .pth files have found them.
    ours = [
        Path(align.__file__).parents[1],
        *(path for path in sys.path if "site-packages" in path),
    ]
    (site / "ours.pth").write_text("".join(f"{path}\n" for path in ours))
    info = site / "align_elsewhere-7.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: align-elsewhere\nVersion: 7.0\n")
    (info / "entry_points.txt").write_text("[align]\nelsewhere = elsewhere\n")
    (site / "elsewhere.py").write_text(ELSEWHERE)
    return str(place)


ELSEWHERE = """\
from typing import Literal

import attrs

from align import PartError, PromptError, ReadsPrompts, Reward, RewardSpec
from align import at_least, hookimpl, option


@attrs.frozen(kw_only=True)
class Elsewhere(RewardSpec):
    "Is not installed where the recipe is run."

    kind = "elsewhere"
    differentiable = False
    domain = "vector"
    range = (0.0, float("inf"))
    power: int = option("of the sum", default=2, check=at_least(1))
    needs_prompt: bool = option("whether an empty prompt is refused", default=True)
    place: Literal["here", "away"] = option("where they are", default="here")

    def check_prompt(self, prompt):
        if "?" in prompt:
            raise PromptError("elsewhere answers no questions")

    def build(self, device):
        if self.place == "away":
            raise PartError("elsewhere: the weights are away")
        return Power(self.power)


@attrs.frozen
class Power(Reward, ReadsPrompts):
    power: int

    def left_out(self, prompt):
        return "is long" if len(prompt) > 20 else ""

    def score(self, data, prompts):
        return data.detach().sum(1).abs() ** self.power


@hookimpl
def align_rewards():
    return [Elsewhere]
"""
