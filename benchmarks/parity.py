"""Rewards beside the packages they stand in for: the same pictures, and climbed ones.

    tox -e parity -- --version && .tox/parity/bin/python -m benchmarks.parity [--full]

Runs in the environment `parity`. Prints a table of scores on small checkpoints of the released
layouts, one of what climbing does to the package's score, and with --full one on networks of the
released sizes, with random weights (12 GB of memory, and minutes).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from align_clip import Clip
from align_hpsv2 import HPSv2
from align_image_reward import ImageReward
from align_pickscore import PickScore
from PIL import Image

from align.io.images import Picture, opened
from benchmarks.table import Table, parsed, parser_of, publish

TESTS = Path(__file__).parents[1] / "tests" / "parity"
SHAPES = {
    "square": (300, 300, "RGB"),
    "wide": (300, 401, "RGB"),
    "tall": (411, 256, "RGB"),
    "grey": (256, 320, "L"),
}
HEAD = ("reward", "picture", "package", "align", "difference")
PROMPT, CPU = "a tabby cat, asleep", torch.device("cpu")


def tiny() -> ModuleType:
    """The module of the tests that makes small checkpoints."""
    spec = importlib.util.spec_from_file_location("tiny", TESTS / "tiny.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(folder: Path) -> dict[str, Picture]:
    """Noise at many scales in pictures of several shapes, saved as PNG and opened again."""
    generator, found = np.random.default_rng(0), {}
    for name, (height, width, mode) in SHAPES.items():
        levels = np.zeros((height, width, 4))
        for cells in (2, 6, 20, 60):
            coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 4), dtype=np.uint8))
            levels += np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR)) / 4
        Image.fromarray(levels.astype(np.uint8)).convert(mode).save(folder / f"{name}.png")
        found[name] = opened(folder / f"{name}.png")
    return found


@contextlib.contextmanager
def small(folder: Path) -> Iterator[dict[str, Any]]:
    """Rewards with small checkpoints; the packages make networks of that size meanwhile."""
    makers = tiny()
    for name in ("hps", "clip", "pick", "image_reward"):
        (folder / name).mkdir()
    file = makers.clip_file(folder / "clip")
    picked = makers.clip_folder(folder / "pick")
    with contextlib.chdir(folder / "image_reward"), makers.image_reward():
        makers.image_reward_files(Path.cwd())
        with makers.hpsv2(folder / "hps"):
            weights = str(folder / "hps" / "HPS.pt")
            yield {
                "HPSv2": HPSv2(weights=weights),
                "ImageReward": ImageReward(
                    weights=str(Path.cwd()), tokenizer="bert-base-uncased", match_pil=True
                ),
                "PickScore": PickScore(weights=str(picked), match_pil=True),
                "CLIP": Clip(weights=str(file), activation="quick_gelu", match_pil=True),
            }


def rows(parts: dict[str, Any], pictures: dict[str, Picture]) -> Iterator[tuple[str, ...]]:
    """The package's score and ours of each picture by each reward."""
    for name, part in parts.items():
        reward = part.build(CPU)
        judged = part.judged(
            [picture.pil for picture in pictures.values()], [PROMPT] * len(pictures)
        )
        for (shape, picture), theirs in zip(pictures.items(), judged.tolist(), strict=True):
            with torch.no_grad():
                ours = float(reward.score(picture.tensor[None], [PROMPT]))
            yield name, shape, f"{theirs:.6f}", f"{ours:.6f}", f"{ours - theirs:.1e}"


def climbed(part: Any, start: Picture, steps: int) -> tuple[float, float]:
    """The package's score before and after steps of 2 levels along the sign of the gradient."""
    reward, x = part.build(CPU), start.tensor[None]
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reward.score(x, [PROMPT]).sum(), x)
        x = (x + 2 / 255 * gradient.sign()).clamp(0, 1)
    levels = (x.detach()[0] * 255).round().byte().permute(1, 2, 0).numpy()
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(levels).save(Path(folder) / "x.png")
        after = opened(Path(folder) / "x.png")
    first, last = part.judged([start.pil, after.pil], [PROMPT] * 2).tolist()
    return first, last


def small_networks(folder: Path, pictures: dict[str, Picture], steps: int) -> Iterator[Table]:
    """Scores of all pictures, and the package's score before and after climbing ours."""
    with small(folder) as parts:
        yield Table("", HEAD, rows(parts, pictures))
        climbs = ((name, climbed(part, pictures["square"], steps)) for name, part in parts.items())
        lines = ((name, *(f"{score:.4f}" for score in pair)) for name, pair in climbs)
        yield Table("", ("reward", "package before", f"after {steps} steps"), lines)


def large_networks(folder: Path, pictures: dict[str, Picture]) -> Iterator[Table]:
    """Scores by networks of the released sizes, one at a time."""
    makers = tiny()
    makers.__dict__["VIT_H"] = None
    from align_hpsv2.package import mended

    with mended():
        from hpsv2.src import open_clip

        torch.manual_seed(0)
        model = open_clip.create_model("ViT-H-14", None)
        state = {name: tensor.half() for name, tensor in model.state_dict().items()}
        torch.save({"state_dict": state}, folder / "HPS.pt")
        del model, state
    large = {"HPSv2, 986 M weights": HPSv2(weights=str(folder / "HPS.pt"))}
    yield Table("", HEAD, rows(large, pictures))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = parser_of("benchmarks.parity", __doc__)
    parser.add_argument("--full", action="store_true", help="networks of the released sizes too")
    options, command = parsed(parser, arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = drawn(folder)
        if options.toy:
            pictures = {"square": pictures["square"]}
        tables = small_networks(folder, pictures, 2 if options.toy else 15)
        if options.full:
            few = {name: pictures[name] for name in ("square", "wide")}
            tables = chain(tables, large_networks(folder, few))
        publish(tables, command, options.page, "parity")


if __name__ == "__main__":
    main()
