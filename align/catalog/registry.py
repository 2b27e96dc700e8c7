"""From entry points to a catalog of parts, in which every part knows where it comes from.

Each entry point of the group `align` is loaded on its own. One that fails is set aside with its
exception; it takes its own names away and nothing else.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any, Final, final

import attrs
import pluggy

from align.catalog import hookspecs
from align.catalog.contracts import CONTRACT_CLASSES, WINGS_WITH_PARTS, hook_of, plural
from align.core.errors import PluginError
from align.core.term import TERM_OPTIONS


def _class(path: str) -> type:
    module, _, name = path.partition(":")
    cls: type = getattr(importlib.import_module(module), name)
    return cls


CONTRACTS: Final[Mapping[str, type]] = MappingProxyType(
    {name: _class(path) for name, path in CONTRACT_CLASSES.items()}
)
"""The class of each contract, by its name."""

_BESIDE: Final[Mapping[str, Iterable[str]]] = MappingProxyType(
    {
        "reward": TERM_OPTIONS,
        # A weights file keeps these beside the options.
        "network": ("role", "plugin"),
        "autoencoder": ("plugin",),
    }
)
RESERVED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {name: frozenset({"kind", *_BESIDE.get(name, ())}) for name in CONTRACTS}
)
"""Keys of a part's table that are not the part's own."""
_DISTRIBUTION: Final = "align-core"
# Named, not imported: what align ships takes the same road as what others ship.
_BUILT_IN: Final = tuple(
    EntryPoint(name=wing, value=f"align.{wing}", group="align") for wing in WINGS_WITH_PARTS
)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The one known name that is clearly closest to `name`, else all that are known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.7)
    likeness = [difflib.SequenceMatcher(None, name, other).ratio() for other in close]
    if len(close) == 1 or (close and likeness[0] - likeness[1] > 0.1):
        return f"did you mean '{close[0]}'?"
    if not names:
        return "there are none"
    return "known are " + ", ".join(f"'{known}'" for known in names)


@final
@attrs.frozen
class Origin:
    """Where a part comes from."""

    plugin: str
    distribution: str
    version: str

    @property
    def built_in(self) -> bool:
        """Whether align itself ships it."""
        return self.distribution == _DISTRIBUTION

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@final
@attrs.frozen
class Entry:
    """A part that recipes may name, and its origin."""

    cls: type[Any]
    origin: Origin

    @property
    def kind(self) -> str:
        """The part's name in recipes."""
        return str(self.cls.kind)

    @property
    def summary(self) -> str:
        """First line of the part's docstring."""
        return (self.cls.__doc__ or "").strip().partition("\n")[0]


@final
@attrs.frozen(eq=False)
class BrokenPlugin:
    """A plugin that was set aside.

    Attributes:
        origin: of the plugin.
        error: why it was set aside.
        kinds: names it was about to bring, as far as they are known.
    """

    origin: Origin
    error: BaseException
    kinds: frozenset[str] = frozenset()

    @property
    def reason(self) -> str:
        """The error in one line."""
        text = str(self.error).strip().partition("\n")[0]
        if isinstance(self.error, PluginError):
            return text
        return f"{type(self.error).__name__}: {text}" if text else type(self.error).__name__

    def may_bring(self, kind: str) -> bool:
        """Whether a part of this name was lost: one it brought, or one it is named after."""
        names = (self.origin.plugin, self.origin.distribution.removeprefix("align-"))
        return kind in self.kinds or any(kind == name.replace("-", "_") for name in names)

    def __str__(self) -> str:
        return f"plugin '{self.origin.plugin}' ({self.origin}) did not load: {self.reason}"


@final
@attrs.frozen(eq=False)
class Catalog:
    """Every part that recipes may name.

    Attributes:
        parts: by contract, then by kind.
        broken: the plugins that were set aside.
        hook: calls a hook of every plugin, as in `catalog.hook.align_run_start(run=run)`.
    """

    parts: Mapping[str, Mapping[str, Entry]]
    broken: tuple[BrokenPlugin, ...]
    hook: pluggy.HookRelay = attrs.field(repr=False)

    def find(self, contract: str, kind: str) -> Entry | None:
        """The part of this kind, or None."""
        return self.parts[contract].get(kind)

    def entry_of(self, part: object) -> Entry | None:
        """The entry of a part, or of its class; None for a class that no plugin brought."""
        cls = part if isinstance(part, type) else type(part)
        entries = (entry for named in self.parts.values() for entry in named.values())
        return next((entry for entry in entries if entry.cls is cls), None)


