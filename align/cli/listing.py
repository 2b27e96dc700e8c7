"""What `align list` and `align show` show: every part in words, kept from one command to the next.

Making it imports every plugin, and so torch. What is kept counts as long as the same plugins are
installed, and every file that was read for it is as it was. A listing with plugins that did not
load is not kept, since the cure may be anything.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, get_origin

from align.catalog.contracts import CONTRACT_CLASSES, contract_named, plural
from align.catalog.names import did_you_mean
from align.core.errors import AlignError, PluginError
from align.io.cache_dir import cache_dir
from align.io.files import digest, write

if TYPE_CHECKING:
    from align.catalog.registry import BrokenPlugin, Catalog

File: TypeAlias = "tuple[str, int, int]"
"""A file's path, time of change in nanoseconds, and size."""

_DISTRIBUTIONS: Final = ("site-packages", "dist-packages")
_SEPARATED: Final = re.compile(r"^(?:(\w*)[./])?(.*)$", re.DOTALL)  # 'mode.steer', 'mode/steer'
_SETTLED: Final = 10.0  # seconds after which a change of a file surely changes its time


class Option(NamedTuple):
    """An option of a part: its name, with those of the tables around it, and three texts."""

    name: str
    expected: str
    default: str
    help: str


_UNREADABLE: Final = Option("?", "", "", "its options cannot be read; tell the authors of the part")


class Part(NamedTuple):
    """A part that recipes may name.

    `key` is where they name it: a section, or an option of another part.
    """

    contract: str
    kind: str
    origin: str
    key: str
    doc: str
    options: tuple[Option, ...]

    @property
    def summary(self) -> str:
        """First line of the part's docstring."""
        return self.doc.strip().partition("\n")[0]


class Listing(NamedTuple):
    """Every part that recipes may name, and the plugins that were set aside."""

    parts: tuple[Part, ...]
    broken: tuple[BrokenPlugin, ...] = ()

    def named(self, name: str) -> list[Part]:
        """The parts of that name, which may be 'contract.name'.

        Raises:
            PluginError: there is none; says what was meant.
        """
        kinds = {contract: list[str]() for contract in CONTRACT_CLASSES}
        for part in self.parts:
            kinds[part.contract].append(part.kind)
        found = places(name, kinds, self.broken)
        return [part for part in self.parts if (part.contract, part.kind) in found]


def places(
    name: str, kinds: Mapping[str, Collection[str]], broken: Sequence[BrokenPlugin]
) -> list[tuple[str, str]]:
    """Contract and kind of every part of that name, which may be 'contract.name'.

    Raises:
        PluginError: there is none; says what was meant.
    """
    before, kind = _SEPARATED.findall(name)[0]
    contract = contract_named(before)
    within = [contract] if contract else CONTRACT_CLASSES
    found = [(place, kind) for place in within if kind in kinds[place]]
    if not found:
        for plugin in broken:
            if plugin.may_bring(kind):
                raise PluginError(str(plugin))
        if sort := contract_named(name):
            raise PluginError(
                f"'{name}' is no part; `align list {plural(sort)}` shows those there are"
            )
        known = [known for place in within for known in kinds[place]]
        raise PluginError(f"no part named '{name}'; {did_you_mean(kind, known)}")
    return found


def read_listing() -> Listing:
    """What is kept, if it still holds, else what the installed plugins say now."""
    place, installed = _place(), _installed()
    if place and installed and (parts := _kept(place, installed)) is not None:
        return Listing(parts)
    began = time.time()

    from align.catalog.registry import load_catalog

    catalog = load_catalog()
    listing = Listing(tuple(parts_of(catalog)), catalog.broken)
    unreadable = any(_UNREADABLE in part.options for part in listing.parts)
    if place and installed and not listing.broken and not unreadable:
        _keep(place, installed, listing.parts, _files(catalog), began)
    return listing


def _place() -> Path | None:
    """The file of this interpreter's listing, if there is a folder for it."""
    folders = (folder for folder in sys.path if Path(folder).name in _DISTRIBUTIONS)
    name = digest("\n".join((sys.version, sys.prefix, *folders)).encode())
    with suppress(OSError):
        return cache_dir("parts") / f"{name[:32]}.json"
    return None


def _installed() -> str | None:
    """A digest of what is installed; None where that cannot be read."""
    facts = list[object]()
    try:
        for folder in sys.path:
            if Path(folder).name in _DISTRIBUTIONS:
                facts.append((folder, Path(folder).stat().st_mtime_ns))
        for point in metadata.entry_points(group="align"):
            about = point.dist and (
                point.dist.read_text("METADATA") or point.dist.read_text("PKG-INFO")
            )
            facts.append((point.name, point.value, about))
        facts.append(metadata.version("align-core"))
    except Exception:  # whatever a damaged distribution raises
        return None
    return digest(repr(facts).encode())


