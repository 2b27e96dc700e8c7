"""The command `align serve`, as a process and where it cannot begin."""

import os
import signal
import socket
import subprocess
import sys

import httpx2
import pytest
from click.testing import CliRunner

from align.cli.main import main

BRIGHT = '{ kind = "statistic", of = "brightness" }'


def test_server_says_where_it_is_answers_and_ends_with_an_interrupt():
    command = [sys.executable, "-m", "align", "serve", BRIGHT, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        try:
            what, where = process.stdout.readline(), process.stdout.readline()
            assert what.startswith("statistic: align-core ")
            url = where.split()[2]
            assert url.startswith("http://127.0.0.1:")
            assert httpx2.get(f"{url}/health").json()["status"] == "ok"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nonsense"], 2, "nonsense: kind: no reward named 'nonsense'"),
        (['{ kind = "statistic", of = "x" }'], 2, "of: expected one of 'brightness'"),
        (["{ kind"], 2, "is no table of TOML"),
        ([BRIGHT, "--host", "0.0.0.0"], 1, "whoever reaches this address could use the rewards"),
        ([BRIGHT, "--token-env", "NO_TOKEN"], 1, "NO_TOKEN holds no token; set it"),
        ([BRIGHT, "--host", "127.0.0.1", "--port", "{taken}"], 1, "cannot listen at 127.0.0.1"),
    ],
)
def test_command_that_cannot_begin_says_why(words, code, told):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        words = [taken if word == "{taken}" else word for word in words]
        result = CliRunner().invoke(main, ["serve", *words])
    assert told in result.output and result.exit_code == code, result.output
    assert "Traceback" not in result.output
