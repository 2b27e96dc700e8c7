"""The identities and tables of the closed-form worlds, beside reference figures.

python benchmarks/closed_form
python benchmarks/closed_form plane --particles 4096 --steps 1000

Without a group all of them are measured, in about ten minutes on one core. With `--page` the
tables also replace those of the group in that page, between its marks.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import estimates  # the folder itself is run: its files are found by their own names
import finetuning
import identities
import plane
import posterior
import steering
import torch
from table import Table

from align.core.dynamics import GuidanceNorm

GROUPS = ("identities", "posterior", "steering", "estimates", "finetuning", "plane")


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/closed_form", description=__doc__.splitlines()[0]
    )
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--page", type=Path, help="page whose tables are replaced")
    parser.add_argument("--draws", type=int, default=2_000_000, help="finetuning: at each state")
    parser.add_argument("--states", type=int, default=1000, help="estimates: at each time")
    parser.add_argument("--repeats", type=int, default=20, help="estimates: of each state")
    on_plane = parser.add_argument_group("plane")
    on_plane.add_argument("--particles", type=int, default=1024)
    on_plane.add_argument("--steps", type=int, default=250)
    on_plane.add_argument("--rows", help=f"comma-separated, of {', '.join(plane.REFERENCE)}")
    on_plane.add_argument("--dynamics", choices=("both", "ode", "sde"), default="both")
    on_plane.add_argument("--axes", choices=("standard", "diagonal"), default="diagonal")
    on_plane.add_argument(
        "--normalise", choices=get_args(GuidanceNorm), help="default: none, renorm"
    )
    on_plane.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for group in asked.groups:
        if group not in GROUPS:
            parser.error(f"no group '{group}'; there are {', '.join(GROUPS)}")
    return asked


def chosen(asked: argparse.Namespace) -> dict[str, Callable[[], Iterator[Table]]]:
    """What measures each group."""
    rows = tuple(asked.rows.split(",")) if asked.rows else ()
    return {
        "identities": identities.tables,
        "posterior": posterior.tables,
        "steering": steering.Doob().tables,
        "estimates": estimates.Errors(asked.states, asked.repeats).tables,
        "finetuning": finetuning.FixedPoints(asked.draws).tables,
        "plane": plane.Plane(
            particles=asked.particles,
            steps=asked.steps,
            rows=rows,
            dynamics=asked.dynamics,
            axes=asked.axes,
            normalise=asked.normalise,
            seed=asked.seed,
        ).tables,
    }


def replace(page: Path, group: str, text: str) -> None:
    """Put `text` between the marks of a group in a page."""
    start, end = f"<!-- {group} -->", f"<!-- end of {group} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.S)
    before = page.read_text()
    if not pattern.search(before):
        raise SystemExit(f"{page} has no '{start}'")
    page.write_text(pattern.sub(lambda _: f"{start}\n{text}\n{end}", before))


def main() -> None:
    """Measure, print, and write the page when one is given."""
    asked = options()
    torch.set_num_threads(1)
    # Torch's own forward-mode derivatives still load scripts.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    measures = chosen(asked)
    settings = [word for word in sys.argv[1:] if word not in GROUPS]
    if asked.page:
        noisy = settings.index("--page")
        settings[noisy : noisy + 2] = []
    for group in asked.groups or GROUPS:
        began, found = time.process_time(), []
        for table in measures[group]():
            print(f"{table}\n", flush=True)
            found.append(str(table))
        command = shlex.join(("python", "benchmarks/closed_form", group, *settings))
        seconds = time.process_time() - began
        told = f"`{command}`: {datetime.date.today()}, torch {torch.__version__}, one thread, "
        told += f"{seconds:.0f} s of processor time."
        if asked.page:
            replace(asked.page, group, "\n\n".join((told, *found)))


if __name__ == "__main__":
    main()
