"""What pictures in a folder are scored by: rewards and metrics without a model."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

import attrs

from align.catalog.convert import strict_converter
from align.catalog.registry import Catalog
from align.catalog.shipped import resolved
from align.catalog.tables import plain
from align.core.errors import RecipeError
from align.core.executor import Executor
from align.core.metric import Metric
from align.core.option import ConfigError, ConfigErrors
from align.core.term import RewardTerm
from align.io import files
from align.io.paths import beside
from align.recipe.assemble import repeated, with_unique_names
from align.recipe.inputs import digests_of
from align.recipe.load import read_document
from align.recipe.override import typed
from align.recipe.source_map import Override, Source

_TYPES: Final[Mapping[str, Any]] = MappingProxyType(
    {"reward": tuple[RewardTerm, ...], "metric": tuple[Metric, ...], "on": Executor}
)


@final
@attrs.frozen
class Scoring:
    """Rewards and metrics of pictures.

    Attributes:
        reward: each with a name of its own; weights count for nothing.
        metric: each with a reference of its own, where it needs one.
        on: has the pictures scored; None for the process itself.
        notes: which metrics of the recipe are left out, and why.
    """

    reward: tuple[RewardTerm, ...]
    metric: tuple[Metric, ...]
    on: Executor | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        recipe: str | None,
        rewards: Sequence[str],
        metrics: Sequence[str],
        catalog: Catalog,
        on: str | None = None,
    ) -> Scoring:
        """Those of a recipe's [[reward]] and [[metric]] tables, and those named beside it.

        Args:
            recipe: path of a TOML file, or the @name of one that comes with align; what else it
                says counts for nothing.
            rewards: each a kind, or a table as in TOML, '{ kind = "clip", ... }'.
            metrics: likewise.
            catalog: the parts that may be named.
            on: an executor, likewise.

        Raises:
            RecipeError: with one line for every mistake.
        """
        tables, source = _tables(recipe, rewards, metrics, on)
        with beside(None if recipe is None else Path(source.path).parent):
            read, errors = _converted(tables, catalog)
        errors = errors or [*_misfits(read["reward"], read["metric"])]
        own, notes = len(tables["metric"]) - len(metrics), list[ConfigError]()
        if not errors:
            for number, metric in enumerate(read["metric"]):
                if metric.needs_references:
                    error = ConfigError(("metric", number), _no_references(metric))
                    (notes if number < own else errors).append(error)
        if errors:
            raise RecipeError("\n".join(source.report(errors)))
        kept = tuple(metric for metric in read["metric"] if not metric.needs_references)
        told = tuple(f"{line}; left out" for line in source.report(notes))
        if not (kept or read["reward"]):
            cure = "name a --reward, a --metric, or a --recipe that has some"
            raise RecipeError("\n".join([*told, f"nothing to score by; {cure}"]))
        return cls(with_unique_names(read["reward"]), kept, read.get("on"), told)

    def digest(self) -> str:
        """Tells scorings apart by their rewards and metrics, and by the files that these read.

        Raises:
            PartError: a file cannot be read.
        """
        parts = Scoring(self.reward, self.metric)
        said = [plain(parts), digests_of(parts)]
        return files.digest(json.dumps(said, sort_keys=True, default=str).encode())


def _tables(
    recipe: str | None, rewards: Sequence[str], metrics: Sequence[str], on: str | None
) -> tuple[dict[str, Any], Source]:
    """The tables of a recipe, then those named beside it; and where they stand."""
    content, document, path = None, dict[str, Any](), ""
    if recipe is not None:
        path = str(resolved(recipe))
        content, document = read_document(path)
    tables = {name: document.get(name, []) for name in ("reward", "metric")}
    overrides = list[Override]()
    for name, given in (("reward", rewards), ("metric", metrics)):
        for text in given:
            if isinstance(tables[name], list):
                shown = f"--{name} {text}"
                key = (name, len(tables[name]))
                overrides.append(Override(shown, key, _table(shown, text)))
                tables[name] = [*tables[name], overrides[-1].value]
    if on is not None:
        overrides.append(Override(f"--on {on}", ("on",), _table(f"--on {on}", on)))
        tables["on"] = overrides[-1].value
    return tables, Source(path, content, tuple(overrides))


def _misfits(rewards: Iterable[RewardTerm], metrics: Iterable[Metric]) -> Iterator[ConfigError]:
    """Parts that say nothing of pictures."""
    for number, term in enumerate(rewards):
        if term.part.domain not in (None, "image"):
            yield ConfigError(("reward", number), f"'{term.part.kind}' scores no pictures")
        elif term.part.compares:
            text = f"'{term.part.kind}' compares pictures, and has no score of one alone"
            yield ConfigError(("reward", number), text)
    for number, metric in enumerate(metrics):
        if metric.domain not in (None, "image"):
            yield ConfigError(("metric", number), f"'{metric.kind}' measures no pictures")


def _no_references(metric: Metric) -> str:
    """Why a metric cannot measure pictures in a folder, and what to do."""
    text = f"'{metric.kind}' compares with references"
    if "reference" in attrs.fields_dict(type(metric)):
        return f'{text}; name a folder of pictures or an .npz file, reference = "..."'
    return f"{text} and has no option that names some; use 'fid' or 'kid'"


def _table(shown: str, text: str) -> Any:
    """A table of TOML, whose paths start at the working folder, or the kind of one."""
    if not text.lstrip().startswith("{"):
        return {"kind": text.strip()}
    try:
        return typed(tomllib.loads(f"value = {text}")["value"])
    except ValueError as error:
        example = '{ kind = "clip", name = "alike" }'
        raise RecipeError(f"{shown}: expected a kind, or a table like {example}") from error


def _converted(
    tables: dict[str, Any], catalog: Catalog
) -> tuple[dict[str, Any], list[ConfigError]]:
    converter, read, errors = strict_converter(catalog), dict[str, Any](), list[ConfigError]()
    for name, table in tables.items():
        try:
            read[name] = converter.structure(table, _TYPES[name])
        except ConfigErrors as error:
            errors += [inner.under(name) for inner in error.errors]
    errors += repeated("reward", [term.name for term in read.get("reward", ())])
    return read, errors
