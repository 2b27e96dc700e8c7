"""A reward that is a function in the user's own Python file."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.attribution import attributed
from align.core.errors import ContractError, PartError
from align.core.model import Domain
from align.core.option import option
from align.core.reward import Reward, RewardSpec
from align.rewards.python_modules import Neighbours, find_source

Scores: TypeAlias = Callable[[Tensor, list[str]], Tensor]


def _readable(_: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is None:
        return
    if not value.endswith(".py"):
        raise ValueError(f"expected a file whose name ends in .py, got '{value}'")
    if not Path(value).is_file():
        raise ValueError(f"no file '{value}', as seen from '{Path.cwd()}'")
    _parsed(Path(value))


def _parsed(path: Path) -> ast.AST:
    """The syntax tree of a file, which is not run; raises ValueError if it has none."""
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise ValueError(f"'{path}' is not Python: line {error.lineno}: {error.msg}") from error
    except ValueError as error:
        raise ValueError(f"'{path}' is not Python: {error}") from error


def _findable(_: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is None:
        return
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError(f"expected a module's name like 'my_package.rewards', got '{value}'")
    if source := find_source(value, str(Path.cwd())):
        _parsed(source)


def _has_function(spec: Python, attribute: attrs.Attribute[Any], value: str) -> None:
    """Refuse a file that does not define the function, judged without running the file."""
    file, module = getattr(spec, "file", None), getattr(spec, "module", None)
    try:
        path = Path(file) if file else find_source(module or "", str(Path.cwd()))
        names = list(_names([_parsed(path)])) if path else ["*"]
    except (OSError, ValueError):
        return  # the check of `file` or `module` reports it
    if value not in names and not {"*", "__getattr__"} & set(names):
        known = ", ".join(f"'{name}'" for name in names if not name.startswith("_"))
        raise ValueError(f"'{file or module}' has no '{value}'; it has {known or 'nothing'}")


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


@final
@attrs.frozen(kw_only=True)
class Python(RewardSpec):
    """A function `score(data, prompts)` of a Python file, which returns the scores (B,).

    `data` are pictures (B, 3, H, W) in [0, 1] or vectors (B, D), on the run's device; `prompts` is
    a list of B strings. Row i of the score must depend on row i of the data alone. The file is
    run once, when the run begins; `align check` only reads it. It can import what lies beside it,
    as a script can. A module is named like in an import statement, and is searched in the working
    directory first.
    """

    kind: ClassVar[str] = "python"
    range: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))

    file: str | None = option(
        "Python file, unless `module` is given; a relative path starts at the working directory",
        default=None,
        check=_readable,
        path=True,
    )
    module: str | None = option(
        "module that can be imported, like 'my_package.rewards', unless `file` is given",
        default=None,
        check=_findable,
    )
    function: str = option(
        "name of the function in the file or module", default="score", check=_has_function
    )
    differentiable: bool = option(
        "whether the score carries a gradient back to the data; checked before the first score",
        default=True,
    )
    domain: Domain | None = option("kind of data that it scores; both if left out", default=None)

    def __attrs_post_init__(self) -> None:
        """Refuse two places of the function, and none."""
        if (self.file is None) == (self.module is None):
            number = "nothing" if self.file is None else "both"
            text = "expected either file, a Python file, or module, the name of one"
            raise ValueError(f"{text}; got {number}")

    def build(self, device: torch.device) -> Reward:
        """Run the file; raises PartError if that fails."""
        where = str(self.file or self.module)
        folder = Path(self.file).resolve().parent if self.file else Path.cwd().resolve()
        neighbours = Neighbours(str(folder))
        with neighbours.importable(first=True), attributed(f"reward 'python': '{where}'"):
            module = _run(self.file) if self.file else importlib.import_module(where)
        function = getattr(module, self.function, None)
        if not callable(function):
            raise PartError(f"reward 'python': '{where}' has no function '{self.function}'")
        who = f"reward 'python': '{self.function}' of '{where}'"
        return _Function(function, self.differentiable, who, neighbours)


def _run(file: str) -> ModuleType:
    """The file, run as a module of its own."""
    path = Path(file).resolve()
    # By its path: two files may have one name.
    name = f"align_python_reward_{path.as_posix()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for their types
    spec.loader.exec_module(module)
    return module


@final
@attrs.define(eq=False)
class _Function(Reward):
    """Calls the function.

    Attributes:
        neighbours: modules that the function may import.
        tried: whether its declared gradient has been checked.
    """

    function: Scores
    differentiable: bool
    who: str
    neighbours: Neighbours
    tried: bool = False

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """What the function returns (B,), in float32 or wider."""
        if not self.tried:
            self._try(data[:1], prompts[:1])
            self.tried = True
        # Weights that the function did not freeze are no reason for a graph.
        with torch.set_grad_enabled(
            self.differentiable and data.requires_grad and torch.is_grad_enabled()
        ):
            return self._of(data, prompts)

    def _of(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        with self.neighbours.importable():
            score = self.function(data, list(prompts))
        plain = isinstance(score, Tensor) and score.layout == torch.strided
        if plain and score.shape == (len(data),) and not score.is_complex():
            if score.device != data.device:
                raise ContractError(f"{self.who} returned scores on {score.device}")
            return score if score.dtype == torch.float64 else score.float()
        kind = " of complex numbers" if plain and score.is_complex() else ""
        got = f"{tuple(score.shape)}{kind}" if plain else f"a {type(score).__name__}"
        raise ContractError(f"{self.who} returned {got}, expected a tensor ({len(data)},)")

    def _try(self, data: Tensor, prompts: Sequence[str]) -> None:
        """Check with one row that the declared gradient exists."""
        if not self.differentiable or not len(data):
            return
        with torch.enable_grad():
            row = data.detach().clone().requires_grad_()
            score, gradient = self._of(row.clone(), prompts), None
            if score.requires_grad:
                (gradient,) = torch.autograd.grad(score.sum(), row, allow_unused=True)
        if gradient is None:
            text = f"{self.who} carries no gradient back to the data"
            raise ContractError(f"{text}; set differentiable = false")
