"""The reward `isolated` in a recipe: an ordinary part, with located mistakes inside its table."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from loguru import logger

import align
from align.catalog.registry import load_catalog
from align.cli.main import main
from align.core.errors import RecipeError
from align.isolation.reward import Isolated
from align.recipe import load, to_toml
from align.runner.direct import sample

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
HERE = """\
[[reward]]
kind = "{kind}"
{options}
"""
ISOLATED = """\
[[reward]]
kind = "isolated"
venv = "{venv}"
reward.kind = "{kind}"
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
    """A [[reward]] table; in an environment where one is given."""
    form = ISOLATED if venv else HERE
    return form.format(kind=kind, venv=venv, options=options)


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


def test_process_that_dies_in_a_run_costs_no_result(written, own, tmp_path, log):
    """The reward is optimised, normalised and clipped."""
    (tmp_path / "there.py").write_text(MORTAL)
    (tmp_path / "here.py").write_text(MORTAL.replace("os._exit(1)", "pass"))
    options = "normalise = 'zscore'\nclip = [-inf, 1.0]\n{} = '{}.py'\nname = 'it'"
    there = sampled(written(term("python", own, options.format("reward.file", "there"))))
    here = sampled(written(term("python", "", options.format("file", "here"))))
    assert (tmp_path / "died").exists()
    assert sum("it is started again" in line for line in log) == 1
    assert torch.equal(there.x1, here.x1)
    assert torch.equal(there.scores["it"], here.scores["it"])
    assert there.divergence == here.divergence and there.cost.calls == here.cost.calls
    assert there.cost.backward == here.cost.backward and there.cost.reward_backward["it"]


def test_record_of_an_isolated_reward_has_its_origins_scores_and_options(written, own, tmp_path):
    here = "matrix = [[0.0, 1.0]]\nobserved = [1.0]\nstd = 1.0"
    there = "".join(f"reward.{line}\n" for line in here.splitlines())
    held_out = "held_out = true\nname = 'there'"
    path = written(term("likelihood", "", here), term("likelihood", own, there + held_out))
    result = CliRunner().invoke(main, ["run", str(path), "--set", "mode={kind='best_of_n'}"])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "r"
    origins = json.loads((folder / "about.json").read_text())["origins"]
    assert origins["align.isolation.reward.Isolated"].startswith("align-core ")
    assert origins[f"likelihood of '{own}'"].startswith("align-core ")
    scores = json.loads((folder / "results.json").read_text())["arms"][0]["scores"]
    assert scores["there"] == scores["likelihood"]
    table = tomllib.loads((folder / "recipe.toml").read_text())["reward"][1]
    assert table["kind"] == "isolated" and table["venv"] == own
    assert table["reward"]["kind"] == "likelihood" and table["reward"]["std"] == 1.0


def test_kind_that_only_the_other_environment_has_is_resolved_there(written, other):
    path = written(term("elsewhere", other, "reward.power = 3\nheld_out = true\nname = 'far'"))
    lacking = "r.toml:18: mode: 'steer' needs a reward to optimise, but every reward is held out; "
    assert refused(path)[0].startswith(lacking)
    asked = term("elsewhere", other, "reward.power = 3\nname = 'far'")
    needed = "r.toml:18: mode: 'steer' with estimator 'gradient' needs the reward's gradient, but "
    assert refused(written(asked))[0].startswith(needed + "reward 'far' has none")
    sets = ["estimator={kind='stein', draws=4}"]
    prompted = written(asked)
    (lacks,) = refused(prompted, sets)
    assert lacks.startswith("r.toml:22: reward[0]: 'isolated' compares pictures with the prompt")
    sets.append("reward[0].reward.needs_prompt=false")
    loaded = load(prompted, sets=sets, catalog=load_catalog())
    (far,) = loaded.recipe.reward
    assert isinstance(far.part, Isolated)
    assert list(far.part.origins().values()) == ["align-elsewhere 7.0"]
    assert far.part.range == (0.0, float("inf"))
    score = far.part.build(torch.device("cpu")).score(torch.tensor([[1.0, 2.0]]), [""])
    assert score.tolist() == [27.0]
    table = tomllib.loads(to_toml(loaded.recipe))["reward"][0]
    assert table["venv"] == other and table["reward"]["place"] == "here"
    assert load_catalog().find("reward", "elsewhere") is None