def _kept(place: Path, installed: str) -> tuple[Part, ...] | None:
    """The parts that are kept in a file, if they still hold."""
    with suppress(OSError, ValueError):
        checksum, _, text = place.read_text().partition("\n")
        if checksum != digest(text.encode()):  # it is damaged
            return None
        saved = json.loads(text)
        if saved["installed"] == installed and all(map(_is_as_it_was, saved["files"])):
            return tuple(
                Part(*part)._replace(options=tuple(Option(*option) for option in part[-1]))
                for part in saved["parts"]
            )
    return None


def _keep(
    place: Path, installed: str, parts: Sequence[Part], files: Sequence[File], began: float
) -> None:
    """Keep the parts, unless a file may have changed after it was read."""
    if any(changed / 1e9 > began - _SETTLED for _, changed, _ in files):
        return
    text = json.dumps({"installed": installed, "files": files, "parts": parts})
    with suppress(AlignError):  # it is made again where it cannot be kept
        write(place, f"{digest(text.encode())}\n{text}")


def _is_as_it_was(file: File) -> bool:
    path, changed, size = file
    status = Path(path).stat()
    return status.st_mtime_ns == changed and status.st_size == size


def _files(catalog: Catalog) -> list[File]:
    """Every file of a module that is imported, and every other one in the packages of parts."""
    modules = dict(sys.modules)
    paths = {
        path
        for module in modules.values()
        if isinstance(path := getattr(module, "__dict__", {}).get("__file__"), str)
    }
    classes = (entry.cls for named in catalog.parts.values() for entry in named.values())
    for package in {cls.__module__.partition(".")[0] for cls in classes}:
        for folder in getattr(modules.get(package), "__path__", ()):
            paths |= {
                str(path)
                for path in Path(folder).rglob("*")
                if path.parent.name != "__pycache__" and path.is_file()
            }
    files = list[File]()
    for path in sorted(paths):
        with suppress(OSError):  # of a frozen module, or in an archive
            status = Path(path).stat()
            files.append((path, status.st_mtime_ns, status.st_size))
    return files


def parts_of(catalog: Catalog) -> Iterator[Part]:
    """The parts of a catalog, by contract and kind."""
    for contract in CONTRACT_CLASSES:
        for kind, entry in sorted(catalog.parts[contract].items()):
            origin, doc = entry.origin, inspect.cleandoc(entry.cls.__doc__ or "")
            try:
                options = tuple(_options(entry.cls))
            except Exception:  # a default that a plugin computes may raise anything
                options = (_UNREADABLE,)
            yield Part(
                contract, kind, str(origin), _key(contract, entry.cls, catalog), doc, options
            )


def _key(contract: str, cls: type[Any], catalog: Catalog) -> str:
    """The section of a part's contract, else the first option that takes parts of its class."""
    import attrs

    from align.catalog.describe import contract_of, members
    from align.recipe.schema import Recipe, Run

    if contract in attrs.fields_dict(Recipe):
        return contract
    tables: list[tuple[str, type[Any]]] = [("run", Run)]
    for other, named in catalog.parts.items():
        tables += [(other, entry.cls) for _, entry in sorted(named.items())]
    for table, holder in tables:
        for field in attrs.fields(attrs.resolve_types(holder)):
            for tp in members(field.type) or [field.type]:
                if contract_of(tp) == contract and issubclass(cls, get_origin(tp) or tp):
                    return f"{table}.{field.alias or field.name}"
    return contract


def _options(cls: type[Any], within: str = "", of: str = "") -> Iterator[Option]:
    """The options of a class; those of inner tables follow theirs."""
    import attrs

    from align.catalog.describe import contract_of, expected, members, tag_of
    from align.recipe.write import default_text

    for field in attrs.fields(attrs.resolve_types(cls)):
        if not field.init:
            continue
        types = members(field.type) or [field.type]
        name = within + (field.alias or field.name)
        contract = next(filter(None, map(contract_of, types)), None)
        inner = [tp for tp in types if attrs.has(tp)]
        kinds = [f"'{tag_of(tp)}'" for tp in inner if tag_of(tp) and not contract_of(tp)]
        shown = expected(field.type) + (f" of kind {' or '.join(kinds)}" if kinds else "")
        shown = f"{contract}: a kind, or a table" if contract else shown
        yield Option(name + of, shown, default_text(field), field.metadata.get("help", ""))
        for tp in [] if contract else inner:
            yield from _options(tp, f"{name}.", f" ({tag_of(tp)})" if len(inner) > 1 else "")
