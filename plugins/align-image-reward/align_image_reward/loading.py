"""A checkpoint of ImageReward, strictly, and the tokenizer of its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from align import PartError
from align.io.weights import load_strictly, read, seems
from align_image_reward.network import Network, Sizes

if TYPE_CHECKING:
    from tokenizers import BertWordPieceTokenizer

WHO: Final = "reward 'image_reward'"
WORDS: Final = 35
"""Tokens that a prompt is padded or cut to."""
_ADDED: Final = ("[DEC]", "[ENC]")
"""What BLIP added to BERT's vocabulary."""
_UNUSED: Final = (
    "blip.vision_proj.weight",
    "blip.vision_proj.bias",
    "blip.text_proj.weight",
    "blip.text_proj.bias",
    "blip.text_encoder.embeddings.position_ids",
)
"""What the checkpoint has from BLIP's training, and no score depends on."""


def network(path: Path, dtype: torch.dtype, device: torch.device) -> Network:
    """The network of a checkpoint, frozen; its head is in float32 whatever `dtype`.

    Raises:
        PartError: the file cannot be read, or is not a checkpoint of ImageReward.
    """
    who = f"{WHO}: weights"
    state = {
        key: tensor.to(torch.float32 if key.startswith("mlp.") else dtype)
        for key, tensor in read(path, who).items()
        if key not in _UNUSED
    }
    try:
        sizes = Sizes.of(state)
    except (KeyError, IndexError) as error:
        text = f"'{path}' does not fit: it has no {error.args[0]!r}, and seems to be {seems(state)}"
        raise PartError(f"{who}: {text}; give the ImageReward.pt of THUDM/ImageReward") from error
    with torch.device("meta"):
        made = Network(sizes)
    load_strictly(made, state, path, who)
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
