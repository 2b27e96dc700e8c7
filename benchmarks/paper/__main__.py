"""The paper's tables and figures, made anew, and one page that says which of its claims hold.

    python -m benchmarks.paper

Rows are recipes under recipes/paper, and each can be run alone. Their runs go to runs/paper below
the working folder, as the recipes say, and so does the page: report.html, and report.md. Runs that
are finished are kept, so that a command that was stopped goes on; a recipe that has changed is run
anew. With --imagenet the public weights stand in for the small model.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from loguru import logger

from align.catalog.registry import Catalog, load_catalog
from align.core.errors import AlignError, PartError
from align.core.study import Study
from align.recipe import Loaded, load
from align.report.schema import NAME
from align.runner.folder import would_claim
from align.runner.session import checked, run_loaded
from benchmarks.paper.evidence import Evidence
from benchmarks.paper.page import Section, save
from benchmarks.paper.rows import ROWS, Row
from benchmarks.table import parsed, parser_of

RECIPES: Final = Path(__file__).parents[2] / "recipes"
FOLDER: Final = Path("runs/paper")
TOY: Final[Mapping[str, int]] = {
    **dict.fromkeys(("steps", "flow_steps", "n", "particles", "rollout_steps", "draws"), 2),
    "pool": 4,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there yet, and write the page."""
    parser = parser_of("benchmarks.paper", __doc__)
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=", ".join(names))
    parser.add_argument(
        "--imagenet",
        action="store_true",
        help="the public weights in place of the small model, in rows that have a recipe for them",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="in every recipe",
    )
    parser.add_argument("--finished", action="store_true", help="run nothing; show what there is")
    options, command = parsed(parser, arguments)
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    if options.imagenet:
        rows = [on_imagenet(row) for row in rows]
    with contextlib.suppress(ValueError):
        logger.remove(0)  # what runs say is in their folders
    with working_folder(options.toy):
        catalog = load_catalog()
        runs = Runs(catalog, tuple(options.set), options.toy, not options.finished)
        sections = [runs.section(row) for row in rows]
        for path in save(sections, shlex.join(command), FOLDER, options.page):
            print(path)
        for section in sections:
            why = f": {section.failure}" if section.failure else ""
            print(f"{section.row.name:12} {section.verdict}{why}")
    if runs.go and any(section.failure for section in sections):
        raise SystemExit(1)


@contextlib.contextmanager
def working_folder(toy: bool) -> Iterator[None]:
    """The folder that runs go to: this one, or one that is thrown away."""
    if not toy:
        yield
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield


def on_imagenet(row: Row) -> Row:
    """The row with the recipes of the public weights in place of those that have one."""
    recipes = {name: row.imagenet.get(name, file) for name, file in row.recipes.items()}
    return attrs.evolve(row, recipes={name: file for name, file in recipes.items() if file})


@attrs.frozen
class Runs:
    """Makes the runs of rows, and reads them.

    Attributes:
        catalog: the installed parts.
        sets: overrides of every recipe.
        toy: whether recipes are made as small as can be.
        go: whether runs that are not there are made.
    """

    catalog: Catalog
    sets: tuple[str, ...]
    toy: bool
    go: bool

    def section(self, row: Row) -> Section:
        """What the recipes of a row say; they are run unless they are finished."""
        folders, commands = dict[str, list[Path]](), list[str]()
        try:
            for name, file in row.recipes.items():
                folders[name] = list[Path]()
                for seed in range(row.seeds):
                    own = [f'run.out="{FOLDER / name}{f"_seed_{seed}" if seed else ""}"']
                    own += [f"run.seed={seed}"] if seed else []
                    loaded = load(RECIPES / file, sets=[*own, *self.sets], catalog=self.catalog)
                    if seed and not isinstance(loaded.recipe.mode, Study):
                        break  # samples have errors of their own
                    shown = [f"--set {shlex.quote(one)}" for one in (*own[: seed * 2], *self.sets)]
                    commands.append(" ".join([f"align run recipes/{file}", *shown]))
                    folders[name].append(self.finished(loaded, file))
            return Section.of(row, Evidence(folders), commands, FOLDER)
        except AlignError as error:
            return Section(row, commands=commands, failure=str(error).partition("\n")[0])

    def finished(self, loaded: Loaded, file: str) -> Path:
        """The folder of a run of this very recipe, which is run if there is none.

        Raises:
            PartError: it is not there, and nothing is to be run.
        """
        loaded, text = checked(tiny(loaded) if self.toy else loaded)
        folder = would_claim(Path(loaded.recipe.run.out), text)
        if (folder / NAME).is_file():
            return folder
        if not self.go:
            raise PartError(f"recipes/{file} has not been run yet")
        print(f"recipes/{file} into {folder}", file=sys.stderr, flush=True)
        return run_loaded(loaded, self.catalog, progress=sys.stderr.isatty()).folder


def tiny(loaded: Loaded) -> Loaded:
    """The recipe at the smallest size that still has all of its arms."""
    recipe = loaded.recipe
    own = {"mode": small(recipe.mode), "estimator": small(recipe.estimator)}
    arms = tuple(
        attrs.evolve(arm, mode=small(arm.mode), estimator=small(arm.estimator))
        for arm in recipe.compare
    )
    run = attrs.evolve(recipe.run, samples=4, cache=False)
    return attrs.evolve(loaded, recipe=attrs.evolve(recipe, run=run, compare=arms, **own))


def small(part: Any) -> Any:
    """A mode or an estimator with few steps, draws, particles and rows."""
    if part is None:
        return None
    own = {field.name: getattr(part, field.name) for field in attrs.fields(type(part))}
    least = {key: min(most, own[key]) for key, most in TOY.items() if type(own.get(key)) is int}
    lists = ("inner_steps", "outer_steps", "times")
    least |= {key: own[key][:3] for key in lists if isinstance(own.get(key), tuple)}
    if "sizes" in own:
        least["sizes"] = (1, 2)
    if "optimisation" in own:
        least["optimisation"] = attrs.evolve(own["optimisation"], batch=4)
    if "evaluation" in own:
        least["evaluation"] = attrs.evolve(own["evaluation"], every=2, samples=2, flow_steps=2)
    return attrs.evolve(part, **least)


if __name__ == "__main__":
    main()
