import csv
import io

import attrs
import pytest
import tomli_w
from scipy import stats

from align.core.errors import PartError
from align.engine.meter import Cost
from align.report.compare import Comparison, Difference, as_csv, compare, student
from align.report.schema import ArmNumbers, RewardRole, RunResults, save

RECIPE = {
    "run": {"seed": 3},
    "model": {"kind": "pocket", "prompt": "cat"},
    "reward": [{"name": "cat", "kind": "cat", "weight": 2.0}],
}


def arm(name, *scores, reward="cat", **more):
    scores = {reward: tuple(map(float, scores))}
    facts = {"scores": scores, "cost": Cost(calls={"network": 50}), **more}
    return ArmNumbers(name=name, folder="samples/x", samples=len(scores[reward]), **facts)


@pytest.fixture
def run_of(tmp_path):
    """Write a run folder; returns its name."""

    def written(name, *arms, recipe=RECIPE, digest="", **roles):
        roles = roles or {"cat": RewardRole(weight=2.0, held_out=False)}
        save(tmp_path / name, RunResults(rewards=roles, arms=arms, recipe=digest))
        (tmp_path / name / "recipe.toml").write_text(tomli_w.dumps(recipe))
        return str(tmp_path / name)

    return written


def only(first, second):
    (comparison,) = compare(first, second)
    return comparison


