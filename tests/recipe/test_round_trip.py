"""Recipes of drawn options survive the way to TOML and back."""

import math
import tomllib

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.recipe import to_toml

# TOML has integers of 64 bits, and any text but lone surrogates.
INTEGERS = st.integers(1, 2**63 - 1)
NUMBERS = st.floats(allow_nan=False)
ABOVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
FINITE = NUMBERS.filter(math.isfinite)
WEIGHTS = FINITE.filter(bool)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def tuples(numbers):
    """Tuples of up to three of them."""
    return st.lists(numbers, max_size=3).map(tuple)


MODES = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 2**31),
        "scale": ABOVE,
        "loud": st.booleans(),
        "label": TEXTS,
        "sizes": tuples(INTEGERS),
        "span": st.tuples(NUMBERS, NUMBERS),
        "grid": tuples(tuples(FINITE)),
        "count": st.one_of(INTEGERS, st.just("all")),
        "by_name": st.dictionaries(TEXTS, FINITE, max_size=3),
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=MODES, prompt=TEXTS, weight=WEIGHTS, seed=st.integers(0, 2**62))
def test_recipe_of_drawn_options_is_read_back_equal(read, good, options, prompt, weight, seed):
    recipe = read(good).recipe
    term = attrs.evolve(recipe.reward[0], weight=weight)
    changed = attrs.evolve(
        recipe,
        run=attrs.evolve(recipe.run, seed=seed),
        model=attrs.evolve(recipe.model, prompt=prompt.replace("{", "{{").replace("}", "}}")),
        mode=attrs.evolve(recipe.mode, warm=0, **options),
        reward=(term, *recipe.reward[1:]),
    )
    text = to_toml(changed)
    assert tomllib.loads(text)["mode"]["label"] == options["label"]
    assert read(text).recipe == changed


@pytest.mark.parametrize("number", [0.1 + 0.2, 1e300, 5e-324, -0.0, math.inf, 2.0**53 + 2])
def test_number_is_read_back_with_its_bits(read, good, number):
    recipe = read(good).recipe
    changed = attrs.evolve(recipe, mode=attrs.evolve(recipe.mode, span=(number, number)))
    found = read(to_toml(changed)).recipe.mode.span[0]
    assert math.copysign(1, found) == math.copysign(1, number)
    assert found == number
