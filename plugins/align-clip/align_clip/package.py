"""What the packages that released the weights say themselves: the judges of our scores.

Reference: clip, https://github.com/openai/CLIP, MIT, as clip-anytorch 2.6.0; transformers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor


def by_clip(
    weights: Path, pictures: Sequence[Image], prompts: Sequence[str]
) -> tuple[Tensor, float]:
    """Cosines (B,) of RGB pictures by OpenAI's package, on the CPU, and the model's factor.

    It rounds weights to half precision.

    Raises:
        ImportError: the package, or one that it needs, is missing or does not import.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of setuptools and TorchScript, as such
        import clip  # type: ignore[import-not-found]

        network, view = clip.load(str(weights), device="cpu")
        seen = network.encode_image(torch.stack([view(one) for one in pictures]))
        read = network.encode_text(clip.tokenize(list(prompts), truncate=True))
        return torch.cosine_similarity(seen, read), float(network.logit_scale.exp())


def by_transformers(
    folder: Path, words: str, pictures: Sequence[Image], prompts: Sequence[str]
) -> tuple[Tensor, float]:
    """Cosines (B,) of RGB pictures by transformers, on the CPU, and the model's factor.

    Args:
        folder: of the model.
        words: folder or id of the tokenizer.
        pictures: what is compared with the prompts.
        prompts: one for each picture.
    """
    import transformers

    with torch.no_grad():
        network: Any = transformers.CLIPModel.from_pretrained(folder)
        # The one that resizes by PIL has two names.
        maker = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
        side = network.config.vision_config.image_size
        view = maker(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        tokenizer = transformers.AutoTokenizer.from_pretrained(words)
        most = network.config.text_config.max_position_embeddings
        pixels = view(list(pictures), return_tensors="pt")["pixel_values"]
        tokens = tokenizer(
            list(prompts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        seen = _tensor(network.get_image_features(pixel_values=pixels))
        read = _tensor(network.get_text_features(**tokens))
        return torch.cosine_similarity(seen, read), float(network.logit_scale.exp())


def _tensor(features: Any) -> Tensor:
    """Features as a tensor; transformers 5 wraps them."""
    tensor: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return tensor
