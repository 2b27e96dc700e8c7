"""Writes the pages that are made from the code: parts, keys, hooks, errors, commands, Python.

`conf.py` calls it before every build; `python docs/generate.py` does it by hand. The pages lie in
docs/generated, which git ignores.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

DOCS: Final = Path(__file__).resolve().parent
ROOT: Final = DOCS.parent
PAGES: Final = DOCS / "generated"
PICTURES: Final = DOCS / "pictures" / "parts"
GALLERY: Final = DOCS / "gallery"
_GROUPS: Final = {
    "": "The main recipe",
    "closed_form": "Mixtures, where the answer is known",
    "diffusers": "Text-to-image pipelines",
    "imagenet": "ImageNet",
    "inverse": "Inverse problems",
    "paper": "The paper's experiments",
    "pocket": "Small pictures of animals",
    "rewards": "Rewards",
    "scoreboard": "The scoreboard: methods on six worlds",
}
"""What folders of recipes are called; others have the name of the folder."""
_SECTIONS: Final = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Example):$")
_ITEM: Final = re.compile(r"^(\*{0,2}\w[\w., \[\]]*):(?: (.*))?$")
_CODE: Final = re.compile(r"(`[^`]*`)")

sys.path.insert(0, str(ROOT))


# Text


def plain(text: str) -> str:
    """A text of a docstring as Markdown, in which no letter has a meaning but backticks."""
    parts = _CODE.split(text)
    return "".join(
        part if number % 2 else re.sub(r"([*<\[\]|$\\{}])", r"\\\1", part)
        for number, part in enumerate(parts)
    )


def cell(text: str) -> str:
    """A text for a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table of Markdown, an empty one after it; nothing where there are no rows."""
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    if lines:
        yield "| " + " | ".join(heads) + " |"
        yield "|" + "---|" * len(heads)
        yield from lines
        yield ""


def paragraphs(doc: str) -> Iterator[str]:
    """A docstring as Markdown: lines that are set in become code, sections become lists."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        lines = block.splitlines()
        if _SECTIONS.match(lines[0]):
            yield from _section(lines[0].rstrip(":"), lines[1:])
        elif lines[0].startswith(" "):
            yield from ("```text", *inspect.cleandoc("\n" + block).splitlines(), "```")
        else:
            yield from map(plain, lines)
        yield ""


def _section(name: str, lines: Sequence[str]) -> Iterator[str]:
    """Arguments, attributes or errors, one a line of a list."""
    yield f"**{name}**"
    yield ""
    for line in inspect.cleandoc("\n" + "\n".join(lines)).splitlines():
        item = _ITEM.match(line)
        if item:
            yield f"* `{item[1]}`: {plain(item[2] or '')}"
        else:
            yield f"  {plain(line.strip())}"


def write(path: Path, lines: Iterable[str]) -> None:
    """Write a page, unless it is there with the same text: Sphinx reads again what is new."""
    text = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def toctree(pages: Iterable[str], *options: str) -> list[str]:
    """A table of contents of pages."""
    return ["```{toctree}", *(f":{option}" for option in options), "", *pages, "```", ""]


def home(cls: type[Any]) -> str:
    """The file of a class, from the root of the repository."""
    return str(Path(inspect.getsourcefile(cls) or "").resolve().relative_to(ROOT))


# Parts


def part_pages(catalog: Any) -> Iterator[tuple[str, list[str]]]:
    """A page a part, and one of all of them."""
    from align.catalog.contracts import CONTRACT_CLASSES, plural
    from align.cli.listing import parts_of

    parts = list(parts_of(catalog))
    overview = ["# Parts", "", "What a recipe may name. Every page is made from the code.", ""]
    for contract in CONTRACT_CLASSES:
        rivals = [part for part in parts if part.contract == contract]
        if not rivals:
            continue
        overview += [f"## {plural(contract).capitalize()}", ""]
        rows = [
            (f"[`{part.kind}`]({contract}/{part.kind}.md)", plain(part.summary)) for part in rivals
        ]
        overview += [*table(("kind", "choose it for"), rows)]
        overview += toctree([f"{contract}/{part.kind}" for part in rivals], "hidden:")
        for part in rivals:
            cls = catalog.parts[contract][part.kind].cls
            yield f"parts/{contract}/{part.kind}", [*_part(part, cls, rivals)]
    yield "parts/index", overview


