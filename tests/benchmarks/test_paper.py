"""The page of the paper: verdicts follow from numbers, and the command runs and goes on."""

import re

import attrs
import pytest

from align.core.study import Findings, Point
from align.report.schema import ArmNumbers, RunResults, save
from benchmarks.paper import __main__ as command
from benchmarks.paper.evidence import Check, Evidence, Number, verdict
from benchmarks.paper.page import Section, as_html, as_markdown
from benchmarks.paper.rows import ROWS, near

pytestmark = pytest.mark.usefixtures("unpainted")


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        (Number(3.0, 0.3), Number(2.0, 0.3), "holds"),
        (Number(2.0, 0.3), Number(3.0, 0.3), "does not hold"),
        (Number(3.0, 0.4), Number(2.0, 0.4), "not decided"),
        (Number(3.0), Number(2.0, 0.1), "not decided"),
    ],
)
def test_a_number_is_greater_by_two_errors_of_the_difference(high, low, expected):
    assert Check.greater("", high, low).verdict == expected


def test_pairs_decide_by_their_interval():
    low = [0.0, 1.0, 5.0, 9.0]
    assert Check.paired("", [x + 1 for x in low], low).verdict == "holds"
    assert Check.paired("", low, [x + 1 for x in low]).verdict == "does not hold"
    assert Check.paired("", [1.0, 0.0, 9.0, 5.0], low).verdict == "not decided"
    assert Check.paired("", [1.0], [0.0]).verdict == "not decided"


def test_as_near_is_refused_beyond_two_errors():
    assert near("", Number(1.1, 0.1), Number(1.0, 0.1)).verdict == "holds"
    assert near("", Number(1.5, 0.1), Number(1.0, 0.1)).verdict == "does not hold"


def test_the_same_is_refused_on_either_side():
    assert near("", Number(1.1, 0.1), Number(1.0, 0.1), below=False).verdict == "holds"
    assert near("", Number(0.5, 0.1), Number(1.0, 0.1), below=False).verdict == "does not hold"


def test_a_claim_needs_every_statement_that_decides():
    yes, no, open_ = (Check("", "", v) for v in ("holds", "does not hold", "not decided"))
    assert verdict([yes, yes]) == "holds"
    assert verdict([yes, open_]) == "not decided"
    assert verdict([open_, no, yes]) == "does not hold"
    assert verdict([yes, attrs.evolve(no, decides=False)]) == "holds"
    assert verdict([]) == "not decided"


def study(folder, *values):
    """A run of a study with two points."""
    folder.mkdir()
    points = tuple(Point("", float(n), value) for n, value in enumerate(values, 1))
    arm = ArmNumbers(name="A", folder="samples/a", samples=0, findings=Findings("d", "NFE", points))
    save(folder, RunResults(arms=(arm,)))
    return folder


def test_the_error_of_a_study_is_what_its_seeds_differ_by(tmp_path):
    folders = [study(tmp_path / "a", 1.0, 10.0), study(tmp_path / "b", 1.2, 12.0)]
    runs = Evidence({"x": folders})
    share = 0.1 * 2**0.5 / 1.1  # the deviation of two numbers .2 apart, as a share of their mean
    assert runs.spread("x") == pytest.approx(share)
    first, second = runs.points("x", "A").values()
    assert (first.value, second.value) == (pytest.approx(1.1), pytest.approx(11.0))
    assert first.error == pytest.approx(share * 1.1 / 2**0.5)
    assert Evidence({"x": folders[:1]}).spread("x") is None


def test_every_row_has_recipes_and_its_own_name():
    assert len(ROWS) == len({row.name for row in ROWS}) == 13
    files = [file for row in ROWS for file in (*row.recipes.values(), *row.imagenet.values())]
    assert all((command.RECIPES / file).is_file() for file in files if file)
    assert all(set(row.imagenet) <= set(row.recipes) for row in ROWS)
    used = {file.partition("/")[2] for file in files if file.startswith("paper/")}
    assert used == {path.name for path in (command.RECIPES / "paper").glob("*.toml")}


def test_the_command_writes_a_page_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.paper.__main__.tempfile.TemporaryDirectory", Kept)
    words = ["--toy", "--only", "draws"]
    command.main(words)
    out, told = capsys.readouterr()
    assert re.search(r"^draws +(holds|does not hold|not decided)$", out, re.M)
    assert told.count(" into ") == 1
    page = (tmp_path / "runs" / "paper" / "report.html").read_text()
    assert "<h2 id='draws'>1. Posterior draws of one picture" in page
    assert "align run recipes/paper/posterior_draws.toml" in page
    command.main(words)
    assert " into " not in capsys.readouterr().err
    command.main(["--finished", "--only", "grid"])
    out, told = capsys.readouterr()
    assert " into " not in told
    assert "grid         no run: recipes/paper/grid.toml has not been run yet" in out


class Kept:
    """The working folder in place of one that is thrown away."""

    def __enter__(self):
        return "."

    def __exit__(self, *_):
        pass


def test_a_row_that_failed_says_why_on_both_pages(tmp_path):
    sections = [Section(ROWS[0], failure="no weights <here>")]
    assert "No verdict: no weights &lt;here&gt;" in as_html(sections, "x")
    text = as_markdown(sections, "x", tmp_path, "")
    assert "| **no run** |" in text
    assert "No verdict: no weights" in text
