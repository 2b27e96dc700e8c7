"""`isolate` in a recipe."""

import json
import tomllib

import pytest
import torch
from click.testing import CliRunner
from loguru import logger

from align.catalog.registry import load_catalog
from align.cli.main import main
from align.errors import RecipeError
from align.isolation.reward import Isolated
from align.recipe import RewardTerm, load, to_toml
from align.rewards.linear import Likelihood
from align.runner.session import sample

RECIPE = """\
[run]
samples = 3
unsteered = 8

[model]
kind = "mixture"
weights = [0.5, 0.5]
means = [[-2.0, 0.0], [2.0, 0.0]]
stds = [0.5, 0.5]

[sampler]
kind = "mfm"

[estimator]
kind = "gradient"
draws = 2

[mode]
kind = "steer"
steps = 4

{}
"""
TERM = """\
[[reward]]
kind = "{kind}"
isolate = "{venv}"
{options}
"""

MORTAL = """\
import os
from pathlib import Path

calls = []

def score(data, prompts):
    calls.append(0)
    if len(calls) == 9 and not Path("died").exists():
        Path("died").touch()
        os._exit(1)
    return -(data.sin() - 0.3).square().sum(1)
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def made(*terms, name="r"):
        path = tmp_path / f"{name}.toml"
        path.write_text(RECIPE.format("\n".join(terms)))
        return path

    return made


def refused(path, sets=()):
    with pytest.raises(RecipeError) as caught:
        load(path.name, sets=sets, catalog=load_catalog())
    return str(caught.value).splitlines()


def term(kind, venv, options=""):
    return TERM.format(kind=kind, venv=venv, options=options)


@pytest.fixture
def log():
    logger.enable("align")
    lines = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)
    logger.disable("align")


def sampled(path):
    """What a recipe's parts make, without a record of it."""
    recipe = load(path, catalog=load_catalog()).recipe
    return sample(
        recipe.model,
        recipe.mode,
        rewards=recipe.reward,
        sampler=recipe.sampler,
        estimator=recipe.estimator,
        samples=recipe.run.samples,
        unsteered=recipe.run.unsteered,
    )


def test_a_worker_that_dies_in_a_run_costs_no_result(written, own, tmp_path, log):
    """It is optimised, normalised and clipped."""
    (tmp_path / "there.py").write_text(MORTAL)
    (tmp_path / "here.py").write_text(MORTAL.replace("os._exit(1)", "pass"))
    options = "normalise = 'zscore'\nclip = [-inf, 1.0]\nfile = '{}.py'\nname = 'it'"
    there, here = (
        sampled(written(term("python", venv, options.format(name)), name=name))
        for name, venv in (("there", own), ("here", ""))
    )
    assert (tmp_path / "died").exists()
    assert sum("it is started again" in line for line in log) == 1
    assert torch.equal(there.x1, here.x1)
    assert torch.equal(there.scores["it"], here.scores["it"])
    assert there.divergence == here.divergence and there.cost.calls == here.cost.calls
    assert there.cost.backward == here.cost.backward and there.cost.backward["reward it"]


def test_one_that_is_held_out_and_what_the_record_says_of_it(written, own, tmp_path):
    options = "matrix = [[0.0, 1.0]]\nobserved = [1.0]\nstd = 1.0"
    held_out = "held_out = true\nname = 'there'"
    terms = term("likelihood", "", options), term("likelihood", own, f"{options}\n{held_out}")
    path = written(*terms)
    result = CliRunner().invoke(main, ["run", str(path), "--set", "mode={kind='best_of_n'}"])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "r"
    about = json.loads((folder / "about.json").read_text())
    assert about["origins"][f"likelihood of '{own}'"].startswith("align-core ")
    scores = json.loads((folder / "results.json").read_text())["arms"][0]["scores"]
    assert scores["there"] == scores["likelihood"]
    kept = tomllib.loads((folder / "recipe.toml").read_text())["reward"][1]
    assert next(iter(kept)) == "kind" and kept["isolate"] == own and kept["std"] == 1.0


def test_a_kind_that_only_the_other_environment_has(written, other):
    path = written(term("elsewhere", other, "power = 3\nheld_out = true\nname = 'far'"))
    lacking = "r.toml:18: mode: 'steer' needs a reward to optimise, but every reward is held out; "
    assert refused(path)[0].startswith(lacking)
    asked = term("elsewhere", other, "power = 3\nname = 'far'")
    needed = "r.toml:18: mode: 'steer' with estimator 'gradient' needs the reward's gradient, but "
    assert refused(written(asked))[0].startswith(needed + "reward 'far' has none")
    loaded = load(
        written(asked),
        sets=["estimator={kind='stein', draws=4}"],
        catalog=load_catalog(),
    )
    (far,) = loaded.recipe.reward
    assert isinstance(far.part, Isolated) and far.part.origin == "align-elsewhere 7.0"
    assert far.part.range == (0.0, float("inf"))
    score = far.part.build(torch.device("cpu")).score(torch.tensor([[1.0, 2.0]]), [""])
    assert score.tolist() == [27.0]
    table = tomllib.loads(to_toml(loaded.recipe))["reward"][0]
    assert table["place"] == "here" and table["isolate"] == other


def test_mistakes_are_located(written, other):
    asked = f" (asked in '{other}')"
    path = written(
        term("elsewhere", other, "power = 0\nwieght = 2.0"),
        term("elswhere", other),
        term("elsewhere", other, "isolate_timeout = 0\nweight = 'much'"),
    )
    assert refused(path) == [
        f"r.toml:25: reward[0].power: 'power' must be at least 1, got 0{asked}",
        f"r.toml:26: reward[0].wieght: no option named 'wieght'; did you mean 'weight'?{asked}",
        "r.toml:29: reward[1].kind: no reward named 'elswhere'; did you mean 'elsewhere'?" + asked,
        "r.toml:36: reward[2].isolate_timeout: 'isolate_timeout' must be greater than 0, got 0",
        "r.toml:37: reward[2].weight: expected a number, got the string 'much'",
    ]


def test_environments_that_are_none(written, bare, tmp_path):
    path = written(
        term("elsewhere", "nowhere"),
        term("elsewhere", bare),
        "[[reward]]\nkind = 'elsewhere'\nisolate = 3\n",
        term("elsewhere", "nowhere", "day = 2020-01-01"),
    )
    told = refused(path)
    assert told[0].startswith(
        f"r.toml:24: reward[0].isolate: no virtual environment 'nowhere' as seen from '{tmp_path}'"
    )
    assert told[1].startswith(f"r.toml:29: reward[1].isolate: '{bare}' has no align-core")
    assert told[2] == "r.toml:34: reward[2].isolate: expected a string, got the integer 3"
    assert told[3].endswith("reward[3]: an isolated reward takes no dates or times")
    assert len(told) == 4


def test_weights_that_cannot_be_loaded_there(written, other):
    path = written(term("elsewhere", other, "place = 'away'"))
    sets = ["--set", "estimator={kind='stein', draws=4}"]
    result = CliRunner().invoke(main, ["run", str(path), *sets])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "elsewhere: the weights are away"


def test_a_part_that_is_here_already_is_not_isolated_afterwards():
    part = Likelihood(matrix=((1.0,),), observed=(0.0,), std=1.0)
    with pytest.raises(ValueError, match=r"is made by align\.isolation\.reward\.Isolated\.read"):
        RewardTerm(part=part, isolate="there")
