"""docs/how_to/diffusers.md: its recipes run and its Python too, with tiny pipelines."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from align_diffusers.testing import FAMILIES
from click.testing import CliRunner

from align.cli.main import main
from align.runner.session import run

TEXT = (Path(__file__).parents[3] / "docs" / "how_to" / "diffusers.md").read_text()
RECIPES = re.findall(r"```toml\n# (\S+)\n(.*?)```", TEXT, re.S)
SCRIPTS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
TINY = re.search(r"align (run four.toml --set .*?)\n```", TEXT, re.S)
NAMES = {
    "stabilityai/stable-diffusion-3.5-medium": "sd3",
    "black-forest-labs/FLUX.1-schnell": "schnell",
}
SMALLER = (
    (r"\b512\b", "16"),
    (r"\b128\b", "12"),
    (r"bfloat16", "float32"),
    (r"(steps|pool|samples|draws|batch) ?= ?\d+", r"\1=2"),
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the pipelines that the page names, as small as can be, and prompts."""
    root = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    for name in NAMES.values():
        FAMILIES[name]().save_pretrained(root / name)
    (root / "prompts.txt").write_text("a cat\na dog\na red fox\n")
    return root


def smaller(text, folder):
    """A block whose pipelines are the tiny ones, and whose numbers are small."""
    for weights, name in NAMES.items():
        text = text.replace(weights, str(folder / name))
    for pattern, value in SMALLER:
        text = re.sub(pattern, value, text)
    return text


def test_page_runs_from_its_first_recipe_to_its_last_line(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert [name for name, _ in RECIPES] == ["fox.toml", "four.toml", "jumps.toml", "tuned.toml"]
    for name, text in RECIPES:
        Path(name).write_text(smaller(text, folder))
        results = run(name, progress=False).results
        assert [result.data.shape for result in results] == [(2, 3, 16, 16)] * len(results)
        assert len(results) == (4 if name == "four.toml" else 1)
    known = {}
    for script in SCRIPTS:
        exec(smaller(script, folder), known)
    assert known["result"].data.shape == (2, 3, 16, 16)
    assert known["pipe"].get_active_adapters() == ["default_0"]


def test_tiny_pipeline_of_the_page_runs_as_it_says(folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(SCRIPTS[0], {})
    text = next(text for name, text in RECIPES if name == "four.toml")
    Path("four.toml").write_text(re.sub(*SMALLER[-1], text))
    result = CliRunner().invoke(main, shlex.split(TINY[1].replace("\\\n", " ")))
    assert result.exit_code == 0, result.output
    assert "best of 4" in Path("runs/four/report.html").read_text()
