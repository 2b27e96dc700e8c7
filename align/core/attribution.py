"""Whose an error is: a part that raises is named, and a part's exit is not the command's.

A part may raise anything, `SystemExit` and `KeyboardInterrupt` included. Only `UserInterrupt` comes
from the user's Ctrl-C and passes every part.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar, final

import torch
from torch import Tensor

from align.core.errors import AlignError, ContractError, DivergedError, FolderError, PartError
from align.core.interrupt import is_interrupt, raised_by_align

Part = TypeVar("Part")

_LONGEST: Final = 500  # letters of an error's text that a message has
_TORCH: Final = str(Path(torch.__file__).parent)


@final
class settings_kept:
    """A context at whose end what a part may have changed for everybody is as it was before.

    That is the working directory, and of torch: the gradient mode, the default floating type and
    device, the number of threads, whether algorithms are deterministic, and a global generator that
    was seeded anew. Numbers that a part draws from that generator move it on, as ever.
    """

    __slots__ = ("_device", "_folder", "_random", "_seed", "_torch")

    def __enter__(self) -> None:
        """Remember the settings."""
        self._folder, self._torch, self._device = _folder(), _of_torch(), _default_device()
        self._seed, self._random = _GENERATOR.initial_seed(), _GENERATOR.get_state()

    def __exit__(self, *_: object) -> None:
        """Set them back."""
        if self._folder and _folder() != self._folder:
            os.chdir(self._folder)
        if _of_torch() != self._torch:
            grad, dtype, threads, deterministic = self._torch
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            torch.set_deterministic_debug_mode(deterministic)
        if _default_device() != self._device:
            # "cpu" by name would slow down every call that makes a tensor.
            torch.set_default_device(None if self._device.type == "cpu" else self._device)
        if _GENERATOR.initial_seed() != self._seed:
            _GENERATOR.set_state(self._random)


_GENERATOR: Final = torch.default_generator


def _of_torch() -> tuple[bool, torch.dtype, int, int]:
    """Settings of torch that cost little to look at."""
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
    )


def _default_device() -> torch.device:
    """Where tensors are made; ten times as fast as `torch.get_default_device`."""
    return torch.empty(0).device


@final
class attributed:
    """A context in which a part runs: whatever it raises becomes a `PartError` that names it.

    Settings are kept, see `settings_kept`.

    Args:
        who: the part and what it does, as in "reward 'brightness': score".
        error: the type that is raised.

    Raises:
        UserInterrupt: the user pressed Ctrl-C.
        PartError, ContractError, DivergedError: raised by the part, or by another one that it uses,
            and passed on as it is. So is any other error that `align` itself raises meanwhile.
        PartError: the part raised anything else.
    """

    __slots__ = ("_error", "_settings", "_who")

    def __init__(self, who: str, error: type[AlignError] = PartError) -> None:
        """A context for the part `who`."""
        self._who, self._error, self._settings = who, error, settings_kept()

    def __enter__(self) -> None:
        """Remember the settings."""
        self._settings.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Set the settings back, and raise the error as the part's own."""
        self._settings.__exit__()
        if error is None or _passes(error):
            return
        text = f"{self._who} raised {described(error)}; --traceback shows the whole way"
        raise self._error(text) from error


def _passes(error: BaseException) -> bool:
    """Whether an error is a message to the user as it is, and not a part's own doing.

    A part may say why it cannot work. What ends a run otherwise is for `align` to raise.
    """
    if isinstance(error, PartError | ContractError | DivergedError):
        return not isinstance(error, FolderError) or raised_by_align(error)
    return is_interrupt(error) or (isinstance(error, AlignError) and raised_by_align(error))


def made(who: str, make: Callable[[], object], expected: type[Part]) -> Part:
    """What `make` returns, where that is what its contract promises.

    Args:
        who: the part and its method, as in "reward 'brightness': build".
        make: calls it.
        expected: type of the result.

    Raises:
        ContractError: the result is something else.
        PartError: the part raised something else than a message to the user.
    """
    with attributed(who):
        part = make()
    if not isinstance(part, expected):
        raise ContractError(f"{who} returned {seen(part)}, expected {one(expected.__name__)}")
    return part


def one(name: str) -> str:
    """A name with its article: "an int", "a tuple"."""
    return f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}"


def seen(result: object) -> str:
    """Shape and type of what a part returned, whatever it is."""
    if isinstance(result, type):
        return f"the class '{result.__name__}'"
    if not isinstance(result, Tensor):
        return one(type(result).__name__)
    place = "" if result.device.type == "cpu" else f" on {result.device}"
    layout = "" if result.layout == torch.strided else f" {result.layout}"
    return f"{tuple(result.shape)} {result.dtype}{layout}{place}"


def described(error: BaseException) -> str:
    """An error in one line: its type, its text, and the file and line that raised it."""
    name, text, place = type(error).__name__, error_text(error), _place(error)
    return name + (f": {text}" if text else "") + (f" ({place})" if place else "")


def error_text(error: BaseException) -> str:
    """The first line of what an error says, cut where it is long; empty where it says nothing."""
    try:
        text = str(error).strip().partition("\n")[0]
    except BaseException as inner:  # the class of the error is a part's too
        if is_interrupt(inner):
            raise
        return ""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _place(error: BaseException) -> str:
    """File and line of the innermost call that is not torch's own."""
    frames = [
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    others = [place for place in frames[1:] if not place[0].startswith((_TORCH, "<"))]
    if not others:
        return ""
    file, line = others[-1]
    return f"{file.removeprefix(f'{_folder()}{os.sep}')}, line {line}"


def _folder() -> str:
    """The working directory; empty where it was deleted."""
    try:
        return os.getcwd()  # noqa: PTH109, twenty times as fast as Path.cwd
    except OSError:
        return ""


def check_followed(who: str, result: Tensor, *given: Tensor) -> None:
    """Raise ContractError where a part's result has no way back to what it was given.

    Args:
        who: the part and its method.
        result: what it returned.
        given: what it made the result of; nothing is asked where none of it carries a gradient.
    """
    asked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    if asked and not result.requires_grad:
        raise ContractError(
            f"{who} cuts gradients inside its call; let it do without no_grad() and detach(), or"
            " use an estimator that follows no gradient, like 'stein'"
        )
