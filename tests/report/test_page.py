"""The page of a run: what is on it, that it needs nothing else, and that text stays text."""

import json
import re
import shutil
import subprocess

import attrs
import numpy as np
import pytest
from matplotlib.figure import Figure

from align.core.baseline import Divergence
from align.core.errors import PartError
from align.engine.meter import Cost
from align.io.images import save_picture
from align.report.page import PAGE, RunPage, page
from align.report.plots import FactorPanel
from align.report.schema import BaseNumbers, RewardRole, RunResults, read, save
from align.report.writer import join, write

COST = Cost(calls={"network": 100}, reward_calls={"cat": 2}, seconds=3.0)
ROLES = {
    "cat": RewardRole(weight=2.0, held_out=False),
    "dog": RewardRole(weight=1.0, held_out=True),
}
BASE = BaseNumbers(
    arms=("plain", "steered"),
    flow_steps=10,
    scores={"cat": (0.0, 1.0, 2.0, 3.0), "dog": (1.0, 0.0, 1.0, 2.0)},
    r=(0.0, 2.0, 4.0, 6.0),
    cost=Cost(calls={"network": 40}, seconds=4.0),
)
NASTY = "<script>alert('x')</script> & \"q\""


@pytest.fixture
def run_of(folder_of, arm_of):
    """A run folder of two arms with pictures."""

    def made(names=("plain", "steered"), count=2, size=(8, 8), noise=False):
        arms = [
            arm_of(
                name,
                number,
                count,
                scores={"cat": (1.25,) * count, "dog": (0.5 + number,) * count},
                cost=COST,
                divergence=Divergence(reward=2.5, reward_error=0.1, at_least=0.5, at_most=None),
                notes=(f"note of {name}",),
            )
            for number, name in enumerate(names)
        ]
        folder = folder_of(*arms, results=RunResults(rewards=ROLES, unsteered=(BASE,)))
        random = np.random.default_rng(0)
        for number, arm in enumerate(arms):
            for row in range(count):
                picture = np.full((*size, 3), 40 * number + row, np.uint8)
                if noise:
                    picture = random.integers(0, 256, (*size, 3), np.uint8)
                save_picture(folder / arm.folder / f"{row:04d}.png", picture)
        steps = [{"arm": n, "step": k, "reward": k + 0.5} for n in names for k in range(3)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
        (folder / "recipe.toml").write_text('[mode]\nkind = "steer"  # ' + NASTY + "\n")
        about = {"command": f"align run {NASTY}", "time": "2026-01-02T03:04:05", "host": NASTY}
        (folder / "about.json").write_text(json.dumps(about))
        return folder

    return made


def text_of(folder):
    return page([RunPage.of(folder)])


def test_a_page_has_pictures_scores_table_plots_and_recipe(run_of):
    text = text_of(run_of())
    assert text.count("data:image/png;base64,") == 4
    assert text.count("cat 1.25") == 4
    assert "dog (held out) 1.5" in text
    assert re.search(r'<td data-order="1.25">1.25 ± 0</td>', text)
    titles = re.findall(r"<h3>(.*?)</h3><svg", text)
    assert titles == [
        "r over network calls",
        "r over seconds",
        "r over distance from the base model",
        "dog, not optimised, over r",
        "r, which is optimised",
    ]
    assert "note of plain" in text
    assert "kind = &#34;steer&#34;" in text


def test_a_page_asks_for_nothing_over_a_network(run_of):
    text = text_of(run_of())
    links = re.findall(r'(?:src|href|action|data|srcset|poster)="([^"#][^"]*)"', text)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"@import|url\((?!#)|<iframe|<link rel=\"style", text)
    assert "default-src 'none'" in text


def test_text_of_users_is_never_markup(run_of):
    text = text_of(run_of(names=(NASTY, "b</svg><img src=x>")))
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert text.count("<script>") == 1


def test_names_within_a_page_are_told_apart(run_of):
    text = text_of(run_of())
    names = re.findall(r'\bid="([^"]*)"', text)
    assert len(names) == len(set(names))
    used = set(re.findall(r'(?:href="|url\()#(\w+)', text))
    assert used <= set(names)


