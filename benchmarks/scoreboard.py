"""Are we tilting? Methods on worlds whose tilted law is known.

    python -m benchmarks.scoreboard board --page docs/results/scoreboard.md
    python -m benchmarks.scoreboard limits --page docs/results/scoreboard.md

The methods of the board are the arms of recipes/scoreboard/equal_cost.toml, or of another recipe
with studies `tilt_check` (`--recipe`): a method of a plugin joins by a [[compare]] table. With
`--keep FILE` what is measured is kept there, so that a scoreboard which was stopped goes on, and
two processes can share the worlds. `limits` takes the arms of exact.toml and biased.toml, whose
names say what theory claims of them, to many draws on the line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import torch
from matplotlib.figure import Figure
from torch import Tensor

from align.catalog.registry import Catalog, load_catalog
from align.core.errors import AlignError
from align.core.model import ModelSpec
from align.core.streams import Streams
from align.core.term import RewardTerm
from align.models.mixture import Mixture
from align.modes.studies.tilt_check import Checked, TiltCheck
from align.recipe import Arm, Recipe, load
from align.recipe.compatibility import check_compatibility
from align.report.plots import save_figure
from align.rewards.linear import Likelihood
from align.runner.build import Rewards, build
from align.testing.worlds import line_part, plane_part
from benchmarks.table import Table, parsed, parser_of, publish, short

RECIPES: Final = Path(__file__).parents[1] / "recipes" / "scoreboard"
Row: TypeAlias = dict[str, Any]
Points: TypeAlias = tuple[tuple[float, ...], ...]


@attrs.frozen
class World:
    """A mixture and what is measured of its draws: A x + N(0, std²)."""

    model: Mixture
    matrix: Points
    std: float

    def problem(self, number: int) -> tuple[ModelSpec, RewardTerm]:
        """The model, and the likelihood of a measurement of one of its draws."""
        streams = Streams(11, (number,))
        matrix = torch.tensor(self.matrix, dtype=torch.float64)
        noise = streams.fold_in("measured").normal((len(matrix),))[0] * self.std
        seen = matrix @ self.model.build(torch.device("cpu")).draw(streams)[0] + noise
        part = Likelihood(matrix=self.matrix, observed=tuple(seen.tolist()), std=self.std)
        return self.model, RewardTerm(part=part, name="likelihood")


def _world(means: Tensor, stds: Sequence[float], matrix: Points, std: float) -> World:
    """A world of components of equal weight."""
    points = tuple(map(tuple, means.tolist()))
    mixture = Mixture(weights=(1.0,) * len(points), means=points, stds=tuple(stds))
    return World(mixture, matrix, std)


def _line() -> World:
    return World(line_part(), ((1.0,),), 0.6)


def _plane() -> World:
    return World(plane_part(), ((1.2, -0.8),), 0.2)


def _modes() -> World:
    places = torch.arange(-2.0, 3.0) * 2
    return _world(torch.cartesian_prod(places, places), (0.2,) * 25, ((1.0, 0.5),), 0.5)


def _deep() -> World:
    """Five components apart in three of 64 directions; the measurement sees all of them."""
    means = torch.zeros(5, 64)
    means[:, :3] = 2 * Streams(0, tuple(range(5))).normal((3,)).float()
    rows = Streams(1, (0, 1)).normal((64,)) / 8
    return _world(means, (0.5,) * 5, tuple(map(tuple, rows.tolist())), 0.15)


def _scattered() -> World:
    places = 8 * Streams(2, tuple(range(8))).uniform((2,)) - 4
    widths = torch.linspace(math.log(0.15), 0.0, 8).exp().tolist()
    return _world(places, widths, ((0.8, 0.6),), 0.4)


def _ridges() -> World:
    """Three ridges four times as long as wide (standard deviations), each a chain of nine."""
    steps = torch.linspace(-1.2, 1.2, 9)[:, None]
    centres = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.0, -2.0]])
    along = torch.tensor([[0.6, 0.8], [1.0, 0.0], [-0.8, 0.6]])
    means = torch.cat([c + steps * a for c, a in zip(centres, along, strict=True)])
    return _world(means, (0.2,) * 27, ((0.8, -0.6),), 0.3)


WORLDS: Final[dict[str, Callable[[], World]]] = {
    "line": _line,
    "plane": _plane,
    "25 modes": _modes,
    "64-D, sharp": _deep,
    "scattered": _scattered,
    "ridges": _ridges,
}


def rows_of(
    recipe: Recipe,
    where: str,
    problems: Iterable[tuple[int, ModelSpec, RewardTerm]],
    known: Sequence[Row],
    catalog: Catalog,
) -> Iterator[Row]:
    """What each arm shows in each problem of a world, unless it is known."""
    done = {(row["world"], row["problem"], row["arm"], row["settings"]) for row in known}
    for number, model, reward in problems:
        last: Checked | None = None
        for arm in recipe.arms():
            arm = attrs.evolve(arm, model=model)
            settings = hashlib.sha256(repr((arm, reward, recipe.run)).encode()).hexdigest()[:12]
            if (where, number, arm.name, settings) in done:
                continue
            row, last = _measured(recipe, arm, reward, number, last, catalog)
            yield {
                "world": where,
                "problem": number,
                "arm": arm.name,
                "settings": settings,
                **row,
            }


def _measured(
    recipe: Recipe,
    arm: Arm,
    reward: RewardTerm,
    seed: int,
    last: Checked | None,
    catalog: Catalog,
) -> tuple[Row, Checked | None]:
    """What an arm shows, and the last state of its study."""
    run = attrs.evolve(recipe.run, seed=seed)
    alone = attrs.evolve(recipe, model=arm.model, reward=(reward,), compare=(arm,), run=run)
    if errors := check_compatibility(alone, {}, catalog):
        return {"failed": f"cannot: {errors[0].text}"}, last
    mode = attrs.evolve(arm.mode, **{"sets": 1})
    built = build(arm, Rewards((reward,), torch.device("cpu")), run)
    assert isinstance(mode, TiltCheck)
    state = mode.init(built.problem, built.streams) if last is None else mode.restart(last)
    began = time.process_time()
    try:
        for index in range(mode.steps):
            state, _ = mode.step(built.problem, state, index, built.streams)
    except AlignError as error:
        return {"failed": str(error)}, last or state
    seconds = time.process_time() - began
    found = mode.findings(state)
    values = {point.panel: point.value for point in found.points}
    nfe, law = found.points[0].calls, state.law
    return {"values": values | {"NFE": nfe, "CPU s": seconds}, "ess": law.ess}, state


class Board:
    """All that was measured, by world and arm."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.worlds = list(dict.fromkeys(row["world"] for row in rows))
        self.arms = list(dict.fromkeys(row["arm"] for row in rows))
        self._rows = rows

    def values(self, world: str, arm: str, name: str) -> Tensor:
        """A measure in each problem, (P,); NaN where the arm failed, or has no such measure."""
        found = {
            row["problem"]: row.get("values", {}).get(name, math.nan)
            for row in self._rows
            if (row["world"], row["arm"]) == (world, arm)
        }
        return torch.tensor([found[number] for number in sorted(found)], dtype=torch.float64)

    def floors(self, world: str, arm: str) -> Tensor:
        """SW2 of an arm over that of other draws of the law, in each problem, (P,)."""
        return self.values(world, arm, "SW2") / self.values(world, self.arms[0], "SW2")

    def cell(self, world: str, arm: str, name: str) -> str:
        """Mean and standard error over problems; what went wrong, where something did."""
        return self.shown(world, arm, self.values(world, arm, name))

    def shown(self, world: str, arm: str, values: Tensor) -> str:
        """Mean and standard error of values (P,), and in how many problems the arm failed."""
        failed = [
            row["failed"]
            for row in self._rows
            if (row["world"], row["arm"]) == (world, arm) and "failed" in row
        ]
        if values.isnan().all():
            cannot = failed and failed[0].startswith("cannot")
            return "cannot" if cannot else "fails" if failed else ""
        text = _with_error(*_mean_and_error(values))
        return f"{text}, {len(failed)} fail" if failed else text


