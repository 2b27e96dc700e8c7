"""Base samples that are kept: what they are known by, and when they are drawn anew."""

import json
from importlib.metadata import EntryPoint

import attrs
import pytest
import torch
from loguru import logger
from PIL import Image
from safetensors.torch import load_file

from align.core.model import ModelSpec
from align.core.reward import Repeatable, Reward, RewardSpec
from align.io.cache import Cache
from align.models.mixture import Mixture
from align.models.network import Network
from align.modes.sampling.best_of_n import BestOfN
from align.networks.mlp import MLPConfig
from align.recipe import Arm, Recipe, RewardTerm, Run, with_unique_names
from align.rewards.linear import Likelihood
from align.rewards.psnr import PSNR
from align.rewards.python import Python
from align.runner import kept
from align.runner.base_samples import sample_bases
from align.runner.build import Rewards, build
from align.runner.kept import Shelves
from align.training import weights

CPU = torch.device("cpu")
MODEL = Mixture(weights=(0.3, 0.7), means=((-2.0,), (0.5,)), stds=(0.4, 0.7))
NEAR = Likelihood(matrix=((1.0,),), observed=(1.0,), std=0.6)
FAR = Likelihood(matrix=((1.0,),), observed=(-2.0,), std=3.0)
HOW = {"flow_steps": 3}


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """Those of align and its plugins are not read anew for every test; gives what reads them."""
    code = kept._code
    monkeypatch.setattr(kept, "_code", lambda cache: {})
    return code


@pytest.fixture
def shelves(tmp_path):
    return Shelves(Cache(tmp_path / "cache", 10**7), "a.toml")


def recipe(*rewards, model=MODEL, unsteered=6, flow_steps=3, **run):
    mode = BestOfN(n=2, flow_steps=flow_steps)
    return Recipe(
        run=Run(unsteered=unsteered, samples=2, **run),
        reward=with_unique_names(
            part if isinstance(part, RewardTerm) else RewardTerm(part=part) for part in rewards
        ),
        mode=mode,
        compare=(Arm(name="a", model=model, sampler=None, estimator=None, mode=mode),),
    )


def shelf_of(shelves, asked, how=HOW):
    built = build(asked.arms()[0], Rewards(asked.reward, CPU), asked.run)
    return shelves.of(built, asked, how)


def drawn(shelves, *rewards, shown=None, **options):
    """The base samples of a run, and whether its model was asked for whole samples."""
    asked, steps = recipe(*rewards, **options), []
    with pytest.MonkeyPatch.context() as patched:
        step = BestOfN.step

        def counted(self, *arguments):
            steps.append(self)
            return step(self, *arguments)

        patched.setattr(BestOfN, "step", counted)
        bases = sample_bases(asked, Rewards(asked.reward, CPU), shelves=shelves)
    (base,) = bases.models
    return base, bool(steps)


@pytest.fixture
def log():
    lines = []
    logger.enable("align")
    sink = logger.add(lambda line: lines.append(line.strip()), format="{message}", level="INFO")
    yield lines
    logger.remove(sink)
    logger.disable("align")


def same(one, other):
    assert one.scores.keys() == other.scores.keys()
    assert all(torch.equal(one.scores[name], other.scores[name]) for name in one.scores)
    assert torch.equal(one.traits.norm, other.traits.norm)
    assert torch.equal(one.traits.residual, other.traits.residual)
    assert one.cost == other.cost


def test_second_run_takes_the_samples_of_the_first_with_their_cost_and_says_so(shelves, log):
    first, was_drawn = drawn(shelves, NEAR, FAR)
    assert was_drawn
    assert first.origin == ""
    assert any("6 unsteered samples of 'mixture' are drawn first, which takes 18" in x for x in log)
    second, was_drawn = drawn(shelves, NEAR, FAR)
    assert not was_drawn
    same(first, second)
    assert second.origin.startswith("from the cache (drawn 20")
    assert second.origin.endswith(" UTC for a.toml)")
    assert any(f"6 unsteered samples of 'mixture' {second.origin}" == line for line in log)


