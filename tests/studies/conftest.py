"""A study run by hand."""

import attrs
import pytest

from align.core.streams import Streams


@pytest.fixture
def studied():
    """The last state and the findings of a study on so many samples."""

    def run(mode, problem, count, seed=0):
        problem = attrs.evolve(problem, cond=problem.model.encode([""] * count))
        streams = Streams(seed, tuple(range(count)))
        state = mode.init(problem, streams)
        for index in range(mode.steps):
            state, _ = mode.step(problem, state, index, streams)
        assert mode.finish(problem, state) is None
        return state, mode.findings(state)

    return run
