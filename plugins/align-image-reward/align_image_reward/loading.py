"""A checkpoint of ImageReward, strictly, and the tokenizer of its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from align.errors import PartError
from align_image_reward.network import Network, Sizes

if TYPE_CHECKING:
    from tokenizers import BertWordPieceTokenizer

WHO: Final = "reward 'image_reward'"
WORDS: Final = 35
"""Tokens that a prompt is padded or cut to."""
_ADDED: Final = ("[DEC]", "[ENC]")
"""What BLIP added to BERT's vocabulary."""
_UNUSED: Final = (
    "blip.vision_proj.weight", "blip.vision_proj.bias", "blip.text_proj.weight",
    "blip.text_proj.bias", "blip.text_encoder.embeddings.position_ids",
)  # fmt: skip
"""What the checkpoint has from BLIP's training, and no score depends on."""


def network(path: Path, dtype: torch.dtype, device: torch.device) -> Network:
    """The network of a checkpoint, frozen; its head is in float32 whatever `dtype`.

    Raises:
        PartError: the file cannot be read, or is not a checkpoint of ImageReward.
    """
    state = _read(path)
    for key in _UNUSED:
        state.pop(key, None)
    try:
        sizes = Sizes.of(state)
    except (KeyError, IndexError) as error:
        known = sum(key.startswith(("blip.", "mlp.layers.")) for key in state)
        text = f"{error.args[0]!r} is missing, {known} of its {len(state)} keys look familiar"
        raise _foreign(path, text) from error
    with torch.device("meta"):
        made = Network(sizes)
    if wrong := _differences(made.state_dict(), state):
        raise _foreign(path, wrong)
    state = {
        key: tensor.to(torch.float32 if key.startswith("mlp.") else dtype)
        for key, tensor in state.items()
    }
    made.load_state_dict(state, assign=True)
    return made.requires_grad_(False).eval().to(device)


def tokenizer(path: Path, words: int) -> BertWordPieceTokenizer:
    """BERT's WordPiece as ImageReward uses it, of a `vocab.txt`, for a network of `words` words.

    Raises:
        PartError: the package is missing, or the vocabulary is not the network's.
    """
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError as error:
        cure = "run 'pip install tokenizers'"
        raise PartError(f"{WHO}: package tokenizers does not import ({error}); {cure}") from error
    try:
        made = BertWordPieceTokenizer(str(path), lowercase=True)
    except Exception as error:  # what a broken file raises is the package's own affair
        text = f"'{path}' is not a vocabulary of BERT: {str(error).splitlines()[0]}"
        raise PartError(f"{WHO}: tokenizer: {text}") from error
    made.add_special_tokens(list(_ADDED))
    if made.get_vocab_size() != words:
        text = f"'{path}' has {made.get_vocab_size() - len(_ADDED)} words, and the weights are for"
        cure = "give the vocab.txt of bert-base-uncased"
        raise PartError(f"{WHO}: tokenizer: {text} {words - len(_ADDED)}; {cure}")
    made.enable_truncation(WORDS)
    made.enable_padding(length=WORDS)
    return made


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; only tensors are read, so that a file cannot run code."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of two formats, each with errors of its own
        said = next(iter(str(error).splitlines()), type(error).__name__)
        cure = "delete it and download it again, or give other weights"
        raise PartError(f"{WHO}: weights: '{path}' cannot be read: {said}; {cure}") from error
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise _foreign(path, "it does not hold tensors by name")
    return dict(state)


def _differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """How keys and shapes differ, in a few words; empty if they do not."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = [key for key in wanted if key in found and wanted[key].shape != found[key].shape]
    told = [
        f"{len(keys)} {what}, such as '{keys[0]}'"
        for keys, what in ((missing, "missing"), (extra, "unknown"), (other, "of another shape"))
        if keys
    ]
    return ", ".join(told)


def _foreign(path: Path, text: str) -> PartError:
    cure = "give the ImageReward.pt of THUDM/ImageReward"
    return PartError(f"{WHO}: weights: '{path}' is not a checkpoint of ImageReward: {text}; {cure}")
