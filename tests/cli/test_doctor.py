"""What `align doctor` finds, and when it fails."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from align.catalog.registry import BrokenPlugin, Origin, load_catalog
from align.cli import doctor
from align.cli.main import main


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def well(monkeypatch, catalog):
    """A machine where nothing is missing; says how to break it."""
    names = SimpleNamespace(missing=set(), requirements={}, catalog=catalog)
    monkeypatch.setattr("align.catalog.registry.load_catalog", lambda: names.catalog)
    monkeypatch.setattr(doctor, "_is_here", lambda package: package not in names.missing)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: names.requirements.get(name))
    return names


def asked(**env):
    result = CliRunner(env={"COLUMNS": "80", **env}).invoke(main, ["doctor"])
    return result.exit_code, " ".join(result.stdout.split())


def test_machine_where_all_is_well(well, tmp_path):
    code, text = asked(ALIGN_CACHE=str(tmp_path), ALIGN_CACHE_GB="4")
    assert code == 0
    assert text.endswith("missing packages: none All is well.")
    for name in ("python 3.", "torch ", "threads ", "memory ", "recipes ", f"in {tmp_path}"):
        assert name in text
    assert "model pocket, reward silhouette_class" in text


def test_package_that_a_plugin_needs_is_broken_and_one_of_an_extra_is_not(well):
    well.missing = {"peft", "attrs", "numpy"}
    well.requirements["align-core"] = [
        "peft>=0.13; extra == 'lora'",
        "peft>=0.13; extra == 'test'",
        "numpy>=1; python_version < '3'",
        "attrs>=23.2",
    ]
    well.requirements["align-pocket"] = ["attrs", "torch"]
    code, text = asked()
    assert code == 1
    assert "peft for 'lora' of align-core: pip install 'align-core[lora]'" in text
    assert "attrs BROKEN: needed by align-core, align-pocket: pip install attrs" in text
    assert "'test'" not in text
    assert "numpy" not in text
    assert text.endswith("broken: attrs")


def test_plugin_that_does_not_load_is_broken(well, catalog):
    lost = BrokenPlugin(Origin("lost", "align-lost", "1.0"), ImportError("no module lost"))
    well.catalog = SimpleNamespace(parts=catalog.parts, broken=(lost,))
    code, text = asked()
    assert code == 1
    assert "align-lost 1.0 BROKEN: ImportError: no module lost" in text


def test_catalog_that_cannot_be_made_is_told(well, monkeypatch):
    def fails():
        raise OSError("libtorch.so is damaged")

    monkeypatch.setattr("align.catalog.registry.load_catalog", fails)
    code, text = asked()
    assert code == 1
    assert "BROKEN: cannot be looked for: OSError: libtorch.so is damaged" in text


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"ALIGN_CACHE_GB": "many"}, "cache BROKEN: ALIGN_CACHE_GB is 'many'"),
        ({"ALIGN_CACHE_GB": "0"}, "cache off: ALIGN_CACHE_GB is 0"),
        (
            {"ALIGN_CACHE": "/dev/null/x", "ALIGN_CACHE_GB": "4"},
            "cannot be written; set ALIGN_CACHE",
        ),
    ],
)
def test_cache_that_cannot_be_used_is_told(well, env, said):
    code, text = asked(**env)
    assert said in text
    assert code == ("BROKEN" in said or "cannot" in said)
