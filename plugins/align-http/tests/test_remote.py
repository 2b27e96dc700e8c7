"""A reward of another machine is the reward itself: the same bits, gradient included."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import torch
from align_http import serve
from align_http.remote import MEDIA_TYPE, Remote
from align_http.serve import Limits, Server, load_rewards
from align_http.testing import served

from align import ConfigErrors, PartError, Streams, load_catalog, part_table, read_part
from align.core.reward import Quadratic
from align.isolation.protocol import Message, to_body

CPU = torch.device("cpu")
CONVOLVED = """\
import torch
import torch.nn.functional as F
from align.core.errors import PartError

kernel = torch.linspace(-1, 1, 3 * 8 * 25).sin().reshape(8, 3, 5, 5)

def score(data, prompts):
    if prompts[0] == "mistake":
        raise PartError("this reward has no weights")
    if prompts[0] == "defect":
        raise ZeroDivisionError("hidden")
    weights = torch.tensor([float(len(prompt)) for prompt in prompts])
    return F.conv2d(data, kernel.to(data)).tanh().flatten(1).logsumexp(1) * weights
"""
LINEAR = {"kind": "likelihood", "matrix": [[1.0, 2.0]], "observed": [0.3], "std": 0.7}
QUICK = {"tries": 2, "backoff": 0.0}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Of a reward with convolutions."""
    path = tmp_path_factory.mktemp("rewards") / "convolved.py"
    path.write_text(CONVOLVED)
    return {"kind": "python", "file": str(path)}


@pytest.fixture(scope="module")
def url(table):
    """A server of two rewards."""
    with served(Server(load_rewards([table, LINEAR], CPU)).app()) as place:
        yield f"http://{place}"


@pytest.fixture(scope="module")
def here(table):
    """The same reward in this process."""
    return read_part("reward", table, load_catalog()).build(CPU)


def pictures(rows=6, seed=0):
    return Streams(seed, tuple(range(rows))).uniform((3, 16, 16)).float()


def both(reward, data, prompts):
    """Score and vector-Jacobian product, through what comes before the data."""
    x = data.clone().requires_grad_()
    score = reward.score(x.square(), prompts)
    weights = torch.linspace(-1, 2, len(data))
    return score.detach(), torch.autograd.grad((score * weights).sum(), x)[0]


def remote(url, reward=None, **options):
    return Remote(url=url, reward=reward or {"kind": "python"}, **(QUICK | options))


def test_scores_and_gradients_have_the_same_bits(url, here):
    part, data = remote(url), pictures()
    prompts = ["x" * (row + 1) for row in range(len(data))]
    assert part.differentiable and part.domain is None and part.kind == "remote"
    for mine, theirs in zip(
        both(here, data, prompts), both(part.build(CPU), data, prompts), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert not part.build(CPU).score(data, prompts).requires_grad
    assert part.origins()[f"python of '{url}'"].startswith("align-core ")
    assert ", files " in part.origins()[f"python of '{url}'"]
    part.close()


def test_capabilities_and_promises_cross(url):
    part = remote(url, LINEAR)
    assert part.is_quadratic and part.domain == "vector" and not part.external
    form = part.build(CPU).capability(Quadratic).quadratic()
    mine = read_part("reward", LINEAR, load_catalog()).build(CPU).quadratic()
    assert all(torch.equal(a, b) for a, b in zip(form, mine, strict=True))


def test_graphs_that_the_server_dropped_are_made_again(url, here, monkeypatch):
    reward, data = remote(url).build(CPU), pictures(2)
    inputs = [data.clone().requires_grad_() for _ in range(serve._GRAPHS + 2)]
    scores = [reward.score(x, ["a", "b"]) for x in inputs]
    for x, score in zip(inputs, scores, strict=True):
        (gradient,) = torch.autograd.grad(score.sum(), x)
        mine = data.clone().requires_grad_()
        (expected,) = torch.autograd.grad(here.score(mine, ["a", "b"]).sum(), mine)
        assert torch.equal(gradient, expected)


def test_clients_that_ask_at_once_get_each_their_own(url, here):
    data = [pictures(2, seed) for seed in range(8)]
    expected = [both(here, some, ["a", "b"]) for some in data]
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda some: both(remote(url).build(CPU), some, ["a", "b"]), data)]
    for mine, theirs in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_server_that_forgot_is_told_again(table, here):
    server = Server(load_rewards([table], CPU))
    with served(server.app()) as place:
        reward, data = remote(f"http://{place}").build(CPU), pictures(2)
        first = reward.score(data, ["a", "b"])
        server._sessions.clear()
        assert torch.equal(reward.score(data, ["a", "b"]), first)


