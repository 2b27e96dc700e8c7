"""Paths of recipes: where they lead, and what the files there hold."""

import os
from pathlib import Path

import pytest

from align.io import paths
from align.io.paths import Typed, beside, content, files_in, located, matches, seen_from


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A recipe's folder and the working folder."""
    for name in ("recipe", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with beside(tmp_path / "recipe"):
        yield tmp_path / "recipe", tmp_path / "work"


def test_located_file_in_one_folder_is_absolute(places):
    recipe, work = places
    (recipe / "a.txt").write_text("a")
    (work / "b.txt").write_text("b")
    assert located("a.txt") == str(recipe / "a.txt")
    assert located("./b.txt") == str(work / "b.txt")
    assert located("../recipe/a.txt") == str(recipe / "a.txt")
    assert located(str(work / "b.txt")) == str(work / "b.txt")


def test_located_equal_files_are_the_recipes(places):
    for folder in places:
        (folder / "a.txt").write_text("same")
        (folder / "data").mkdir()
        (folder / "data" / "x").write_text("1")
    assert located("a.txt") == str(places[0] / "a.txt")
    assert located("data") == str(places[0] / "data")


@pytest.mark.parametrize("name", ["a.txt", "data", "{0..1}.tar"])
def test_located_unequal_files_are_refused(places, name):
    for number, folder in enumerate(places):
        (folder / "data").mkdir()
        for file in ("a.txt", "data/x", "0.tar", "1.tar"):
            (folder / file).write_text(str(number))
    with pytest.raises(ValueError, match=r"are both there, .* and differ; write the whole path"):
        located(name)
    assert located(Typed(name)) == str(places[1] / name)


def test_located_text_that_leads_nowhere_stays(places):
    for text in ("", "owner/name", "x-*.tar", "nothing.txt", "a\0b", "x" * 5000):
        assert located(text) == text


def test_located_typed_text_is_not_looked_for_beside_the_recipe(places):
    (places[0] / "a.txt").write_text("a")
    assert located(Typed("a.txt")) == "a.txt"
    assert seen_from(Typed("a.txt")) == f", as seen from '{places[1]}'"
    assert seen_from("a.txt") == f", as seen from '{places[0]}' and from '{places[1]}'"


def test_located_pattern_is_that_of_its_files(places):
    for number in ("08", "09", "10"):
        (places[0] / f"x-{number}.tar").write_text(number)
    pattern = located("x-{08..10}.tar")
    assert pattern == str(places[0] / "x-{08..10}.tar")
    assert [Path(file).name for file in matches(pattern)] == ["x-08.tar", "x-09.tar", "x-10.tar"]
    assert list(files_in(pattern)) == ["x-08.tar", "x-09.tar", "x-10.tar"]


def test_content_of_a_folder_is_of_names_and_bytes(tmp_path):
    def made(name, **files):
        (tmp_path / name / "in").mkdir(parents=True)
        for file, text in files.items():
            (tmp_path / name / "in" / file).write_text(text)
        return content(str(tmp_path / name))

    first = made("a", x="1", y="2")
    assert made("b", x="1", y="2") == first
    assert len({first, made("c", x="1", z="2"), made("d", x="1", y="3"), made("e", x="1")}) == 4
    (tmp_path / "a" / "in" / "round").symlink_to(tmp_path / "a")
    assert content(str(tmp_path / "a")) == first
    (tmp_path / "a" / "made").mkdir()
    (tmp_path / "a" / "made" / "latents").write_text("by the run itself")
    assert content(str(tmp_path / "a"), without=[str(tmp_path / "a" / "made")]) == first


def test_content_of_many_small_files_is_of_names_and_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_MANY", 2)
    for name in "xyz":
        (tmp_path / name).write_text("1")
    (tmp_path / "large").write_bytes(os.urandom(paths._SMALL))
    before = content(str(tmp_path))
    (tmp_path / "x").write_text("2")
    assert content(str(tmp_path)) == before
    (tmp_path / "x").write_text("22")
    sized = content(str(tmp_path))
    (tmp_path / "large").write_bytes(os.urandom(paths._SMALL))
    assert len({before, sized, content(str(tmp_path))}) == 3
