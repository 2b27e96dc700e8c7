"""More of a run that is done: samples that are missing, or further steps of a training.

What is missing is made in a folder inside of the run's, which a run that is stopped leaves for the
next attempt. The run itself is untouched until all of it is there.
"""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

import attrs
from loguru import logger

from align.catalog.registry import Catalog, load_catalog
from align.core.errors import PartError
from align.core.interrupt import user_interrupts
from align.core.mode import Trainable
from align.core.study import Study
from align.io import files
from align.io.text import number_of
from align.recipe import Arm, Loaded, Recipe, load
from align.report.schema import (
    METRICS,
    RunResults,
    check_metrics,
    check_recipe,
    check_samples,
    read,
    recipe_digest,
)
from align.runner.before import Before
from align.runner.folder import EXTENSION, differences, slugs
from align.runner.observers import ends_in_order
from align.runner.record import Record, held, libraries
from align.runner.session import checked, reported, run_loaded
from align.training import checkpoint

_WHOLE: Final = "whole"  # the extension, once it is whole and has but to be moved


def extend(
    folder: Path,
    *,
    samples: int | None = None,
    steps: int | None = None,
    progress: bool = True,
    catalog: Catalog | None = None,
) -> tuple[str, ...]:
    """Make the samples, or take the steps, that a run lacks; its metrics are computed anew.

    The results are those of a run that had as many from the start: of samples to the rounding that
    other blocks make, of a training to the bit. Costs are added up.

    Args:
        folder: of a run that is done.
        samples: how many each arm is to have; or
        steps: how many steps each arm is to train.
        progress: whether to show a progress bar on the terminal.
        catalog: the installed parts, if they are already loaded.

    Returns:
        Why some tables or pictures could not be made of the results, one line each.

    Raises:
        PartError: the folder holds no finished run, or one that cannot be extended; says why.
        TakenError: another process uses the folder.
        KeyboardInterrupt: it was stopped; what it had is kept for the next attempt.
    """
    with user_interrupts(), ends_in_order(), _locked(folder):
        moved = folder / EXTENSION / _WHOLE
        if moved.exists():
            _move(moved, folder)
        catalog = catalog or load_catalog()
        wanted = _Wanted(samples=samples, steps=steps)
        known, results = _known(folder, wanted, catalog)
        if any(wanted.lacks(arm, known.recipe.run.samples) for arm in known.recipe.arms()):
            home = folder / EXTENSION / folder.absolute().name
            loaded = load(folder / "recipe.toml", sets=wanted.sets(known.recipe), catalog=catalog)
            text = checked(loaded)[1]
            _forget_others(home, text)
            before = None
            if samples is not None:
                before = Before(folder, results, known.recipe.run.samples)
            _begin(home, folder, known.recipe, text)
            again = shlex.join(["align", "extend", str(folder), *wanted.options])
            run_loaded(loaded, catalog, progress=progress, out=home, before=before, again=again)
            _join_logs(home, folder)
            home.replace(moved)
            _move(moved, folder)
        return reported(folder)


@final
@attrs.frozen(kw_only=True)
class _Wanted:
    """What a run is to have: so many samples, or so many steps of training."""

    samples: int | None
    steps: int | None

    @property
    def number(self) -> int:
        number = self.steps if self.samples is None else self.samples
        assert number is not None
        return number

    @property
    def options(self) -> tuple[str, str]:
        """Of the command."""
        return ("--steps" if self.samples is None else "--samples"), str(self.number)

    def lacks(self, arm: Arm, samples: int) -> bool:
        """Whether an arm, of a run with so many samples, has fewer."""
        return (arm.mode.steps if self.samples is None else samples) < self.number

    def sets(self, recipe: Recipe) -> list[str]:
        """What `--set` would be given."""
        if self.samples is not None:
            return [f"run.samples={self.samples}"]
        arms = [f"compare[{place}]." for place in range(len(recipe.compare))] or [""]
        return [f"{arm}mode.steps={self.steps}" for arm in arms]

    def refusal(self, arm: Arm, samples: int) -> str:
        """Why an arm, of a run with so many samples, cannot be added to; "" where it can."""
        name, mode = arm.name, arm.mode
        if self.samples is not None:
            if reason := _alone(name, mode):
                return reason
            more = samples > self.samples
            return (
                f"it has {number_of(samples, 'sample')} already; name a number above that"
                if more
                else ""
            )
        if not isinstance(mode, Trainable):
            return f"'{name}' does not train; --samples adds samples"
        if mode.steps > self.number:
            return f"'{name}' has {number_of(mode.steps, 'step')} already; name a number above that"
        reason = mode.other_with(self.number) if mode.steps < self.number else ""
        return f"'{name}' with more steps is another training from the start: {reason}" * bool(
            reason
        )


