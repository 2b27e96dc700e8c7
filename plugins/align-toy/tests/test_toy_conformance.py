"""The reward by the checks of its contract, and by what it is meant for."""

import torch
from align_toy import Toy

from align.testing import conformance

test_toy = conformance("reward", Toy)
test_toy_with_an_option = conformance("reward", lambda: Toy(wanted=0.1))


def test_what_is_wanted_scores_best():
    reward = Toy(wanted=0.5).build(torch.device("cpu"))
    grey, white = torch.full((1, 3, 8, 8), 0.5), torch.ones(1, 3, 8, 8)
    assert reward.score(grey, [""]) == 0
    assert reward.score(white, [""]) < 0
