"""Code of the user's own: a Python file or a module that a recipe names, read before it is run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self, final

import attrs

from align.core.attribution import attributed
from align.core.errors import PartError
from align.core.option import option
from align.io.files import digest
from align.io.paths import seen_from
from align.io.python_modules import Neighbours, find_source, own_files


class NamesCode(Protocol):
    """A part with the options `file` and `module`, one of which says where its code is."""

    @property
    def file(self) -> str | None:
        """The Python file, or None."""

    @property
    def module(self) -> str | None:
        """The module's name, or None."""


def file_option() -> Any:
    """The option `file`; its check reads the file and does not run it."""
    return option(
        "Python file, unless `module` is given",
        default=None,
        check=_readable,
        path="code",
    )


def module_option(example: str) -> Any:
    """The option `module`, with a name to show what is meant."""
    return option(
        f"module that can be imported, like '{example}', unless `file` is given",
        default=None,
        check=_findable,
        path="code",
    )


def readable_code(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """Refuse what is neither a Python file nor a module that can be imported; empty is neither."""
    if value.endswith(".py"):
        _readable(_, attribute, value)
    elif value:
        _findable(_, attribute, value)


def has_function(spec: NamesCode, attribute: attrs.Attribute[Any], value: str) -> None:
    """Refuse code that does not define the function `value`, judged without running it.

    For options that stand below `file` and `module`; an empty name is no function.
    """
    file, module = getattr(spec, "file", None), getattr(spec, "module", None)
    try:
        path = Path(file) if file else find_source(module or "", str(Path.cwd()))
        names = list(_names([_parsed(path)])) if path else ["*"]
    except (OSError, ValueError):
        return  # the check of `file` or `module` reports it
    if value and value not in names and not {"*", "__getattr__"} & set(names):
        others = _imported(_parsed(path)) if path else set()
        own = [name for name in names if not name.startswith("_") and name not in others]
        known = ", ".join(f"'{name}'" for name in own)
        raise ValueError(f"'{file or module}' has no '{value}'; it has {known or 'nothing'}")


def check_one_place(spec: NamesCode) -> None:
    """Raise ValueError for two places of the code, and for none."""
    if (spec.file is None) == (spec.module is None):
        number = "nothing" if spec.file is None else "both"
        text = "expected either file, a Python file, or module, the name of one"
        raise ValueError(f"{text}; got {number}")


def code_origins(spec: NamesCode) -> dict[str, str]:
    """The file of a part's code by its place, with its digest, for the record of a run."""
    return origin_of(spec.file or spec.module or "")


def origin_of(code: str) -> dict[str, str]:
    """The file of code, a file or a module, by its place with its digest; none where there is none.

    Raises:
        ValueError: there is no such module.
    """
    path = Path(code) if code.endswith(".py") else code and find_source(code, str(Path.cwd()))
    return {code: f"sha256 {digest(path)}"} if path and path.is_file() else {}


def files_of(code: str) -> tuple[Path, ...] | None:
    """Files of the user's own that code depends on, a file or a module, as `own_files` finds them.

    None where they cannot be found: the code has no source, or is not there.
    """
    path = Path(code)
    if code.endswith(".py"):
        return own_files(path, path.resolve().parent) if path.is_file() else None
    try:
        source = find_source(code, str(Path.cwd()))
    except ValueError:
        return None
    return own_files(source, Path.cwd()) if source else None


@final
@attrs.frozen(eq=False)
class Code:
    """A user's code, once it has run.

    Attributes:
        where: its file or the module's name.
        namespace: what it defines.
        neighbours: modules that lie beside it, which it may import.
    """

    where: str
    namespace: ModuleType
    neighbours: Neighbours

    @classmethod
    def run(cls, spec: NamesCode, who: str) -> Self:
        """Run the code that a part names.

        Args:
            spec: names it.
            who: the part, for messages, as in "reward 'python'".

        Raises:
            PartError: it raised something.
        """
        where = str(spec.file or spec.module)
        folder = Path(spec.file).resolve().parent if spec.file else Path.cwd().resolve()
        neighbours = Neighbours(str(folder))
        with neighbours.importable(first=True), attributed(f"{who}: '{where}'"):
            namespace = _run(spec.file) if spec.file else importlib.import_module(where)
        return cls(where, namespace, neighbours)

    def named(self, name: str, who: str) -> Any:
        """What the code calls `name`; raises PartError if that is no function or the like."""
        value = getattr(self.namespace, name, None)
        if not callable(value):
            raise PartError(f"{who}: '{self.where}' has no function '{name}'")
        return value

    def importable(self) -> AbstractContextManager[None]:
        """A context in which the code can import what lies beside it."""
        return self.neighbours.importable()


def _readable(_: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is None:
        return
    if not value.endswith(".py"):
        raise ValueError(f"expected a file whose name ends in .py, got '{value}'")
    if not Path(value).is_file():
        raise ValueError(f"no file '{value}'{seen_from(value)}")
    _parsed(Path(value))


def _findable(_: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is None:
        return
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError(f"expected a module's name like 'my_package.rewards', got '{value}'")
    if source := find_source(value, str(Path.cwd())):
        _parsed(source)


def _parsed(path: Path) -> ast.AST:
    """The syntax tree of a file, which is not run; raises ValueError if it has none."""
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError as error:
        # Bytes that no line of Python has are told without one.
        line = f"line {error.lineno}: " if error.lineno else ""
        raise ValueError(f"'{path}' is not Python: {line}{error.msg}") from error
    except ValueError as error:
        raise ValueError(f"'{path}' is not Python: {error}") from error


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """What a module defines or imports; '*' stands for anything."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        else:
            yield from _names(ast.iter_child_nodes(node))


def _imported(tree: ast.AST) -> set[str]:
    """What a module has from elsewhere."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return set(_names(imports))


def _run(file: str) -> ModuleType:
    """The file, run as a module of its own."""
    path = Path(file).resolve()
    # By its path: two files may have one name.
    name = f"align_user_file_{path.as_posix()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for their types
    spec.loader.exec_module(module)
    return module
