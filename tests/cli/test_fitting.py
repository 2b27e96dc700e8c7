"""Parts that would go with those of a recipe."""

import pytest
from click.testing import CliRunner

from align.catalog.registry import load_catalog
from align.catalog.shipped import resolved
from align.cli.fitting import draft, fitting
from align.cli.main import main
from align.recipe import load

VECTORS = """
[model]
kind = "mixture"
weights = [0.5, 0.5]
means = [[-1.0, -1.0], [1.0, 1.0]]
stds = [0.7, 0.7]

[sampler]
kind = "mfm"

[estimator]
kind = "gradient"

[[reward]]
kind = "likelihood"
matrix = [[1.2, -0.8]]
observed = [-1.0]
std = 0.5

[mode]
kind = "steer"
"""


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture(scope="module")
def recipe(catalog, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "vectors.toml"
    path.write_text(VECTORS)
    return path


@pytest.fixture(scope="module")
def fits(recipe, catalog):
    found = fitting(load(recipe, catalog=catalog).recipe, catalog)
    return {place: {each.kind: each.reason for each in named} for place, named in found}


def test_every_place_of_the_recipe_is_listed(fits):
    places = "samplers", "estimators", "dynamics (mode.dynamics)", "rewards", "modes", "metrics"
    assert tuple(fits) == places


def test_parts_that_fit_have_no_reason(fits):
    assert {kind for kind, reason in fits["samplers"].items() if not reason} >= {"mfm", "glass"}
    assert fits["estimators"]["exact"] == ""
    assert fits["modes"]["best_of_n"] == ""
    assert fits["rewards"]["likelihood"] == ""  # though its options are not known


@pytest.mark.parametrize(
    ("place", "kind", "reason"),
    [
        ("samplers", "exact", "needs the gradient of the draws, but sampler 'exact' has none"),
        ("rewards", "compressibility", "needs the reward's gradient"),
        ("rewards", "measurement", "scores images, but model 'mixture' makes vectors"),
        ("metrics", "image_statistics", "measures images, but model 'mixture' makes vectors"),
        ("metrics", "sliced_wasserstein", "there is one arm only"),
    ],
)
def test_part_that_would_be_refused_says_why(fits, place, kind, reason):
    assert reason in fits[place][kind]


def test_what_is_listed_is_what_a_recipe_with_the_part_is_told(recipe, catalog, fits):
    for section in ("sampler", "estimator"):
        for kind, reason in fits[f"{section}s"].items():
            checked = CliRunner().invoke(
                main, ["check", str(recipe), "--set", f'{section}={{ kind = "{kind}" }}']
            )
            assert (checked.exit_code == 0) == (not reason), (kind, checked.stderr)
            assert reason in checked.stderr


def test_parts_of_the_recipe_itself_are_tried_as_it_has_them(catalog):
    recipe = load(resolved("@tabby_cat"), catalog=catalog).recipe
    kinds = {
        place: {fit.kind: fit.reason for fit in fits} for place, fits in fitting(recipe, catalog)
    }
    assert kinds["rewards"]["silhouette_class"] == ""  # it has a label, which its prompt has not


def test_draft_has_the_defaults_alone(catalog):
    part = draft(catalog.parts["reward"]["likelihood"].cls)
    assert not hasattr(part, "matrix")
    assert draft(catalog.parts["mode"]["steer"].cls).steps == 50


def test_list_for_a_recipe(recipe):
    result = CliRunner(env={"COLUMNS": "80"}).invoke(
        main, ["list", "samplers", "--for", str(recipe)]
    )
    head, *lines = result.stdout.splitlines()
    assert head == "samplers:"
    assert max(map(len, lines)) <= 80
    assert [line.split()[1] for line in lines if line[2] != " "].index("no:") >= 3
    assert "rewards:" not in lines
    everything = CliRunner().invoke(main, ["list", "--for", str(recipe)])
    assert "rewards:" in everything.stdout.splitlines()
    missing = CliRunner().invoke(main, ["list", "--for", "@nothing"])
    assert (missing.exit_code, missing.stdout) == (2, "")
