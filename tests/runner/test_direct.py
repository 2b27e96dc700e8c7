"""`align.sample`, and `align.run` of tables: what they take, give, and refuse."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from align_pocket import Pocket
from PIL import Image
from torch import nn

import align
from align import (
    BestOfN,
    Gradient,
    Likelihood,
    MetaFlowMap,
    Mixture,
    PartError,
    RewardTerm,
    Steer,
)
from align.core.errors import RecipeError

CPU = torch.device("cpu")
MODEL = Mixture(weights=(1.0,), means=((0.0, 0.0),), stds=(1.0,))
NEAR = Likelihood(matrix=((1.0, 0.0),), observed=(1.0,), std=1.0)


def near(data):
    return -((data[:, 0] - 1) ** 2) / 2


def sampled(rewards=NEAR, model=MODEL, mode=None, **more):
    parts = {"sampler": "mfm", "estimator": {"kind": "gradient", "draws": 2}, **more}
    return align.sample(model, mode or Steer(steps=3), rewards=rewards, samples=4, **parts)


def test_parts_may_be_objects_kinds_or_tables():
    table = {"kind": "mixture", "weights": [1.0], "means": [[0.0, 0.0]], "stds": [1.0]}
    first = sampled(sampler=MetaFlowMap(), estimator=Gradient(draws=2))
    assert sampled().x1.equal(first.x1)
    assert sampled(model=table, mode={"kind": "steer", "steps": 3}).x1.equal(first.x1)
    assert sampled(model=MODEL.build(CPU)).x1.equal(first.x1)


def test_rewards_may_be_specs_built_ones_functions_or_tables_with_names():
    first = sampled()
    table = {"kind": "likelihood", "matrix": [[1.0, 0.0]], "observed": [1.0], "std": 1.0}
    for rewards in ([NEAR], RewardTerm(part=NEAR), table, [table], NEAR.build(CPU)):
        assert torch.allclose(sampled(rewards).x1, first.x1)
    assert torch.allclose(sampled(near).x1, first.x1, atol=1e-5)
    named = sampled({"near": near, "judge": RewardTerm(part=NEAR, held_out=True)})
    assert list(named.scores) == ["near", "judge"]
    assert torch.allclose(named.x1, first.x1, atol=1e-5)
    strong = sampled({**table, "weight": 4.0})
    assert strong.scores["likelihood"].mean() > first.scores["likelihood"].mean()


def test_a_function_may_take_prompts_and_return_lists_or_arrays():
    def listed(data, prompts):
        assert prompts == [""] * len(data)
        return [float(row[0]) for row in data]

    first = sampled(listed, estimator={"kind": "stein", "draws": 2})
    arrays = sampled(lambda data: data[:, 0].numpy(), estimator={"kind": "stein", "draws": 2})
    assert torch.allclose(first.x1, arrays.x1)
    with pytest.raises(align.ContractError, match="carries no gradient; use an estimator that"):
        sampled(lambda data: [0.0] * len(data))
    with pytest.raises(align.ContractError, match=r"returned .*, expected"):
        sampled(lambda data: "high", estimator="stein")


def test_a_prompt_stands_in_place_of_the_models_own():
    mode = BestOfN(n=1, flow_steps=1)
    cat = align.sample(Pocket(prompt="cat"), mode, samples=2)
    assert align.sample(Pocket(), mode, prompt="cat", samples=2).x1.equal(cat.x1)
    assert align.sample("pocket", mode, prompt="cat", samples=2).x1.equal(cat.x1)
    built = Pocket(prompt="dog").build(CPU)
    assert align.sample(built, mode, prompt="cat", samples=2).x1.equal(cat.x1)
    with pytest.raises(PartError, match="prompt"):
        align.sample(MODEL, mode, prompt="cat", samples=2)


class Net(nn.Module):
    """The velocity from N(0, I) to N((3, 0), I), in closed form."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([3.0, 0.0]))

    def forward(self, x, t):
        t = t[:, None]
        return self.shift + (2 * t - 1) / (t**2 + (1 - t) ** 2) * (x - t * self.shift)


def test_a_network_in_memory_is_a_model():
    model = align.wrap(Net(), shape=(2,))
    result = align.sample(model, BestOfN(n=1, flow_steps=50), samples=500)
    assert result.x1.mean(0).tolist() == pytest.approx([3, 0], abs=0.2)
    assert result.x1.std(0).tolist() == pytest.approx([1, 1], abs=0.15)
    pictures = align.wrap(
        lambda x, t: x, shape=(4,), domain="image", decode=lambda x: x.reshape(-1, 1, 2, 2)
    )
    assert align.sample(pictures, BestOfN(flow_steps=2), samples=2).data.shape == (2, 3, 2, 2)
    with pytest.raises(PartError, match=r"model 'torch': .*missing.*'shape'"):
        align.wrap(Net())
    with pytest.raises(PartError, match=r"expected|must be"):
        align.wrap(Net(), shape=(2,), predicts="score", time_end=-1.0)
    with pytest.raises(PartError, match=r"no installed model wraps a builtins\.int"):
        sampled(model=3)


