"""`align new`: a scaffold of every contract is a whole distribution that passes its own tests."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner

from align.catalog.contracts import CONTRACT_CLASSES
from align.catalog.registry import load_catalog
from align.cli.main import main
from align.cli.scaffold import TEMPLATES
from align.testing.kit import checks_of


def invoke(*arguments):
    return CliRunner().invoke(main, ["new", *arguments])


def test_every_contract_has_templates():
    folders = {path.name for path in TEMPLATES.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {*CONTRACT_CLASSES, "common"}


@pytest.fixture(scope="module")
def scaffolds(tmp_path_factory):
    """The folder of a scaffold for each contract."""
    into = tmp_path_factory.mktemp("scaffolds")
    for contract in CONTRACT_CLASSES:
        result = invoke(contract, f"my_{contract}", "--into", str(into))
        assert (result.exit_code, result.stderr) == (0, "")
        folder = into / f"align-my-{contract}"
        assert f"pip install -e '{folder}[test]' && pytest {folder}" in result.stdout
    return {contract: into / f"align-my-{contract}" for contract in CONTRACT_CLASSES}


def test_scaffold_of_every_contract_passes_its_own_tests(scaffolds, forked_pytest):
    folders = list(scaffolds.values())
    deprecated = "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
    options = ["--import-mode=importlib", "-rA", "-W", deprecated]
    done = forked_pytest(folders[0].parent, *options, paths=folders)
    assert done.ended() == 0, done.stdout
    ran = re.findall(r"^(?:PASSED|SKIPPED|XFAIL) .*$", done.stdout, re.M)
    assert len(ran) >= sum(len(checks_of(contract)) for contract in CONTRACT_CLASSES) / 2


def test_scaffold_of_every_contract_is_found_by_its_entry_point(scaffolds, monkeypatch):
    points = []
    for folder in scaffolds.values():
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        assert project["name"] == folder.name
        ((name, value),) = project["entry-points"]["align"].items()
        points.append(EntryPoint(name, value, "align"))
        monkeypatch.syspath_prepend(str(folder))
    catalog = load_catalog(points, builtins=False)
    assert not catalog.broken
    for contract in CONTRACT_CLASSES:
        assert list(catalog.parts[contract]) == [f"my_{contract}"]
        entry = catalog.find(contract, f"my_{contract}")
        assert entry.cls.__name__ == f"My{contract.capitalize()}"


def test_scaffold_of_every_contract_is_linted_and_formatted(scaffolds):
    ruff = [sys.executable, "-m", "ruff"]
    folders = [str(folder / f"align_my_{name}") for name, folder in scaffolds.items()]
    config = str(Path(__file__).parents[2] / "pyproject.toml")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [*ruff, *command, "--config", config, "--no-cache", *folders],
            capture_output=True,
            text=True,
            check=False,
        )
        if "No module named ruff" in done.stderr:
            pytest.skip("ruff is not installed")
        assert done.returncode == 0, done.stdout


def test_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "align-mine").mkdir()
    result = invoke("reward", "mine", "--into", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"'{tmp_path / 'align-mine'}' is there already; choose another")
    assert not list((tmp_path / "align-mine").iterdir())
    (tmp_path / "align-file").write_text("mine")
    assert invoke("reward", "file", "--into", str(tmp_path)).exit_code == 1
    assert (tmp_path / "align-file").read_text() == "mine"
    result = invoke("reward", "mine", "--into", str(tmp_path / "away"))
    assert result.stderr == f"no folder '{tmp_path / 'away'}'; make it first\n"


@pytest.mark.parametrize(
    ("contract", "name", "message"),
    [
        ("reward", "Red", "'Red' cannot name a reward: use lower-case letters, digits and _"),
        ("reward", "red-things", "'red-things' cannot name a reward"),
        ("model", "red__things", "'red__things' cannot name a model"),
        ("reward", "red_", "'red_' cannot name a reward"),
        ("reward", "../red", "'../red' cannot name a reward"),
        ("reward", "1st", "'1st' cannot name a reward"),
        ("reward", "psnr", "there is a reward 'psnr' already, of align-core "),
        ("sampler", "mfm", "there is a sampler 'mfm' already, of align-core "),
        ("reward", "none", "the name 'none' is taken in Python or in align; choose another"),
        ("reward", "reward_spec", "the name 'reward_spec' is taken in Python or in align; choose"),
        ("model", "flow_model", "the name 'flow_model' is taken in Python or in align; choose"),
        ("reward", "core", "there is a distribution 'align-core' already; choose another name"),
        ("metric", "pocket", "there is a distribution 'align-pocket' already; choose another name"),
    ],
)
def test_name_that_cannot_be_used_is_refused(tmp_path, contract, name, message):
    result = invoke(contract, name, "--into", str(tmp_path))
    assert result.exit_code == 1 and result.stderr.startswith(message)
    assert not list(tmp_path.iterdir())
