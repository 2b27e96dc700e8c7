"""CLIP's tokenizer: byte-level BPE, from the list that ships in this package or from a file.

Every released CLIP model that this package knows has the same 49408 tokens.

Reference: Learning Transferable Visual Models From Natural Language Supervision, Radford et al.,
2021, arXiv:2103.00020, section 2.4.
"""

from __future__ import annotations

import gzip
import html
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from align import PartError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
LIST: Final = "bpe_simple_vocab_16e6.txt.gz"
# Lines of the list that count: after a first line of its version, up to 49408 tokens in all.
_MERGES: Final = 49408 - 2 * 256 - 2
_WORDS: Final = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def shipped() -> Tokenizer:
    """The tokenizer with the 49408 tokens of OpenAI's and open_clip's models."""
    packed = (files("align_clip") / LIST).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")[1 : _MERGES + 1]
    return from_merges([(left, right) for left, right in (line.split() for line in lines)])


def from_merges(merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer that makes these merges, the first ones first.

    Tokens are numbered so: bytes, bytes that end a word, merges, start and end of the text.
    """
    from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Made

    letters = _letters()
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += [left + right for left, right in merges] + [START, END]
    made = Made(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=END,
        )
    )
    made.add_special_tokens([START, END])
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.post_processor = processors.RobertaProcessing(
        (END, len(tokens) - 1), (START, len(tokens) - 2), trim_offsets=False, add_prefix_space=False
    )
    return made


def from_file(path: Path, who: str) -> Tokenizer:
    """The tokenizer of a 'tokenizer.json'; it must have CLIP's tokens of start and end.

    Raises:
        PartError: it is no such file.
    """
    from tokenizers import Tokenizer as Made

    try:
        made = Made.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        text = str(error).partition("\n")[0]
        raise PartError(f"{who}: '{path}' is no tokenizer.json: {text}") from error
    if made.token_to_id(END) is None or made.token_to_id(START) is None:
        raise PartError(f"{who}: '{path}' is no tokenizer of CLIP: it has no token '{END}'")
    made.no_truncation()
    made.no_padding()
    return made


def cleaned(prompt: str) -> str:
    """A prompt as OpenAI's and open_clip's tokenizers repair it; lower case is for later.

    Broken encodings and typographic quotes are mended, HTML's entities resolved twice, and white
    space collapsed.
    """
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


def _letters() -> list[str]:
    """A printable character for every byte, in the order of their numbers as tokens."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(len(rest))]