def _part(part: Any, cls: type[Any], rivals: Sequence[Any]) -> Iterator[str]:
    """One part: what it computes, how a recipe names it, its options, and what else there is."""
    from align.cli.shown import in_a_recipe

    yield f"# `{part.kind}`"
    yield ""
    yield f"*{part.contract}, `{cls.__name__}` in `{home(cls)}`*"
    yield ""
    yield from paragraphs(part.doc)
    picture = PICTURES / f"{part.contract}_{part.kind}.png"
    if picture.exists():
        yield f"![{part.kind}, drawn](/pictures/parts/{picture.name})"
        yield ""
    yield from ("## In a recipe", "", "```text", *in_a_recipe(part), "```", "")
    yield from ("## Options", "")
    rows = [
        (f"`{name}`", plain(text), plain(kind), f"`{default}`")
        for name, kind, default, text in part.options
    ]
    yield from (
        table(("key", "what it is", "value", "default"), rows) if rows else ["It has none.", ""]
    )
    others = [other for other in rivals if other.kind != part.kind]
    if others:
        yield from ("## Instead of it", "")
        yield from (
            f"* [`{other.kind}`]({other.kind}.md): {plain(other.summary)}" for other in others
        )
        yield ""
    yield from _seen(part.kind)


@functools.cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _seen(kind: str) -> Iterator[str]:
    """Where a kind is used and measured: recipes and pages of results that name it."""
    from align.catalog.shipped import about, shipped

    named = re.compile(rf'kind = "{kind}"|(?:dynamics|sampler|estimator|metric) = "{kind}"')
    recipes = {name: path for name, path in shipped().items() if named.search(_text(path))}
    if recipes:
        yield from ("## Recipes with it", "")
        yield from (
            f"* [`@{name}`](/generated/gallery/{name}.md): {plain(about(path))}"
            for name, path in recipes.items()
        )
        yield ""
    in_a_row = re.compile(rf"^\|.*\b{kind}\b", re.MULTILINE | re.IGNORECASE)
    pages = [page for page in sorted(DOCS.glob("results/*.md")) if in_a_row.search(_text(page))]
    if pages:
        yield from ("## Measured in", "")
        yield from (f"* [{_title(page)}](/results/{page.name})" for page in pages)
        yield ""


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


# Keys of a recipe


def keys_page() -> list[str]:
    """Keys of the sections that belong to no part."""
    import attrs

    from align.catalog.describe import expected
    from align.core.term import TERM_OPTIONS, RewardTerm
    from align.recipe.schema import Run
    from align.recipe.write import default_text

    def rows(cls: type[Any], only: Iterable[str] | None = None) -> Iterator[Sequence[str]]:
        for field in attrs.fields(attrs.resolve_types(cls)):
            name = field.alias or field.name
            if field.init and (only is None or name in only):
                default, text = default_text(field), field.metadata.get("help", "")
                yield f"`{name}`", plain(text), plain(expected(field.type)), f"`{default}`"

    heads = ("key", "what it is", "value", "default")
    return [
        "# Keys of a recipe",
        "",
        "A section `[model]`, `[sampler]`, `[estimator]`, `[mode]` or `[[metric]]` has the options "
        "of the [part](parts/index.md) that its `kind` names. The keys below belong to no part. "
        "[Recipes](/reference/recipes.md) says how sections go together.",
        "",
        "## `[run]`",
        "",
        *table(heads, rows(Run)),
        "## `[[reward]]`",
        "",
        "Beside the options of the reward itself:",
        "",
        *table(heads, rows(RewardTerm, TERM_OPTIONS)),
    ]


# Hooks, errors, commands


def hooks_page() -> list[str]:
    """Every hook with its signature and text."""
    from align.catalog import hookspecs

    lines = ["# List of hooks", "", "[Hooks](/reference/hooks.md) says how a plugin has them.", ""]
    for name, hook in vars(hookspecs).items():
        if name.startswith("align_"):
            signature = str(inspect.signature(hook)).replace("'", "")
            lines += [f"## `{name}`", "", "```python", f"def {name}{signature}: ...", "```", ""]
            lines += paragraphs(hook.__doc__ or "")
    return lines