def load_catalog(
    entry_points: Iterable[EntryPoint] | None = None, *, builtins: bool = True
) -> Catalog:
    """Load every plugin, each on its own.

    Args:
        entry_points: instead of those of the installed distributions.
        builtins: whether the parts of align itself are in it.
    """
    points = metadata.entry_points(group="align") if entry_points is None else entry_points
    ordered = sorted(points, key=lambda point: (_origin(point).distribution, point.name))
    manager = _manager()
    parts: dict[str, dict[str, Entry]] = {name: {} for name in CONTRACTS}
    broken = []
    for point in (*_BUILT_IN, *ordered) if builtins else ordered:
        origin, brought = _origin(point), list[tuple[str, Entry]]()
        try:
            plugin = point.load()
            for contract, cls in _offered(plugin):
                brought.append((contract, Entry(cls, origin)))
            for contract, entry in brought:
                _refuse_collision(contract, entry, parts[contract].get(entry.kind))
            manager.register(plugin, name=f"{origin.plugin} ({origin})")
        # A plugin may raise anything, and one that calls sys.exit is as broken as the rest.
        except (Exception, SystemExit) as error:
            kinds = frozenset(entry.kind for _, entry in brought)
            broken.append(BrokenPlugin(origin, error, kinds))
        else:
            for contract, entry in brought:
                parts[contract][entry.kind] = entry
    frozen = {name: MappingProxyType(named) for name, named in parts.items()}
    return Catalog(MappingProxyType(frozen), tuple(broken), manager.hook)


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("align")
    manager.add_hookspecs(hookspecs)
    return manager


def _origin(point: EntryPoint) -> Origin:
    if any(point is own for own in _BUILT_IN):
        return Origin(point.name, _DISTRIBUTION, metadata.version(_DISTRIBUTION))
    if point.dist is None:
        return Origin(point.name, point.module.partition(".")[0], "of unknown version")
    return Origin(point.name, point.dist.name, point.dist.version)


def _offered(plugin: object) -> list[tuple[str, type[Any]]]:
    """What a plugin's hooks return, checked; the plugin is alone with its own manager."""
    manager = _manager()
    manager.register(plugin)
    _refuse_misspelt(plugin, manager)
    offered: list[tuple[str, type[Any]]] = []
    for contract in CONTRACTS:
        for classes in getattr(manager.hook, hook_of(contract))():
            if isinstance(classes, type) or not isinstance(classes, Iterable):
                got = f"the class {classes.__name__}" if isinstance(classes, type) else classes
                raise PluginError(f"{hook_of(contract)}: expected a list of classes, got {got}")
            offered += [(contract, _admitted(contract, cls)) for cls in classes]
    names = [(contract, cls.kind) for contract, cls in offered]
    for contract, kind in names:
        if names.count((contract, kind)) > 1:
            raise PluginError(f"it brings two {plural(contract)} named '{kind}'; rename one")
    return offered


def _refuse_misspelt(plugin: object, manager: pluggy.PluginManager) -> None:
    known = [name for name in vars(hookspecs) if name.startswith("align_")]
    for caller in manager.get_hookcallers(plugin) or ():
        if caller.spec is None:
            raise PluginError(f"no hook named '{caller.name}'; {did_you_mean(caller.name, known)}")
    marked = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    for name in known:
        if callable(getattr(plugin, name, None)) and name not in marked:
            raise PluginError(f"'{name}' is not marked as a hook; write @hookimpl above it")


def _admitted(contract: str, cls: Any) -> type[Any]:
    """`cls`, if it keeps the outer form of its contract."""
    abc, hook = CONTRACTS[contract], hook_of(contract)
    if not isinstance(cls, type):
        raise PluginError(f"{hook}: expected classes, got {cls!r}")
    if not issubclass(cls, abc):
        raise PluginError(f"{hook}: {cls.__name__} is not a {abc.__name__}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise PluginError(f"{hook}: {cls.__name__} does not define {missing}")
    if missing := ", ".join(n for n in inspect.get_annotations(abc) if not hasattr(cls, n)):
        raise PluginError(f"{hook}: {cls.__name__} does not say its {missing}")
    if not isinstance(kind := getattr(cls, "kind", None), str) or not kind:
        raise PluginError(f"{hook}: the kind of {cls.__name__} is {kind!r}, expected a name")
    if not attrs.has(cls) or "__attrs_attrs__" not in vars(cls):
        raise PluginError(f"{hook}: write @attrs.frozen(kw_only=True) above {cls.__name__}")
    try:
        attrs.resolve_types(cls)
    except NameError as error:
        raise PluginError(f"{hook}: a type in {cls.__name__} is unknown: {error}") from error
    if taken := RESERVED[contract] & {field.name for field in attrs.fields(cls)}:
        raise PluginError(f"{hook}: {cls.__name__} has an option '{min(taken)}'; rename it")
    return cls


def _refuse_collision(contract: str, entry: Entry, other: Entry | None) -> None:
    if other is not None:
        raise PluginError(
            f"two {plural(contract)} are named '{entry.kind}': one of {other.origin}, one of "
            f"{entry.origin}; uninstall one of the two"
        )