def said(first, second):
    return "\n".join(only(first, second).verdict())


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30, 63, 1000])
def test_quantiles_of_student_are_scipys(freedom):
    assert student(0.95, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_interval_is_that_of_paired_t_and_the_share_that_of_a_sign_test():
    a, b = (1.0, 2.5, 0.5, 4.0, 2.0, 3.0), (0.5, 1.0, 0.0, 1.5, 1.5, 2.5)
    one = Difference(reward="cat", a=a, b=b)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert one.mean - one.half_width == pytest.approx(low)
    assert one.mean + one.half_width == pytest.approx(high)
    assert stats.binomtest(6, 6).pvalue <= 0.05 < stats.binomtest(5, 5).pvalue
    assert (one.mostly, Difference(reward="cat", a=a[:5], b=b[:5]).mostly) == (1, 0)
    assert Difference(reward="cat", a=b, b=a).mostly == -1


def test_verdict_says_who_is_better_by_how_much_and_on_how_many(run_of):
    run = run_of("run", arm("slow", 3, 4, 5, 6), arm("fast", 1, 2, 3.5, 3.5))
    assert "cat: slow is better by 2.00 ± 0.65 (95 %), on 4 of 4 samples." in said(
        f"{run}:slow", f"{run}:fast"
    )
    assert "cat: slow is better by" in said(f"{run}:fast", f"{run}:slow")


def test_verdict_where_the_interval_holds_0_says_so(run_of):
    run = run_of("run", arm("a", 1, 2, 3, 4), arm("b", 1.1, 1.9, 3.1, 3.9))
    assert "no difference seen, 0.00 ± 0.18 (95 %); a is better on 2 of 4" in said(
        f"{run}:a", f"{run}:b"
    )


def test_verdict_where_one_sample_makes_the_difference_tells_wins_and_doubt(run_of):
    run = run_of("run", arm("a", *[0.1] * 7, 9), arm("b", *[0.0] * 8))
    text = said(f"{run}:b", f"{run}:a")
    assert "a is better on 8 of 8 samples; by how much is not clear, 1.2 ± 2.6 (95 %)" in text


def test_verdict_of_equal_scores_and_of_a_single_sample_claims_nothing(run_of):
    run = run_of("run", arm("a", 1, 2), arm("b", 1, 2))
    assert "no difference at all, on 2 samples" in said(f"{run}:a", f"{run}:b")
    for b in (2, 1):
        run = run_of(f"one {b}", arm("a", 1), arm("b", b))
        assert "one sample says nothing" in said(f"{run}:a", f"{run}:b")


def test_low_scores_are_better_where_the_weight_is_negative(run_of):
    role = {"cat": RewardRole(weight=-1.0, held_out=False)}
    run = run_of("run", arm("a", 1, 2, 3), arm("b", 4, 5, 6.5), **role)
    comparison = only(f"{run}:a", f"{run}:b")
    assert "a is better by 3.17 ± 0.72" in comparison.verdict()[0]
    assert comparison.rows()[1][0][-1] == "3 of 3"


def test_gain_that_a_held_out_judge_denies_is_called_hacked(run_of):
    roles = {
        "judge": RewardRole(weight=1.0, held_out=True),
        "cat": RewardRole(weight=1.0, held_out=False),
    }
    recipe = RECIPE | {"reward": [{"name": name, "kind": "cat"} for name in roles]}
    ones = {"judge": (1.0, 2.0, 3.0), "cat": (5.0, 6.0, 7.5)}
    others = {"judge": (4.0, 5.0, 6.5), "cat": (1.0, 2.0, 3.0)}
    run = run_of(
        "run",
        arm("a", 0, 0, 0, scores=ones),
        arm("b", 0, 0, 0, scores=others),
        recipe=recipe,
        **roles,
    )
    cat, judge, hacked, *_ = only(f"{run}:a", f"{run}:b").verdict()
    assert cat.startswith("cat: a is better")
    assert judge.startswith("judge (held out): b is better")
    assert "a is better by what was optimised and worse by what was held out" in hacked


def test_pairs_that_are_none_are_refused_with_every_reason(run_of):
    one = run_of("one", arm("a", 1, 2))
    model = {"kind": "pocket", "prompt": "dog", "photographs": True}
    recipe = RECIPE | {"run": {"seed": 4}, "model": model}
    other = run_of("other", arm("b", 1, 2, independent=False), recipe=recipe)
    with pytest.raises(PartError) as caught:
        compare(one, other)
    head, seeds, prompts, models, pool = str(caught.value).splitlines()
    assert head == "a and b cannot be compared sample by sample:"
    assert "seeds differ (3 and 4)" in seeds and "--set run.seed=3" in seeds
    assert "prompts differ" in prompts
    assert "models differ in 'photographs'" in models
    assert "samples of b depend on each other" in pool


def test_files_of_prompts_are_known_by_their_content(run_of):
    recipe = RECIPE | {"model": {"kind": "pocket", "prompts": "x.txt"}}
    one = run_of("one", arm("a", 1, 2, inputs={"x.txt": "1"}), recipe=recipe)
    moved = run_of("moved", arm("b", 1, 2, inputs={"y.txt": "1"}), recipe=recipe)
    other = run_of("other", arm("b", 1, 2, inputs={"x.txt": "2"}), recipe=recipe)
    assert only(one, moved)
    with pytest.raises(PartError, match="prompts differ"):
        compare(one, other)


def test_files_that_a_model_reads_count_by_their_content(run_of):
    def recipe(path, digest):
        return RECIPE | {"model": {"kind": "network", "weights": path}, "files": {path: digest}}

    one = run_of("one", arm("a", 1, 2), recipe=recipe("/a", "1"))
    assert only(one, run_of("moved", arm("b", 1, 2), recipe=recipe("/b", "1")))
    with pytest.raises(PartError, match="models differ in 'weights'"):
        compare(one, run_of("changed", arm("b", 1, 2), recipe=recipe("/a", "2")))


def test_models_that_one_recipe_has_side_by_side_are_compared_with_a_note(run_of, monkeypatch):
    tuned = {"name": "tuned", "model": {"kind": "network", "prompt": "cat"}}
    recipe = RECIPE | {"compare": [{"name": "base", "model": RECIPE["model"]}, tuned]}
    monkeypatch.setattr("align.report.compare.check_recipe", lambda *_: None)
    run = run_of("run", arm("base", 1, 2), arm("tuned", 3, 4), recipe=recipe, digest="same")
    assert "models differ in 'kind': pairs share noise" in said(f"{run}:base", f"{run}:tuned")


def test_runs_of_other_lengths_are_compared_as_far_as_both_go(run_of):
    one, other = run_of("one", arm("a", 1, 2, 3)), run_of("other", arm("a", 0, 1, 2, 3))
    comparison = only(one, other)
    assert comparison.names == ("one", "other")
    assert comparison.differences[0].b == (0.0, 1.0, 2.0)
    assert "one has 3 and other 4: the first 3 of both" in comparison.notes[0]


def test_rewards_that_one_run_lacks_are_named_of_both(run_of):
    role = {"dog": RewardRole(weight=1.0, held_out=False)}
    other = attrs.evolve(arm("a"), samples=2, scores={"dog": (1.0, 2.0)})
    one, two = run_of("one", arm("a", 1, 2)), run_of("two", other, **role)
    with pytest.raises(PartError, match=r"(?s)cat: two has no scores.*dog: one has no scores"):
        compare(str(one), str(two))


def test_rewards_that_are_not_the_same_are_left_out_and_named(run_of):
    one = run_of("one", arm("a", 1, 2))
    changed = RECIPE | {"reward": [{"name": "cat", "kind": "cat", "label": "dog"}]}
    other = run_of("other", arm("a", 1, 2), recipe=changed)
    with pytest.raises(PartError, match=r"(?s)no reward was scored in both.*differs in 'label'"):
        compare(one, other)
    weighed = RECIPE | {"reward": [{"name": "cat", "kind": "cat", "weight": 9.0}]}
    assert only(one, run_of("weighed", arm("a", 1, 2), recipe=weighed))


def test_runs_of_several_arms_are_compared_by_the_names_of_these(run_of):
    one = run_of("one", arm("a", 1, 2), arm("b", 3, 4))
    other = run_of("other", arm("b", 3, 4), arm("c", 3, 4))
    assert [comparison.arm for comparison in compare(one, other)] == ["b"]
    with pytest.raises(PartError, match=r"name the arms, as in '.*one:a'"):
        compare(one, run_of("third", arm("d", 1, 2)))


def test_arms_are_named_after_a_colon_that_folders_may_have_too(run_of):
    run = run_of("a:b", arm("c:d", 1, 2), arm("e", 1, 2))
    assert only(f"{run}:c:d", f"{run}:e").names == ("c:d", "e")
    with pytest.raises(PartError, match="has no arm 'f'; known are 'c:d', 'e'"):
        compare(f"{run}:f", run)


def test_run_without_samples_is_refused(run_of):
    run = run_of("run", attrs.evolve(arm("a", 1), samples=0))
    with pytest.raises(PartError, match="made no samples that could be compared"):
        compare(run, run)
    with pytest.raises(PartError, match="holds no finished run"):
        compare("nowhere", run)


def test_csv_has_a_row_for_each_pair_and_keeps_every_digit(run_of):
    run = run_of("run", arm("a", 1 / 3, 2), arm("b", 1, 2))
    (comparison,) = comparisons = compare(f"{run}:a", f"{run}:b")
    head, *rows = csv.reader(io.StringIO(as_csv(comparisons)))
    assert head == ["A", "B", "sample", "reward", "score of A", "score of B", "A - B"]
    assert rows[0] == ["a", "b", "0", "cat", repr(1 / 3), "1.0", repr(1 / 3 - 1)]
    assert len(rows) == 2 and isinstance(comparison, Comparison)
