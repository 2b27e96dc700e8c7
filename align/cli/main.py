"""The command `align`.

Nothing but click is imported before a command needs it: `align --help` answers at once.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias

import click
from click.shell_completion import CompletionItem

from align.catalog.contracts import CONTRACT_CLASSES
from align.cli.group import Commands
from align.core.errors import (
    AlignError,
    PartError,
    PeerFailedError,
    PluginError,
    RecipeError,
    UserInterrupt,
)
from align.core.interrupt import user_interrupts
from align.io.text import visible, visible_lines

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table
    from rich.text import Text

    from align.recipe import Recipe
    from align.runner.plan import RecipePlan

P = ParamSpec("P")
Sets: TypeAlias = "tuple[str, ...]"

_GAP: Final = 2  # letters between columns
_SHOWN: Final = (
    "report.html",
    "grid.png",
    "scatter.png",
    "tradeoff.png",
    "curves.png",
    "table.md",
    "table.csv",
    "study.png",
    "study.md",
    "model.safetensors",
    "log.txt",
)
_MANY_ARMS: Final = 5  # from here on an arm is a row of the table
_CELL: Final = 120  # letters of a name in a table
_INTERRUPTED: Final = 130  # what shells report after Ctrl-C


def _recipes_from(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """The recipes that begin so: files, or those that come with align."""
    from align.catalog.shipped import SIGN

    if not begun.startswith(SIGN):
        return [CompletionItem(begun, type="file")]
    return [CompletionItem(name) for name in _shown_from(context, parameter, begun)]


_recipe = click.argument("recipe", shell_complete=_recipes_from)
_sets = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set one value, as in mode.steps=20."
)
_sweeps = click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="KEY=[...]",
    help="An arm for each of some values, as in mode.steps=[10, 20].",
)
_traceback = click.option("--traceback", is_flag=True, help="Show where an error was raised.")


def _shown_from(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """The parts, and the recipes that come with align, that begin so."""
    from align.catalog.shipped import SIGN, shipped

    if begun.startswith(SIGN):
        return [f"{SIGN}{name}" for name in shipped() if f"{SIGN}{name}".startswith(begun)]
    return _kinds(begun)


def _kinds_from(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """The kinds that begin so, for shells that complete words."""
    return _kinds(begun)


def _kinds(begun: str) -> list[str]:
    from align.cli.listing import read_listing

    return sorted({part.kind for part in read_listing().parts if part.kind.startswith(begun)})


def _listable(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """What `align list` may be asked for that begins so."""
    from align.cli.shown import kinds_offered

    return [name for name in kinds_offered() if name.startswith(begun)]


def _guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A mistake is shown as its message alone, and sets the exit code."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        context = click.get_current_context()
        try:
            with _interruptible():
                command(*args, **kwargs)
        except UserInterrupt as error:
            click.echo(
                visible_lines("\n".join(("interrupted", *getattr(error, "__notes__", ())))),
                err=True,
            )
            context.exit(getattr(error, "exit_code", _INTERRUPTED))
        except AlignError as error:
            if any(c.params.get("traceback") for c in (context, context.find_root())):
                raise
            if not isinstance(error, PeerFailedError):
                click.echo(visible_lines(str(error)), err=True)
            context.exit(error.exit_code)

    return guarded


@contextmanager
def _interruptible() -> Iterator[None]:
    """Tell the user's Ctrl-C from whatever else may end a command.

    Raises:
        UserInterrupt: the user pressed Ctrl-C.
        PartError: something that belongs to no part raised what would end the command quietly.
    """
    with user_interrupts():
        try:
            yield
        except (UserInterrupt, click.exceptions.Exit):
            raise
        except (SystemExit, KeyboardInterrupt, GeneratorExit, EOFError) as error:
            from align.core.attribution import described

            text = f"something that `align` called raised {described(error)}"
            raise PartError(f"{text}; --traceback shows what") from error


@contextmanager
def _notices() -> Iterator[None]:
    """Show on stderr those lines of the log that a user waits for, such as downloads.

    All lines are in the log of the run folder.
    """
    from loguru import logger

    with suppress(ValueError):
        logger.remove(0)  # loguru's own sink
    logger.enable("align")
    sink = logger.add(
        lambda line: click.echo(line, nl=False, err=True),
        format="{message}",
        filter=lambda record: bool(record["extra"].get("notice")),
    )
    try:
        yield
    finally:
        logger.remove(sink)
        logger.disable("align")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Import without the collector of garbage, which finds none and takes a seventh of the time."""
    import gc

    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@_traceback
