"""What pictures in a folder are scored by: rewards and metrics without a model."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

import attrs

from align.catalog.convert import strict_converter
from align.catalog.registry import Catalog
from align.catalog.shipped import resolved
from align.core.errors import RecipeError
from align.core.metric import Metric
from align.core.option import ConfigError, ConfigErrors
from align.core.term import RewardTerm
from align.io.paths import beside
from align.recipe.assemble import repeated, with_unique_names
from align.recipe.load import read_document
from align.recipe.source_map import Override, Source

_TYPES: Final[Mapping[str, Any]] = MappingProxyType(
    {"reward": tuple[RewardTerm, ...], "metric": tuple[Metric, ...]}
)


@final
@attrs.frozen
class Scoring:
    """Rewards and metrics of pictures.

    Attributes:
        reward: each with a name of its own; weights count for nothing.
        metric: each with references of its own, where it needs any.
        source: finds the place of a key, for what goes wrong later on.
    """

    reward: tuple[RewardTerm, ...]
    metric: tuple[Metric, ...]
    source: Source

    @classmethod
    def load(
        cls,
        recipe: str | None,
        rewards: Sequence[str],
        metrics: Sequence[str],
        catalog: Catalog,
    ) -> Scoring:
        """Those of a recipe's [[reward]] and [[metric]] tables, and those named beside it.

        Args:
            recipe: path of a TOML file, or the @name of one that comes with align; what else it
                says counts for nothing.
            rewards: each a kind, or a table as in TOML, '{ kind = "clip", ... }'.
            metrics: likewise.
            catalog: the parts that may be named.

        Raises:
            RecipeError: with one line for every mistake.
        """
        text, document, path = None, dict[str, Any](), ""
        if recipe is not None:
            path = str(resolved(recipe))
            text, document = read_document(path)
        tables = {name: document.get(name, []) for name in _TYPES}
        overrides = list[Override]()
        for name, given in (("reward", rewards), ("metric", metrics)):
            for typed in given:
                if isinstance(tables[name], list):
                    shown = f"--{name} {typed}"
                    key = (name, len(tables[name]))
                    overrides.append(Override(shown, key, _table(shown, typed)))
                    tables[name] = [*tables[name], overrides[-1].value]
        source = Source(path, text, tuple(overrides))
        with beside(None if text is None else Path(path).parent):
            read, errors = _converted(tables, catalog)
        if errors:
            raise RecipeError("\n".join(source.report(errors)))
        scoring = cls(with_unique_names(read["reward"]), read["metric"], source)
        if errors := [*scoring._misfits()]:
            raise RecipeError("\n".join(source.report(errors)))
        if not (scoring.reward or scoring.metric):
            raise RecipeError(
                "nothing to score by; name a --reward, a --metric, or a --recipe that has some"
            )
        return scoring

    def _misfits(self) -> Iterator[ConfigError]:
        """Parts that say nothing of pictures in a folder."""
        for number, term in enumerate(self.reward):
            if term.part.domain not in (None, "image"):
                yield ConfigError(("reward", number), f"'{term.part.kind}' scores no pictures")
        for number, metric in enumerate(self.metric):
            key = ("metric", number)
            if metric.domain not in (None, "image"):
                yield ConfigError(key, f"'{metric.kind}' measures no pictures")
            elif metric.needs_references:
                own = "reference" in attrs.fields_dict(type(metric))
                cure = (
                    '; name a folder of pictures or an .npz file, reference = "..."'
                    if own
                    else " and has no option that names some; use 'fid' or 'kid'"
                )
                yield ConfigError(key, f"'{metric.kind}' compares with references{cure}")


def _table(shown: str, typed: str) -> Any:
    """A table of TOML, or the kind of one."""
    if not typed.lstrip().startswith("{"):
        return {"kind": typed.strip()}
    try:
        return tomllib.loads(f"value = {typed}")["value"]
    except ValueError as error:
        example = '{ kind = "clip", name = "alike" }'
        raise RecipeError(f"{shown}: expected a kind, or a table like {example}") from error


def _converted(
    tables: dict[str, Any], catalog: Catalog
) -> tuple[dict[str, Any], list[ConfigError]]:
    converter, read, errors = strict_converter(catalog), dict[str, Any](), list[ConfigError]()
    for name, tp in _TYPES.items():
        try:
            read[name] = converter.structure(tables[name], tp)
        except ConfigErrors as error:
            errors += [inner.under(name) for inner in error.errors]
    errors += repeated("reward", [term.name for term in read.get("reward", ())])
    return read, errors
