"""A distribution with models of its own, installed for a test."""

import sys
from importlib import metadata
from pathlib import Path

import pytest


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The module `align_words`, as if its distribution were installed; a call uninstalls it."""
    info = tmp_path / "site" / "align_words-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: align-words\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[align]\nwords = align_words\n")
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.syspath_prepend(Path(__file__).parent / "outside")
    monkeypatch.delitem(sys.modules, "align_words", raising=False)
    import align_words

    assert metadata.version("align-words") == "1.2"
    yield align_words
    sys.modules.pop("align_words", None)