def test_mistakes_inside_the_table_are_located(written, other):
    asked = f" (read in '{other}')"
    path = written(
        term("elsewhere", other, "reward.power = 0\nreward.plaec = 'here'\nwieght = 2.0"),
        term("elswhere", other),
        term("elsewhere", other, "timeout = 0\nweight = 'much'"),
        "[[reward]]\nkind = 'isolated'\nvenv = '.'\n[reward.reward]\npower = 2\n",
    )
    messages = refused(path)
    assert messages[:2] == [
        "r.toml:26: reward[0].reward.power: 'power' must be at least 1, got 0" + asked,
        "r.toml:27: reward[0].reward.plaec: no option named 'plaec'; did you mean 'place'?" + asked,
    ]
    assert messages[2].startswith("r.toml:28: reward[0].wieght: no option named 'wieght'; did you")
    assert messages[3] == (
        "r.toml:33: reward[1].reward.kind: no reward named 'elswhere'; did you mean 'elsewhere'?"
        + asked
    )
    assert messages[4:6] == [
        "r.toml:40: reward[2].timeout: 'timeout' must be greater than 0, got 0",
        "r.toml:41: reward[2].weight: expected a number, got the string 'much'",
    ]
    assert messages[6].startswith(
        f"r.toml:45: reward[3].venv: no virtual environment '{Path.cwd()}'"
    )
    assert messages[7].startswith("r.toml:46: reward[3].reward.kind: required key is missing; ")
    assert len(messages) == 8


def test_environments_that_cannot_be_used_are_located(written, bare, tmp_path):
    path = written(
        term("elsewhere", "nowhere"),
        term("elsewhere", bare),
        "[[reward]]\nkind = 'isolated'\nvenv = 3\n",
        term("elsewhere", "nowhere", "reward.day = 2020-01-01"),
    )
    messages = refused(path)
    assert messages[0].startswith(
        f"r.toml:24: reward[0].venv: no virtual environment '{tmp_path / 'nowhere'}' as seen from"
    )
    assert messages[1].startswith(f"r.toml:30: reward[1].venv: '{bare}' has no align-core")
    assert messages[2].startswith("r.toml:34: reward[2].reward: required key is missing")
    assert messages[3] == "r.toml:36: reward[2].venv: expected a string, got the integer 3"
    assert messages[4].startswith("r.toml:40: reward[3].venv: no virtual environment '/")
    assert messages[5].endswith("the table of a reward that is elsewhere takes no dates or times")
    assert len(messages) == 6


def trapped(folder):
    """A virtual environment whose interpreter leaves a mark where it is started."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch '{folder}/started'\n")
    python.chmod(0o755)
    return folder


def test_check_starts_no_interpreter_unless_it_is_asked_to(written, tmp_path):
    venv = trapped(tmp_path / "trap")
    path = written(term("anything", venv, "reward.option = 'odd'"))
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        f"{path}: good",
        f"{path}: reward 'anything' of '{venv}': its options, and whether it fits the other parts,"
        " were not looked at; --start-isolated looks at them",
    ]
    assert not (venv / "started").exists()
    result = CliRunner().invoke(main, ["check", "--start-isolated", str(path)])
    assert result.exit_code == 2
    assert (venv / "started").exists()


def test_check_without_interpreter_says_what_is_wrong_all_the_same(written, tmp_path):
    path = written(
        term("anything", "nowhere"),
        f"[[reward]]\nkind = 'isolated'\nvenv = '{trapped(tmp_path / 'trap')}'\nreward = {{}}\n",
    )
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert f"reward[0].venv: no virtual environment '{Path.cwd() / 'nowhere'}'" in first
    assert "reward[1].reward.kind: required key is missing" in second


def test_weights_that_cannot_be_loaded_there_are_named(written, other):
    path = written(term("elsewhere", other, "reward.place = 'away'\nreward.needs_prompt = false"))
    sets = ["--set", "estimator={kind='stein', draws=4}"]
    result = CliRunner().invoke(main, ["run", str(path), *sets])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "elsewhere: the weights are away"


def test_isolation_is_named_by_one_package_and_the_table_of_contents():
    root = Path(align.__file__).parent
    naming = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"isolat", path.read_text()) and path.parent.name != "isolation"
    }
    # `align verify` asks packages in environments of their own, and makes these.
    asking = {"cli/environment.py", "cli/verify.py"}
    assert naming == {"catalog/contracts.py", "cli/main.py", *asking}
