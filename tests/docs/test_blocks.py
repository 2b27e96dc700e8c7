"""Code in documents: Python that names what there is, and commands that would be understood."""

import ast
import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from align.catalog.shipped import SIGN, resolved
from align.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if "generated" not in page.parts),
    *sorted(ROOT.glob("plugins/*/README.md")),
]
COMMAND = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?(align|python|pip) (.*)$")


def fenced(page, language):
    """The blocks of a language, as they are dedented in lists."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.M | re.S)
    return [
        "".join(line[len(indent) :] for line in text.splitlines(True)) for indent, text in found
    ]


def commands(page):
    """The commands of a page, in blocks of shell or set in by four letters, as words."""
    set_in = re.findall(r"^    ((?:align|python|pip) (?:\\\n|[^\n])*)", page.read_text(), re.M)
    text = "\n".join((*fenced(page, "sh"), *set_in))
    for line in text.replace("\\\n", " ").splitlines():
        if match := COMMAND.match(line.strip()):
            words = shlex.split(match[2], comments=True)
            ends = [place for place, word in enumerate(words) if word in ("&&", ">")]
            yield match[1], words[: ends[0]] if ends else words


def of_align(words, _):
    """Parse a command of align as the command line would, without doing it."""
    if words[0] in BROUGHT:
        return
    context = main.make_context("align", list(words))
    name, command, rest = main.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)
    for word in words:
        if word.startswith(SIGN) and word[1:].islower():
            resolved(word)
        if word.startswith("recipes/"):
            assert (ROOT / word).is_file(), word


def of_python(words, page):
    """A module or a script that a command starts is there."""
    if words[:1] == ["-m"] and words[1].startswith("benchmarks"):
        path = ROOT / words[1].replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), words[1]
    elif words[0].endswith(".py") and "/" in words[0]:
        assert any((folder / words[0]).is_file() for folder in (ROOT, page.parent)), words[0]


def of_pip(words, _):
    """Plugins and extras that are installed are there."""
    for word in words[1:]:
        if word.startswith("./plugins/"):
            assert (ROOT / word).is_dir(), word
        if match := re.fullmatch(r"(align-[\w-]+)\[(\w+)\]", word):
            folder = ROOT if match[1] == "align-core" else ROOT / "plugins" / match[1]
            if folder.is_dir():
                assert match[2] in project(folder)["optional-dependencies"], word


def project(folder):
    """What a distribution says of itself."""
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


BROUGHT = {
    name
    for folder in ROOT.glob("plugins/align-*")
    for name in project(folder)["entry-points"].get("align.commands", ())
}
"""Commands that plugins bring, which need not be installed."""
TAKEN = {"align": of_align, "python": of_python, "pip": of_pip}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for program, words in commands(page):
        try:
            TAKEN[program](words, page)
        except click.UsageError as error:
            pytest.fail(f"{program} {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_a_page_names_what_there_is(page):
    for block in fenced(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "align":
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module} has no {name.name}"


def keys_of(schema):
    """Every name of an option in a JSON Schema."""
    found = set()
    for name, inner in schema.items() if isinstance(schema, dict) else ():
        found |= {*inner} if name == "properties" else set()
        found |= keys_of(inner)
    for inner in schema if isinstance(schema, list) else ():
        found |= keys_of(inner)
    return found


def test_options_in_tables_of_pages_are_there():
    known = keys_of(json.loads((ROOT / "recipes" / "recipe.schema.json").read_text()))
    named = set()
    for page in PAGES:
        for table in re.findall(r"^\| option \|.*\n(?:\|.*\n)+", page.read_text(), re.M):
            for row in table.splitlines()[2:]:
                names = re.findall(r"`(\w+)(?: = .*?)?`", row.split("|")[1])
                assert not {*names} - known, f"{page.relative_to(ROOT)}: {row}"
                named |= {*names}
    assert len(named) > 30


def test_most_pages_have_commands():
    assert sum(len([*commands(page)]) for page in PAGES) > 100
