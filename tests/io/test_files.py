"""A file is there whole, or not at all."""

import os
import resource
import stat
from contextlib import contextmanager

import pytest

from align.core.errors import PartError
from align.io.files import filling, replacing, write


@contextmanager
def small_disk():
    """As on a full disk, what a file has beyond 4 bytes cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_text_and_bytes_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write(path, "één")
    assert path.read_bytes() == "één".encode()
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file.txt"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    write(path, "old")
    with replacing(path) as file:
        file.write(b"n")
        file.flush()
        assert path.read_text() == "old"
        file.write(b"ew")
    assert path.read_text() == "new"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    write(tmp_path / "old", "1234")
    for name in ("old", "fresh"):
        with (
            small_disk(),
            pytest.raises(PartError, match="cannot be written: no file may be so large"),
        ):
            write(tmp_path / name, "123456")
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "1234"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_while_replacing_leaves_the_old_file(tmp_path, error):
    write(tmp_path / "old", "1234")
    with pytest.raises(error), replacing(tmp_path / "old") as file:
        file.write(b"12")
        raise error
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "1234"


def test_a_disk_that_fails_only_when_asked_to_keep(tmp_path, monkeypatch):
    def lost(_):
        raise OSError("Input/output error")

    write(tmp_path / "old", "1234")
    monkeypatch.setattr(os, "fsync", lost)
    with pytest.raises(PartError, match="cannot be written: Input/output"):
        write(tmp_path / "old", "56")
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "1234"


def test_the_content_is_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    write(path, "old")
    real = os.fsync

    def watched(number):
        place = os.fstat(number)
        seen.append((path.read_text(), "folder" if stat.S_ISDIR(place.st_mode) else place.st_size))
        real(number)

    monkeypatch.setattr(os, "fsync", watched)
    write(path, "newer")
    assert seen == [("old", 5), ("newer", "folder")]


def test_a_folder_is_there_once_it_is_full(tmp_path):
    folder = tmp_path / "a" / "b"
    with filling(folder) as beside:
        write(beside / "one", "1")
        assert not folder.exists()
    assert names(folder) == ["one"]
    assert names(folder.parent) == ["b"]


def test_a_folder_that_could_not_be_filled_leaves_nothing(tmp_path):
    folder = tmp_path / "b"
    with pytest.raises(KeyboardInterrupt), filling(folder) as beside:
        write(beside / "one", "1")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_partial_file_of_a_killed_process_is_removed(tmp_path):
    folder = tmp_path / "b"
    write(tmp_path / "b.part" / "old", "1")
    with filling(folder) as beside:
        write(beside / "new", "2")
    assert names(folder) == ["new"]
