"""[sweep]: which arms it makes, what they are called, and what is said of mistakes."""

import re

import pytest
import tomli_w

from align.catalog.registry import load_catalog
from align.core.errors import RecipeError
from align.recipe import load, to_toml

BASE = """
[run]
samples = 2
[model]
kind = "mixture"
weights = [1.0]
means = [[0.0]]
stds = [1.0]
[sampler]
kind = "mfm"
[estimator]
kind = "gradient"
draws = 2
[[reward]]
kind = "likelihood"
name = "near"
matrix = [[1.0]]
observed = [1.0]
std = 1.0
[[reward]]
kind = "likelihood"
name = "judge"
matrix = [[1.0]]
observed = [2.0]
std = 1.0
held_out = true
[mode]
kind = "steer"
steps = 4
"""


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def arms_of(tmp_path, catalog):
    def read(text, base=BASE, **more):
        path = tmp_path / "r.toml"
        path.write_text(base + text)
        return load(path, catalog=catalog, **more).recipe

    return read


def refusal(arms_of, text, **more):
    with pytest.raises(RecipeError) as caught:
        arms_of(text, **more)
    return str(caught.value).replace("\n", " | ")


def test_a_grid_is_every_choice_and_its_last_factor_changes_fastest(arms_of):
    recipe = arms_of('[sweep]\n"reward[0].weight" = [0.5, 2]\nmode.dynamics = ["ode", "sde"]\n')
    assert [arm.name for arm in recipe.arms()] == [
        "weight of near 0.5, dynamics ode",
        "weight of near 0.5, dynamics sde",
        "weight of near 2, dynamics ode",
        "weight of near 2, dynamics sde",
    ]
    assert [arm.weights for arm in recipe.arms()] == [{"near": w} for w in (0.5, 0.5, 2, 2)]
    assert [arm.mode.dynamics.kind for arm in recipe.arms()] == ["ode", "sde"] * 2
    assert [arm.mode.steps for arm in recipe.arms()] == [4] * 4
    assert recipe.arms()[2].factors == {"weight of near": 2, "dynamics": "ode"}


def test_a_zip_takes_one_value_of_each(arms_of):
    text = '[sweep]\nhow = "zip"\nmode.steps = [2, 3]\nestimator.draws = [8, 4]\n'
    arms = arms_of(text).arms()
    assert [(arm.mode.steps, arm.estimator.draws) for arm in arms] == [(2, 8), (3, 4)]


def test_arms_of_compare_stand_before_and_are_not_varied(arms_of):
    text = """
[[compare]]
name = "plain"
mode = { kind = "best_of_n", n = 1 }
[sweep]
mode.steps = [2, 3]
"""
    arms = arms_of(text).arms()
    assert [arm.name for arm in arms] == ["plain", "steps 2", "steps 3"]
    assert arms[0].factors is None
    assert arms[0].mode.kind == "best_of_n"


def test_whole_parts_are_varied_and_named_by_their_kinds(arms_of):
    text = '[sweep]\nsampler = ["mfm", { kind = "gaussian" }, { kind = "gaussian", std = 0.5 }]\n'
    with pytest.raises(RecipeError, match=r"r.toml:\d+: sweep.sampler\[2\].*no option named 'std'"):
        arms_of(text)
    arms = arms_of(text.replace(', { kind = "gaussian", std = 0.5 }', "")).arms()
    assert [arm.name for arm in arms] == ["sampler mfm", "sampler gaussian"]


def test_a_resolved_recipe_repeats_its_sweep(arms_of, tmp_path, catalog):
    recipe = arms_of('[sweep]\n"reward[0].weight" = [1, 3]\nmode.steps = [2, 3]\n')
    again = tmp_path / "again.toml"
    again.write_text(to_toml(recipe))
    assert load(again, catalog=catalog).recipe == recipe


def test_weights_may_stand_in_a_comparison(arms_of):
    recipe = arms_of('[[compare]]\nname = "strong"\nweights = { near = 4.0 }\n')
    assert recipe.arms()[0].weights == {"near": 4.0}


