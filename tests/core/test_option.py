"""Options and the values they refuse."""

import math

import attrs
import pytest

from align.core.option import MOST_ERRORS, ConfigErrors, above, at_least, between, option


@attrs.frozen(kw_only=True)
class Part:
    low: float = option("at least one", default=1.0, check=at_least(1))
    high: float = option("above nothing", default=1.0, check=above(0))
    share: float = option("a share", default=0.5, check=between(0, 1))
    must: int = option("required")


def test_help_and_defaults():
    fields = attrs.fields_dict(Part)
    assert fields["share"].metadata["help"] == "a share"
    assert fields["must"].default is attrs.NOTHING
    with pytest.raises(TypeError, match="must"):
        Part()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"low": 0.5}, "'low' must be at least 1, got 0.5"),
        ({"high": 0.0}, "'high' must be greater than 0, got 0"),
        ({"share": 1.5}, "'share' must be from 0 to 1, got 1.5"),
        ({"share": -0.1}, "'share' must be from 0 to 1, got -0.1"),
        ({"low": math.nan}, "'low' must be finite, got nan"),
        ({"high": math.nan}, "'high' must be finite, got nan"),
        ({"share": math.nan}, "'share' must be finite, got nan"),
    ],
)
def test_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Part(must=1, **given)


def test_bounds_themselves():
    assert Part(must=1, low=1, high=1e-9, share=0.0).share == 0.0
    assert Part(must=1, share=1.0).share == 1.0


@attrs.frozen(kw_only=True)
class Numbers:
    plain: tuple[tuple[float, ...], ...] = option("finite", default=())
    table: dict[str, float] = option("finite", default=attrs.Factory(dict))
    clip: tuple[float, float] = option("infinity is no bound", default=(0.0, 1.0), infinite=True)
    until: tuple[float, ...] = option("its default has infinity", default=(1.0, math.inf))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"plain": ((1.0, math.inf),)}, (0, 1)),
        ({"plain": ((), (-math.inf,))}, (1, 0)),
        ({"table": {"a": math.nan}}, ("a",)),
        ({"clip": (math.nan, 1.0)}, (0,)),
        ({"until": (math.nan,)}, (0,)),
    ],
)
def test_number_not_finite_is_refused_where_it_lies(given, key):
    with pytest.raises(ConfigErrors) as caught:
        Numbers(**given)
    assert [error.key for error in caught.value.errors] == [key]


def test_infinity_with_a_meaning_is_taken():
    assert Numbers(clip=(-math.inf, 0.0), until=(math.inf,)).clip == (-math.inf, 0.0)


def test_many_numbers_not_finite_are_told_up_to_a_bound():
    with pytest.raises(ConfigErrors) as caught:
        Numbers(plain=((math.nan,) * 100_000,))
    assert len(caught.value.errors) == MOST_ERRORS
