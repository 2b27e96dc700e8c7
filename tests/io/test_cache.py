"""Files that are kept from run to run: they are there whole or not at all, and never too many."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from align.core.errors import PartError
from align.io import cache as module
from align.io.cache import Cache, header, room

KEYS = [digit * 64 for digit in "abc"]


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", 1000)


def file(size=100):
    return save({"x": torch.zeros(size, dtype=torch.uint8)}, {"about": json.dumps({"n": size})})


@pytest.mark.parametrize(
    ("text", "size"), [(None, 4_000_000_000), ("", 4_000_000_000), ("0.5", 500_000_000), ("0", 0)]
)
def test_room_is_what_the_variable_says(monkeypatch, text, size):
    monkeypatch.delenv("ALIGN_CACHE_GB", raising=False)
    if text is not None:
        monkeypatch.setenv("ALIGN_CACHE_GB", text)
    assert room() == size


@pytest.mark.parametrize("text", ["4 GB", "-1", "nan", "inf"])
def test_room_that_is_no_number_says_what_to_set(monkeypatch, text):
    monkeypatch.setenv("ALIGN_CACHE_GB", text)
    with pytest.raises(PartError, match=f"ALIGN_CACHE_GB is '{text}'; set it to the gigabytes"):
        room()


def test_cache_of_a_user_is_where_caches_lie_and_none_without_room(monkeypatch, tmp_path):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path))
    monkeypatch.setenv("ALIGN_CACHE_GB", "1")
    assert Cache.of_user() == Cache(tmp_path / "unsteered", 1_000_000_000)
    monkeypatch.setenv("ALIGN_CACHE_GB", "0")
    assert Cache.of_user() is None


def test_what_is_written_is_read_and_says_what_it_is(cache):
    assert cache.read(KEYS[0], "x.safetensors") is None
    cache.write(KEYS[0], "x.safetensors", file())
    assert cache.read(KEYS[0], "x.safetensors") == file()
    (entry,) = cache.entries()
    assert (entry.folder.name, entry.size) == (KEYS[0], len(file()))
    assert entry.headers() == {"x": {"n": 100}}
    cache.discard(KEYS[0], "x.safetensors")
    assert cache.read(KEYS[0], "x.safetensors") is None


def test_entries_that_nobody_used_go_first_where_there_is_no_room(cache):
    for age, key in enumerate(KEYS):
        cache.write(key, "x.safetensors", file(300))
        path = cache.folder / key / "x.safetensors"
        os.utime(path, (1000 + age, 1000 + age))
    cache.read(KEYS[0], "x.safetensors")
    cache.make_room(KEYS[2])
    assert {entry.folder.name for entry in cache.entries()} == {KEYS[0], KEYS[2]}
    small = Cache(cache.folder, 500)
    small.make_room(KEYS[2])
    assert [entry.folder.name for entry in small.entries()] == [KEYS[2]]


def test_file_larger_than_the_room_is_refused_and_leaves_nothing(cache):
    with pytest.raises(PartError, match=r"takes 2\.1 kB, and the cache may take 1\.0 kB; raise"):
        cache.write(KEYS[0], "x.safetensors", file(2000))
    assert not cache.folder.exists()


def test_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "cache").write_text("a file")
    cache = Cache(tmp_path / "cache", 1000)
    with pytest.raises(
        PartError,
        match=r"cache' cannot be written: a file is where a folder should be; move it away",
    ):
        cache.write(KEYS[0], "x.safetensors", file())
    assert cache.read(KEYS[0], "x.safetensors") is None
    assert cache.entries() == []


def test_full_disk_leaves_no_entry_behind(cache, monkeypatch):
    write = Path.write_bytes

    def full(self, content):
        write(self, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PartError, match="the disk is full: it takes"):
        cache.write(KEYS[0], "x.safetensors", file())
    assert list(cache.folder.iterdir()) == []


def test_many_writers_and_a_reader_see_whole_files_alone(cache):
    contents, seen = {file(size) for size in range(100, 120)}, set()

    def write(content):
        for _ in range(5):
            cache.write(KEYS[0], "x.safetensors", content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen.add(cache.read(KEYS[0], "x.safetensors"))
    assert seen <= contents | {None}
    assert [path.name for path in (cache.folder / KEYS[0]).iterdir()] == ["x.safetensors"]


def test_clearing_removes_entries_and_nothing_else(cache):
    cache.write(KEYS[0], "x.safetensors", file())
    others = [cache.folder / "mine.txt", cache.folder / "folder" / "mine.txt"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (cache.folder / KEYS[1]).symlink_to(cache.folder / "folder")
    assert cache.clear() == len(file())
    assert cache.entries() == []
    assert all(path.read_text() == "mine" for path in others)


def test_unfinished_files_of_killed_processes_are_removed_once_they_are_old(cache):
    cache.write(KEYS[0], "x.safetensors", file())
    old, new = (cache.folder / KEYS[0] / name for name in ("1.new", "2.new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    assert cache.entries()[0].size == len(file())
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, file()[:30], b"\x02" + 7 * b"\0" + b"{}"])
def test_header_of_a_damaged_file_is_empty(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    assert header(tmp_path / "x.safetensors") == {}


class Digested:
    """A cache whose reading of files is counted, and a file that counts as big."""

    def __init__(self, folder, monkeypatch):
        self.cache, self.path, self.reads = Cache(folder / "cache", 1000), folder / "big", 0
        monkeypatch.setattr(module, "_BIG", 10)
        monkeypatch.setattr(module, "_SETTLED", -1.0)
        digest = module.files.digest

        def counted(path):
            self.reads += 1
            return digest(path)

        monkeypatch.setattr(module.files, "digest", counted)
        self.path.write_bytes(b"a" * 20)

    def digest(self):
        return self.cache.digest(self.path)


@pytest.fixture
def digested(tmp_path, monkeypatch):
    return Digested(tmp_path, monkeypatch)


def test_digest_of_a_big_file_is_remembered(digested):
    first = digested.digest()
    assert (digested.digest(), digested.reads) == (first, 1)


def rewritten(path):
    path.write_bytes(b"b" * 20)


def replaced_with_its_times(path):
    status, other = path.stat(), path.with_name("other")
    other.write_bytes(b"b" * 20)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def rewritten_with_its_times(path):
    status = path.stat()
    path.write_bytes(b"b" * 20)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [rewritten, replaced_with_its_times, rewritten_with_its_times])
def test_digest_of_a_changed_file_is_another(digested, change):
    first = digested.digest()
    change(digested.path)
    assert digested.digest() != first
    assert digested.digest() == module.files.digest(digested.path)


def test_digest_of_a_file_that_has_just_changed_is_not_remembered(digested, monkeypatch):
    monkeypatch.setattr(module, "_SETTLED", 1000.0)
    digested.digest()
    digested.digest()
    assert digested.reads == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_damaged_memory_of_digests_is_made_anew(digested, content):
    first = digested.digest()
    memory = digested.cache.folder / "digests.json"
    memory.write_text(content)
    assert (digested.digest(), digested.digest(), digested.reads) == (first, first, 2)


def test_digest_is_known_where_nothing_can_be_remembered(digested):
    digested.cache.folder.write_text("a file")
    assert digested.digest() == module.files.digest(Path(digested.path))
