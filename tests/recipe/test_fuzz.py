"""Recipes that nobody would write: `align check` has a line for each mistake, and no traceback."""

import copy
import tomllib
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.catalog.registry import load_catalog
from align.cli.main import main

ROOT = Path(__file__).parents[2]
SKELETONS = [
    file.read_text()
    for name in ("closed_form/mixture_particles", "closed_form/distill", "tabby_cat")
    for file in [ROOT / "recipes" / f"{name}.toml"]
]
TEXTS = st.one_of(
    st.sampled_from(
        ["", "mixture", "nan", "{cat|", "{class}", "}}", "a\x00b", "\u202e", "C:\\new"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
SCALARS = st.one_of(
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, -(2**63), 10**30]),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.dates(),
    TEXTS,
)
KEYS = st.one_of(
    st.sampled_from(["kind", "steps", "draws", "net", "prompt", "weights", "seed", "times"]), TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def loaded():
    return load_catalog()


@pytest.fixture
def checked(loaded, monkeypatch, tmp_path):
    monkeypatch.setattr("align.catalog.registry.load_catalog", lambda: loaded)
    monkeypatch.chdir(tmp_path)

    def check(content):
        Path("r.toml").write_bytes(content)
        result = CliRunner().invoke(main, ["check", "r.toml"])
        assert result.exception is None or isinstance(result.exception, SystemExit), content
        assert result.exit_code in (0, 2)
        assert result.exit_code == 0 or all(
            line.startswith("r.toml:") for line in result.stderr.splitlines()
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == ["r.toml"]

    return check


def places(value, key=()):
    """Every key in a document, from the outside in."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in items:
        yield (*key, name)
        if isinstance(item, dict | list):
            yield from places(item, (*key, name))


@st.composite
def mutated(draw):
    document = tomllib.loads(draw(st.sampled_from(SKELETONS)))
    for _ in range(draw(st.integers(1, 4))):
        document = copy.deepcopy(document)
        *outer, last = draw(st.sampled_from(list(places(document)) or [("mode",)]))
        inside = document
        for name in outer:
            inside = inside[name]
        match draw(st.sampled_from(["value", "value", "delete", "rename", "more"])):
            case "value":
                inside[last] = draw(VALUES)
            case "delete" if last in inside or isinstance(inside, list):
                del inside[last]
            case "rename" if isinstance(inside, dict) and last in inside:
                inside[draw(KEYS)] = inside.pop(last)
            case _ if isinstance(inside, dict):
                inside[draw(KEYS)] = draw(VALUES)
    return tomli_w.dumps(document)


SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SETTINGS
@given(text=mutated())
def test_recipe_with_mutations_is_good_or_has_lines(checked, text):
    checked(text.encode())


@SETTINGS
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")),
        st.text("[]{}=.,\"'#\n \\ab1-", max_size=60).map(str.encode),
    )
)
def test_raw_text_is_good_or_has_lines(checked, content):
    checked(content)


@SETTINGS
@given(
    text=st.sampled_from(SKELETONS),
    place=st.integers(0, 3000),
    length=st.integers(0, 30),
    put=st.text("[]{}=.,\"'#\n \\ab1-", max_size=6),
)
def test_recipe_that_was_cut_or_garbled_is_good_or_has_lines(checked, text, place, length, put):
    checked((text[:place] + put + text[place + length :]).encode())
