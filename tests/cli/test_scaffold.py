"""`align new`: what it writes is whole, and plugins/align-toy is what it writes."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner

from align.catalog.registry import load_catalog
from align.cli.main import main
from align.cli.scaffold import reward_files
from align.testing.kit import checks_of

ROOT = Path(__file__).parents[2]


def invoke(*arguments):
    return CliRunner().invoke(main, ["new", "reward", *arguments])


def test_align_toy_is_what_is_written():
    toy = ROOT / "plugins" / "align-toy"
    for path, text in reward_files("toy").items():
        assert (toy / path).read_text(encoding="utf-8") == text, path
    written = {Path(path).parts[0] for path in reward_files("toy")}
    passing = {"LICENSE", "__pycache__", ".pytest_cache", "align_toy.egg-info", "build"}
    assert {path.name for path in toy.iterdir()} - passing == written


def test_what_is_written_passes_its_own_tests(tmp_path, monkeypatch):
    result = invoke("red_things", "--into", str(tmp_path))
    assert (result.exit_code, result.stderr) == (0, "")
    folder = tmp_path / "align-red-things"
    assert f"pip install -e '{folder}[test]' && pytest {folder}" in result.stdout
    code = "import sys, pytest; sys.path.insert(0, '.'); sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout
    assert f"{2 * len(checks_of('reward')) + 1} passed" in done.stdout

    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "align-red-things"
    ((name, value),) = project["entry-points"]["align"].items()
    monkeypatch.syspath_prepend(str(folder))
    catalog = load_catalog([EntryPoint(name, value, "align")], builtins=False)
    assert not catalog.broken and list(catalog.parts["reward"]) == ["red_things"]
    assert catalog.parts["reward"]["red_things"].cls.__name__ == "RedThings"


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "align-mine").mkdir()
    result = invoke("mine", "--into", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"'{tmp_path / 'align-mine'}' is there already; choose another")
    assert not list((tmp_path / "align-mine").iterdir())
    (tmp_path / "align-file").write_text("mine")
    assert invoke("file", "--into", str(tmp_path)).exit_code == 1
    assert (tmp_path / "align-file").read_text() == "mine"
    result = invoke("mine", "--into", str(tmp_path / "away"))
    assert result.stderr == f"no folder '{tmp_path / 'away'}'; make it first\n"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Red", "a reward's name is like 'brightness' or 'red_things', not 'Red'"),
        ("red-things", "a reward's name is like 'brightness' or 'red_things', not 'red-things'"),
        ("red__things", "a reward's name is like"),
        ("red_", "a reward's name is like"),
        ("../red", "a reward's name is like"),
        ("1st", "a reward's name is like"),
        ("psnr", "there is a reward 'psnr' already, of align-core "),
        ("none", "the name 'none' is taken in Python or in align; choose another"),
        ("reward_spec", "the name 'reward_spec' is taken in Python or in align; choose another"),
        ("core", "there is a distribution 'align-core' already; choose another name"),
        ("pocket", "there is a distribution 'align-pocket' already; choose another name"),
    ],
)
def test_names_that_cannot_be(tmp_path, name, told):
    result = invoke(name, "--into", str(tmp_path))
    assert result.exit_code == 1 and result.stderr.startswith(told)
    assert not list(tmp_path.iterdir())
