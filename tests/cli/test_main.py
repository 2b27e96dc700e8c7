"""The command, as far as it needs no run."""

import errno
import io
import re
import signal
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner
from rich.cells import cell_len
from safetensors.torch import save_file

import align
from align.catalog.shipped import resolved, shipped
from align.cli.group import first_sentence
from align.cli.main import main
from align.cli.shown import kinds_offered
from align.core.errors import ContractError, UserInterrupt
from align.engine import allocator
from align.report.schema import ArmNumbers, RewardRole, RunResults, save


def invoke(*arguments, **options):
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, arguments, **options)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom align.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "heavy = {'torch', 'cattrs', 'attrs', 'rich', 'pluggy', 'numpy', 'PIL', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("run", "check", "list", "show"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_help_is_whole_at_any_width(columns):
    env = {"COLUMNS": columns}
    text = invoke("--help", env=env).stdout
    for name, command in main.commands.items():
        assert f"\n  {name} " in text
        assert "".join(first_sentence(command.help).split()) in "".join(text.split())
        shown = invoke(name, "--help", env=env).stdout
        assert "..." not in re.sub(r"(KEY=)?\[\.\.\.\]|\.\.\.\n|[A-Z\]]\.\.\.", "", shown)
        assert max(map(len, (*text.splitlines(), *shown.splitlines()))) <= min(int(columns), 100)


def test_every_command_is_told_in_a_line_of_80_columns():
    lines = invoke("--help", env={"COLUMNS": "80"}).stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(main.commands)


def test_version():
    assert invoke("--version").stdout.startswith("align, version ")


def test_list():
    result = invoke("list")
    assert result.exit_code == 0
    models, rest = result.stdout.split("\nsamplers:\n")
    assert models.startswith("models:\n  ")
    assert "\n  pocket " in models
    modes = rest.partition("\nmodes:\n")[2].partition("\nmetrics:\n")[0]
    assert "steer" in [line.split()[0] for line in modes.splitlines()]


def test_list_has_a_line_of_80_columns_for_every_part():
    lines = invoke("list", env={"COLUMNS": "80"}).stdout.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert not [line for line in lines if line.startswith("   ")]


@pytest.mark.parametrize("name", ["sampler", "samplers"])
def test_list_one_kind(name):
    head, *lines = invoke("list", name).stdout.splitlines()
    assert head == "samplers:"
    assert [line.split()[0] for line in lines if line.split()[0] in ("dps", "mfm", "steer")] == [
        "dps",
        "mfm",
    ]


def test_list_some_kinds():
    lines = invoke("list", "metrics", "dynamics").stdout.splitlines()
    assert [line for line in lines if line.endswith(":")] == ["metrics:", "dynamics:"]


def test_list_an_unknown_kind():
    result = invoke("list", "samplr")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "there are no 'samplr' to list; did you mean 'samplers'?\n"


def test_help_of_list_names_all_that_can_be_listed():
    text = invoke("list", "--help").stdout
    for name in kinds_offered():
        assert re.search(rf"\b{name}\b", text), name


