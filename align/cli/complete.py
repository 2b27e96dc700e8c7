"""`align completion`: scripts by which shells complete what follows `align`, made by click."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from align.core.errors import PartError
from align.io.files import write

_COMMAND: Final = "align"
_VARIABLE: Final = "_ALIGN_COMPLETE"
_SHELLS: Final = ("bash", "zsh", "fish")
# Bash would take the @ of a recipe's name for the beginning of a word of its own.
_WHOLE_NAMES: Final = "COMP_WORDBREAKS=${COMP_WORDBREAKS//@/}\n"


def shell_of_user() -> str:
    """The shell that $SHELL names; raises PartError where it is none of those known."""
    name = Path(os.environ.get("SHELL", "")).name
    if name not in _SHELLS:
        raise PartError(f"$SHELL names no shell that can be served; name one of {_listed()}")
    return name


def script(shell: str, command: click.Command) -> str:
    """The script for a shell."""
    cls: type[ShellComplete] | None = get_completion_class(shell)
    assert cls is not None, shell
    text = cls(command, {}, _COMMAND, _VARIABLE).source()
    return (_WHOLE_NAMES if shell == "bash" else "") + text


def place(shell: str) -> Path:
    """The file of a user's own in which a shell finds a script when it is first needed."""
    try:
        home = Path.home()
    except RuntimeError as error:
        text = "nobody knows your home folder; print the script and put it where your shell looks"
        raise PartError(text) from error
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return {
        "bash": data / "bash-completion" / "completions" / _COMMAND,
        "zsh": data / "zsh" / "site-functions" / f"_{_COMMAND}",
        "fish": config / "fish" / "completions" / f"{_COMMAND}.fish",
    }[shell]


def install_script(shell: str, command: click.Command) -> Iterator[str]:
    """Write the script for a shell; says where, and what else there is to do.

    Raises:
        PartError: it cannot be written.
    """
    path = place(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"'{path.parent}' cannot be made: {(error.strerror or str(error)).lower()}"
        raise PartError(text) from error
    write(path, script(shell, command) + "\n")
    yield f"{path}: written; a new {shell} completes `{_COMMAND}`"
    if shell == "bash":
        yield "The package bash-completion finds it there. Without that, add to ~/.bashrc:"
        yield f"  source '{path}'"
    if shell == "zsh":
        yield "If ~/.zshrc does not name this folder yet, add to it, before compinit:"
        yield f"  fpath=('{path.parent}' $fpath)"
        yield "  autoload -Uz compinit && compinit"


def _listed() -> str:
    return ", ".join(_SHELLS[:-1]) + f" and {_SHELLS[-1]}"