def _known(folder: Path, wanted: _Wanted, catalog: Catalog) -> tuple[Loaded, RunResults]:
    """The recipe of a run, and its results.

    Raises:
        PartError: they are not what a run of this recipe with more would begin with.
    """
    results = read(folder)
    check_recipe(folder, results)
    check_metrics(folder, results)
    for arm in results.arms:
        check_samples(folder, arm)
    known, text = checked(load(folder / "recipe.toml", catalog=catalog))
    if recipe_digest(text) != results.recipe:
        what = differences(folder, text) or "what its parts are"
        raise PartError(
            f"'{folder}' cannot be extended: what the recipe says now is not what was run (it"
            f" differs in {what}); run it again"
        )
    samples = known.recipe.run.samples
    reasons = [wanted.refusal(arm, samples) for arm in known.recipe.arms()]
    if reasons := list(dict.fromkeys(filter(None, reasons))):
        raise PartError(f"'{folder}' cannot be extended: {'; '.join(reasons)}")
    _compare_versions(folder)
    return known, results


def _begin(home: Path, folder: Path, recipe: Recipe, text: str) -> None:
    """Have an extension go on from where the run ended: its chunks, and its checkpoints."""
    if (home / "recipe.toml").exists():
        return
    names = slugs([arm.name for arm in recipe.arms()])
    ours = Record(home, names, text)
    theirs = Record(folder, names, files.read_text(folder / "recipe.toml"))
    trained = [arm for arm in recipe.arms() if isinstance(arm.mode, Trainable)]
    for arm in trained:
        if theirs.saved(arm.name) is None:
            raise PartError(
                f"'{folder}' cannot be extended: the checkpoint of '{arm.name}' is gone"
            )
        checkpoint.adopt(ours.home(arm.name), theirs.home(arm.name), ours.identity(arm.name))
    for name in ("about.json", *([METRICS] if trained else ())):
        if (folder / name).exists():
            files.write(home / name, files.read_text(folder / name))


def _alone(name: str, mode: Any) -> str:
    """Why an arm's samples cannot be added to; "" where they can."""
    if isinstance(mode, Trainable):
        return f"'{name}' trains; --steps has it train on"
    if isinstance(mode, Study):
        return f"'{name}' is a study, whose numbers are of all it looks at; run it again"
    if not mode.independent:
        return f"samples of '{name}' depend on each other, so that more of them change all"
    return ""


def _compare_versions(folder: Path) -> None:
    """Say where libraries are others than those of the run."""
    facts = files.read_table(folder / "about.json")
    before, now = facts.get("libraries"), libraries()
    if isinstance(before, dict) and before != now:
        names = [f"{name} {before.get(name)} (now {now[name]})" for name in now]
        names = [n for n, name in zip(names, now, strict=True) if before.get(name) != now[name]]
        text = "the run was made with {}: its samples and new ones may differ by more than rounding"
        logger.bind(notice=True).warning(text, ", ".join(names))


def _forget_others(home: Path, text: str) -> None:
    """Remove what an earlier attempt left that asked for another number of samples."""
    path = home / "recipe.toml"
    try:
        same = not home.exists() or recipe_digest(files.read_text(path)) == recipe_digest(text)
    except (PartError, tomllib.TOMLDecodeError):
        same = False
    if not same:
        files.remove(home)


def _join_logs(home: Path, folder: Path) -> None:
    """Put the log of the run before that of its extension."""
    log = "log.txt"
    texts = [files.read_text(place / log) for place in (folder, home) if (place / log).exists()]
    files.write(home / log, "".join(texts))


def _move(whole: Path, folder: Path) -> None:
    """Let an extension take the place of what the run had; what is interrupted is done again."""
    for path in sorted(p for p in whole.rglob("*") if p.is_file()):
        target = folder / path.relative_to(whole)
        with files.writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    for arm in read(folder).arms:  # names of pictures have more digits where there are many more
        for path in (folder / arm.folder).glob("*"):
            if path.suffix in (".png", ".npz") and path.name not in {*arm.files, "samples.npz"}:
                files.remove(path)
    for home in {path.parent for path in folder.rglob("checkpoint-*") if path.is_dir()}:
        checkpoint.remove_older(home)
    files.remove(folder / EXTENSION)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes away from a run that is done.

    Raises:
        PartError: there is no such run.
        TakenError: another process has it.
    """
    if not os.path.lexists(folder / EXTENSION / _WHOLE):
        read(folder)  # which says it best where there is none
    if link := files.first_link(folder):
        raise PartError(
            f"'{link}' is a link, and a run writes into its own folder alone; remove it"
        )
    with held(folder, ""):
        yield