def test_colours_of_plots_are_those_of_the_page(run_of):
    plots = "".join(re.findall(r"<svg.*?</svg>", text_of(run_of()), re.DOTALL))
    assert "currentColor" in plots
    assert "var(--line)" in plots
    assert not {"#000000", "#ffffff"} & set(re.findall("#[0-9a-f]{6}", plots))


def test_many_large_pictures_leave_the_page_below_five_megabytes(run_of):
    folder = run_of(names=tuple("abcdef"), count=20, size=(160, 160), noise=True)
    assert sum(path.stat().st_size for path in folder.rglob("*.png")) > 5e6
    text = text_of(folder)
    assert len(text.encode()) < 5e6
    assert text.count("data:image/jpeg;base64,") == 6 * 16
    assert "The first 16 of 20 samples are shown" in text


def test_several_runs_are_one_page_with_a_name_for_each_arm(run_of, tmp_path):
    folder = run_of()
    first, second = tmp_path / "x" / "one", tmp_path / "x" / "two"
    shutil.copytree(folder, second, ignore=shutil.ignore_patterns("x"))
    shutil.copytree(folder, first, ignore=shutil.ignore_patterns("x"))
    target = tmp_path / "x" / "both.html"
    shared = RunResults(rewards=ROLES, arms=read(folder).arms, notes=("a note of the run",))
    save(first, shared)
    save(second, shared)
    join([first, second], target)
    text = target.read_text()
    assert [text.count(f"{name}: a note of the run") for name in ("one", "two")] == [1, 1]
    heads = re.findall(r'<div class="head">(.*?)</div>', text)
    assert heads == ["one: plain", "one: steered", "two: plain", "two: steered"]
    assert text.count("<details><summary>The recipe of") == 2
    with pytest.raises(PartError, match="holds no finished run"):
        join([first, tmp_path / "x"], target)
    with pytest.raises(PartError, match="is the page of the run whose folder this is"):
        join([first, second], first / PAGE)


def test_pictures_on_the_way_are_strips(run_of):
    folder = run_of()
    for step in range(1, 31):
        save_picture(folder / f"looks/1/{step:06d}.png", np.full((4, 4, 3), step, np.uint8))
    text = text_of(folder)
    steps = [int(step) for step in re.findall(r"<figcaption>step (\d+)</figcaption>", text)]
    assert steps[0] == 1
    assert steps[-1] == 30
    assert len(steps) == 12


@pytest.mark.parametrize(("numbers", "of_draws"), [({"reward": 0.5}, 1), ({"loss": 0.5}, 0)])
def test_strips_of_a_training_are_not_said_to_be_of_draws(folder_of, arm_of, numbers, of_draws):
    arm = arm_of("one", 1, 2, scores={"cat": [0.0, 1.0], "dog": [0.0, 1.0]})
    folder = folder_of(arm, states=[np.zeros((2, 3), np.float32)])
    save_picture(folder / "looks/1/000001.png", np.zeros((4, 4, 3), np.uint8))
    lines = [{"arm": "one", "step": 0} | numbers]
    text = page([RunPage(folder, RunResults(rewards=ROLES, arms=(arm,)), lines, {}, "")])
    assert text.count("the draws that guided it") == of_draws
    assert text.count('class="strip narrow') == of_draws


def test_points_in_the_plane_are_plots_and_training_has_curves_alone(folder_of, arm_of):
    points = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    folder = folder_of(arm_of("points", 0, 600), states=[points])
    (folder / "metrics.jsonl").write_text("")
    text = text_of(folder)
    assert "<h3>points</h3><svg" in text
    assert text.count("data:image/png") == 1  # many points are a picture in their plot

    results = RunResults(arms=(arm_of("trained", 1, 0),))
    lines = [{"arm": "trained", "step": k, "loss": 1.0 / (k + 1)} for k in range(4)]
    text = page([RunPage(folder, results, lines, {}, "")])
    assert "<h3>loss</h3><svg" in text
    assert "Two arms" not in text


