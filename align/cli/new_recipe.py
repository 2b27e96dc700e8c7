"""`align new recipe NAME`: a recipe with comments, made of a model, a reward and a mode."""

from __future__ import annotations

import os
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any, Final

import attrs
import click

from align.catalog.describe import dotted, expected
from align.catalog.names import did_you_mean
from align.catalog.registry import Catalog, Entry
from align.cli.fitting import draft
from align.cli.shown import two_columns
from align.core.errors import RecipeError
from align.core.interrupt import is_interrupt
from align.core.option import Key
from align.core.reward import LATENT
from align.core.term import RewardTerm
from align.io.files import exists_as_folder, write
from align.recipe import Run, load
from align.recipe.override import apply_override, parse_override
from align.recipe.write import inline

MODES: Final = ("steer", "best_of_n", "finetune")
"""The modes that a new recipe may have: those that optimise a reward."""

BUDGET: Final = 450
"""Network calls (NFE) a sample, unless another number is given."""

_MODELS: Final = ("pocket", "mixture")  # the first that is installed is offered first
_SAMPLERS: Final = ("mfm", "glass", "dps", "gaussian")  # the best first
_ESTIMATORS: Final = MappingProxyType({"gradient": 1, "stein": 4})  # with the fewest draws that do
_STEPS: Final = 50
_COMMENT: Final = 32  # column of the comments
_WIDEST: Final = 99
_SECTIONS: Final = ("run", "model", "sampler", "estimator", "reward", "metric", "mode")


@attrs.frozen(kw_only=True)
class Wish:
    """What is asked for: what is None, and options that have no default, are asked on a terminal.

    Attributes:
        model: its kind.
        reward: its kind.
        mode: one of MODES.
        budget: network calls (NFE) a sample.
        sets: options, as in 'model.prompt="a cat"'.
    """

    model: str | None = None
    reward: str | None = None
    mode: str | None = None
    budget: int | None = None
    sets: Sequence[str] = ()


def write_recipe(name: str, wish: Wish, into: Path, catalog: Catalog) -> Path:
    """Write a recipe into a new file, once it has passed the checks; returns the file.

    Raises:
        RecipeError: something is not said, or the recipe would not run; nothing is written.
        PartError: the file cannot be written, and nothing is left of it.
    """
    path = into / f"{name.removesuffix('.toml')}.toml"
    if path.name == ".toml":
        raise RecipeError(f"'{name}' is no name of a recipe; give one, such as 'cats'")
    if os.path.lexists(path):  # a link that leads nowhere counts as well
        raise RecipeError(f"'{path}' is there already; choose another name, or move it away")
    if not exists_as_folder(into):
        raise RecipeError(f"no folder '{into}'; make it first")
    ask = _on_terminal()
    document = _wished(wish, catalog, ask)
    budget = _budget(document["mode"]["kind"], wish, ask)
    _complete(document, budget, catalog)
    for text in wish.sets:  # what was chosen above may be set too
        apply_override(document, parse_override(text))
    load(document, catalog=catalog)
    text = _text(path, document, budget, catalog)
    write(path, text)
    return path


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def _wished(wish: Wish, catalog: Catalog, ask: bool) -> dict[str, Any]:
    """Model, reward and mode, with the options that they must have.

    Raises:
        RecipeError: with a line for everything that is not said.
    """
    document = _chosen(wish, catalog, ask)
    missing, chosen = list[str](), _kinds(document)
    for text in wish.sets:
        try:
            apply_override(document, parse_override(text))
        except ValueError as error:
            missing.append(f"--set {text}: {error}")
    if _kinds(document) != chosen:
        text = "give options of the model, the reward and the mode, and their kinds by"
        missing.append(f"--set: {text} --model, --reward and --mode")
    for key, field in _needed(document, catalog, ask) if not missing else ():
        if ask:
            table = document["reward"][0] if key[0] == "reward" else document[str(key[0])]
            table[key[-1]] = _value(key, field)
        else:
            advice = (
                f"--set '{dotted(key)}=...', {expected(field.type)}: {field.metadata.get('help')}"
            )
            missing.append(f"{dotted(key)} has no default; give {advice}")
    if missing:
        raise RecipeError("\n".join(missing))
    return document


