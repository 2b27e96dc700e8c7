"""The road a run takes, from a recipe to its folder, and back from the folder."""

import json
import re
import signal
import sys
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import attrs
import pytest
import torch
from safetensors.torch import load_file

import align
from align.catalog.hookspecs import hookimpl
from align.catalog.registry import load_catalog
from align.core.errors import ContractError, PartError, PluginError, RecipeError
from align.core.reward import Reward, RewardSpec
from align.engine import allocator, rehearsal
from align.engine.memory import DeviceMemory
from align.estimators.stein import Stein
from align.models.mixture import Mixture
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.recipe import RewardTerm
from align.rewards.linear import Likelihood
from align.runner.session import device_of, run
from align.samplers.mfm import MetaFlowMap
from align.training import checkpoint

pytestmark = pytest.mark.usefixtures("unpainted")
MODEL = """\
[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0, 0.0], [2.0, 1.0]]
stds = [0.5, 0.7]
"""
REWARD = """
[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.5]]
observed = [1.5]
std = 0.5
"""
HELD_OUT = """
[[reward]]
kind = "likelihood"
name = "other"
matrix = [[0.0, 1.0]]
observed = [0.0]
std = 1.0
held_out = true
"""
PARTS = """
[sampler]
kind = "mfm"

[estimator]
kind = "stein"
draws = 4

[mode]
kind = "steer"
steps = 5
"""
ARMS = """
[[compare]]
name = "plain"
mode = { kind = "best_of_n", n = 2, flow_steps = 5 }

[[compare]]
name = "Stein"

[[compare]]
name = "gradient, noisy"
estimator = { kind = "gradient", draws = 2 }
mode.dynamics = "sde"
"""
RECIPE = "[run]\nsamples = 4\n\n" + MODEL + REWARD + HELD_OUT + PARTS + ARMS
FOLDERS = ("plain", "stein", "gradient_noisy")
STEPS = 60
PATIENCE = 900  # seconds; on an idle machine it takes five
TRAINING = (
    "[run]\ncheckpoint_every = 10\n"
    + MODEL
    + f"""
[mode]
kind = "distill"
net = {{ kind = "mlp", width = 8, depth = 1 }}
steps = {STEPS}
optimisation = {{ batch = 8, warmup = 5 }}
"""
)
LONG = (
    MODEL
    + REWARD
    + f"""
[estimator]
kind = "exact"

[mode]
kind = "steer"
steps = {STEPS}
"""
)
# A plugin that gives a signal time to arrive.
SLOW = """\
import time
from align.catalog.hookspecs import hookimpl


@hookimpl
def align_step():
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def catalog():
    return load_catalog([])


@pytest.fixture(scope="module")
def go(catalog, tmp_path_factory):
    """Run a recipe's text, or a file, into a fresh folder."""

    def gone(recipe, *sets, out=None, catalog=catalog):
        folder = tmp_path_factory.mktemp("run")
        if not isinstance(recipe, Path):
            (folder / "r.toml").write_text(recipe)
            recipe = folder / "r.toml"
        sets = [*sets, f'run.out="{out or folder / "out"}"']
        return run(recipe, sets=sets, progress=False, catalog=catalog)

    return gone


@pytest.fixture(scope="module")
def done(go):
    return go(RECIPE)


def states(folder):
    return {p.parent.name: load_file(p)["x1"] for p in folder.glob("samples/*/states.safetensors")}


