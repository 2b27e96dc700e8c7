"""docs/generate.py: what is listed is whole, and nothing in it is without a text."""

import importlib.util
import inspect
import re
from pathlib import Path

import attrs
import pytest

import align
from align.catalog import hookspecs
from align.catalog.registry import load_catalog
from align.catalog.shipped import shipped
from align.cli.main import main
from align.core import errors
from align.core.term import TERM_OPTIONS
from align.recipe.schema import Run

DOCS = Path(__file__).parents[2] / "docs"
EMPTY = re.compile(r"\| *\|")


@pytest.fixture(scope="module")
def generate():
    """The module beside the documents."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


def test_every_part_has_a_page_with_every_option(generate, catalog):
    made = dict(generate.part_pages(catalog))
    overview = made.pop("parts/index")
    named = {
        (c, kind): entry for c, kinds in catalog.parts.items() for kind, entry in kinds.items()
    }
    assert set(made) == {f"parts/{contract}/{kind}" for contract, kind in named}
    for (contract, kind), entry in named.items():
        page = "\n".join(made[f"parts/{contract}/{kind}"])
        options = [f.alias or f.name for f in attrs.fields(entry.cls) if f.init]
        assert all(f"| `{name}" in page for name in options), (contract, kind)
        assert not EMPTY.search(page), (contract, kind)
        assert f"]({contract}/{kind}.md)" in "\n".join(overview)


def test_every_hook_has_a_text_below_its_signature(generate):
    sections = "\n".join(generate.hooks_page()).split("\n## ")[1:]
    hooks = [name for name in vars(hookspecs) if name.startswith("align_")]
    assert [section.partition("\n")[0] for section in sections] == [f"`{name}`" for name in hooks]
    for section in sections:
        text = section.partition("```python")[2].partition("```\n")[2]
        assert text.strip(), section


def test_every_error_has_a_text_and_its_exit_code(generate):
    page = "\n".join(generate.errors_page())
    classes = [
        thing
        for thing in vars(errors).values()
        if inspect.isclass(thing) and thing.__module__ == errors.__name__
    ]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\S.*) \|$", page, re.M)
    assert [name for name, _, _ in rows] == [error.__name__ for error in classes]
    codes = {name: int(code) for name, code, _ in rows}
    assert codes["RecipeError"] == 2 and codes["PartError"] == 1 and codes["UserInterrupt"] == 130


def test_every_command_and_option_has_a_text(generate):
    page = "\n".join(generate.commands_page())
    assert set(re.findall(r"^## `align (\w+)`$", page, re.M)) == {*main.commands}
    options = re.findall(r"^\| `(-.*?)` \| (.*) \|$", page, re.M)
    assert len(options) > 30
    assert all(text for _, text in options), [name for name, text in options if not text]


def test_every_key_of_a_section_is_listed(generate):
    page = "\n".join(generate.keys_page())
    keys = [field.name for field in attrs.fields(Run)] + [*TERM_OPTIONS]
    assert re.findall(r"^\| `(\w+)` ", page, re.M) == keys
    assert not EMPTY.search(page)


def test_every_public_name_has_a_section_or_a_part(generate, catalog):
    page = "\n".join(generate.python_page(align, catalog))
    for name in align.__all__:
        assert name == "__version__" or re.search(rf"^(###|\*) \[?`{name}`", page, re.M), name


def test_every_recipe_has_a_card_and_those_for_a_gpu_say_so(generate):
    made = dict(generate.gallery_pages())
    cards = "\n".join(made.pop("gallery/index"))
    assert set(made) == {f"gallery/{name}" for name in shipped()}
    for name, path in shipped().items():
        card = cards.partition(f":link: /generated/gallery/{name}\n")[2].partition("::::")[0]
        is_run = (DOCS / "gallery" / name / "about.json").exists()
        for_gpu = 'device = "cuda"' in path.read_text()
        assert is_run or not for_gpu or "for a GPU" in card, name
        assert path.read_text().rstrip() in "\n".join(made[f"gallery/{name}"])


def test_letters_of_a_docstring_mean_nothing_in_markdown(generate):
    text = generate.plain("x (B, *S) <name> [0, 1) p(x1 | x_t) `kept *as* it is`")
    assert text == r"x (B, \*S) \<name> \[0, 1) p(x1 \| x_t) `kept *as* it is`"
    doc = "A.\n\n    y = x\n\nArgs:\n    x: the state,\n        or two.\n"
    lines = [*generate.paragraphs(doc)]
    assert lines == [
        *("A.", "", "```text", "y = x", "```", ""),
        *("**Args**", "", "* `x`: the state,", "  or two.", ""),
    ]
