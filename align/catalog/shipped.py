"""The recipes that come with align: `@tabby_cat` is tabby_cat.toml among them.

A wheel has them inside the package; a checkout, beside it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from align.catalog.names import did_you_mean
from align.core.errors import RecipeError

SIGN: Final = "@"
"""What the name of a recipe that comes with align begins with."""

_COMMAND: Final = re.compile(r"\s{2,}\S.*$")  # what stands at the end of a recipe's first line
_SENTENCE: Final = re.compile(r"(?<=[.?!])\s")


@functools.cache
def shipped() -> Mapping[str, Path]:
    """The files of the recipes that come with align, by their names without the @."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    folder = inside if inside.is_dir() else package.parent / "recipes"
    paths = sorted(folder.rglob("*.toml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def resolved(recipe: str | Path) -> Path:
    """The path of a recipe, which may be the @name of one that comes with align.

    Raises:
        RecipeError: none of these has the name; says what was meant.
    """
    name = str(recipe)
    if not name.startswith(SIGN):
        return Path(recipe)
    known, asked = shipped(), name.removeprefix(SIGN).removesuffix(".toml")
    if path := known.get(asked):
        return path
    alike = [f"'{SIGN}{other}'" for other in known if other.rpartition("/")[2] == asked]
    advice = did_you_mean(name, [f"{SIGN}{other}" for other in known])
    if alike:
        advice = f"did you mean {' or '.join(alike)}?"
    elif not advice.endswith("?"):
        advice = "`align list recipes` shows those there are"
    raise RecipeError(f"no recipe named '{name}' comes with align; {advice}")


def about(path: Path) -> str:
    """What a recipe is for: the first sentence of its comment."""
    comment = list[str]()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            comment.append(_COMMAND.sub("", line.removeprefix("# ").strip()))
        elif comment:
            break
    return _SENTENCE.split(" ".join(comment), maxsplit=1)[0]
