"""A run in one archive, from which it can be repeated elsewhere."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, final

import attrs
import tomli_w

from align.catalog.registry import Catalog
from align.catalog.tables import inputs, kept_folders
from align.core.errors import PartError
from align.io.files import exists_as_file, read_table, readable, replacing
from align.io.paths import files_in
from align.recipe import Recipe, load
from align.recipe.inputs import file_digests
from align.recipe.write import to_tables

_FILES: Final = "files"
_DATE: Final = (1980, 1, 1, 0, 0, 0)  # of all members, so that a run has one archive
_STORED: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".safetensors", ".tar", ".zip"})
_DISTRIBUTION: Final = re.compile(r"([A-Za-z0-9._-]+) (\d[\w.!+-]*)")


@final
@attrs.frozen
class Packed:
    """What was packed.

    Attributes:
        path: of the archive.
        left_out: files that are too large for it, with what is to be done about each.
    """

    path: Path
    left_out: tuple[str, ...]


def pack(folder: Path, to: Path, catalog: Catalog, *, largest: float) -> Packed:
    """Write an archive with a run's recipe and all that it reads, in relative paths.

    Args:
        folder: of the run.
        to: the archive.
        catalog: the parts that the recipe names.
        largest: bytes of the largest file that is packed; others are named by their digests.

    Raises:
        RecipeError: the recipe cannot be read, or a file has changed since the run.
        PartError: the folder holds no run, or the archive is there or cannot be written.
    """
    recipe_file = folder / "recipe.toml"
    if not exists_as_file(recipe_file):
        raise PartError(f"'{folder}' holds no run: it has no recipe.toml; name the folder of a run")
    if os.path.lexists(to):
        raise PartError(f"'{to}' is there already; remove it, or choose another name with --to")
    name = folder.absolute().name
    recipe = load(recipe_file, catalog=catalog).recipe
    digests, layout = file_digests(recipe), _Layout.of(recipe)
    tables = layout.moved(to_tables(recipe))
    tables["run"]["out"] = f"runs/{name}"
    tables["files"] = {
        place: digests[path]
        for path, place in sorted({**layout.members, **layout.values}.items())
        if path in digests
    }
    sizes = {path: Path(path).stat().st_size for path in layout.members}
    missing = sorted(path for path, size in sizes.items() if size > largest)
    left_out = tuple(
        f"{layout.members[path]}: {readable(sizes[path])}"
        + (f", sha256 {digests[path]}" if path in digests else "")
        for path in missing
    )
    facts = read_table(folder / "about.json") if (folder / "about.json").is_file() else {}
    texts = {
        "recipe.toml": tomli_w.dumps(tables),
        "README.md": _readme(name, facts, left_out, layout.outside),
        "requirements.txt": "".join(f"{line}\n" for line in _requirements(facts)),
    }
    with replacing(to) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in texts.items():
            archive.writestr(_member(f"{name}/{member}"), text)
        for path, place in sorted(layout.members.items(), key=lambda item: item[1]):
            if path not in missing:
                with (
                    Path(path).open("rb") as source,
                    archive.open(_member(f"{name}/{place}"), "w", force_zip64=True) as target,
                ):
                    while block := source.read(1 << 20):
                        target.write(block)
    return Packed(to, (*left_out, *layout.outside))


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _DATE)
    stored = Path(name).suffix in _STORED
    member.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    return member


@final
@attrs.frozen
class _Layout:
    """Where files lie in the archive.

    Attributes:
        members: relative place of each file, by its absolute path.
        values: what stands in the recipe in place of each path.
        outside: what is not packed though it is needed, and what is to be done.
    """

    members: dict[str, str] = attrs.field(factory=dict)
    values: dict[str, str] = attrs.field(factory=dict)
    outside: list[str] = attrs.field(factory=list)
    _homes: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, recipe: Recipe) -> _Layout:
        """The layout of all that a recipe reads."""
        layout = cls()
        # Code first: it finds its files by their places beside it.
        for value, code in sorted(inputs(recipe).items(), key=lambda item: not item[1]):
            if code:
                layout._add_code(value, code)
            else:
                layout._add(value)
        for value in kept_folders(recipe):
            layout._leave(value)
        return layout

    def moved(self, value: Any) -> Any:
        """Tables of a recipe with the places of files in place of their paths."""
        if isinstance(value, dict):
            return {key: self.moved(item) for key, item in value.items()}
        if isinstance(value, list):
            return list(map(self.moved, value))
        return self.values.get(value, value) if isinstance(value, str) else value

    def _add_code(self, value: str, code: tuple[Path, ...]) -> None:
        """Code keeps the order in which its files lie; a module lies where align is started."""
        here, whole = Path.cwd().resolve(), Path(value).resolve()
        home = whole.parent if value.endswith(".py") else here
        for file in code:
            if home != here and file.is_relative_to(home):
                place = f"{self._home(str(home), home.name)}/{file.relative_to(home).as_posix()}"
            elif file.is_relative_to(here):
                place = file.relative_to(here).as_posix()
            else:
                self.outside.append(f"'{file}', which '{value}' names, lies elsewhere: not packed")
                continue
            self.members[str(file)] = place
        if value.endswith(".py") and str(whole) in self.members:
            self.values[value] = self.members[str(whole)]

    def _add(self, value: str) -> None:
        path = Path(value)
        if path.is_file():
            place = self.members.setdefault(value, f"{self._home(value, path.stem)}/{path.name}")
        else:
            # A folder as it is, and of a pattern the files, which keep their names.
            root = self._home(value, path.name if path.is_dir() else path.parent.name)
            place = root if path.is_dir() else f"{root}/{path.name}"
            for name, (file, _) in files_in(value).items():
                self.members[str(file)] = f"{root}/{name}"
        self.values[value] = place

    def _leave(self, value: str) -> None:
        """What a run keeps is made anew; an environment is not, and the recipe has to name one."""
        if (Path(value) / "pyvenv.cfg").exists():
            self.outside.append(f"'{value}', an environment: make one, and name it in recipe.toml")
        else:
            self.values[value] = f"kept/{Path(value).name}"

    def _home(self, what: str, name: str) -> str:
        """A folder in the archive for what lies in one place."""
        if what not in self._homes:
            tried = (f"{_FILES}/{name}{f'_{n}' if n > 1 else ''}" for n in range(1, 10**6))
            self._homes[what] = next(x for x in tried if x not in self._homes.values())
        return self._homes[what]


def _requirements(facts: Mapping[str, Any]) -> Iterator[str]:
    """The distributions that a run was made with, as pip reads them."""
    found = dict[str, str](facts.get("libraries") or {})
    for origin in (facts.get("origins") or {}).values():
        match = _DISTRIBUTION.fullmatch(str(origin))
        if match and match[1] != "sha256":
            found[match[1]] = match[2]
    for name, version in sorted(found.items()):
        public, _, local = version.partition("+")
        yield f"{name}=={public}" + (f"  # {version}" if local else "")


def _readme(
    name: str, facts: Mapping[str, Any], left_out: tuple[str, ...], outside: list[str]
) -> str:
    """How the run is repeated, and with what it was made."""
    started = re.sub(r"^\S*/align\b", "align", str(facts.get("command", "align run")))
    lines = [
        f"# Run '{name}' of align",
        "",
        "`align run recipe.toml` in this folder repeats it. The recipe names its files by paths in",
        "this folder, with digests by which a changed file is noticed.",
        "",
        "It was made with the distributions of requirements.txt. Samples have the same bits on the",
        "same kind of machine, in as many threads:",
        "",
        "* Python: {python}",
        "* machine: {machine}",
        "* threads: {threads}",
        f"* command: `{started}`",
    ]
    known = {key: facts.get(key, "?") for key in ("python", "machine", "threads")}
    lines = [line.format(**known) if line.endswith("}") else line for line in lines]
    if left_out:
        lines += [
            "",
            "These files are too large for the archive. Put each where its name says:",
            "",
        ]
        lines += [f"* {line}" for line in left_out]
    if outside:
        lines += ["", "These files are missing:", "", *(f"* {line}" for line in outside)]
    return "\n".join(lines) + "\n"