def test_errors_of_the_reward_are_told_and_its_traceback_stays_there(url):
    reward, data = remote(url).build(CPU), pictures(2)
    with pytest.raises(PartError, match="this reward has no weights"):
        reward.score(data, ["mistake"] * 2)
    with pytest.raises(PartError, match="ZeroDivisionError") as error:
        reward.score(data, ["defect"] * 2)
    assert "in score" not in "".join(error.value.__notes__)


def test_reward_that_is_not_served_or_otherwise_is_refused(url, table):
    for reward, told in (
        ({"kind": "ocr"}, "kind: no reward 'ocr' here; there is likelihood, python .read by 'http"),
        ({"kind": "python", "function": "other"}, "function: the server has 'score', and clients"),
        ({"kind": "python", "fil": "x"}, "fil: the server's reward has no such option set"),
        ({}, "required key is missing"),
    ):
        with pytest.raises(ConfigErrors, match=told):
            Remote(url=url, reward=reward, **QUICK)
    same = remote(url, part_table(remote(url))["reward"])
    assert same.build(CPU).score(pictures(2), ["a", "b"]).shape == (2,)


def test_token_is_asked_for_and_never_told(table, monkeypatch):
    monkeypatch.setenv("JUDGE_TOKEN", "t0p-secret-token")
    monkeypatch.setenv("WRONG_TOKEN", "another-token")
    server = Server(load_rewards([table], CPU), token="t0p-secret-token")
    assert "t0p" not in repr(server)
    with served(server.app()) as place:
        url = f"http://{place}"
        for options in ({}, {"key_env": "WRONG_TOKEN"}):
            with pytest.raises(ConfigErrors, match="status 401: a token is asked for") as error:
                remote(url, **options)
            assert "another-token" not in str(error.value)
        with pytest.raises(ConfigErrors, match="variable NO_TOKEN holds no key; set it"):
            remote(url, key_env="NO_TOKEN")
        part = remote(url, key_env="JUDGE_TOKEN")
        assert part.build(CPU).score(pictures(2), ["a", "b"]).shape == (2,)
        assert httpx2.get(f"{url}/health").json() == {"status": "ok"}
        header = {"Authorization": "Bearer t0p-secret-token"}
        facts = httpx2.get(f"{url}/health", headers=header).json()
        assert facts["rewards"][0]["reward"] == "python" and facts["protocol"]


def test_requests_have_limits(table):
    """Each is answered by a status, and the server lives on."""
    limits = Limits(megabytes=0.01, seconds=0.3)
    held = threading.Event()
    server = Server(load_rewards([table], CPU), limits)
    with served(server.app()) as place:
        url, headers = f"http://{place}/ask/x", {"Content-Type": MEDIA_TYPE}
        hello = to_body(Message("hello"))
        assert httpx2.post(url, content=hello, headers=headers).status_code == 200
        assert httpx2.post(url, content=hello).status_code == 415
        assert httpx2.post(url, content=b"nonsense", headers=headers).status_code == 400
        assert httpx2.post(url, content=bytes(20_000), headers=headers).status_code == 413
        server._pool.submit(held.wait)
        read = to_body(Message("read", payload={"table": {"kind": "python"}}))
        assert httpx2.post(url, content=read, headers=headers).status_code == 504
        held.set()
        assert httpx2.post(url, content=read, headers=headers).status_code == 200


def test_server_that_is_none_is_told_in_one_line(scorer):
    _, place = scorer
    with pytest.raises(ConfigErrors, match=r"url: reward 'python' of '.*' did not answer"):
        remote(place)
    with pytest.raises(ConfigErrors, match="no connection"):
        remote("http://127.0.0.1:9")