def test_a_result_has_pictures_a_table_and_a_short_description():
    result = align.sample(
        Pocket(prompt="cat"), BestOfN(flow_steps=2), rewards={"<b>": lambda d: d.mean((1, 2, 3))}
    )
    assert [type(image) for image in result.images] == [Image.Image] * 8
    assert result.images[0].size == (28, 28)
    wanted = (result.data[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255).round()
    assert np.abs(np.asarray(result.images[0]).astype(float) - wanted).max() <= 1
    assert result.table()[3] == {"sample": 3, "<b>": pytest.approx(float(result.scores["<b>"][3]))}
    assert len(repr(result)) < 120
    assert repr(result).startswith("<best_of_n: 8 samples, <b> 0.")
    page = result._repr_html_()
    assert page.count("data:image/png;base64,") == 8
    assert "<b>" not in page
    vectors = sampled()
    assert vectors._repr_html_().count("<td>") == 4
    with pytest.raises(PartError, match="has no pictures: its samples are vectors"):
        vectors.images  # noqa: B018


def test_a_trajectory_has_every_step_with_its_states():
    result = sampled(trajectory=True)
    assert [step.index for step in result.trajectory] == [0, 1, 2]
    assert result.trajectory[-1].x.equal(result.x1)
    assert {"reward", "guidance"} <= result.trajectory[0].numbers.keys()
    assert not sampled().trajectory


def test_a_callback_sees_each_step_and_may_end_the_run():
    seen = []

    def callback(step):
        seen.append((step.index, step.steps, tuple(step.x.shape)))
        return step.index == 1

    result = sampled(callback=callback, trajectory=True)
    assert seen == [(0, 3, (4, 2)), (1, 3, (4, 2))]
    assert result.x1 is None
    assert result.table() == []
    assert len(result.trajectory) == 2
    assert "0 samples" in repr(result)
    assert sampled(callback=lambda step: None).x1.equal(sampled().x1)


def test_wrong_arguments_are_told_all_at_once():
    with pytest.raises(PartError) as caught:
        align.sample(
            MODEL,
            "ster",
            rewards=[3, {"kind": "likelihood", "weight": "a"}],
            sampler=5,
            estimator={"kind": "gradient", "drawz": 2},
        )
    lines = str(caught.value).splitlines()
    assert "mode.kind: no mode named 'ster'; did you mean 'steer'?" in lines
    assert any(line.startswith("sampler: expected a") and "got an int" in line for line in lines)
    assert "estimator.drawz: no option named 'drawz'; did you mean 'draws'?" in lines
    assert any(line.startswith("rewards[0]: expected a reward, a function") for line in lines)
    assert "rewards[1].weight: expected a number, got the string 'a'" in lines
    with pytest.raises(PartError, match="'steer' needs a reward to optimise"):
        align.sample(MODEL, "steer", sampler="mfm", estimator="gradient")
    with pytest.raises(PartError, match="draws from the posterior, but the recipe has no sampler"):
        align.sample(MODEL, "steer", estimator="gradient", rewards=NEAR)


@pytest.mark.usefixtures("unpainted")
def test_a_recipe_may_be_tables_in_which_parts_are_objects(tmp_path):
    recipe = {
        "run": {"samples": 2, "unsteered": 0, "out": tmp_path / "out"},
        "model": MODEL,
        "sampler": "mfm",
        "estimator": Gradient(draws=2),
        "reward": [RewardTerm(part=NEAR, weight=2.0)],
        "mode": Steer(steps=2),
    }
    result = align.run(recipe, progress=False)
    assert (result.folder / "report.html").exists()
    again = align.run(
        result.folder / "recipe.toml", sets=[f'run.out="{tmp_path / "again"}"'], progress=False
    )
    assert again.results[0].x1.equal(result.results[0].x1)
    wrong = {**recipe, "mode": {"kind": "steer", "stpes": 2}, "seed": object()}
    with pytest.raises(RecipeError, match=r"^recipe: seed: expected a value of TOML, got an obj"):
        align.run(wrong)
    del wrong["seed"]
    with pytest.raises(RecipeError, match=r"^recipe: mode\.stpes: no option named 'stpes'; did"):
        align.run(wrong)


def test_sample_logs_nothing_in_a_process_that_asked_for_no_log():
    code = (
        "import align\n"
        "model = align.Mixture(weights=(1.0,), means=((0.0,),), stds=(1.0,))\n"
        "mode = align.BestOfN(flow_steps=1)\n"
        "align.sample(model, mode, rewards=lambda data: data[:, 0], samples=2, device='cpu')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
