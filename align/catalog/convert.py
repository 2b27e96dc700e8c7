"""From TOML values to parts: strict, and with every problem found in one pass.

cattrs dispatches on the type, and every hook is one of those below. Its own hooks turn "no" into
true, 7.9 into 7 and "abc" into a tuple of letters; they stop at the first wrong option of a table
before its checks have seen the others; and what they raise does not say what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin

import attrs
from cattrs import Converter

from align.catalog.contracts import DEFAULT_KINDS
from align.catalog.describe import contract_of, describe_value, expected, is_union, members, tag_of
from align.catalog.names import did_you_mean
from align.catalog.promises import wrong_promises
from align.catalog.registry import CONTRACTS, Catalog
from align.core.attribution import described, settings_kept
from align.core.convention import ALSO_CALLED
from align.core.errors import AlignError
from align.core.interrupt import is_interrupt
from align.core.option import MOST_ERRORS, ConfigError, ConfigErrors, PathUse, finite
from align.core.term import TERM_OPTIONS, RewardTerm
from align.io import paths
from align.io.files import exists_as_file, exists_as_folder

_NO_PLAIN_DEFAULT: Final[tuple[type, ...]] = (type(attrs.NOTHING), type(attrs.Factory(list)))

Hook: TypeAlias = Callable[[Any, Any], Any]
Table: TypeAlias = Mapping[str, Any]


def strict_converter(catalog: Catalog) -> Converter:
    """A converter that raises ConfigErrors, with keys relative to the value."""
    converter = Converter(detailed_validation=False)
    dispatch: Sequence[tuple[Callable[[Any], bool], Hook]] = (
        # cattrs asks the hook that was registered last first.
        (lambda tp: True, _unsupported),
        (lambda tp: tp is Any, lambda value, _: _untyped(value)),
        (lambda tp: isinstance(tp, type) and attrs.has(tp), partial(_plain_table, converter)),
        (lambda tp: get_origin(tp) in (dict, Mapping), partial(_dictionary, converter)),
        (lambda tp: get_origin(tp) is tuple, partial(_array, converter)),
        (lambda tp: get_origin(tp) is Literal, _choice),
        (is_union, partial(_union, converter)),
        (lambda tp: contract_of(tp) is not None, partial(_part, catalog, converter)),
        (lambda tp: tp is RewardTerm, partial(_term, catalog, converter)),
    )
    for applies, hook in dispatch:
        converter.register_structure_hook_func(applies, hook)
    for simple in (bool, int, float, str):
        converter.register_structure_hook(simple, _simple)
    return converter


def _wrong(value: Any, tp: Any, hint: str = "") -> ConfigErrors:
    return ConfigErrors(
        [ConfigError((), f"expected {expected(tp)}, got {describe_value(value)}{hint}")]
    )


def _unsupported(_: Any, tp: Any) -> Any:
    text = f"an option of type {tp} cannot be read from a recipe; tell the authors of the part"
    raise ConfigErrors([ConfigError((), text)])


def _untyped(value: Any) -> Any:
    """A text as a plain one, wherever it was typed."""
    return str(value) if isinstance(value, str) else value


def _simple(value: Any, tp: Any) -> Any:
    value = _untyped(value)
    if type(value) is int and abs(value) >= 2**63:
        raise _wrong(value, tp, ", which 64 bits do not hold; the largest is 2^63 - 1")
    if type(value) is tp:
        return value
    if tp is float and type(value) is int:
        return float(value)
    raise _wrong(value, tp)


def _choice(value: Any, tp: Any) -> Any:
    value = _untyped(value)
    if any(type(value) is type(option) and value == option for option in get_args(tp)):
        return value
    meant = ALSO_CALLED.get(value.lower()) if isinstance(value, str) else None
    raise _wrong(value, tp, f"; did you mean '{meant}'?" if meant in get_args(tp) else "")


def _union(converter: Converter, value: Any, tp: Any) -> Any:
    options = members(tp)
    tagged = {tag: option for option in options if (tag := tag_of(option))}
    if isinstance(value, dict) and len(tagged) > 1:
        return converter.structure(value, tagged[_kind_in(value, tagged)])
    if isinstance(value, dict):
        # One member that takes tables has more to say than the union as a whole.
        options = [option for option in options if expected(option).endswith("a table")] or options
    if len(options) == 1:
        return converter.structure(value, options[0])
    for option in options:
        try:
            return converter.structure(value, option)
        except ConfigErrors:
            continue
    raise _wrong(value, tp)


def _array(converter: Converter, value: Any, tp: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        tables = isinstance(value, dict) and expected(tp) == "an array of tables"
        raise _wrong(value, tp, "; write its header in [[ ]]" if tables else "")
    types: Sequence[Any] = get_args(tp)
    if len(types) == 2 and types[1] is Ellipsis:
        types = [types[0]] * len(value)
    if len(types) != len(value):
        raise ConfigErrors([ConfigError((), f"expected {expected(tp)}, got {len(value)}")])
    if set(types) == {float} and set(map(type, value)) <= {float}:
        return tuple(value)  # long matrices take most of the time otherwise
    read = _each(converter, zip(range(len(value)), value, types, strict=True))
    return tuple(read.values())


def _dictionary(converter: Converter, value: Any, tp: Any) -> dict[str, Any]:
    table = _as_table(value)
    return _each(converter, ((key, item, get_args(tp)[1]) for key, item in table.items()))


def _each(converter: Converter, items: Iterable[tuple[Any, Any, Any]]) -> dict[Any, Any]:
    """Convert (key, value, type) items; all their errors are raised together."""
    read, errors = {}, list[ConfigError]()
    for key, value, tp in items:
        try:
            read[key] = converter.structure(value, tp)
        except ConfigErrors as error:
            errors += [error.under(key) for error in error.errors]
            if len(errors) > MOST_ERRORS:
                break
    if errors:
        raise ConfigErrors(errors)
    return read


def _as_table(value: Any) -> Table:
    if not isinstance(value, dict):
        raise ConfigErrors([ConfigError((), f"expected a table, got {describe_value(value)}")])
    return value


def _plain_table(converter: Converter, value: Any, tp: Any) -> Any:
    table = _as_table(value)
    if (tag := tag_of(tp)) and "kind" in table:
        _kind_in(table, [tag])
        table = {key: item for key, item in table.items() if key != "kind"}
    return read_table(converter, table, tp)


def _kind_in(table: Table, known: Iterable[str]) -> str:
    """The `kind` that a table names, if it is one of those known."""
    kind = _named_kind(table, known)
    if kind not in known:
        raise ConfigErrors(
            [ConfigError(("kind",), f"no kind named '{kind}'; {did_you_mean(kind, known)}")]
        )
    return kind


def _named_kind(table: Table, known: Iterable[str]) -> str:
    """The `kind` that a table names, known or not."""
    if "kind" not in table:
        raise ConfigErrors(
            [ConfigError(("kind",), f"required key is missing; {did_you_mean('', known)}")]
        )
    if not isinstance(kind := table["kind"], str):
        raise ConfigErrors(
            [ConfigError(("kind",), f"expected a string, got {describe_value(kind)}")]
        )
    return kind


def _part(catalog: Catalog, converter: Converter, value: Any, tp: Any) -> Any:
    """The part that a table names, or a string that stands for the table with that kind."""
    if isinstance(value, str):
        try:
            return _read_part(catalog, converter, {"kind": value}, tp, ())
        except ConfigErrors as error:
            raise ConfigErrors(map(_without_kind, error.errors)) from error
    if not isinstance(value, dict):
        raise _wrong(value, tp)
    return _read_part(catalog, converter, value, tp, ())


def _without_kind(error: ConfigError) -> ConfigError:
    """The error at the string itself, where it is about the kind that the string names."""
    return ConfigError((), error.text) if error.key == ("kind",) else error


def _read_part(
    catalog: Catalog, converter: Converter, table: Table, tp: Any, also: Sequence[str]
) -> Any:
    """The part that a table with a `kind` names; `also` are keys that are read elsewhere."""
    contract, wanted = contract_of(tp), get_origin(tp) or tp
    assert contract is not None
    # An option may take the parts of a narrower class alone.
    known = [k for k, entry in catalog.parts[contract].items() if issubclass(entry.cls, wanted)]
    default = DEFAULT_KINDS.get(contract)
    kind = default if default and "kind" not in table else _named_kind(table, known)
    entry = catalog.find(contract, kind)
    if entry is None:
        raise ConfigErrors([ConfigError(("kind",), _unknown_kind(catalog, contract, kind, known))])
    if not issubclass(entry.cls, wanted):
        text = f"expected a {wanted.__name__}, but {contract} '{kind}' is a {entry.cls.__name__}"
        raise ConfigErrors([ConfigError(("kind",), f"{text}; {did_you_mean(kind, known)}")])
    rest = {key: item for key, item in table.items() if key != "kind"}
    part = read_table(converter, rest, entry.cls, also)
    if wrong := [*wrong_promises(CONTRACTS[contract], part)]:
        advice = f"tell the authors of {entry.origin}"
        raise ConfigErrors(ConfigError((), f"{text}; {advice}") for text in wrong)
    return part


def _unknown_kind(catalog: Catalog, contract: str, kind: str, known: Iterable[str]) -> str:
    text = f"no {contract} named '{kind}'"
    for broken in catalog.broken:
        if broken.may_bring(kind):
            return f"{text}; {broken}"
    for home in CONTRACTS:
        if catalog.find(home, kind):
            article = "an" if home[0] in "aeiou" else "a"
            return f"{text}; '{kind}' is {article} {home}"
    text += f"; {did_you_mean(kind, known)}"
    if catalog.broken and not text.endswith("?"):
        text += "; `align list` shows plugins that did not load"
    return text


def _term(catalog: Catalog, converter: Converter, value: Any, _: Any) -> RewardTerm:
    """A [[reward]] table: the options of the term and of its part, side by side."""
    table = _as_table(value)
    errors, read = list[ConfigError](), dict[str, Any]()
    rest = {key: item for key, item in table.items() if key not in TERM_OPTIONS}
    fields = attrs.fields_dict(attrs.resolve_types(RewardTerm))
    for name in TERM_OPTIONS:
        if name in table:
            try:
                read |= _each(converter, [(name, table[name], fields[name].type)])
            except ConfigErrors as error:
                errors += error.errors
    errors += _refused(RewardTerm, fields, table, read)
    try:
        read["part"] = _read_part(catalog, converter, rest, fields["part"].type, TERM_OPTIONS)
    except ConfigErrors as error:
        errors += error.errors
    if errors:
        raise ConfigErrors(errors)
    return RewardTerm(**read)


def read_part(contract: str, table: Table, catalog: Catalog) -> Any:
    """The part that a table describes, with a `kind` and that kind's own options.

    Args:
        contract: its name, such as "reward".
        table: values as tomllib reads them.
        catalog: the parts that the table may name.

    Raises:
        ConfigErrors: the table has mistakes.
    """
    return _read_part(catalog, strict_converter(catalog), table, CONTRACTS[contract], ())


def read_term(table: Table, catalog: Catalog) -> RewardTerm:
    """The reward that a [[reward]] table describes, with its weight; errors as in `read_part`."""
    return _term(catalog, strict_converter(catalog), table, RewardTerm)


def read_table(converter: Converter, table: Table, cls: Any, also: Iterable[str] = ()) -> Any:
    """An object of an attrs class; `also` are keys that belong to the table but not to it."""
    fields = [field for field in attrs.fields(attrs.resolve_types(cls)) if field.init]
    names = {field.alias or field.name: field for field in fields}
    known = {*names, *also}
    unknown = [
        ConfigError((key,), f"no option named '{key}'; {did_you_mean(key, known)}")
        for key in islice((key for key in table if key not in known), MOST_ERRORS)
    ]
    errors, read = list[ConfigError](), dict[str, Any]()
    for name, field in names.items():
        if name in table:
            try:
                one = _each(converter, [(name, table[name], field.type)])
                if use := field.metadata.get("path"):
                    one[name] = _path(name, table[name], use)
                read |= one
            except ConfigErrors as error:
                errors += error.errors
        elif field.default is attrs.NOTHING:
            text = f"required key is missing; expected {expected(field.type)}"
            errors.append(ConfigError((name,), text))
    errors += _refused(cls, names, table, read)
    # Keys that are not known hide nothing that the object itself may refuse.
    part = None
    if not errors:
        try:
            with settings_kept():
                part = cls(**read)
        except ConfigErrors as error:
            errors += error.errors
        except BaseException as error:
            errors.append(ConfigError((), _told(error, cls)))
    if unknown or errors:
        raise ConfigErrors([*unknown, *errors])
    return part


def _path(name: str, text: Any, use: bool | PathUse) -> Any:
    """The path that an option names, as its part is given it; raises ConfigErrors."""
    if not isinstance(text, str) or not paths.starts_beside(text, use):
        return _untyped(text)
    try:
        path = paths.located(text)
        if (
            use in ("required", "code")
            and text
            and not (exists_as_file(path) or exists_as_folder(path))
        ):
            raise ValueError(f"no file '{text}'{paths.seen_from(text)}; give its path")
    except ValueError as error:
        raise ConfigErrors([ConfigError((name,), str(error))]) from error
    return paths.absolute(text) if use == "kept" and path == text else path


def _refused(
    cls: Any, names: Mapping[str, Any], table: Table, read: Mapping[str, Any]
) -> list[ConfigError]:
    """What the validators say, each on its own, though other options may be wrong.

    They see an object that has the options read so far, and the plain defaults of those that the
    table leaves out; one that asks for more has its say when the object is made.
    """
    draft, errors = cls.__new__(cls), []
    for name, field in names.items():
        if name not in table and not isinstance(field.default, _NO_PLAIN_DEFAULT):
            object.__setattr__(draft, field.name, field.default)
    for name, value in read.items():
        object.__setattr__(draft, names[name].name, value)
    for name, value in read.items():
        try:
            with settings_kept():
                (names[name].validator or finite)(draft, names[name], value)
        except (AttributeError, LookupError, ArithmeticError):
            continue  # for want of another option; the object itself asks again
        except ConfigErrors as error:
            errors += [inner.under(name) for inner in error.errors]
        except BaseException as error:
            errors.append(ConfigError((name,), _told(error, cls)))
    return errors


def _told(error: BaseException, cls: type) -> str:
    """What a part says against its options; anything else that it raises is its own fault."""
    if is_interrupt(error):
        raise error
    if isinstance(error, ValueError | TypeError | AlignError):
        return _message(error)
    return f"{cls.__name__} raised {described(error)}"


def _message(error: Exception) -> str:
    """The words of an error alone: attrs' own validators add objects to them."""
    return str(error.args[0]) if error.args else type(error).__name__
