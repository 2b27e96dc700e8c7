"""What `align list` and `align show` print: parts and recipes in words, at any width."""

from __future__ import annotations

import re
import shutil
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from align.catalog.contracts import CONTRACT_CLASSES, contract_named, plural
from align.catalog.names import did_you_mean
from align.catalog.shipped import SIGN, about, resolved, shipped
from align.cli.listing import Listing, Option, Part
from align.core.errors import PluginError

RECIPES: Final = "recipes"
"""What `align list` is asked for to show the recipes that come with align."""

_SECTIONS: Final = MappingProxyType(
    {
        "model": "[model]",
        "sampler": "[sampler]",
        "estimator": "[estimator]",
        "reward": "[[reward]]",
        "metric": "[[metric]]",
        "mode": "[mode]",
    }
)
_WIDEST: Final = 100  # columns of running text
_NAMES: Final = 30  # most letters of a column of names
_TEXT: Final = 24  # fewest letters of a column beside it
_LEFT_TO_USERS: Final = re.compile(r"(?:data|runs)/\S+")  # files that no distribution brings


def columns() -> int:
    """Letters of a line."""
    return max(20, shutil.get_terminal_size().columns)


def kinds_offered() -> list[str]:
    """What may be listed: all contracts in the plural, and recipes."""
    return [*map(plural, CONTRACT_CLASSES), RECIPES]


def contract_asked(name: str) -> str:
    """The contract that is to be listed; raises PluginError for what is none."""
    if contract := contract_named(name):
        return contract
    raise PluginError(f"there are no '{name}' to list; {did_you_mean(name, kinds_offered())}")


def list_lines(listing: Listing, contracts: Iterable[str]) -> Iterator[str]:
    """Every part of some contracts in a line, and the plugins that did not load."""
    shown = {
        contract: [part for part in listing.parts if part.contract == contract]
        for contract in contracts
    }
    for contract, parts in shown.items():
        yield f"{plural(contract)}:" if parts else f"{plural(contract)}: none"
        yield from two_columns([(part.kind, part.summary) for part in parts])
    for broken in listing.broken:
        yield f"\n{broken}; its parts are missing above"


def two_columns(rows: Sequence[tuple[str, str]], indent: int = 2) -> Iterator[str]:
    """Names with a text beside each, which goes on below itself where the line is too short."""
    widest = max((len(name) for name, _ in rows), default=0)
    left = indent + widest + 2
    for name, text in rows:
        if widest > _NAMES or columns() - left < _TEXT:
            yield " " * indent + name
            yield from _wrapped(text, 2 * indent)
            continue
        lines = textwrap.wrap(
            text, columns() - left, break_long_words=False, break_on_hyphens=False
        )
        first, *more = lines or [""]
        yield f"{' ' * indent}{name.ljust(widest)}  {first}".rstrip()
        yield from (" " * left + line for line in more)


def recipe_lines(listing: Listing) -> Iterator[str]:
    """The recipes that come with align: what each is for, and what it needs that is not here."""
    kinds = {part.kind for part in listing.parts}
    for name, path in shipped().items():
        yield f"{SIGN}{name}"
        yield from _wrapped(about(path), 4)
        yield from _wrapped(_lacking(tomllib.loads(path.read_text(encoding="utf-8")), kinds), 4)


def _lacking(recipe: dict[str, Any], kinds: set[str]) -> str:
    """The parts and files that a recipe needs and that are not here, in a sentence."""
    strings = list(_strings(recipe))
    parts = sorted({text for key, text in strings if key == "kind" and text not in kinds})
    files = sorted({text for _, text in strings if _LEFT_TO_USERS.fullmatch(text)})
    files = [text for text in files if not Path(text).exists()]
    names = [f"the plugin of '{kind}'" for kind in parts] + files
    return f"needs {', '.join(names)}" if names else ""


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a document, with its key."""
    if isinstance(value, str):
        yield key, value
    for name, item in value.items() if isinstance(value, dict) else ():
        yield from _strings(item, name)
    for item in value if isinstance(value, list) else ():
        yield from _strings(item, key)


def show_lines(listing: Listing, name: str) -> Iterator[str]:
    """A part of that name, or all that have it; or the text of a recipe that comes with align."""
    if name.startswith(SIGN):
        yield resolved(name).read_text(encoding="utf-8").rstrip("\n")
        return
    parts = listing.named(name)
    if len(parts) > 1:
        kind, contracts = parts[0].kind, [part.contract for part in parts]
        named = " and ".join(map(_with_article, contracts))
        text = f"'{kind}' is {named}; `align show {contracts[0]}.{kind}` shows one of them."
        yield from _wrapped(text, 0)
    for number, part in enumerate(parts):
        if number or len(parts) > 1:
            yield ""
        yield from part_lines(part)


def part_lines(part: Part) -> Iterator[str]:
    """A part: what it is, how a recipe names it, and its options."""
    yield f"{part.contract} '{part.kind}', of {part.origin}"
    yield ""
    yield from _document(part.doc)
    yield "In a recipe:"
    yield ""
    yield from (f"    {line}" for line in in_a_recipe(part))
    yield ""
    if not part.options:
        yield "It has no options."
        return
    yield "Options:"
    yield from two_columns([(option.name, _told(option)) for option in _in_order(part.options)])


def _document(text: str) -> Iterator[str]:
    """Paragraphs of a docstring, each as wide as the terminal; others keep their lines."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        if any(line[:1] in (" ", "*", "-", "|") for line in lines):
            yield from lines
        else:
            yield from _wrapped(" ".join(lines), 0)
        yield ""


def in_a_recipe(part: Part) -> Iterator[str]:
    """The shortest form in which a recipe can name a part, with the options that it must have."""
    required = [option for option in part.options if _is_required(option)]
    if section := _SECTIONS.get(part.contract):
        yield section
        yield f'kind = "{part.kind}"'
        yield from (f"{option.name} = ...  # {option.expected}" for option in required)
        return
    inner = ", ".join([f'kind = "{part.kind}"', *(f"{option.name} = ..." for option in required)])
    named = f"{{ {inner} }}" if required else f'"{part.kind}"'
    several = part.key == f"run.{plural(part.contract)}"
    yield f"{part.key} = " + (f"[{named}]" if several else named)


def _is_required(option: Option) -> bool:
    return option.default == "required" and "." not in option.name


def _in_order(options: Sequence[Option]) -> list[Option]:
    """Options that must be given first, then the plain ones, then those of inner tables."""
    return sorted(options, key=lambda option: ("." in option.name, not _is_required(option)))


def _told(option: Option) -> str:
    """What an option is, with its type and default."""
    default = {"required": "required", "see below": "", "none": ""}.get(
        option.default, f"default: {option.default}"
    )
    return f"{option.help} [{'; '.join(filter(None, (option.expected, default)))}]"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _wrapped(text: str, indent: int) -> Iterator[str]:
    """A text in lines of whole words."""
    width = max(_TEXT, min(columns(), _WIDEST) - indent)
    for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False):
        yield " " * indent + line
