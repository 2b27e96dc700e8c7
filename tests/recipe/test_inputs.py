"""Files that recipes name: found beside them, told when they are two, noticed when they change."""

from pathlib import Path

import attrs
import pytest

from align.catalog.registry import load_catalog
from align.core.errors import RecipeError
from align.recipe import load, to_toml
from align.recipe.inputs import file_digests

RECIPE = """\
[run]
samples = 1
unsteered = 0

[model]
kind = "torch"
file = "net.py"
shape = [2]
prompts = "prompts.txt"

[[reward]]
kind = "python"
file = "mine/reward.py"

[mode]
kind = "best_of_n"
n = 2

[[compare]]
name = "same"

[[compare]]
name = "other"
model = { prompts = "others.txt" }
"""
FILES = {
    "net.py": "def model(): pass\n",
    "prompts.txt": "a cat\n",
    "others.txt": "a dog\n",
    "mine/reward.py": "import helper\ndef score(data, prompts): return helper.f(data)\n",
    "mine/helper.py": "def f(x): return x.sum(1)\n",
}


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of a recipe with its files, beside the working folder."""
    for name, text in {**FILES, "r.toml": RECIPE}.items():
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


def mistakes(path, catalog, *sets, sweeps=()):
    with pytest.raises(RecipeError) as error:
        load(path, catalog=catalog, sets=sets, sweeps=sweeps)
    return str(error.value).splitlines()


def test_recipe_from_elsewhere_has_absolute_paths_and_digests(home, catalog):
    recipe = load("../home/r.toml", catalog=catalog).recipe
    same, other = recipe.arms()
    assert same.model.file == str(home / "net.py")
    assert same.model.prompts == str(home / "prompts.txt")
    assert other.model.prompts == str(home / "others.txt")
    digests = file_digests(recipe)
    assert set(digests) == {str(home / name) for name in FILES}
    Path("resolved.toml").write_text(to_toml(attrs.evolve(recipe, files=digests)))
    again = load("resolved.toml", catalog=catalog).recipe
    assert (again.files, again.arms()) == (digests, recipe.arms())


def test_path_in_both_folders_is_told_where_they_differ(home, catalog):
    Path("prompts.txt").write_text("a cat\n")
    assert load("../home/r.toml", catalog=catalog)
    Path("prompts.txt").write_text("a cow\n")
    (line,) = {line.partition(": ")[2] for line in mistakes("../home/r.toml", catalog)}
    assert line.startswith(f"model.prompts: '{home}/prompts.txt' and '{Path.cwd()}/prompts.txt' ")
    assert load("../home/r.toml", catalog=catalog, sets=['model.prompts="prompts.txt"'])


def test_path_that_was_typed_starts_at_the_working_folder(home, catalog):
    (line,) = mistakes("../home/r.toml", catalog, 'reward[0].file="mine/reward.py"')
    assert line == (
        f"--set reward[0].file=\"mine/reward.py\": no file 'mine/reward.py', as seen from"
        f" '{Path.cwd()}'; give its path"
    )
    Path("two.txt").write_text("a fox\n")
    swept = load("../home/r.toml", catalog=catalog, sweeps=['model.prompts=["two.txt"]']).recipe
    assert swept.arms()[-1].model.prompts == str(Path("two.txt").absolute())


def test_missing_file_is_told_with_both_folders(home, catalog):
    (home / "prompts.txt").unlink()
    lines = mistakes("../home/r.toml", catalog)
    folders = f"'{home}' and from '{Path.cwd()}'"
    text = f"model.prompts: no file 'prompts.txt', as seen from {folders}; give its path"
    assert lines == [f"../home/r.toml:9: {text}"]


@pytest.mark.parametrize("name", ["prompts.txt", "mine/helper.py"])
def test_resolved_recipe_whose_file_has_changed_is_refused(home, catalog, name):
    recipe = load("../home/r.toml", catalog=catalog).recipe
    text = to_toml(attrs.evolve(recipe, files=file_digests(recipe)))
    Path("resolved.toml").write_text(text)
    (home / name).write_text((home / name).read_text() + "\n")
    (line,) = mistakes("resolved.toml", catalog)
    number = 1 + text[: text.index(f'"{home / name}" =')].count("\n")
    assert line.startswith(f'resolved.toml:{number}: files."{home / name}": it has changed since')
    rest = [row for row in text.splitlines() if not row.startswith(f'"{home / name}" =')]
    Path("resolved.toml").write_text("\n".join(rest))
    assert load("resolved.toml", catalog=catalog)


@pytest.mark.parametrize("alone", [True, False])
def test_latents_are_read_where_they_are_all_that_there_is(home, catalog, alone):
    labels = home / "latents" / "labels.npy"
    labels.parent.mkdir()
    (home / "pictures").mkdir()
    path = "" if alone else 'path = "pictures", '
    text = f'data = {{ {path}latents = "latents" }}'
    (home / "r.toml").write_text(f'[mode]\nkind = "autoencode"\n{text}\n')
    digests = []
    for content in (b"made once", b"made again"):
        labels.write_bytes(content)
        digests.append(file_digests(load("../home/r.toml", catalog=catalog).recipe))
    assert [str(labels.parent) in found for found in digests] == [alone, alone]
    assert (digests[0] != digests[1]) == alone
