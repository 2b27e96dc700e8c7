"""Servers on this machine."""

import pytest
from align_http.testing import FakeVlm, FaultyScorer, served


@pytest.fixture(scope="module")
def scorer():
    """A scorer that fails when asked to, and its URL."""
    faulty = FaultyScorer()
    with served(faulty.app()) as place:
        yield faulty, f"http://{place}/score"


@pytest.fixture(scope="module")
def vlm():
    """A vision-language model's server, and its URL."""
    fake = FakeVlm()
    with served(fake.app()) as place:
        yield fake, f"http://{place}/v1"
