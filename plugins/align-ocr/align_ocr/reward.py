"""Reward: how near the text that is read in a picture is to a wanted one."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

import attrs
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from align import Domain, PartError, Reward, RewardSpec, at_least, option
from align.io.images import checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Read: TypeAlias = Callable[[NDArray[np.uint8]], tuple[str, ...]]


def _letters(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    if not value.split():
        raise ValueError(f"'{attribute.name}' must hold at least one letter")


@final
@attrs.frozen(kw_only=True)
class Ocr(RewardSpec):
    """R(x) = max(1 − d / n, 0), d the edit distance of what is read from a wanted text of length n.

    All lines that are found are read, from top to bottom. Spaces do not count, as the network
    reads hardly any; upper and lower case are alike unless `case` is set. 1 is a text that is
    read without a mistake. The networks (PP-OCRv4, Latin and Chinese) come with their package.

    Reference: Flow-GRPO: Training Flow Matching Models via Online RL, Liu et al., 2025,
    arXiv:2505.05470, section 5.
    """

    kind: ClassVar[str] = "ocr"
    differentiable: ClassVar[bool] = False
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    text: str = option("text that should be read in the picture", check=_letters)
    case: bool = option("whether upper and lower case differ", default=False)
    side: int = option(
        "side in pixels that smaller pictures are enlarged to where text is looked for; cost grows"
        " as its square",
        default=736,
        check=at_least(32),
    )

    def build(self, device: torch.device) -> Reward:
        """The reward, which reads on the CPU; raises PartError when its package is not there."""
        return _Ocr(self._plain(self.text), self._plain, _reader(self.side))

    def _plain(self, text: str) -> str:
        """A text as it is compared."""
        # A letter with an accent may be written as one character or as two.
        joined = unicodedata.normalize("NFC", "".join(text.split()))
        return joined if self.case else joined.casefold()


@final
@attrs.frozen(eq=False)
class _Ocr(Reward):
    target: str
    plain: Callable[[str], str]
    read: Read

    @torch.no_grad()
    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of pictures (B, 3, H, W) or (B, 1, H, W) in [0, 1].

        Raises:
            ContractError: the data are not pictures.
        """
        pictures = checked(data, "reward 'ocr'").clamp(0, 1).mul(255).round().byte()
        texts = ["".join(self.read(p.permute(1, 2, 0).numpy())) for p in pictures.cpu()]
        return torch.tensor([self._score(text) for text in texts], device=data.device)

    def _score(self, text: str) -> float:
        distance = Levenshtein.distance(self.plain(text), self.target)
        return max(1 - distance / len(self.target), 0.0)


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
