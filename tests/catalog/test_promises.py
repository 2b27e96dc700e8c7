"""What parts say of themselves is of the promised type."""

from collections.abc import Mapping
from typing import Any, Literal

import pytest

from align.catalog.promises import _is, wrong_promises
from align.catalog.registry import CONTRACTS, load_catalog


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (Any, [None, 3], []),
        (None, [None], [0]),
        (bool, [True], [1, "yes", None]),
        (int, [3], [3.0, True]),
        (float, [3, 0.5], [True, "3"]),
        (str, ["a"], [b"a"]),
        (type, [int], [3]),
        (Literal["a", 1], ["a", 1], ["b", True]),
        (Literal["a"] | None, ["a", None], ["b"]),
        (tuple[float, float], [(0, 1.0), [0, 1]], ["all", (0,), (0, "1")]),
        (tuple[int, ...], [(), (3,), (3, 4)], ["34", (3, "4")]),
        (tuple[int, ...] | None, [(3,), None], [3]),
        (frozenset[type], [frozenset({int}), ()], ["int", {3}]),
        (Mapping[str, int], [{"a": 1}], [()]),
    ],
)
def test_value_is_of_a_type_or_not(hint, right, wrong):
    assert all(_is(value, hint) for value in right)
    assert not any(_is(value, hint) for value in wrong)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_built_in_classes_keep_their_promises(contract):
    for entry in load_catalog([]).parts[contract].values():
        assert list(wrong_promises(CONTRACTS[contract], entry.cls)) == []
