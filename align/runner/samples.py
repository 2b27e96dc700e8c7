"""The samples of an arm on the disk: pictures one by one, and clean states in one file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, final

import attrs
import numpy as np
import torch
from numpy.lib import format as npy
from safetensors.torch import load_file
from torch import Tensor

from align.io.files import replacing
from align.io.images import opened, save_picture, to_bytes
from align.io.tensors import write_rows

STATES: Final = "states.safetensors"
NPZ: Final = "samples.npz"
"""Pictures as the evaluator of guided-diffusion (ADM) reads them: arr_0, uint8 (N, H, W, 3)."""

_DIGITS: Final = 4  # of a picture's name, or more where there are more pictures


@final
@attrs.frozen
class Samples:
    """The folder of an arm's samples.

    Attributes:
        folder: of the files.
        count: of the samples.
    """

    folder: Path
    count: int

    def picture(self, number: int) -> Path:
        """Of one sample; names are in the samples' order."""
        digits = max(_DIGITS, len(str(self.count - 1)))
        return self.folder / f"{number:0{digits}d}.png"

    def write_pictures(self, first: int, data: Tensor) -> None:
        """Keep pictures (B, 3, H, W), samples `first` and on; other data are left out."""
        if data.dim() == 4:
            for number, picture in enumerate(to_bytes(data), first):
                save_picture(self.picture(number), picture)

    def write_states(self, pieces: Iterable[Tensor]) -> None:
        """Keep clean states (B, *S) of all samples, in their order; a piece at a time is held."""
        with replacing(self.folder / STATES) as file:
            write_rows(file, "x1", pieces, self.count)

    def write_npz(self) -> None:
        """Write the pictures as `NPZ` beside them, one by one; nothing where there are none."""
        if not self.picture(0).exists():
            return
        height, width, _ = self._pixels(0).shape
        about = {"descr": "|u1", "fortran_order": False, "shape": (self.count, height, width, 3)}
        with (
            replacing(self.folder / NPZ) as file,
            zipfile.ZipFile(file, "w") as archive,
            archive.open("arr_0.npy", "w", force_zip64=True) as array,
        ):
            npy.write_array_header_1_0(array, about)
            for number in range(self.count):
                array.write(self._pixels(number).tobytes())

    def states(self) -> Tensor:
        """Clean states (N, *S)."""
        return load_file(self.folder / STATES)["x1"]

    def pictures(self) -> Tensor | None:
        """The pictures (N, 3, H, W) in [0, 1]; None where the samples are none."""
        if not self.picture(0).exists():
            return None
        levels = [torch.from_numpy(self._pixels(number)) for number in range(self.count)]
        return torch.stack(levels).permute(0, 3, 1, 2).float() / 255

    def _pixels(self, number: int) -> np.ndarray:
        return np.array(opened(self.picture(number)).pil)
