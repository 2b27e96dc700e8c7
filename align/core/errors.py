"""What can go wrong, in the user's words; the only place that knows exit codes."""

from __future__ import annotations

from typing import ClassVar


class AlignError(Exception):
    """A mistake that has a cure: shown as its message alone, without a traceback."""

    exit_code: ClassVar[int] = 1


class RecipeError(AlignError):
    """A recipe cannot run as it is written; carries every problem found, one a line."""

    exit_code: ClassVar[int] = 2


class PluginError(AlignError):
    """A plugin did not load, or brings something that `align` cannot take."""


class PartError(AlignError):
    """A part cannot be built or used: missing weights, wrong checkpoint, missing package."""


class OutOfMemoryError(PartError):
    """A part needs more memory than there is; fewer rows at once may do."""


class OptionError(PartError):
    """An option of a recipe does not go with what a part turned out to be, once it was built.

    Args:
        message: begins with the option's name, as in "mode.net: ...".
        key: of the option in the recipe, where it is known.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, key: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.key = key


class PromptError(PartError):
    """A model cannot follow a prompt."""


class FolderError(PartError):
    """A run cannot have the folder that it was given."""


class ContractError(AlignError):
    """A part returned something else than its contract promises."""


class NotFiniteError(ContractError):
    """A part returned numbers that are not finite."""


class DivergedError(AlignError):
    """Numbers of a run grew without bound."""


class TakenError(AlignError):
    """A folder is in use by another process.

    Args:
        message: says by which.
        digest: of the recipe that the other process runs, if it is known.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, digest: str | None = None) -> None:
        super().__init__(message)
        self.digest = digest


class UserInterrupt(KeyboardInterrupt):
    """The user pressed Ctrl-C; see `align.core.interrupt`."""


class TerminatedError(UserInterrupt):
    """A run was asked to end by a signal, and ends as after Ctrl-C.

    Args:
        signal: its number.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.exit_code = 128 + signal  # as shells report it


class PeerFailedError(AlignError):
    """Another process of the same run has failed before, and said why."""
