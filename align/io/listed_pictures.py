"""The pictures of a folder, each with the prompt that a table beside them says."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, final

import attrs

from align.core.errors import PartError
from align.io.files import exists_as_folder, read_text
from align.io.images import opened, pictures_in
from align.io.text import first_lines, shortened

_COLUMNS: Final = ("file", "prompt")
MANY: Final = 20
"""Mistakes that are told."""


@final
@attrs.frozen
class ListedPicture:
    """A picture in a file, and the prompt that it is scored for.

    Attributes:
        name: of the file, seen from the folder.
        path: of the file.
        prompt: "" where nobody said one.
        place: where the prompt stands, 'prompts.csv:3'; "" for nowhere.
    """

    name: str
    path: Path
    prompt: str = ""
    place: str = ""


def listed_pictures(folder: Path, table: Path | None) -> tuple[list[ListedPicture], list[str]]:
    """The pictures of a folder in the order of their names or of a table, and what is left out.

    Args:
        folder: of pictures; those in folders inside it count too.
        table: .csv or .jsonl with a column `file`, seen from the folder, and a column `prompt`; the
            pictures that it does not name are left out.

    Raises:
        PartError: with one line for every mistake; there are no pictures, or the table is damaged
            or names a file that is not there.
    """
    if not exists_as_folder(folder):
        raise PartError(f"no folder '{folder}', as seen from '{Path.cwd()}'")
    there = {path.relative_to(folder).as_posix(): path for path in pictures_in(folder)}
    if table is None:
        if not there:
            raise PartError(f"'{folder}' has no pictures; name a folder that has")
        return [ListedPicture(name, path) for name, path in there.items()], []
    pictures, errors = dict[str, ListedPicture](), list[str]()
    for number, row in _rows(table):
        place = f"{table}:{number}"
        if isinstance(row, str):
            errors.append(f"{place}: {row}")
            continue
        name, prompt = row
        name = Path(name).as_posix()
        if name in pictures:
            errors.append(f"{place}: '{name}' stands in {pictures[name].place} too; leave one")
        elif not (folder / name).is_file():
            errors.append(f"{place}: no file '{shortened(name, 200)}' in '{folder}'")
        else:
            pictures[name] = ListedPicture(name, folder / name, prompt, place)
    if errors:
        raise PartError("\n".join(first_lines(errors, MANY)))
    if not pictures:
        raise PartError(f"'{table}' names no pictures; write a line for each")
    rest = [name for name in there if name not in pictures]
    notes = [f"{_counted(rest)} in '{folder}' and not in '{table}', and left out"] if rest else []
    return list(pictures.values()), notes


def require_whole(pictures: list[ListedPicture]) -> None:
    """Raise PartError, with a line for each, for files that are no pictures or are damaged."""
    errors = list[str]()
    for picture in pictures:
        try:
            opened(picture.path)
        except PartError as error:
            errors.append(f"{picture.place}: {error}" if picture.place else str(error))
    if errors:
        cure = "nothing was scored; mend these files, or take them out"
        raise PartError("\n".join([*first_lines(errors, MANY), cure]))


def _counted(names: list[str]) -> str:
    return f"'{names[0]}' is" if len(names) == 1 else f"{len(names)} pictures like '{names[0]}' are"


def _rows(table: Path) -> Iterator[tuple[int, tuple[str, str] | str]]:
    """File and prompt of each line by its number, or what is wrong with it."""
    cure = "name a .csv or .jsonl file with the columns 'file' and 'prompt'"
    reader = {".csv": _of_csv, ".jsonl": _of_json}.get(table.suffix.lower())
    if reader is None:
        raise PartError(f"'{table}' is neither .csv nor .jsonl; {cure}")
    for number, row in reader(table, read_text(table, cure).removeprefix("\ufeff")):
        if isinstance(row, str):
            yield number, row
            continue
        values = [row.get(name) for name in _COLUMNS]
        wrong = [n for n, v in zip(_COLUMNS, values, strict=True) if not isinstance(v, str)]
        if wrong:
            yield number, f"no text '{wrong[0]}'; {cure}"
        elif not str(values[0]).strip():
            yield number, "an empty 'file'; name the picture"
        else:
            yield number, (str(values[0]).strip(), str(values[1]))


def _of_csv(table: Path, text: str) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        heads = list(rows.fieldnames or ())
        for name in _COLUMNS:
            if heads.count(name) != 1:
                shown = ", ".join(f"'{head}'" for head in heads) or "nothing"
                yield 1, f"expected one column '{name}', got {shown}"
                return
        for row in rows:
            if row.get(None):
                yield rows.line_num, "more cells than names; put a text with a comma in quotes"
            else:
                yield rows.line_num, row
    except csv.Error as error:
        yield rows.line_num, f"no table ({error})"


def _of_json(table: Path, text: str) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, f"no JSON ({error})"
            continue
        yield number, row if isinstance(row, dict) else "no object of JSON"
