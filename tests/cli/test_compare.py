"""The command `align compare`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from align.cli.main import main
from align.report.schema import ArmNumbers, RewardRole, RunResults, save

RECIPE = """
run.seed = 0
model.kind = "pocket"
[[reward]]
name = "cat"
"""


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ("compare", *arguments))


@pytest.fixture
def run(tmp_path):
    scores = {"a long name of an arm": (3.0, 4.0, 5.5), "b": (1.0, 2.0, 3.0)}
    arms = (
        ArmNumbers(name=name, folder="samples/x", samples=3, scores={"cat": values})
        for name, values in scores.items()
    )
    role = RewardRole(weight=1.0, held_out=False)
    save(tmp_path, RunResults(rewards={"cat": role}, arms=tuple(arms)))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def test_arms_of_a_run_are_compared_in_80_columns_and_written_as_csv(run):
    table = run / "pairs.csv"
    done = invoke(f"{run}:a long name of an arm", f"{run}:b", "--csv", str(table))
    assert done.exit_code == 0
    assert "cat: a long name of an arm is better by 2.17 ± 0.72 (95 %), on 3 of 3" in done.output
    assert max(map(len, done.output.splitlines())) <= 80
    assert len(table.read_text().splitlines()) == 4


def test_scores_alone_are_printed_for_a_dash(run):
    arms = f"{run}:a long name of an arm", f"{run}:b"
    done = invoke(*arms, "--csv", "-")
    assert invoke(*arms, "--csv", str(run / "pairs.csv")).exit_code == 0
    assert done.stdout == (run / "pairs.csv").read_text()
    assert not Path("-").exists()


def test_arms_that_are_not_there_end_in_one_line(run):
    done = invoke(f"{run}:c", f"{run}:b")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "has no arm 'c'" in done.stderr
