"""The JSON Schema of recipes: what it takes, and what it refuses."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from align.catalog.registry import load_catalog
from align.cli.main import main
from align.core.errors import RecipeError
from align.recipe import load
from align.recipe.json_schema import json_schema

RECIPES = sorted(Path("recipes").rglob("*.toml"))
SCHEMA = Path("recipes/recipe.schema.json")
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
[[reward]]
kind = "likelihood"
matrix = [[1.0]]
observed = [1.0]
std = 1.0
[mode]
kind = "steer"
"""


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture(scope="module")
def refused():
    """Whether the schema that the recipes of the repository name refuses a recipe."""
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft4Validator.check_schema(schema)
    validator = jsonschema.Draft4Validator(schema)
    return lambda text: not validator.is_valid(tomllib.loads(text))


def test_schema_of_the_repository_is_that_of_its_parts(forked):
    done = forked(Path(__file__).with_name("whole_schema.py"))
    assert done.ended() == 0, done.stderr
    # Else: python tests/recipe/whole_schema.py > recipes/recipe.schema.json
    assert json.loads(done.stdout) == json.loads(SCHEMA.read_text())


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_every_recipe_is_valid(path, refused):
    assert not refused(path.read_text())


@pytest.mark.parametrize(
    "more",
    [
        '[[compare]]\nname = "a"\nmode.dynamics = "sde"\nestimator.draws = 2\n',
        '[[compare]]\nname = "a"\nmode = "steer"\nweights = { likelihood = 2.0 }\n',
        '[[compare]]\nname = "a"\nmode = { kind = "best_of_n", n = 2 }\n',
        '[sweep]\n"reward[0].weight" = [1, 2]\nmode.steps = [2, 3]\nhow = "zip"\n',
        '[[metric]]\nkind = "sliced_wasserstein"\n',
    ],
)
def test_what_a_recipe_may_say_is_valid(refused, more):
    assert not refused(BASE)
    assert not refused(BASE + more)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[mode]", "[moed]"),
        ('kind = "steer"', 'kind = "ster"'),
        ('kind = "steer"', 'kind = "mfm"'),
        ('kind = "steer"', "steps = 3"),
        ('kind = "steer"', 'kind = "steer"\nstpes = 3'),
        ('kind = "steer"', 'kind = "steer"\nsteps = 3.5'),
        ('kind = "steer"', 'kind = "steer"\nsteps = "3"'),
        ('kind = "steer"', 'kind = "steer"\nresample = "all"'),
        ('kind = "steer"', 'kind = "steer"\ndynamics = "sdd"'),
        ('kind = "steer"', 'kind = "steer"\ndynamics = { kind = "sde", x = 1 }'),
        ("weights = [1.0]", "weights = 1.0"),
        ("weights = [1.0]", 'weights = ["a"]'),
        ("std = 1.0", "weight = 2.0"),
        ("std = 1.0", "std = 1.0\nheld_out = 1"),
        ("std = 1.0", "std = 1.0\nclip = [1.0]"),
        ("[[reward]]", "[reward]"),
        ('kind = "steer"', 'kind = "steer"\n[[compare]]\nmode.steps = 3'),
        ('kind = "steer"', 'kind = "steer"\n[[compare]]\nname = "a"\nmode.stpes = 3'),
        ('kind = "steer"', 'kind = "steer"\n[[compare]]\nname = "a"\nrun.seed = 3'),
        ('kind = "steer"', 'kind = "steer"\n[sweep]\nhow = "all"'),
        ('kind = "steer"', 'kind = "steer"\n[sweep]\n"mode.steps" = 3'),
        ('kind = "steer"', 'kind = "Steer"'),
        ('kind = "steer"', 'kind = "st\u0435er"'),
        ('kind = "steer"', 'kind = ""'),
        ('kind = "steer"', 'kind = ["steer"]'),
        ('kind = "steer"', 'kind = "steer"\nparticles = 0'),
        ('kind = "steer"', 'kind = "steer"\nparticles = true'),
        ('kind = "steer"', 'kind = "steer"\n"part\\nicles" = 1'),
        ('kind = "steer"', 'kind = "steer"\n[[compare]]\nname = "a"\nestimator = 3'),
        ('kind = "gradient"', 'kind = "gradient"\ndrwas = 3'),
        ('kind = "gradient"', 'kind = "gradient"\ndraws = "many"'),
        ('kind = "mfm"', 'kind = "stein"'),
        ("samples = 2", "samples = 0"),
        ("samples = 2", "samples = 2.0"),
        ("samples = 2", "samples = { a = 1 }"),
        ("samples = 2", "samples = 2\nchunk = -1"),
        ("samples = 2", "samples = 2\nout = 3"),
        ("matrix = [[1.0]]", "matrix = [1.0]"),
        ("std = 1.0", "std = 0.0"),
        ("std = 1.0", "std = 1.0\nweight = 'much'"),
    ],
)
def test_what_is_wrong_at_sight_is_refused(refused, catalog, tmp_path, old, new):
    assert BASE.count(old) == 1
    text = BASE.replace(old, new)
    assert refused(text)
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError):
        load(tmp_path / "r.toml", catalog=catalog)


def test_bounds_of_numbers_are_told(catalog):
    definitions = json_schema(catalog)["definitions"]
    std = definitions["reward/likelihood"]["properties"]["std"]
    assert (std["minimum"], std["exclusiveMinimum"], "maximum" in std) == (0, True, False)
    kept = definitions["reward/isolated"]["properties"]["timeout"]
    assert (kept["minimum"], kept["exclusiveMinimum"]) == (0, True)


def test_every_option_says_what_it_is(catalog):
    schema = json_schema(catalog)
    steer = schema["definitions"]["mode/steer"]
    assert steer["description"].startswith("Steers samples")
    steps = steer["properties"]["steps"]
    assert steps == {"type": "integer", "description": "steps from noise to data (default: 50)"}


def test_the_command_prints_it(catalog):
    shown = CliRunner().invoke(main, ["schema"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout) == json_schema(catalog)
