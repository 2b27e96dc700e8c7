"""Recipes that are run from end to end, at a tiny size."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from align.registry import load_catalog
from align.runner import run

pytest.importorskip("align_pocket")

ROOT = Path(__file__).parents[1]
INVERSE = sorted(path for path in ROOT.glob("recipes/inverse/*.toml") if path.stem != "known")


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
    sets = ["run.samples=2", "mode.steps=2", "compare[0].mode.flow_steps=2"]
    done = go(path, *sets, "compare[3].estimator.draws=2", "compare[2].mode.particles=2")
    names = [side.name for side in done.sides]
    assert names[:2] == ["unsteered", "DPS"]
    for side in done.sides:
        assert side.scores["measurement"].shape == side.scores["psnr"].shape == (2,)
        assert side.data.shape == (2, 3, 28, 28)
    given = sorted((done.folder / "given").iterdir())
    assert [p.name for p in given] == ["0_known_picture.png", "1_measurement.png"]
    known = levels(ROOT / "recipes" / "inverse" / "known.png")
    assert np.array_equal(levels(given[0]), known)
    # What is measured is neither the picture itself nor something else.
    distance = np.abs(levels(given[1]).astype(float) - known).mean() / 255
    assert 0.05 < distance < 0.3
    rewards = json.loads((done.folder / "results.json").read_text())["rewards"]
    assert [rewards[n]["held_out"] for n in ("measurement", "psnr")] == [False, True]
    assert levels(done.folder / "grid.png").shape[1] == 6 + (1 + len(names)) * (28 * 4 + 6)


def test_the_known_picture_is_what_its_recipe_makes(go):
    # Six Euler steps are enough to see which animal it is, and on which side its trunk is.
    done = go(ROOT / "recipes" / "inverse" / "known.toml", "mode.flow_steps=6")
    known = levels(ROOT / "recipes" / "inverse" / "known.png")
    made = done.sides[0].data.mul(255).permute(0, 2, 3, 1).numpy()
    distance = np.abs(made - known).mean((1, 2, 3))
    assert distance.argmin() == 5


def test_two_measurements_are_shown_by_name(go):
    known = '{ kind = "measurement", picture = "recipes/inverse/known.png", std = 0.2, '
    terms = ('name = "left", operator = { kind = "inpaint", box = [0, 0, 28, 14] } }',
             'name = "right", operator = { kind = "inpaint", box = [0, 14, 28, 28] } }')  # fmt: skip
    sets = [f"reward=[{', '.join(known + term for term in terms)}]", "compare=[]"]
    mode = 'mode={ kind = "best_of_n", n = 1, flow_steps = 1 }'
    done = go(INVERSE[0], *sets, mode, "run.samples=1")
    assert sorted(p.name for p in (done.folder / "given").iterdir()) == [
        "0_known_picture.png", "1_measurement.png",
        "2_known_picture_right.png", "3_measurement_right.png",
    ]  # fmt: skip
