"""The names of the 1000 ImageNet classes; needs no network."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from align import PromptError, named_classes

CLASSES = 1000
_NUMBER: Final = re.compile(r"[-+]?\d+([.,]\d+)?")
_WORDNET: Final = re.compile(r"n\d{8}")
# The list has no name of their own for these: "cardigan" is a corgi too, "maillot" two suits.
_ADDED: Final = MappingProxyType({474: "cardigan sweater", 638: "maillot swimsuit"})


@cache
def names() -> tuple[tuple[str, ...], ...]:
    """The names of every class in ImageNet's order, the main name first."""
    rows = json.loads((files("align_imagenet") / "labels.json").read_text("utf-8"))
    return tuple(
        (*row, _ADDED[index]) if index in _ADDED else tuple(row) for index, row in enumerate(rows)
    )


@cache
def spellings() -> tuple[str, ...]:
    """A name of every class that no other class has; the main one, if it is such."""
    owner = owners()
    return tuple(
        next(name for name in row if owner[plain(name)] == (index,))
        for index, row in enumerate(names())
    )


def plain(label: str) -> str:
    """A name as it is compared: without case, underscores, hyphens and surplus spaces."""
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())


@cache
def owners() -> Mapping[str, tuple[int, ...]]:
    """The classes that bear a plain name; one whose main name it is takes it from the others."""
    bearers: dict[str, list[int]] = {}
    mains: dict[str, list[int]] = {}
    for index, row in enumerate(names()):
        for place, name in enumerate(row):
            bearers.setdefault(plain(name), []).append(index)
            if place == 0:
                mains.setdefault(plain(name), []).append(index)
    return {name: tuple(dict.fromkeys(mains.get(name, own))) for name, own in bearers.items()}


def index_of(label: str) -> int:
    """The index, 0 to 999, of a class given by any of its names, or by the index itself.

    Raises:
        ValueError: no class, or more than one, has this name.
    """
    if label.isascii() and label.isdigit() and int(label) < CLASSES:
        return int(label)
    name = plain(label)
    found = owners().get(name, ())
    if len(found) == 1:
        return found[0]
    if found:
        several = " or ".join(f"{index} ({', '.join(names()[index])})" for index in found)
        raise ValueError(f"'{label}' names {len(found)} ImageNet classes; write {several}")
    close = difflib.get_close_matches(name, owners(), n=3)
    hint = (
        "did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
        if close
        else "write a name such as 'tabby cat', or an index from 0 to 999"
    )
    raise ValueError(f"no ImageNet class is named '{label}'; {hint}")


@cache
def index_in(prompt: str) -> int:
    """The index of the class that a prompt names; of several the one with the longest name.

    A prompt that is a number is the index itself.

    Raises:
        PromptError: it names none, or one whose name two classes share.
    """
    text = prompt.strip()
    try:
        return index_of(text if _NUMBER.fullmatch(text) or text.isdigit() else _named(prompt)[0])
    except ValueError as error:
        raise PromptError(f"'{prompt}': {error}") from error


def numbers_of(folders: Sequence[str]) -> list[int]:
    """Indices of the classes that folders of pictures are named after.

    Names are any of a class, or its index. Where all are WordNet ids, such as "n02123045", there
    must be one for each class, as their order is ImageNet's.

    Raises:
        ValueError: a folder is named after no class, or after several, or ids are missing.
    """
    if not all(_WORDNET.fullmatch(folder) for folder in folders):
        return [index_of(folder) for folder in folders]
    if len(folders) != CLASSES:
        raise ValueError(
            f"{len(folders)} folders are named by WordNet ids, which tell classes only where all"
            f" {CLASSES} are there; name the folders after classes, or by their indices"
        )
    place = {folder: index for index, folder in enumerate(sorted(folders))}
    return [place[folder] for folder in folders]


def others_in(prompt: str) -> str:
    """What to say of a prompt that names several classes; empty of any other."""
    owner = owners()
    if prompt.strip().isdigit():
        return ""
    first, *rest = _named(prompt)
    others = [name for name in rest if not set(owner[name]) & set(owner[first])]
    listed = " and ".join(f"'{name}'" for name in (first, *others))
    return f"names {listed}, of which '{first}' counts" if others else ""


def _named(prompt: str) -> list[str]:
    """The names that a prompt has in it, the longest first; PromptError if there is none."""
    known = tuple(owners())
    try:
        return [known[number] for number in named_classes(plain(prompt), known)]
    except PromptError as error:
        cure = "write a name such as 'tabby cat', or an index from 0 to 999"
        raise PromptError(f"'{prompt}' names none of the classes; {cure}") from error
