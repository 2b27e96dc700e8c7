"""Where caches lie."""

from pathlib import Path

import pytest

from align.io.cache_dir import cache_dir


@pytest.fixture
def variables(monkeypatch):
    """Set these variables, and no others that say where caches lie."""

    def set_to(**values):
        for name in ("ALIGN_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ALIGN_CACHE": "/fast/a", "XDG_CACHE_HOME": "/x", "HOME": "/home/me"}, "/fast/a/parts"),
        ({"ALIGN_CACHE": "~/a", "HOME": "/home/me"}, "/home/me/a/parts"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/home/me"}, "/x/align/parts"),
        ({"ALIGN_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/align/parts"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/align/parts"),
        ({"HOME": "/home/me"}, "/home/me/.cache/align/parts"),
    ],
)
def test_cache_dir_is_named_by_the_first_variable_that_says_it(variables, values, expected):
    variables(**values)
    assert cache_dir("parts") == Path(expected)


def test_relative_cache_dir_starts_at_the_working_directory(variables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variables(ALIGN_CACHE="caches")
    assert cache_dir("parts") == tmp_path / "caches" / "parts"


def test_cache_dir_without_a_home_says_what_to_set(variables, monkeypatch):
    def unknown(self):
        raise RuntimeError("Could not determine home directory.")

    variables()
    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.setattr(Path, "home", lambda: unknown(None))
    with pytest.raises(OSError, match="set ALIGN_CACHE"):
        cache_dir("parts")


def test_tests_keep_their_caches_to_themselves(tmp_path_factory):
    assert tmp_path_factory.getbasetemp() in cache_dir("parts").parents
