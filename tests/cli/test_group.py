"""Commands that plugins bring."""

from importlib.metadata import EntryPoint, EntryPoints

import click
import pytest
from click.testing import CliRunner

from align.cli import group
from align.cli.main import main
from align.core.errors import PartError


@click.command()
@click.option("--fail", is_flag=True)
def brought(fail):
    """Say what a plugin says. And more."""
    if fail:
        raise PartError("what the plugin says")
    click.echo("hello")


@pytest.fixture
def points(monkeypatch):
    """Commands of plugins: one that works, one that does not load, one that is none."""
    values = {
        "greet": f"{__name__}:brought",
        "gone": "align_gone.cli:gone",
        "text": "align.cli.group:_BROUGHT",
        "run": "align_gone.cli:run",
    }
    every = EntryPoints(EntryPoint(n, value, group._BROUGHT) for n, value in values.items())
    load = EntryPoint.load

    def loaded(point):
        return brought if point.name == "greet" else load(point)

    monkeypatch.setattr(EntryPoint, "load", loaded)
    monkeypatch.setattr(group, "entry_points", lambda **wanted: every.select(**wanted))


def test_command_of_a_plugin_is_listed_and_runs_as_ours_do(points):
    text = CliRunner().invoke(main, ["--help"]).output
    assert "greet" in text and "Say what a plugin says" in text and "And more" not in text
    assert CliRunner().invoke(main, ["greet"]).output == "hello\n"
    failed = CliRunner().invoke(main, ["greet", "--fail"])
    assert (failed.exit_code, failed.output) == (1, "what the plugin says\n")


@pytest.mark.parametrize(
    ("name", "told"),
    [("gone", "did not load: ModuleNotFoundError"), ("text", "is no command of click")],
)
def test_command_that_cannot_run_says_why(points, name, told):
    result = CliRunner().invoke(main, [name, "--some", "words"])
    assert result.exit_code == 1 and told in result.output
    assert "Cannot run" in CliRunner().invoke(main, ["--help"]).output


def test_own_command_stays_our_own(points):
    assert "Run a recipe" in CliRunner().invoke(main, ["run", "--help"]).output
