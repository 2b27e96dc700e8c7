"""The plugin's parts, by the checks of their contract."""

import pytest
import torch
from align_http.remote import Remote
from align_http.scorer import Http
from align_http.serve import Server, load_rewards
from align_http.testing import FakeVlm, FaultyScorer, served
from align_http.vlm_judge import VlmJudge

from align import Streams
from align.testing import conformance


@pytest.fixture(scope="module", autouse=True)
def places():
    """Servers that live as long as the tests of this file."""
    bright = load_rewards([BRIGHT], torch.device("cpu"))
    with (
        served(FaultyScorer().app()) as scorer,
        served(FakeVlm().app()) as vlm,
        served(Server(bright).app()) as other,
    ):
        PLACES.update(scorer=f"http://{scorer}/score", vlm=f"http://{vlm}/v1")
        PLACES.update(other=f"http://{other}")
        yield


PLACES = {}
BRIGHT = {"kind": "statistic", "of": "brightness"}


def pictures():
    return Streams(0, (0, 1)).uniform((3, 8, 8)).float()


test_http = conformance("reward", lambda: Http(url=PLACES["scorer"], cache=False), on=pictures)
test_vlm_judge = conformance(
    "reward",
    lambda: VlmJudge(url=PLACES["vlm"], model="m", question="Good?", cache=False),
    on=pictures,
)
test_vlm_judge_of_pairs = conformance(
    "reward",
    lambda: VlmJudge(url=PLACES["vlm"], model="m", question="Better?", answer="pair", cache=False),
    on=pictures,
)
test_remote = conformance("reward", lambda: Remote(url=PLACES["other"], reward=BRIGHT), on=pictures)
