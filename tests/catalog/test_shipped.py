"""Recipes that come with align, by their names."""

import pytest

from align.catalog.shipped import about, resolved, shipped
from align.core.errors import RecipeError


def test_name_of_a_recipe_is_its_path_among_those_that_ship():
    path = resolved("@pocket/search")
    assert path.parts[-2:] == ("pocket", "search.toml")
    assert resolved("@pocket/search.toml") == path
    assert resolved("@tabby_cat").name == "tabby_cat.toml"


def test_path_is_left_as_it_is():
    assert str(resolved("recipes/x.toml")) == "recipes/x.toml"
    assert str(resolved("./@x.toml")) == "@x.toml"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("@bison", "did you mean '@pocket/bison'?"),
        ("@tabycat", "did you mean '@tabby_cat'?"),
        ("@zzz", "`align list recipes` shows those there are"),
        ("@", "`align list recipes` shows those there are"),
        ("@../recipes/tabby_cat", "`align list recipes` shows those there are"),
    ],
)
def test_unknown_name_is_told_with_what_was_meant(name, advice):
    with pytest.raises(RecipeError) as error:
        resolved(name)
    assert str(error.value) == f"no recipe named '{name}' comes with align; {advice}"


def test_every_recipe_says_what_it_is_for_in_one_sentence():
    for name, path in shipped().items():
        text = about(path)
        assert text.endswith((".", "?")), (name, text)
        assert "align run" not in text and "  " not in text


def test_sentence_may_go_over_lines(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(
        "#:schema x.json\n# A cat, in 1.5 steps,    align run x.toml\n# or more. And.\n"
    )
    assert about(path) == "A cat, in 1.5 steps, or more."
    path.write_text("[run]\n")
    assert about(path) == ""
