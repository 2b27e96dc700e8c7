"""Recipes that cannot run, and the exact words they are refused with."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from align.catalog.registry import load_catalog
from align.cli.main import main
from align.core.errors import RecipeError
from align.recipe import load

MODEL = '[model]\nkind = "toy_vectors"\n'
PICK = '[mode]\nkind = "toy_pick"\nn = 2\n'
REWARD = '[[reward]]\nkind = "toy_smooth"\n'
GUIDE = '[mode]\nkind = "toy_guide"\n'
REST = (
    '[model]\nkind = "toy_images"\n[sampler]\nkind = "toy_map"\n'
    '[estimator]\nkind = "toy_slope"\n' + REWARD
)
STEER = REST + GUIDE  # 10 lines; the next is number 11
EXPECTED_VALUE = "expected a value, such as 'text', 4, 0.5, true, [1, 2] or { key = 1 }"
GUIDE_KEYS = (
    "'by_name', 'count', 'extra', 'grid', 'inner', 'label', 'loud', 'net', 'scale', 'schedule', "
    "'schedules', 'sizes', 'span', 'steps', 'teacher', 'warm'"
)

WRONG = {
    "syntax": ("[run]\nseed = \n", f"r.toml:2: toml: {EXPECTED_VALUE}"),
    "syntax at the end": ("[run]\nx = [1,\n\n", f"r.toml:2: toml: {EXPECTED_VALUE}"),
    "twice": ("[run]\nseed = 1\nseed = 2\n", "r.toml:3: toml: cannot overwrite a value"),
    "section": (
        STEER + "[modle]\n",
        "r.toml:11: modle: no section named 'modle'; known are 'compare', 'estimator', 'metric', "
        "'mode', 'model', 'reward', 'run', 'sampler', 'sweep'",
    ),
    "no mode": (
        MODEL,
        "r.toml:1: mode: required section is missing; add [mode] with a kind, known are "
        "'toy_guide', 'toy_pick'",
    ),
    "section is no table": (
        "model = 3\n" + PICK,
        "r.toml:1: model: expected a string or a table, got the integer 3",
    ),
    "string is no integer": (
        STEER + 'steps = "7"\n',
        "r.toml:11: mode.steps: expected an integer, got the string '7'",
    ),
    "number is no integer": (
        STEER + "steps = 7.9\n",
        "r.toml:11: mode.steps: expected an integer, got the number 7.9",
    ),
    "true is no integer": (
        STEER + "steps = true\n",
        "r.toml:11: mode.steps: expected an integer, got true",
    ),
    "string is no boolean": (
        STEER + 'loud = "no"\n',
        "r.toml:11: mode.loud: expected true or false, got the string 'no'",
    ),
    "integer is no boolean": (
        STEER + "loud = 1\n",
        "r.toml:11: mode.loud: expected true or false, got the integer 1",
    ),
    "true is no number": (
        STEER + "scale = true\n",
        "r.toml:11: mode.scale: expected a number, got true",
    ),
    "date is no string": (
        STEER + "label = 2026-01-02\n",
        "r.toml:11: mode.label: expected a string, got the date or time 2026-01-02",
    ),
    "string is no array": (
        STEER + 'sizes = "12"\n',
        "r.toml:11: mode.sizes: expected an array of integers, got the string '12'",
    ),
    "element": (
        STEER + "sizes = [\n  1,\n  2.5,\n]\n",
        "r.toml:13: mode.sizes[1]: expected an integer, got the number 2.5",
    ),
    "length": (
        STEER + "span = [1]\n",
        "r.toml:11: mode.span: expected an array of 2 values, got 1",
    ),
    "literal": (
        REST + 'version = "v3"\n' + GUIDE,
        "r.toml:9: reward[0].version: expected one of 'v2.0', 'v2.1', got the string 'v3'",
    ),
    "union": (
        STEER + "count = 0.5\n",
        "r.toml:11: mode.count: expected an integer or 'all', got the number 0.5",
    ),
    "dictionary": (
        STEER + 'by_name = { a = 1, "b c" = "2" }\n',
        "r.toml:11: mode.by_name.\"b c\": expected a number, got the string '2'",
    ),
    "unknown option": (
        STEER + "stpes = 12\n",
        "r.toml:11: mode.stpes: no option named 'stpes'; did you mean 'steps'?",
    ),
    "unlike any option": (
        STEER + "zzz = 12\n",
        f"r.toml:11: mode.zzz: no option named 'zzz'; known are {GUIDE_KEYS}",
    ),
    "no options at all": (
        STEER.replace('"toy_map"\n', '"toy_map"\nsteps = 3\n'),
        "r.toml:5: sampler.steps: no option named 'steps'; there are none",
    ),
    "validator": (
        STEER + "scale = -1.0\n",
        "r.toml:11: mode.scale: 'scale' must be greater than 0, got -1",
    ),
    "validator that sees others": (
        STEER + "steps = 5\nwarm = 5\n",
        "r.toml:12: mode.warm: 'warm' must be less than 'steps', got 5",
    ),
    "missing": (
        MODEL + REWARD + '[mode]\nkind = "toy_pick"\n',
        "r.toml:5: mode.n: required key is missing; expected an integer",
    ),
    "no kind": (
        MODEL + REWARD + "[mode]\nn = 3\n",
        "r.toml:5: mode.kind: required key is missing; known are 'toy_guide', 'toy_pick'",
    ),
    "kind is no string": (
        REST + "[mode]\nkind = 3\n",
        "r.toml:10: mode.kind: expected a string, got the integer 3",
    ),
    "unknown kind": (
        REST + '[mode]\nkind = "toy_guied"\n',
        "r.toml:10: mode.kind: no mode named 'toy_guied'; did you mean 'toy_guide'?",
    ),
    "kind of another contract": (
        REST + '[mode]\nkind = "toy_slope"\n',
        "r.toml:10: mode.kind: no mode named 'toy_slope'; 'toy_slope' is an estimator",
    ),
    "kind of a broken plugin": (
        MODEL + '[[reward]]\nkind = "lost"\n' + PICK,
        "r.toml:4: reward[0].kind: no reward named 'lost'; plugin 'lost' (align-lost 1.0) did not "
        "load: ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
    ),
    "string names no kind": (
        STEER + 'inner = "toy_mpa"\n',
        "r.toml:11: mode.inner: no sampler named 'toy_mpa'; did you mean 'toy_map'?",
    ),
    "part is neither string nor table": (
        STEER + "inner = 3\n",
        "r.toml:11: mode.inner: expected a string or a table, got the integer 3",
    ),
    "part in a part": (
        STEER + 'inner = { kind = "toy_mpa" }\n',
        "r.toml:11: mode.inner.kind: no sampler named 'toy_mpa'; did you mean 'toy_map'?",
    ),
    "table in a part": (
        STEER + "[mode.schedule]\nrate = 0\nstages = [1, true]\n",
        "r.toml:12: mode.schedule.rate: 'rate' must be greater than 0, got 0\n"
        "r.toml:13: mode.schedule.stages[1]: expected an integer, got true",
    ),
    "kind of a table": (
        STEER + 'net = { kind = "wied" }\n',
        "r.toml:11: mode.net.kind: no kind named 'wied'; did you mean 'wide'?",
    ),
    "one side's option": (
        STEER + 'net = { kind = "deep", width = 3 }\n',
        "r.toml:11: mode.net.width: no option named 'width'; known are 'depth'",
    ),
    "one bracket": (
        MODEL + '[reward]\nkind = "toy_smooth"\n' + PICK,
        "r.toml:3: reward: expected an array of tables, got a table; write its header in [[ ]]",
    ),
    "names": (
        MODEL + REWARD + 'name = "a"\n' + REWARD + 'name = "a"\n' + PICK,
        "r.toml:8: reward[1].name: the name 'a' is taken by reward[0]; choose another",
    ),
    "all at once": (
        '[run]\nseed = "7"\nsamples = 0\n[[reward]]\nkind = "toy_jpeg"\nwieght = 2\nweight = "x"\n'
        '[mode]\nkind = "guied"\n',
        "r.toml:2: run.seed: expected an integer, got the string '7'\n"
        "r.toml:3: run.samples: 'samples' must be at least 1, got 0\n"
        "r.toml:4: reward[0].quality: required key is missing; expected an integer\n"
        "r.toml:6: reward[0].wieght: no option named 'wieght'; did you mean 'weight'?\n"
        "r.toml:7: reward[0].weight: expected a number, got the string 'x'\n"
        "r.toml:9: mode.kind: no mode named 'guied'; known are 'toy_guide', 'toy_pick'; "
        "`align list` shows plugins that did not load",
    ),
    "arm without a name": (
        STEER + "[[compare]]\nestimator.draws = 1\n",
        "r.toml:11: compare[0].name: required key is missing; expected a string",
    ),
    "arm's option": (
        STEER + '[[compare]]\nname = "a"\nestimator.drwas = 1\n',
        "r.toml:13: compare[0].estimator.drwas: no option named 'drwas'; did you mean 'draws'?",
    ),
    "arm's section": (
        STEER + '[[compare]]\nname = "a"\nrun.seed = 1\nsampelr.n = 1\n',
        "r.toml:13: compare[0].run: [run] is the same for all that is compared; take it out of "
        "[[compare]]\n"
        "r.toml:14: compare[0].sampelr: no section named 'sampelr'; did you mean 'sampler'?",
    ),
    "arm's reward": (
        STEER + '[[compare]]\nname = "a"\nreward.weight = 2.0\n',
        "r.toml:13: compare[0].reward: rewards are the same for all that is compared, but for "
        "weights; write weights = { NAME = 2.0 } with a reward's name, or vary it by [sweep]",
    ),
    "arms' names": (
        STEER + '[[compare]]\nname = "a"\n[[compare]]\nname = "a"\n',
        "r.toml:14: compare[1].name: the name 'a' is taken by compare[0]; choose another",
    ),
    "an arm's name that nobody sees": (
        STEER + '[[compare]]\nname = " "\n',
        "r.toml:12: compare[0].name: expected a name, got the string ' '",
    ),
    "a fault that arms inherit": (
        STEER + 'steps = 0\n[[compare]]\nname = "a"\nmode.scale = 2\n',
        "r.toml:11: mode.steps: 'steps' must be at least 1, got 0",
    ),
    "fit: nothing there": (
        GUIDE,
        "r.toml:1: mode: 'toy_guide' needs a model, but the recipe has none; add [model]\n"
        "r.toml:1: mode: 'toy_guide' needs a reward to optimise, but the recipe has none; add a "
        "[[reward]] that is not held out\n"
        "r.toml:1: mode: 'toy_guide' needs a sampler, but the recipe has none; add [sampler]\n"
        "r.toml:1: mode: 'toy_guide' needs an estimator, but the recipe has none; add [estimator]",
    ),
    "fit: all held out": (
        MODEL + REWARD + "held_out = true\n" + PICK,
        "r.toml:6: mode: 'toy_pick' needs a reward to optimise, but every reward is held out; "
        "add a [[reward]] that is not held out",
    ),
    "fit: gradient": (
        STEER + '[[reward]]\nkind = "toy_jpeg"\nquality = 1\n',
        "r.toml:9: mode: 'toy_guide' with estimator 'toy_slope' needs the reward's gradient, but "
        "reward 'toy_jpeg' has none; use estimator 'toy_flat'",
    ),
    "fit: sampler's gradient": (
        STEER.replace("toy_map", "toy_stiff"),
        "r.toml:9: mode: 'toy_guide' with estimator 'toy_slope' needs the gradient of the draws, "
        "but sampler 'toy_stiff' has none; use sampler 'toy_map'",
    ),
    "fit: capabilities": (
        STEER.replace("toy_images", "toy_vectors"),
        "r.toml:3: sampler: 'toy_map' needs a model with PosteriorMap, but model 'toy_vectors' has "
        "only FlowMap",
    ),
    "fit: domain": (
        MODEL + REWARD + '[[reward]]\nkind = "toy_jpeg"\nquality = 1\n'
        '[[metric]]\nkind = "toy_sharpness"\n' + PICK,
        "r.toml:5: reward[1]: 'toy_jpeg' scores images, but model 'toy_vectors' makes vectors\n"
        "r.toml:8: metric[0]: 'toy_sharpness' measures images, but model 'toy_vectors' makes "
        "vectors",
    ),
    "fit: prompt": (
        STEER.replace("toy_smooth", "toy_reader") + '[[reward]]\nkind = "toy_reader"\nname = "b"\n',
        "r.toml:7: reward[0]: 'toy_reader' compares pictures with the prompt, but model "
        "'toy_images' has none; set model.prompt\n"
        "r.toml:11: reward[1]: 'toy_reader' compares pictures with the prompt, but model "
        "'toy_images' has none; set model.prompt",
    ),
    "fit: prompt of an arm": (
        STEER.replace("toy_smooth", "toy_reader").replace('images"', 'images"\nprompt = "a cat"')
        + '[[compare]]\nname = "a"\n[[compare]]\nname = "b"\nmodel.prompt = " "\n',
        "r.toml:16: compare[1].model: 'toy_reader' compares pictures with the prompt, but model "
        "'toy_images' has none; set model.prompt",
    ),
    "fit: braces": (
        STEER.replace('images"', 'images"\nprompt = "a {cat"'),
        "r.toml:3: model.prompt: 'a {cat' has a brace without a partner, or braces in braces; a "
        "brace of the text itself is written '{{' or '}}'",
    ),
    "fit: braces of an arm": (
        STEER + '[[compare]]\nname = "a"\nmodel.prompt = "{cat}"\n',
        "r.toml:13: compare[0].model.prompt: '{cat}' is neither '{class}' nor a choice like "
        "'{cat|dog}'; name several words, or write {{ and }} for braces",
    ),
    "fit: an empty choice": (
        STEER.replace("toy_smooth", "toy_reader").replace('images"', 'images"\nprompt = "{|cat}"'),
        "r.toml:8: reward[0]: 'toy_reader' compares pictures with the prompt, but model "
        "'toy_images' has none; set model.prompt",
    ),
    "fit: model": (
        STEER.replace('images"', 'images"\nfile = "away"'),
        "r.toml:1: model: the weights are away; fetch them",
    ),
    "unsteered": (
        "[run]\nunsteered = 1\n" + STEER,
        "r.toml:2: run.unsteered: 'unsteered' must be 0 or at least 2, got 1",
    ),
    "normalise and clip": (
        REST + 'clip = [1, 1]\nnormalise = "z"\n' + GUIDE,
        "r.toml:9: reward[0].clip: 'clip' must be [low, high] with low below high\n"
        "r.toml:10: reward[0].normalise: expected one of 'none', 'zscore', 'rank', got the string "
        "'z'",
    ),
    "clip is no array": (
        REST + "clip = 3\n" + GUIDE,
        "r.toml:9: reward[0].clip: expected an array of 2 values, got the integer 3",
    ),
    "fit: statistics of nothing": (
        REST + 'normalise = "zscore"\n' + GUIDE + "[run]\nunsteered = 0\n",
        "r.toml:9: reward[0].normalise: 'zscore' takes its statistics from unsteered samples, but "
        "run.unsteered is 0; set it to 64",
    ),
    "fit: an arm": (
        STEER
        + '[[compare]]\nname = "a"\n[[compare]]\nname = "b"\nestimator = { kind = "toy_flat" }\n',
        "r.toml:15: compare[1].estimator: 'toy_flat' needs a model with FlowMap, but model "
        "'toy_images' has only PosteriorMap",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_words(case, read_lines, folder):
    text, expected = WRONG[case]
    assert read_lines(text) == expected.split("\n")


@pytest.fixture
def read_lines(read):
    def lines(text, *sets):
        with pytest.raises(RecipeError) as caught:
            read(text, *sets)
        assert caught.value.exit_code == 2
        return str(caught.value).split("\n")

    return lines


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["mode.stpes=12"], ["no option named 'stpes'; did you mean 'steps'?"]),
        (["mode.steps=0"], ["'steps' must be at least 1, got 0"]),
        (["mode.steps=true"], ["expected an integer, got true"]),
        (["mode.schedule={rate=0}"], ["mode.schedule.rate: 'rate' must be greater than 0, got 0"]),
        (["mode"], ["expected KEY=VALUE, such as mode.steps=20 or reward[0].weight=2"]),
        (
            ["mode.label=hello world"],
            [
                "hello world is not a TOML value; a string needs quotes: "
                "--set 'mode.label=\"hello world\"'"
            ],
        ),
        (["mode.sizes=[1"], ["expected a TOML value, got [1"]),
        (["mode.sizes="], ["expected a TOML value, got nothing"]),
        (["mode.steps=1\nx=2"], ["expected one TOML value"]),
        (["reward[3].weight=1"], ["reward has 1 element, counted from 0"]),
        (["reward.weight=1"], ["reward is an array; write reward[0].weight for its first element"]),
        (['mode.inner="toy_mpa"'], ["no sampler named 'toy_mpa'; did you mean 'toy_map'?"]),
        (["mode.kind.x=1"], ["mode.kind is the string 'toy_guide', not a table"]),
        (["mode[0]=1"], ["mode is a table, and [0] counts the elements of an array"]),
        (["metrik.x=3"], ["metrik: no section named 'metrik'; did you mean 'metric'?"]),
        (["mode.steps=0", "moed=1"], ["'steps' must be at least 1, got 0", None]),
    ],
)
def test_words_of_overrides(sets, expected, read_lines):
    lines = read_lines(STEER, *sets)
    assert len(lines) == len(expected)
    for one, words in zip(sets, expected, strict=True):
        if words:
            shown = one.replace("\n", "\\n")
            assert f"--set {shown}: {words}" in "\n".join(lines)


def test_overrides_come_last(read_lines):
    lines = read_lines("[mode]\nkind = 3\n", "run.samples=0", "run.seed=x")
    assert [line.partition(":")[0] for line in lines] == [
        "r.toml",
        "--set run.samples=0",
        "--set run.seed=x",
    ]


@pytest.mark.parametrize("case", WRONG)
def test_command(case, folder, installed):
    """The command says the same, but for lists of names that other plugins make longer."""
    text, expected = WRONG[case]
    Path("r.toml").write_text(text)
    result = CliRunner().invoke(main, ["check", "r.toml"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert [line.partition("; ")[0] for line in result.stderr.splitlines()] == [
        line.partition("; ")[0] for line in expected.split("\n")
    ]


def test_process(folder, site, forked):
    """Through the front door: no traceback, exit code 2; one with --traceback."""
    Path("r.toml").write_text(WRONG["all at once"][0])

    def align(*arguments):
        return forked("align", *arguments, paths=[site])

    result, other = (
        align("check", "r.toml", "--set", "mode.kind=steer"),
        align("--traceback", "check", "r.toml"),
    )
    assert result.ended() == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[0] == WRONG["all at once"][1].split("\n")[0]
    assert result.stderr.splitlines()[-1].startswith("--set mode.kind=steer: steer is not a TOML")
    assert other.ended() == 1
    assert "Traceback" in other.stderr


def test_no_file(folder, installed):
    Path("recipes").mkdir()
    result = CliRunner().invoke(main, ["check", "recipes/x.toml"])
    assert (result.exit_code, result.stderr) == (
        2,
        "recipes/x.toml: no such file; 'recipes' has no *.toml files\n",
    )
    Path("recipes/y.toml").write_text("")
    result = CliRunner().invoke(main, ["check", "recipes/x.toml"])
    assert result.stderr == "recipes/x.toml: no such file; 'recipes' has y.toml\n"
    result = CliRunner().invoke(main, ["check", "else/x.toml"])
    assert result.stderr == "else/x.toml: no such file; there is no folder 'else' either\n"
    result = CliRunner().invoke(main, ["check", "recipes"])
    assert result.stderr == "recipes: is a directory\n"


CURE = r"in double quotes \ begins an escape: write a path in single quotes, 'C:\data', or with /"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"\xff\xfe[\0r\0",
            "1: toml: expected text in UTF-8, got UTF-16 or UTF-32; save it as UTF-8",
        ),
        (b"[run]\nout = '\0'\n", "2: toml: a NUL byte; save the recipe as text in UTF-8"),
        (b"[run]\nout = '\xe9'\n", "2: toml: expected text in UTF-8"),
        (b'[run]\nout = "C:\\Users\\me"\n', f"2: toml: unexpected hex value; {CURE}"),
        (b'[run]\nout = "C:\\data"\n', f"2: toml: unescaped '\\' in a string; {CURE}"),
        (b'[run]\nout = "C:\\new"\n', f'2: toml: "C:\\new" is no path; {CURE}'),
        (
            b"[run]\nseed = " + b"9" * 5000,
            "2: toml: an integer of 5,000 digits, which 64 bits do not hold",
        ),
        (b"[mode]\nsizes = " + b"[" * 5000, "2: mode.sizes: toml: nested more than 64 deep"),
        (b"x = " + b"[" * 70 + b"]" * 70, "1: x: toml: nested more than 64 deep"),
        (
            b"\n" + b".".join([b"a"] * 5000) + b" = 1\n",
            "2: a.a.a.a: toml: nested more than 64 deep",
        ),
    ],
)
def test_toml_that_cannot_be_read_is_one_line(content, words, folder, catalog):
    Path("r.toml").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load("r.toml", catalog=catalog)
    assert str(caught.value) == f"r.toml:{words}"


def test_byte_order_mark_is_passed_over(read, good):
    assert read("\ufeff" + good).recipe == read(good).recipe


@pytest.mark.parametrize("value", ["[" * 5000, "9" * 5000, "[" * 70 + "]" * 70])
def test_override_that_cannot_be_read_is_one_line(value, read_lines):
    (line,) = read_lines(STEER, f"mode.sizes={value}")
    assert line.startswith("--set mode.sizes=")


def test_mistakes_without_number_are_told_up_to_a_bound(read_lines):
    many = '"x",' * 500
    text = f"sizes = [{many}]\ngrid = [{many}]\n" + '[[reward]]\nkind = "x"\n' * 500
    lines = read_lines(STEER + text)
    assert len(lines) == 101
    assert lines[-1] == "r.toml: and 23 more; mend these first"


def test_text_of_the_user_stays_on_one_line(read_lines):
    (line,) = read_lines(STEER.replace('"toy_guide"', '"""\na\nb\t\\u001b[1m\n"""'))
    assert line.startswith(r"r.toml:10: mode.kind: no mode named 'a\nb\t\x1b[1m\n'")
    (line,) = read_lines(STEER.replace('"toy_guide"', f'"{"long" * 5000}"'))
    assert len(line) < 1200


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("scale = {}\n", "11: mode.scale"),
        ("grid = [[1.0],\n[2.0, {}]]\n", "12: mode.grid[1][1]"),
        ("by_name = {{ a = {} }}\n", "11: mode.by_name.a"),
        ("[mode.schedule]\nrate = {}\n", "12: mode.schedule.rate"),
        ('[[compare]]\nname = "a"\nmode.scale = {}\n', "13: compare[0].mode.scale"),
        ('[[reward]]\nkind = "toy_smooth"\nweight = {}\n', "13: reward[1].weight"),
    ],
)
def test_number_not_finite_is_refused_with_its_line(value, text, where, read_lines):
    (line,) = read_lines(STEER + text.format(value))
    assert line.startswith(f"r.toml:{where}: ")
    assert "must be finite" in line


def test_number_not_finite_of_an_override_is_refused(read_lines):
    (line,) = read_lines(STEER, "reward[0].weight=nan")
    assert (
        line == "--set reward[0].weight=nan: 'weight' must be finite, got nan, which is no number"
    )


def test_not_text(folder, installed):
    Path("r.toml").write_bytes(b"[run]\nout = '\xff'\n")
    result = CliRunner().invoke(main, ["check", "r.toml"])
    assert (result.exit_code, result.stderr) == (2, "r.toml:2: toml: expected text in UTF-8\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/dev/zero", "it is no file but a pipe or a device; save the recipe in a file"),
        ("pipe.toml", "it is no file but a pipe or a device; save the recipe in a file"),
        ("huge.toml", "it has 1.00 GB, as no recipe has; name one"),
        (".", "is a directory"),
    ],
)
def test_what_has_no_end_is_not_read(folder, catalog, name, said):
    os.mkfifo("pipe.toml")
    with Path("huge.toml").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(RecipeError) as caught:
        load(name, catalog=catalog)
    assert str(caught.value) == f"{name}: {said}"


def test_several_recipes(folder, installed, good):
    Path("a.toml").write_text("[mode]\nkind = 3\n")
    Path("b.toml").write_text(good)
    Path("c.toml").write_text("[mode]\nkind = 4\n")
    result = CliRunner().invoke(main, ["check", "a.toml", "b.toml", "c.toml"])
    assert result.exit_code == 2
    assert result.stdout == "b.toml: good\n"
    assert [line[:6] for line in result.stderr.splitlines()] == ["a.toml", "c.toml"]


VECTORS = """\
[model]
kind = "mixture"
weights = [1.0]
means = [[0.0, 1.0]]
stds = [1.0]
[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.0, 2.0]]
observed = [1.0]
std = 1.0
[mode]
kind = "best_of_n"
"""


def test_matrix_of_another_dimension_than_the_model_is_refused(folder):
    Path("r.toml").write_text(VECTORS)
    with pytest.raises(RecipeError) as caught:
        load("r.toml", catalog=load_catalog([]))
    assert str(caught.value) == (
        "r.toml:6: reward[0]: 'likelihood' scores vectors of 3 numbers, but model 'mixture' makes "
        "vectors of 2"
    )
    Path("r.toml").write_text(VECTORS.replace(", 2.0", ""))
    assert load("r.toml", catalog=load_catalog([]))


def test_matrix_of_empty_rows_is_refused(folder):
    Path("r.toml").write_text(VECTORS.replace("[1.0, 0.0, 2.0]", "[]"))
    with pytest.raises(RecipeError, match=r"^r.toml:8: reward\[0\].matrix: 'matrix' must be rows"):
        load("r.toml", catalog=load_catalog([]))


STEERED = (
    VECTORS.replace(", 2.0]]", "]]").replace("best_of_n", "steer")
    + """[estimator]
