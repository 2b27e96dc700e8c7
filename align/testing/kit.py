"""The conformance kit: one call makes the tests that every part of a contract must pass."""

from __future__ import annotations

import functools
import importlib
import inspect
import unittest
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from align.catalog.contracts import CONTRACT_CLASSES

Check: TypeAlias = Callable[[Any], None]


def checks_of(contract: str) -> Mapping[str, Check]:
    """The checks of parts of this contract, by name; their docstrings say what they measure."""
    if contract not in CONTRACT_CLASSES:
        raise ValueError(
            f"no contract named '{contract}'; {_suggestion(contract, CONTRACT_CLASSES)}"
        )
    module = importlib.import_module(f"align.testing.checks.{contract}")
    return MappingProxyType({check.__name__: check for check in module.CHECKS})


def conformance(
    contract: str,
    make: Any,
    *,
    on: Callable[[], Any] | None = None,
    expect_fail: Mapping[str, str] = MappingProxyType({}),
) -> Callable[..., None]:
    """A test function for pytest with one item for each check of the contract.

        test_brightness = conformance("reward", Brightness)

    The part is made when the first check runs, and once for all of them. A check that has nothing
    to measure in this part is skipped, and says why.

    Args:
        contract: its name, such as "reward"; `align.catalog.contracts` lists all.
        make: the part (a specification of a model or a reward), or what makes it when called.
        on: makes what the part is tried on, where the default does not suit it: a FlowModel for a
            sampler, a Problem for an estimator, dynamics or a mode, data for a reward, samples and
            references for a metric. Models are tried as they are.
        expect_fail: checks that the part is known to fail, each with the reason. One of them
            that passes is a failure.

    Raises:
        ValueError: a contract or a check is not known, or a reason is missing.
    """
    import pytest

    checks = checks_of(contract)
    _refuse_unknown(contract, checks, expect_fail)

    @functools.cache
    def part() -> Any:
        return _make_part(contract, make)

    @functools.cache
    def subject() -> Any:
        module = importlib.import_module(f"align.testing.checks.{contract}")
        return module.subject(part(), on)

    def marks(name: str) -> Any:
        reason = expect_fail.get(name)
        return pytest.mark.xfail(reason=reason, strict=True) if reason else ()

    @pytest.mark.conformance
    @pytest.mark.parametrize("check", [pytest.param(n, id=n, marks=marks(n)) for n in checks])
    def test(check: str) -> None:
        try:
            checks[check](subject())
        except unittest.SkipTest as nothing:
            if check in expect_fail:  # which then did not fail
                return
            pytest.skip(str(nothing))

    test.contract, test.part = contract, part  # type: ignore[attr-defined]
    return test


def _make_part(contract: str, make: Any) -> Any:
    """The part itself, of the class that its contract says."""
    from align.catalog.registry import CONTRACTS

    cls = CONTRACTS[contract]
    part = make if isinstance(make, cls) else make()
    if not isinstance(part, cls):
        got = part.__name__ if inspect.isclass(part) else f"a {type(part).__name__}"
        raise TypeError(f"expected a {cls.__name__} for contract '{contract}', got {got}")
    return part


def _refuse_unknown(
    contract: str, checks: Mapping[str, Check], expect_fail: Mapping[str, str]
) -> None:
    for name, reason in expect_fail.items():
        if name not in checks:
            raise ValueError(
                f"no check of a {contract} is named '{name}'; {_suggestion(name, checks)}"
            )
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"say why a {contract} is expected to fail '{name}'")


def _suggestion(name: str, known: Any) -> str:
    from align.catalog.names import did_you_mean

    return did_you_mean(name, known)
