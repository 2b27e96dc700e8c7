"""`align doctor`: what is installed here, what it runs on, and what is broken or missing."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from align.catalog.shipped import shipped
from align.cli.shown import two_columns
from align.core.attribution import described
from align.core.errors import AlignError
from align.io.files import readable

if TYPE_CHECKING:
    from align.catalog.registry import Catalog

_CORE: Final = "align-core"
_GROUP: Final = "align"
_REQUIREMENT: Final = re.compile(r"([\w.-]+)[^;]*(?:;\s*(.*?)\s*)?$")
_EXTRA: Final = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_OF_AUTHORS: Final = frozenset({"dev", "test", "tests", "doc", "docs"})  # extras of no user's


class Finding(NamedTuple):
    """One thing that was looked at, and whether it is broken."""

    name: str
    text: str
    broken: bool = False


def findings() -> Iterator[tuple[str, list[Finding]]]:
    """Headings, each with what was found: the machine, the plugins, and what is missing."""
    yield "here", list(_machine())
    try:
        from align.catalog.registry import load_catalog

        catalog = load_catalog()
    except Exception as error:  # of a torch that does not import, whatever it raises
        yield "plugins", [Finding("none", f"cannot be looked for: {described(error)}", broken=True)]
    else:
        yield "plugins", list(_plugins(catalog))
    yield "missing packages", list(_missing())


def doctor_lines() -> tuple[list[str], bool]:
    """What `align doctor` prints, and whether anything is broken."""
    lines, broken = list[str](), list[Finding]()
    for heading, found in findings():
        lines.append(f"{heading}:" if found else f"{heading}: none")
        lines += two_columns(
            [(each.name, f"BROKEN: {each.text}" if each.broken else each.text) for each in found]
        )
        broken += [each for each in found if each.broken]
    names = ", ".join(dict.fromkeys(each.name for each in broken))
    lines.append(f"\nbroken: {names}" if broken else "\nAll is well.")
    return lines, bool(broken)


def _machine() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("align", f"{metadata.version(_CORE)}, {Path(__file__).parents[1]}")
    yield Finding("system", platform.platform())
    try:
        import torch
    except Exception as error:  # whatever a damaged one raises
        yield Finding("torch", described(error), broken=True)
    else:
        yield Finding("torch", torch.__version__)
        yield from _devices()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        yield Finding("threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS); {cores} cores")
        yield _memory()
    yield _cache()
    yield Finding("recipes", f"{len(shipped())}; `align list recipes` shows them")


def _devices() -> Iterator[Finding]:
    """Where `run.device = "auto"` computes."""
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            f"torch is built for CUDA {built}, and sees no device" if built else "torch has no CUDA"
        )
        yield Finding("device", f"cpu; {why}")
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        text = f"{torch.cuda.get_device_name(number)}; {readable(free)} free of {readable(total)}"
        yield Finding(f"cuda:{number}", text)


def _memory() -> Finding:
    from align.engine.memory import available, free

    return Finding("memory", f"{readable(int(free()))} free of {readable(int(available()))}")


def _cache() -> Finding:
    """The unsteered samples that are kept, and whether more can be."""
    from align.io.cache import ROOM, Cache

    try:
        cache = Cache.of_user()
        if cache is None:
            return Finding("cache", f"off: {ROOM} is 0, or nobody knows your home folder")
        size, folder = sum(entry.size for entry in cache.entries()), cache.folder
    except (AlignError, OSError) as error:
        return Finding("cache", str(error), broken=True)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    text = f"{readable(size)} of at most {readable(cache.room)}, in {folder}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("cache", f"{text}, which cannot be written; set ALIGN_CACHE", broken=True)
    return Finding("cache", text)


def _plugins(catalog: Catalog) -> Iterator[Finding]:
    """Every distribution with parts, by name, and those that did not load."""
    brought = defaultdict[str, list[str]](list)
    for contract, named in catalog.parts.items():
        for kind, entry in named.items():
            if not entry.origin.built_in:
                brought[str(entry.origin)].append(f"{contract} {kind}")
    for origin, parts in sorted(brought.items()):
        yield Finding(origin, ", ".join(parts))
    for broken in catalog.broken:
        yield Finding(str(broken.origin), broken.reason, broken=True)


def _missing() -> Iterator[Finding]:
    """Packages that align and its plugins ask for and that are not installed."""
    needed, wanted = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for name in _distributions():
        for package, extra in _asked_for(name):
            if extra:
                wanted[package].append(f"'{extra}' of {name}: pip install '{name}[{extra}]'")
            else:
                needed[package].append(name)
    for package, names in needed.items():
        text = f"needed by {', '.join(names)}: pip install {package}"
        yield Finding(package, text, broken=True)
    for package, texts in wanted.items():
        yield Finding(package, f"for {'; '.join(texts)}")


def _distributions() -> list[str]:
    """align and the distributions of plugins, but for those that are damaged."""
    names = {_CORE}
    with suppress(Exception):  # whatever a damaged one raises; it is told among the plugins
        for point in metadata.entry_points(group=_GROUP):
            with suppress(Exception):
                names |= {point.dist.name} if point.dist else set()
    return sorted(names)


def _asked_for(name: str) -> Iterator[tuple[str, str]]:
    """Packages that a distribution asks for and that are not here, and for which of its extras."""
    for text in metadata.requires(name) or ():
        match = _REQUIREMENT.match(text)
        package, marker = match.groups() if match else ("", "")
        extra = _EXTRA.fullmatch(marker or "")
        # Other markers are about systems and versions of Python.
        if package and (extra or not marker) and not _is_here(package):
            if not extra:
                yield package, ""
            elif extra[1] not in _OF_AUTHORS:
                yield package, extra[1]


def _is_here(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
