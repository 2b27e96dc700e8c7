"""Numbers as they are shown."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.io.numbers import rounded, with_error


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (772.6, 137.0, "770 ± 140"),
        (4.8123, 0.2871, "4.81 ± 0.29"),
        (4.8, 0.0996, "4.80 ± 0.10"),
        (12.34, 1.0, "12.3 ± 1.0"),
        (98765.4, 12.0, "98765 ± 12"),
        (-0.004, 0.45, "0.00 ± 0.45"),
        (-1.2345, 0.0067, "-1.2345 ± 0.0067"),
        (0.0, 2e-9, "0 ± 2.0e-09"),
        (1.2345678e-9, 2e-11, "1.235e-09 ± 2.0e-11"),
        (3.14159e8, 2e5, "3.1416e+08 ± 2.0e+05"),
        (5.0, 0.0, "5 ± 0"),
        (5.25, None, "5.25"),
        (5.25, math.inf, "5.25"),
        (math.nan, 1.0, "nan"),
        (123456.7, None, "123457"),
        (1234567.0, None, "1.235e+06"),
        (0.00001234567, None, "1.235e-05"),
        (0.33333333, None, "0.3333"),
        (0, None, "0"),
    ],
)
def test_number_has_two_digits_of_its_error(value, error, shown):
    assert with_error(value, error) == shown


@given(st.floats(-1e12, 1e12), st.floats(1e-12, 1e12))
def test_number_is_shown_within_a_twentieth_of_its_error(value, error):
    shown, _, bound = with_error(value, error).partition(" ± ")
    assert abs(float(shown) - value) <= 0.051 * error + 1e-15 * abs(value)
    assert abs(float(bound) - error) <= 0.051 * error


@given(st.floats(-1e300, 1e300, allow_subnormal=False))
def test_number_without_error_has_four_digits(value):
    assert math.isclose(float(rounded(value)), value, rel_tol=5.1e-4)
