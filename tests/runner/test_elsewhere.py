"""A run that does not begin where its recipe says."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from align.cli.main import main

pytestmark = pytest.mark.usefixtures("unpainted")
RECIPE = """\
[run]
samples = 1
unsteered = 0
[model]
kind = "mixture"
weights = [1.0]
means = [[0.0]]
stds = [1.0]
[mode]
kind = "distill"
net = { kind = "mlp", width = 8, depth = 1 }
consistency = { kind = "semigroup" }
steps = 1
optimisation = { batch = 4, warmup = 0, decay = "none" }
"""


def test_longer_training_says_that_it_begins_anew_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.toml").write_text(RECIPE)
    first = CliRunner().invoke(main, ["run", "d.toml"])
    assert (first.exit_code, "anew" in first.output) == (0, False)
    longer = CliRunner().invoke(main, ["run", "d.toml", "--set", "mode.steps=2"])
    assert longer.exit_code == 0
    assert (
        "'runs/d' holds a run of another recipe (it differs in mode.steps); this one begins anew, "
        "from step 0, in 'runs/d-2'\n"
    ) in longer.output