def test_samples_that_are_kept_are_those_that_are_drawn_without_a_cache(shelves):
    drawn(shelves, NEAR)
    kept_ones, _ = drawn(shelves, NEAR)
    plain, _ = drawn(None, NEAR)
    assert torch.equal(plain.scores["likelihood"], kept_ones.scores["likelihood"])
    assert plain.cost.calls == kept_ones.cost.calls == {"network": 18, "decoder": 6}


def test_reward_that_is_new_scores_the_states_that_are_kept(shelves):
    drawn(shelves, NEAR)
    both, was_drawn = drawn(shelves, NEAR, FAR)
    assert not was_drawn
    plain, _ = drawn(None, NEAR, FAR)
    assert all(torch.equal(both.scores[name], plain.scores[name]) for name in plain.scores)
    assert both.cost.calls == plain.cost.calls
    assert both.cost.reward_calls == plain.cost.reward_calls == dict.fromkeys(plain.scores, 6)
    again, _ = drawn(shelves, FAR)
    same(again, drawn(shelves, FAR)[0])


def test_name_weight_and_use_of_a_reward_change_nothing(shelves):
    first, _ = drawn(shelves, NEAR)
    term = RewardTerm(part=NEAR, name="mine", weight=3.0, normalise="zscore")
    base, was_drawn = drawn(shelves, term, RewardTerm(part=NEAR, name="other", held_out=True))
    assert not was_drawn
    assert torch.equal(base.scores["mine"], first.scores["likelihood"])
    assert base.cost.reward_calls == {"mine": 6, "other": 6}


# What a key is made of: one change each.


def python_reward(folder, text="return data[:, 0] * 0"):
    (folder / "helper.py").write_text(f"def value(data):\n    {text}\n")
    (folder / "numbers.json").write_text("[1]")
    code = 'from helper import value\nNAME = "numbers.json"\nscore = lambda data, p: value(data)\n'
    (folder / "score.py").write_text(code)
    return Python(file=str(folder / "score.py"), differentiable=False)


def another_helper(folder, patched):
    python_reward(folder, "return data[:, 0] * 0 + 1")
    return {}


def another_file_that_the_code_names(folder, patched):
    (folder / "numbers.json").write_text("[2]")
    return {}


def another_score(folder, patched):
    with (folder / "score.py").open("a") as file:
        file.write("\n# changed\n")
    return {}


def another_torch(folder, patched):
    patched.setattr(torch, "__version__", "9.9")
    return {}


def another_package(folder, patched):
    (folder / "site" / "scipy-9.9.dist-info").mkdir(parents=True)
    patched.syspath_prepend(folder / "site")
    return {}


def another_device(folder, patched):
    setting = kept._setting(CPU)
    patched.setattr(kept, "_setting", lambda device: {**setting, "device": "cuda"})
    return {}


def another_number_of_threads(folder, patched):
    patched.setattr(torch, "get_num_threads", lambda: 99)
    return {}


def another_precision(folder, patched):
    patched.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    return {}


CHANGES = {
    "seed": {"seed": 1},
    "number of samples": {"unsteered": 7},
    "chunk": {"chunk": 2},
    "steps": {"flow_steps": 4},
    "option of the model": {"model": attrs.evolve(MODEL, stds=(0.4, 0.8))},
    "code of a reward": another_score,
    "module that a reward's code imports": another_helper,
    "file that a reward's code names": another_file_that_the_code_names,
    "torch": another_torch,
    "installed package": another_package,
    "device": another_device,
    "threads": another_number_of_threads,
    "precision": another_precision,
}
OF_REWARDS = ("code of a reward", "module that", "file that")


def both_keys(shelves, reward, flow_steps=3, **options):
    shelf = shelf_of(shelves, recipe(reward, **options), {"flow_steps": flow_steps})
    return shelf.key, shelf.rewards["python"]


