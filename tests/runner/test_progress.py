"""The progress bar."""

import io
import re

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


def test_sampling_shows_r_by_the_name_that_it_has_in_the_table():
    line = shown(0, {"loss": 1.0, "reward": 2.5})
    assert " r 2.5 " in line
    assert "steps/s" in line
    assert "rows/s" not in line


def test_a_bar_that_is_not_shown_says_nothing():
    text = io.StringIO()
    with Progress(shown=False, console=Console(file=text)) as bar:
        bar.step("student", 0, 10, {"loss": 1.0})
    assert text.getvalue() == ""
