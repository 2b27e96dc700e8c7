"""Recipes that can run: what they become, and that nothing is lost on the way back."""

import math
import tomllib

import pytest

from align.recipe import Arm, to_toml
from align.recipe.assemble import merged
from align.recipe.source_map import line_of
from align.recipe.write import to_tables

ARMS = """
[[compare]]
name = "1 draw"
estimator.draws = 1

[[compare]]
name = "flat"
model = { kind = "toy_vectors", size = 3 }
estimator = { kind = "toy_flat" }
mode.schedule.rate = 0.5
sampler = { kind = "toy_stiff" }

[[compare]]
name = "best of 100"
mode = { kind = "toy_pick", n = 100 }
"""
# Of the good recipe's parts, those that score images cannot be compared with vectors.
PLAIN = """
model.kind = "toy_images"
sampler.kind = "toy_map"
estimator = { kind = "toy_slope", draws = 8 }
reward = [{ kind = "toy_smooth" }]
[mode]
kind = "toy_guide"
steps = 10
"""


def test_values(read, good):
    loaded = read(good)
    recipe = loaded.recipe
    assert recipe.model.prompt == "a cat"
    assert recipe.estimator.draws == 4
    assert recipe.mode.steps == 10
    assert [(term.name, term.weight, term.held_out) for term in recipe.reward] == [
        ("toy_smooth", 5.0, False),
        ("toy_jpeg", 1.0, True),
    ]
    assert type(recipe.reward[0].weight) is float
    assert recipe.reward[1].part.quality == 3
    assert (recipe.run.seed, recipe.run.samples, recipe.run.out) == (0, 8, "runs/r")
    assert loaded.source.where(("model", "prompt")) == "r.toml:4"
    assert recipe.mode.schedule.stages == (1, 2)


def test_a_string_stands_for_the_part_with_that_kind(read):
    arm = '[[compare]]\nname = "a"\nmodel = "toy_vectors"\nestimator = "toy_flat"\n'
    recipe = read(PLAIN + 'inner = "toy_map"\n' + arm + 'sampler = "toy_stiff"\n').recipe
    assert recipe.mode.inner.kind == "toy_map"
    assert recipe.arms()[0].estimator.kind == "toy_flat"
    table = PLAIN + 'inner = { kind = "toy_map" }\n'
    assert read(table).recipe.mode == recipe.mode
    assert read(to_toml(recipe)).recipe == recipe


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        ("a", {"kind": "a", "n": 1}, {"kind": "a", "n": 1}),
        ("a", {"n": 1}, {"kind": "a", "n": 1}),
        ({"kind": "a", "n": 1}, "a", {"kind": "a", "n": 1}),
        ({"kind": "a", "n": 1}, "b", {"kind": "b"}),
        ({"n": 1}, "b", "b"),
        ("a", "b", "b"),
    ],
)
def test_a_string_and_a_table_are_merged_as_tables(base, change, expected):
    assert merged(base, change) == expected


def test_an_override_reaches_into_a_part_that_is_a_string(read):
    text = PLAIN.replace('estimator = { kind = "toy_slope", draws = 8 }', 'estimator = "toy_slope"')
    assert read(text, "estimator.draws=3").recipe.estimator.draws == 3


def test_one_arm(read, good):
    recipe = read(good).recipe
    (arm,) = recipe.arms()
    assert arm == Arm(
        name="toy_guide",
        model=recipe.model,
        sampler=recipe.sampler,
        estimator=recipe.estimator,
        mode=recipe.mode,
    )


def test_compared_arms(read):
    recipe = read(PLAIN + ARMS).recipe
    one, flat, best = recipe.arms()
    assert one.name == "1 draw"
    assert one.estimator.draws == 1
    assert (one.model, one.sampler, one.mode) == (recipe.model, recipe.sampler, recipe.mode)
    assert (flat.model.kind, flat.model.size, flat.sampler.kind) == ("toy_vectors", 3, "toy_stiff")
    assert flat.estimator.draws == 4  # another kind: nothing of the section above is left
    assert (flat.mode.steps, flat.mode.schedule.rate) == (10, 0.5)
    assert (best.mode.kind, best.mode.n) == ("toy_pick", 100)