def _kinds(document: dict[str, Any]) -> list[Any]:
    """The kinds of model, mode and rewards; None for what is no table."""
    rewards = document["reward"]
    tables = [document["model"], document["mode"], *(rewards if type(rewards) is list else [None])]
    return [table.get("kind") if isinstance(table, dict) else None for table in tables]


def _chosen(wish: Wish, catalog: Catalog, ask: bool) -> dict[str, Any]:
    """The kinds of model, reward and mode; raises RecipeError as `_wished`."""
    models, rewards = sorted(catalog.parts["model"]), sorted(catalog.parts["reward"])
    offered = next((kind for kind in _MODELS if kind in models), models[0])
    document: dict[str, Any] = {"run": {"samples": 8}}
    missing = list[str]()
    for contract, kinds, first in (
        ("model", models, offered),
        ("reward", rewards, None),
        ("mode", MODES, MODES[0]),
    ):
        kind = getattr(wish, contract)
        if kind is None and ask and not missing:
            fitting = contract == "reward"
            some = _scoring(catalog, document["model"]["kind"]) if fitting else kinds
            kind = _asked(contract, some, first, catalog)
        if kind is None:
            missing.append(f"--{contract} is missing; {did_you_mean('', kinds)}")
        elif kind not in kinds:
            missing.append(f"--{contract} {kind}: no such {contract}; {did_you_mean(kind, kinds)}")
        else:
            document[contract] = [{"kind": kind}] if contract == "reward" else {"kind": kind}
    if missing:
        raise RecipeError("\n".join(missing))
    return document


def _scoring(catalog: Catalog, model: str) -> list[str]:
    """Rewards of what a model makes, as far as that is known without their options."""
    made = _domain(catalog.parts["model"][model])
    kinds = {kind: _domain(entry) for kind, entry in sorted(catalog.parts["reward"].items())}
    return [
        kind for kind, domain in kinds.items() if made is None or domain in (None, LATENT, made)
    ]


def _domain(entry: Entry) -> str | None:
    try:
        domain: str | None = draft(entry.cls).domain
    except Exception as error:  # of a part without the options that it must have
        if is_interrupt(error):
            raise
        return None
    return domain


def _asked(contract: str, kinds: Sequence[str], first: str | None, catalog: Catalog) -> str:
    """The kind that somebody at a terminal chooses."""
    parts = catalog.parts[contract]
    click.echo("\n".join(two_columns([(kind, parts[kind].summary) for kind in kinds])), err=True)
    answer: str = click.prompt(
        contract, default=first, type=click.Choice(kinds), show_choices=False, err=True
    )
    return answer


def _needed(
    document: dict[str, Any], catalog: Catalog, ask: bool
) -> Iterator[tuple[Key, attrs.Attribute[Any]]]:
    """Options of model and reward that must be given and are not; on a terminal, the prompt too."""
    for outer, contract in (("model",), "model"), (("reward", 0), "reward"):
        table = document["reward"][0] if contract == "reward" else document[contract]
        entry = catalog.parts[contract][table["kind"]]
        for field in attrs.fields(attrs.resolve_types(entry.cls)):
            name = field.alias or field.name
            wanted = field.default is attrs.NOTHING or (ask and name in ("prompt", "label"))
            if field.init and wanted and name not in table:
                yield (*outer, name), field


def _value(key: Key, field: attrs.Attribute[Any]) -> Any:
    """A value that somebody types: TOML, or a string without its quotes."""
    said = f"{field.metadata.get('help', '')} [{expected(field.type)}]\n{dotted(key)}"
    has_default = field.default is not attrs.NOTHING
    answer: str = click.prompt(said, default="" if has_default else None, err=True)
    try:
        return tomllib.loads(f"value = {answer}")["value"]
    except ValueError:
        return answer


def _budget(mode: str, wish: Wish, ask: bool) -> int:
    """Network calls a sample; raises RecipeError for a mode that spends none on a sample."""
    if mode == "finetune":
        if wish.budget is not None:
            raise RecipeError("--budget is spent on samples, and 'finetune' trains; leave it out")
        return BUDGET
    if wish.budget is None and ask:
        said = "NFE (network calls) a sample"
        return int(click.prompt(said, default=BUDGET, type=click.IntRange(min=2), err=True))
    return wish.budget or BUDGET


