"""Reward: how near the text that is read in a picture is to a wanted one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, final

import attrs
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from align import (
    Domain,
    PartError,
    PromptError,
    Repeatable,
    Reward,
    RewardSpec,
    at_least,
    option,
)
from align.io.images import checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Read: TypeAlias = Callable[[NDArray[np.uint8]], tuple[str, ...]]


# Quotes open and close with the same sign, or with the two of a pair; an apostrophe is none.
_QUOTED: Final = re.compile(
    r"""(?<!\w)"([^"]+)"|(?<!\w)'([^']+(?:'\w[^']*)*)'(?!\w)"""
    r"""|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|「([^」]+)」|『([^』]+)』|‘((?:[^’]|’(?=\w))+)’"""
)


def quoted(prompt: str) -> str:
    """What stands in quotes in a prompt, one after the other; "" if nothing does."""
    parts = (part for match in _QUOTED.finditer(prompt) for part in match.groups() if part)
    return "".join("".join(parts).split())


def _letters(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    if value and not value.split():
        raise ValueError(f"'{attribute.name}' must hold at least one letter")


@final
@attrs.frozen(kw_only=True)
class Ocr(RewardSpec, Repeatable):
    """Text that is to be read in the picture.

    R(x) = max(1 − d / n, 0), d the edit distance of what is read from a wanted text of length n.

    All lines that are found are read, from top to bottom. Spaces do not count, as the network
    reads hardly any; nor does how a letter is encoded (Unicode's form NFKC: an accent that is a
    character of its own, full width, ligatures). Upper and lower case are alike unless `case` is
    set. 1 is a text that is read without a mistake. The networks (PP-OCRv4, Latin and Chinese) come
    with their package.

    Reference: Flow-GRPO: Training Flow Matching Models via Online RL, Liu et al., 2025,
    arXiv:2505.05470, section 5.
    """

    kind: ClassVar[str] = "ocr"
    differentiable: ClassVar[bool] = False
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    text: str = option(
        "text that should be read in the picture; none: what stands in quotes in each prompt",
        default="",
        check=_letters,
    )
    case: bool = option("whether upper and lower case differ", default=False)
    side: int = option(
        "side in pixels that smaller pictures are enlarged to where text is looked for; cost grows"
        " as its square",
        default=736,
        check=at_least(32),
    )

    @property
    def needs_prompt(self) -> bool:
        """Where no text is given."""
        return not self.text

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a prompt that should have a text in quotes and has none."""
        if not self.text and not self.plain(quoted(prompt)):
            cure = "put the text that should be read in quotes, or set 'text'"
            raise PromptError(f"'{prompt}' has nothing in quotes; {cure}")

    def build(self, device: torch.device) -> Reward:
        """The reward, which reads on the CPU; raises PartError when its package is not there."""
        return _Ocr(self, _reader(self.side))

    def target(self, prompt: str) -> str:
        """The text that should be read, as it is compared."""
        self.check_prompt(prompt)
        return self.plain(self.text or quoted(prompt))

    def plain(self, text: str) -> str:
        """A text as it is compared."""
        # Folding may take a text out of its normal form, and normalising may make new spaces.
        text = unicodedata.normalize("NFKC", text)
        if not self.case:
            text = unicodedata.normalize("NFKC", text.casefold())
        return "".join(text.split())


@final
@attrs.frozen(eq=False)
class _Ocr(Reward):
    spec: Ocr
    read: Read

    @torch.no_grad()
    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of pictures (B, 3, H, W) or (B, 1, H, W) in [0, 1].

        Raises:
            ContractError: the data are not pictures.
            PromptError: a prompt that should have a text in quotes has none.
        """
        targets = [self.spec.target(prompt) for prompt in prompts]
        pictures = checked(data, "reward 'ocr'").clamp(0, 1).mul(255).round().byte()
        texts = ["".join(self.read(p.permute(1, 2, 0).numpy())) for p in pictures.cpu()]
        scores = [self._score(*pair) for pair in zip(texts, targets, strict=True)]
        return torch.tensor(scores, device=data.device)

    def _score(self, text: str, target: str) -> float:
        distance = Levenshtein.distance(self.spec.plain(text), target)
        return max(1 - distance / len(target), 0.0)


def _reader(side: int) -> Read:
    """What reads the lines of a picture (H, W, 3), RGB."""
    try:
        package = import_module("rapidocr_onnxruntime")
    except ImportError as error:
        raise PartError(
            f"reward 'ocr': rapidocr-onnxruntime cannot be imported ({error}); in Python 3.11 or"
            " 3.12, pip install rapidocr-onnxruntime==1.4.4"
        ) from error
    # The network that turns text that stands on its head is left out: it is not wanted so.
    engine = package.RapidOCR(
        det_limit_side_len=side, use_cls=False, intra_op_num_threads=torch.get_num_threads()
    )

    def read(picture: NDArray[np.uint8]) -> tuple[str, ...]:
        lines, _ = engine(picture[:, :, ::-1].copy())  # it takes BGR
        return tuple(text for _, text, _ in lines or ())

    return read
