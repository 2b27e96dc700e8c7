"""From entry points to a catalog of parts, in which every part knows where it comes from.

Each entry point of the group `align` is loaded on its own. One that fails is set aside with its
exception; it takes its own names away and nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import re
import reprlib
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any, Final, final

import attrs
import pluggy

from align.catalog import hookspecs
from align.catalog.contracts import CONTRACT_CLASSES, WINGS_WITH_PARTS, hook_of, plural
from align.catalog.names import did_you_mean
from align.catalog.promises import wrong_promises
from align.catalog.time_limit import TimeLimitError, time_limit
from align.core.attribution import attributed, error_text, settings_kept
from align.core.errors import AlignError, PluginError
from align.core.interrupt import is_interrupt
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
        "model": ("plugin",),
        "network": ("role", "plugin"),
        "autoencoder": ("plugin",),
    }
)
RESERVED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {name: frozenset({"kind", *_BESIDE.get(name, ())}) for name in CONTRACTS}
)
"""Keys of a part's table that are not the part's own."""
_DISTRIBUTION: Final = "align-core"
LONGEST_IMPORT: Final = 15.0
"""Seconds that a plugin may take to be imported and to name its parts."""
# Named, not imported: what align ships takes the same road as what others ship.
_BUILT_IN: Final = tuple(
    EntryPoint(name=wing, value=f"align.{wing}", group="align") for wing in WINGS_WITH_PARTS
)


_KIND: Final = re.compile(r"\w[\w-]*", re.ASCII)


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
        text = error_text(self.error)
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
        plugins: has those that are told about runs.
    """

    parts: Mapping[str, Mapping[str, Entry]]
    broken: tuple[BrokenPlugin, ...]
    plugins: pluggy.PluginManager = attrs.field(repr=False)

    def find(self, contract: str, kind: str) -> Entry | None:
        """The part of this kind, or None."""
        return self.parts[contract].get(kind)

    def entry_of(self, part: object) -> Entry | None:
        """The entry of a part, or of its class; None for a class that no plugin brought."""
        cls = part if isinstance(part, type) else type(part)
        entries = (entry for named in self.parts.values() for entry in named.values())
        return next((entry for entry in entries if entry.cls is cls), None)

    def notify(self, hook: str, **facts: Any) -> list[PluginError]:
        """Call a hook of every plugin, each on its own.

        A plugin that fails is named in the result, and is not called again. A message to the user,
        any `AlignError`, is raised instead: so a plugin can end a run.
        """
        failed = []
        for implementation in getattr(self.plugins.hook, hook).get_hookimpls():
            wanted = {name: facts[name] for name in implementation.argnames}
            try:
                with attributed(f"plugin {implementation.plugin_name}: {hook}", _HookFailed):
                    implementation.function(**wanted)
            except _HookFailed as error:
                self.plugins.unregister(implementation.plugin)
                failed.append(PluginError(str(error)))
        return failed


class _HookFailed(AlignError):
    """A plugin failed when it was told about a run."""


def load_catalog(
    entry_points: Iterable[EntryPoint] | None = None, *, builtins: bool = True
) -> Catalog:
    """Load every plugin, each on its own.

    Args:
        entry_points: instead of those of the installed distributions.
        builtins: whether the parts of align itself are in it.
    """
    points, broken = (entry_points, []) if entry_points is not None else _installed()
    ordered = sorted(points, key=lambda point: (_origin(point).distribution, point.name))
    manager = _manager()
    parts: dict[str, dict[str, Entry]] = {name: {} for name in CONTRACTS}
    for point in (*_BUILT_IN, *ordered) if builtins else ordered:
        origin, brought = _origin(point), list[tuple[str, Entry]]()
        try:
            plugin = _loaded(point, origin, brought)
            for contract, entry in brought:
                _refuse_collision(contract, entry, parts[contract].get(entry.kind))
            manager.register(plugin, name=f"{origin.plugin} ({origin})")
        # A plugin may raise anything, and one that calls sys.exit is as broken as the rest.
        except BaseException as error:
            if is_interrupt(error):
                raise
            kinds = frozenset(entry.kind for _, entry in brought)
            broken.append(BrokenPlugin(origin, error, kinds))
        else:
            for contract, entry in brought:
                parts[contract][entry.kind] = entry
    frozen = {name: MappingProxyType(named) for name, named in parts.items()}
    return Catalog(MappingProxyType(frozen), tuple(broken), manager)


