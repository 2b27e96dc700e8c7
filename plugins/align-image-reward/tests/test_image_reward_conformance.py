"""The plugin's part, by the checks of its contract, on a small random checkpoint."""

import atexit
import importlib.util
import tempfile
from pathlib import Path

import attrs
import torch
from align_image_reward import ImageReward

from align import Streams
from align.testing import conformance

FILES = tempfile.TemporaryDirectory()
atexit.register(FILES.cleanup)


def small():
    """The reward on a checkpoint on the disk."""
    beside = Path(__file__).with_name("test_image_reward_reward.py")
    spec = importlib.util.spec_from_file_location("image_reward_checkpoint", beside)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    torch.save(made.checkpoint(), Path(FILES.name) / "ImageReward.pt")
    (Path(FILES.name) / "vocab.txt").write_text("\n".join(made.VOCABULARY))
    return ImageReward(weights=FILES.name, tokenizer=FILES.name)


def wide():
    """Five pictures (3, 40, 56)."""
    return Streams(1, tuple(range(5))).uniform((3, 40, 56)).float()


test_image_reward = conformance("reward", small)
test_image_reward_of_wide_pictures = conformance("reward", small, on=wide)
test_image_reward_with_recomputation = conformance(
    "reward", lambda: attrs.evolve(small(), recompute=True)
)