@pytest.mark.parametrize("columns", ["60", "80"])
def test_list_recipes_says_what_each_is_for_and_what_it_lacks(monkeypatch, tmp_path, columns):
    monkeypatch.chdir(tmp_path)
    text = invoke("list", "recipes", env={"COLUMNS": columns}).stdout
    wide = [line for line in text.splitlines() if len(line) > int(columns)]
    assert all(len(line.split()) == 1 for line in wide)  # a file's name is not broken
    assert [line[1:] for line in text.splitlines() if line.startswith("@")] == [*shipped()]
    about = text.partition("\n@pocket/silhouettes_map\n")[2].partition("\n@")[0]
    lacking = "needs data/silhouettes.tar, runs/silhouettes_flow/model.safetensors"
    assert lacking in " ".join(about.split())
    assert "needs" not in text.partition("\n@closed_form/finetune\n")[2].partition("\n@")[0]


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A distribution whose plugin does not load."""
    info = tmp_path / "align_lost-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: align-lost\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[align]\nlost = lost_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return (
        "plugin 'lost' (align-lost 1.0) did not load: ModuleNotFoundError: "
        "No module named 'lost_module'"
    )


def test_list_shows_broken_plugins(broken):
    result = invoke("list")
    assert result.exit_code == 0
    assert f"{broken}; its parts are missing above" in result.stdout.splitlines()
    assert "steer" in result.stdout


def test_show():
    result = invoke("show", "steer")
    assert result.exit_code == 0
    assert result.stdout.startswith("mode 'steer', of align-core ")
    assert "Reference: " in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    (steps,) = (row for row in rows if row[:1] == ["steps"])
    assert " ".join(steps).endswith("[an integer; default: 50]")
    for name in ("mode/steer", "mode.steer", "modes.steer"):
        assert invoke("show", name).stdout == result.stdout


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_show_cuts_no_word_that_may_be_typed(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    words = [word.strip("[,;]") for word in invoke("show", "torch").stdout.split()]
    assert "…" not in "".join(words)
    assert {"'trigonometric'", "'variance_preserving'", "schedule.alphas_cumprod"} <= {*words}


def test_show_inner_tables():
    names = [line.strip().split(" ")[0] for line in invoke("show", "pretrain").stdout.splitlines()]
    assert "optimisation.batch" in names


def test_show_names_the_contract_of_an_option_that_is_a_part_or_none():
    text = " ".join(invoke("show", "distill").stdout.split())
    assert "network: a" in text
    assert "dataset: a" in text


def test_show_of_two_parts_of_one_name_says_which_they_are():
    text = invoke("show", "exact").stdout
    assert text.startswith(
        "'exact' is a sampler and an estimator; `align show sampler.exact` shows one of them.\n"
    )
    for name in ("sampler", "estimator"):
        alone = invoke("show", f"{name}.exact").stdout
        assert alone.startswith(f"{name} 'exact', of align-core ")
        assert alone in text


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("mfm", ["[sampler]", 'kind = "mfm"']),
        ("torch", ["[model]", 'kind = "torch"', "shape = ...  # an array of integers"]),
        ("compressibility", ["[[reward]]", 'kind = "compressibility"']),
        ("sde", ['mode.dynamics = "sde"']),
        ("local", ['run.on = "local"']),
        ("stein", ["[estimator]", 'kind = "stein"']),
        ("draft", ['mode.objective = "draft"']),
    ],
)
def test_show_begins_with_the_shortest_form(name, lines):
    shown = invoke("show", name).stdout.partition("In a recipe:\n\n")[2].partition("\n\n")[0]
    assert [line.strip() for line in shown.splitlines()] == lines


def test_show_has_options_that_must_be_given_first_and_inner_tables_last():
    names = [
        line.split()[0]
        for line in invoke("show", "autoencode").stdout.partition("Options:\n")[2].splitlines()
        if line[2] != " "
    ]
    assert names[0] == "data"
    assert ["." in name for name in names] == sorted("." in name for name in names)


def test_show_prints_a_recipe_that_comes_with_align():
    assert invoke("show", "@tabby_cat").stdout == resolved("@tabby_cat").read_text()
    result = invoke("show", "@taby_cat")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "no recipe named '@taby_cat' comes with align; did you mean '@tabby_cat'?\n"
    )


def test_show_a_name_of_two_parts_that_is_misspelt():
    result = invoke("show", "gausian")
    assert result.stderr == "no part named 'gausian'; did you mean 'gaussian'?\n"


def test_show_a_kind_of_part():
    result = invoke("show", "reward")
    assert result.stderr == "'reward' is no part; `align list rewards` shows those there are\n"


def test_show_an_unknown_name(broken):
    result = invoke("show", "sampler/glas")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "no part named 'sampler/glas'; did you mean 'glass'?\n"
    result = invoke("show", "lost")
    assert (result.exit_code, result.stderr) == (1, broken + "\n")


class Full(io.StringIO):
    """A stream that keeps what is written until it is flushed, and then cannot send it on."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def flush(self):
        raise self.error

    def fileno(self):
        raise OSError


@pytest.mark.parametrize("arguments", [("list",), ("show", "mfm"), ("--help",), ("--version",)])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "the command is done, but its output could not be written: no space left on device;"
            " send it elsewhere\n",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_told(monkeypatch, capfd, arguments, error, code, said):
    monkeypatch.setattr(sys, "stdout", Full(error))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    assert capfd.readouterr().err == said