@pytest.mark.parametrize("name", CHANGES)
def test_key_changes_with(name, shelves, tmp_path, monkeypatch):
    reward, change = python_reward(tmp_path), CHANGES[name]
    states, scores = both_keys(shelves, reward)
    assert both_keys(shelves, reward) == (states, scores)
    options = change(tmp_path, monkeypatch) if callable(change) else change
    other_states, other_scores = both_keys(shelves, reward, **options)
    assert scores != other_scores
    assert (states == other_states) == name.startswith(OF_REWARDS)


@pytest.mark.parametrize("change", ["prompt", "type of the states"])
def test_key_changes_with_what_the_built_model_says(change, shelves):
    asked = recipe(NEAR)
    built = build(asked.arms()[0], Rewards(asked.reward, CPU), asked.run)
    problem = built.problem
    if change == "prompt":
        problem = attrs.evolve(problem, prompts=("a", "b"))
    else:
        single = attrs.evolve(problem.model)
        object.__setattr__(single, "dtype", torch.float32)
        problem = attrs.evolve(problem, model=single)
    other = attrs.evolve(built, problem=problem)
    assert shelves.of(built, asked, HOW).key != shelves.of(other, asked, HOW).key


def test_key_changes_with_the_code_of_a_package(shelves, tmp_path, monkeypatch, packages):
    monkeypatch.setattr(kept, "_code", packages)
    package = tmp_path / "align_mine"
    (package / "weights").mkdir(parents=True)
    files = [package / "__init__.py", package / "inner.py", package / "weights" / "x.bin"]
    for file in files:
        file.write_text("1")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint(name="mine", value="align_mine.inner:plugin", group="align")
    monkeypatch.setattr(kept.metadata, "entry_points", lambda group: [point])
    keys = [shelf_of(shelves, recipe(NEAR)).key]
    for file in files:
        file.write_text("2")
        keys.append(shelf_of(shelves, recipe(NEAR)).key)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "inner.pyc").write_text("2")
    assert shelf_of(shelves, recipe(NEAR)).key == keys[-1]
    assert len(set(keys)) == 4


def test_key_changes_with_the_content_of_files_that_options_name(shelves, tmp_path):
    path, pictures, keys = tmp_path / "x.png", [], []
    for level in (10, 10, 200):
        Image.new("L", (4, 4), level).save(path)
        identity = kept._identity(PSNR(picture=str(path)), shelves.cache)
        pictures.append(identity["files"])
    assert pictures[0] == pictures[1] != pictures[2]
    net = Network(net=MLPConfig(width=8, depth=1), shape=(1,))
    flow, file = net.build(CPU).flow, tmp_path / "model.safetensors"
    table = {"kind": "mlp", "width": 8, "depth": 1, "role": "flow"}
    about = {"shape": [1], "classes": [], "path": "linear", "nets": {"flow": table}}
    for number in (0.0, 0.0, 1.0):
        with torch.no_grad():
            next(flow.parameters()).flatten()[0] = number
        if len(keys) != 1:  # its bytes differ from time to time
            weights.write(file, {"flow": flow}, about)
        keys.append(shelf_of(shelves, recipe(NEAR, model=Network(weights=str(file)))).key)
    assert keys[0] == keys[1] != keys[2]


# What cannot be kept, and what is not believed.


@attrs.frozen(kw_only=True)
class Silent(RewardSpec):
    """Says nothing of what it depends on."""

    kind = "silent"
    differentiable = False
    domain = None
    range = (-float("inf"), float("inf"))

    def build(self, device):
        return Mean()


class Mean(Reward):
    def score(self, data, prompts):
        return data.flatten(1).mean(1).float()


@attrs.frozen(kw_only=True)
class Unsure(Silent, Repeatable):
    """Depends on something that its options do not tell."""

    kind = "unsure"

    def files_read(self):
        return None