@click.version_option(package_name="align-core", prog_name="align")
def main(traceback: bool) -> None:
    """Align flow and diffusion models with rewards: steer, search and fine-tune."""


main.guard = _guarded


@main.command()
@_recipe
@click.option(
    "--on", metavar="KIND", help="Who makes the run's samples: local, or what a plugin brings."
)
@_sets
@_sweeps
@click.option(
    "--dry-run", is_flag=True, help="Do all that comes before the first sample; write nothing."
)
@_traceback
@_guarded
def run(
    recipe: str, on: str | None, sets: Sets, sweeps: Sets, dry_run: bool, traceback: bool
) -> None:
    """Run a recipe, and print its table.

    All else is in its run folder. RECIPE is a file, or @NAME for one of those that come with
    align; `align list recipes` shows them.

    With --dry-run the recipe is checked, its parts are built, and its cost is said as by `align
    plan`, and which folder it would write. Nothing is downloaded.
    """
    if on is not None:
        sets = (*sets, f"run.on={json.dumps(on)}")
    if dry_run:
        _rehearse(recipe, sets, sweeps)
        return
    with _uncollected():
        from align.engine.allocator import keep_freed
        from align.runner.session import run as run_recipe
        from align.training import parallel

    keep_freed()  # the process is ours

    with _notices(), parallel.joined():
        result = run_recipe(recipe, sets=sets, sweeps=sweeps)
        if parallel.first():
            _print_run(result.folder, result.failures)


def _print_run(folder: Path, failures: Sequence[str]) -> None:
    """Print the table of a run that has just ended, what is in its folder, and what is not."""
    _print_table(folder)
    names = [name for name in _SHOWN if (folder / name).exists()]
    click.echo(visible(f"{folder}: {', '.join(names)}"))
    if failures:
        missing = "\n".join(map(visible, failures))
        click.echo(f"not everything could be made of the results:\n{missing}", err=True)
        again = shlex.join(["align", "report", str(folder)])
        click.echo(f"the results are kept; `{visible(again)}` tries again", err=True)
        click.get_current_context().exit(1)


@main.command()
@click.argument("folders", nargs=-1, required=True, metavar="RUN...")
@click.option("--open", "shown", is_flag=True, help="Open the page in a browser.")
@_traceback
@_guarded
def report(folders: tuple[str, ...], shown: bool, traceback: bool) -> None:
    """Make the report of a run anew, and print its table.

    Of several runs, one page is made of all: report.html in the working folder.
    """
    from pathlib import Path

    from align.io.paths import given
    from align.report.page import PAGE
    from align.report.writer import join, write

    paths = [given(folder) for folder in folders]
    failures: tuple[str, ...] = ()
    with _notices():
        if len(paths) == 1:
            page, failures = paths[0] / PAGE, write(paths[0])
        else:
            page = Path(PAGE)
            join(paths, page)
    for path in paths:
        if len(paths) > 1:
            click.echo(f"{visible(str(path))}:")
        _print_table(path)
    click.echo(visible(str(page)))
    if shown:
        click.launch(str(page))
    click.get_current_context().exit(1 if failures else 0)


