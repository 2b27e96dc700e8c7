"""Modules that lie beside a user's file, importable as they are for a script."""

from __future__ import annotations

import ast
import itertools
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final, final

import attrs

from align.io.files import exists_as_file

_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_STANDARD: Final = Path(sysconfig.get_path("stdlib")).resolve()
_MOST: Final = 300  # files of one's own that are followed


@final
@attrs.define(eq=False)
class Neighbours:
    """The modules of a folder, which code from this folder may import by their plain names.

    They are in `sys.modules` only while `importable` lasts: two files may each have a
    `helper.py` beside them, and each sees its own.

    Args:
        folder: absolute, without links.
    """

    folder: str
    modules: dict[str, ModuleType] = attrs.field(factory=dict, init=False)

    @contextmanager
    def importable(self, *, first: bool = False) -> Iterator[None]:
        """Let code import the folder's modules, before those of the same name from elsewhere.

        Args:
            first: whether modules of the folder's names that are loaded already are hidden; later
                those are known which the code uses.
        """
        names = self._names() if first else frozenset(self.modules)
        hidden = {name: sys.modules.pop(name) for name in self._taken(names)}
        sys.modules.update(self.modules)
        sys.path.insert(0, self.folder)
        count = len(sys.modules)
        try:
            yield
        finally:
            if self.folder in sys.path:
                sys.path.remove(self.folder)
            for name in list(itertools.islice(sys.modules, count, None)):
                top = name.partition(".")[0]
                if top in self.modules or self._is_here(top):
                    self.modules[name] = sys.modules[name]
            for name in self.modules:
                sys.modules.pop(name, None)
            sys.modules.update(hidden)

    def _names(self) -> frozenset[str]:
        """Names that can be imported from the folder; those of Python's own modules stay its."""
        folder = Path(self.folder)
        names = {path.stem for path in folder.glob("*.py")}
        names |= {path.parent.name for path in folder.glob("*/__init__.py")}
        return frozenset(names - sys.stdlib_module_names)

    def _taken(self, names: frozenset[str]) -> list[str]:
        """Loaded modules of these names, and what is inside them, that are not the folder's."""
        if not any(name in sys.modules for name in names):
            return []
        tops = {name for name in names if name in sys.modules and not self._is_here(name)}
        return [name for name in sys.modules if name.partition(".")[0] in tops]

    def _is_here(self, top: str) -> bool:
        """Whether a loaded module lies in the folder itself."""
        module = sys.modules.get(top)
        file = getattr(module, "__file__", None)
        if file:
            place = Path(file).resolve()
            package = place.name.startswith("__init__.")
            return str(place.parents[1] if package else place.parent) == self.folder
        inside = os.path.join(self.folder, top)  # noqa: PTH118, compared with plain strings
        return inside in list(getattr(module, "__path__", ()))


def find_source(module: str, folder: str) -> Path | None:
    """The file of a module, found without running anything; None for one that has no source.

    Args:
        module: its name, with the packages that it is in: "my_package.rewards".
        folder: is searched first, then what Python searches.

    Raises:
        ValueError: there is no such module.
    """
    spec, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        if spec is None:
            spec = PathFinder.find_spec(name, [folder]) or _find(name, None)
        elif spec.submodule_search_locations is None:
            raise ValueError(f"'{spec.name}' is a module and no package, so it has no '{part}'")
        else:
            spec = _find(name, list(spec.submodule_search_locations))
        if spec is None:
            raise ValueError(
                f"no module '{name}', neither in '{folder}' nor among what is installed; install"
                " its package, or name a file instead"
            )
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        return None
    return Path(str(spec.origin))


def _find(name: str, path: list[str] | None) -> ModuleSpec | None:
    found = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def own_files(code: Path, folder: Path) -> tuple[Path, ...] | None:
    """Files of the user's own that code depends on, as far as its text tells; nothing is run.

    These are the code itself; modules that it imports, anywhere in it, or whose names stand in it
    as texts, and theirs in turn; and other files whose names stand in it. What is installed is not
    among them, nor is align.

    Args:
        code: the Python file.
        folder: where modules and files are looked for first.

    Returns:
        The files, in the order of their paths; None where they are so many that there must be
        something else among them.
    """
    found, queue = set[Path](), [code.resolve()]
    while queue:
        path = queue.pop()
        if path in found or _INSTALLED & set(path.parts) or path.is_relative_to(_STANDARD):
            continue
        found.add(path)
        if len(found) > _MOST:
            return None
        if path.suffix == ".py":
            queue += [other.resolve() for other in _mentioned(path, folder)]
    return tuple(sorted(found))


def _mentioned(path: Path, folder: Path) -> Iterator[Path]:
    """The files of modules that a Python file imports, and files that it names."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _sources(alias.name, folder, anywhere=True)
        elif isinstance(node, ast.ImportFrom):
            above = [*path.parents[: node.level]]
            for alias in node.names:
                name = ".".join(filter(None, (node.module, alias.name)))
                yield from _sources(name, above[-1] if above else folder, anywhere=not above)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
            places = (folder / node.value, path.parent / node.value, Path(node.value))
            yield from (place for place in places if exists_as_file(place))
            if all(part.isidentifier() for part in node.value.split(".")):
                yield from _sources(node.value, folder, anywhere=False)


def _sources(module: str, folder: Path, *, anywhere: bool) -> Iterator[Path]:
    """The files of a module and of the packages that it is in, as far as there are such.

    Args:
        module: its name, which may end in that of something inside of it.
        folder: where it lies.
        anywhere: whether it may also lie where Python looks for modules.
    """
    top = module.partition(".")[0]
    if anywhere and (top == "align" or top in sys.stdlib_module_names):
        return
    places, name = [str(folder)], ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, places)
        if spec is None and anywhere and name == top:
            spec = _find(name, None)
        if spec is None:
            return
        if spec.has_location and spec.origin:
            yield Path(spec.origin)
        if spec.submodule_search_locations is None:
            return
        places = list(spec.submodule_search_locations)
