"""Pages that go from a file to a result: their files run, and their parts pass their tests."""

import re
from pathlib import Path

import pytest

from align.runner.session import run

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.usefixtures("unpainted")


def files(page):
    """The files that a page shows, by name."""
    text = (DOCS / page).read_text()
    return dict(re.findall(r"^```(?:python|toml)\n# (\w+\.\w+)\n(.*?)^```", text, re.M | re.S))


def write(folder, page):
    for name, text in files(page).items():
        (folder / name).write_text(text)
    return folder


def test_first_ten_minutes_end_in_darker_pictures_judged_by_another(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, "start/first_ten_minutes.md"))
    sets = ["run.samples=2", "run.unsteered=0", "mode.steps=6", "estimator.draws=1"]
    plain, steered = run("dark.toml", sets=sets, progress=False).results
    assert (plain.name, steered.name) == ("unsteered", "steered")
    assert steered.scores["darkness"].mean() > plain.scores["darkness"].mean()
    assert "is a dog" in steered.scores


def test_a_map_of_the_page_is_trained_and_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, "how_to/train_a_map.md"))
    run("line_map.toml", sets=["mode.steps=2", "mode.optimisation.batch=8"], progress=False)
    sets = ["run.samples=32", "mode.inner_steps=[1, 2]", "mode.times=[0.3]"]
    result = run("line_study.toml", sets=sets, progress=False)
    assert [arm.name for arm in result.results] == ["map", "GLASS"]
    assert (result.folder / "study.md").exists()


@pytest.mark.parametrize("page", ["how_to/sampler.md", "how_to/loss.md"])
def test_the_part_of_a_page_passes_the_test_beside_it(page, tmp_path, forked_pytest):
    done = forked_pytest(write(tmp_path, page))
    assert done.ended() == 0, done.stdout
    assert "1 xfailed" in done.stdout
