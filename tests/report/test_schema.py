"""What results.json holds, and what is said of a file that cannot be read."""

import json

import attrs
import pytest

from align.core.baseline import Divergence
from align.core.errors import PartError
from align.core.study import Findings, Point
from align.engine.meter import Cost
from align.report.schema import (
    VERSION,
    ArmNumbers,
    BaseNumbers,
    RewardRole,
    RunResults,
    check_recipe,
    read,
    read_metrics,
    save,
)
from align.report.writer import write

COST = Cost(
    calls={"network": 4}, backward={"network": 2}, reward_calls={"a": 3}, flops=10, seconds=1.5
)
FULL = RunResults(
    rewards={"a": RewardRole(weight=2.0, held_out=False)},
    arms=(
        ArmNumbers(
            name="one",
            folder="samples/one",
            samples=2,
            scores={"a": (1.0, 2.5)},
            metrics={"edges": 0.5},
            cost=COST,
            divergence=Divergence(reward=1.5, at_least=0.5),
            notes=("Look at one.",),
        ),
        ArmNumbers(
            name="one more",
            folder="samples/one_more",
            samples=0,
            findings=Findings("r", "NFE a draw", (Point("t = 0.5", 1.0, 0.25),), ("A note.",)),
            notes=("Look at one more.", "Look at both."),
        ),
    ),
    unsteered=(
        BaseNumbers(arms=("one",), flow_steps=5, scores={"a": (0.5,)}, r=(1.0,), cost=COST),
        BaseNumbers(arms=(), flow_steps=5, scores={}, r=None, cost=Cost()),
    ),
    notes=("* a star.",),
)


def test_saved_results_read_as_they_were(tmp_path):
    save(tmp_path, FULL)
    assert read(tmp_path) == FULL
    tables = json.loads((tmp_path / "results.json").read_text())
    assert tables["version"] == VERSION
    assert tables["arms"][0]["divergence"] == attrs.asdict(FULL.arms[0].divergence)
    assert tables["arms"][0]["cost"]["reward_calls"] == {"a": 3}


def test_notes_of_all_arms_name_their_arms():
    first, second = FULL.arms
    both = attrs.evolve(first, notes=(*first.notes, "Look at both."))
    assert attrs.evolve(FULL, arms=(both, second)).all_notes() == [
        "one: Look at one.",
        "one, one more: Look at both.",
        "one more: Look at one more.",
        "* a star.",
    ]


def test_arms_that_sampled_and_arms_that_are_studies():
    assert [arm.name for arm in FULL.sampled()] == ["one"]
    assert [arm.name for arm in FULL.studies()] == ["one more"]


def test_folder_without_a_finished_run_says_so(tmp_path):
    for asked in (read, write):
        with pytest.raises(PartError, match=r"holds no finished run: it has no results\.json"):
            asked(tmp_path)


def changed(change):
    def text(tables):
        change(tables)
        return json.dumps(tables)

    return text


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda tables: json.dumps(tables)[:100], "damaged"),
        (lambda tables: "[1, 2]", "damaged"),
        (lambda tables: "", "damaged"),
        (changed(lambda t: t["arms"][0].pop("name")), "the file is damaged"),
        (changed(lambda t: t["arms"][0].update(cost=3)), "the file is damaged"),
        (changed(lambda t: t.update(arms=None)), "the file is damaged"),
        (changed(lambda t: t["arms"][0].update(samples="many")), "the file is damaged"),
        (changed(lambda t: t.pop("version")), "the file has layout 0, and this align reads"),
        (changed(lambda t: t.update(version=99)), "the file has layout 99, and this align reads"),
    ],
)
def test_file_that_cannot_be_read_gives_one_line_with_the_cure(tmp_path, damage, reason):
    save(tmp_path, FULL)
    path = tmp_path / "results.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(PartError) as caught:
        read(tmp_path)
    said = str(caught.value)
    assert str(path) in said
    assert reason in said
    assert "run the recipe.toml again" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "why"), [("x" * 300, "File name too long"), ("nothing", "No such file or directory")]
)
def test_name_that_cannot_be_read_is_one_line(tmp_path, name, why):
    with pytest.raises(PartError, match=f"holds no finished run: {why}; name the folder of a run"):
        read(tmp_path / name)


def test_a_recipe_that_is_no_toml_is_damaged(tmp_path):
    (tmp_path / "recipe.toml").write_text("[run\n")
    with pytest.raises(PartError, match=r"recipe.toml' is damaged: .*; put back the one that the"):
        check_recipe(tmp_path, RunResults(recipe="0"))


@pytest.mark.parametrize(
    "line",
    [
        '{"arm": "a"}',
        '{"step": 0}',
        '{"arm": "a", "step": -1}',
        '{"arm": "a", "step": 0, "x": "y"}',
    ],
)
def test_metrics_that_are_no_steps_are_damaged(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"arm": "a", "step": 0, "loss": 1.0}}\n{line}\n')
    with pytest.raises(PartError, match=r"metrics.jsonl:2' is damaged: expected 'arm', 'step' and"):
        read_metrics(tmp_path)