def test_a_sweep_of_the_command_line_is_one_of_the_recipe(arms_of):
    recipe = arms_of("", sweeps=["mode.steps=[2, 3]", "reward[0].weight=[1, 2]"])
    assert [arm.name for arm in recipe.arms()] == [
        f"steps {steps}, weight of near {weight}" for steps in (2, 3) for weight in (1, 2)
    ]
    found = refusal(arms_of, "", sweeps=["mode.steps=[2, 0]"])
    assert found.startswith("--sweep mode.steps=[2, 0]: sweep.")
    assert "'steps' must be at least 1, got 0" in found
    assert refusal(arms_of, "", sweeps=["mode.steps"]).startswith("--sweep mode.steps: expected")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mode.steps = 3", "r.toml:31: sweep.mode.steps: expected an array of the values to try,"),
        ("mode.steps = []", "sweep.mode.steps: expected an array of the values to try, got an"),
        ("mode.steps = [2, 0]", "r.toml:31: sweep.mode.steps[1]: 'steps' must be at least 1"),
        ("mode.stpes = [2]", "sweep.mode.stpes[0]: no option named 'stpes'; did you mean"),
        ("mode.steps = [2, 2]", "sweep.mode.steps[1]: 2 stands here twice; leave one of them out"),
        ('mode.dynamics = ["ode", { kind = "ode" }]', "[1]: ode stands here twice; leave one of"),
        (
            'how = "zip"\nmode.steps = [1, 2, 1]\nestimator.draws = [3, 3, 3]',
            "sweep: values 1 and 3 of its arrays are the same; leave one of them out",
        ),
        ("run.seed = [1, 2]", "sweep.run.seed: [run] is the same for all arms; run the recipe"),
        ("rnu.seed = [1, 2]", "sweep.rnu.seed: no section named 'rnu'"),
        ('"reward[0].name" = ["a"]', "of a reward its weight alone can be varied"),
        ('"reward[2].weight" = [1]', "the recipe has 2 rewards, counted from 0"),
        ('"reward[1].weight" = [1]', "this reward is held out, so that its weight counts nowhere"),
        ('"reward[0].weight" = ["a"]', "[0]: expected a number, got the string 'a'"),
        ('"reward[0].weight" = [nan]', "a weight must be finite, got nan"),
        ("weights.nera = [1.0]", "no reward named 'nera'; did you mean 'near'?"),
        ('"mode..steps" = [1]', "expected a key, such as mode.steps"),
        ('"mode.times[0]" = [1]', "an element of an array cannot be varied alone"),
        ('how = "all"\nmode.steps = [1]', "sweep.how: expected one of 'grid', 'zip'"),
        ("", "sweep: nothing is varied; add a key with its values"),
        (
            'how = "zip"\nmode.steps = [1, 2]\nestimator.draws = [1]',
            "takes one value of each at a time, but they have mode.steps 2, estimator.draws 1",
        ),
        (
            f"mode.steps = {list(range(1, 18))}\nestimator.draws = {list(range(1, 18))}",
            "289 arms, and a run has at most 256",
        ),
    ],
)
def test_mistakes_are_told_at_their_values(arms_of, text, wanted):
    found = refusal(arms_of, f"[sweep]\n{text}\n")
    assert wanted in found
    assert re.search(r"r\.toml:\d+: sweep", found)


def test_parts_that_do_not_go_together_are_told_at_the_sweep(arms_of):
    found = refusal(arms_of, '[sweep]\nmode.resample = ["none", "systematic"]\n')
    assert "sweep.mode.resample[1]" in found
    assert "'systematic' needs more than one of 'particles'" in found


def test_a_sweep_that_is_no_table_is_told(arms_of):
    document = {"sweep": [1]}
    assert "sweep: expected a table" in refusal(arms_of, "", base=tomli_w.dumps(document) + BASE)
