"""Whose an error is, and what a part cannot change for everybody."""

import os
import signal
from pathlib import Path

import pytest
import torch

from align.core.attribution import attributed, made, settings_kept
from align.core.errors import ContractError, PartError, PromptError, UserInterrupt
from align.core.interrupt import user_interrupts


class Strange(BaseException):
    """No Exception at all."""


@pytest.mark.parametrize("kind", [ValueError, SystemExit, EOFError, StopIteration, Strange])
def test_error_of_a_part_names_the_part_and_the_line(kind):
    with pytest.raises(PartError) as caught, attributed("reward 'x': score"):
        fail(kind("why\nelse"))
    place = f"{Path(__file__).relative_to(Path.cwd())}, line "
    assert str(caught.value).startswith(f"reward 'x': score raised {kind.__name__}: why ({place}")
    assert type(caught.value.__cause__) is kind


def fail(error):
    raise error


@pytest.mark.parametrize("error", [PromptError("no cat"), ContractError("a list")])
def test_message_to_the_user_passes(error):
    with pytest.raises(type(error)) as caught, attributed("sampler 'x'"):
        raise error
    assert caught.value is error


def test_error_of_an_inner_part_is_not_the_outer_ones():
    with (
        pytest.raises(PartError, match=r"^inner raised SystemExit"),
        attributed("outer"),
        attributed("inner"),
    ):
        raise SystemExit(0)


def test_interrupt_of_a_part_is_told_from_that_of_the_user():
    with user_interrupts():
        with pytest.raises(PartError, match=r"^part raised KeyboardInterrupt"), attributed("part"):
            fail(KeyboardInterrupt())
        with pytest.raises(UserInterrupt), attributed("part"):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught, attributed("part"):
        signal.raise_signal(signal.SIGINT)
    assert type(caught.value) is KeyboardInterrupt


def test_handler_of_somebody_else_stays():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with user_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("context", [settings_kept(), attributed("part")])
def test_settings_are_set_back(context, tmp_path):
    folder = Path.cwd()
    with context:
        os.chdir(tmp_path)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
    assert (Path.cwd(), torch.get_default_dtype()) == (folder, torch.float32)
    assert torch.is_grad_enabled()


def test_made_refuses_another_type():
    assert made("reward 'x': build", lambda: 3, int) == 3
    with pytest.raises(ContractError) as caught:
        made("reward 'x': build", lambda: None, int)
    assert str(caught.value) == "reward 'x': build returned a NoneType, expected a int"
