"""What the package image-reward itself says, where it is installed: the judge of our scores.

Reference: ImageReward 1.5, https://github.com/THUDM/ImageReward, Apache-2.0.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from align.io.weights import read
from align_image_reward.loading import WHO
from align_image_reward.network import HEAD, Sizes


def scores(weights: Path, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
    """The package's scores (B,) of RGB pictures on the CPU, by the checkpoint in a file.

    Raises:
        ImportError: the package, or one that it needs, is missing or does not import.
        PartError: the weights cannot be read.
    """
    with TemporaryDirectory() as folder, mended():
        import ImageReward  # type: ignore[import-not-found]

        about = Path(folder) / "med_config.json"
        about.write_text(json.dumps(config(Sizes.of(read(weights, WHO)))))
        model = ImageReward.load(str(weights), device="cpu", med_config=str(about))
        each = [model.score(p, x) for x, p in zip(pictures, prompts, strict=True)]
    return torch.tensor(each)


def config(sizes: Sizes) -> dict[str, Any]:
    """The file med_config.json of a network of these sizes; the released one's for its own."""
    return {
        "add_cross_attention": True,
        "hidden_act": "gelu",
        "hidden_size": sizes.text_width,
        "intermediate_size": sizes.text_hidden,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": sizes.positions,
        "num_attention_heads": sizes.text_width // HEAD,
        "num_hidden_layers": sizes.text_depth,
        "pad_token_id": 0,
        "vocab_size": sizes.words,
    }


@contextmanager
def mended() -> Iterator[None]:
    """Within: transformers has the names of its older releases that the package uses.

    Afterwards all is as it was, also what importing the package changes: warnings and logging.
    """
    import transformers.modeling_utils as modeling
    import transformers.pytorch_utils as pytorch
    from transformers import BertTokenizer, PreTrainedModel
    from transformers.utils import logging

    named: list[tuple[Any, str, Any]] = [
        (modeling, "apply_chunking_to_forward", pytorch.apply_chunking_to_forward),
        (modeling, "find_pruneable_heads_and_indices", None),  # imported, never called
        (modeling, "prune_linear_layer", None),  # nor this
        (BertTokenizer, "additional_special_tokens_ids", property(_enc)),
        (PreTrainedModel, "all_tied_weights_keys", {}),
        (PreTrainedModel, "get_head_mask", lambda self, mask, layers: [mask] * layers),
        (PreTrainedModel, "invert_attention_mask", _inverted),
    ]
    lacking = [(owner, name, value) for owner, name, value in named if not hasattr(owner, name)]
    loud = logging.get_verbosity()
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        for owner, name, value in lacking:
            setattr(owner, name, value)
        try:
            yield
        finally:
            logging.set_verbosity(loud)
            for owner, name, _ in lacking:
                delattr(owner, name)


def _inverted(_: Any, mask: Tensor) -> Tensor:
    """What is added to attention, (B, 1, 1, N), for a mask (B, N) of ones and zeros."""
    return (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


def _enc(tokenizer: Any) -> list[int]:
    return [tokenizer.convert_tokens_to_ids("[ENC]")]
