"""What `align cache` lists and removes."""

import json
import os
import sqlite3
from contextlib import closing

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save

from align.cli.main import main
from align.io.cache import Cache

KEYS = [digit * 64 for digit in "ab"]
FACTS = {
    "model": "pocket",
    "prompt": "A silhouette of a cat.",
    "count": 64,
    "flow_steps": 50,
    "seed": 3,
    "drawn": "2026-11-30 13:40 UTC",
    "recipe": "/home/me/cat.toml",
}


def file(**facts):
    return save({"x": torch.zeros(10)}, {"about": json.dumps(facts)})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path))
    monkeypatch.setenv("ALIGN_CACHE_GB", "2")
    return Cache(tmp_path / "unsteered", 10**9)


def lines(*arguments, code=0):
    result = CliRunner().invoke(main, ["cache", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout.splitlines() if code == 0 else result.stderr.splitlines()


def test_list_says_what_is_kept_how_large_when_and_for_which_recipe(cache):
    cache.write(KEYS[0], "states.safetensors", file(**FACTS))
    for name in ("cat", "aesthetic"):
        cache.write(KEYS[0], f"{name}.safetensors", file(reward=name))
    os.utime(cache.folder / KEYS[0] / "states.safetensors", (2e9, 2e9))
    assert lines() == [
        f"{cache.folder}: 1 set of unsteered samples, 0.6 kB; at most 2.00 GB (ALIGN_CACHE_GB)",
        "",
        "64 of 'pocket', 'A silhouette of a cat.', 50 steps, seed 3",
        "  scored by aesthetic, cat; 0.6 kB",
        "  drawn 2026-11-30 13:40 UTC for /home/me/cat.toml; last used 2033-05-18",
    ]


def test_list_shows_damaged_entries_too(cache):
    cache.write(KEYS[0], "states.safetensors", b"damaged")
    (line,) = lines()[2:]
    assert line.startswith("aaaaaaaaaaaa: damaged or unfinished; 0.0 kB, last used 20")


def test_list_escapes_what_a_terminal_would_obey(cache):
    cache.write(KEYS[0], "states.safetensors", file(**{**FACTS, "recipe": "/x\x1b[31m"}))
    assert "\x1b" not in "".join(lines())


def test_list_of_nothing_and_of_no_room(cache, monkeypatch):
    (line,) = lines()
    assert line == f"{cache.folder}: 0 sets of unsteered samples, 0.0 kB; at most 2.00 GB" + (
        " (ALIGN_CACHE_GB)"
    )
    monkeypatch.setenv("ALIGN_CACHE_GB", "0")
    assert lines()[0].endswith("ALIGN_CACHE_GB is 0: it is off")
    monkeypatch.setenv("ALIGN_CACHE_GB", "x")
    (line,) = lines(code=1)
    assert line.startswith("ALIGN_CACHE_GB is 'x'; set it to")


def test_clear_removes_all_and_says_how_much(cache):
    for key in KEYS:
        cache.write(key, "states.safetensors", file(**FACTS))
    size = sum(path.stat().st_size for path in cache.folder.rglob("*.safetensors"))
    assert lines("--clear") == [f"{cache.folder}: {size / 1e3:.1f} kB are free again"]
    assert cache.entries() == []
    assert lines("--clear") == [f"{cache.folder}: 0.0 kB are free again"]


def test_references_of_metrics_are_listed_and_removed_too(cache):
    references = Cache(cache.folder.with_name("references"), 10**9)
    references.write(KEYS[0], "reference.safetensors", file())
    assert lines()[1:] == [
        "",
        f"{references.folder}: 1 set of references of metrics, 0.1 kB",
    ]
    assert lines("--clear")[1] == f"{references.folder}: 0.1 kB are free again"
    assert not references.entries()
    assert len(lines()) == 1


def test_answers_of_judges_are_counted_and_removed_too(cache):
    folder = cache.folder.with_name("judges")
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "answers.sqlite")) as disk:
        disk.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, value REAL)")
        disk.executemany("INSERT INTO answers VALUES (?, ?)", [(b"a", 1.0), (b"b", 2.0)])
        disk.commit()
    size = lines()[-1].rpartition(", ")[2]
    assert lines()[1:] == ["", f"{folder}: 2 answers of judges, {size}"]
    assert lines("--clear")[-1] == f"{folder}: {size} are free again"
    assert len(lines()) == 1
    (folder / "answers.sqlite").write_bytes(b"no database at all, however long it may be" * 9)
    assert lines()[-1] == f"{folder}: damaged answers of judges, 0.4 kB"
