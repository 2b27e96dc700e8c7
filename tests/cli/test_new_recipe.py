"""New recipes: from options, or from what somebody at a terminal says."""

import errno
import os
import re
import tomllib

import pytest
from click.testing import CliRunner

from align.catalog.registry import load_catalog
from align.cli import new_recipe
from align.cli.main import main
from align.io import files
from align.recipe import load

MIXTURE = (
    "model.weights=[0.5, 0.5]",
    "model.means=[[-1.0], [1.0]]",
    "model.stds=[0.5, 0.5]",
    "reward[0].matrix=[[1.0]]",
    "reward[0].observed=[1.0]",
    "reward[0].std=0.5",
)
KINDS = ("--model", "mixture", "--reward", "likelihood")


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def asked(tmp_path, monkeypatch, catalog):
    """`align new recipe mine`, with options and with what is typed."""
    monkeypatch.setattr("align.catalog.registry.load_catalog", lambda: catalog)

    def ask(*options, typed=None, sets=()):
        monkeypatch.setattr(new_recipe, "_on_terminal", lambda: typed is not None)
        given = [word for text in sets for word in ("--set", text)]
        arguments = ["new", "recipe", "mine", "--into", str(tmp_path), *options, *given]
        text = None if typed is None else "\n".join(typed) + "\n"
        return CliRunner().invoke(main, arguments, input=text)

    return ask


def written(tmp_path, catalog):
    path = tmp_path / "mine.toml"
    load(path, catalog=catalog)  # it passes all checks
    text = path.read_text()
    first, *lines = text.splitlines()
    assert f"align run {path}" in first
    assert max(map(len, lines)) <= 100
    return tomllib.loads(text)


@pytest.mark.parametrize(
    ("budget", "steps", "draws"), [(450, 50, 4), (150, 50, 1), (30, 10, 1), (2, 1, 1)]
)
def test_budget_is_spent_on_steps_and_then_on_draws(asked, tmp_path, catalog, budget, steps, draws):
    result = asked(*KINDS, "--mode", "steer", "--budget", str(budget), sets=MIXTURE)
    assert result.exit_code == 0, result.stderr
    recipe = written(tmp_path, catalog)
    assert recipe["mode"]["steps"] == steps
    assert recipe["estimator"] == {"kind": "gradient", "draws": draws}
    assert steps * (1 + 2 * draws) <= max(3, budget)
    assert recipe["compare"][0]["name"] == "unsteered"


@pytest.mark.parametrize("mode", ["best_of_n", "finetune"])
def test_other_modes(asked, tmp_path, catalog, mode):
    result = asked(*KINDS, "--mode", mode, sets=MIXTURE)
    assert result.exit_code == 0, result.stderr
    recipe = written(tmp_path, catalog)
    assert recipe["mode"]["kind"] == mode
    assert recipe["mode"].get("n", 9) == 9


def test_reward_without_a_gradient_is_steered_by_enough_draws(asked, tmp_path, catalog):
    sets = ('model.prompt="dog"', 'mode.dynamics="heun"', "run.seed=3")
    options = "--model", "pocket", "--reward", "compressibility", "--mode", "steer"
    assert asked(*options, "--budget", "100", sets=sets).exit_code == 0
    recipe = written(tmp_path, catalog)
    assert recipe["estimator"] == {"kind": "stein", "draws": 4}
    assert recipe["mode"]["dynamics"] == "heun"
    assert recipe["run"] == {"samples": 8, "seed": 3}


def test_terminal_is_asked_for_what_is_not_said(asked, tmp_path, catalog):
    typed = ["", "silhouette_class", "", "dog", "cat", "150"]
    result = asked(typed=typed)
    assert result.exit_code == 0, result.stderr
    assert re.search("compressibility +Pictures that make small JPEG files", result.stderr)
    assert "likelihood" not in result.stderr  # pocket makes pictures
    recipe = written(tmp_path, catalog)
    assert recipe["model"] == {"kind": "pocket", "prompt": "dog"}
    assert recipe["reward"] == [{"kind": "silhouette_class", "label": "cat"}]
    assert recipe["estimator"]["draws"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), ["--model is missing", "--reward is missing", "--mode is missing"]),
        (
            ("--model", "mixtur", "--reward", "likelihood", "--mode", "steer"),
            ["--model mixtur: no such model; did you mean 'mixture'?"],
        ),
        ((*KINDS, "--mode", "steer"), [f"{text.partition('=')[0]} has no" for text in MIXTURE]),
        ((*KINDS, "--mode", "finetune", "--budget", "9"), ["--budget is spent on samples"]),
    ],
)
def test_what_is_missing_or_wrong_is_told_at_once_and_nothing_is_written(
    asked, tmp_path, options, said
):
    result = asked(*options, sets=MIXTURE if "--budget" in options else ())
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert len(lines) == len(said)
    for line, text in zip(lines, said, strict=True):
        assert line.startswith(text)
    assert not list(tmp_path.iterdir())


def test_recipe_that_would_not_run_is_not_written(asked, tmp_path):
    result = asked(*KINDS, "--mode", "steer", sets=(*MIXTURE[:-1], "reward[0].std=-1.0"))
    assert result.exit_code == 2
    assert "reward[0].std" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", ["model.kind='pocket'", "reward=3", "reward=[]", "model='pocket'", "mode=['steer']"]
)
def test_kinds_are_no_options(asked, tmp_path, wrong):
    result = asked(*KINDS, "--mode", "steer", sets=(*MIXTURE, wrong))
    assert result.exit_code == 2
    assert "their kinds by --model, --reward and --mode" in result.stderr
    assert not list(tmp_path.iterdir())


def test_sampler_and_comparison_may_be_set(asked, tmp_path, catalog):
    sets = (*MIXTURE, "sampler='glass'", "compare=[]", "estimator.draws=2")
    assert asked(*KINDS, "--mode", "steer", sets=sets).exit_code == 0
    recipe = written(tmp_path, catalog)
    assert recipe["sampler"] == {"kind": "glass"}
    assert "compare" not in recipe
    assert recipe["estimator"]["draws"] == 2


def test_file_that_is_there_is_left_alone(asked, tmp_path):
    (tmp_path / "mine.toml").write_text("# mine\n")
    result = asked(*KINDS, "--mode", "steer", sets=MIXTURE)
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert (tmp_path / "mine.toml").read_text() == "# mine\n"


def test_nothing_is_left_where_the_disk_is_full(asked, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    result = asked(*KINDS, "--mode", "steer", sets=MIXTURE)
    assert result.exit_code == 1
    assert "cannot be written: the disk is full" in result.stderr
    part = CliRunner().invoke(main, ["new", "reward", "mine", "--into", str(tmp_path)])
    assert "cannot be written: the disk is full" in part.stderr
    assert not [*tmp_path.iterdir()]


def test_options_of_recipes_are_refused_for_parts():
    result = CliRunner().invoke(main, ["new", "reward", "mine", "--budget", "9"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "--budget: for recipes alone, and this is a reward\n"