def test_a_report_writes_the_page(run_of):
    folder = run_of()
    write(folder)
    assert "<h1>" in (folder / PAGE).read_text()
    assert not list(folder.glob("*.part"))


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser Chromium")
def test_the_slider_and_the_table_work_in_a_browser(run_of, tmp_path):
    text = text_of(run_of())
    clicks = """<script>
      document.getElementById("sample").value = "1";
      document.getElementById("sample").dispatchEvent(new Event("change"));
      document.getElementById("cut").value = "20";
      document.getElementById("cut").dispatchEvent(new Event("input"));
      const heads = [...document.querySelectorAll("th button")];
      const head = heads.find(b => b.textContent.startsWith("dog"));
      head.click(); head.click();
      const of = n => document.getElementById(n);
      document.title = JSON.stringify([of("under").alt, of("over").alt,
        of("slider").style.getPropertyValue("--cut"),
        [...document.querySelectorAll("tbody")][0].rows[0].cells[0].textContent]);
    </script>"""
    file = tmp_path / "clicked.html"
    file.write_text(text.replace("</body>", clicks + "</body>"))
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *options, profile, "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    found = json.loads(re.search("<title>(.*?)</title>", done.stdout)[1].replace("&quot;", '"'))
    assert found == ["plain, sample 1", "steered, sample 1", "20%", "steered"]


def test_a_sweep_has_a_plot_for_each_reward_with_a_line_for_each_other_choice(folder_of, arm_of):
    arms = [
        arm_of(
            f"{weight} {way}",
            2 * number + place,
            2,
            scores={"cat": [weight, weight + 1.0], "dog": [0.0, 1.0]},
            factors={"weight": weight, "dynamics": way},
        )
        for number, weight in enumerate((1.0, 2.0, 4.0))
        for place, way in enumerate(("ode", "sde"))
    ]
    results = RunResults(rewards=ROLES, arms=tuple(arms))
    cat, dog = FactorPanel.of(results)
    assert (cat.name, cat.factor, list(cat.lines)) == (
        "cat",
        "weight",
        ["dynamics ode", "dynamics sde"],
    )
    assert cat.lines["dynamics sde"] == {w: (w + 0.5, pytest.approx(0.5)) for w in (1.0, 2.0, 4.0)}
    assert dog.name == "dog"
    words = [attrs.evolve(arm, factors={"dynamics": arm.factors["dynamics"]}) for arm in arms[:2]]
    (cat, _) = FactorPanel.of(attrs.evolve(results, arms=tuple(words)))
    assert list(cat.lines[""]) == ["ode", "sde"]
    folder = folder_of(*arms, states=[np.zeros((2, 3), np.float32)] * len(arms))
    text = page([RunPage(folder, results, [], {}, "")])
    assert text.count(" over weight</h3><svg") == 2
    assert not list(FactorPanel.of(RunResults(rewards=ROLES, arms=(arm_of("a", 0),))))


def test_few_values_of_a_factor_stand_beneath_a_logarithmic_axis():
    line = {number: (number, 0.1) for number in (0.5, 1.0, 2.0, 4.0)}
    axes = Figure().add_subplot()
    FactorPanel("cat", "weight", {"": line}).draw(axes)
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "1", "2", "4"]
    assert not list(axes.xaxis.get_minorticklocs())


@pytest.mark.parametrize(("weight", "told"), [(1.0, 0), (3.0, 1)])
def test_joined_runs_of_other_weights_are_told_to_have_another_r(folder_of, arm_of, weight, told):
    arm = arm_of("plain", 0, 2, scores={"cat": [0.0, 1.0], "dog": [0.0, 1.0]})
    first = RunResults(rewards=ROLES, arms=(arm,))
    cat = attrs.evolve(ROLES["cat"], weight=weight * ROLES["cat"].weight)
    other = RunResults(rewards=ROLES | {"cat": cat}, arms=(attrs.evolve(arm, name="other"),))
    folder = folder_of(arm, states=[np.zeros((2, 3), np.float32)])
    runs = [
        RunPage(folder / name, run, [], {}, "", False) for name, run in (("a", first), ("b", other))
    ]
    text = page(runs)
    assert text.count("r is not the same in these runs") == told
    assert text.count(f"in b it is {cat.weight:g} · cat") == told