def same(one, other):
    one, other = states(one), states(other)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def same_weights(one, other):
    # Not the bytes of the files: safetensors writes its header's entries in any order.
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def about(folder):
    return json.loads((folder / "about.json").read_text())


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_the_folder_of_a_run(done):
    names = {path.name for path in done.folder.iterdir()}
    assert names == {
        "about.json",
        "curves.png",
        "report.html",
        "log.txt",
        "metrics.jsonl",
        "recipe.toml",
        "results.json",
        "samples",
        "scatter.png",
        "table.csv",
        "table.md",
        "tradeoff.png",
    }
    assert set(states(done.folder)) == set(FOLDERS)
    assert all(x1.shape == (4, 2) for x1 in states(done.folder).values())
    assert about(done.folder)["status"] == "done"
    origins = about(done.folder)["origins"]
    assert {name.rpartition(".")[2] for name in origins} == {
        "Mixture",
        "MetaFlowMap",
        "Stein",
        "Gradient",
        "Likelihood",
        "Steer",
        "BestOfN",
        "ODE",
        "SDE",
    }
    assert all(origin.startswith("align-core ") for origin in origins.values())
    log = (done.folder / "log.txt").read_text()
    assert "Stein: 5 steps, from step 0" in log
    told = [(v["arm"], v["step"]) for v in metrics(done.folder)]
    assert told == [("plain", n) for n in range(2)] + [
        (arm, n) for arm in ("Stein", "gradient, noisy") for n in range(5)
    ]


def test_returned_result_equals_the_recorded_one(done):
    assert [result.name for result in done.results] == ["plain", "Stein", "gradient, noisy"]
    for result, folder, arm in zip(
        done.results, FOLDERS, results(done.folder)["arms"], strict=True
    ):
        assert torch.equal(result.x1, states(done.folder)[folder])
        assert arm["folder"] == f"samples/{folder}"
        assert arm["scores"] == {name: s.tolist() for name, s in result.scores.items()}
        assert arm["cost"]["calls"] == result.cost.calls
    # 5 steps, 4 samples: one network call each, with Stein 4 draws more and their rewards.
    assert done.results[0].cost.calls == {"network": 40, "decoder": 8}
    assert done.results[0].cost.reward_calls == {"likelihood": 8}
    assert done.results[1].cost.calls == {"network": 100, "decoder": 80}
    assert done.results[1].cost.reward_calls == {"likelihood": 80}
    assert done.results[1].cost.backward == {}
    assert done.results[2].cost.backward["network"] == 40


def test_the_resolved_recipe_repeats_the_run(done, go):
    again = go(done.folder / "recipe.toml")
    assert again.folder != done.folder
    assert same(again.folder, done.folder)
    assert metrics(again.folder) == metrics(done.folder)
    one, other = ((r.folder / "recipe.toml").read_text().splitlines() for r in (done, again))
    differing = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
    assert [line.partition(" = ")[0] for pair in differing for line in pair] == ["out", "out"]


def test_running_into_the_same_folder_again_leaves_one_run(go):
    first = go(LONG, "mode.steps=3")
    before, x1 = metrics(first.folder), states(first.folder)
    again = go(first.folder / "recipe.toml", out=first.folder)
    assert again.folder == first.folder
    assert metrics(again.folder) == before
    assert torch.equal(states(again.folder)["steer"], x1["steer"])
    assert about(again.folder)["status"] == "done"
    other = go(LONG, "mode.steps=2", out=first.folder)
    assert other.folder == first.folder.with_name("out-2")
    assert metrics(first.folder) == before


@pytest.mark.parametrize("chunk", [1, 3])
def test_the_chunk_changes_no_state(done, go, chunk):
    cut = go(RECIPE, f"run.chunk={chunk}")
    for name, x1 in states(cut.folder).items():
        assert torch.allclose(x1, states(done.folder)[name], rtol=0, atol=1e-12)
    for one, other in zip(cut.results, done.results, strict=True):
        assert (one.cost.calls, one.cost.backward) == (other.cost.calls, other.cost.backward)