@pytest.mark.parametrize("part", [Silent(), Unsure()])
def test_scores_of_a_reward_that_does_not_say_what_it_depends_on_are_not_kept(shelves, log, part):
    first, _ = drawn(shelves, NEAR, part)
    second, was_drawn = drawn(shelves, NEAR, part)
    assert not was_drawn
    assert torch.equal(first.scores[part.kind], second.scores[part.kind])
    assert first.cost.reward_calls == second.cost.reward_calls
    line = f"scores by reward '{part.kind}' are not kept: it does not say what its numbers depend"
    assert sum(text.startswith(line) for text in log) == 2
    assert len(list(shelves.cache.folder.rglob("*.safetensors"))) == 2


@attrs.frozen(kw_only=True)
class OfCaller(ModelSpec):
    """A model that a caller made."""

    kind = "of_caller"
    domain = "vector"
    provides = frozenset()
    prompt = ""

    def build(self, device):
        return MODEL.build(device)


def test_samples_of_a_model_that_does_not_say_what_it_depends_on_are_not_kept(shelves, log):
    for _ in range(2):
        _, was_drawn = drawn(shelves, NEAR, model=OfCaller())
        assert was_drawn
    assert sum(
        text.startswith("unsteered samples of model 'of_caller' are not kep") for text in log
    )
    assert not shelves.cache.folder.exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def said_to_be_cheaper(path):
    content = path.read_bytes().replace(b'network\\\\\\": 18', b'network\\\\\\": 17')
    path.write_bytes(content.replace(b'network\\": 18', b'network\\": 17'))


def pickled(path):
    torch.save({"x1": torch.zeros(6, 1)}, path)


def of_another_entry(path):
    other = path.parent.with_name("f" * 64)
    path.parent.rename(other)
    path.parent.mkdir()
    (other / path.name).replace(path)
    path.write_bytes(path.read_bytes().replace(path.parent.name.encode(), b"e" * 64))


DAMAGES = [cut, emptied, flipped, said_to_be_cheaper, pickled, of_another_entry]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_states_are_drawn_anew(shelves, damage, log):
    first, _ = drawn(shelves, NEAR)
    (path,) = shelves.cache.folder.rglob("states.safetensors")
    before = path.read_bytes()
    damage(path)
    assert not path.exists() or path.read_bytes() != before
    second, was_drawn = drawn(shelves, NEAR)
    assert was_drawn
    assert torch.equal(first.scores["likelihood"], second.scores["likelihood"])
    assert any("is damaged, and made anew" in line for line in log)
    assert not drawn(shelves, NEAR)[1]


@pytest.mark.parametrize("damage", [cut, emptied, flipped, pickled])
def test_damaged_scores_are_made_anew_from_the_states(shelves, damage):
    first, _ = drawn(shelves, NEAR)
    (path,) = set(shelves.cache.folder.rglob("*.safetensors")) - set(
        shelves.cache.folder.rglob("states.safetensors")
    )
    damage(path)
    second, was_drawn = drawn(shelves, NEAR)
    assert not was_drawn
    assert torch.equal(first.scores["likelihood"], second.scores["likelihood"])


def test_scores_that_a_reward_does_not_give_any_more_are_not_believed(shelves, tmp_path, log):
    """Its code reads a file without naming it, as no digest shows."""
    (tmp_path / "secret").write_text("1")
    text = "from pathlib import Path\nP = Path(__file__).with_name('sec' + 'ret')\n"
    text += "def score(data, prompts):\n    return data[:, 0] * float(P.read_text())\n"
    (tmp_path / "score.py").write_text(text)
    reward = Python(file=str(tmp_path / "score.py"))
    first, _ = drawn(shelves, reward, NEAR)
    (tmp_path / "secret").write_text("3")
    second, was_drawn = drawn(shelves, reward, NEAR)
    assert not was_drawn
    assert torch.allclose(3 * first.scores["python"], second.scores["python"])
    assert torch.equal(first.scores["likelihood"], second.scores["likelihood"])
    line = "what is kept of reward 'python' is not what it makes now, and is made anew"
    assert log.count(line) == 1
    drawn(shelves, reward, NEAR)
    assert log.count(line) == 1


