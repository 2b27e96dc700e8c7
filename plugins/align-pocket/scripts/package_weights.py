"""Put the weights of a finished run into the package, as float16.

python plugins/align-pocket/scripts/package_weights.py runs/silhouettes_map silhouettes
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from align.models.network import about_of, load, modules_of
from align.training import weights

PACKAGE = Path(__file__).parents[1] / "align_pocket" / "weights"


def main(run: Path, variant: str) -> None:
    """Convert RUN/model.safetensors."""
    model = load(run / "model.safetensors", torch.device("cpu"))
    out = PACKAGE / f"{variant}.safetensors"
    weights.write(out, modules_of(model), about_of(model), torch.float16)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
