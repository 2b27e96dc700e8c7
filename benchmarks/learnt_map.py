"""How near steered samples of the 2-D mixture come to the exact tilted law.

    align run recipes/closed_form/distill.toml
    align run recipes/closed_form/learnt_map.toml
    align run recipes/closed_form/mixture.toml
    python -m benchmarks.learnt_map runs/learnt_map runs/mixture

Reads the samples of finished runs; prints the sliced W2 of each arm to exact draws.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load_file

from align.core.streams import Streams
from align.testing.distances import sliced_w2
from align.testing.worlds import plane
from benchmarks.table import Table, parsed, parser_of, publish


def rows(runs: Sequence[Path], samples: int) -> Iterator[tuple[str, str, str]]:
    """One row an arm, below that of exact draws."""
    model, reward = plane()
    exact, other = (
        model.draw_tilted(reward, Streams(seed, tuple(range(samples))).fold_in("exact"))
        for seed in (1, 2)
    )
    yield "", "exact draws, another seed", f"{sliced_w2(exact, other):.3f}"
    for run in runs:
        for arm in json.loads((run / "results.json").read_text())["arms"]:
            x1 = load_file(run / arm["folder"] / "states.safetensors")["x1"].double()
            yield run.name, arm["name"], f"{sliced_w2(x1, exact):.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = parser_of("benchmarks.learnt_map", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="run")
    options, command = parsed(parser, arguments)
    table = Table("", ("run", "arm", "sliced W2"), rows(options.runs, 64 if options.toy else 1024))
    publish([table], command, options.page, "learnt_map")


if __name__ == "__main__":
    main()
