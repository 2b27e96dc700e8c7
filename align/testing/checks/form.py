"""What every part must be, whatever its contract."""

from __future__ import annotations

import re
from typing import Any, Protocol

import attrs


class Subject(Protocol):
    """What a check is given."""

    @property
    def part(self) -> Any:
        """The part, or the specification of one."""


def form(subject: Subject) -> None:
    """One attrs class with keyword-only options, each with its help, and a plain `kind`."""
    part, cls = subject.part, type(subject.part)
    is_attrs = "__attrs_attrs__" in vars(cls)
    assert is_attrs, f"write @attrs.frozen(kw_only=True) above {cls.__name__}"
    assert re.fullmatch(r"[a-z][a-z0-9_]*", part.kind), f"'{part.kind}' is not lower_snake_case"
    for field in attrs.fields(cls):
        if not field.init:
            continue
        assert field.kw_only, f"option '{field.name}' is not keyword-only"
        assert field.metadata.get("help"), f"option '{field.name}' has no help; use option()"
