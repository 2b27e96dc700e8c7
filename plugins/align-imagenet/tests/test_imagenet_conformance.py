"""The plugin's parts, by the checks of their contracts."""

from align_imagenet import Diversity, Frechet, ImageNet

from align.testing import conformance

test_imagenet = conformance("reward", lambda: ImageNet(label="tabby cat"))
test_imagenet_by_squeezenet = conformance(
    "reward", lambda: ImageNet(label="tabby cat", network="squeezenet")
)

test_frechet = conformance("metric", Frechet)
test_diversity = conformance("metric", Diversity)
