"""A small feature network, and weights of Inception's layout."""

from typing import ClassVar

import attrs
import torch
import torch.nn.functional as F

from align.core.features import FeatureExtractor, FeatureNetwork, PictureFeatures
from align.core.streams import Streams
from align.metrics.inception import InceptionV3


@attrs.frozen(kw_only=True)
class Small(FeatureNetwork):
    """Thumbnails of 4 x 4 pixels, of which the first three are logits."""

    kind: ClassVar[str] = "small"
    has_spatial: ClassVar[bool] = True
    has_logits: ClassVar[bool] = True
    classes: ClassVar[tuple[str, ...]] = ("cat", "dog", "bird")

    def build(self, device):
        return _Small()


class _Small(FeatureExtractor):
    calls = 0

    def extract(self, pictures):
        _Small.calls += len(pictures)
        pooled = F.adaptive_avg_pool2d(pictures, 4).flatten(1)
        return PictureFeatures(
            pooled=pooled,
            spatial=F.adaptive_avg_pool2d(pictures, 2).flatten(1),
            logits=20 * F.adaptive_avg_pool2d(pictures, 1).flatten(1),
        )


def calls():
    """Pictures that went through the small network so far."""
    return _Small.calls


def pictures(count, seed=0, side=12):
    """Pictures (count, 3, side, side) of 8 bits that differ from each other at large."""
    coarse = Streams(seed, tuple(range(count))).fold_in("pictures").uniform((3, 3, 3)).float()
    fine = F.interpolate(coarse, (side, side), mode="bilinear")
    return (fine * 255).round() / 255


def inception_state(seed=0):
    """Weights under which features neither vanish nor grow."""

    def drawn():
        state = InceptionV3().state_dict()
        for name, tensor in state.items():
            if name.endswith(("bn.weight", "running_var")):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(std=0.1)
            else:
                tensor.normal_(std=(1.5 / tensor[0].numel()) ** 0.5)
        return state

    return Streams(seed, ()).initialise(drawn)


def inception_file(folder):
    """A file as torch-fidelity publishes it: with counters of batches."""
    state = inception_state()
    for name in [name for name in state if name.endswith("bn.weight")]:
        state[name.replace("weight", "num_batches_tracked")] = torch.tensor(0)
    path = folder / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(state, path)
    return path