@main.command()
@click.argument("folder", metavar="RUN")
@click.option("--samples", type=click.IntRange(min=1), help="Samples that every arm is to have.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps that every arm is to train.")
@_traceback
@_guarded
def extend(folder: str, samples: int | None, steps: int | None, traceback: bool) -> None:
    """Add samples to a run that is done, or steps to its training.

    Only what is missing is made; metrics, tables and pictures are made anew of all. A run that is
    stopped meanwhile stays as it was, and the same command goes on. Training goes on where none of
    its steps depends on how many there are.
    """
    if (samples is None) == (steps is None):
        raise click.UsageError("give either --samples or --steps")

    with _uncollected():
        from align.engine.allocator import keep_freed
        from align.io.paths import given
        from align.runner.extend import extend as extended

    keep_freed()  # the process is ours
    with _notices():
        failures = extended(given(folder), samples=samples, steps=steps)
    _print_run(given(folder), failures)


@main.command()
@click.argument("folder", metavar="FOLDER")
@click.option(
    "--reward",
    "rewards",
    multiple=True,
    metavar="KIND",
    shell_complete=_kinds_from,
    help='A reward: its kind, or a table as in TOML, \'{ kind = "clip", name = "likeness" }\'.',
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="KIND",
    shell_complete=_kinds_from,
    help="A metric, likewise.",
)
@click.option("--recipe", metavar="RECIPE", help="Take the rewards and metrics of a recipe too.")
@click.option(
    "--on",
    metavar="KIND",
    help="Who scores: this process, or an executor, likewise, as '{ kind = \"local\" }'.",
)
@click.option(
    "--prompts",
    metavar="FILE",
    help="A .csv or .jsonl with the columns 'file' and 'prompt'; it says which pictures count.",
)
@click.option(
    "--out", metavar="FOLDER", help="Where to write; runs/NAME_scores unless it is given."
)
@click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda")),
    default="auto",
    help="Where to compute.",
)
@_traceback
@_guarded
def score(
    folder: str,
    rewards: tuple[str, ...],
    metrics: tuple[str, ...],
    traceback: bool,
    **others: str | None,
) -> None:
    """Score pictures in a folder by rewards and metrics.

    Whoever made them: no model is needed. The folder OUT then has table.md, table.csv, and
    scores.csv with the scores of each picture; files of these names are replaced. A file that is no
    picture, or damaged, is told before anything is scored. What is scored is kept until all is
    done: a command that was stopped goes on when it is given again.
    """
    with _uncollected():
        from align.catalog.registry import load_catalog
        from align.io.listed_pictures import listed_pictures
        from align.io.paths import given
        from align.recipe.scoring import Scoring
        from align.runner.score import FILES, score_pictures

    scoring = Scoring.load(others["recipe"], rewards, metrics, load_catalog(), others["on"])
    place, prompts = given(folder), others["prompts"]
    pictures, notes = listed_pictures(place, None if prompts is None else given(prompts))
    target = given(others["out"] or f"runs/{place.absolute().name}_scores")
    with (
        _notices(),
        click.progressbar(
            length=len(pictures), file=sys.stderr, hidden=not sys.stderr.isatty()
        ) as bar,
    ):
        scores = score_pictures(pictures, scoring, target, others["device"] or "auto", bar.update)
    _print_rows(*scores.rows())
    _print_notes([*scoring.notes, *notes])
    click.echo(visible(f"{target}: {', '.join(FILES)}"))
    for failure in scores.failures:
        click.echo(visible_lines(failure), err=True)
    click.get_current_context().exit(1 if scores.failures else 0)


@main.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--csv",
    "table",
    metavar="FILE",
    help="Write the scores of each pair into a file; with - they are all that is printed.",
)
@_traceback
@_guarded
def compare(first: str, second: str, table: str | None, traceback: bool) -> None:
    """Say which of two arms is better, sample by sample.

    A and B are RUN, or RUN:ARM. Samples of one number begin from one noise, so that they are
    pairs. Differences have paired t intervals of 95 %.
    """
    from align.io.files import write
    from align.io.paths import given
    from align.report.compare import as_csv
    from align.report.compare import compare as compared

    comparisons = compared(first, second)
    if table == "-":
        click.echo(visible_lines(as_csv(comparisons)), nl=False)
        return
    if table is not None:
        write(given(table), as_csv(comparisons))
    for number, comparison in enumerate(comparisons):
        if number:
            click.echo()
        if len(comparisons) > 1:
            click.echo(visible(f"{comparison.arm}:"))
        _print_rows(*comparison.rows())
        _print_notes(comparison.verdict())


