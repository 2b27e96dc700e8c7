"""What a run is said to cost is what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from align.catalog.registry import Catalog, load_catalog
from align.core.dataset import Dataset, DatasetSpec
from align.core.errors import PartError
from align.core.mode import AlignmentMode
from align.core.model import Condition
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.cost import How, Linear, PartCost, PassCost
from align.engine.guard import guarded
from align.engine.meter import Cost, shares
from align.engine.rehearsal import Rehearsal, rehearse
from align.estimators.bank import Bank
from align.io.images import save_picture
from align.modes.sampling.steer import Steer
from align.recipe import Recipe, load
from align.report.schema import read
from align.runner.build import Built, Rewards, build
from align.runner.observers import NullObserver
from align.runner.plan import (
    UNSTEERED,
    NoPlanError,
    Planner,
    arm_rows,
    part_rows,
    plan_recipe,
    summary,
)
from align.runner.session import dry_run, run
from align.testing.probes import Plain
from align.testing.worlds import line

WORLD = """
[run]
samples = 5
unsteered = 4

[model]
kind = "mixture"
weights = [0.5, 0.5]
means = [[-1.0, -1.0], [1.0, 1.0]]
stds = [0.7, 0.7]

[sampler]
kind = "mfm"

[estimator]
kind = "gradient"
draws = 3

[[reward]]
kind = "likelihood"
matrix = [[1.2, -0.8]]
observed = [-1.0]
std = 0.5

