"""The card of a trained model says what it is, what it was trained for and how to repeat it."""

import tomllib

import attrs
import pytest

from align.catalog.registry import load_catalog
from align.report.card import _without_folders
from align.report.schema import read, save
from align.report.writer import write
from align.runner.session import run

RECIPE = """
[run]
samples = 6
out = "{out}"

[model]
kind = "mixture"
weights = [1.0]
means = [[0.0, 1.0]]
stds = [1.0]

[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.0]]
observed = [0.5]
std = 0.5
weight = 2.0

[mode]
kind = "finetune"
net = {{ kind = "mlp", width = 8, depth = 1 }}
objective = {{ kind = "stein", draws_from = "data" }}
steps = 2
optimisation = {{ batch = 8 }}
evaluation = {{ samples = 4, flow_steps = 2 }}
{compare}
"""


def made(tmp_path, compare=""):
    recipe, out = tmp_path / "r.toml", tmp_path / "out"
    recipe.write_text(RECIPE.format(out=out, compare=compare))
    run(recipe, progress=False, catalog=load_catalog([]))
    return out


def test_one_model_has_its_card_beside_it(tmp_path):
    out = made(tmp_path)
    card = (out / "MODEL_CARD.md").read_text()
    assert "* Networks: flow (mlp)\n* A state: 2\n" in card
    assert "| likelihood | 2 |  | -" in card
    assert "(6) |" in card
    assert "| divergence | " in card
    line = next(line for line in card.splitlines() if line.startswith("| likelihood | -"))
    assert " ± " in line  # the error of the last evaluation
    assert "| errors |" not in card
    recipe = card.partition("```toml\n")[2].partition("\n```")[0]
    wanted = tomllib.loads((out / "recipe.toml").read_text())
    assert wanted["run"].pop("out") == str(out)
    shown = tomllib.loads(recipe)
    assert shown["run"].pop("out") == "out"
    assert shown == wanted
    assert str(tmp_path) not in card


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/bin/align run /home/me/x.toml", "align run x.toml"),
        ("align run x.toml --set run.out='/tmp/a/b'", "align run x.toml --set run.out='b'"),
        ('path = "/home/me/my pictures/cats/"', 'path = "cats"'),
        ('path = "~/data"', 'path = "data"'),
        (r'path = "C:\\Users\\me\\data"', 'path = "data"'),
        ('files = ["/a/b.pt", "runs/c.pt"]', 'files = ["b.pt", "runs/c.pt"]'),
        ('prompt = "/imagine a cat, 1/2 asleep"', 'prompt = "/imagine a cat, 1/2 asleep"'),
        ('weights = "hf://a/b@c"', 'weights = "hf://a/b@c"'),
    ],
)
def test_card_has_no_path_of_the_machine(text, shown):
    assert _without_folders(text) == shown


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The folder of a run with two arms that train and one that does not."""
    arms = {
        "one": "{ strength = 1.0 }",
        "one more": "{ strength = 0.5 }",
        "plain": '{ kind = "best_of_n", n = 1 }',
    }
    compare = "".join(f'[[compare]]\nname = "{k}"\nmode = {v}\n' for k, v in arms.items())
    return made(tmp_path_factory.mktemp("several"), compare)


def test_each_of_several_models_has_one(several):
    for name, folder in (("one", "one"), ("one more", "one_more")):
        card = (several / "weights" / folder / "MODEL_CARD.md").read_text()
        assert card.startswith(f"# {name}\n")
    assert not (several / "MODEL_CARD.md").exists()
    assert not (several / "weights" / "plain").exists()


def test_card_has_the_notes_of_its_own_arm_alone(several):
    results = read(several)
    arms = (attrs.evolve(arm, notes=(f"About '{arm.name}'.",)) for arm in results.arms)
    save(several, attrs.evolve(results, arms=tuple(arms)))
    write(several)
    first, second = (
        (several / "weights" / name / "MODEL_CARD.md").read_text() for name in ("one", "one_more")
    )
    assert "About 'one'." in first
    assert "About 'one more'." not in first
    assert "About 'one more'." in second
    assert "About 'one'." not in second
