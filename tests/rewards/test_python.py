"""A function in a file, as a reward."""

import re
import sys

import click
import pytest
import torch

from align.catalog.registry import load_catalog
from align.core.errors import ContractError, PartError, RecipeError
from align.recipe import load
from align.rewards.python import Python

CPU = torch.device("cpu")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write my_reward.py into the folder that the command is started in."""
    monkeypatch.chdir(tmp_path)

    def made(text):
        (tmp_path / "my_reward.py").write_text(text)

    return made


def scored(part, rows=3, grad=False):
    data = torch.arange(2.0 * rows).reshape(rows, 2).requires_grad_(grad)
    return data, part.build(CPU).score(data, [f"prompt {i}" for i in range(rows)])


def test_the_function_scores(written):
    written("def score(data, prompts):\n    return data.sum(1) * len(prompts[0])\n")
    data, score = scored(Python(file="my_reward.py"), grad=True)
    assert score.tolist() == [8, 40, 72]
    (gradient,) = torch.autograd.grad(score.sum(), data)
    assert (gradient == 8).all()
    assert not scored(Python(file="my_reward.py"))[1].requires_grad


def test_scores_become_float32(written):
    written("def best(data, prompts):\n    return (data.sum(1) > 2).bfloat16()\n")
    part = Python(file="my_reward.py", function="best", differentiable=False)
    score = scored(part, grad=True)[1]
    assert score.dtype == torch.float32 and score.tolist() == [0, 1, 1]
    assert not score.requires_grad


def test_weights_that_are_not_frozen_make_no_graph(written):
    written(
        "import torch\nw = torch.ones(2, requires_grad=True)\n"
        "def score(data, prompts):\n    return data @ w\n"
    )
    assert not scored(Python(file="my_reward.py"))[1].requires_grad


@pytest.mark.parametrize("rule", ["data.detach().sum(1)", "data.new_ones(len(data))"])
def test_a_gradient_that_is_declared_is_tried_before_the_first_score(written, rule):
    written(f"def score(data, prompts):\n    return {rule}\n")
    with pytest.raises(ContractError, match=r"no gradient back .*; set differentiable = false"):
        scored(Python(file="my_reward.py"))
    assert len(scored(Python(file="my_reward.py", differentiable=False))[1]) == 3


def test_shapes_are_told(written):
    written("def score(data, prompts):\n    return data\n")
    with pytest.raises(ContractError, match=r"'my_reward.py' returned \(1, 2\), expected .*\(1,\)"):
        scored(Python(file="my_reward.py"))
    written("def score(data, prompts):\n    return [1.0]\n")
    with pytest.raises(ContractError, match="returned a list, expected a tensor"):
        scored(Python(file="my_reward.py"))


def test_a_dataclass_finds_its_module(written):
    written(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\n"
        "class Sum:\n    by: float\n\n    def __call__(self, data, prompts):\n"
        "        return data.sum(1) * self.by\n\nscore = Sum(2.0)\n"
    )
    assert scored(Python(file="my_reward.py"))[1].tolist() == [2, 10, 18]


def test_a_file_that_does_not_run(written):
    written("def score(data, prompts): ...\nraise RuntimeError('no card')\n")
    with pytest.raises(
        PartError, match=r"'my_reward.py' raised RuntimeError: no card \(my_reward.py, line 2\)"
    ):
        Python(file="my_reward.py").build(CPU)
    written("score = 3\n")
    with pytest.raises(PartError, match=r"'my_reward.py' has no function 'score'"):
        Python(file="my_reward.py").build(CPU)


RECIPE = """\
[model]
kind = "mixture"
weights = [1.0]
means = [[0.0]]
stds = [1.0]

[[reward]]
kind = "python"
{}