@pytest.fixture
def run_with(monkeypatch):
    """`align run` with another road behind it."""

    def replace(function):
        module = ModuleType("align.runner.session")
        module.run = function
        monkeypatch.setitem(sys.modules, "align.runner.session", module)
        monkeypatch.setattr(align, "runner", module, raising=False)

    return replace


def test_run_hands_on_what_it_is_given(run_with, monkeypatch):
    calls = []

    def run(recipe, *, sets, sweeps):
        calls.append((recipe, sets, sweeps))
        raise ContractError("enough")

    run_with(run)
    monkeypatch.setattr(allocator, "keep_freed", lambda: calls.append("keeps memory"))
    assert invoke("run", "x.toml", "--set", "a.b=1", "--sweep", "c=[2]").stderr == "enough\n"
    assert calls == ["keeps memory", ("x.toml", ("a.b=1",), ("c=[2]",))]


def fails(error):
    def run(recipe, *, sets, sweeps):
        raise error

    return run


def test_run_that_fails(run_with):
    run_with(fails(ContractError("model 'x' returned nothing")))
    result = invoke("run", "x.toml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "model 'x' returned nothing\n"


@pytest.mark.parametrize("arguments", [("--traceback", "run", "x"), ("run", "x", "--traceback")])
def test_traceback(run_with, arguments):
    error = ContractError("model 'x' returned nothing")
    run_with(fails(error))
    assert invoke(*arguments).exception is error


def test_run_that_is_interrupted(run_with):
    error = UserInterrupt()
    run_with(fails(error))
    result = invoke("run", "x.toml")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")
    error.add_note("what is kept")
    assert invoke("run", "x.toml").stderr == "interrupted\nwhat is kept\n"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, EOFError, GeneratorExit])
def test_run_that_something_else_would_end_quietly_fails(run_with, kind):
    run_with(fails(kind()))
    result = invoke("run", "x.toml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"something that `align` called raised {kind.__name__} (")


def test_ctrl_c_of_the_user_ends_a_command_with_130(run_with):
    def run(recipe, *, sets, sweeps):
        signal.raise_signal(signal.SIGINT)

    run_with(run)
    result = invoke("run", "x.toml")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_many_arms_are_rows_and_no_cell_is_cut_at_80_columns(tmp_path):
    scores = {f"a reward with a name {n}": (1.25, 2.5) for n in range(5)}
    arms = tuple(
        ArmNumbers(
            name=f"weight {n}, dynamics sde", folder=f"samples/{n}", samples=2, scores=scores
        )
        for n in range(12)
    )
    rewards = {name: RewardRole(weight=1.0, held_out=True) for name in scores}
    save(tmp_path, RunResults(rewards=rewards, arms=arms))
    for arm in arms:
        states = {"x1": torch.zeros(2, 3)}
        (tmp_path / arm.folder).mkdir(parents=True)
        save_file(states, tmp_path / arm.folder / "states.safetensors")
    shown = invoke("report", str(tmp_path), env={"COLUMNS": "80"}).stdout
    assert max(map(cell_len, shown.splitlines()[:-1])) <= 80
    assert "…" not in shown
    for n in range(12):
        assert shown.count(f"weight {n}, dynamics sde") == shown.count("weight 0, dynamics sde") > 1
    for name in scores:
        assert f"{name} (held out)" in shown


@pytest.mark.parametrize("largest", ["-1", "nan", "-inf", "much"])
def test_size_of_the_largest_file_is_a_number_from_0_on(largest):
    refused = invoke("pack", "run", "--largest", largest)
    assert refused.exit_code == 2
    assert "--largest" in refused.stderr


@pytest.mark.parametrize("name", ["y" * 300, "~nobody-of-this-name/run"])
def test_names_that_no_file_can_have_are_told_in_a_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.parent.mkdir()
    recipe.write_text('[model]\nkind = "pocket"\n[mode]\nkind = "best_of_n"\n')
    for words in (
        ("report", name),
        ("extend", name, "--samples", "2"),
        ("compare", name, f"{name}:a"),
        ("pack", name),
        ("new", "reward", "mine", "--into", name),
        ("new", "recipe", "mine", "--into", name),
    ):
        refused = invoke(*words)
        assert isinstance(refused.exception, SystemExit), words
        assert refused.exit_code in {1, 2}
        assert refused.stderr.count("\n") == 1
    if not name.startswith("~"):
        assert "cannot be written" in invoke("pack", "run", "--to", name).stderr
