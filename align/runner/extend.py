"""More of a run that is done: samples that are missing, or further steps of a training.

What is missing is made in a folder inside of the run's, which a run that is stopped leaves for the
next attempt. The run itself is untouched until all of it is there.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from loguru import logger

from align.catalog.registry import Catalog, load_catalog
from align.core.errors import PartError
from align.core.interrupt import user_interrupts
from align.core.mode import Trainable
from align.core.study import Study
from align.io import files
from align.io import lock as locks
from align.recipe import Loaded, load
from align.report.schema import (
    RunResults,
    check_metrics,
    check_recipe,
    check_samples,
    read,
    recipe_digest,
)
from align.runner.before import Before
from align.runner.folder import EXTENSION, differences
from align.runner.observers import ends_in_order
from align.runner.record import Pulse
from align.runner.session import checked, reported, run_loaded

_WHOLE: Final = "whole"  # the extension, once it is whole and has but to be moved


def extend(
    folder: Path, samples: int, *, progress: bool = True, catalog: Catalog | None = None
) -> tuple[str, ...]:
    """Make the samples of a run that it lacks of `samples`; its metrics are computed anew.

    The results are those of a run that had as many from the start, to the rounding that other
    blocks make; costs are added up.

    Args:
        folder: of a run that is done.
        samples: how many each arm is to have.
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
        results = read(folder)
        catalog = catalog or load_catalog()
        loaded, made = _more(folder, results, samples, catalog)
        if made < samples:
            again = shlex.join(["align", "extend", str(folder), "--samples", str(samples)])
            home = folder / EXTENSION / folder.absolute().name
            _forget_others(home, checked(loaded)[1])
            before = Before(folder, results, made)
            run_loaded(loaded, catalog, progress=progress, out=home, before=before, again=again)
            _join_logs(home, folder)
            home.replace(moved)
            _move(moved, folder)
        return reported(folder)


def _more(folder: Path, results: RunResults, samples: int, catalog: Catalog) -> tuple[Loaded, int]:
    """The recipe with so many samples, and how many there are.

    Raises:
        PartError: they are not what a run of this recipe with more samples would begin with.
    """
    path = folder / "recipe.toml"
    check_recipe(folder, results)
    check_metrics(folder, results)
    for arm in results.arms:
        check_samples(folder, arm)
    known, text = checked(load(path, catalog=catalog))
    if recipe_digest(text) != results.recipe:
        what = differences(folder, text) or "what its parts are"
        raise PartError(
            f"'{folder}' cannot be extended: what the recipe says now is not what was run (it"
            f" differs in {what}); run it again, with --set run.samples={samples}"
        )
    made = known.recipe.run.samples
    reasons = [reason for arm in known.recipe.arms() if (reason := _alone(arm.name, arm.mode))]
    reasons += [
        f"'{arm.name}' has {arm.samples} samples, and not {made}"
        for arm in results.arms
        if arm.samples != made and not reasons
    ]
    if made > samples:
        reasons.append(f"it has {made} samples already; name a number above that")
    if reasons:
        raise PartError(f"'{folder}' cannot be extended: {'; '.join(reasons)}")
    _compare_versions(folder)
    return load(path, sets=[f"run.samples={samples}"], catalog=catalog), made


def _alone(name: str, mode: Any) -> str:
    """Why an arm's samples cannot be added to; "" where they can."""
    if isinstance(mode, Trainable):
        return f"'{name}' trains, and what it learns depends on how long; run it with more steps"
    if isinstance(mode, Study):
        return f"'{name}' is a study, whose numbers are of all it looks at; run it again"
    if not mode.independent:
        return f"samples of '{name}' depend on each other, so that more of them change all"
    return ""


def _compare_versions(folder: Path) -> None:
    """Say where libraries are others than those of the run."""
    from align.runner.record import libraries

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
    files.remove(folder / EXTENSION)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes away from a run that is done.

    Raises:
        PartError: there is no such run.
        TakenError: another process has it.
    """
    if not (folder / EXTENSION / _WHOLE).exists():
        read(folder)  # which says it best where there is none
    if link := files.first_link(folder):
        raise PartError(
            f"'{link}' is a link, and a run writes into its own folder alone; remove it"
        )
    lock, pulse = locks.Lock.take(folder, ""), Pulse()
    try:
        pulse.start(lock.beat)
        yield
    finally:
        pulse.stop()
        lock.release()