def test_merged():
    base = {"kind": "a", "x": 1, "inner": {"kind": "b", "y": 2}}
    assert merged(base, {"x": 3}) == base | {"x": 3}
    assert merged(base, {"kind": "a"}) == base
    assert merged(base, {"kind": "c"}) == {"kind": "c"}
    assert merged(base, {"inner": {"z": 4}}) == base | {"inner": {"kind": "b", "y": 2, "z": 4}}
    assert merged(base, {"inner": {"kind": "c"}}) == base | {"inner": {"kind": "c"}}
    assert merged(None, {"kind": "c"}) == {"kind": "c"}


RICH = """
label = "three\\nlines\\t\\u0000 \\"quoted\\" \\\\ é"
count = 3
sizes = []
span = [-inf, 1e300]
grid = [[1, 2.5], []]
net = { kind = "deep", depth = 7 }
by_name = { "a b" = 1, c = 2 }
schedules = [{ rate = 3 }, { stages = [9] }]
extra.rate = 1e-7
inner = { kind = "toy_stiff" }
teacher = { kind = "toy_images", prompt = "p" }
"""


def test_normalised_and_clipped(read):
    text = PLAIN.replace('"toy_smooth"', '"toy_smooth", normalise = "rank", clip = [-inf, 3]')
    loaded = read(text)
    (term,) = loaded.recipe.reward
    assert (term.normalise, term.clip) == ("rank", (-math.inf, 3.0))
    again = read(to_toml(loaded.recipe))
    assert again.recipe == loaded.recipe


def test_a_reward_that_is_held_out_needs_no_statistics(read, good):
    text = good.replace("quality = 3\n", 'quality = 3\nnormalise = "zscore"\n')
    assert read(text, "run.unsteered=0").recipe.reward[1].held_out


@pytest.mark.parametrize("extra", ["", ARMS, RICH, RICH + ARMS])
def test_round_trip(read, extra):
    loaded = read(PLAIN + extra)
    text = to_toml(loaded.recipe)
    again = read(text)
    assert again.recipe == loaded.recipe
    assert to_toml(again.recipe) == text
    assert tomllib.loads(text) == to_tables(loaded.recipe)
    if extra.startswith(RICH):
        mode = again.recipe.mode
        assert mode.label == 'three\nlines\t\0 "quoted" \\ é'
        assert (mode.span, mode.sizes, mode.grid) == ((-math.inf, 1e300), (), ((1.0, 2.5), ()))
        assert mode.by_name == {"a b": 1.0, "c": 2.0}
        assert [one.stages for one in mode.schedules] == [(1, 2), (9,)]
        assert (mode.net.kind, mode.extra.rate, mode.inner.kind) == ("deep", 1e-7, "toy_stiff")


def test_every_value_is_written(read):
    written = tomllib.loads(to_toml(read(PLAIN + ARMS).recipe))
    assert written["run"] == {
        "seed": 0,
        "samples": 8,
        "unsteered": 64,
        "out": "runs/r",
        "cache": True,
        "device": "auto",
        "chunk": 0,
        "checkpoint_every": 200,
        "pictures_every": "auto",
        "block": 0,
        "npz": False,
        "trackers": [],
    }
    assert written["reward"] == [
        {
            "kind": "toy_smooth",
            "name": "toy_smooth",
            "weight": 1.0,
            "normalise": "none",
            "held_out": False,
            "offload": False,
            "version": "v2.1",
        }
    ]
    for arm in written["compare"]:
        assert set(arm) == {"name", "model", "sampler", "estimator", "mode"}
    assert written["compare"][2]["mode"] == {"kind": "toy_pick", "n": 100}
    assert written["compare"][0]["mode"] == written["mode"]