def _installed() -> tuple[list[EntryPoint], list[BrokenPlugin]]:
    """Entry points of the installed distributions, and those whose metadata cannot be read."""
    try:
        return list(metadata.entry_points(group="align")), []
    except Exception:  # one distribution must not hide the others
        points, broken = list[EntryPoint](), list[BrokenPlugin]()
    for distribution in metadata.distributions():
        try:
            points += distribution.entry_points.select(group="align")
        except Exception as error:
            name = str(getattr(distribution, "_path", distribution))
            broken.append(BrokenPlugin(Origin("?", name, "of unknown version"), error))
    return points, broken


def _loaded(point: EntryPoint, origin: Origin, brought: list[tuple[str, Entry]]) -> object:
    """The plugin, imported; the parts that it offers are added to `brought`.

    Raises:
        PluginError: it took too long, or offers something else than parts.
        BaseException: whatever it raises itself.
    """
    try:
        with time_limit(LONGEST_IMPORT), settings_kept():
            plugin: object = point.load()
            for contract, cls in _offered(plugin):
                brought.append((contract, Entry(cls, origin)))
    except TimeLimitError as error:
        text = f"it was stopped after {LONGEST_IMPORT:g} s in {error}"
        raise PluginError(f"{text}; import heavy packages in `build`, not in the module") from error
    return plugin


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("align")
    manager.add_hookspecs(hookspecs)
    return manager


def _origin(point: EntryPoint) -> Origin:
    if any(point is own for own in _BUILT_IN):
        return Origin(point.name, _DISTRIBUTION, metadata.version(_DISTRIBUTION))
    if point.dist is None:
        return Origin(point.name, point.value.partition(".")[0], "of unknown version")
    try:
        return Origin(point.name, str(point.dist.name), str(point.dist.version))
    except Exception:  # of a damaged METADATA
        return Origin(point.name, "a damaged distribution", "of unknown version")


def _offered(plugin: object) -> list[tuple[str, type[Any]]]:
    """What a plugin's hooks return, checked; the plugin is alone with its own manager."""
    manager = _manager()
    manager.register(plugin)
    _refuse_misspelt(plugin, manager)
    offered: list[tuple[str, type[Any]]] = []
    for contract in CONTRACTS:
        # Asked one by one: pluggy leaves out a hook that returns None.
        for implementation in getattr(manager.hook, hook_of(contract)).get_hookimpls():
            classes = implementation.function()
            if isinstance(classes, type | str) or not isinstance(classes, Iterable):
                got = f"the class {classes.__name__}" if isinstance(classes, type) else classes
                got = got if isinstance(classes, type) else reprlib.repr(got)
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
        for implementation in caller.get_hookimpls():
            if implementation.hookwrapper or implementation.wrapper:
                text = "wraps the hooks of others; write plain @hookimpl above it"
                raise PluginError(f"'{caller.name}' {text}")
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
        raise PluginError(f"{hook}: expected classes, got {reprlib.repr(cls)}")
    if not issubclass(cls, abc):
        raise PluginError(f"{hook}: {cls.__name__} is not a {abc.__name__}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise PluginError(f"{hook}: {cls.__name__} does not define {missing}")
    if missing := ", ".join(n for n in inspect.get_annotations(abc) if not hasattr(cls, n)):
        raise PluginError(f"{hook}: {cls.__name__} does not say its {missing}")
    _refuse_wrong_words(hook, abc, cls)
    if not attrs.has(cls) or "__attrs_attrs__" not in vars(cls):
        raise PluginError(f"{hook}: write @attrs.frozen(kw_only=True) above {cls.__name__}")
    try:
        attrs.resolve_types(cls)
    except NameError as error:
        raise PluginError(f"{hook}: a type in {cls.__name__} is unknown: {error}") from error
    if taken := RESERVED[contract] & {field.name for field in attrs.fields(cls)}:
        raise PluginError(f"{hook}: {cls.__name__} has an option '{min(taken)}'; rename it")
    return cls


def _refuse_wrong_words(hook: str, abc: type, cls: type[Any]) -> None:
    """Refuse a class that says something of itself which cannot be."""
    kind = getattr(cls, "kind", None)
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        text = f"{hook}: the kind of {cls.__name__} is {reprlib.repr(kind)}, expected a name"
        raise PluginError(f"{text} of letters, digits, '_' and '-'")
    if not isinstance(cls.__doc__, str | None):
        raise PluginError(f"{hook}: the docstring of {cls.__name__} is no text")
    for text in wrong_promises(abc, cls):
        raise PluginError(f"{hook}: {text}")


def _refuse_collision(contract: str, entry: Entry, other: Entry | None) -> None:
    if other is not None:
        raise PluginError(
            f"two {plural(contract)} are named '{entry.kind}': one of {other.origin}, one of "
            f"{entry.origin}; uninstall one of the two"
        )
