"""Recipes as a JSON Schema, by which editors complete keys and underline what is wrong.

Draft 4, which editors of TOML read (taplo, and what is built on it). It knows sections, kinds,
options, types and choices; what depends on values, `align check` alone tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, get_args, get_origin

import attrs

from align.catalog.contracts import CONTRACT_CLASSES, DEFAULT_KINDS
from align.catalog.describe import contract_of, is_union, members, tag_of
from align.catalog.registry import Catalog
from align.core.option import Bounds
from align.core.term import TERM_OPTIONS, RewardTerm
from align.recipe.schema import Recipe, Run
from align.recipe.sweep import VARIED
from align.recipe.write import default_text

Schema = dict[str, Any]

_SIMPLE: Final[Mapping[Any, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
}
_ARM: Final = "what differs from the sections above"
_FILES: Final = "digests of what a resolved recipe reads; changed files are refused"
_SWEEP: Final = "keys of [model], [sampler], [estimator] and [mode], each with an array of values"


def json_schema(catalog: Catalog) -> Schema:
    """The schema of recipes that name the parts of a catalog."""
    parts = {
        f"{contract}/{kind}": _part(contract, kind, entry.cls)
        for contract in CONTRACT_CLASSES
        for kind, entry in sorted(catalog.parts[contract].items())
    }
    contracts = {contract: _contract(contract, catalog) for contract in CONTRACT_CLASSES}
    return {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "title": "A recipe of align",
        "type": "object",
        "properties": _sections(catalog),
        "required": ["mode"],
        "additionalProperties": False,
        "definitions": contracts | parts,
    }


def _sections(catalog: Catalog) -> Schema:
    """Schemas of the sections, by their names."""
    sections: Schema = {}
    for name, field in attrs.fields_dict(attrs.resolve_types(Recipe)).items():
        contract = contract_of(field.type) or next(
            filter(None, map(contract_of, members(field.type))), None
        )
        if contract:
            sections[name] = _ref(contract)
    terms = [_term(entry.cls, kind) for kind, entry in sorted(catalog.parts["reward"].items())]
    arm = {name: {"anyOf": [_ref(name), _partial(name, catalog)]} for name in VARIED}
    return {
        "run": _table(Run),
        **sections,
        "reward": {"type": "array", "items": {"anyOf": terms}},
        "metric": {"type": "array", "items": _ref("metric")},
        "compare": {
            "type": "array",
            "items": {
                "type": "object",
                "description": _ARM,
                "properties": {
                    "name": {"type": "string"},
                    **arm,
                    "weights": {"type": "object", "additionalProperties": {"type": "number"}},
                    "factors": {"type": "object"},
                },
                "required": ["name"],
                "additionalProperties": False,
            },
        },
        "files": {
            "type": "object",
            "description": _FILES,
            "additionalProperties": {"type": "string"},
        },
        "sweep": {
            "type": "object",
            "description": _SWEEP,
            "properties": {"how": {"enum": ["grid", "zip"]}},
            "additionalProperties": {"anyOf": [{"type": "array"}, {"type": "object"}]},
        },
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name.replace('/', '~1')}"}


def _contract(contract: str, catalog: Catalog) -> Schema:
    """A part of a contract: a kind, or a table that names one."""
    kinds = sorted(catalog.parts[contract])
    tables = [_ref(f"{contract}/{kind}") for kind in kinds]
    return {"anyOf": [{"type": "string", "enum": kinds}, *tables]}


def _part(contract: str, kind: str, cls: type[Any]) -> Schema:
    """The table of a kind."""
    table = _table(cls)
    table["properties"] = {"kind": {"enum": [kind]}, **table["properties"]}
    if DEFAULT_KINDS.get(contract) != kind:
        table["required"] = ["kind", *table.get("required", ())]
    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    return {"description": summary, **table}


def _term(cls: type[Any], kind: str) -> Schema:
    """A [[reward]] table: options of the term beside those of the part."""
    part, term = _part("reward", kind, cls), _table(RewardTerm, only=TERM_OPTIONS)
    return {**part, "properties": {**part["properties"], **term["properties"]}}


def _partial(contract: str, catalog: Catalog) -> Schema:
    """What an arm changes of a section: options of any of its kinds, merged into the section."""
    options: Schema = {}
    for entry in catalog.parts[contract].values():
        for name, schema in _table(entry.cls)["properties"].items():
            known = options.setdefault(name, [])
            known += [] if schema in known else [schema]
    properties = {name: {"anyOf": schemas} for name, schemas in options.items()}
    table: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return table


def _table(cls: type[Any], only: Iterable[str] | None = None) -> Schema:
    """The options of a class."""
    properties: Schema = {}
    required = []
    for field in attrs.fields(attrs.resolve_types(cls)):
        name = field.alias or field.name
        if not field.init or (only is not None and name not in only):
            continue
        told = {"description": field.metadata["help"]} if "help" in field.metadata else {}
        if field.default is attrs.NOTHING:
            required.append(name)
        else:
            told["description"] = f"{told.get('description', '')} (default: {default_text(field)})"
        told |= _bounds(field.metadata.get("check"))
        schema = _type(field.type)
        # Beside a reference, draft 4 reads nothing.
        properties[name] = {"allOf": [schema], **told} if "$ref" in schema else {**schema, **told}
    table: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return table | ({"required": required} if required else {})


def _bounds(check: Any) -> Schema:
    """Where a number of an option lies; of values that are no numbers it says nothing."""
    check = getattr(check, "validator", check)  # of one that may be left out
    if not isinstance(check, Bounds):
        return {}
    low = (
        {"minimum": check.low, "exclusiveMinimum": True}
        if check.is_open
        else {"minimum": check.low}
    )
    return low | ({"maximum": check.high} if check.high < math.inf else {})


def _type(tp: Any) -> Schema:
    """Values of a type."""
    if tp in _SIMPLE:
        return {"type": _SIMPLE[tp]}
    if get_origin(tp) is Literal:
        return {"enum": list(get_args(tp))}
    if is_union(tp):
        options = [_type(member) for member in members(tp)]
        return options[0] if len(options) == 1 else {"anyOf": options}
    if contract := contract_of(tp):
        return _ref(contract)  # where an option takes a narrower class, `align check` tells
    if get_origin(tp) is tuple:
        items = get_args(tp)
        if len(items) == 2 and items[1] is Ellipsis:
            return {"type": "array", "items": _type(items[0])}
        size = len(items)
        return {
            "type": "array",
            "items": list(map(_type, items)),
            "minItems": size,
            "maxItems": size,
        }
    if get_origin(tp) in (dict, Mapping):
        return {"type": "object", "additionalProperties": _type(get_args(tp)[1])}
    if isinstance(tp, type) and attrs.has(tp):
        table = _table(tp)
        tag = tag_of(tp)
        kind = {"kind": {"enum": [tag]}} if tag else {}
        return {**table, "properties": {**kind, **table["properties"]}}
    return {}
