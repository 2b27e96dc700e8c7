"""Small checkpoints, made and saved by the packages' own classes, with weights that tell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *(LETTERS + ",.!"),
    *(f"##{letter}" for letter in LETTERS),
    *("cat", "tabby", "asleep", "stove", "##by", "on"),
)


def shaken(network: nn.Module, std: float = 0.15) -> nn.Module:
    """The network with weights so large that its scores differ, the same every time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in network.parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(std * noise if tensor.dim() > 1 else tensor + 0.1 * noise)
    return network.eval()


@contextmanager
def image_reward() -> Iterator[None]:
    """Within, the package image-reward makes a small network: two of its sizes are hard-wired."""
    from align_image_reward.package import mended

    with mended(), ExitStack() as patches:
        import ImageReward  # noqa: F401
        from ImageReward.models.BLIP import blip_pretrain
        from ImageReward.models.BLIP.vit import VisionTransformer

        def vision(_: str, side: int, *options: object) -> tuple[nn.Module, int]:
            return VisionTransformer(img_size=side, embed_dim=128, depth=2, num_heads=2), 128

        package = sys.modules["ImageReward.ImageReward"]
        head = package.MLP
        patches.enter_context(patch.object(blip_pretrain, "create_vit", vision))
        patches.enter_context(patch.object(package, "MLP", lambda _: head(128)))
        yield


def image_reward_files(folder: Path) -> None:
    """Write `ImageReward.pt` and `bert-base-uncased`, which the package finds in the cwd."""
    import json

    bert = folder / "bert-base-uncased"
    bert.mkdir()
    (bert / "vocab.txt").write_text("\n".join(VOCABULARY))
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    about = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (bert / "tokenizer_config.json").write_text(json.dumps(about))
    from align_image_reward.network import Sizes
    from align_image_reward.package import config

    sizes = Sizes(
        side=224, patch=16, width=128, hidden=512, depth=2, words=len(VOCABULARY) + 2,
        positions=64, text_width=128, text_hidden=256, text_depth=2, head=(),
    )  # fmt: skip
    (folder / "med_config.json").write_text(json.dumps(config(sizes)))
    model = sys.modules["ImageReward.ImageReward"].ImageReward(
        device="cpu", med_config=str(folder / "med_config.json")
    )
    torch.save(shaken(model).state_dict(), folder / "ImageReward.pt")
