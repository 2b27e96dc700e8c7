"""Scripts by which shells complete words, and what they complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from align.catalog.shipped import shipped
from align.cli.main import main


def invoke(*arguments, **env):
    return CliRunner(env=env).invoke(main, arguments)


def words(*arguments, begun):
    completion = BashComplete(main, {}, "align", "_ALIGN_COMPLETE")
    return [item.value for item in completion.get_completions([*arguments], begun)]


@pytest.fixture
def command(tmp_path):
    """A folder with a command `align`, as an installer writes it."""
    path = tmp_path / "bin" / "align"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom align.cli.main import main\nmain()\n")
    path.chmod(0o755)
    return path.parent


def test_bash_completes_commands_kinds_and_recipes(command, tmp_path):
    script = (
        'source "$1"\n'
        'COMP_WORDS=(align run "@tab") COMP_CWORD=2\n'
        "_align_completion align\n"
        'echo "${COMPREPLY[*]}|$COMP_WORDBREAKS"\n'
    )
    path = tmp_path / "script"
    path.write_text(invoke("completion", "bash").stdout)
    search = f"{command}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script, "-", path],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": search, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    completed, _, breaks = done.stdout.partition("|")
    assert (completed, done.stderr) == ("@tabby_cat", "")
    assert "@" not in breaks


def test_recipes_are_completed_as_names_or_as_files():
    for command in ("run", "check", "plan"):
        assert words(command, begun="@pocket/sea") == ["@pocket/search"]
        assert words(command, begun="@") == [f"@{name}" for name in shipped()]
        assert words(command, begun="recipes/") == ["recipes/"]


def test_what_can_be_listed_and_shown_is_completed():
    assert words("list", begun="sam") == ["samplers"]
    assert words("list", "samplers", begun="rec") == ["recipes"]
    assert words("show", begun="@tab") == ["@tabby_cat"]
    assert words("completion", begun="z") == ["zsh"]


@pytest.mark.parametrize(
    ("shell", "file", "variable"),
    [
        ("bash", "bash-completion/completions/align", "XDG_DATA_HOME"),
        ("zsh", "zsh/site-functions/_align", "XDG_DATA_HOME"),
        ("fish", "fish/completions/align.fish", "XDG_CONFIG_HOME"),
    ],
)
def test_script_is_installed_where_the_shell_looks(tmp_path, shell, file, variable):
    printed = invoke("completion", shell).stdout
    assert "_ALIGN_COMPLETE" in printed
    result = invoke(
        "completion", "--install", SHELL=f"/usr/bin/{shell}", **{variable: str(tmp_path)}
    )
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{tmp_path / file}: written; a new {shell} completes `align`")
    assert Path(tmp_path / file).read_text() == printed


def test_unknown_shell_and_unwritable_place_are_told(tmp_path):
    result = invoke("completion", SHELL="/bin/tcsh")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "name one of bash, zsh and fish" in result.stderr
    (tmp_path / "fish").write_text("")
    result = invoke("completion", "fish", "--install", XDG_CONFIG_HOME=str(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(tmp_path / "fish") in result.stderr