def test_names_of_rewards(read):
    twice = PLAIN.replace(
        '[{ kind = "toy_smooth" }]',
        '[{ kind = "toy_smooth" }, { kind = "toy_smooth" }, '
        '{ kind = "toy_smooth", name = "toy_smooth_2" }]',
    )
    names = [term.name for term in read(twice).recipe.reward]
    assert names == ["toy_smooth", "toy_smooth_3", "toy_smooth_2"]


def test_overrides(read, good):
    recipe = read(
        good + ARMS.partition('[[compare]]\nname = "flat"')[0],
        "mode.steps=20",
        "reward[0].weight=2",
        'mode.by_name."a b"=1',
        "mode.schedule.rate = 0.25  # a note",
        "run.seed=7",
        "run.out='elsewhere'",
        "compare[0].estimator.draws=3",
        "mode.steps=30",
    ).recipe
    assert recipe.mode.steps == 30
    assert recipe.reward[0].weight == 2.0
    assert recipe.mode.by_name == {"a b": 1.0}
    assert recipe.mode.schedule.rate == 0.25
    assert (recipe.run.seed, recipe.run.out) == (7, "elsewhere")
    assert recipe.arms()[0].estimator.draws == 3


def test_override_of_a_whole_section(read, good):
    recipe = read(good, 'mode={kind="toy_pick", n=2}').recipe
    assert recipe.mode.n == 2


TEXT = '''\
# A comment.
top = 1
[a]  # header
b.c = [
  1,
  { x = 1, y = 2 },

]
"quoted key" = """
two lines
"""
inline = { k = { l = 1 } }

[[many]]
x = 1
[many.inner]
y = 2
[[many]]
x = 3
after = 4
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("top",), 2),
        (("a",), 3),
        (("a", "b"), 4),
        (("a", "b", "c"), 4),
        (("a", "b", "c", 0), 5),
        (("a", "b", "c", 1, "y"), 6),
        (("a", "quoted key"), 9),
        (("a", "inline", "k", "l"), 12),
        (("many",), 14),
        (("many", 0, "x"), 15),
        (("many", 0, "inner", "y"), 17),
        (("many", 1), 18),
        (("many", 1, "x"), 19),
        (("many", 1, "after"), 20),
        (("many", 1, "missing"), 18),
        (("nowhere", "at", 3), 1),
    ],
)
def test_lines(key, line):
    assert line_of(TEXT, key) == line


def test_lines_with_odd_ends():
    text = 'a = "\u2028\x85"\r\n\r\nb = 2\r\n'
    assert line_of(text, ("b",)) == 3


def test_lines_of_strings_and_arrays_that_look_like_toml():
    text = (
        'a = """\n[b]\nc = 1 # ""\n"""\nd = \'\'\'\n[[e]] \'\'\'\n'
        'f = [ # ]\n[1, 2], [3], [\n4],\n["]"], 2020-01-01 00:00:00]\n'
        '["x\\u0041".\'y.z\']\nlast = { "=" = 1, q = [{}, { r = [[]] }] }\n'
    )
    keys = [("d",), ("f",), ("f", 2, 0), ("f", 3), ("f", 4), ("xA", "y.z"), ("xA", "y.z", "last")]
    assert [line_of(text, key) for key in keys] == [5, 7, 9, 10, 10, 11, 12]
    assert line_of(text, ("xA", "y.z", "last", "q", 1, "r", 0)) == 12
    assert line_of(text, ("b",)) == line_of(text, ("e",)) == 1


def test_lines_of_every_key_of_a_long_array():
    text = "x = [\n" + "[0.5, 1],\n" * 1000 + "]\ny = 2\n"
    assert line_of(text, ("x", 999, 1)) == 1001
    assert line_of(text, ("y",)) == 1003
