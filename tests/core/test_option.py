"""Options and the values they refuse."""

import math

import attrs
import pytest

from align.core.option import above, at_least, between, option


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
        ({"low": math.nan}, "'low' must be at least 1, got nan"),
        ({"high": math.nan}, "'high' must be greater than 0, got nan"),
        ({"share": math.nan}, "'share' must be from 0 to 1, got nan"),
    ],
)
def test_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Part(must=1, **given)


def test_bounds_themselves():
    assert Part(must=1, low=1, high=1e-9, share=0.0).share == 0.0
    assert Part(must=1, share=1.0).share == 1.0