[mode]
kind = "best_of_n"
"""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ('file = "his.py"', "r.toml:9: reward[0].file: no file 'his.py', as seen from"),
        ('file = "r.toml"', "r.toml:9: reward[0].file: expected a file whose name ends in .py"),
        ('file = "broken.py"', "r.toml:9: reward[0].file: '{}/broken.py' is not Python: line 2: "),
        (
            'file = "my_reward.py"\nfunction = "scor"',
            "r.toml:10: reward[0].function: '{}/my_reward.py' has no 'scor'; it has 'score'",
        ),
        (
            'function = "score"',
            "r.toml:7: reward[0]: expected either file, a Python file, or module",
        ),
        (
            'file = "my_reward.py"\ndomain = "image"',
            "r.toml:7: reward[0]: 'python' scores images, but model 'mixture' makes vectors",
        ),
    ],
)
def test_mistakes_are_located_without_running_the_file(written, tmp_path, options, told):
    written(
        "import numpy as np\nraise SystemExit('run')\n"
        "def score(data, prompts):\n    inner = 1\ndef _hidden(): ...\n"
    )
    (tmp_path / "broken.py").write_text("\ndef score(:\n")
    (tmp_path / "r.toml").write_text(RECIPE.format(options))
    with pytest.raises(RecipeError) as caught:
        load("r.toml", catalog=load_catalog())
    assert str(caught.value).startswith(told.format(tmp_path))


def test_a_good_recipe_is_not_run_either(written, tmp_path):
    written("raise SystemExit('run')\nfrom somewhere import *\n")
    (tmp_path / "r.toml").write_text(RECIPE.format('file = "my_reward.py"'))
    assert load("r.toml", catalog=load_catalog()).recipe.reward[0].part.kind == "python"


HELPED = "from {0} import scale\ndef score(data, prompts):\n    return scale * data.sum(1)\n"


def scores(**where):
    return Python(**where).build(CPU).score(torch.ones(1, 2), [""]).tolist()


def test_helpers_of_one_name_in_two_folders_are_two(written, tmp_path):
    for place, scale in {"one": 2, "two": 5}.items():
        (tmp_path / place).mkdir()
        (tmp_path / place / "my_helper.py").write_text(f"scale = {scale}\n")
        (tmp_path / place / "score.py").write_text(HELPED.format("my_helper"))
    rewards = [Python(file=f"{place}/score.py").build(CPU) for place in ("one", "two")]
    assert [r.score(torch.ones(1, 2), [""]).item() for r in rewards] == [4.0, 10.0]
    assert "my_helper" not in sys.modules
    assert not any(str(tmp_path) in place for place in sys.path)


def test_helper_that_is_imported_late_and_package_beside_are_found(written, tmp_path):
    package = tmp_path / "deep" / "tools"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "scales.py").write_text("scale = 3\n")
    late = "def score(data, prompts):\n    from tools.scales import scale\n"
    late += "    return scale * data[:, 0]\n"
    (tmp_path / "deep" / "late.py").write_text(late)
    reward = Python(file="deep/late.py").build(CPU)
    for _ in range(2):
        assert reward.score(torch.ones(1, 2), [""]).tolist() == [3.0]
    assert not {"tools", "tools.scales"} & set(sys.modules)


def test_helper_hides_a_loaded_module_of_its_name_only_from_its_reward(written, tmp_path):
    (tmp_path / "click.py").write_text("scale = 7\n")
    (tmp_path / "random.py").write_text("raise RuntimeError('Python has one of its own')\n")
    code = "import random\n" + HELPED.format("click")
    (tmp_path / "hiding.py").write_text(code)
    assert scores(file="hiding.py") == [14.0]
    assert sys.modules["click"] is click


def test_module_by_name_is_read_by_the_recipe_and_run_by_the_run(written, tmp_path):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "scales.py").write_text("scale = 11\n")
    relative = HELPED.format(".scales") + "print('run')\n"
    (tmp_path / "my_package" / "rewards.py").write_text(relative)
    written("")
    (tmp_path / "r.toml").write_text(RECIPE.format('module = "my_package.rewards"'))
    (term,) = load("r.toml", catalog=load_catalog()).recipe.reward
    assert "my_package" not in sys.modules
    assert scores(module=term.part.module) == [22.0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ('module = "no_such.rewards"', ".module: no module 'no_such', neither in '"),
        (
            'module = "my_reward.inner"',
            ".module: 'my_reward' is a module and no package, so it has",
        ),
        ('module = "my_reward"\nfunction = "scor"', ".function: 'my_reward' has no 'scor'; it has"),
        ('module = "my_reward.py "', ".module: expected a module's name like 'my_package.rewards'"),
        ('module = ""', ".module: expected a module's name like 'my_package.rewards', got ''"),
        ('module = "broken"', ".module: '"),
        (
            'module = "my_reward"\nfile = "my_reward.py"',
            ": expected either file, a Python file, or",
        ),
    ],
)
def test_mistakes_about_modules_are_located_without_running_them(written, tmp_path, options, told):
    written("raise SystemExit('run')\ndef score(data, prompts): ...\n")
    (tmp_path / "broken.py").write_text("def score(:\n")
    (tmp_path / "r.toml").write_text(RECIPE.format(options))
    with pytest.raises(RecipeError) as caught:
        load("r.toml", catalog=load_catalog())
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 and re.match(r"r\.toml:\d+: reward\[0\]" + re.escape(told), lines[0])
