"""The other process dies, hangs, prints; no result is lost, and it never outlives this one."""

import gc
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from loguru import logger

from align.core.errors import ContractError, PartError
from align.isolation.client import RewardProcess, python_of
from align.isolation.protocol import Message, packed
from align.isolation.reward import Isolated

CPU = torch.device("cpu")
DATA = torch.linspace(-2, 2, 12).reshape(3, 4)


def ask(part, prompt="", data=DATA):
    return part.build(CPU).score(data, [prompt] * len(data))


def right():
    return (DATA.sin() * DATA).flatten(1).sum(1)


def alive(pid):
    """Whether there is such a process, a zombie too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def log():
    logger.enable("align")
    lines = []
    sink = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(sink)
    logger.disable("align")


def test_process_that_dies_once_is_restarted_and_answers(obedient, tmp_path, log):
    assert torch.equal(ask(obedient), right())
    before = obedient._transport._process.pid
    assert torch.equal(ask(obedient, f"once {tmp_path / 'marked'}"), right())
    assert obedient._transport._process.pid != before and not alive(before)
    told = [line for line in log if "died" in line]
    assert len(told) == 1 and told[0].startswith("WARNING reward 'python' of '")
    assert "died (exit code 3); its last output: no memory left; it is started again" in told[0]
    assert any(line.startswith("INFO") and "no memory left" in line for line in log)


def test_process_that_dies_twice_raises(obedient):
    with pytest.raises(PartError, match=r"died .signal 6.; its last output: .*farewell") as caught:
        ask(obedient, "die")
    assert "and again after a new start" in str(caught.value)
    assert torch.equal(ask(obedient), right())


def test_process_that_hangs_is_ended(obedient):
    ask(obedient)
    process, pid = obedient._transport, obedient._transport._process.pid
    process.timeout, before = 0.3, process.timeout
    try:
        with pytest.raises(PartError, match=r"did not answer within 0.3 s; raise its timeout"):
            ask(obedient, "sleep")
    finally:
        process.timeout = before
    assert not alive(pid)


def test_interrupted_request_is_not_answered_later(obedient):
    ask(obedient)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(obedient, "sleep")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert torch.equal(ask(obedient), right())


def test_errors_of_the_reward_are_raised_here_and_leave_the_process_alone(obedient):
    ask(obedient)
    pid = obedient._transport._process.pid
    with pytest.raises(PartError, match=r"^no such checkpoint$"):
        ask(obedient, "mistake no such checkpoint")
    with pytest.raises(ContractError, match=r"'score' of '.*obedient.py' returned a list"):
        ask(obedient, "list")
    told = r"of '.*' raised ValueError: odd size \(.*obedient\.py, line \d+\)"
    with pytest.raises(PartError, match=told) as caught:
        ask(obedient, "raise odd size")
    assert "in score" in caught.value.__notes__[0]
    with pytest.raises(PartError, match=r"of '.*' raised SystemExit: 0 \("):
        ask(obedient, "exit")
    # What a package prints is no answer.
    assert torch.equal(ask(obedient, "shout"), right())
    assert obedient._transport._process.pid == pid


def test_missing_environment_is_named():
    with pytest.raises(PartError, match=r"no virtual environment 'nowhere' as seen from '.*'"):
        RewardProcess("nowhere", "it", 1.0).ask(Message("read"))


def test_environment_without_align_names_the_cure(bare):
    with pytest.raises(PartError) as caught:
        RewardProcess(str(bare), "it", 60.0).ask(Message("read"))
    python = python_of(str(bare))
    told = f"'{bare}' has no align-core, or an older one; install it with `{python} -m pip"
    assert str(caught.value).startswith(told)


def test_interpreter_that_does_not_start_shows_its_output(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho no such library >&2\n")
    python.chmod(0o755)
    with pytest.raises(PartError, match=r"does not run align; its output ends in: no such library"):
        RewardProcess(str(tmp_path), "it", 60.0).ask(Message("read"))
    python.chmod(0o644)
    with pytest.raises(PartError, match=r"cannot be started: .*ermission denied"):
        RewardProcess(str(tmp_path), "it", 60.0).ask(Message("read"))


def test_other_version_is_refused(tmp_path):
    (tmp_path / "hello").write_bytes(
        packed(Message("hello", payload={"protocol": 0, "version": "0.9"}))
    )
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\ncat {tmp_path / 'hello'}\n")
    python.chmod(0o755)
    with pytest.raises(PartError, match=r"has align-core 0.9, and here is .*; install the same"):
        RewardProcess(str(tmp_path), "it", 60.0).ask(Message("read"))


PARENT = """\
import os, signal, sys, torch
from align.isolation.reward import Isolated

os.setsid()
part = Isolated(venv=sys.prefix, timeout=100.0, reward={{"kind": "python", "file": {file!r}}})
reward = part.build(torch.device("cpu"))
print(part._transport._process.pid, flush=True)
if "{end}" == "sleep":
    reward.score(torch.ones(1, 1), ["sleep"])
sys.exit()
"""


def test_process_ends_with_its_parent(obedient_file, tmp_path, forked):
    """On exit, on Ctrl-C and on SIGKILL in the middle of a long call."""
    running = []
    for end, sent in (("exit", None), ("sleep", signal.SIGINT), ("sleep", signal.SIGKILL)):
        program = tmp_path / f"{end}_{sent}.py"
        program.write_text(PARENT.format(file=obedient_file, end=end))
        running.append((forked(program), sent))
    for started, sent in running:
        limit = time.monotonic() + 100
        while not started.stdout.endswith("\n"):
            assert time.monotonic() < limit, started.stderr
            time.sleep(0.05)
        pid = int(started.stdout)
        if sent:
            time.sleep(0.3)
            assert alive(pid)
            os.killpg(started.process.pid, sent)
        started.ended()
        limit = time.monotonic() + 10
        while alive(pid) and not zombie(pid) and time.monotonic() < limit:
            time.sleep(0.05)
        # Where nobody is left to take it from the table, whoever adopts it may do so late.
        assert not alive(pid) or (sent == signal.SIGKILL and zombie(pid))


def zombie(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_process_ends_with_the_reward(own, obedient_file):
    part = Isolated(venv=own, timeout=100.0, reward={"kind": "python", "file": obedient_file})
    pid = part._transport._process.pid
    assert alive(pid)
    del part
    gc.collect()
    assert not alive(pid)
