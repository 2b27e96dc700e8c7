"""Put the weights of a finished run into the package, as float16.

python plugins/align-pocket/scripts/package_weights.py runs/silhouettes_map silhouettes
python plugins/align-pocket/scripts/package_weights.py runs/photographs_map photographs --map-alone

With --map-alone the flow stays out: the meta flow map's own diagonal, v_{t,t}(x; 0, 0), is one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import attrs
import torch

from align.models.about import about_of, modules_of
from align.models.network import load
from align.training import weights

PACKAGE = Path(__file__).parents[1] / "align_pocket" / "weights"


def main() -> None:
    """Convert RUN/model.safetensors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("variant")
    parser.add_argument("--map-alone", action="store_true")
    options = parser.parse_args()
    model = load(options.run / "model.safetensors", torch.device("cpu"))
    if options.map_alone:
        model = attrs.evolve(model, flow=None)
    out = PACKAGE / f"{options.variant}.safetensors"
    weights.write(out, modules_of(model), about_of(model), torch.float16)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