[mode]
kind = "steer"
steps = 9
"""

ARMS = {
    "one draw": "estimator.draws = 1",
    "point": 'sampler = "dps"',
    "glass": 'sampler = { kind = "glass", steps = 3, method = "heun" }',
    "no gradient": 'estimator = { kind = "stein", draws = 4 }',
    "blend": 'estimator = { kind = "blend", draws = 2 }',
    "heun": 'mode.dynamics = "heun"',
    "glass dynamics": 'mode.dynamics = { kind = "glass", inner_steps = 2 }',
    "closed form": 'estimator = "exact"',
    "Gaussian value": 'estimator = "gaussian"',
    "bank": 'estimator = { kind = "bank", size = 7 }',
    "particles": 'mode.particles = 3\nmode.dynamics = "sde"\nmode.resample = "systematic"',
    "every third step": (
        'mode.particles = 3\nmode.dynamics = "ddpm"\nmode.resample = "systematic"\n'
        "mode.resample_every = 3"
    ),
    "search": (
        'estimator = { kind = "search", draws = 2 }\nmode.dynamics = "renoise"\n'
        'mode.particles = 2\nmode.resample = "best"'
    ),
    "one candidate": 'mode = { kind = "best_of_n", n = 1, flow_steps = 4 }',
    "candidates": 'mode = { kind = "best_of_n", n = 19, flow_steps = 3 }',
    "values": (
        'mode = { kind = "value_correlation", draws = 3, particles = 4, rollout_steps = 5,'
        " times = [0.3] }"
    ),
    "posterior": (
        'mode = { kind = "posterior_recovery", metric = "sliced_wasserstein", times = [0.2] }'
    ),
    "fidelity": (
        'mode = { kind = "fidelity", metric = "sliced_wasserstein", outer_steps = [1, 3] }'
    ),
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def _recipe(catalog: Catalog, folder: Path, arm: str = "", *sets: str) -> Recipe:
    file = folder / "recipe.toml"
    file.write_text(WORLD + (f'[[compare]]\nname = "arm"\n{arm}\n' if arm else ""))
    return load(file, sets=sets, catalog=catalog).recipe


def _built(recipe: Recipe) -> Built:
    (arm,) = recipe.arms()
    return build(arm, Rewards(recipe.reward, torch.device("cpu")), recipe.run)


def _calls(cost: Cost) -> dict[str, Any]:
    names = ("calls", "backward", "reward_calls", "reward_backward")
    return {name: getattr(cost, name) for name in names}


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS.keys())
def test_calls_that_are_planned_are_those_of_the_run(
    catalog: Catalog, tmp_path: Path, arm: str
) -> None:
    recipe = _recipe(catalog, tmp_path, arm, "run.chunk=11")
    plan = Planner().plan(_built(recipe))
    cost = _built(recipe).execute(NullObserver()).cost
    assert _calls(plan.cost) == _calls(cost)
    assert plan.most is None
    assert not plan.unknown
    assert not plan.cures


def test_share_of_the_planned_calls_rises_to_one_within_a_step(
    catalog: Catalog, tmp_path: Path
) -> None:
    recipe = _recipe(catalog, tmp_path, ARMS["one candidate"])
    built = _built(recipe)
    share, seen = shares(Planner().plan(built).cost, built.meter), list[float]()
    inner = guarded(built.problem.model).inner
    velocity = type(inner).velocity

    def watched(self: Any, *args: Any) -> torch.Tensor:
        seen.append(share())
        return velocity(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(inner), "velocity", watched)
        built.execute(NullObserver())
    assert seen[0] == 0.0
    assert seen == sorted(seen)
    assert len(set(seen)) == 4
    assert share() == 1.0


def test_plan_charges_nobody_and_changes_no_sample(catalog: Catalog, tmp_path: Path) -> None:
    recipe = _recipe(catalog, tmp_path)
    planned, plain = _built(recipe), _built(recipe)
    generator = torch.random.get_rng_state()
    Planner().plan(planned)
    assert torch.equal(generator, torch.random.get_rng_state())
    first, second = (built.execute(NullObserver()) for built in (planned, plain))
    assert _calls(first.cost) == _calls(second.cost)
    assert first.x1 is not None
    assert second.x1 is not None
    assert torch.equal(first.x1, second.x1)


def test_number_of_draws_that_is_chosen_on_the_way_is_a_range(
    catalog: Catalog, tmp_path: Path
) -> None:
    recipe = _recipe(catalog, tmp_path, 'estimator = { kind = "gradient", draws = "auto" }')
    plan = Planner().plan(_built(recipe))
    cost = _built(recipe).execute(NullObserver()).cost
    assert plan.most is not None
    assert plan.cost.nfe <= cost.nfe <= plan.most.nfe
    assert plan.cost.nfe < plan.most.nfe
    assert " to " in summary(plan)


def test_parts_are_measured_once_for_all_arms(catalog: Catalog, tmp_path: Path) -> None:
    names = list[str]()
    planner, recipe = Planner(on_part=names.append), _recipe(catalog, tmp_path)
    for _ in range(2):
        planner.plan(_built(recipe))
    assert sorted(names) == ["decode", "likelihood", "posterior_jump", "velocity"]


def test_arms_that_ask_the_same_are_gone_through_once(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed = list[int]()

    def counting(mode: AlignmentMode[Any], *args: Any, **named: Any) -> Rehearsal:
        rehearsed.append(mode.steps)
        return rehearse(mode, *args, **named)

    monkeypatch.setattr("align.runner.plan.rehearse", counting)
    sweep = '"reward[0].weight" = [1.0, 2.0, 4.0]\n"mode.steps" = [2, 3]\n'
    file = tmp_path / "recipe.toml"
    file.write_text(WORLD + f"[sweep]\n{sweep}")
    planned = plan_recipe(load(file, sets=["run.unsteered=0"], catalog=catalog).recipe)
    assert sorted(rehearsed) == [2, 2, 3, 3]  # with flat rewards and with steep ones
    calls = [arm.plan.cost.nfe for arm in planned.arms if arm.plan]
    assert calls == [calls[0], calls[1]] * 3


SMALL = 'net = { kind = "mlp", width = 8, depth = 1 }\noptimisation = { batch = 4 }\n'
LOOKS = "pool = 9\nflow_steps = 2\nevaluation = { every = 2, samples = 3, flow_steps = 4 }\n"
TRAININGS = {
    "distilled": ("[mode]\nkind = 'distill'\nsteps = 3\n" + SMALL, 0.5),
    "tuned": (
        "[mode]\nkind = 'finetune'\nsteps = 5\nobjective = { kind = 'gradient', draws = 2 }\n"
        + SMALL
        + LOOKS,
        0.0,
    ),
    "tuned without c": (
        "[mode]\nkind = 'finetune'\nsteps = 3\nobjective = { kind = 'draft', flow_steps = 2 }\n"
        + SMALL
        + LOOKS,
        0.0,
    ),
}


@pytest.mark.parametrize(("text", "apart"), TRAININGS.values(), ids=TRAININGS.keys())
def test_steps_that_are_planned_are_those_of_the_training(
    catalog: Catalog, tmp_path: Path, text: str, apart: float
) -> None:
    file = tmp_path / "recipe.toml"
    glass = 'kind = "glass"\nsteps = 2\n'
    file.write_text(WORLD.partition("[mode]")[0].replace('kind = "mfm"\n', glass) + text)
    recipe = load(file, sets=["run.unsteered=0"], catalog=catalog).recipe
    planned = plan_recipe(recipe)
    (plan,) = (arm.plan for arm in planned.arms)
    assert plan is not None
    cost = _built(recipe).execute(NullObserver()).cost
    assert plan.cost.flops == pytest.approx(cost.flops, rel=apart)
    assert plan.cost.nfe == pytest.approx(cost.nfe, rel=apart)
    if not apart:
        assert _calls(plan.cost) == _calls(cost)
    assert plan.above > 0
    assert plan.cost.seconds > plan.steps * plan.cost.step_seconds > 0
    assert any("steps, each about" in note for note in planned.all_notes())


def test_run_that_trains_is_not_trained_before(catalog: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(WORLD.partition("[mode]")[0] + TRAININGS["distilled"][0])
    with pytest.raises(NoPlanError, match="align plan"):
        Planner().plan(_built(load(file, catalog=catalog).recipe))


def test_table_has_a_row_for_unsteered_samples_each_arm_and_their_sum(
    catalog: Catalog, tmp_path: Path
) -> None:
    planned = plan_recipe(_recipe(catalog, tmp_path, ARMS["one draw"]))
    heads, rows = arm_rows(planned)
    assert [row[0] for row in rows] == [UNSTEERED, "arm", "all together"]
    assert {len(row) for row in rows} == {len(heads)}
    assert rows[0][1:3] == ("200", "4")
    assert {row[1] for row in part_rows(planned)[1]} == {"measured"}


def test_run_says_its_plan_and_keeps_it(
    catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(WORLD)
    result = run(file, sets=[f'run.out="{tmp_path}/out"'], progress=False, catalog=catalog)
    (arm,) = read(result.folder).arms
    assert arm.plan is not None
    assert _calls(arm.plan) == _calls(arm.cost)
    assert f"NFE {arm.cost.nfe:,}" in (result.folder / "log.txt").read_text()


def test_mode_that_fails_with_stand_ins_has_no_plan(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(catalog, tmp_path)

    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(type(recipe.mode), "init", failing)
    with pytest.raises(NoPlanError, match="no"):
        Planner().plan(_built(recipe))


def test_part_that_fails_is_not_counted_and_said(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = _built(_recipe(catalog, tmp_path))
    monkeypatch.setattr(type(guarded(built.problem.model).inner), "posterior_jump", _fails)
    plan = Planner().plan(built)
    assert [part for _, part in plan.unknown] == ["posterior_jump"]
    assert "at least" in summary(plan)
    assert (plan.cost.seconds, "about" in summary(plan)) == (0, False)


@pytest.mark.parametrize("how", ["measured", "derived", "unknown"])
def test_time_is_told_where_every_part_was_timed_and_only_there(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def costs(problem: Any, part: Any, *_: Any) -> PartCost | str:
        if how == "unknown" and part[1] == "velocity":
            return "it broke"
        passed = PassCost(peak=Linear(), kept=Linear(), seconds=Linear(0.0, 1e-3))
        kind: How = "derived" if how == "derived" and part[1] == "velocity" else "measured"
        return PartCost(forward=passed, way_back=None, asked=True, how=kind, row_shape=(2,))

    monkeypatch.setattr("align.runner.plan._measured", costs)
    heads, rows = arm_rows(plan_recipe(_recipe(catalog, tmp_path, ARMS["one draw"])))
    times = [row[heads.index("time")] for row in rows]
    assert len(times) == 3
    assert {time == "-" for time in times[::2]} == {how != "measured"}, times


def _fails(*_: Any) -> None:
    raise PartError("it broke")


def test_what_does_not_fit_names_keys_that_help(catalog: Catalog, tmp_path: Path) -> None:
    built = _built(_recipe(catalog, tmp_path))
    memory = _Memory(100.0)
    chunks = attrs.evolve(built.problem.chunks, memory=memory)
    built = attrs.evolve(built, problem=attrs.evolve(built.problem, chunks=chunks))
    assert Planner().plan(built).cures == (
        "fewer of run.samples, estimator.draws or mode.particles",
    )


@attrs.frozen
class _Memory:
    bytes: float

    def free(self) -> float:
        return self.bytes

    def taken(self, call: Any) -> float:
        call()
        return 0.0


def test_rehearsal_of_many_steps_goes_through_few(catalog: Catalog, tmp_path: Path) -> None:
    recipe = _recipe(catalog, tmp_path, "mode.steps = 100000")
    built = _built(recipe)
    rehearsal = rehearse(built.arm.mode, built.problem, built.streams)
    assert rehearsal.counts.calls["network"] == rehearsal.samples * 100000 * (1 + 3)
    assert len(rehearsal.events) < 1000


@pytest.mark.parametrize("prompts", [("",), ("one", "two", "three")])
def test_what_samples_share_is_counted_once_a_prompt(prompts: tuple[str, ...]) -> None:
    model, reward = line()
    problem = Problem(Plain(model), reward, None, Bank(size=6, flow_steps=4), prompts=prompts)
    samples = tuple(range(40))
    cond = Condition(tuple(prompts[number % len(prompts)] for number in samples))
    problem = attrs.evolve(problem, cond=cond)
    rehearsal = rehearse(Steer(steps=5), problem, Streams(0, samples))
    bank = 6 * len(prompts)
    assert rehearsal.shared.calls == {"network": 4 * bank, "decoder": bank}
    assert sum(rehearsal.shared.reward_calls.values()) == bank
    assert rehearsal.counts.calls["network"] == rehearsal.samples * 5


def test_dry_run_does_all_but_sample_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "world.toml"
    path.write_text(WORLD)
    folder, planned = dry_run(path)
    assert (folder, list(tmp_path.iterdir())) == (Path("runs/world"), [path])
    assert [arm.name for arm in planned.arms] == [UNSTEERED, "steer"]
    assert all(arm.plan for arm in planned.arms)
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text('[mode]\nkind = "steer"\n')
    assert dry_run(path)[0] == Path("runs/world-2")


def test_dry_run_fails_where_the_run_would(tmp_path: Path) -> None:
    path = tmp_path / "world.toml"
    path.write_text(WORLD)
    assert dry_run(path, sets=["mode={ kind = 'best_of_n', n = 2 }"])
    if not torch.cuda.is_available():
        with pytest.raises(PartError, match="torch sees no CUDA device here"):
            dry_run(path, sets=["run.device='cuda'"])
    (tmp_path / "score.py").write_text("raise OSError('no weights')\ndef score(): ...\n")
    reward = f"reward=[{{ kind = 'python', file = '{tmp_path / 'score.py'}', domain = 'vector' }}]"
    with pytest.raises(PartError, match="no weights"):
        dry_run(path, sets=[reward])


def test_training_on_pictures_reads_few_and_says_how_many_there_are(
    catalog: Catalog, tmp_path: Path
) -> None:
    for number in range(6):
        place = tmp_path / "pictures" / "train" / "ab"[number % 2] / f"{number}.png"
        save_picture(place, np.full((8, 8, 3), 40 * number, np.uint8))
    recipe = load(
        {
            "run": {"samples": 1},
            "mode": {
                "kind": "autoencode",
                "steps": 3,
                "data": {"path": str(tmp_path / "pictures"), "latents": str(tmp_path / "kept")},
                "net": {"kind": "upsample", "width": 8},
                "optimisation": {"batch": 4},
            },
        },
        catalog=catalog,
    ).recipe
    planned = plan_recipe(recipe)
    (arm,) = planned.arms
    assert arm.plan is not None, arm.reason
    assert arm.plan.unread == 6
    assert any("reading and encoding 6 rows of data is not timed" in n for n in planned.all_notes())
    assert not (tmp_path / "kept").exists()
    built = build(recipe.arms()[0], Rewards((), torch.device("cpu")), recipe.run)
    assert arm.plan.cost.flops == built.execute(NullObserver()).cost.flops > 0


class _Vectors(DatasetSpec):
    kind = "vectors"
    domain = "vector"
    mirror = True

    def open(self, colours: int) -> Dataset:
        return _Rows()


class _Rows(Dataset):
    shape = (2,)
    labels = torch.arange(3).repeat(30)
    classes = ("a", "b", "c")

    def rows(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers)[:, None].expand(-1, 2).float()


def test_study_of_data_reads_a_row_of_each_class(catalog: Catalog, tmp_path: Path) -> None:
    built = _built(_recipe(catalog, tmp_path, ARMS["posterior"]))
    mode = attrs.evolve(built.arm.mode, data=_Vectors())
    plan = Planner().plan(attrs.evolve(built, arm=attrs.evolve(built.arm, mode=mode)))
    assert plan.unread == 90
    assert plan.cost.nfe > 0
