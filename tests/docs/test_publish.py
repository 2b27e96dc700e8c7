"""docs/publish.py: a folder a version, and a first page that leads to the newest."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "publish.py"


@pytest.fixture
def publish():
    spec = importlib.util.spec_from_file_location("publish", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.publish


def test_first_page_leads_to_the_newest_version_and_old_ones_stay(publish, tmp_path):
    build, site = tmp_path / "build", tmp_path / "site"
    build.mkdir()
    site.mkdir()
    (build / "index.html").write_text("one")
    assert publish(build, site, "latest") == ["latest"]
    assert "url=latest/" in (site / "index.html").read_text()
    for version in ("v1.9.0", "v1.10.0", "v1.2.0"):
        publish(build, site, version)
    (build / "index.html").write_text("two")
    assert publish(build, site, "latest") == ["v1.10.0", "v1.9.0", "v1.2.0", "latest"]
    assert "url=v1.10.0/" in (site / "index.html").read_text()
    assert (site / "latest" / "index.html").read_text() == "two"
    assert (site / "v1.2.0" / "index.html").read_text() == "one"
    assert (site / "versions.html").read_text().count("<li>") == 4


@pytest.mark.parametrize("version", ["1.2.0", "v1.2", "main", "../elsewhere"])
def test_what_is_no_version_is_refused(publish, tmp_path, version):
    with pytest.raises(SystemExit, match="is no version"):
        publish(tmp_path, tmp_path, version)
