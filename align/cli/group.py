"""The command's groups: help that is whole at any width, and output that may go anywhere."""

from __future__ import annotations

import inspect
import re
import shutil
from typing import Any, Final

import click

_WIDEST: Final = 100  # columns of help, however wide the terminal is
_NARROWEST: Final = 30


class Commands(click.Group):
    """A group of commands, whose output may go anywhere."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run it; exit code 1 where it succeeds and its output cannot be written."""
        from align.io.terminal import patient

        columns = min(shutil.get_terminal_size().columns, _WIDEST)
        options.setdefault("terminal_width", max(columns - 2, _NARROWEST))
        with patient() as failure:
            try:
                return super().main(*args, **options)
            except SystemExit as end:
                if end.code not in (None, 0) or not (reason := failure()):
                    raise
                text = "the command is done, but its output could not be written"
                click.echo(f"{text}: {reason}; send it elsewhere", err=True)
                raise SystemExit(1) from end

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its whole first sentence."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [
            (name, first_sentence(command.help)) for name, command in commands.items() if command
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def first_sentence(text: str | None) -> str:
    """The first sentence of a help text, in one line."""
    first = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", first, maxsplit=1)[0].removesuffix(".")
