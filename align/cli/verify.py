"""`align verify KIND`: the conformance checks on an installed part, with its real weights."""

from __future__ import annotations

import importlib
import inspect
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import attrs
import torch
from torch import Tensor

from align.catalog.contracts import CONTRACT_CLASSES
from align.catalog.convert import read_table, strict_converter
from align.catalog.describe import dotted
from align.catalog.registry import Catalog, Entry
from align.catalog.tables import part_table
from align.cli.environment import make_environment
from align.core.errors import AlignError, PartError
from align.core.option import ConfigErrors
from align.core.reward import LATENT, HasReferenceImplementation, RewardSpec
from align.io.images import Picture, opened
from align.io.paths import given
from align.isolation.reward import Isolated
from align.recipe.override import parse_override
from align.testing.kit import checks_of

SIDE: Final = 256
"""Pictures are cut to squares of at most this side for the checks; scores are of them whole."""

_LAWS: Final = frozenset(
    {"base_law", "tilted_law", "exact", "exact_map", "fixed_point", "value", "shift", "bias"}
)
"""Checks that compare with what is known in closed form."""


@final
@attrs.frozen
class CheckResult:
    """How a check of a part ended.

    Attributes:
        check: its name.
        outcome: "good", "failed" or "nothing to check".
        reason: what a good check has seen, or why it failed or had nothing to do.
    """

    check: str
    outcome: str
    reason: str = ""


@final
@attrs.frozen
class Comparison:
    """Scores of one picture.

    Attributes:
        picture: its file.
        ours: the score of the reward.
        by_pil: the score after resizing as PIL does; None for a reward that does not resize so.
        package: the score of the package that the reward stands in for; None if there is none.
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
    except ConfigErrors as wrong:
        lines = (
            ": ".join(filter(None, (entry.kind, dotted(error.key), error.text)))
            for error in wrong.errors
        )
        raise PartError("\n".join(lines)) from wrong
    except ValueError as error:
        raise PartError(f"--set: {error}") from error


def make_venv(entry: Entry, folder: str, on_step: Callable[[str], None]) -> None:
    """Make the environment in which a reward's package can be asked.

    Raises:
        PartError: the reward has no such package, or nobody has pinned its environment; or the
            environment cannot be made.
    """
    pins = entry.cls.pins if issubclass(entry.cls, HasReferenceImplementation) else None
    if pins is None:
        raise PartError(f"--make-venv: there are no pins of an environment for '{entry.kind}'")
    make_environment(given(folder), pins, entry.origin.distribution, on_step)


def checked(contract: str, part: Any, pictures: Sequence[Picture]) -> Iterator[CheckResult]:
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
            yield CheckResult(name, "nothing to check", str(nothing))
        except AssertionError as error:
            yield CheckResult(name, "failed", str(error).partition("\n")[0])
        except AlignError as error:
            if name != "outside":
                raise
            # A reward may refuse pictures far out of [0, 1].
            yield CheckResult(name, "nothing to check", f"refused: {error}")
        else:
            yield CheckResult(
                name, "good", inspect.cleandoc(check.__doc__ or "").partition("\n")[0]
            )


def squares(pictures: Sequence[Picture]) -> Tensor:
    """The middles of pictures, and of their mirrors, of one size (2 B, 3, H, H)."""
    side = min(SIDE, *(min(picture.tensor.shape[-2:]) for picture in pictures))
    middles = []
    for picture in pictures:
        height, width = picture.tensor.shape[-2:]
        top, left = (height - side) // 2, (width - side) // 2
        middles.append(picture.tensor[:, top : top + side, left : left + side])
    stacked = torch.stack(middles)
    return torch.cat((stacked, stacked.flip(-1)))


@torch.no_grad()
def compared(
    part: RewardSpec, files: Sequence[str], prompt: str, venv: str = ""
) -> tuple[list[Comparison], str]:
    """Scores of pictures in files, and why the package has none; "" where it has.

    Args:
        part: the reward, with whatever weights its options name.
        files: of the pictures.
        prompt: what they are scored for.
        venv: folder of the virtual environment in which the package is asked; "" for this one.

    Raises:
        PartError: a file is no picture, or the reward cannot be built; or the environment has not
            what the package needs.
    """
    opened_pictures, cpu = [opened(file) for file in files], torch.device("cpu")

    def scores(spec: RewardSpec) -> list[float]:
        reward = spec.build(cpu)
        return [float(reward.score(p.tensor[None], [prompt])) for p in opened_pictures]

    reason, ours = "", scores(part)
    other: Sequence[float | None] = [None] * len(files)
    if "match_pil" in attrs.fields_dict(type(part)):
        other = scores(attrs.evolve(part, match_pil=True))  # type: ignore[call-arg]
    package: Sequence[float | None] = [None] * len(files)
    if isinstance(part, HasReferenceImplementation):
        try:
            with _asked_in(venv, part) as asked:
                scored = asked.judged([p.pil for p in opened_pictures], [prompt] * len(files))
            package = scored.tolist()
        except ImportError as error:
            text = f"the package cannot be asked: {str(error).partition(chr(10))[0]}"
            if venv:
                raise PartError(f"'{venv}': {text}") from error
            reason = f"{text}; {_cure(part)}"
    elif venv:
        raise PartError(f"--venv: reward '{part.kind}' stands in for no package to ask there")
    else:
        reason = "no package to ask: this reward stands in for none"
    columns = zip(files, ours, other, package, strict=True)
    return [Comparison(*column) for column in columns], reason


@contextmanager
def _asked_in(venv: str, part: HasReferenceImplementation) -> Iterator[HasReferenceImplementation]:
    """The reward as it is asked for its package's scores: here, or in another environment."""
    if not venv:
        yield part
        return
    try:
        there = _ISOLATED(venv=venv, reward=part_table(part))
    except ConfigErrors as wrong:
        raise PartError("; ".join(error.text for error in wrong.errors)) from wrong
    try:
        yield there
    finally:
        there.close()


