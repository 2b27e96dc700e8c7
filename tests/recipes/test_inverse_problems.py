"""The recipes of inverse problems: what they measure, and that it is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from align.catalog.registry import load_catalog
from align.runner.session import run

pytestmark = pytest.mark.usefixtures("unpainted")
ROOT = Path(__file__).parents[2]
INVERSE = sorted(path for path in ROOT.glob("recipes/inverse/*.toml") if path.stem != "known")
PLAIN = ("compare=[]", 'mode={ kind = "best_of_n", n = 1, flow_steps = 2 }')


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def go(catalog, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # the picture's path begins there

    def gone(path, *sets):
        sets = [*sets, f'run.out="{tmp_path / "out"}"', 'run.device="cpu"']
        return run(path, sets=sets, progress=False, catalog=catalog)

    return gone


def levels(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("path", INVERSE, ids=[path.stem for path in INVERSE])
def test_inverse_problems(path, go):
    done = go(path, *PLAIN, "run.samples=2")
    (result,) = done.results
    assert result.scores["measurement"].shape == result.scores["psnr"].shape == (2,)
    given = sorted((done.folder / "given").iterdir())
    assert [p.name for p in given] == ["0_known_picture.png", "1_measurement.png"]
    known = levels(ROOT / "recipes" / "inverse" / "known.png")
    assert np.array_equal(levels(given[0]), known)
    # What is measured is neither the picture itself nor something else.
    distance = np.abs(levels(given[1]).astype(float) - known).mean() / 255
    assert 0.05 < distance < 0.3
    rewards = json.loads((done.folder / "results.json").read_text())["rewards"]
    assert [rewards[n]["held_out"] for n in ("measurement", "psnr")] == [False, True]
    assert levels(done.folder / "grid.png").shape[1] == 6 + 2 * (28 * 6 + 6)


def test_the_known_picture_is_what_its_recipe_makes(go):
    # Six Euler steps are enough to see which animal it is, and on which side its trunk is.
    done = go(ROOT / "recipes" / "inverse" / "known.toml", "mode.flow_steps=6")
    known = levels(ROOT / "recipes" / "inverse" / "known.png")
    made = done.results[0].data.mul(255).permute(0, 2, 3, 1).numpy()
    distance = np.abs(made - known).mean((1, 2, 3))
    assert distance.argmin() == 5


def test_two_measurements_are_shown_by_name(go):
    term = (
        '{{ kind = "measurement", picture = "recipes/inverse/known.png", std = 0.2, name = "{}",'
        ' operator = {{ kind = "inpaint", box = [0, {}, 28, {}] }} }}'
    )
    sets = [f"reward=[{term.format('left', 0, 14)}, {term.format('right', 14, 28)}]"]
    done = go(INVERSE[0], *PLAIN, *sets, "run.samples=1")
    assert sorted(p.name for p in (done.folder / "given").iterdir()) == [
        "0_known_picture.png",
        "1_measurement.png",
        "2_known_picture_right.png",
        "3_measurement_right.png",
    ]
