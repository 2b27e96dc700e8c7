"""Output that cannot be written costs nothing."""

import io
import os
import sys

import pytest

from align.io.terminal import console, patient


class Ended(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


@pytest.fixture
def shown_on(monkeypatch):
    def show(stream):
        monkeypatch.setattr(sys, "stdout", stream)
        with patient():
            print("4 ± 1 一")  # noqa: T201
            console().print("[/b] :smile: 4 ± 1")
            print(end="", flush=True)  # noqa: T201
        assert sys.stdout is stream

    return show


def test_letters_that_a_stream_lacks_are_escaped(shown_on):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii", errors="strict")
    shown_on(stream)
    assert raw.getvalue() == b"4 +- 1 \\u4e00\n[/b] :smile: 4 +- 1\n"


def test_utf_8_is_left_as_it_is(shown_on):
    raw = io.BytesIO()
    shown_on(io.TextIOWrapper(raw, "utf-8"))
    assert raw.getvalue().decode() == "4 ± 1 一\n[/b] :smile: 4 ± 1\n"


@pytest.mark.parametrize("stream", [None, Ended()])
def test_streams_that_are_closed_are_no_error(shown_on, stream):
    shown_on(stream)


def test_closed_pipe_is_no_error_at_the_end_of_the_process(shown_on):
    reads, writes = os.pipe()
    os.close(reads)
    stream = open(writes, "w")  # noqa: PTH123, SIM115
    shown_on(stream)
    stream.close()


def test_bytes_are_written_as_the_text_that_they_are(capsys):
    with patient():
        sys.stdout.write("±1\n".encode())
    assert capsys.readouterr().out == "±1\n"