def errors_page() -> list[str]:
    """Every error that has a cure, with its exit code."""
    from align.core import errors

    rows = [
        (f"`{name}`", str(getattr(error, "exit_code", 130)), plain(summary(error)))
        for name, error in vars(errors).items()
        if inspect.isclass(error) and error.__module__ == errors.__name__
    ]
    return [
        "# List of errors",
        "",
        "The classes of `align.core.errors`. A mistake that has a cure is shown as one line; "
        "[Messages](/reference/errors.md) has the cures.",
        "",
        *table(("error", "exit code", "when"), rows),
    ]


def summary(thing: Any) -> str:
    """First paragraph of a docstring, in one line."""
    return " ".join(inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].split())


def commands_page() -> list[str]:
    """Every command with its arguments, as `--help` says them."""
    import click

    from align.cli.main import main

    lines = [
        "# List of commands",
        "",
        "[The command line](/reference/command_line.md) shows them at work.",
        "",
    ]

    def add(command: click.Command, context: click.Context) -> None:
        usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
        lines.extend((f"## `{context.command_path}`", "", "```text", usage, "```", ""))
        lines.extend(paragraphs(command.help or ""))
        records = [
            record for p in command.get_params(context) if (record := p.get_help_record(context))
        ]
        lines.extend(table(("option", "what it does"), [(f"`{a}`", plain(b)) for a, b in records]))
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                if inner := command.get_command(context, name):
                    add(inner, click.Context(inner, info_name=name, parent=context))

    add(main, click.Context(main, info_name="align"))
    return lines


# Python


def python_page(align: ModuleType, catalog: Any) -> list[str]:
    """Every public name: functions with their signatures, classes with their methods."""
    named = {
        entry.cls: f"parts/{contract}/{kind}.md"
        for contract, entries in catalog.parts.items()
        for kind, entry in entries.items()
    }
    things = {name: getattr(align, name) for name in align.__all__ if name != "__version__"}
    functions = {n: thing for n, thing in things.items() if inspect.isroutine(thing)}
    classes = {n: t for n, t in things.items() if inspect.isclass(t) and t not in named}
    parts = {n: named[t] for n, t in things.items() if inspect.isclass(t) and t in named}
    others = things.keys() - functions.keys() - classes.keys() - parts.keys()
    lines = ["# Python", "", "All of it is imported from `align`.", "", "## Functions", ""]
    for name, function in functions.items():
        lines += _routine(name, function, "###")
    lines += ["## Parts", "", "Their arguments are their options.", ""]
    lines += [f"* [`{name}`]({page})" for name, page in parts.items()]
    lines += ["", "## Contracts and values", ""]
    for name, cls in classes.items():
        lines += [f"### `{name}`", "", *paragraphs(cls.__doc__ or "")]
        for method, routine in _methods(cls):
            lines += _routine(f"{name}.{method}", routine, "####")
    if others:
        lines += ["## Types", "", *(f"* `{name}`: `{things[name]}`" for name in sorted(others)), ""]
    return lines


