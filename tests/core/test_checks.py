"""Checks wait for the end of a step, and the first that fails is the one that is told."""

import pytest
import torch

from align.core.checks import checks, checks_read_once, count_changed, count_not_finite, read
from align.core.errors import ContractError, NotFiniteError, PartError

BAD = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])


def refuse(numbers, what="it"):
    def error(values):
        bad = sum(values)
        return NotFiniteError(f"{what} has {bad:g} numbers that are not finite") if bad else None

    checks().add(error, count_not_finite(numbers))


def test_a_check_outside_of_steps_is_read_at_once():
    refuse(torch.ones(3))
    with pytest.raises(NotFiniteError, match="it has 3 numbers"):
        refuse(BAD)


def test_checks_of_a_step_wait_for_its_end_and_the_first_is_told():
    done = []
    with pytest.raises(NotFiniteError, match="first has 3 numbers"), checks_read_once():
        for what, numbers in (("none", torch.ones(2)), ("first", BAD), ("second", BAD[:2])):
            refuse(numbers, what)
            done.append(what)
    assert done == ["none", "first", "second"]


def test_numbers_are_read_together_with_the_checks_that_wait():
    with checks_read_once():
        refuse(torch.ones(2))
        whole = {"a": torch.tensor(2**40 + 1), "b": 0.5, "c": torch.tensor(3.0).bfloat16()}
        assert read(whole) == {"a": 2**40 + 1, "b": 0.5, "c": 3.0}
        refuse(BAD)
        with pytest.raises(NotFiniteError):
            read({"a": torch.zeros(())})
    assert read({}) == {}


def test_a_check_that_fails_is_told_in_place_of_what_came_of_it():
    with pytest.raises(NotFiniteError, match="it has 3") as caught, checks_read_once():
        refuse(BAD)
        raise PartError("no solution")
    assert str(caught.value.__cause__) == "no solution"
    with pytest.raises(PartError, match="no solution"), checks_read_once():
        refuse(torch.ones(2))
        raise PartError("no solution")
    with pytest.raises(KeyboardInterrupt), checks_read_once():
        refuse(BAD)
        raise KeyboardInterrupt


def test_a_context_inside_another_reads_its_own_checks():
    with checks_read_once():
        with pytest.raises(NotFiniteError), checks_read_once():
            refuse(BAD)
        refuse(torch.ones(2))


def test_a_gradient_that_comes_after_the_step_is_checked_at_once():
    with checks_read_once():
        own = checks()
    with pytest.raises(ContractError):
        own.add(lambda numbers: ContractError("late"), torch.ones(()))


def test_a_check_inside_a_function_that_torch_differentiates_is_read_there():
    def double(x):
        refuse(x.detach())
        return 2 * x

    with checks_read_once():
        value, slope = torch.func.jvp(double, (torch.ones(2),), (torch.ones(2),))
    assert (value.tolist(), slope.tolist()) == ([2, 2], [2, 2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_changes_are_found_by_bits(dtype):
    before = torch.tensor([0, 1, 2]).to(dtype)
    assert not count_changed(before.clone(), before)
    after = before.clone()
    after[1:] += 1
    assert count_changed(after, before) == 2
    assert count_changed(before[:2], before) == 1
    if dtype.is_floating_point:
        none = torch.full((2,), torch.nan, dtype=dtype)
        assert not count_changed(none.clone(), none)