@pytest.fixture(scope="module")
def short(go):
    """The same run, while as good as no memory is free."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceMemory, "free", lambda self: 4000.0)
        return go(RECIPE)


def test_memory_that_is_short_changes_states_by_rounding_alone(done, short):
    for name, x1 in states(short.folder).items():
        assert torch.allclose(x1, states(done.folder)[name], rtol=0, atol=1e-10)
    for one, other in zip(short.results, done.results, strict=True):
        assert (one.cost.calls, one.cost.backward) == (other.cost.calls, other.cost.backward)


def test_a_repeated_run_has_the_rows_at_once_that_it_had_before_and_its_bits(done, short, go):
    before = about(short.folder)["chunks"]
    assert list(before) == ["plain", "Stein", "gradient, noisy"]
    assert {*before["Stein"]} == {"velocity", "posterior_jump", "decode"} | {
        "reward 'likelihood'",
        "reward 'other'",
    }
    assert "gradient of the reward" in before["gradient, noisy"]
    assert before["Stein"]["posterior_jump"] < 16  # fewer than states and draws
    had = states(short.folder)
    again = go(short.folder / "recipe.toml", out=short.folder)  # now there is enough memory
    assert again.folder == short.folder
    assert about(again.folder)["chunks"] == before
    assert all(torch.equal(x1, had[name]) for name, x1 in states(again.folder).items())
    assert {*about(done.folder)["chunks"]["Stein"].values()} == {1 << 20}


@pytest.mark.parametrize("damaged", ["many", ["a"], {"Stein": 3, "plain": {"velocity": "x"}}])
def test_rows_at_once_that_cannot_be_read_are_found_anew(go, damaged):
    first = go(LONG, "mode.steps=1")
    facts = about(first.folder)
    (first.folder / "about.json").write_text(json.dumps({**facts, "chunks": damaged}))
    again = go(first.folder / "recipe.toml", out=first.folder)
    assert about(again.folder)["chunks"]["steer"] == facts["chunks"]["steer"]


@pytest.mark.parametrize("samples", [1, 16])
def test_a_sample_does_not_depend_on_their_number(done, go, samples):
    # The noise is the same to the last bit. exp and sums are not: vectorised loops treat the rows
    # at the end of a batch apart, which differs by 1e-16 a step, and the posterior map's
    # bisection and the weights of the draws enlarge that a thousandfold or so.
    other = states(go(RECIPE, f"run.samples={samples}").folder)
    for name, x1 in states(done.folder).items():
        shared = min(samples, 4)
        assert torch.allclose(other[name][:shared], x1[:shared], rtol=0, atol=1e-10)


def test_the_seed_matters(done, go):
    other = states(go(RECIPE, "run.seed=1", "compare=[]").folder)["steer"]
    assert not torch.isclose(other, states(done.folder)["stein"]).any()


def test_held_out_rewards_are_measured_and_nothing_more(done, go):
    without = go(RECIPE.replace(HELD_OUT, ""))
    assert same(without.folder, done.folder)
    for result in done.results:
        assert torch.allclose(result.scores["other"], -0.5 * result.x1[:, 1] ** 2)
        assert "other" not in result.cost.reward_calls | result.cost.reward_backward
    assert without.results[1].divergence == done.results[1].divergence
    said = results(done.folder)
    assert said["rewards"]["other"].items() >= {"weight": 1.0, "held_out": True}.items()
    assert "other (held out)" in (done.folder / "table.md").read_text()


def test_unsteered_samples_change_nothing_but_what_is_said_of_divergence(done, go):
    without = go(RECIPE, "run.unsteered=0")
    assert same(without.folder, done.folder)
    assert metrics(without.folder) == metrics(done.folder)
    assert results(without.folder)["unsteered"] == []
    for one, other in zip(without.results, done.results, strict=True):
        for count in ("calls", "backward", "flops"):
            assert getattr(one.cost, count) == getattr(other.cost, count)
        assert one.divergence.reward == other.divergence.reward
        assert one.divergence.at_most == other.divergence.at_most
        assert one.divergence.at_least is None
        assert other.divergence.at_least is not None
    assert "KL at least" not in (without.folder / "table.md").read_text()


def test_unsteered_samples_are_recorded(done):
    (base,) = results(done.folder)["unsteered"]
    assert (base["arms"], base["flow_steps"]) == (["plain", "Stein", "gradient, noisy"], 5)
    assert [len(scores) for scores in base["scores"].values()] == [64, 64]
    assert base["r"] == base["scores"]["likelihood"]
    assert base["cost"]["calls"]["network"] == 320
    value = float(torch.tensor(base["r"], dtype=torch.float64).exp().mean().log())
    for result, arm in zip(done.results, results(done.folder)["arms"], strict=True):
        assert arm["divergence"] == attrs.asdict(result.divergence)
        mean = float(result.scores["likelihood"].mean())
        assert result.divergence.at_least == pytest.approx(mean - value)
    # Best of 2 by its own account, Girsanov for the SDE, nothing for the ODE.
    plain, ode, sde = (result.divergence.at_most for result in done.results)
    assert plain == pytest.approx(0.1931, abs=1e-4)
    assert (ode, sde > 0) == (None, True)
    assert "| KL at least | KL at most |" in (done.folder / "table.md").read_text()
    assert "64 unsteered samples of 'mixture' in 5 steps" in (done.folder / "log.txt").read_text()


def test_rewards_are_normalised_for_every_arm(done, go):
    text = RECIPE.replace("std = 0.5\n", 'std = 0.5\nnormalise = "zscore"\nweight = 0.5\n', 1)
    normalised = go(text)
    assert not same(normalised.folder, done.folder)
    (base,) = results(normalised.folder)["unsteered"]
    scores = torch.tensor(base["scores"]["likelihood"], dtype=torch.float64)
    assert base["scores"] == results(done.folder)["unsteered"][0]["scores"]
    weight = 0.5 / float(scores.std())
    r = torch.tensor(base["r"], dtype=torch.float64)
    assert torch.allclose(r, weight * (scores - scores.mean()))
    # (R − mean) / std tilts as R itself with a smaller weight does.
    by_hand = go(RECIPE.replace("std = 0.5\n", f"std = 0.5\nweight = {weight}\n", 1))
    for name, x1 in states(by_hand.folder).items():
        assert torch.allclose(states(normalised.folder)[name], x1, atol=1e-9)
    for one, other in zip(normalised.results, by_hand.results, strict=True):
        assert torch.allclose(one.scores["likelihood"], other.scores["likelihood"])
        assert one.divergence.at_least == pytest.approx(other.divergence.at_least)
        assert one.cost.calls == other.cost.calls


def test_notes_of_a_run_stand_in_results_table_and_log(go):
    noted = go(LONG, "mode.steps=2", 'mode.guidance_norm="renorm"', "reward[0].weight=80")
    (steered,) = results(noted.folder)["arms"]
    (first,), (second,) = steered["notes"], results(noted.folder)["notes"]
    assert first.startswith("guidance_norm = 'renorm'")
    assert second.startswith("'KL at least' says nothing of steer")
    table = (noted.folder / "table.md").read_text()
    assert f"\nsteer: {first}\n" in table
    assert f"\n{second}\n" in table
    log = (noted.folder / "log.txt").read_text()
    assert f"WARNING steer: {first}" in log
    assert f"WARNING {second}" in log


@attrs.frozen(kw_only=True)
class Odd(RewardSpec):
    """Forgets the batch once so many steps of a run were told, `bad`; never if that is 0."""

    kind: ClassVar[str] = "odd"
    differentiable: ClassVar[bool] = False
    domain: ClassVar[str | None] = None
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    bad: int = attrs.field(
        default=2, metadata={"help": "steps before it; calls would count a plan's"}
    )

    def build(self, device):
        return _Odd(sys.modules["align_fake_plugin"].told, self.bad)


@attrs.frozen
class _Odd(Reward):
    told: list
    bad: int

    def score(self, data, prompts):
        steps = sum(what == "step" for what, *_ in self.told)
        return torch.zeros(()) if 0 < self.bad == steps else torch.zeros(len(data))


@pytest.fixture
def plugin(monkeypatch):
    """A plugin that writes down what it is told, and its catalog."""
    module, told = ModuleType("align_fake_plugin"), []

    @hookimpl
    def align_rewards():
        return [Odd]

    @hookimpl
    def align_run_start(run):
        told.append(("start", about(run.folder)["status"]))

    @hookimpl
    def align_step(run, index, info):
        told.append(("step", index, info.numbers["reward"], len(metrics(run.folder))))

    @hookimpl
    def align_run_end(run, result, error):
        told.append(("end", about(run.folder)["status"], result, error))

    for hook in (align_rewards, align_run_start, align_step, align_run_end):
        setattr(module, hook.__name__, hook)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.told = told
    module.catalog = load_catalog([EntryPoint("fake", module.__name__, "align")])
    assert not module.catalog.broken
    return module


def test_hooks_are_called(go, plugin):
    result = go(LONG, "mode.steps=2", catalog=plugin.catalog)
    start, *steps, end = plugin.told
    assert start == ("start", "running")
    numbers = [v["reward"] for v in metrics(result.folder)]
    assert steps == [("step", 0, numbers[0], 1), ("step", 1, numbers[1], 2)]
    assert end == ("end", "done", result, None)


def test_a_part_that_breaks_its_contract_fails_the_run(go, plugin, tmp_path):
    recipe = MODEL + '\n[[reward]]\nkind = "odd"\n' + PARTS
    with pytest.raises(ContractError) as caught:
        go(recipe, "run.unsteered=0", out=tmp_path / "bad", catalog=plugin.catalog)
    reason = "reward 'odd': score returned () torch.float32, expected (32,) of torch.float32 or "
    reason += "wider; in step 3 of 5"
    assert str(caught.value) == reason
    assert about(tmp_path / "bad")["status"] == f"failed: ContractError: {reason}"
    assert len(metrics(tmp_path / "bad")) == 2
    assert plugin.told[-1][2:] == (None, caught.value)
    assert not (tmp_path / "bad" / "results.json").exists()


def test_a_run_that_fails_before_it_has_made_anything_leaves_no_folder(go, tmp_path):
    (tmp_path / "lists.py").write_text("def score(data, prompts):\n    return [0.0]\n")
    reward = f'kind = "python"\nfile = "{tmp_path}/lists.py"\ndomain = "vector"\n'
    recipe = f"{MODEL}\n[[reward]]\n{reward}differentiable = false\n{PARTS}"
    with pytest.raises(ContractError, match="returned a list"):
        go(recipe, "run.unsteered=0", out=tmp_path / "runs" / "bad")
    assert not (tmp_path / "runs").exists()


def test_a_reward_that_is_always_the_same_cannot_be_normalised(go, plugin, tmp_path):
    recipe = MODEL + '\n[[reward]]\nkind = "odd"\nbad = 0\nnormalise = "rank"\n' + PARTS
    with pytest.raises(PartError, match="'odd' cannot be normalised by 'rank': all 64 unsteered"):
        go(recipe, out=tmp_path / "bad", catalog=plugin.catalog)


def test_a_hook_that_fails_at_the_start_fails_the_run(go, plugin, tmp_path, monkeypatch):
    @hookimpl
    def align_run_start(run):
        raise OSError("no tracker")

    monkeypatch.setattr(plugin, "align_run_start", align_run_start)
    broken = load_catalog([EntryPoint("fake", plugin.__name__, "align")])
    told = r"plugin fake \(.*\): align_run_start raised OSError: no tracker \("
    with pytest.raises(PluginError, match=rf"^{told}"):
        go(LONG, out=tmp_path / "bad", catalog=broken)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_hook_that_fails_later_is_told_at_the_end_of_a_complete_run(
    go, plugin, tmp_path, monkeypatch, kind
):
    calls = []

    @hookimpl
    def align_step(index):
        calls.append(index)
        raise kind("no tracker")

    monkeypatch.setattr(plugin, "align_step", align_step)
    broken = load_catalog([EntryPoint("fake", plugin.__name__, "align")])
    told = rf"^plugin fake \(.*\): align_step raised {kind.__name__}: no tracker \("
    with pytest.raises(PluginError, match=told):
        go(LONG, "mode.steps=2", out=tmp_path / "whole", catalog=broken)
    assert calls == [0]
    assert about(tmp_path / "whole")["status"] == "done"
    assert (tmp_path / "whole" / "results.json").exists()


def test_parts_can_be_run_without_a_recipe(done):
    model = Mixture(weights=(0.4, 0.6), means=((-2.0, 0.0), (2.0, 1.0)), stds=(0.5, 0.7))
    optimised = Likelihood(matrix=((1.0, 0.5),), observed=(1.5,), std=0.5)
    other = Likelihood(matrix=((0.0, 1.0),), observed=(0.0,), std=1.0)
    result = align.sample(
        model,
        Steer(steps=5),
        rewards=[RewardTerm(part=optimised), RewardTerm(part=other, held_out=True)],
        sampler=MetaFlowMap(),
        estimator=Stein(draws=4),
        samples=4,
    )
    assert torch.equal(result.x1, done.results[1].x1)
    assert result.cost.calls == done.results[1].cost.calls
    assert list(result.scores) == ["likelihood", "likelihood_2"]
    assert torch.equal(result.scores["likelihood_2"], done.results[1].scores["other"])


def test_sample_leaves_the_memory_settings_of_its_process_alone(monkeypatch):
    asked = []

    class Library:
        def __getattr__(self, name):
            return lambda *arguments: asked.append(name)

    monkeypatch.setattr(allocator, "_library", Library)
    model = Mixture(weights=(1.0,), means=((0.0,),), stds=(1.0,))
    align.sample(model, BestOfN(n=1, flow_steps=1), samples=1, device="cpu")
    assert set(asked) <= {"malloc_trim"}
    allocator.keep_freed()
    assert "mallopt" in asked


def test_a_device_that_is_not_there():
    assert device_of("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert device_of("auto") == torch.device("cpu")
        with pytest.raises(PartError, match="torch sees no CUDA device"):
            device_of("cuda")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch.func.jvp
def test_arms_that_train_do_not_take_each_others_weights(go):
    arms = '[[compare]]\nname = "a"\n[[compare]]\nname = "b"\nmode.steps = 4\n'
    arms += '[[compare]]\nname = "c"\nmode.consistency = { kind = "eulerian" }\n'
    compared = go(TRAINING + arms, "mode.steps=3")
    assert [(v["arm"], v["step"]) for v in metrics(compared.folder)] == [
        (arm, n) for arm, steps in (("a", 3), ("b", 4), ("c", 3)) for n in range(steps)
    ]
    alone = go(TRAINING, "mode.steps=4")
    assert same_weights(compared.folder / "weights" / "b", alone.folder)
    assert not same_weights(compared.folder / "weights" / "a", alone.folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder for PYTHONPATH in which the slow plugin is installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "align_slow.py").write_text(SLOW)
    info = folder / "align_slow-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: align-slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[align]\nslow = align_slow\n")
    return folder


@pytest.fixture
def struck(site, forked):
    """Start `align run` on the command line, and send it a signal after so many steps."""

    def strike(recipe, after, blow):
        out = recipe.parent / "out"
        child = forked("align", "run", recipe, "--set", f'run.out="{out}"', paths=[site])
        told, deadline = out / "metrics.jsonl", time.monotonic() + PATIENCE
        while not told.exists() or told.read_text().count("\n") < after:
            assert child.poll() is None, child.stderr
            assert time.monotonic() < deadline, "it does not begin"
            time.sleep(0.01)
        child.send(blow)
        code = child.ended()
        return out, code, child.stderr

    return strike


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / "r.toml").write_text(text)
        return tmp_path / "r.toml"

    return write


def test_ctrl_c_leaves_a_readable_folder(struck, written, go):
    recipe = written(LONG)
    out, code, said = struck(recipe, 3, signal.SIGINT)
    assert code == 130
    *_, stopped, kept = said.rstrip().splitlines()
    assert stopped.endswith("interrupted")
    again = f"`align run {out}/recipe.toml` begins anew"
    assert kept == f"'{out}' keeps what was written so far, which holds no checkpoint; {again}"
    assert "Traceback" not in said
    assert "INFO" not in said  # the log goes to the folder, not to the terminal
    assert about(out)["status"] == "interrupted"
    told = metrics(out)
    assert 3 <= len(told) < STEPS
    assert [v["step"] for v in told] == list(range(len(told)))
    assert (out / "recipe.toml").is_file()
    assert not list(out.glob("checkpoint*"))
    again = go(out / "recipe.toml", out=out)
    assert again.folder == out
    assert [v["step"] for v in metrics(out)] == list(range(STEPS))
    assert metrics(out)[: len(told)] == told


@pytest.fixture(scope="module")
def trained(go):
    return go(TRAINING)


def test_a_training_run(trained):
    names = {path.name for path in trained.folder.iterdir()}
    assert {"model.safetensors", "curves.png", "results.json"} <= names
    assert trained.results[0].x1 is None
    assert trained.results[0].cost.flops > 0
    losses = [v["loss"] for v in metrics(trained.folder)]
    assert len(set(losses)) == STEPS
    rates = [v["learning_rate"] for v in metrics(trained.folder)]
    assert rates[0] < rates[4] > rates[-1]


@pytest.mark.parametrize(
    ("blow", "after", "status", "code"),
    [
        (signal.SIGINT, 3, "interrupted", 130),
        (signal.SIGKILL, 23, "running", -signal.SIGKILL),
    ],
    ids=["ctrl-c", "killed"],
)
def test_training_goes_on_as_if_nothing_had_happened(
    struck, written, go, trained, blow, after, status, code
):
    recipe = written(TRAINING)
    out, returned, _ = struck(recipe, after, blow)
    assert returned == code
    assert about(out)["status"] == status
    told = len(metrics(out))
    assert after <= told < STEPS
    done = checkpoint.read(out)["done"]
    assert done == (told if blow == signal.SIGINT else told // 10 * 10)
    assert not (out / "model.safetensors").exists()
    go(recipe, out=out)
    assert about(out)["status"] == "done"
    assert f"distill: {STEPS} steps, from step {done}" in (out / "log.txt").read_text()
    assert metrics(out) == metrics(trained.folder)
    assert same_weights(out, trained.folder)


def test_a_prompt_that_cannot_be_followed_is_shown_where_it_stands(tmp_path):
    recipe = tmp_path / "spoon.toml"
    recipe.write_text(
        '[model]\nkind = "pocket"\nprompt = "a spoon"\n[mode]\nkind = "best_of_n"\n'
        '[[reward]]\nkind = "compressibility"\n'
    )
    with pytest.raises(RecipeError) as caught:
        run(recipe, sets=[f'run.out="{tmp_path / "out"}"'], progress=False)
    assert str(caught.value).startswith(f"{recipe}:3: model.prompt: 'a spoon' names none of")


SEARCHES = """
[[compare]]
name = "unsteered"
mode = { kind = "best_of_n", n = 1, flow_steps = 5 }

