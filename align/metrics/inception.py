"""Inception-v3 as Fréchet inception distances are computed with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal, TypeAlias, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.core.errors import PartError
from align.core.features import FeatureExtractor, FeatureNetwork, PictureFeatures
from align.core.option import option
from align.io.hub import located
from align.io.weights import load_strictly, read

SIDE: Final = 299
SPATIAL: Final = 7
"""Channels of the spatial features."""

_WHO: Final = "features 'inception'"
_FILES: Final = (
    "pt_inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth",
)
_SOURCE: Final = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"

Layer: TypeAlias = tuple[str, int, int | tuple[int, int], int]
"""Name, channels out, kernel, stride; without stride a layer keeps the size of pictures."""
Step: TypeAlias = tuple[Layer, ...]
"""Layers beside each other, whose channels follow each other."""
Pool: TypeAlias = Literal["average", "max", "max, half the size"]


@final
@attrs.frozen(kw_only=True)
class Inception(FeatureNetwork):
    """Inception-v3 of 2015-12-05, the network of FID.

    The network of the first FID, which others are compared by: 2048 pooled features, 1008 logits
    without their biases, and the first 7 channels of the block "mixed_6", which sFID is about.

    It is computed as the original graph of TensorFlow does it: averages do not count padding, and
    the last block takes maxima. Pictures are rounded to 8 bits, resized to 299 x 299 by bilinear
    interpolation as TensorFlow 1 has it (corners in place, no antialiasing), and mapped by
    (x − 128) / 128. torch-fidelity and ADM's evaluator do the same; pytorch-fid and torchvision
    resize otherwise, so that their numbers differ.

    The weights are those that pytorch-fid and torch-fidelity publish, and that both leave in
    torch's cache.

    Reference: Rethinking the Inception Architecture for Computer Vision, Szegedy et al., 2015,
    arXiv:1512.00567, section 6.
    """

    kind: ClassVar[str] = "inception"
    has_spatial: ClassVar[bool] = True
    has_logits: ClassVar[bool] = True

    weights: str = option(
        "a file, a folder or an id of the Hugging Face hub; none: what pytorch-fid or"
        " torch-fidelity left in torch's cache",
        default="",
        path=True,
    )
    revision: str = option("branch, tag or commit on the hub", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)

    def build(self, device: torch.device) -> FeatureExtractor:
        """Load the network.

        Raises:
            PartError: the weights are not there, or not those of this network.
        """
        path = self._path()
        state = {
            name: tensor
            for name, tensor in read(path, _WHO).items()
            # A head for training, and counters, that some copies hold.
            if not name.startswith("AuxLogits.") and not name.endswith("num_batches_tracked")
        }
        with torch.device("meta"):
            network = InceptionV3()
        load_strictly(network, state, path, _WHO)
        return _Extractor(network.float().requires_grad_(False).eval().to(device))

    def _path(self) -> Path:
        if self.weights:
            return located(
                self.weights,
                self.weights,
                _FILES,
                who=_WHO,
                revision=self.revision,
                offline=self.offline,
            )
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        for name in _FILES:
            if (folder / name).is_file():
                return folder / name
        raise PartError(
            f"{_WHO}: weights: neither '{_FILES[0]}' nor '{_FILES[1]}' is in '{folder}'; run"
            f" 'curl -LO {_SOURCE}/{_FILES[0]}' where there is a network, and give its path,"
            f' features = {{ kind = "inception", weights = "{_FILES[0]}" }}'
        )


@final
@attrs.frozen(eq=False)
class _Extractor(FeatureExtractor):
    network: InceptionV3

    def extract(self, pictures: Tensor) -> PictureFeatures:
        """All three kinds of features."""
        levels = (pictures.float() * 255).round()
        resized = resized_as_tensorflow(levels, SIDE)
        features: PictureFeatures = self.network((resized - 128) / 128)
        return features


def resized_as_tensorflow(x: Tensor, side: int) -> Tensor:
    """Pictures (B, C, H, W) as (B, C, side, side), as `tf.image.resize_bilinear` of TensorFlow 1.

    Pixel i of the result lies at i · H / side, between whole pixels; nothing is antialiased.
    """
    for axis in (2, 3):
        count = x.shape[axis]
        scale = torch.tensor(count / side, dtype=torch.float32)
        places = torch.arange(side, dtype=torch.float32) * scale
        low = places.long()
        share = (places - low).to(x).view((-1, 1) if axis == 2 else (-1,))
        high = (low + 1).clamp_max(count - 1).to(x.device)
        below, above = (x.index_select(axis, index) for index in (low.to(x.device), high))
        x = below + (above - below) * share
    return x


@final
class InceptionV3(nn.Module):
    """The network, with the names that its published weights have; 24 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=(1, 1))
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = _small(192, 32)
        self.Mixed_5c = _small(256, 64)
        self.Mixed_5d = _small(288, 64)
        self.Mixed_6a = Mixed(
            288,
            "max, half the size",
            _path(("branch3x3", 384, 3, 2)),
            _path(
                ("branch3x3dbl_1", 64, 1, 1),
                ("branch3x3dbl_2", 96, 3, 1),
                ("branch3x3dbl_3", 96, 3, 2),
            ),
        )
        self.Mixed_6b = _long(128)
        self.Mixed_6c = _long(160)
        self.Mixed_6d = _long(160)
        self.Mixed_6e = _long(192)
        self.Mixed_7a = Mixed(
            768,
            "max, half the size",
            _path(("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 2)),
            _path(
                ("branch7x7x3_1", 192, 1, 1),
                ("branch7x7x3_2", 192, (1, 7), 1),
                ("branch7x7x3_3", 192, (7, 1), 1),
                ("branch7x7x3_4", 192, 3, 2),
            ),
        )
        self.Mixed_7b = _wide(1280, "average")
        self.Mixed_7c = _wide(2048, "max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> PictureFeatures:
        """Features of pictures (B, 3, 299, 299) in [-1, 1]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2))
        x = F.max_pool2d(self.Conv2d_4a_3x3(x), 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        # TensorFlow's "mixed_6/conv", whose channels come last there.
        spatial = x[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))
        pooled = x.mean((2, 3))
        logits = pooled @ self.fc.weight.T
        return PictureFeatures(pooled=pooled, spatial=spatial, logits=logits)


@final
class Convolution(nn.Module):
    """A convolution, its normalisation, and what is above 0 of it."""

    def __init__(
        self,
        taken: int,
        given: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(taken, given, kernel, stride, padding, bias=False)
        self.bn = Normalisation(given)

    def forward(self, x: Tensor) -> Tensor:
        """(B, taken, H, W) to (B, given, H', W')."""
        return F.relu(self.bn(self.conv(x)))


@final
class Normalisation(nn.Module):
    """Normalisation by the statistics of training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias, self.running_mean, self.running_var = (
            nn.Parameter(torch.empty(channels)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, channels, H, W) as they went in."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=0.001
        )


@final
class Mixed(nn.Module):
    """A block: several paths of convolutions beside each other, and one that pools.

    Args:
        taken: channels that it is given.
        pool: what its last path begins with. It goes on with a convolution "branch_pool" unless it
            halves the size.
        paths: the others, in the order of their channels.
        pooled: channels of "branch_pool".
    """

    def __init__(self, taken: int, pool: Pool, *paths: Sequence[Step], pooled: int = 192) -> None:
        super().__init__()
        self.pool, self.paths = pool, paths
        for path in paths:
            width = taken
            for step in path:
                for name, given, kernel, stride in step:
                    high, wide = kernel if isinstance(kernel, tuple) else (kernel, kernel)
                    padding = (high // 2, wide // 2) if stride == 1 else (0, 0)
                    layer = Convolution(width, given, kernel, stride=stride, padding=padding)
                    self.add_module(name, layer)
                width = sum(layer[1] for layer in step)
        if pool != "max, half the size":
            self.branch_pool = Convolution(taken, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, taken, H, W) to (B, channels of all paths, H', W')."""
        rows = []
        for path in self.paths:
            y = x
            for step in path:
                y = torch.cat([self.get_submodule(layer[0])(y) for layer in step], 1)
            rows.append(y)
        match self.pool:
            case "average":
                mean = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
                rows.append(self.branch_pool(mean))
            case "max":
                rows.append(self.branch_pool(F.max_pool2d(x, 3, 1, 1)))
            case "max, half the size":
                rows.append(F.max_pool2d(x, 3, 2))
        return torch.cat(rows, 1)


def _path(*layers: Layer) -> list[Step]:
    """A path of layers one after the other."""
    return [(layer,) for layer in layers]


def _small(taken: int, pooled: int) -> Mixed:
    """A block of pictures of 35 x 35."""
    return Mixed(
        taken,
        "average",
        _path(("branch1x1", 64, 1, 1)),
        _path(("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 1)),
        _path(
            ("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 1)
        ),
        pooled=pooled,
    )


def _long(width: int) -> Mixed:
    """A block of pictures of 17 x 17, with convolutions along one axis at a time."""
    return Mixed(
        768,
        "average",
        _path(("branch1x1", 192, 1, 1)),
        _path(
            ("branch7x7_1", width, 1, 1),
            ("branch7x7_2", width, (1, 7), 1),
            ("branch7x7_3", 192, (7, 1), 1),
        ),
        _path(
            ("branch7x7dbl_1", width, 1, 1),
            ("branch7x7dbl_2", width, (7, 1), 1),
            ("branch7x7dbl_3", width, (1, 7), 1),
            ("branch7x7dbl_4", width, (7, 1), 1),
            ("branch7x7dbl_5", 192, (1, 7), 1),
        ),
    )


def _wide(taken: int, pool: Pool) -> Mixed:
    """A block of pictures of 8 x 8, some of whose layers lie beside each other."""
    return Mixed(
        taken,
        pool,
        _path(("branch1x1", 320, 1, 1)),
        [
            *_path(("branch3x3_1", 384, 1, 1)),
            (("branch3x3_2a", 384, (1, 3), 1), ("branch3x3_2b", 384, (3, 1), 1)),
        ],
        [
            *_path(("branch3x3dbl_1", 448, 1, 1), ("branch3x3dbl_2", 384, 3, 1)),
            (("branch3x3dbl_3a", 384, (1, 3), 1), ("branch3x3dbl_3b", 384, (3, 1), 1)),
        ],
    )
