"""Numbers beyond memory or time."""

from pathlib import Path

import pytest

from align.catalog.registry import load_catalog
from align.core.errors import RecipeError
from align.engine.memory import available
from align.recipe import load
from align.recipe.sizes import Need

STEER = """\
[run]
samples = 4
[model]
kind = "mixture"
weights = [1.0]
means = [[0.0, 1.0]]
stds = [1.0]
[sampler]
kind = "mfm"
[estimator]
kind = "gradient"
draws = 2
[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.0]]
observed = [1.0]
std = 1.0
[mode]
kind = "steer"
"""
DISTILL = """\
[model]
kind = "mixture"
weights = [1.0]
means = [[0.0, 1.0]]
stds = [1.0]
[mode]
kind = "distill"
net = { kind = "mlp", width = 8, depth = 1 }
"""


RENOISE = STEER.replace('"mfm"', '"renoise"').replace('"gradient"', '"stein"')
BEST = (
    DISTILL.replace('distill"\nnet = { kind = "mlp", width = 8, depth = 1 }', 'best_of_n"')
    + (STEER[STEER.index("[[reward]]") : STEER.index("[mode]")])
)
FINETUNE = BEST.replace("best_of_n", "finetune") + '[sampler]\nkind = "mfm"\n'
FINETUNE += '[mode.net]\nkind = "mlp"\n'
OBJECTIVE = FINETUNE + '[mode.objective]\nkind = "gradient"\n'
DRAFT = FINETUNE + '[mode.objective]\nkind = "draft"\n'
VALUES = BEST.replace("best_of_n", "value_correlation") + '[sampler]\nkind = "mfm"\n'
PATHS = VALUES.replace("value_correlation", "path_search")
AUTOENCODE = """\
[mode]
kind = "autoencode"
data = { kind = "pictures", path = "." }
"""
HUGE = 10**10


@pytest.fixture(scope="module")
def catalog():
    return load_catalog([])


@pytest.mark.parametrize(
    ("text", "setting", "line", "words"),
    [
        (STEER, "run.samples", 2, "need at least"),
        (STEER, "run.unsteered", 1, "need at least"),
        (STEER, "estimator.draws", 12, "need at least"),
        (STEER, "mode.particles", 18, "need at least"),
        (STEER, "mode.steps", 18, "need at least"),
        (PATHS, "mode.ways", 6, "ways need at least"),
        (DISTILL, "mode.optimisation.batch", 6, "rows of a batch need at least"),
        (DISTILL, "mode.net.width", 8, "weights of 'mlp' need at least"),
        (DISTILL, "mode.net.depth", 8, "weights of 'mlp' need at least"),
        (DISTILL, "mode.steps", 6, "12 days at least; use fewer"),
        (STEER, "sampler.steps", 9, "steps take"),
        (RENOISE, "sampler.candidates", 9, "candidates need at least"),
        (STEER, "mode.dynamics.inner_steps", 18, "inner steps take"),
        (BEST, "mode.n", 6, "candidates take"),
        (BEST, "mode.flow_steps", 6, "steps take"),
        (BEST, "mode.dynamics.inner_steps", 6, "inner steps take"),
        (OBJECTIVE, "mode.objective.draws", 6, "draws need at least"),
        (FINETUNE, "mode.evaluation.samples", 6, "samples need at least"),
        (FINETUNE, "mode.evaluation.flow_steps", 6, "steps take"),
        (FINETUNE, "mode.flow_steps", 6, "steps take"),
        (FINETUNE, "mode.pool", 6, "samples of a pool need at least"),
        (FINETUNE, "mode.net.width", 15, "weights of 'mlp' need at least"),
        (DRAFT, "mode.objective.flow_steps", 6, "steps take"),
        (AUTOENCODE, "mode.net.width", 1, "weights of 'upsample' need at least"),
        (AUTOENCODE, "mode.net.levels", 1, "weights of 'upsample' need at least"),
        (AUTOENCODE, "mode.data.size", 2, "pixels a side need at least"),
        (VALUES, "mode.rollout_steps", 6, "rollout steps take"),
        (VALUES, "mode.draws", 6, "draws need at least"),
        (VALUES, "mode.particles", 6, "particles need at least"),
    ],
)
def test_number_beyond_memory_or_time_is_refused(
    text, setting, line, words, catalog, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train" / "a").mkdir(parents=True)
    file = tmp_path / "r.toml"
    file.write_text(text)
    sets = ['mode.dynamics="glass"'] if "inner_steps" in setting else []
    sets += ['mode.dynamics="ddpm"'] if "particles" in setting and text == STEER else []
    sets += [f"{setting}={HUGE}"]
    with pytest.raises(RecipeError) as caught:
        load(file, sets=sets, catalog=catalog)
    (shown,) = str(caught.value).split("\n")
    assert words in shown
    assert shown.startswith((f"{file}:{line}: ", f"--set {setting}="))
    assert " of memory, and there are " in shown or "years" in shown or "days" in shown


def test_number_of_an_arm_is_refused_where_it_stands(catalog, tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(STEER + f'[[compare]]\nname = "a"\nestimator.draws = {10**14}\n')
    with pytest.raises(RecipeError, match=r"r.toml:22: compare\[0\].estimator.draws: 100,000,"):
        load(file, catalog=catalog)


def test_what_fits_is_not_refused(catalog, tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(STEER)
    assert load(file, sets=["run.samples=100000", "mode.steps=100000"], catalog=catalog)


def test_refusal_says_what_there_is():
    assert Need(("a",), "9 rows", memory=10).refusal(10) is None
    assert Need(("a",), "9 rows", memory=3e9).refusal(2e9) == (
        "9 rows need at least 3 GB of memory, and there are 2 GB here; use fewer"
    )
    assert Need(("a",), "9 steps", seconds=1e6).refusal(1) == (
        "9 steps take 12 days at least; use fewer"
    )
    assert Need(("a",), "9 steps", seconds=1e9).refusal(1) == (
        "9 steps take 32 years at least; use fewer"
    )
    assert 1e6 < available() < 1e15


@pytest.mark.parametrize("seed", [-1, 2**63, -(2**63)])
def test_seed_out_of_range_is_refused_with_the_range(seed, catalog, tmp_path):
    file = Path(tmp_path / "r.toml")
    file.write_text(STEER.replace("samples = 4", f"seed = {seed}"))
    with pytest.raises(RecipeError, match=r"r.toml:2: run.seed: .*2\^63 - 1"):
        load(file, catalog=catalog)
