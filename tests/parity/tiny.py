"""Small checkpoints, made and saved by the packages' own classes, with weights that tell."""

from __future__ import annotations

import json
import math
import sys
import warnings
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
    bert = folder / "bert-base-uncased"
    bert.mkdir()
    (bert / "vocab.txt").write_text("\n".join(VOCABULARY))
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    about = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (bert / "tokenizer_config.json").write_text(json.dumps(about))
    from align_image_reward.network import Sizes
    from align_image_reward.package import config

    sizes = Sizes(
        side=224,
        patch=16,
        width=128,
        hidden=512,
        depth=2,
        words=len(VOCABULARY) + 2,
        positions=64,
        text_width=128,
        text_hidden=256,
        text_depth=2,
        head=(),
    )
    (folder / "med_config.json").write_text(json.dumps(config(sizes)))
    model = sys.modules["ImageReward.ImageReward"].ImageReward(
        device="cpu", med_config=str(folder / "med_config.json")
    )
    torch.save(shaken(model).state_dict(), folder / "ImageReward.pt")


VIT_H = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 224,
        "layers": 2,
        "width": 128,
        "head_width": 64,
        "patch_size": 32,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


@contextmanager
def hpsv2(folder: Path) -> Iterator[None]:
    """Within, what the package hpsv2 calls ViT-H-14 is small; writes `HPS.pt` of that size."""
    from align_hpsv2.package import mended

    with mended():
        from hpsv2.src import open_clip
        from hpsv2.src.open_clip import factory

        (folder / "ViT-H-14.json").write_text(json.dumps(VIT_H))
        with patch.object(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS)):
            open_clip.add_model_config(folder / "ViT-H-14.json")
            model = shaken(open_clip.create_model("ViT-H-14", None))
            state = {name: tensor.half() for name, tensor in model.state_dict().items()}
            torch.save({"state_dict": state}, folder / "HPS.pt")
            yield
        factory._rescan_model_configs()


def clip_file(folder: Path) -> Path:
    """A state dict of OpenAI's package, in half precision as it rounds it itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clip.model import CLIP

    model = shaken(
        CLIP(
            embed_dim=64,
            image_resolution=96,
            vision_layers=2,
            vision_width=128,
            vision_patch_size=16,
            context_length=77,
            vocab_size=49408,
            transformer_width=64,
            transformer_heads=1,
            transformer_layers=2,
        )
    )
    with torch.no_grad():
        model.logit_scale.fill_(math.log(100))
    torch.save({n: x.half() for n, x in model.state_dict().items()}, folder / "clip.pt")
    return folder / "clip.pt"


def clip_folder(folder: Path) -> Path:
    """A model and a tokenizer as transformers saves them."""
    from align_clip.tokens import shipped
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizerFast

    tower = {"intermediate_size": 128, "num_hidden_layers": 2, "hidden_act": "gelu"}
    config = CLIPConfig(
        projection_dim=64,
        vision_config=tower | {"hidden_size": 128, "num_attention_heads": 2, "image_size": 96},
        text_config=tower | {"hidden_size": 64, "num_attention_heads": 1, "eos_token_id": 49407},
    )
    model = shaken(CLIPModel(config))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(100))
    model.save_pretrained(folder)
    shipped().save(str(folder / "tokenizer.json"))
    end, start = "<|endoftext|>", "<|startoftext|>"
    CLIPTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,
    ).save_pretrained(folder)
    return folder
