"""What a user's own code depends on, told by its text alone."""

import sys

import pytest

from align.io.python_code import files_of
from align.io.python_modules import own_files

CODE = {
    "main.py": """
import math, torch, align.core
import plain
import package.inner
from package import name_of_a_module
from other import value
from missing import nothing

def score(data, prompts):
    from lazily import imported
    try:
        import conditional
    except ImportError:
        pass
    importlib.import_module("by_name")
    torch.load("weights.pt")
    open(HERE / "data/table.json")
""",
    "plain.py": "import beneath",
    "beneath.py": "",
    "package/__init__.py": "from . import beside\nfrom .sub import deep",
    "package/inner.py": "from .. import nothing\nfrom ..main import nothing",
    "package/name_of_a_module.py": "",
    "package/beside.py": "",
    "package/sub/__init__.py": "",
    "package/sub/deep.py": "from ..far import x",
    "package/far.py": "",
    "other.py": "value = 1\nimport main",
    "lazily/imported.py": "",
    "conditional.py": "this is no Python",
    "by_name.py": "",
    "weights.pt": "",
    "data/table.json": "",
    "unrelated.py": "",
    "unrelated.pt": "",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in CODE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(files, folder):
    return {str(path.relative_to(folder)) for path in files}


def test_own_files_are_all_that_code_imports_and_names_wherever_it_does(folder):
    found = own_files(folder / "main.py", folder)
    assert names(found, folder) == set(CODE) - {"unrelated.py", "unrelated.pt"}
    assert "by_name" not in sys.modules


def test_own_files_of_a_module_are_searched_from_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = names(files_of("package.sub.deep"), folder)
    assert found == {"package/sub/deep.py", "package/far.py"}
    assert names(files_of("plain.py"), folder) == {"plain.py", "beneath.py"}


def test_code_elsewhere_is_followed_unless_it_is_installed(tmp_path, monkeypatch):
    places = [tmp_path / "project", tmp_path / "env" / "site-packages"]
    for place, name in zip(places, ("editable", "installed"), strict=True):
        place.mkdir(parents=True)
        (place / f"{name}.py").write_text("")
        monkeypatch.syspath_prepend(place)
    code = tmp_path / "main.py"
    code.write_text("import editable, installed, numpy, json")
    assert names(own_files(code, tmp_path), tmp_path) == {"main.py", "project/editable.py"}


def test_code_that_is_not_there_or_has_no_source_is_not_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files_of("missing.py") is None
    assert files_of("missing_module") is None
    assert files_of("math") is None


def test_code_that_leads_to_very_many_files_is_not_known(tmp_path):
    code = tmp_path / "main.py"
    code.write_text("\n".join(f"import m{number}" for number in range(400)))
    for number in range(400):
        (tmp_path / f"m{number}.py").write_text("")
    assert own_files(code, tmp_path) is None