def _print_table(folder: Path) -> None:
    """Print the table of a run: a column for each arm, or, of many arms, a row.

    Studies have a row for each arm and number of calls.
    """
    from rich.table import Column, Table

    from align.report.schema import read
    from align.report.study import study_notes, study_rows
    from align.report.table import rows

    results = read(folder)
    if studies := results.studies():
        heads, cells = study_rows(studies)
        _print_rows(heads, cells)
        _print_notes([*study_notes(studies), *results.notes])
        return
    heads, cells = rows(folder, results)
    if len(cells) >= _MANY_ARMS:
        varied = {name for arm in results.arms for name in arm.factors}  # arms are named by it
        kept = [
            n for n, head in enumerate(heads) if head not in varied and any(c[n] for c in cells)
        ]
        _print_rows([heads[n] for n in kept], [[row[n] for n in kept] for row in cells])
    else:
        table = Table("", *(Column(_cell(row[0])) for row in cells), box=None, pad_edge=False)
        for place, head in enumerate(heads[1:], 1):
            values = [row[place] for row in cells]
            if any(values):
                table.add_row(*map(_cell, (head, *values)))
        _print(table)
    _print_notes(results.all_notes())


def _print_rows(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column names its rows, in as many pieces as the width asks for."""
    from rich.cells import cell_len
    from rich.table import Column, Table

    from align.io.terminal import console

    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    first = min(widths[0], _CELL)
    left, pieces = 0, list[list[int]]()
    for place in range(1, len(heads)):
        if not pieces or widths[place] + _GAP > left:
            pieces.append([])
            left = console().width - first
        pieces[-1].append(place)
        left -= widths[place] + _GAP
    for piece in pieces:
        columns = [Column(_cell(heads[place]), no_wrap=True) for place in piece]
        table = Table(Column(_cell(heads[0]), min_width=first), *columns, box=None, pad_edge=False)
        for row in cells:
            table.add_row(_cell(row[0]), *(_cell(row[place]) for place in piece))
        _print(table)


def _cell(text: str) -> Text:
    """Text of a user in a table."""
    from rich.text import Text

    from align.io.text import shortened

    return Text(shortened(text, _CELL))


def _print(table: Table) -> None:
    from align.io.terminal import console

    console().print(table)


def _print_notes(notes: Sequence[str]) -> None:
    from align.io.terminal import console

    shown = console()
    for note in notes:
        shown.print(visible(note))


@main.command()
@click.argument(
    "recipes", nargs=-1, required=True, metavar="RECIPE...", shell_complete=_recipes_from
)
@_sets
@_sweeps
@click.option(
    "--start-isolated",
    is_flag=True,
    help="Have rewards that are elsewhere read there: start interpreters, ask servers.",
)
@click.option(
    "--plan", "planned", is_flag=True, help="Say what good ones would cost, as align plan does."
)
@_traceback
@_guarded
def check(
    recipes: tuple[str, ...],
    sets: Sets,
    sweeps: Sets,
    start_isolated: bool,
    planned: bool,
    traceback: bool,
) -> None:
    """Say whether recipes can run, or all that is wrong.

    Nothing that a recipe names is run: no function, and no interpreter without --start-isolated;
    with --plan, parts are called with a few rows.
    """
    with _uncollected():
        from align.catalog.registry import load_catalog
        from align.isolation.asked import not_started
        from align.recipe import load

        catalog, wrong = load_catalog(), list[str]()
    for recipe in recipes:
        try:
            with nullcontext(()) if start_isolated else not_started() as unread:
                loaded = load(recipe, sets=sets, sweeps=sweeps, catalog=catalog)
        except RecipeError as error:
            wrong.append(str(error))
        else:
            arms = loaded.recipe.compare
            click.echo(f"{recipe}: good" + (f", compares {len(arms)}" if arms else ""))
            for reward in unread:
                text = "its options, and whether it fits the other parts, were not looked at"
                click.echo(f"{recipe}: {reward}: {text}; --start-isolated looks at them")
            if planned:
                with _notices():
                    _print_plan(loaded.recipe)
    if wrong:
        raise RecipeError("\n".join(wrong))


@main.command()
@_traceback
@_guarded
def schema(traceback: bool) -> None:
    """Print the JSON Schema of recipes.

    Editors complete and check recipes by it.
    """
    from align.catalog.registry import load_catalog
    from align.recipe.json_schema import json_schema

    click.echo(json.dumps(json_schema(load_catalog()), ensure_ascii=False, indent=1))


@main.command()
@_recipe
@_sets
@_sweeps
@_traceback
@_guarded
def plan(recipe: str, sets: Sets, sweeps: Sets, traceback: bool) -> None:
    """Say what a recipe would cost here.

    Calls, operations, seconds and memory of every arm are printed. Parts whose weights are here
    are called with a few rows; nothing is downloaded, and no sample is made.
    """
    from align.catalog.registry import load_catalog
    from align.recipe import load

    with _notices():
        _print_plan(load(recipe, sets=sets, sweeps=sweeps, catalog=load_catalog()).recipe)


def _rehearse(recipe: str, sets: Sets, sweeps: Sets) -> None:
    from align.runner.session import dry_run

    with _notices():
        folder, planned = dry_run(recipe, sets=sets, sweeps=sweeps)
    _print_planned(planned)
    click.echo(visible(f"{folder}: would be written; nothing was"))


def _print_plan(recipe: Recipe) -> None:
    from align.runner.plan import plan_recipe

    _print_planned(plan_recipe(recipe))


def _print_planned(planned: RecipePlan) -> None:
    """A row an arm, what a part costs, and what must be said beside it."""
    from align.runner.plan import arm_rows, part_rows

    for heads, rows in (arm_rows(planned), part_rows(planned)):
        if rows:
            _print_rows(heads, rows)
    _print_notes(planned.all_notes())


@main.command()
@click.argument("kind", type=click.Choice(("recipe", *CONTRACT_CLASSES)), metavar="KIND")
@click.argument("name")
@click.option("--into", default=".", metavar="FOLDER", help="Where to write; by default here.")
@click.option("--model", metavar="KIND", help="Of a recipe: its model.")
@click.option("--reward", metavar="KIND", help="Of a recipe: its reward.")
@click.option("--mode", metavar="KIND", help="Of a recipe: steer, best_of_n or finetune.")
@click.option(
    "--budget",
    type=click.IntRange(min=2),
    metavar="NFE",
    help="Of a recipe: network calls that a sample may cost, about; 450 unless given.",
)
@_sets
@_traceback
@_guarded
def new(kind: str, name: str, into: str, sets: Sets, traceback: bool, **wishes: Any) -> None:
    """Write a new recipe, or a plugin with a part.

    `align new recipe NAME` writes NAME.toml. On a terminal it asks for what no option says: the
    model, the reward, what they must be told, the mode and the budget.

    `align new KIND NAME` writes a complete distribution with a part NAME, tests included. KIND is
    a heading of `align list` in the singular, such as reward, sampler or dynamics.
    """
    from align.catalog.registry import load_catalog
    from align.cli.new_recipe import Wish, write_recipe
    from align.cli.scaffold import write_scaffold
    from align.io.paths import given

    if kind == "recipe":
        path = write_recipe(name, Wish(**wishes, sets=sets), given(into), load_catalog())
        click.echo(f"{path}: written. What it would cost, and the run:")
        named = shlex.quote(str(path))
        click.echo(f"  align plan {named} && align run {named}")
        return
    if sets or any(wish is not None for wish in wishes.values()):
        options = [f"--{name}" for name, wish in {**wishes, "set": sets or None}.items() if wish]
        raise PluginError(f"{', '.join(options)}: for recipes alone, and this is a {kind}")
    folder = write_scaffold(kind, name, given(into), load_catalog())
    click.echo(f"{folder}: written. Install it and try it:")
    click.echo(f"  pip install -e '{folder}[test]' && pytest {folder}")


@main.command()
@click.argument("name", metavar="NAME", shell_complete=_kinds_from)
@click.argument("pictures", nargs=-1, metavar="[PICTURE]...")
@click.option("--prompt", default="a tabby cat", help="What pictures are scored for.")
@click.option(
    "--venv", default="", metavar="FOLDER", help="Ask the package in this virtual environment."
)
@click.option(
    "--make-venv",
    "made",
    metavar="FOLDER",
    help="Make that environment first, by the versions that the plugin pins.",
)
@_sets
@_traceback
@_guarded
def verify(
    name: str,
    pictures: tuple[str, ...],
    prompt: str,
    venv: str,
    made: str | None,
    sets: Sets,
    traceback: bool,
) -> None:
    """Try a part, with real weights, by its contract.

    Its weights are named by --set 'weights="FILE"'. Of a reward, scores of pictures are shown
    beside those of the package it stands in for. Where the package does not go with what is
    installed here, it is asked in an environment of its own.
    """
    from align.catalog.registry import load_catalog
    from align.cli.listing import places
    from align.cli.verify import lines, make_venv, read_part

    if venv and made:
        raise click.UsageError("give either --venv or --make-venv")
    if venv and not pictures:
        raise click.UsageError("--venv: name the pictures that the package is asked about")
    catalog, failed = load_catalog(), False
    with _notices():
        found = places(name, catalog.parts, catalog.broken)
        if venv or made:  # a metric may have the reward's name
            found = [place for place in found if place[0] == "reward"] or found
        for contract, kind in found:
            entry = catalog.parts[contract][kind]
            if made:
                if pictures or sets:
                    read_part(catalog, entry, sets)
                make_venv(entry, made, click.echo)
                if not pictures:
                    given = [word for text in sets for word in ("--set", text)]
                    again = ["align", "verify", name, "PICTURE", *given, "--venv", made]
                    click.echo(visible(f"{made}: made; `{shlex.join(again)}` asks there"))
                    continue
            part = read_part(catalog, entry, sets)
            for text, bad in lines(contract, part, pictures, prompt, made or venv):
                click.echo(text)
                failed |= bad
    click.get_current_context().exit(1 if failed else 0)


@main.command()
@click.option("--clear", is_flag=True, help="Remove all that is kept.")
@_traceback
@_guarded
def cache(clear: bool, traceback: bool) -> None:
    """List what is kept for later runs, or remove it.

    Unsteered samples, references of metrics, and answers of judges: later runs take them in place
    of making or asking for them.
    """
    from align.cli.kept import answers_of_judges, files_of_judges, listed, references_lines
    from align.io.cache import Cache, room
    from align.io.cache_dir import cache_dir
    from align.io.files import readable, remove

    try:
        kept, references = (Cache(cache_dir(x), room()) for x in ("unsteered", "references"))
        judges = cache_dir("judges")
    except OSError as error:
        raise PartError(str(error)) from error
    if clear:
        for one in (kept, *([references] if references.entries() else [])):
            click.echo(visible(f"{one.folder}: {readable(one.clear())} are free again"))
        if answers := files_of_judges(judges):
            size = readable(sum(file.stat().st_size for file in answers))
            for file in answers:
                remove(file)
            click.echo(visible(f"{judges}: {size} are free again"))
        return
    for line in (*listed(kept), *references_lines(references), *answers_of_judges(judges)):
        click.echo(visible(line))


@main.command()
@click.argument("shell", required=False, type=click.Choice(("bash", "zsh", "fish")))
@click.option("--install", is_flag=True, help="Write it where the shell looks for such scripts.")
@_traceback
@_guarded
def completion(shell: str | None, install: bool, traceback: bool) -> None:
    """Print a script by which a shell completes words.

    Commands, options, kinds and recipes are completed, without importing torch. The shell is yours
    unless another is named.
    """
    from align.cli.complete import install_script, script, shell_of_user

    chosen = shell or shell_of_user()
    if install:
        _print_lines(install_script(chosen, main))
    else:
        click.echo(script(chosen, main))


@main.command()
@_traceback
@_guarded
def doctor(traceback: bool) -> None:
    """Say what is installed here, and what is broken.

    Python, torch, devices, memory, threads, the cache, every plugin with its parts, and packages
    that are missing for something. The exit code is 1 where anything is broken.
    """
    from align.cli.doctor import doctor_lines

    lines, broken = doctor_lines()
    _print_lines(map(visible_lines, lines))
    click.get_current_context().exit(1 if broken else 0)


def _at_least_0(_: click.Context, __: click.Parameter, value: float) -> float:
    if not value >= 0:  # nan too
        raise click.BadParameter(f"must be at least 0, got {value:g}")
    return value


@main.command()
@click.argument("folder", metavar="RUN")
@click.option("--to", default=None, metavar="FILE", help="The archive; RUN.zip here if left out.")
@click.option(
    "--largest",
    type=float,
    callback=_at_least_0,
    default=100.0,
    show_default=True,
    metavar="MB",
    help="Larger files are left out, and named by their digests.",
)
@_traceback
@_guarded
def pack(folder: str, to: str | None, largest: float, traceback: bool) -> None:
    """Write a run into one zip that repeats elsewhere.

    It has the recipe, and the files that the recipe reads.
    """
    from pathlib import Path

    from align.catalog.registry import load_catalog
    from align.io.files import readable
    from align.io.paths import given
    from align.runner.pack import pack as pack_run

    run = given(folder)
    target = given(to) if to else Path(f"{run.absolute().name}.zip")
    with _notices():
        packed = pack_run(run, target, load_catalog(), largest=largest * 1e6)
    for line in packed.left_out:
        click.echo(visible(f"left out: {line}"), err=True)
    size = readable(packed.path.stat().st_size)
    click.echo(visible(f"{packed.path}: {size}; unpacked, `align run recipe.toml` repeats it"))


@main.command("list")
@click.argument("kinds", nargs=-1, metavar="[KIND]...", shell_complete=_listable)
@click.option(
    "--for",
    "recipe",
    metavar="RECIPE",
    shell_complete=_recipes_from,
    help="Only parts that could stand in this recipe, and why others could not.",
)
@_traceback
@_guarded
def list_parts(kinds: tuple[str, ...], recipe: str | None, traceback: bool) -> None:
    """List parts that a recipe may name, or recipes.

    Every KIND is one of models, samplers, estimators, dynamics, rewards, modes, metrics, networks,
    features, autoencoders, datasets, objectives, trackers and executors; or recipes, for those that
    come with align. Without any, all parts are listed. Plugins that did not load are named too.
    """
    from align.cli.listing import read_listing
    from align.cli.shown import RECIPES, contract_asked, list_lines, recipe_lines

    contracts = [contract_asked(kind) for kind in kinds if kind not in (RECIPES, "recipe")]
    if recipe is not None:
        _list_for(recipe, contracts)
        return
    listing = read_listing()
    if contracts or not kinds:
        _print_lines(list_lines(listing, contracts or CONTRACT_CLASSES))
    if len(contracts) < len(kinds):
        _print_lines(recipe_lines(listing))


def _list_for(recipe: str, contracts: Sequence[str]) -> None:
    """The parts that could stand in a recipe, of some contracts or of all."""
    from align.catalog.registry import load_catalog
    from align.cli.fitting import fitting_lines
    from align.recipe import load

    catalog = load_catalog()
    _print_lines(fitting_lines(load(recipe, catalog=catalog).recipe, catalog, contracts))


@main.command()
@click.argument("name", metavar="NAME", shell_complete=_shown_from)
@_guarded
def show(name: str) -> None:
    """Show a part: what it is, and its options.

    NAME is that of the part; of parts of one name, sampler.exact and estimator.exact are told
    apart by what they are. Of @NAME, a recipe that comes with align, the text is printed.
    """
    from align.cli.listing import read_listing
    from align.cli.shown import show_lines

    _print_lines(show_lines(read_listing(), name))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