def _methods(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines itself."""
    for name, thing in vars(cls).items():
        routine = thing.__func__ if isinstance(thing, (classmethod, staticmethod)) else thing
        routine = routine.fget if isinstance(routine, property) else routine
        if not name.startswith("_") and inspect.isfunction(routine) and routine.__doc__:
            yield name, routine


def _routine(name: str, routine: Callable[..., Any], mark: str) -> Iterator[str]:
    """A function with its signature, broken where it is long."""
    signature = str(inspect.signature(routine)).replace("'", "")
    text = f"{name}{signature}"
    if len(text) > 88:
        text = re.sub(r", (?=[\w*/]+[:,)=])|, (?=\*,)", ",\n    ", text).replace("(", "(\n    ", 1)
    yield from (f"{mark} `{name}`", "", "```python", *text.splitlines(), "```", "")
    yield from paragraphs(routine.__doc__ or "")


# The gallery


def gallery_pages() -> Iterator[tuple[str, list[str]]]:
    """A card for each recipe that comes with align, and a page behind it."""
    from align.catalog.shipped import shipped

    groups: dict[str, list[str]] = {}
    for name, path in shipped().items():
        groups.setdefault(name.rpartition("/")[0], []).append(name)
        yield f"gallery/{name}", [*_recipe_page(name, path)]
    index = [
        "# Gallery",
        "",
        "Every recipe that comes with `align`, with what a run of it left behind. "
        "`align run @NAME` runs one, `align show @NAME` prints it.",
        "",
    ]
    for group, names in groups.items():
        index += [f"## {_GROUPS.get(group, group)}", "", ":::::{grid} 1 2 2 3", ":gutter: 2", ""]
        for name in names:
            index += _card(name, shipped()[name])
        index += [":::::", ""]
    index += toctree(shipped(), "hidden:")
    yield "gallery/index", index


def _card(name: str, path: Path) -> Iterator[str]:
    from align.catalog.shipped import about

    yield f"::::{{grid-item-card}} {name.rpartition('/')[2]}"
    yield f":link: /generated/gallery/{name}"
    yield ":link-type: doc"
    if (GALLERY / name / "picture.png").exists():
        yield f":img-top: /gallery/{name}/picture.png"
    yield ""
    yield plain(about(path).removesuffix("  CUDA"))
    yield from ("", ":::{card-footer}", _needs(name, path), ":::", "::::", "")


def _needs(name: str, path: Path) -> str:
    """What a run of a recipe takes, in a few words."""
    kept = GALLERY / name / "about.json"
    if kept.exists():
        about = json.loads(kept.read_text(encoding="utf-8"))
        return f"shown: {about['samples']} samples, made on a {about['device'].upper()}"
    text = path.read_text(encoding="utf-8")
    if 'device = "cuda"' in text or "CUDA" in text:
        return "**for a GPU**; no run is kept here"
    needs = sorted(set(re.findall(r"\"((?:data|runs)/[\w./-]+)\"", text)))
    return f"needs `{needs[0]}`; no run is kept here" if needs else "no run is kept here"


def _recipe_page(name: str, path: Path) -> Iterator[str]:
    """One sentence, the picture, the table and the recipe."""
    from align.catalog.shipped import about

    kept, text = GALLERY / name, path.read_text(encoding="utf-8")
    yield from (f"# {name}", "", plain(about(path).removesuffix("  CUDA")), "")
    yield from ("```text", f"align run @{name}", "```", "")
    if (kept / "about.json").exists():
        facts = json.loads((kept / "about.json").read_text(encoding="utf-8"))
        yield f"![{facts['picture']} of the run](/gallery/{name}/picture.png)"
        yield ""
        yield from (kept / "table.md").read_text(encoding="utf-8").splitlines()
        yield ""
        yield (
            f"Run on {facts['date']}, {facts['samples']} samples: {facts['device']}, threads:"
            f" {facts['threads']}, torch {facts['torch']}, align {facts['align']},"
            f" {facts['machine']}."
        )
    else:
        yield f"{_needs(name, path).capitalize()}."
    yield from ("", "```toml", *text.splitlines(), "```")


def whole_catalog() -> Any:
    """The parts of this repository, whichever of its plugins are installed."""
    from align.catalog.registry import load_catalog
    from tests.recipe.whole_schema import entry_points

    catalog = load_catalog(entry_points())
    assert not catalog.broken, catalog.broken
    return catalog


def pages() -> dict[str, list[str]]:
    """Every generated page, by its name."""
    import align

    catalog = whole_catalog()
    return {
        **dict(part_pages(catalog)),
        "keys": keys_page(),
        "hooks": hooks_page(),
        "errors": errors_page(),
        "commands": commands_page(),
        "python": python_page(align, catalog),
        **dict(gallery_pages()),
    }


def generate() -> None:
    """Write all pages, and remove those that are no more."""
    made = {PAGES / f"{name}.md": lines for name, lines in pages().items()}
    for path in PAGES.rglob("*.md"):
        if path not in made:
            path.unlink()
    for path, lines in made.items():
        write(path, lines)


if __name__ == "__main__":
    generate()
