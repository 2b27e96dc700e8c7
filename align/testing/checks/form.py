"""What every part must be, whatever its contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol
from unittest import SkipTest

import attrs

from align.core.reward import Repeatable


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


def files_read(subject: Subject) -> None:
    """A part whose results are kept names files that are there once it is built, or none."""
    if not isinstance(subject.part, Repeatable):
        raise SkipTest("it is not Repeatable, so that nothing it computes is kept")
    for path in subject.part.files_read() or ():
        assert isinstance(path, Path), f"{path!r} is no pathlib.Path"
        assert path.exists(), f"there is no '{path}'"
