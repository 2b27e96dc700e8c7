"""What things cost beside what they are made of: ratios of times that are measured in turn.

    python -m benchmarks.speed                  # every part, in about ten minutes on one core
    python -m benchmarks.speed steering --rounds 5

steering     a steered sample over a bare loop of the same calls; its peak memory
finetuning   a step of fine-tuning over one of flow matching; from when fine-tuning pays
objectives   a step of each objective of `distill` over one of flow matching
isolation    a reward in an interpreter of its own over the same reward here
pipelines    sampling of pipelines of diffusers, in passes of their networks; needs the plugin
remote       a reward of another machine over the same reward here; needs align-http[serve]
workers      samples a second by two processes over one, on cores that are otherwise idle
startup      what a command costs before it does anything, in seconds of processes

What a GPU takes at the size of DiT-XL/2 is measured by `python -m benchmarks.gpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points

import attrs

from benchmarks.speed import (
    finetuning,
    isolation,
    objectives,
    pipelines,
    remote,
    startup,
    steering,
    workers,
)
from benchmarks.speed.timing import Sizes
from benchmarks.table import Table, parsed, parser_of, publish

PARTS: dict[str, Callable[[Sizes], Iterator[Table]]] = {
    "steering": steering.tables,
    "finetuning": finetuning.tables,
    "objectives": objectives.tables,
    "isolation": isolation.tables,
    "pipelines": pipelines.tables,
    "remote": remote.tables,
    "workers": workers.tables,
    "startup": startup.tables,
}
NEEDED = {"pipelines": "diffusers", "remote": "http"}
"""Plugins that parts need, by the names of their entry points."""
MISSING = {part for part, name in NEEDED.items() if not entry_points(group="align", name=name)}
TOY = Sizes(rows=2, steps=2, rounds=1, batch=2, toy=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of the parts that are asked for."""
    parser = parser_of("benchmarks.speed", __doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rows", type=int, default=16, help="samples at once")
    parser.add_argument("--steps", type=int, default=10, help="steps of a sampler")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of all calls in turn")
    parser.add_argument("--batch", type=int, default=48, help="rows of a training step")
    options, command = parsed(parser, arguments)
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no part '{part}'; there are {', '.join(PARTS)}")
    sizes = TOY
    if not options.toy:
        names = (field.name for field in attrs.fields(Sizes))
        sizes = Sizes(**{name: getattr(options, name) for name in names})
    module, settings = command[:3], [word for word in command[3:] if word not in PARTS]
    everywhere = [name for name in PARTS if name not in MISSING]
    for part in options.parts or everywhere:
        publish(PARTS[part](sizes), (*module, part, *settings), options.page, part)


if __name__ == "__main__":
    main()
