"""Train the two classifiers of silhouettes, and say how good they are.

    python plugins/align-pocket/scripts/train_judges.py data/silhouettes.tar

Both see the training pictures mirrored, moved, blurred and with noise, each with its own random
numbers. Weights go into the package as float16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from align_pocket.judges import CLASSES, NETWORKS, prepared
from safetensors.torch import save_file
from torch import Tensor

from align import Streams
from align.datasets.pictures import Pictures
from align.training.data import load, order
from align.training.loop import Optimisation, Training, advance

WEIGHTS = Path(__file__).parents[1] / "align_pocket" / "weights"
STEPS = 1500
OPTIONS = Optimisation(batch=128, learning_rate=2e-3, weight_decay=0.05, ema_decay=0.99)


def disturbed(pictures: Tensor, streams: Streams) -> Tensor:
    """Pictures (B, 1, 28, 28) mirrored, moved by up to 2 pixels, blurred, with noise."""
    numbers = streams.fold_in("kind").uniform((4,))
    out = torch.where(numbers[:, 0, None, None, None] < 0.5, pictures.flip(-1), pictures)
    moves = (numbers[:, 1:3] * 5).long() - 2
    out = torch.stack([p.roll(tuple(m), (1, 2)) for p, m in zip(out, moves.tolist(), strict=True)])
    soft = F.avg_pool2d(F.pad(out, (1, 1, 1, 1)), 3, 1)
    share = numbers[:, 3, None, None, None].float()
    noise = streams.fold_in("noise").normal(tuple(pictures.shape[1:])).float()
    return (1 - share) * out + share * soft + 0.15 * share * noise


def train(name: str, path: str) -> None:
    """Train one judge and write its weights."""
    data = load(Pictures(path=path), 1, CLASSES)
    held = load(Pictures(path=path, split="val"), 1, CLASSES)
    streams = Streams(1, (0,)).fold_in(name)
    training = Training.of(streams.initialise(NETWORKS[name]), OPTIONS)

    def loss(fresh: Streams) -> tuple[Tensor, dict[str, Tensor]]:
        rows = order(fresh.fold_in("order"), len(data), torch.tensor(fresh.samples))
        pictures, labels = disturbed(data.pictures[rows] / 255.0, fresh), data.labels[rows]
        guesses = training.module(prepared(pictures))
        return F.cross_entropy(guesses, labels, label_smoothing=0.02, reduction="none"), {}

    for step in range(STEPS):
        numbers = advance(training, loss, OPTIONS, streams, step, STEPS)
        if (step + 1) % 250 == 0:
            print(f"{name} {step + 1}/{STEPS} loss {numbers['loss']:.3f}", flush=True)
    judge = training.ema.half().float()
    with torch.no_grad():
        right = judge(prepared(held.pictures / 255.0)).argmax(1) == held.labels
    print(f"{name}: {float(right.float().mean()):.4f} of {len(held)} validation pictures right")
    WEIGHTS.mkdir(exist_ok=True)
    state = {key: value.half().contiguous() for key, value in judge.state_dict().items()}
    save_file(state, WEIGHTS / f"judge_{name}.safetensors")


if __name__ == "__main__":
    for judge in NETWORKS:
        train(judge, sys.argv[1])
