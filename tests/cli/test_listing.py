"""The listing of parts that is kept from one command to the next, and when it is made anew."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from align.catalog import registry
from align.cli import listing
from align.cli.main import main

PLUGIN = textwrap.dedent(
    '''
    from importlib.resources import files
    from typing import ClassVar

    import attrs

    from align import Metric, hookimpl, option

    @attrs.frozen(kw_only=True)
    class Listed(Metric):
        """Measures nothing."""

        kind: ClassVar[str] = "listed"
        domain = None
        needs_references = False
        size: int = option(files(__package__).joinpath("help.txt").read_text(), default=3)

        def compute(self, samples, references):
            return {}

    @hookimpl
    def align_metrics():
        return [Listed]
    '''
)
METADATA = "Metadata-Version: 2.1\nName: align-listed\nVersion: {}\n"


def shown(*arguments):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The folder of an installed plugin, all of whose files are an hour old."""
    package, info = tmp_path / "align_listed", tmp_path / "align_listed-1.0.dist-info"
    for path, text in (
        (package / "__init__.py", PLUGIN),
        (package / "help.txt", "how large it is"),
        (info / "METADATA", METADATA.format("1.0")),
        (info / "entry_points.txt", "[align]\nlisted = align_listed\n"),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        age(path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("align_listed", None)


def age(path, hours=1):
    then = path.stat().st_mtime - 3600 * hours
    os.utime(path, (then, then))


@pytest.fixture
def asked(tmp_path_factory, monkeypatch):
    """How often plugins were asked for their parts; nothing is kept yet."""
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path_factory.mktemp("kept")))
    times, load = [], registry.load_catalog
    monkeypatch.setattr(registry, "load_catalog", lambda: times.append(1) or load())
    # However new the files of a fresh checkout are; one test below shows what the wait is for.
    monkeypatch.setattr(listing, "_SETTLED", -1e9)
    return times


def kept():
    (path,) = Path(os.environ["ALIGN_CACHE"]).glob("parts/*")
    return path


def test_kept_listing_says_all_that_the_plugins_say(plugin, asked):
    first = shown("list"), shown("show", "listed"), shown("show", "distill")
    assert len(asked) == 1
    assert first == (shown("list"), shown("show", "listed"), shown("show", "distill"))
    assert len(asked) == 1
    assert "  listed" in first[0]
    assert "Measures nothing." in first[0]
    assert "how large it is" in first[1]
    catalog = registry.load_catalog()
    expected = [(c, kind) for c, named in catalog.parts.items() for kind in sorted(named)]
    assert [(part.contract, part.kind) for part in listing.read_listing().parts] == expected


def test_kept_listing_is_read_without_torch(asked):
    expected = shown("list") + shown("show", "steer")
    code = (
        "import sys\nfrom align.cli.main import main\n"
        "for arguments in ['list'], ['show', 'steer']:\n"
        "    main(arguments, standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'attr', 'cattrs', 'PIL', 'pluggy', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected


def edited(folder):
    (folder / "align_listed" / "__init__.py").write_text(PLUGIN.replace("nothing", "all"))


def touched(folder):
    age(folder / "align_listed" / "__init__.py")


def grown(folder):
    path = folder / "align_listed" / "help.txt"
    then = path.stat().st_mtime_ns
    path.write_text("how large")
    os.utime(path, ns=(then, then))


def renamed(folder):
    (folder / "align_listed-1.0.dist-info" / "METADATA").write_text(METADATA.format("1.1"))


def removed(folder):
    (folder / "align_listed" / "help.txt").unlink()


def uninstalled(folder):
    (folder / "align_listed-1.0.dist-info" / "entry_points.txt").unlink()


def installed(folder):
    info = folder / "align_other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA.format("1.0").replace("listed", "other"))
    (info / "entry_points.txt").write_text("[align]\nother = align_other\n")


def cut(folder):
    kept().write_bytes(kept().read_bytes()[:-100])


def falsified(folder):
    kept().write_text(kept().read_text().replace("Measures nothing", "Measures all"))


def emptied(folder):
    kept().write_text("")


def scrambled(folder):
    kept().write_bytes(b"\xff\x00")


CHANGES = edited, touched, grown, renamed, removed, uninstalled, installed
DAMAGES = cut, falsified, emptied, scrambled


@pytest.mark.parametrize("change", [*CHANGES, *DAMAGES])
def test_listing_is_made_anew_after_a_change(plugin, asked, change):
    listing.read_listing()
    change(plugin)
    listing.read_listing()
    assert len(asked) == 2


def test_listing_is_not_kept_where_a_file_has_just_been_changed(plugin, asked, monkeypatch):
    monkeypatch.setattr(listing, "_SETTLED", 10.0)
    edited(plugin)
    for _ in range(2):
        listing.read_listing()
    assert len(asked) == 2


def test_listing_with_a_plugin_that_does_not_load_is_not_kept(plugin, asked):
    (plugin / "align_listed" / "__init__.py").write_text("import nothing_of_this_name")
    for _ in range(2):
        assert "did not load" in shown("list")
    assert len(asked) == 2


def test_listing_with_options_that_cannot_be_read_is_not_kept(plugin, asked):
    path = plugin / "align_listed" / "__init__.py"
    path.write_text(PLUGIN.replace("default=3", "default=attrs.Factory(lambda: 1 // 0)"))
    for _ in range(2):
        assert "its options cannot be read" in shown("show", "listed")
    assert "Measures nothing" in shown("list")
    assert len(asked) == 3


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/none"])
def test_listing_is_shown_where_it_cannot_be_kept(asked, monkeypatch, place):
    monkeypatch.setenv("ALIGN_CACHE", place)
    assert "steer" in shown("list")


def test_shells_complete_kinds(asked):
    completion = BashComplete(main, {}, "align", "_ALIGN_COMPLETE")
    words = [item.value for item in completion.get_completions(["show"], "ste")]
    assert words == ["steer", "stein"]
    assert len(asked) == 1