def _cure(part: HasReferenceImplementation) -> str:
    if part.pins is None:
        return "install it, or name an environment that has it by --venv"
    return "--make-venv FOLDER makes an environment that has it"


_ISOLATED: Final[Callable[..., Isolated]] = Isolated


def table_rows(comparisons: Sequence[Comparison]) -> list[Mapping[str, str]]:
    """Rows to print: scores, and the difference between ours and the package's."""
    rows = list[Mapping[str, str]]()
    for scores in comparisons:
        nearest = scores.by_pil if scores.by_pil is not None else scores.ours
        row = {"picture": scores.picture, "align": f"{scores.ours:.6g}"}
        if scores.by_pil is not None:
            row["align, match_pil"] = f"{scores.by_pil:.6g}"
        if scores.package is not None:
            difference = f"{nearest - scores.package:.1e}"
            row |= {"package": f"{scores.package:.6g}", "difference": difference}
        rows.append(row)
    return rows


def lines(
    contract: str, part: Any, files: Sequence[str], prompt: str, venv: str = ""
) -> Iterator[tuple[str, bool]]:
    """Lines to show, each with whether it reports a failure.

    Raises:
        AlignError: the part cannot be built, or a file is no picture.
    """
    if venv and contract != "reward":
        raise PartError(f"--venv: {contract} '{part.kind}' stands in for no package to ask there")
    if venv and isinstance(part, HasReferenceImplementation) and part.needs_package:
        with _asked_in(venv, part) as there:
            yield from lines(contract, there, files, prompt)
        return
    if files and contract == "reward" and part.domain == LATENT:
        raise PartError(f"reward '{part.kind}' scores clean states; leave the pictures out")
    pictures = [opened(file) for file in files] if contract == "reward" else []
    if pictures:
        comparisons, reason = compared(part, files, prompt, venv)
        rows = table_rows(comparisons)
        widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
        for row in [{name: name for name in widths}, *rows]:
            yield (
                "  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip(),
                False,
            )
        yield reason, False
    failed = list[str]()
    for result in checked(contract, part, pictures):
        reason = f": {result.reason}" if result.reason else ""
        yield f"{result.check}: {result.outcome}{reason}", result.outcome == "failed"
        failed += [result.check] if result.outcome == "failed" else []
    if laws := [f"'{check}'" for check in failed if check in _LAWS]:
        word = f"; '{part.kind}' is exact for {part.exact_for}" if contract == "sampler" else ""
        text = f"{' and '.join(laws)}: a {contract} that approximates by design fails this{word}"
        yield text, False
