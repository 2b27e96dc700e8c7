"""The plugin's part, by the checks of its contract."""

from align_nsfw import Safe

from align import Streams
from align.testing import conformance


def pictures():
    return Streams(0, (0, 1)).uniform((3, 40, 56)).float()


test_safe = conformance("reward", Safe(), on=pictures)
