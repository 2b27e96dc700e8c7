"""Environments in which a package can be asked that does not go with those here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from align.core.errors import PartError
from align.core.reward import Pins
from align.io import files
from align.isolation.client import python_of

_CORE: Final = "align-core"
_NAME: Final = re.compile(r"[\w.-]+")
_LAST: Final = 5  # lines of what pip says that are worth showing


def make_environment(
    folder: Path, pins: Pins, distribution: str, on_step: Callable[[str], None]
) -> None:
    """Make a virtual environment that has a reward's package, its plugin and align.

    What is made is removed again where it fails.

    Args:
        folder: of the environment; there must be nothing yet.
        pins: what is installed.
        distribution: of the plugin; it is installed as it is here, from its folder or by its
            version, and so is align-core.
        on_step: is called with what is done next.

    Raises:
        PartError: there is something in the folder, or pip fails.
    """
    if folder.exists():
        raise PartError(f"'{folder}' is there already; name a new folder, or use it by --venv")
    own = [requirement(name) for name in sorted(own_distributions(distribution))]
    try:
        on_step(f"'{folder}' is made")
        _run(sys.executable, "-m", "venv", str(folder))
        python = python_of(str(folder))
        for options, packages in (((), [*pins.packages, *own]), (_ALONE, pins.alone)):
            if packages:
                on_step(f"installs {', '.join(packages)}")
                _run(python, "-m", "pip", "install", "-q", *options, *packages)
    except BaseException:
        files.remove(folder)
        raise


_ALONE: Final = ("--no-deps", "--no-build-isolation")


def own_distributions(name: str) -> set[str]:
    """A plugin's distribution, align-core, and others of align's parts that the plugin asks for."""
    found, waiting = {_CORE}, [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += [other for other in _asked_for(one) if _has_parts(other)]
    return found


def requirement(name: str) -> str:
    """What pip installs of a distribution to have what is here: its folder, or its version."""
    found = metadata.distribution(name)
    about = json.loads(found.read_text("direct_url.json") or "{}")
    if "dir_info" in about:
        return url2pathname(unquote(urlparse(about["url"]).path))
    return f"{name}=={found.version}"


def _asked_for(name: str) -> Iterator[str]:
    """Names of the distributions that one asks for, its extras left out."""
    for text in metadata.requires(name) or ():
        if "extra" not in text.partition(";")[2]:
            yield _NAME.findall(text)[0]


def _has_parts(name: str) -> bool:
    try:
        points = metadata.distribution(name).entry_points
    except metadata.PackageNotFoundError:
        return False
    return any(point.group == "align" for point in points)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        told = "\n".join(lines[-_LAST:]) or f"exit code {done.returncode}"
        raise PartError(f"`{' '.join(command[1:4])}` failed:\n{told}")
