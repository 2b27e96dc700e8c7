"""How near steered samples of the 2-D mixture come to the exact tilted law.

    align run recipes/closed_form/distill.toml
    align run recipes/closed_form/learnt_map.toml
    align run recipes/closed_form/mixture.toml
    python benchmarks/learnt_map.py runs/learnt_map runs/mixture

Reads the samples of finished runs; prints the sliced W2 of each arm to exact draws.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import load_file

from align.core.streams import Streams
from align.testing.distances import sliced_w2
from align.testing.worlds import plane


def main(runs: list[str]) -> None:
    """One row an arm."""
    model, reward = plane()
    exact = [
        model.draw_tilted(reward, Streams(seed, tuple(range(1024))).fold_in("exact"))
        for seed in (1, 2)
    ]
    print("| run | arm | sliced W2 |\n| --- | --- | --- |")
    print(f"| | exact draws, another seed | {sliced_w2(exact[0], exact[1]):.3f} |")
    for run in map(Path, runs):
        for arm in json.loads((run / "results.json").read_text())["arms"]:
            x1 = load_file(run / arm["folder"] / "states.safetensors")["x1"].double()
            print(f"| {run.name} | {arm['name']} | {sliced_w2(x1, exact[0]):.3f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
