"""The command's groups: help that is whole at any width, and output that may go anywhere."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import click

from align.core.errors import PluginError

_WIDEST: Final = 100  # columns of help, however wide the terminal is
_NARROWEST: Final = 30


_BROUGHT: Final = "align.commands"
"""Group of the entry points by which plugins bring commands, each one of click's."""


class Commands(click.Group):
    """A group of commands, whose output may go anywhere; plugins may bring further ones."""

    guard: Callable[[Callable[..., None]], Callable[..., None]] = staticmethod(lambda call: call)
    """What a command of a plugin runs in."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, by the alphabet."""
        return sorted({*super().list_commands(ctx), *entry_points(group=_BROUGHT).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name: our own, or one that a plugin brings."""
        own = super().get_command(ctx, cmd_name)
        brought = [] if own else [*entry_points(group=_BROUGHT, name=cmd_name)]
        if not brought:
            return own
        command = _loaded(brought[0])
        assert command.callback is not None
        command.callback = self.guard(command.callback)
        return command

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


def _loaded(point: EntryPoint) -> click.Command:
    """A plugin's command; one that says why it cannot run, where it cannot."""
    who = f"the command '{point.name}' of {point.dist.name if point.dist else point.value}"
    try:
        command = point.load()
    except Exception as error:
        return _broken(point.name, f"{who} did not load: {type(error).__name__}: {error}")
    if not isinstance(command, click.Command) or command.callback is None:
        return _broken(point.name, f"{who} is no command of click")
    return command


def _broken(name: str, reason: str) -> click.Command:
    """A command that cannot run, and says why."""

    def refuse(**_: Any) -> None:
        raise PluginError(f"{reason}; update or uninstall it")

    settings = {"ignore_unknown_options": True}
    argument = click.Argument(["words"], nargs=-1)
    return click.Command(
        name, callback=refuse, params=[argument], help="Cannot run.", context_settings=settings
    )


def first_sentence(text: str | None) -> str:
    """The first sentence of a help text, in one line."""
    first = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", first, maxsplit=1)[0].removesuffix(".")
