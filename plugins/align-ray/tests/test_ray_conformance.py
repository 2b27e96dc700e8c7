"""The executor by the checks of its contract, on a cluster that all checks share."""

import pytest
from align_ray.executor import RayActors

from align.testing import conformance
from align.testing.checks.executor import Told


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with RayActors(workers=1).cluster():
        yield


test_ray = conformance("executor", lambda: RayActors(workers=1))


def test_cluster_that_is_there_already_is_used_and_left():
    import ray

    RayActors(workers=1).run(None, [], Told())
    assert ray.is_initialized()
