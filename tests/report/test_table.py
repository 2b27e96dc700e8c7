"""The numbers of the table."""

import json
import math
from statistics import fmean

import attrs
import pytest

from align.core.baseline import Divergence
from align.engine.meter import Cost
from align.report.schema import RewardRole, RunResults
from align.report.table import long, markdown, rows
from align.report.writer import write

COST = Cost(
    calls={"network": 300, "decoder": 5},
    backward={"network": 100, "decoder": 5},
    reward_calls={"cat": 60, "dog": 20},
    reward_backward={"cat": 20},
    flops=8_000_000_000,
    seconds=15.34,
    warmup_seconds=3.0,
    memory=1,
)
REWARDS = {
    "cat": RewardRole(weight=2.0, held_out=False),
    "dog": RewardRole(weight=1.0, held_out=True),
}


@pytest.fixture
def results(arm_of):
    scores = {"cat": [1.0, 2.0, 3.0, 6.0], "dog": [0.5] * 4}
    first = arm_of("plain", 0, 4, scores=scores, cost=COST)
    second = arm_of("steered", 1, 1, scores={"cat": [1.25]}, metrics={"edges": 0.123456})
    return RunResults(rewards=REWARDS, arms=(first, second))


def test_heads_and_cells(tmp_path, results):
    heads, (first, second) = rows(tmp_path, results)
    assert heads == [
        "arm",
        "cat",
        "dog (held out)",
        "edges",
        "NFE (network calls)",
        "reward calls",
        "GFLOP",
        "seconds",
    ]
    # Mean 3, deviation sqrt(14 / 3), standard error sqrt(14 / 3 / 4) = 1.08.
    assert first == ["plain", "3.0 ± 1.1", "0.5 ± 0", "", "100", "25", "2", "12.3"]
    assert second == ["steered", "1.25", "", "0.1235", "0", "0", "0", "0.0"]


def test_scores_that_are_missing_are_counted(tmp_path, arm_of):
    scores = {"cat": [1.0, math.nan, 3.0, 2.0], "dog": [math.nan] * 4}
    results = RunResults(rewards=REWARDS, arms=(arm_of("plain", 0, 4, scores=scores),))
    _, (cells,) = rows(tmp_path, results)
    assert cells[1] == "2.00 ± 0.58 (3 of 4)" and cells[2] == "none of 4"
    assert results.scores_of(results.arms[0], 1)["cat"] == "missing"


def test_scores_of_a_sample_end_where_their_error_does(arm_of):
    arms = [arm_of("plain", 0, 2, scores={"cat": [0.02317, 5.05432]})]
    arms += [arm_of("steered", 0, 2, scores={"cat": [-1.00042, 3.0]})]
    results = RunResults(rewards=REWARDS, arms=tuple(arms))
    assert [results.scores_of(arm, 0)["cat"] for arm in arms] == ["0.0", "-1.0"]
    alone = RunResults(rewards=REWARDS, arms=(arm_of("one", 0, 1, scores={"cat": [0.02317]}),))
    assert alone.scores_of(alone.arms[0], 0)["cat"] == "0.02317"


def test_judges_have_columns_of_calls_seconds_and_price(tmp_path, arm_of):
    judge = RewardRole(weight=1.0, held_out=False, external=True, price=0.25)
    cost = Cost(reward_calls={"cat": 60, "dog": 20}, reward_seconds={"cat": 7.5})
    arms = (arm_of("plain", 0, 4, scores={"cat": [1.0] * 4}, cost=cost),)
    heads, (cells,) = rows(tmp_path, RunResults(rewards=REWARDS | {"cat": judge}, arms=arms))
    known = dict(zip(heads, cells, strict=True))
    assert (known["judge calls"], known["judge seconds"], known["price"]) == ("15", "7.5", "15")
    lines = long(tmp_path, RunResults(rewards=REWARDS | {"cat": judge}, arms=arms))
    assert ["plain", "4", "price", "15", ""] in lines


def test_scores_beyond_any_square_have_their_error(tmp_path, arm_of):
    arm = arm_of("a", 0, 2, scores={"cat": [1e200, -1e200], "dog": [0.5] * 2})
    table = rows(tmp_path, RunResults(rewards=REWARDS, arms=(arm,)))
    assert "0 ± 1.0e+200" in str(table)


def test_markdown(tmp_path, results):
    lines = markdown(tmp_path, results).splitlines()
    assert lines[0].startswith("| arm | cat | dog (held out) |")
    assert set(lines[1]) == set("|- ")
    assert lines[2] == "| plain | 3.0 ± 1.1 | 0.5 ± 0 |  | 100 | 25 | 2 | 12.3 |"
    assert {line.count("|") for line in lines} == {9}


def diverged(results, *gains):
    """The results with a divergence for each arm, whose r is the score of 'cat' itself."""
    arms = (
        attrs.evolve(arm, divergence=attrs.evolve(gain, reward=fmean(arm.scores["cat"])))
        for arm, gain in zip(results.arms, gains, strict=True)
    )
    return attrs.evolve(results, arms=tuple(arms))


