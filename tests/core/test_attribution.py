"""Whose an error is, and what a part cannot change for everybody."""

import os
import signal
from pathlib import Path

import pytest
import torch

from align.core.attribution import attributed, made, settings_kept
from align.core.errors import (
    AlignError,
    ContractError,
    FolderError,
    PartError,
    PeerFailedError,
    PluginError,
    PromptError,
    RecipeError,
    TakenError,
    UserInterrupt,
)
from align.core.interrupt import user_interrupts
from align.recipe import load
from align.runner.folder import check_folder


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


@pytest.mark.parametrize(
    "kind",
    [RecipeError, PeerFailedError, UserInterrupt, TakenError, FolderError, PluginError, AlignError],
)
def test_error_that_is_for_align_to_raise_names_the_part_that_raises_it(kind):
    with (
        user_interrupts(),
        pytest.raises(PartError, match=rf"^reward 'x' raised {kind.__name__}: why \(tests"),
        attributed("reward 'x'"),
    ):
        fail(kind("why"))


def test_error_that_align_itself_raises_in_a_part_passes(tmp_path):
    with pytest.raises(FolderError), attributed("reward 'x'"):
        check_folder(Path("/"))
    with pytest.raises(RecipeError), attributed("reward 'x'"):
        load(tmp_path / "none.toml", catalog=None)


def test_handler_of_somebody_else_stays():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with user_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("context", [settings_kept(), attributed("part")])
def test_settings_are_set_back(context, tmp_path):
    folder, threads, random = Path.cwd(), torch.get_num_threads(), torch.get_rng_state()
    with context:
        os.chdir(tmp_path)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        torch.set_num_threads(7)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(8)
    assert (Path.cwd(), torch.get_default_dtype()) == (folder, torch.float32)
    assert torch.is_grad_enabled()
    assert torch.zeros(()).device.type == "cpu"
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), random)


def test_numbers_drawn_from_the_global_generator_are_others_each_time():
    with settings_kept():
        first = torch.rand(4)
    with settings_kept():
        assert not torch.equal(torch.rand(4), first)


def test_made_refuses_another_type():
    assert made("reward 'x': build", lambda: 3, int) == 3
    with pytest.raises(ContractError) as caught:
        made("reward 'x': build", lambda: None, int)
    assert str(caught.value) == "reward 'x': build returned a NoneType, expected an int"
