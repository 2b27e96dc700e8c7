"""Judges in whole runs: missing scores and prices in tables, and a key that is told nowhere."""

import json
import re
from pathlib import Path

import pytest
from align_http.testing import FaultyScorer, served
from click.testing import CliRunner

from align.cli.main import main

KEY = "sk-planted/Secret+Key-4711"
RECIPE = """\
[run]
samples = 3
unsteered = 0

[model]
kind = "pocket"
prompt = "{{fine|{prompt}}}, a cat"

[[reward]]
kind = "statistic"
of = "brightness"

[[reward]]
kind = "http"
url = "{url}"
key_env = "JUDGE_KEY"
tries = 2
backoff = 0.0
price_per_call = 0.5
{options}

[mode]
kind = "best_of_n"
n = 1
flow_steps = 2
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a recipe with this judge, with room for its answers; the result, and all it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "caches"))
    monkeypatch.setenv("ALIGN_CACHE_GB", "1")

    def run(url, prompt, options, *command):
        Path("r.toml").write_text(RECIPE.format(url=url, prompt=prompt, options=options))
        result = CliRunner().invoke(main, [*(command or ("run",)), "r.toml"])
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return result, result.output + "".join(p.read_bytes().decode("latin-1") for p in files)

    return run


def test_key_is_in_no_message_log_cache_or_folder_though_the_server_repeats_it(run):
    faulty = FaultyScorer()
    with served(faulty.app()) as place:
        for options in ("held_out = true", 'held_out = true\non_failure = "skip"'):
            result, everything = run(f"http://{place}/score", "status 500", options)
            assert "no answer for Bearer ***" in everything
            assert KEY not in everything and "planted" not in everything
            assert result.exit_code == ("stop" not in options and "skip" not in options)
    assert faulty.tokens == {f"Bearer {KEY}"}


def test_missing_scores_are_counted_and_told(run):
    with served(FaultyScorer().app()) as place:
        options = 'held_out = true\non_failure = "skip"'
        result, _ = run(f"http://{place}/score", "nan", options)
    assert result.exit_code == 0, result.output
    assert re.search(r"http \(held out\) .*\(2 of 3\)", result.output)
    assert "reward 'http' has no score of 1 of 3 samples" in result.output
    table = json.loads(Path("runs/r/results.json").read_text())
    assert sum(score != score for score in table["arms"][0]["scores"]["http"]) == 1
    assert "missing" in Path("runs/r/report.html").read_text()


def test_judge_that_stops_ends_the_run_with_one_line(run):
    with served(FaultyScorer().app()) as place:
        result, _ = run(f"http://{place}/score", "nan", "held_out = true")
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if "not scored" in line]
    assert len(lines) == 1 and "picture 2 of 3 ('nan, a cat') not scored after 2 tries" in lines[0]


def test_price_is_planned_without_a_call_and_counted_in_the_table(run):
    faulty = FaultyScorer()
    with served(faulty.app()) as place:
        planned, _ = run(f"http://{place}/score", "fine", "", "plan")
        assert planned.exit_code == 0 and not faulty.asked
        assert "price" in planned.output and "1.5" in planned.output
        assert "a service computes it" in planned.output
        result, _ = run(f"http://{place}/score", "fine", "")
    assert re.search(r"judge calls +1\b", result.output)
    assert re.search(r"price +1\.5\b", result.output)


def test_steering_reward_that_may_skip_is_refused_at_its_line(run):
    result, _ = run("http://127.0.0.1:9/score", "fine", 'on_failure = "skip"', "check")
    assert result.exit_code == 2
    assert result.output.startswith("r.toml:13: reward[1]: reward 'http' may leave scores out")
    assert "hold it out (held_out = true), or let it stop" in result.output
