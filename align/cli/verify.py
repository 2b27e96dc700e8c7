"""`align verify KIND`: the conformance checks on an installed part, with its real weights."""

from __future__ import annotations

import importlib
import inspect
import unittest
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, final

import attrs
import torch
from torch import Tensor

from align.catalog.contracts import CONTRACT_CLASSES
from align.catalog.registry import Catalog, Entry
from align.core.option import ConfigErrors
from align.core.reward import HasReferenceImplementation, RewardSpec
from align.errors import AlignError, PartError
from align.io.images import Picture, opened
from align.recipe.convert import read_table, strict_converter
from align.recipe.describe import dotted
from align.recipe.override import parse_override
from align.testing.kit import checks_of

SIDE: Final = 256
"""Pictures are cut to squares of at most this side for the checks; scores are of them whole."""


@final
@attrs.frozen
class Found:
    """How a check of a part ended: "good", "failed" or "nothing to check", and why."""

    check: str
    how: str
    why: str = ""


@final
@attrs.frozen
class Judgement:
    """Scores of one picture: ours, ours resized as PIL does, and the package's; None for no such.

    Attributes:
        picture: its file.
    """

    picture: str
    ours: float
    by_pil: float | None
    package: float | None


def read_part(catalog: Catalog, entry: Entry, sets: Sequence[str]) -> Any:
    """The part of an entry with options given as "name=value", values as in TOML.

    Raises:
        PartError: an option is wrong; all of them are named, a line each.
    """
    table: dict[str, Any] = {}
    try:
        for text in sets:
            override = parse_override(text)
            if len(override.key) != 1:
                raise ValueError(f"'{text}': give one option of the part, like weights=\"FILE\"")
            table[str(override.key[0])] = override.value
        return read_table(strict_converter(catalog), table, entry.cls)
    except ValueError as error:
        raise PartError(f"--set: {error}") from error
    except ConfigErrors as error:
        said = (f"{entry.kind}: {dotted(f.key)}: {f.text}" for f in error.errors)
        raise PartError("\n".join(said)) from error


def checked(contract: str, part: Any, pictures: Sequence[Picture]) -> Iterator[Found]:
    """Every check of the contract on a part, one after the other.

    Args:
        contract: its name, such as "reward".
        part: with whatever weights its options name.
        pictures: what a reward is tried on; without them, noise at many scales.

    Raises:
        AlignError: the part cannot be built.
        PartError: the contract has no checks.
    """
    if contract not in CONTRACT_CLASSES:
        raise PartError(f"there are no checks of a {contract}")
    module = importlib.import_module(f"align.testing.checks.{contract}")
    subject = module.subject(part, (lambda: squares(pictures)) if len(pictures) else None)
    for name, check in checks_of(contract).items():
        try:
            check(subject)
        except unittest.SkipTest as nothing:
            yield Found(name, "nothing to check", str(nothing))
        except AssertionError as error:
            yield Found(name, "failed", str(error).partition("\n")[0])
        except AlignError as error:
            if name != "outside":
                raise
            # A reward may refuse pictures far out of [0, 1].
            yield Found(name, "nothing to check", f"refused: {error}")
        else:
            yield Found(name, "good", inspect.cleandoc(check.__doc__ or "").partition("\n")[0])


def squares(pictures: Sequence[Picture]) -> Tensor:
    """The middles of pictures, and of their mirrors, of one size (2 B, 3, H, H)."""
    side = min(SIDE, *(min(one.tensor.shape[-2:]) for one in pictures))
    cut = []
    for one in pictures:
        height, width = one.tensor.shape[-2:]
        top, left = (height - side) // 2, (width - side) // 2
        cut.append(one.tensor[:, top : top + side, left : left + side])
    stacked = torch.stack(cut)
    return torch.cat((stacked, stacked.flip(-1)))


@torch.no_grad()
def judged(part: RewardSpec, files: Sequence[str], prompt: str) -> tuple[list[Judgement], str]:
    """Scores of pictures in files, and why the package says none; "" where it does.

    Raises:
        PartError: a file is no picture, or the reward cannot be built.
    """
    pictures, cpu = [opened(file) for file in files], torch.device("cpu")

    def scores(spec: RewardSpec) -> list[float]:
        reward = spec.build(cpu)
        return [float(reward.score(one.tensor[None], [prompt])) for one in pictures]

    why, ours = "", scores(part)
    other: Sequence[float | None] = [None] * len(files)
    if "match_pil" in attrs.fields_dict(type(part)):
        other = scores(attrs.evolve(part, match_pil=True))  # type: ignore[call-arg]
    package: Sequence[float | None] = [None] * len(files)
    if isinstance(part, HasReferenceImplementation):
        try:
            package = part.judged([one.pil for one in pictures], [prompt] * len(files)).tolist()
        except ImportError as error:
            why = f"the package cannot be asked: {str(error).partition(chr(10))[0]}"
            why += "; it wants an environment of its own, see docs/rewards.md"
    else:
        why = "no package to ask: this reward stands in for none"
    columns = zip(files, ours, other, package, strict=True)
    return [Judgement(*column) for column in columns], why


def rows(judgements: Sequence[Judgement]) -> list[Mapping[str, str]]:
    """Rows to print: scores, and by how much ours differs from the package's."""
    told = list[Mapping[str, str]]()
    for one in judgements:
        near = one.by_pil if one.by_pil is not None else one.ours
        row = {"picture": one.picture, "align": f"{one.ours:.6g}"}
        if one.by_pil is not None:
            row["align, match_pil"] = f"{one.by_pil:.6g}"
        if one.package is not None:
            row |= {"package": f"{one.package:.6g}", "difference": f"{near - one.package:.1e}"}
        told.append(row)
    return told


def lines(
    contract: str, part: Any, files: Sequence[str], prompt: str
) -> Iterator[tuple[str, bool]]:
    """What is to be shown, line by line, and whether it is bad news.

    Raises:
        AlignError: the part cannot be built, or a file is no picture.
    """
    shown = [opened(file) for file in files] if contract == "reward" else []
    if shown:
        judgements, why = judged(part, files, prompt)
        told = rows(judgements)
        wide = {name: max(len(name), *(len(row[name]) for row in told)) for name in told[0]}
        for row in [{name: name for name in wide}, *told]:
            yield "  ".join(row[name].ljust(wide[name]) for name in wide).rstrip(), False
        yield why, False
    for found in checked(contract, part, shown):
        why = f": {found.why}" if found.why else ""
        yield f"{found.check}: {found.how}{why}", found.how == "failed"