def test_states_that_the_model_does_not_make_any_more_are_not_believed(shelves, monkeypatch, log):
    drawn(shelves, NEAR, FAR)
    other = attrs.evolve(MODEL, means=((-3.0,), (2.0,)))
    build_other = other.build
    monkeypatch.setattr(Mixture, "build", lambda self, device: build_other(device))
    _, was_drawn = drawn(shelves, NEAR)
    assert was_drawn
    assert "what is kept of the model is not what it makes now, and is made anew" in log
    assert len(list(shelves.cache.folder.rglob("*.safetensors"))) == 2  # none of the other reward


# The disk.


def test_run_does_not_fail_where_nothing_can_be_kept(tmp_path, log):
    (tmp_path / "cache").write_text("a file")
    shelves = Shelves(Cache(tmp_path / "cache", 10**7), "a.toml")
    base, was_drawn = drawn(shelves, NEAR)
    assert was_drawn
    assert len(base.scores["likelihood"]) == 6
    (line,) = (text for text in log if "not kept for later runs" in text)
    assert "cannot be written: a file is where a folder should be; move it away; run.cac" in line


def test_samples_that_have_no_room_are_told_and_not_kept(tmp_path, log):
    shelves = Shelves(Cache(tmp_path / "cache", 100), "a.toml")
    drawn(shelves, NEAR)
    assert any("and the cache may take 0.1 kB; raise ALIGN_CACHE_GB" in line for line in log)
    assert not shelves.cache.folder.exists()


def test_what_is_kept_are_plain_tensors_and_json(shelves):
    drawn(shelves, NEAR)
    (path,) = shelves.cache.folder.rglob("states.safetensors")
    tensors = load_file(path)
    assert tensors.keys() == {"x1", "norm", "residual", "digest"}
    assert (tensors["x1"].shape, tensors["x1"].dtype) == ((6, 1), torch.float64)


PROGRAM = """
import json, sys, torch
from pathlib import Path
from align.io.cache import Cache
from align.models.mixture import Mixture
from align.modes.sampling.best_of_n import BestOfN
from align.recipe import Recipe, RewardTerm, Run
from align.rewards.linear import Likelihood
from align.runner.base_samples import sample_bases
from align.runner.build import Rewards
from align.runner.kept import Shelves

model = Mixture(weights=(0.3, 0.7), means=((-2.0,), (0.5,)), stds=(0.4, 0.7))
reward = RewardTerm(part=Likelihood(matrix=((1.0,),), observed=(1.0,), std=0.6), name="near")
asked = Recipe(run=Run(unsteered=6), model=model, reward=(reward,), mode=BestOfN(n=2, flow_steps=3))
shelves = Shelves(Cache(Path("cache"), 10**7), sys.argv[1])
bases = sample_bases(asked, Rewards(asked.reward, torch.device("cpu")), shelves=shelves)
(base,) = bases.models
print(json.dumps({"scores": base.scores["near"].tolist(), "origin": base.origin}))
"""


def test_two_processes_at_once_keep_one_whole_entry(forked, tmp_path):
    (tmp_path / "draws.py").write_text(PROGRAM)
    processes = [forked(tmp_path / "draws.py", name, cwd=tmp_path) for name in "ab"]
    assert [process.ended() for process in processes] == [0, 0], processes[0].stderr
    processes.append(forked(tmp_path / "draws.py", "c", cwd=tmp_path))
    assert processes[2].ended() == 0
    found = [json.loads(process.stdout) for process in processes]
    assert found[0]["scores"] == found[1]["scores"] == found[2]["scores"]
    assert found[2]["origin"].endswith((" UTC for a)", " UTC for b)"))
    paths = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    names = sorted(path.name for path in paths if path.name != "digests.json")
    assert len(names) == 2
    assert names[1] == "states.safetensors"