def _with_error(mean: float, error: float) -> str:
    if not math.isfinite(error):
        return short(mean)
    digits = 0 if abs(mean) >= 100 else 1 if abs(mean) >= 10 else 2
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def tables(board: Board) -> Iterator[Table]:
    """The tables of the page."""
    others = board.arms[1:]
    yield Table(
        "At equal cost: SW2 to the tilted law over that of other exact draws; 1 is exact",
        ("method", *board.worlds),
        [
            [arm, *(board.shown(world, arm, board.floors(world, arm)) for world in board.worlds)]
            for arm in others
        ],
    )
    yield Table(
        "At equal nats: r lost beside the law p e^(λ r) that is as far from p; 0 is best",
        ("method", *board.worlds),
        [
            [arm, *(board.cell(world, arm, "r lost at equal nats") for world in board.worlds)]
            for arm in board.arms
        ],
    )
    columns = {
        "SW2": "SW2",
        "MMD²": "MMD",
        "masses": "mode masses",
        "spread": "spread in modes",
        "r": "r",
        "r above exact": "r above exact",
        "KL at least": "KL at least",
        "KL of r": "KL of r",
        "KL at most": "KL at most",
        "NFE": "NFE",
        "rewards": "rewards a sample",
        "CPU s": "CPU s",
    }
    for world in board.worlds:
        yield Table(
            world,
            ("method", *columns),
            [
                [arm, *(board.cell(world, arm, key) for key in columns.values())]
                for arm in board.arms
            ],
        )


