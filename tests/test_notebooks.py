"""Every notebook of the documents runs from its first cell to its last, and shows what it did."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


@pytest.fixture(scope="module")
def executed():
    """The function of execute.py beside the notebooks."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.executed


def shown(notebook):
    """The kinds of output of each cell of code."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[sorted(output.get("data", output)) for output in cell.outputs] for cell in cells]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_shows_what_it_has_stored(path, executed):
    again, kept = executed(path), nbformat.read(path, as_version=4)
    assert [cell.source for cell in again.cells] == [cell.source for cell in kept.cells]
    assert shown(again) == shown(kept)
    assert any("text/html" in kinds for outputs in shown(kept) for kinds in outputs)
