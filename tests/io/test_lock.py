"""One process writes a folder."""

import errno
import fcntl
import json
import multiprocessing
import os
import time

import attrs
import pytest

from align.core.errors import PartError, TakenError
from align.io import lock
from align.io.lock import NAME, Lock, Owner, owner_of

ELSEWHERE = {"host": "node7", "machine": "another"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    monkeypatch.setattr(lock, "_PATIENCE", 0.05)


def planted(folder, age=0.0, **changes):
    """A lock file that names an owner, as a process leaves it that was killed."""
    owner = attrs.evolve(Owner.me("digest"), **changes)
    (folder / NAME).write_text(json.dumps(attrs.asdict(owner)))
    then = time.time() - age
    os.utime(folder / NAME, (then, then))
    return owner


def without_locks(monkeypatch, number=errno.ENOLCK):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_second_is_told_who_has_it_and_gets_it_afterwards(tmp_path):
    first = Lock.take(tmp_path / "new", "digest")
    with pytest.raises(TakenError) as caught:
        Lock.take(tmp_path / "new", "other")
    said = str(caught.value)
    assert said.startswith(f"run.out: '{tmp_path / 'new'}' is in use by process {os.getpid()} on")
    assert "\n" not in said
    assert (caught.value.digest, caught.value.exit_code) == ("digest", 2)
    assert owner_of(tmp_path / "new").process == os.getpid()
    first.release()
    assert not list((tmp_path / "new").iterdir())
    assert owner_of(tmp_path / "new") is None
    Lock.take(tmp_path / "new", "other").release()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"host": 3}', b"\xff\xfe", b"[" * 9999])
def test_lock_file_of_nobody_keeps_nobody_out(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    assert owner_of(tmp_path) is None
    Lock.take(tmp_path, "digest").release()


def test_lock_of_a_dead_process_is_taken_over(tmp_path, monkeypatch):
    child = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    child.start()
    child.join()
    planted(tmp_path, process=child.pid)
    assert owner_of(tmp_path) is None
    without_locks(monkeypatch)
    Lock.take(tmp_path, "digest").release()


def test_lock_of_a_process_whose_number_was_given_anew_is_taken_over(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    planted(tmp_path, began=1)
    Lock.take(tmp_path, "digest").release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_owners_word_counts_on_a_mount_without_locks(tmp_path, monkeypatch, number):
    without_locks(monkeypatch, number)
    first = Lock.take(tmp_path, "digest")
    with pytest.raises(TakenError, match="is in use by process"):
        Lock.take(tmp_path, "digest")
    first.release()
    Lock.take(tmp_path, "digest").release()


def test_silent_owner_on_another_machine_is_dead(tmp_path):
    planted(tmp_path, age=2 * lock.SILENCE, **ELSEWHERE)
    assert owner_of(tmp_path) is None
    Lock.take(tmp_path, "digest").release()
    # It was heard of lately, but not any more.
    planted(tmp_path, **ELSEWHERE)
    assert owner_of(tmp_path).host == "node7"
    Lock.take(tmp_path, "digest").release()


def test_owner_on_another_machine_that_gives_signs_of_life_keeps_its_folder(tmp_path, monkeypatch):
    planted(tmp_path, **ELSEWHERE)
    beats = iter(range(1, 1000))
    monkeypatch.setattr(lock, "_touched", lambda path: time.time() + next(beats))
    with pytest.raises(TakenError, match=r"on 'node7', since .*; if that process is gone, remove"):
        Lock.take(tmp_path, "digest")


def test_sign_of_life_makes_a_lock_young(tmp_path):
    ours = Lock.take(tmp_path, "digest")
    os.utime(tmp_path / NAME, (1, 1))
    ours.beat()
    assert time.time() - (tmp_path / NAME).stat().st_mtime < lock.SILENCE
    (tmp_path / NAME).unlink()
    ours.beat()
    ours.release()


def test_link_in_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(PartError, match="a link is there; remove it"):
        Lock.take(tmp_path, "digest")
    assert (tmp_path / "mine").read_text() == "mine"


def test_forked_process_does_not_hold_a_lock_on(tmp_path):
    ours = Lock.take(tmp_path, "digest")
    fork = multiprocessing.get_context("fork")
    begun, end = fork.Event(), fork.Event()
    child = fork.Process(target=lambda: (begun.set(), end.wait(60)))
    child.start()
    assert begun.wait(60)
    os.close(ours._file)  # as when this process is killed
    lock._HELD.clear()
    Lock.take(tmp_path, "digest").release()
    end.set()
    child.join()
