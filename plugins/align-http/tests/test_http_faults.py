"""Whatever a server does wrong costs its tries and one line, and no other sample."""

import math
import socket
import ssl
import threading

import pytest
import torch
import trustme
from align_http.scorer import Http

from align import PartError, Streams

CPU = torch.device("cpu")
QUICK = {"tries": 3, "backoff": 0.0, "cache": False}
# What a server does, how the message tells it, and how often it is asked.
FAULTS = {
    "status 500": (r"status 500: no answer", 3),
    "status 503": (r"status 503", 3),
    "status 429 0": (r"status 429", 3),
    "status 429 9999": (r"asks to wait for 9999 s, and 600 are the most", 1),
    "status 400": (r"status 400", 1),
    "nan": (r"a score that is not finite: nan", 3),
    "huge": (r"a score that is not finite: 1e\+300", 3),
    "count": (r"has 3 scores, and 1 was asked for", 3),
    "words": (r"a score that is no number: 'good'", 3),
    "keys": (r'no list "scores"', 3),
    "html": (r"is no JSON", 3),
    "deep": (r"is no JSON", 3),
    "half": (r"broke off", 3),
    "giant": (r"more than 4194304 bytes", 1),
    "zip": (r"compressed", 1),
}
SLOW = {"hang": r"no whole answer within 0.2 s", "drip": r"no whole answer within 0.2 s"}
# Answers that say nothing of the picture end the run whatever `on_failure` is.
FATAL = {
    "status 401": "the key is refused; look at key_env",
    "status 404": "look at the url",
    "redirect": "it is elsewhere",
}


def pictures(count=4, side=4, seed=0):
    return Streams(seed, tuple(range(count))).uniform((3, side, side)).float()


def light(data):
    """What the server should say: of pictures as bytes have them."""
    return (data * 255).round().div(255).mean((1, 2, 3))


def failing(data, name):
    """Prompts of which the second asks for a fault."""
    return [name if row == 1 else "fine" for row in range(len(data))]


@pytest.mark.parametrize("fault", FAULTS)
def test_picture_that_fails_stops_the_run_in_one_line_and_is_asked_again_no_more_than_said(
    scorer, fault
):
    faulty, url = scorer
    told, tries = FAULTS[fault]
    faulty.asked.clear()
    data = pictures()
    with pytest.raises(PartError, match=told) as error:
        Http(url=url, **QUICK).build(CPU).score(data, failing(data, fault))
    assert faulty.asked[fault] == tries
    text = str(error.value)
    counted = "1 try" if tries == 1 else f"{tries} tries"
    assert text.startswith(f"reward 'http': picture 2 of 4 ('{fault}') not scored after {counted}:")
    assert "\n" not in text and url in text and error.value.__cause__ is None


@pytest.mark.parametrize("fault", FAULTS)
def test_picture_that_is_skipped_is_missing_and_loses_no_other(scorer, fault):
    _, url = scorer
    data = pictures()
    reward = Http(url=url, on_failure="skip", in_flight=2, **QUICK).build(CPU)
    score = reward.score(data, failing(data, fault))
    assert math.isnan(score[1])
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(score[others], light(data)[others])


@pytest.mark.parametrize("fault", ["status 500", "status 429 0", "nan", "count", "half", "html"])
def test_fault_that_passes_costs_one_more_try_and_no_number(scorer, fault):
    faulty, url = scorer
    faulty.asked.clear()
    data, name = pictures(), f"{fault} once"
    score = Http(url=url, **QUICK).build(CPU).score(data, failing(data, name))
    torch.testing.assert_close(score, light(data))
    assert faulty.asked[name] == 2


@pytest.mark.parametrize("fault", SLOW)
def test_answer_that_does_not_end_is_given_up(scorer, fault):
    _, url = scorer
    data = pictures(2)
    options = {**QUICK, "tries": 1}
    with pytest.raises(PartError, match=SLOW[fault]):
        Http(url=url, timeout=0.2, **options).build(CPU).score(data, failing(data, fault))


@pytest.mark.parametrize("fault", FATAL)
def test_answer_that_is_about_no_picture_stops_the_run_though_pictures_may_be_skipped(
    scorer, fault
):
    faulty, url = scorer
    faulty.asked.clear()
    data = pictures()
    with pytest.raises(PartError, match=FATAL[fault]):
        Http(url=url, on_failure="skip", **QUICK).build(CPU).score(data, failing(data, fault))
    assert faulty.asked[fault] == 1


def test_batch_with_a_bad_picture_is_asked_one_by_one(scorer):
    faulty, url = scorer
    faulty.asked.clear()
    data = pictures(6)
    reward = Http(url=url, batch=4, on_failure="skip", **QUICK).build(CPU)
    score = reward.score(data, failing(data, "status 500"))
    assert score.isnan().tolist() == [False, True, *[False] * 4]
    assert faulty.asked["status 500"] == 6


