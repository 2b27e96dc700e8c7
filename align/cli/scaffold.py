"""`align new reward NAME`: a complete distribution with one reward in it, to be made one's own."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Final

from align.catalog.registry import Catalog
from align.errors import PluginError

_PROJECT: Final = """\
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
description = "The reward '$kind' for align."
readme = "README.md"
requires-python = ">=3.11"
version = "0.1.0"
dependencies = [
    "align-core>=1.0.0.dev0,<2",
    "attrs>=23.2",
    "torch>=2.9",
]

[project.entry-points.align]
$kind = "$package"

[project.optional-dependencies]
test = ["pytest>=8"]

[tool.hatch.build.targets.wheel]
packages = ["$package"]
"""

_MODULE: Final = '''\
"""The reward '$kind' for `align`: how near a picture's brightness is to a wanted one.

`align list` imports this module whether or not a recipe names the reward. So it imports torch and
align, and nothing heavier; whatever else the reward needs, `build` imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.model import Domain
from align.core.option import between, option
from align.core.reward import Reward, RewardSpec
from align.catalog.hookspecs import hookimpl


@final
@attrs.frozen(kw_only=True)
class $cls(RewardSpec):
    """Minus the squared distance of a picture's mean brightness from a wanted one."""

    kind: ClassVar[str] = "$kind"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-float("inf"), 0.0)

    # The keys of the reward's table in a recipe. `align show $kind` prints them.
    wanted: float = option("mean brightness, from 0 to 1", default=0.8, check=between(0, 1))

    def build(self, device: torch.device) -> Reward:
        """Load weights here, onto `device`; raise align.errors.PartError if they cannot be used."""
        return _Scorer(self.wanted)


@final
@attrs.frozen
class _Scorer(Reward):
    wanted: float

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of pictures (B, 3, H, W) in [0, 1]; row i depends on row i alone."""
        return -(data.float().flatten(1).mean(1) - self.wanted).square()


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """The rewards of this distribution."""
    return [$cls]
'''

_TEST: Final = '''\
"""The reward by the checks of its contract, and by what it is meant for."""

import torch
from $package import $cls

from align.testing import conformance

test_$kind = conformance("reward", $cls)
test_${kind}_with_an_option = conformance("reward", lambda: $cls(wanted=0.1))


def test_what_is_wanted_scores_best():
    reward = $cls(wanted=0.5).build(torch.device("cpu"))
    grey, white = torch.full((1, 3, 8, 8), 0.5), torch.ones(1, 3, 8, 8)
    assert reward.score(grey, [""]) == 0
    assert reward.score(white, [""]) < 0
'''

_README: Final = """\
# $distribution

The reward `$kind` for align: minus the squared distance of a picture's mean brightness from a
wanted one.

```sh
pip install -e '.[test]'
align show $kind
pytest
```

```toml
[[reward]]
kind = "$kind"
wanted = 0.8                 # mean brightness, from 0 to 1
```

| | |
|---|---|
| gradient | yes |
| scores | pictures |
| range | up to 0 |
| weights | none |
"""

_CI: Final = """\
name: test
on: [push, pull_request]
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.11"
      - run: pip install '.[test]'
      - run: pytest
"""

_FILES: Final = {
    "pyproject.toml": _PROJECT,
    "README.md": _README,
    "$package/__init__.py": _MODULE,
    "tests/test_${kind}_conformance.py": _TEST,
    ".github/workflows/test.yml": _CI,
}


def reward_files(name: str) -> dict[str, str]:
    """Path and text of every file of a distribution with the reward `name`."""
    words = _words(name)

    def filled(text: str) -> str:
        return Template(text).substitute(words)

    return {filled(path): filled(text) for path, text in _FILES.items()}


def write_reward(name: str, into: Path, catalog: Catalog) -> Path:
    """Write a distribution with the reward `name` into a new folder; returns it.

    Raises:
        PluginError: the name cannot be used, or the folder is there already.
    """
    _refuse(name, catalog)
    folder = into / _words(name)["distribution"]
    if not into.is_dir():
        raise PluginError(f"no folder '{into}'; make it first")
    try:
        folder.mkdir()
        for path, text in reward_files(name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except FileExistsError as error:
        text = f"'{folder}' is there already; choose another name, or move it away"
        raise PluginError(text) from error
    except OSError as error:
        raise PluginError(f"'{folder}' cannot be written: {error.strerror}") from error
    return folder


def _words(name: str) -> Mapping[str, str]:
    return {
        "kind": name,
        "package": f"align_{name}",
        "distribution": f"align-{name.replace('_', '-')}",
        "cls": "".join(word.capitalize() for word in name.split("_")),
    }


def _refuse(name: str, catalog: Catalog) -> None:
    """Raise PluginError for a name that no reward, or no class, can have."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise PluginError(f"a reward's name is like 'brightness' or 'red_things', not '{name}'")
    if entry := catalog.find("reward", name):
        raise PluginError(f"there is a reward '{name}' already, of {entry.origin}; choose another")
    words = _words(name)
    if keyword.iskeyword(words["cls"]) or re.search(rf"\b{words['cls']}\b", _MODULE):
        raise PluginError(f"the name '{name}' is taken in Python or in align; choose another")
    # Ours is called align-core, and its package is not.
    if name == "core" or importlib.util.find_spec(words["package"]):
        taken = words["distribution"]
        raise PluginError(f"there is a distribution '{taken}' already; choose another name")