def limits(boards: dict[str, Board]) -> Table:
    """Whether methods near their limit are what theory says of them, by the name of their recipe.

    A method shows no difference from the law where SW2, r and the spread are within three standard
    errors of what exact draws show, beyond what 64 steps cost: 10 % of the floor, and .05.
    """
    rows = list[list[str]]()
    for claim, board in boards.items():
        (world,) = board.worlds
        for arm in board.arms[1:]:
            parts = {
                "SW2 over the floor": (board.floors(world, arm) - 1, 0.1),
                "r above exact": (board.values(world, arm, "r above exact"), 0.05),
                "spread in modes": (board.values(world, arm, "spread in modes") - 1, 0.05),
            }
            apart = [
                name for name, (values, slack) in parts.items() if not _is_near_zero(values, slack)
            ]
            agrees = bool(apart) == (claim == "biased")
            cells = [board.shown(world, arm, board.floors(world, arm))]
            cells += [board.cell(world, arm, name) for name in list(parts)[1:]]
            found = f"differs: {', '.join(apart)}" if apart else "no difference seen"
            rows.append([arm, claim, *cells, found, "agrees" if agrees else "**does not agree**"])
    head = ("method", "claim", "SW2 over the floor", "r above exact", "spread", "found", "verdict")
    return Table("Near the limit, on the line", head, rows)


def _is_near_zero(values: Tensor, slack: float) -> bool:
    mean, error = _mean_and_error(values)
    return abs(mean) <= 3 * error + slack


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of values (P,) that are numbers, and its standard error."""
    values = values[~values.isnan()]
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def figure(board: Board, path: Path) -> None:
    """SW2 over the floor, a panel a world, a line a method."""
    arms, worlds = board.arms[1:], board.worlds
    size = (2.2 + 1.9 * len(worlds), 0.8 + 0.22 * len(arms))
    drawn = Figure(figsize=size, layout="constrained")
    row = drawn.subplots(1, len(worlds), sharey=True, squeeze=False)[0]
    for axes, world in zip(row, worlds, strict=True):
        for place, arm in enumerate(arms):
            values = board.floors(world, arm)
            if not values.isnan().all():
                mean, error = _mean_and_error(values)
                axes.errorbar(mean, place, xerr=error, fmt="o", ms=4, color="C0")
        axes.axvline(1.0, color="0.4", linewidth=1)
        axes.set_xscale("log")
        axes.set_title(world, fontsize=10)
        axes.grid(axis="both", color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    row[0].set_yticks(range(len(arms)), arms, fontsize=8)
    row[0].set_ylim(len(arms) - 0.5, -0.5)
    drawn.supxlabel("SW2 to the tilted law, over that of other exact draws", fontsize=10)
    save_figure(drawn, path)


def provenance(recipes: Iterable[Path], options: argparse.Namespace) -> Table:
    """What the figures were made from."""
    head = ("recipe", "SHA-256", "problems a world", "samples of each", "align", "Python", "torch")
    versions = (metadata.version("align-core"), platform.python_version(), torch.__version__)
    rows = [
        [
            f"`{path.name}`",
            hashlib.sha256(path.read_bytes()).hexdigest()[:12],
            str(options.problems),
            str(options.samples),
            *versions,
        ]
        for path in recipes
    ]
    return Table("", head, rows)


def measured(path: Path, options: argparse.Namespace) -> list[Row]:
    """All rows; those that are new are added to the file that keeps them."""
    catalog = load_catalog()
    recipe = load(path, catalog=catalog).recipe
    recipe = attrs.evolve(recipe, run=attrs.evolve(recipe.run, samples=options.samples))
    if options.toy:
        recipe = attrs.evolve(recipe, compare=recipe.compare[:4])
    names = {arm.name for arm in recipe.arms()}
    kept = [json.loads(line) for line in _lines(options.keep)]
    rows = [row for row in kept if row["recipe"] == path.stem and row["arm"] in names]
    for name in options.worlds:
        world = WORLDS[name]()
        problems = ((number, *world.problem(number)) for number in range(options.problems))
        for found in rows_of(recipe, name, problems, rows, catalog):
            row = {"recipe": path.stem, **found}
            rows.append(row)
            if options.keep:
                with options.keep.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    return rows


def _lines(path: Path | None) -> list[str]:
    return path.read_text().splitlines() if path and path.exists() else []


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = parser_of("benchmarks.scoreboard", __doc__)
    parser.add_argument("part", choices=("board", "limits"))
    parser.add_argument("--recipe", type=Path, default=RECIPES / "equal_cost.toml")
    parser.add_argument("--worlds", type=lambda text: text.split("; "), default=list(WORLDS))
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--keep", type=Path, help="a file that keeps what is measured")
    parser.add_argument("--figure", type=Path, help="a picture of the first table")
    options, command = parsed(parser, arguments)
    if options.toy:
        options.worlds, options.problems, options.samples = ["line"], 1, 8
    if options.part == "limits":
        options.worlds = ["line"]
        paths = [RECIPES / f"{claim}.toml" for claim in ("exact", "biased")]
        boards = {path.stem: Board(measured(path, options)) for path in paths}
        publish([provenance(paths, options), limits(boards)], command, options.page, "limits")
        return
    board = Board(measured(options.recipe, options))
    publish([provenance([options.recipe], options), *tables(board)], command, options.page, "board")
    if options.figure:
        figure(board, options.figure)


if __name__ == "__main__":
    main()
