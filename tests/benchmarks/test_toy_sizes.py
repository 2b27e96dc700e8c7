"""Every benchmark runs from end to end at toy size, and prints whole tables."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch

from align.catalog.registry import load_catalog
from align.networks.dit import DiT
from align.recipe import load, to_toml
from align.runner.session import run
from benchmarks import gpu
from benchmarks.closed_form.__main__ import GROUPS
from benchmarks.estimators import PARTS as ESTIMATES
from benchmarks.questions import PARTS as QUESTIONS
from benchmarks.speed.__main__ import MISSING
from benchmarks.speed.__main__ import PARTS as SPEED
from benchmarks.table import Table, publish
from benchmarks.variety import PARTS as VARIETY

pytestmark = pytest.mark.usefixtures("unpainted")
ROOT = Path(__file__).parents[2]
ELSEWHERE = {"parity", "paper"}  # tests/parity, where its packages are installed; test_paper.py
OF_RUNS = {"finetuned", "learnt_map"}  # these read the folders of runs, and have tests below
COMMANDS = (
    *(("closed_form", group) for group in GROUPS),
    *(("estimators", part) for part in ESTIMATES),
    ("gpu",),
    ("objectives",),
    ("peers",),
    ("plan",),
    ("pocket",),
    *(("questions", part) for part in QUESTIONS),
    ("scoreboard", "board"),
    ("scoreboard", "limits"),
    *(("speed", part) for part in SPEED if part not in MISSING),
    *(("variety", part) for part in VARIETY),
)


def tables(text):
    """The cells of each table in Markdown, by row."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [[line.split("|")[1:-1] for line in table.splitlines()] for table in found]


def printed(capsys, module, *words):
    """The tables that a benchmark prints at toy size."""
    name = f"benchmarks.{module}"
    if (ROOT / "benchmarks" / module).is_dir():
        name += ".__main__"
    importlib.import_module(name).main([*words, "--toy"])
    text = capsys.readouterr().out
    assert f"`python -m benchmarks.{module} {' '.join([*words, '--toy'])}`" in text
    return tables(text)


@pytest.fixture
def forked_modules(forked, monkeypatch):
    """Let benchmarks that start `python -m MODULE` start a fork that has imported align."""

    def run(command, *, cwd, **options):
        assert command[:2] == [sys.executable, "-m"]
        process = forked(*command[2:], cwd=cwd)
        assert process.ended() == 0, process.stderr
        return subprocess.CompletedProcess(command, 0, process.stdout)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("forked_modules")
def test_benchmark_at_toy_size_prints_whole_tables(command, capsys):
    found = printed(capsys, *command)
    assert found
    for head, rule, *rows in found:
        assert set(rule) == {"---"}
        assert rows
        assert all(len(row) == len(head) for row in rows)
        assert all(row[0].strip() for row in rows)


def test_every_benchmark_is_run_at_toy_size():
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {
        *("__init__", "table", "planned_networks")
    }
    packages = {path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py")}
    run_here = {command[0] for command in COMMANDS}
    assert run_here | OF_RUNS | ELSEWHERE == modules | packages


def tiny_run(recipe, folder, arms, **options):
    """A finished run of a recipe with tiny modes; `arms` are kept of those it compares."""
    loaded = load(ROOT / "recipes" / recipe, catalog=load_catalog()).recipe

    def small(mode):
        names = {field.name for field in attrs.fields(type(mode))}
        return attrs.evolve(mode, **{k: v for k, v in options.items() if k in names})

    compare = tuple(
        attrs.evolve(arm, mode=small(arm.mode)) for arm in loaded.compare if arm.name in arms
    )
    out = str(folder / "run")
    settings = attrs.evolve(loaded.run, samples=2, unsteered=2, out=out, device="cpu")
    tiny = attrs.evolve(loaded, run=settings, mode=small(loaded.mode), compare=compare)
    (folder / "recipe.toml").write_text(to_toml(tiny))
    return run(folder / "recipe.toml", progress=False).folder


def test_learnt_map_reads_a_run_and_prints_a_row_an_arm(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    arms = ["unsteered", "exact gradient"]
    folder = tiny_run("closed_form/mixture.toml", tmp_path, arms, steps=2, flow_steps=2)
    (table,) = printed(capsys, "learnt_map", str(folder))
    assert [row[1].strip() for row in table[3:]] == arms


@pytest.mark.filterwarnings("ignore")
def test_finetuned_reads_a_run_and_prints_models_classes_and_laws(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = load(ROOT / "recipes/pocket/finetune.toml", catalog=load_catalog()).recipe
    options = {
        "steps": 1,
        "flow_steps": 2,
        "pool": 4,
        "optimisation": attrs.evolve(recipe.mode.optimisation, batch=4),
        "evaluation": attrs.evolve(recipe.mode.evaluation, every=1, samples=2, flow_steps=2),
    }
    folder = tiny_run("pocket/finetune.toml", tmp_path, ["strength 1"], **options)
    models, classes, laws = printed(capsys, "finetuned", str(folder))
    assert [row[0].strip() for row in models[2:]] == ["base flow", "fine-tuned flow"]
    assert len(classes[2:]) == 10
    assert [row[0].strip() for row in laws[2:]] == ["0.3", "1", "3"]


def test_networks_for_a_gpu_have_the_sizes_of_mfm_xl_2_and_of_vit_h_14():
    with torch.device("meta"):
        net = DiT(gpu.FULL.net, gpu.FULL.shape, 1000, "meta_flow_map")
        tower = gpu.VisionTower(gpu.FULL.judge)
    counts = [sum(weight.numel() for weight in module.parameters()) for module in (net, tower)]
    assert counts == [683_991_952, 632_076_800]


@pytest.mark.parametrize(
    ("device", "best"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
    ],
)
def test_what_a_device_can_do_is_known_by_its_name_or_left_out(device, best):
    assert gpu.best_of(device) == best


def test_rows_that_would_begin_after_the_end_are_left_out(monkeypatch):
    clock = iter([0.0, 5.0, 10.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    assert list(gpu.until(10.0, iter([("a",), ("b",), ("c",)]))) == [("a",), ("b",)]


def test_publish_replaces_the_section_of_a_page_and_nothing_else(tmp_path, capsys):
    page = tmp_path / "page.md"
    rest = "<!-- end of a -->\n<!-- b -->\nother\n<!-- end of b -->\n"
    page.write_text(f"before\n<!-- a -->\nold\n{rest}")
    publish([Table("T", ("x", "y"), [("1", "2")])], ["python", "-m", "x"], page, "a")
    text = page.read_text()
    assert text.startswith("before\n<!-- a -->\n`python -m x`: ")
    assert text.endswith(f"**T**\n\n| x | y |\n|---|---|\n| 1 | 2 |\n{rest}")
    assert "| 1 | 2 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no section between '<!-- c -->'"):
        publish([], ["x"], page, "c")


def test_table_with_a_short_row_is_refused():
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        list(Table("", ("x", "y"), [("1",)]).lines())


def test_peers_measure_only_what_their_file_lacks(capsys, tmp_path):
    file = tmp_path / "peers.jsonl"
    words = ("--results", str(file), "--only", "uniform")
    before = printed(capsys, "peers", *words)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines)[: -len(lines[-1]) // 2])  # as if it was stopped while it wrote
    assert printed(capsys, "peers", *words) == before
    after = file.read_text().splitlines(keepends=True)
    assert after[:-1] == lines[:-1]
    assert len(after) == len(lines) == 11  # the floor; pace and four runs of each of two methods