def _complete(document: dict[str, Any], budget: int, catalog: Catalog) -> None:
    """Add how the mode works: the first sampler and estimator that go with the rest."""
    mode = document["mode"]["kind"]
    if mode == "best_of_n":
        steps = min(_STEPS, budget)
        document["mode"] |= {"n": max(1, budget // steps), "flow_steps": steps}
        document["compare"] = [_plain(steps), {"name": f"best of {document['mode']['n']}"}]
        return
    refused: RecipeError | None = None
    for estimator in _ESTIMATORS:
        for sampler in _SAMPLERS:
            changed = _ways(document, mode, sampler, estimator, budget, catalog)
            try:
                load(changed, catalog=catalog)
            except RecipeError as error:
                refused = refused or error
            else:
                document.update(changed)
                return
    assert refused is not None
    raise refused


def _ways(
    document: dict[str, Any],
    mode: str,
    sampler: str,
    estimator: str,
    budget: int,
    catalog: Catalog,
) -> dict[str, Any]:
    """A recipe that steers, or fine-tunes, by some sampler and estimator."""
    recipe = {**document, "sampler": {"kind": sampler}}
    if mode == "finetune":
        recipe["mode"] = {"kind": mode, "objective": estimator, "steps": 200}
        return recipe | {"compare": [_plain(_STEPS), _named(mode)]}
    part = draft(catalog.parts["sampler"][sampler].cls)
    call = 0 if getattr(part, "point", False) else getattr(part, "steps", 1)
    call *= 2 if estimator == "gradient" else 1  # there and back
    fewest = _ESTIMATORS[estimator]
    steps = max(1, min(_STEPS, budget // (1 + fewest * call)))
    draws = max(fewest, (budget // steps - 1) // call) if call else fewest
    recipe["estimator"] = {"kind": estimator, "draws": draws}
    recipe["mode"] = {"kind": mode, "steps": steps}
    best = {"kind": "best_of_n", "n": max(1, budget // steps), "flow_steps": steps}
    named = f"{sampler}, {draws} draw{'' if draws == 1 else 's'}"
    compare = [_plain(steps), _named(named), {"name": f"best of {best['n']}", "mode": best}]
    return recipe | {"compare": compare}


def _plain(steps: int) -> dict[str, Any]:
    return {"name": "unsteered", "mode": {"kind": "best_of_n", "n": 1, "flow_steps": steps}}


def _named(name: str) -> dict[str, Any]:
    return {"name": name}


def _text(path: Path, document: dict[str, Any], budget: int, catalog: Catalog) -> str:
    """The recipe as a file, with a comment beside each kind and option."""
    mode, reward = document["mode"]["kind"], document["reward"][0]["kind"]
    lines = [
        f"# {mode} of '{document['model']['kind']}' for '{reward}'.    align run {quote(str(path))}"
    ]
    if mode != "finetune":
        lines.append(f"# Every arm that is steered spends about {budget} network calls a sample.")
    rest = {key: item for key, item in document.items() if key not in (*_SECTIONS, "compare")}
    lines += [f"{key} = {inline(item)}" for key, item in rest.items()]
    for section in _SECTIONS:
        tables = document.get(section, [])
        tables = {"kind": tables} if isinstance(tables, str) else tables
        for table in tables if isinstance(tables, list) else [tables]:
            lines += ["", f"[[{section}]]" if isinstance(tables, list) else f"[{section}]"]
            lines += _table_lines(section, table, catalog)
    for table in document.get("compare", []):
        lines += ["", "[[compare]]", *(f"{key} = {inline(item)}" for key, item in table.items())]
    return "\n".join(lines) + "\n"


def _table_lines(section: str, table: dict[str, Any], catalog: Catalog) -> Iterator[str]:
    entry = catalog.parts[section][table["kind"]] if section in catalog.parts else None
    own = attrs.fields(entry.cls if entry else Run)
    fields = {field.alias or field.name: field for field in (*attrs.fields(RewardTerm), *own)}
    for key, item in table.items():
        about = entry.summary if key == "kind" and entry else fields[key].metadata.get("help", "")
        about = about.removesuffix(".")
        line = f"{key} = {inline(item)}"
        if len(line) < _COMMENT and _COMMENT + len(about) < _WIDEST:
            yield f"{line.ljust(_COMMENT)}# {about}"
        else:
            yield from (f"# {part}" for part in textwrap.wrap(about, _WIDEST - 2))
            yield line
    if entry:
        yield f"# `align show {section}.{entry.kind}` has its other options"