def test_bounds_of_the_divergence_have_columns(tmp_path, results):
    first = Divergence(reward=1.0, at_least=1.234, at_least_error=0.123, ess=10.0, at_most=2.5)
    second = Divergence(reward=1.0, at_least=0.5, at_least_error=0.3, ess=9.9)
    heads, (one, two) = rows(tmp_path, diverged(results, first, second))
    assert heads[4:7] == ["KL at least", "KL at most", "NFE (network calls)"]
    assert one[4:6] == ["1.23 ± 0.12", "2.5"]
    assert two[4:6] == ["0.50 ± 0.30 *", ""]
    below = attrs.evolve(second, at_least=-7.78e4)
    assert rows(tmp_path, diverged(results, first, below))[1][1][4:6] == ["0", ""]
    base = Divergence(reward=1.0, at_least=0.0, at_least_error=0.0, at_most=0.0)
    assert rows(tmp_path, diverged(results, base, second))[1][0][4:6] == ["0", "0"]
    bound = Divergence(reward=1.0, at_least=3.0, ess=20.0)
    heads, (one, _) = rows(tmp_path, diverged(results, bound, bound))
    assert (heads[4:6], one[4]) == (["KL at least", "NFE (network calls)"], "3")


def test_r_has_a_column_where_it_is_not_the_score_of_one_reward(tmp_path, results):
    gain = Divergence(reward=1.0, reward_error=0.25)
    results = diverged(results, gain, gain)
    assert rows(tmp_path, results)[0][3:5] == ["edges", "NFE (network calls)"]
    optimised = {name: RewardRole(weight=1.0, held_out=False) for name in ("cat", "dog")}
    heads, (one, _) = rows(tmp_path, attrs.evolve(results, rewards=optimised))
    assert (heads[3:6], one[4]) == (["edges", "r", "NFE (network calls)"], "3.00 ± 0.25")
    # A weight, or a normalisation, makes r another number than the score.
    weighted = [
        attrs.evolve(arm, divergence=attrs.evolve(gain, reward=6.0)) for arm in results.arms
    ]
    heads, (one, _) = rows(tmp_path, attrs.evolve(results, arms=tuple(weighted)))
    assert (heads[4], one[4]) == ("r", "6.00 ± 0.25")


def test_notes_stand_under_the_table_with_the_arms_they_are_about(tmp_path, results):
    arms = tuple(attrs.evolve(arm, notes=("Look.",)) for arm in results.arms)
    noted = attrs.evolve(results, arms=arms, notes=("* a star.", "Another."))
    lines = markdown(tmp_path, noted).splitlines()
    assert lines[3].startswith("| steered |")
    assert lines[4:] == ["", "plain, steered: Look.", "", r"\* a star.", "", "Another."]


def test_a_run_that_trains_has_a_table_of_its_last_steps(folder_of, arm_of):
    folder = folder_of(arm_of("distill", 0, 0, cost=attrs.evolve(COST, seconds=10.0)))
    losses = [9.0] * 18 + [1.0, 2.0]
    lines = [
        {"arm": "distill", "step": n, "loss": loss, "learning_rate": 1e-3}
        for n, loss in enumerate(losses)
    ]
    lines[3]["held_out"] = 0.25  # recorded once
    lines.append({"arm": "another", "step": 0, "loss": 100.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(folder)
    assert {path.name for path in folder.glob("*.png")} == {"curves.png"}
    heads, _, cells = (line.split(" | ") for line in (folder / "table.md").read_text().splitlines())
    table = dict(zip(heads, cells, strict=True))
    assert table["loss (last tenth)"] == "1.5"
    assert table["held_out (last tenth)"] == "0.25"
    assert not any("learning_rate" in head for head in heads)
    assert table["seconds |"] == "7.0 |"


def test_an_arm_that_trains_beside_one_that_samples(folder_of, arm_of):
    folder = folder_of(arm_of("plain", 0), arm_of("distill", 1, 0), states=[[[0.0, 1.0]] * 2])
    write(folder)
    assert (folder / "scatter.png").is_file()
    assert len((folder / "table.md").read_text().splitlines()) == 4


def test_what_a_sweep_varied_has_columns(tmp_path, arm_of, results):
    swept = [
        arm_of(f"draws {n}", n, 2, scores={"cat": [1.0, 3.0]}, factors={"draws": n, "how": "ode"})
        for n in (1, 16)
    ]
    results = attrs.evolve(results, arms=(*results.arms, *swept))
    heads, cells = rows(tmp_path, results)
    assert heads[:4] == ["arm", "draws", "how", "cat"]
    assert [row[:4] for row in cells[1:]] == [
        ["steered", "", "", "1.25"],
        ["draws 1", "1", "ode", "2.0 ± 1.0"],
        ["draws 16", "16", "ode", "2.0 ± 1.0"],
    ]


def test_the_long_table_has_a_row_a_number(tmp_path, arm_of):
    gain = Divergence(reward=2.0, reward_error=0.5, at_least=1.5, at_least_error=0.25)
    arm = arm_of(
        "a", 0, 2, scores={"cat": [1.0, 3.0]}, factors={"draws": 4}, cost=COST, divergence=gain
    )
    heads, *lines = long(tmp_path, RunResults(rewards=REWARDS, arms=(arm,)))
    assert heads == ["arm", "draws", "samples", "number", "value", "error"]
    assert {tuple(line[:3]) for line in lines} == {("a", "4", "2")}
    assert {line[3]: (line[4], line[5]) for line in lines} == {
        "cat": ("2", "1"),
        "r": ("2", "0.5"),
        "KL at least": ("1.5", "0.25"),
        "network calls": ("400", ""),
        "reward calls": ("100", ""),
        "FLOP": ("8e+09", ""),
        "seconds": ("12.34", ""),
    }
