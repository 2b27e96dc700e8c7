"""What `align plan` says of a run, beside what the run takes: memory and seconds.

    python -m benchmarks.plan

Memory is what comes on top of what is loaded. Sizes are such that it is gigabytes, in tensors
beyond 32 MB: smaller ones lie in the C library's heap, whose gaps made a run take up to .8 more
than its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from align.catalog.registry import load_catalog
from align.engine.allocator import keep_freed
from align.engine.meter import memory_now
from align.recipe import load
from align.runner.build import Rewards, build, device_of
from align.runner.observers import NullObserver
from align.runner.plan import Planner
from benchmarks.table import Table, parsed, parser_of, publish, short

_BRIGHT = [{"kind": "statistic", "of": "brightness"}]


def recipes(toy: bool) -> Mapping[str, dict[str, Any]]:
    """Recipes as tables, by what they do."""
    small = "small_" if toy else ""

    def few(usual: int) -> int:
        return 2 if toy else usual

    own = {"kind": "torch", "module": "benchmarks.planned_networks", "domain": "image"}
    return {
        "silhouettes, `gradient` with 8 draws of the map": {
            "run": {"samples": few(128), "chunk": few(1024)},
            "model": {"kind": "pocket"},
            "sampler": {"kind": "mfm"},
            "estimator": {"kind": "gradient", "draws": few(8)},
            "reward": [{"kind": "silhouette_class", "label": "cat"}],
            "mode": {"kind": "steer", "steps": 1},
        },
        "a transformer of 4 layers of 768, `dps`": {
            "run": {"samples": few(48), "chunk": few(48)},
            "model": own
            | {"function": f"{small}transformer", "shape": [4, 32, 32], "decode": "decode"},
            "sampler": {"kind": "dps"},
            "estimator": {"kind": "gradient", "draws": 1},
            "reward": _BRIGHT,
            "mode": {"kind": "steer", "steps": 1},
        },
        "8 convolutions of 96 channels, unsteered": {
            "run": {"samples": few(256), "chunk": few(256)},
            "model": own
            | {"function": f"{small}convolutions", "shape": [3, 64, 64], "decode": "pictures"},
            "reward": _BRIGHT,
            "mode": {"kind": "best_of_n", "n": 1, "flow_steps": 2},
        },
    }


@attrs.frozen(kw_only=True)
class Measured:
    """What was said and what was taken: bytes beyond what was loaded, and seconds."""

    said: tuple[float, float]
    taken: tuple[float, float]


def measured(tables: dict[str, Any]) -> Measured:
    """Plan a recipe of one arm, and run it."""
    recipe = load(tables, catalog=load_catalog()).recipe
    run = attrs.evolve(recipe.run, unsteered=0)
    (arm,) = recipe.arms()
    built = build(arm, Rewards(recipe.reward, device_of("auto")), run)
    plan = Planner(recipe.reward).plan(built)
    loaded = memory_now(built.problem.model.device)
    cost = built.execute(NullObserver()).cost
    return Measured(
        said=(plan.above, plan.cost.seconds),
        taken=(cost.memory - loaded, cost.steady_seconds),
    )


def rows(toy: bool) -> Iterator[Sequence[str]]:
    """A row a recipe."""
    for name, tables in recipes(toy).items():
        found = measured(tables)
        (bytes_said, seconds_said), (bytes_taken, seconds_taken) = found.said, found.taken
        yield (
            name,
            f"{short(bytes_said / 1e9)} GB",
            f"{short(bytes_taken / 1e9)} GB",
            short(bytes_said / max(1, bytes_taken)),
            f"{short(seconds_said)} s",
            f"{short(seconds_taken)} s",
            short(seconds_said / seconds_taken),
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = parser_of("benchmarks.plan", __doc__)
    options, command = parsed(parser, arguments)
    keep_freed()  # as the command does
    memory = ("memory beyond what is loaded, planned", "peak", "planned / peak")
    head = ("recipe", *memory, "seconds, planned", "taken", "planned / taken")
    publish([Table("", head, rows(options.toy))], command, options.page, "plan")


if __name__ == "__main__":
    main()