kind = "exact"
"""
)
PYTHON = '[[reward]]\nkind = "python"\nmodule = "rewards"\n'
ALONE = "r.toml:13: estimator: 'exact' knows the value of quadratic rewards alone, and"
METRIC = '[[metric]]\nkind = "sliced_wasserstein"\n'
FEW = 'kind = "exact"\n[[compare]]\nname = "a"\n[[compare]]\nname = "b"\n'


@pytest.fixture
def real(folder):
    """What align's own parts say to a recipe; nothing where it is good."""

    def lines(text):
        Path("r.toml").write_text(text)
        try:
            load("r.toml", catalog=load_catalog([]))
        except RecipeError as error:
            return str(error).split("\n")
        return []

    return lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STEERED, ""),
        (STEERED + PYTHON + "held_out = true\n", ""),
        (STEERED.replace("std = 1.0", 'std = 1.0\nnormalise = "zscore"'), ""),
        (
            STEERED + PYTHON,
            f"{ALONE} 'python' is none; use estimator 'gradient' or 'stein', with a [sampler]",
        ),
        (
            STEERED + PYTHON + 'differentiable = false\n[sampler]\nkind = "exact"\n',
            f"{ALONE} 'python' is none; use estimator 'stein'",
        ),
        (
            STEERED.replace('"exact"', '"gaussian"').replace(
                "std = 1.0", "std = 1.0\nclip = [0, 1]"
            ),
            "r.toml:14: estimator: 'gaussian' knows the value of quadratic rewards alone, and"
            " 'likelihood' is none with its clip; take 'clip' out, or use estimator 'gradient' or"
            " 'stein', with a [sampler]",
        ),
        (
            STEERED.replace("std = 1.0", 'std = 1.0\nnormalise = "rank"'),
            "r.toml:14: estimator: 'exact' knows the value of quadratic rewards alone, and"
            " 'likelihood' is none with its ranks; take 'normalise' out, or use estimator"
            " 'gradient' or 'stein', with a [sampler]",
        ),
        (
            STEERED.replace('"exact"', '"gradient"')
            + PYTHON
            + 'differentiable = false\n[sampler]\nkind = "mfm"\n',
            "r.toml:11: mode: 'steer' with estimator 'gradient' needs the reward's gradient, but"
            " reward 'python' has none; use estimator 'bank', 'search' or 'stein'",
        ),
        (
            VECTORS.replace(", 2.0]]", "]]") + METRIC,
            "r.toml:13: metric[0]: 'sliced_wasserstein' compares the samples of each arm with"
            " those of the first, and there is one arm only; add [[compare]] tables, or take it"
            " out",
        ),
        (STEERED.replace('kind = "exact"\n', FEW) + METRIC, ""),
        (
            VECTORS.replace(", 2.0]]", "]]").replace("best_of_n", "value_correlation")
            + METRIC
            + '[sampler]\nkind = "exact"\n',
            "r.toml:13: metric[0]: 'sliced_wasserstein' measures samples, and 'value_correlation'"
            " makes none; take it out",
        ),
    ],
)
def test_what_would_fail_or_be_left_out_later_is_told_by_check(real, text, expected):
    Path("rewards.py").write_text("def score(data, prompts):\n    return data.sum(1)\n")
    assert real(text) == ([expected] if expected else [])
