"""`from align import ...`: the names that type checkers see are those that Python finds."""

import ast
from pathlib import Path

import align


def test_names_for_type_checkers_are_those_that_are_imported_lazily():
    tree = ast.parse(Path(align.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {name: module for module, names in align._NAMES.items() for name in names}
    assert typed == lazy
    assert sorted([*lazy, "__version__"]) == sorted(align.__all__)


def test_every_name_is_there_and_starred_import_brings_all():
    names = {}
    exec("from align import *", names)
    assert set(align.__all__) <= set(names)


def test_every_contract_can_be_imported_from_align():
    from align.catalog.registry import CONTRACTS

    assert {cls.__name__ for cls in CONTRACTS.values()} <= set(align.__all__)
