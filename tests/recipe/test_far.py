"""Numbers far from usual ones are named where a run's numbers overflow."""

import pytest

from align.recipe.far import far_numbers


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ""),
        ("[mode]\nscale = 1e3\nclip = inf\nsteps = 10000000000\n[run]\nseed = 99999999999", ""),
        ("[mode]\nscale = 0.0\n", ""),
        (
            "[[reward]]\nweight = 1.0\n[[reward]]\nweight = -1e160\n",
            "reward[1].weight = -1e+160 is far from usual numbers, which may be why",
        ),
        (
            "a = 1e9\n[b]\nc = 1e-200\nd = [1.0, 1e300]\ne = { f = 1e12 }\n",
            "b.d[1] = 1e+300 and b.c = 1e-200 and b.e.f = 1e+12 are far from usual numbers, which"
            " may be why",
        ),
    ],
)
def test_numbers_far_from_usual_ones_are_named(text, named):
    assert far_numbers(text) == named
