"""`align new KIND NAME`: a complete distribution with one part in it, made from template files.

`templates/KIND` holds what differs from kind to kind, `templates/common` the rest. Placeholders are
those of `string.Template`: the part's `kind`, the `cls` that defines it, the `package` and the
`distribution` around it, and the `contract` that it keeps.
"""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Final

from align.catalog.registry import Catalog
from align.core.errors import PluginError
from align.io.files import exists_as_folder, write, writing

TEMPLATES: Final = Path(__file__).with_name("templates")
FILES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pyproject.toml": "common/pyproject.toml.tmpl",
        "README.md": "$contract/README.md.tmpl",
        "$package/__init__.py": "$contract/module.py.tmpl",
        "$package/py.typed": "common/py.typed.tmpl",
        "tests/test_${kind}_conformance.py": "$contract/test.py.tmpl",
        ".github/workflows/test.yml": "common/workflow.yml.tmpl",
    }
)
"""Template of each file of a distribution, both with placeholders."""


def scaffold_files(contract: str, name: str) -> dict[str, str]:
    """Path and text of every file of a distribution with a part of this name."""
    names = _names(contract, name)

    def filled(text: str) -> str:
        return Template(text).substitute(names)

    return {
        filled(path): filled((TEMPLATES / filled(template)).read_text(encoding="utf-8"))
        for path, template in FILES.items()
    }


def write_scaffold(contract: str, name: str, into: Path, catalog: Catalog) -> Path:
    """Write a distribution with a part of this name into a new folder; returns the folder.

    Raises:
        PluginError: the name cannot be used, or the folder is there already.
        PartError: it cannot be written, and nothing is left of it.
    """
    _refuse(contract, name, catalog)
    folder = into / _names(contract, name)["distribution"]
    if not exists_as_folder(into):
        raise PluginError(f"no folder '{into}'; make it first")
    if os.path.lexists(folder):
        raise PluginError(f"'{folder}' is there already; choose another name, or move it away")
    with writing(folder):
        folder.mkdir()
    try:
        for path, text in scaffold_files(contract, name).items():
            write(folder / path, text)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _names(contract: str, name: str) -> Mapping[str, str]:
    return {
        "contract": contract,
        "kind": name,
        "package": f"align_{name}",
        "distribution": f"align-{name.replace('_', '-')}",
        "cls": "".join(word.capitalize() for word in name.split("_")),
    }


def _refuse(contract: str, name: str, catalog: Catalog) -> None:
    """Raise PluginError for a name that no such part, or no class, can have."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        text = f"'{name}' cannot name a {contract}: use lower-case letters, digits and _, such as"
        raise PluginError(f"{text} 'red_things'")
    if entry := catalog.find(contract, name):
        text = f"there is a {contract} '{name}' already, of {entry.origin}; choose another"
        raise PluginError(text)
    names = _names(contract, name)
    module = (TEMPLATES / contract / "module.py.tmpl").read_text(encoding="utf-8")
    if keyword.iskeyword(names["cls"]) or re.search(rf"\b{names['cls']}\b", module):
        raise PluginError(f"the name '{name}' is taken in Python or in align; choose another")
    # Ours is called align-core, and its package is not.
    if name == "core" or importlib.util.find_spec(names["package"]):
        taken = names["distribution"]
        raise PluginError(f"there is a distribution '{taken}' already; choose another name")
