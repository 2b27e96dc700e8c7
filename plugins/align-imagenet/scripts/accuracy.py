"""How well, and how fast, the classifiers of align-imagenet name small photographs.

    python scripts/accuracy.py ANIMALS64 [--per-class 10] [--sizes 64 128]

ANIMALS64 is a folder with `classes.json`, a list of {folder, name, imagenet_index}, and with
`val/<folder>/*.jpg`. One thread. Prints, for every network and working size: top-1 among the
classes of the folder, top-1 and top-5 among all 1000, the mean log-probability of the right class,
and the median milliseconds a picture at batch 8, forward and forward with backward.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from align_imagenet import ImageNet
from align_imagenet.loading import load
from align_imagenet.pictures import resized
from torch import Tensor

from align.io.images import opened

BATCH = 8
NETWORKS = ("efficientnet_lite0", "squeezenet")


def read(folder: Path, per_class: int) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W) in [0, 1] and their ImageNet indices (B,)."""
    pictures, indices = [], []
    for row in json.loads((folder / "classes.json").read_text()):
        for file in sorted((folder / "val" / row["folder"]).glob("*.jpg"))[:per_class]:
            pictures.append(opened(file).tensor)
            indices.append(row["imagenet_index"])
    return torch.stack(pictures), torch.tensor(indices)


def accuracy(name: str, size: int, pictures: Tensor, truth: Tensor) -> str:
    """Right answers among the folder's classes and among all, and the mean log-probability."""
    network = load(name, torch.device("cpu"))
    with torch.no_grad():
        chunks = [network(resized(chunk, size, size)) for chunk in pictures.split(32)]
    logits, classes = torch.cat(chunks), truth.unique()
    few = (classes[logits[:, classes].argmax(1)] == truth).float().mean()
    top1 = (logits.argmax(1) == truth).float().mean()
    top5 = (logits.topk(5).indices == truth[:, None]).any(1).float().mean()
    right = logits.log_softmax(-1).gather(1, truth[:, None]).mean()
    return f"{few:8.3f} {top1:8.3f} {top5:8.3f} {right:8.2f}"


def seconds(name: str, size: int, pictures: Tensor, *, backward: bool, repeats: int = 9) -> float:
    """Median seconds a picture of scoring one batch."""
    reward = ImageNet(label="tabby cat", network=name, size=size).build(torch.device("cpu"))
    batch = pictures[:BATCH].clone().requires_grad_(backward)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        score = reward.score(batch, [""] * BATCH)
        if backward:
            torch.autograd.grad(score.sum(), batch)
        times.append(time.perf_counter() - start)
    return statistics.median(times) / BATCH


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128, 160, 192, 224])
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures, truth = read(options.folder, options.per_class)
    print(f"{len(truth)} pictures of {len(truth.unique())} classes, {pictures.shape[-1]} px")
    print("network            size   top1/few  top1  top5     logp   fwd ms  fwd+bwd ms")
    for name in NETWORKS:
        for size in options.sizes:
            forward, both = (
                1000 * seconds(name, size, pictures, backward=flag) for flag in (False, True)
            )
            measured = accuracy(name, size, pictures, truth)
            print(f"{name:18} {size:4} {measured} {forward:8.1f} {both:8.1f}", flush=True)


if __name__ == "__main__":
    main()