[[compare]]
name = "another flow"
mode = { kind = "best_of_n", n = 2, flow_steps = 4 }

[[compare]]
name = "3"
mode = { kind = "best_of_n", n = 3, flow_steps = 5 }

[[compare]]
name = "5"
mode = { kind = "best_of_n", n = 5, flow_steps = 5 }

[[compare]]
name = "5 again"
mode = { kind = "best_of_n", n = 5, flow_steps = 5 }
"""


MEASURED = dict.fromkeys(("seconds", "warmup_seconds", "step_seconds", "reward_seconds", "memory"))


def unmeasured(arm):
    """An arm of results.json without time and memory, in what it cost and in its plan."""
    return arm | {key: arm[key] | MEASURED for key in ("cost", "plan")}


def by_arm(folder, name):
    """All that a run keeps of an arm but for time and memory."""
    (arm,) = (unmeasured(arm) for arm in results(folder)["arms"] if arm["name"] == name)
    return arm, [line for line in metrics(folder) if line["arm"] == name]


def test_arms_go_on_from_searches_before_them_and_are_what_they_are_alone(go, monkeypatch):
    taken, step = [], BestOfN.step

    def counted(self, problem, state, index, streams):
        if len(streams.samples) != rehearsal.SAMPLES:  # the steps of a plan are not the run's
            taken.append((self.n, index))
        return step(self, problem, state, index, streams)

    monkeypatch.setattr(BestOfN, "step", counted)
    recipe = "[run]\nsamples = 4\nunsteered = 0\n" + MODEL + REWARD + PARTS
    together = go(recipe + SEARCHES).folder
    assert taken == [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (5, 3), (5, 4)]
    alone = {x["name"]: x for x in tomllib.loads(SEARCHES)["compare"]}["5"]["mode"]
    mode = ", ".join(f"{key} = {json.dumps(value)}" for key, value in alone.items())
    single = go(recipe + f'[[compare]]\nname = "5"\nmode = {{ {mode} }}\n').folder
    assert taken[7:] == [(5, index) for index in range(5)]
    assert by_arm(together, "5") == by_arm(single, "5")
    again, lines = by_arm(together, "5 again")
    assert (again["scores"], again["cost"]) == tuple(
        by_arm(together, "5")[0][key] for key in ("scores", "cost")
    )
    assert len(lines) == 5
    assert torch.equal(states(together)["5"], states(single)["5"])
    seconds = {arm["name"]: arm["cost"]["seconds"] for arm in results(together)["arms"]}
    assert seconds["unsteered"] < seconds["3"] < seconds["5"]
    text = "3: 1 of its 3 steps are those of 'unsteered', and are charged as if taken again"
    assert text in (together / "log.txt").read_text()


def numbers(folder):
    """What results.json has, but for seconds and memory of arms, which are measured."""
    found = results(folder)
    del found["digest"]
    return found | {"arms": [unmeasured(arm) for arm in found["arms"]]}


def test_second_run_has_the_numbers_of_the_first_and_says_where_its_samples_are_from(
    go, tmp_path, monkeypatch
):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path))
    monkeypatch.setenv("ALIGN_CACHE_GB", "1")
    recipe = "[run]\nsamples = 2\nunsteered = 8\n" + MODEL + REWARD + PARTS
    first, second = go(recipe), go(recipe, "mode.steps=4")
    anew = go(recipe, "run.cache=false")
    assert numbers(first.folder) == numbers(anew.folder) | {
        "unsteered": numbers(first.folder)["unsteered"]
    }
    assert numbers(second.folder)["unsteered"] == numbers(first.folder)["unsteered"]
    (origin,) = about(second.folder)["unsteered"]
    assert re.fullmatch(r"from the cache \(drawn 20.* UTC for /.*/r\.toml\)", origin)
    assert f"8 unsteered samples of 'mixture' {origin}" in (second.folder / "log.txt").read_text()
    assert "unsteered" not in about(first.folder)
    assert "unsteered" not in about(anew.folder)
    assert len(list((tmp_path / "unsteered").glob("*/states.safetensors"))) == 1


def test_cache_is_no_other_recipe_for_a_folder(go, tmp_path):
    recipe = "[run]\nsamples = 2\nunsteered = 0\n" + MODEL + REWARD + PARTS
    first = go(recipe, out=tmp_path / "out")
    second = go(recipe, "run.cache=false", out=tmp_path / "out")
    assert first.folder == second.folder


def test_room_of_the_cache_that_is_no_number_is_told(go, monkeypatch):
    monkeypatch.setenv("ALIGN_CACHE_GB", "much")
    with pytest.raises(PartError, match="ALIGN_CACHE_GB is 'much'; set it to the gigabytes"):
        go("[run]\nsamples = 2\nunsteered = 8\n" + MODEL + REWARD + PARTS)
