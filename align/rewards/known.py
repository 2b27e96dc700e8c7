"""A known picture, which samples are compared with."""

from __future__ import annotations

from typing import final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.io.images import opened


@final
@attrs.frozen(eq=False)
class Known:
    """A picture (C, H, W) in [0, 1]: C = 1 when its three channels are alike, or else 3.

    A grey picture therefore counts once a pixel, even if its file has three channels.
    """

    path: str
    picture: Tensor

    def view(self, data: Tensor) -> Tensor:
        """Samples (B, 1 or 3, H, W) with the channels of the picture, in float32 or wider.

        Where the picture is grey, samples become the mean of their channels.

        Raises:
            PartError: they are not of the picture's size.
        """
        if data.shape[-2:] != self.picture.shape[-2:]:
            expected, actual = ("x".join(map(str, x.shape[-2:])) for x in (self.picture, data))
            text = f"'{self.path}' has {expected} pixels, but the model makes {actual}"
            raise PartError(f"picture: {text}; give one of that size")
        data = data.to(torch.promote_types(data.dtype, torch.float32))
        if len(self.picture) == 1:
            return data.mean(1, keepdim=True)
        return data.expand(-1, 3, -1, -1)


def known(path: str, device: torch.device) -> Known:
    """Read a picture, in float32.

    Raises:
        PartError: there is no such file, or it is not a picture of 8 bits a channel.
    """
    try:
        picture = opened(path).tensor
    except PartError as error:
        raise PartError(f"picture: {error}") from error
    grey = bool((picture == picture[:1]).all())
    return Known(path, (picture[:1] if grey else picture).contiguous().to(device))
