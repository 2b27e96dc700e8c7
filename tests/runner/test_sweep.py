"""What arms of different weights are steered by, and what they are compared by."""

import json
import math

import pytest

from align.runner.session import run

pytestmark = pytest.mark.usefixtures("unpainted")

# A standard normal x and r = −(x − 1)²/2: p e^{λ r} has mean λ/(1 + λ) and variance 1/(1 + λ).
RECIPE = """
[run]
samples = 400
unsteered = 400
[model]
kind = "mixture"
weights = [1.0]
means = [[0.0]]
stds = [1.0]
[estimator]
kind = "exact"
[[reward]]
kind = "likelihood"
matrix = [[1.0]]
observed = [1.0]
std = 1.0
weight = 2.0
[mode]
kind = "steer"
steps = 100
[sweep]
"reward[0].weight" = [0.0, 1.0, 8.0]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "r.toml").write_text(RECIPE.replace("[run]", f'[run]\nout = "{folder / "out"}"'))
    return run(folder / "r.toml", progress=False)


def test_each_arm_samples_the_law_of_its_own_weight(done):
    for result, weight in zip(done.results, (0.0, 1.0, 8.0), strict=True):
        mean, std = weight / (1 + weight), 1 / math.sqrt(1 + weight)
        assert float(result.x1.mean()) == pytest.approx(mean, abs=4 * std / 20)
        assert float(result.x1.std()) == pytest.approx(std, rel=0.15)


def test_all_arms_are_compared_by_the_weight_of_the_recipe(done):
    numbers = json.loads((done.folder / "results.json").read_text())
    for result, arm in zip(done.results, numbers["arms"], strict=True):
        score = float(result.scores["likelihood"].mean())
        assert arm["divergence"]["reward"] == pytest.approx(2 * score, rel=1e-5)
    (base,) = numbers["unsteered"]
    assert base["r"] == pytest.approx([2 * score for score in base["scores"]["likelihood"]])
    assert [arm["factors"] for arm in numbers["arms"]] == [{"weight": w} for w in (0.0, 1.0, 8.0)]


def test_the_divergence_is_that_of_each_arms_own_law(done):
    for result, weight in zip(done.results, (0.0, 1.0, 8.0), strict=True):
        # KL of N(m, v) from N(0, 1).
        mean, variance = weight / (1 + weight), 1 / (1 + weight)
        exact = (variance + mean**2 - 1 - math.log(variance)) / 2
        gain = result.divergence
        assert gain.at_least == pytest.approx(exact, abs=4 * gain.at_least_error + 1e-6)
