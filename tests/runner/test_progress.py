"""The progress bar."""

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from align.runner.progress import Progress


def shown(rows, numbers):
    """What stands on the bar when 3 of 10 steps are done, a quarter of a second each."""
    text, now = io.StringIO(), [0.0]
    console = Console(
        file=text, force_terminal=True, width=160, color_system=None, get_time=lambda: now[0]
    )
    with Progress(shown=True, console=console) as bar:
        for index in range(3):
            now[0] += 0.25
            bar.step("student", index, 10, numbers, rows)
    return [line for line in re.split(r"[\r\n]", text.getvalue()) if "3/10" in line][-1]


def test_training_shows_loss_throughput_and_time_left():
    line = shown(64, {"norm": 3.0, "loss": 0.12345678})
    assert "student" in line
    assert "3/10" in line
    assert "loss 0.1235" in line
    assert " 4.00 steps/s, 256 rows/s " in line
    assert len(re.findall(r"\d:\d\d:\d\d", line)) == 2  # elapsed and left


@pytest.mark.parametrize(("known", "pieces"), [(0, 1), (7, 1), (64, 32)])
def test_speed_is_of_what_is_done_here_and_not_of_what_was_there(known, pieces):
    text, now = io.StringIO(), [0.0]
    console = Console(
        file=text, force_terminal=True, width=160, color_system=None, get_time=lambda: now[0]
    )
    total = known + 4 * pieces
    with Progress(shown=True, console=console) as bar:
        bar.step("a", known - 1, total, {}, unit="samples")
        for piece in range(1, 4):
            now[0] += 0.5
            bar.step("a", known + pieces * piece - 1, total, {}, unit="samples")
    speeds = re.findall(r"([\d.]+) samples/s", text.getvalue())
    assert {float(speed) for speed in speeds} == {2.0 * pieces}


def test_sampling_shows_r_by_the_name_that_it_has_in_the_table():
    line = shown(0, {"loss": 1.0, "reward": 2.5})
    assert " r 2.5 " in line
    assert "steps/s" in line
    assert "rows/s" not in line


def drawn(width, *, terminal, arms=("student",), share=None, done=3):
    """The last lines that a bar has shown: `done` of 2000 steps, a minute each."""
    text, now = io.StringIO(), [0.0]
    console = Console(
        file=text,
        force_terminal=terminal,
        width=width,
        color_system=None,
        get_time=lambda: now[0],
    )
    with Progress(shown=True, console=console) as bar:
        for arm in arms:
            bar.begin(arm, 2000, share)
            for index in range(done):
                now[0] += 60.0
                bar.step(arm, index, 2000, {"loss": 0.12345678}, 128)
        now[0] += 60.0
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", text.getvalue()).strip())


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_line_is_whole_at_any_width(width, terminal):
    names = ["unsteered", "MFM-G, 4 draws and a name that is long enough for any table"]
    lines = drawn(width, terminal=terminal, arms=names)[-2:]
    for line in lines:
        assert cell_len(line.rstrip()) <= width
        assert "3/2000" in line
    assert lines[0].startswith("unstee")
    if width >= 60:
        assert "loss 0.1235" in lines[0]
        assert re.search(r" \d+ days?, |\d:\d\d:\d\d", lines[0])


def test_training_has_all_its_numbers_at_80_columns():
    line = drawn(80, terminal=False)[-1]
    assert line.split()[0] == "student"
    assert "3/2000 loss 0.1235" in line
    assert "…" not in line


@pytest.mark.parametrize("made", [0.0, 0.5, 1.0, 2.0])
def test_arm_of_one_step_moves_with_its_calls(made):
    line = drawn(80, terminal=True, share=lambda: made, done=0)[-1]
    assert "0/2000" in line
    assert 20 < len(line.partition("student")[2].partition("0/2000")[0]) < 40  # with the bar
    assert line.count("━") in {0.0: [0], 0.5: [11, 12]}.get(made, [24])
    if made == 0.5:
        assert line.rstrip().endswith("0:01:00 0:01:00")  # as long again


def test_a_bar_that_is_not_shown_says_nothing():
    text = io.StringIO()
    with Progress(shown=False, console=Console(file=text)) as bar:
        bar.step("student", 0, 10, {"loss": 1.0})
    assert text.getvalue() == ""
