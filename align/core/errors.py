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


class PromptError(PartError):
    """A model cannot follow a prompt."""


class ContractError(AlignError):
    """A part returned something else than its contract promises."""


class DivergedError(AlignError):
    """Numbers of a run grew without bound."""


class PeerFailedError(AlignError):
    """Another process of the same run has failed before, and said why."""
