"""The card of a trained model says what it is, what it was trained for and how to repeat it."""

import tomllib

from align.catalog.registry import load_catalog
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
    recipe = card.partition("```toml\n")[2].partition("\n```")[0]
    assert tomllib.loads(recipe) == tomllib.loads((out / "recipe.toml").read_text())


def test_each_of_several_models_has_one(tmp_path):
    arms = '[[compare]]\nname = "one"\n[[compare]]\nname = "two"\nmode = {{ strength = 0.5 }}\n'
    plain = '[[compare]]\nname = "plain"\nmode = {{ kind = "best_of_n", n = 1 }}\n'
    out = made(tmp_path, (arms + plain).replace("{{", "{").replace("}}", "}"))
    for name in ("one", "two"):
        assert (out / "weights" / name / "MODEL_CARD.md").read_text().startswith(f"# {name}\n")
    assert not (out / "MODEL_CARD.md").exists()
    assert not (out / "weights" / "plain").exists()