def test_server_that_dies_in_the_middle_costs_the_pictures_after_its_death():
    """The first request is answered; the listener is then closed, and what is open is cut."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/score"

    def mortal():
        first, _ = listener.accept()
        with first:
            first.recv(1 << 16)
            answer = b'{"scores": [0.25]}'
            first.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
            first.sendall(b"Content-Length: %d\r\n\r\n" % len(answer) + answer)
        second, _ = listener.accept()
        listener.close()
        with second:
            second.recv(1 << 16)
            second.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    thread = threading.Thread(target=mortal)
    thread.start()
    reward = Http(url=url, in_flight=1, on_failure="skip", **QUICK).build(CPU)
    score = reward.score(pictures(), ["fine"] * 4)
    thread.join()
    assert float(score[0]) == 0.25 and bool(score[1:].isnan().all())


def read_whole(stream):
    """Read a request with its body: a connection closed on unread bytes breaks off the answer."""
    length = 0
    with stream.makefile("rb") as request:
        while line := request.readline().strip():
            name, _, value = line.lower().partition(b":")
            length = int(value) if name == b"content-length" else length
        request.read(length)


def behind_tls(listener, context, handshakes):
    """Answer each connection once with a score, where its handshake is made."""
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        try:
            with context.wrap_socket(plain, server_side=True) as stream:
                handshakes.append(True)
                read_whole(stream)
                head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 18\r\n\r\n"
                stream.sendall(head + b'{"scores": [0.25]}')
        except OSError:
            plain.close()


def test_certificate_of_somebody_else_is_refused_at_once_and_taken_from_its_authority(tmp_path):
    authority, context, handshakes = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=behind_tls, args=(listener, context, handshakes))
    thread.start()
    url = f"https://127.0.0.1:{listener.getsockname()[1]}/score"
    told = "after 1 try: .*not valid.*name the file of its authority by ca_file"
    with pytest.raises(PartError, match=told):
        Http(url=url, on_failure="skip", **QUICK).build(CPU).score(pictures(1), ["fine"])
    assert not handshakes
    reward = Http(url=url, ca_file=str(tmp_path / "ca.pem"), **QUICK).build(CPU)
    assert reward.score(pictures(1), ["fine"]).tolist() == [0.25]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    with pytest.raises(PartError, match=r"ca_file '.*' holds no certificates"):
        Http(url=url, ca_file=str(tmp_path / "nothing.pem")).build(CPU)


def test_calls_are_bounded_and_equal_pictures_are_asked_once(scorer):
    faulty, url = scorer
    faulty.asked.clear()
    reward = Http(url=url, max_calls=3, **QUICK).build(CPU)
    data = pictures(2)[[0, 1, 0, 1, 0]]
    torch.testing.assert_close(reward.score(data, ["fine"] * 5), light(data))
    torch.testing.assert_close(reward.score(data.flip(0), ["fine"] * 5), light(data.flip(0)))
    assert faulty.asked["fine"] == 2
    with pytest.raises(PartError, match="max_calls = 3 is used up; raise it"):
        reward.score(pictures(3, seed=1), ["fine"] * 3)


def test_answers_are_kept_for_later_runs_where_the_cache_has_room(scorer, monkeypatch, tmp_path):
    faulty, url = scorer
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path))
    monkeypatch.setenv("ALIGN_CACHE_GB", "1")
    faulty.asked.clear()
    data, options = pictures(), {**QUICK, "cache": True}
    for _ in range(2):
        score = Http(url=url, **options).build(CPU).score(data, ["fine"] * 4)
        torch.testing.assert_close(score, light(data))
    assert faulty.asked["fine"] == 4
    Http(url=url, **options).build(CPU).score(data, ["another"] * 4)
    assert faulty.asked["another"] == 4
    (tmp_path / "judges" / "answers.sqlite").write_bytes(b"no database" * 100)
    torch.testing.assert_close(
        Http(url=url, **options).build(CPU).score(data, ["fine"] * 4), light(data)
    )
    assert faulty.asked["fine"] == 8


def test_as_many_requests_are_in_flight_as_are_allowed(scorer):
    faulty, url = scorer
    faulty.at_once = 0
    Http(url=url, in_flight=3, **QUICK).build(CPU).score(pictures(24), ["fine"] * 24)
    assert 1 <= faulty.at_once <= 3


@pytest.mark.slow
def test_ten_thousand_scores_at_32_in_flight_take_bounded_memory(scorer):
    """The requests of all would be 230 MB; those of 32 are less than 1."""
    import tracemalloc

    _, url = scorer
    data = pictures(10_000, side=32, seed=2)
    reward = Http(url=url, in_flight=32, **QUICK).build(CPU)
    reward.score(data[:64], ["fine"] * 64)
    tracemalloc.start()
    score = reward.score(data, ["fine"] * len(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    torch.testing.assert_close(score, light(data))
    assert peak < 60e6
