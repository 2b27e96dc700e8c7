"""The identities and tables of the closed-form worlds, beside reference figures.

    python -m benchmarks.closed_form
    python -m benchmarks.closed_form plane --particles 4096 --steps 1000

Without a group all of them are measured, in about ten minutes on one core. With `--page` the
tables also replace those of the group in that page, between its marks.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from align.core.dynamics import GuidanceNorm
from benchmarks.closed_form import (
    estimates,
    finetuning,
    identities,
    plane,
    posterior,
    steering,
    unequal,
)
from benchmarks.table import Table, parsed, parser_of, publish

GROUPS = ("identities", "posterior", "steering", "estimates", "finetuning", "plane", "unequal")


def options(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of the command line, and its words."""
    parser = parser_of("benchmarks.closed_form", __doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--draws", type=int, default=2_000_000, help="finetuning: at each state")
    parser.add_argument("--states", type=int, default=1000, help="estimates: at each time")
    parser.add_argument("--repeats", type=int, default=20, help="estimates: of each state")
    of_plane = parser.add_argument_group("plane")
    of_plane.add_argument("--particles", type=int, default=1024)
    of_plane.add_argument("--steps", type=int, default=250)
    of_plane.add_argument("--rows", help=f"comma-separated, of {', '.join(plane.REFERENCE)}")
    of_plane.add_argument("--dynamics", choices=("both", "ode", "sde"), default="both")
    of_plane.add_argument("--axes", choices=("standard", "diagonal"), default="diagonal")
    of_plane.add_argument(
        "--normalise", choices=get_args(GuidanceNorm), help="default: none, renorm"
    )
    of_plane.add_argument("--seed", type=int, default=0)
    asked, command = parsed(parser, arguments)
    for group in asked.groups:
        if group not in GROUPS:
            parser.error(f"no group '{group}'; there are {', '.join(GROUPS)}")
    return asked, command


def measures(asked: argparse.Namespace) -> dict[str, Callable[[], Iterator[Table]]]:
    """The function that measures each group."""
    if asked.toy:
        return {
            "identities": identities.tables,
            "posterior": posterior.Posterior(draws=200, quantiles=200).tables,
            "steering": steering.Doob(particles=200, steps=(2, 4)).tables,
            "estimates": estimates.Errors(states=20, repeats=2, draws=(1, 4)).tables,
            "finetuning": finetuning.FixedPoints(draws=2000).tables,
            "plane": plane.Plane(particles=64, steps=2, rows=("exact", "stein 4")).tables,
            "unequal": unequal.Unequal(
                particles=32, steps=(2,), dynamics=unequal.DYNAMICS[:1], states=4, draws=(2,)
            ).tables,
        }
    return {
        "identities": identities.tables,
        "posterior": posterior.Posterior().tables,
        "steering": steering.Doob().tables,
        "estimates": estimates.Errors(asked.states, asked.repeats).tables,
        "finetuning": finetuning.FixedPoints(asked.draws).tables,
        "plane": plane.Plane(
            particles=asked.particles,
            steps=asked.steps,
            rows=tuple(asked.rows.split(",")) if asked.rows else (),
            dynamics=asked.dynamics,
            axes=asked.axes,
            normalise=asked.normalise,
            seed=asked.seed,
        ).tables,
        "unequal": unequal.Unequal().tables,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the page when one is given."""
    asked, command = options(arguments)
    # Torch's own forward-mode derivatives still load scripts.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    module, settings = command[:3], [word for word in command[3:] if word not in GROUPS]
    found = measures(asked)
    for group in asked.groups or GROUPS:
        publish(found[group](), (*module, group, *settings), asked.page, group)


if __name__ == "__main__":
    main()
