"""The command `align score`."""

import csv
import io

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from align.cli.main import main
from align.io.images import save_picture, to_bytes
from align.metrics.mmd import squared_mmd
from align.metrics.statistics import ImageStatistics
from align.rewards.compressibility import Compressibility
from tests.metrics.networks import pictures

RECIPE = """
[[reward]]
kind = "statistic"
of = "brightness"
name = "bright"

[[metric]]
kind = "image_statistics"
"""


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ("score", *map(str, arguments)))


def read(table):
    """The rows of a file as tables."""
    return list(csv.DictReader(io.StringIO(table.read_text())))


@pytest.fixture
def data():
    return pictures(9, side=20)


@pytest.fixture
def folder(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "mine"
    place.mkdir()
    for number, picture in enumerate(to_bytes(data)):
        save_picture(place / f"{number}.png", picture)
    return place


def test_scores_and_metrics_are_those_of_the_pictures(folder, data, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    done = invoke(folder, "--recipe", "r.toml", "--reward", "compressibility")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80
    out = tmp_path / "runs" / "mine_scores"
    assert f"{out.relative_to(tmp_path)}: table.md, table.csv, scores.csv" in done.output
    rows = read(out / "scores.csv")
    assert [row["file"] for row in rows] == [f"{number}.png" for number in range(9)]
    expected = {
        "bright": data.mean((1, 2, 3)),
        "compressibility": Compressibility().build(torch.device("cpu")).score(data, [""] * 9),
    }
    table = {row["number"]: row for row in read(out / "table.csv")}
    for name, scores in expected.items():
        assert [float(row[name]) for row in rows] == pytest.approx(scores.tolist(), rel=1e-5)
        assert float(table[name]["value"]) == pytest.approx(float(scores.mean()), rel=1e-5)
        error = float(scores.double().std() / 3)
        assert float(table[name]["error"]) == pytest.approx(error, rel=1e-4)
    for name, value in ImageStatistics().compute(data, None).items():
        assert float(table[name]["value"]) == pytest.approx(value, rel=1e-5)
        assert table[name]["error"] == ""
    heads = (out / "table.md").read_text().splitlines()[0]
    assert heads == "| number | of 9 pictures |"


def test_numbers_of_one_name_are_told_apart(folder, tmp_path):
    done = invoke(
        folder,
        *("--metric", '{ kind = "image_statistics", edge = 0.5 }'),
        *("--metric", "image_statistics"),
        *("--reward", '{ kind = "statistic", of = "edges", name = "edges" }'),
    )
    assert done.exit_code == 0, done.output
    names = [row["number"] for row in read(tmp_path / "runs/mine_scores/table.csv")]
    assert [name for name in names if "edges" in name] == ["edges", "edges_2", "edges_3"]


def test_pictures_of_any_size_and_kind_are_scored_in_their_order(folder, tmp_path):
    Image.new("L", (7, 5), 255).save(folder / "4.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(folder / "5.png")
    done = invoke(folder, "--reward", '{ kind = "statistic", of = "brightness" }', "--out", "s")
    assert done.exit_code == 0, done.output
    rows = read(tmp_path / "s" / "scores.csv")
    assert [row["file"] for row in rows] == [f"{number}.png" for number in range(9)]
    white = [row["file"] for row in rows if float(row["statistic"]) == 1]
    assert white == ["4.png", "5.png"]


def test_prompts_go_with_their_pictures(folder, tmp_path):
    (tmp_path / "asked.py").write_text(
        "import torch\n"
        "def score(data, prompts):\n"
        "    return data.mean((1, 2, 3)) * 0 + torch.tensor([float(p) for p in prompts])\n"
    )
    (tmp_path / "p.csv").write_text("file,prompt\n5.png,50\n2.png,20\n")
    asked = '{ kind = "python", file = "asked.py" }'
    done = invoke(folder, "--reward", asked, "--prompts", "p.csv")
    assert done.exit_code == 0, done.output
    assert "7 pictures like '0.png' are in" in " ".join(done.output.split())
    rows = read(tmp_path / "runs/mine_scores/scores.csv")
    told = [(row["file"], row["prompt"], float(row["python"])) for row in rows]
    assert told == [("5.png", "50", 50.0), ("2.png", "20", 20.0)]


def test_references_are_a_folder(folder, tmp_path, data):
    place, others = tmp_path / "others", pictures(8, seed=1, side=20)
    place.mkdir()
    for number, picture in enumerate(to_bytes(others)):
        save_picture(place / f"{number}.png", picture)
    metric = '{ kind = "mmd", features = "mobilenet", kernel = "polynomial", reference = "others" }'
    # Of that name there is another folder, beside the recipe.
    (tmp_path / "elsewhere" / "others").mkdir(parents=True)
    (tmp_path / "elsewhere" / "r.toml").write_text("")
    done = invoke(folder, "--metric", metric, "--recipe", "elsewhere/r.toml")
    assert done.exit_code == 0, done.output
    (row,) = read(tmp_path / "runs/mine_scores/table.csv")
    assert row["number"] == "mmd_squared_mobilenet"
    from align_imagenet.features import features

    from align.metrics.mmd import polynomial

    rows = [features(pictures, torch.device("cpu")) for pictures in (data, others)]
    assert float(row["value"]) == pytest.approx(squared_mmd(*rows, polynomial), rel=1e-4)


def test_metrics_of_a_recipe_that_compare_arms_are_left_out_and_told(folder, tmp_path):
    more = '\n[[metric]]\nkind = "frechet"\n'
    (tmp_path / "r.toml").write_text(RECIPE + more)
    done = invoke(folder, "--recipe", "r.toml")
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert "r.toml:10: metric[1]: 'frechet' compares with references and has no option" in told
    assert "use 'fid' or 'kid'; left out" in told
    (tmp_path / "r.toml").write_text(more)
    done = invoke(folder, "--recipe", "r.toml")
    assert done.exit_code == 2
    assert "r.toml:2: metric[0]: 'frechet' compares" in done.output
    assert "nothing to score by" in done.output


def test_every_mistake_is_told_at_its_place(folder, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace('of = "brightness"', "off = 3"))
    bad = '{ kind = "vendi", featurs = "mobilenet" }'
    done = invoke(folder, "--recipe", "r.toml", "--reward", "compresibility", "--metric", bad)
    assert done.exit_code == 2
    assert "r.toml:4: reward[0].off: no option named 'off'; did you mean 'of'?" in done.output
    assert "--reward compresibility: reward[1].kind: no reward named 'compresibil" in done.output
    assert f"--metric {bad}: metric[1].featurs: no option named 'featurs'" in done.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "nothing to score by; name a --reward, a --metric, or a --recipe"),
        (("--metric", "{ kind ="), 2, "--metric { kind =: expected a kind, or a table like"),
        (("--metric", "fid"), 2, "--metric fid: 'fid' compares with references; name a folder"),
        (("--metric", "frechet_thumbnails"), 2, "has no option that names some; use 'fid'"),
        (("--metric", "sliced_wasserstein"), 2, "'sliced_wasserstein' measures no pictures"),
        (("--reward", '{ kind = "likelihood", mean = [0.0], std = 1.0 }'), 2, "likelihood"),
        (("--reward", "silhouette_class"), 1, "compares pictures with prompts; name a file"),
        (("--reward", "silhouette_class", "--prompts", "p.csv"), 1, "p.csv:2: reward 'silhouette"),
    ],
)
def test_what_cannot_be_scored_is_told(folder, tmp_path, arguments, code, message):
    (tmp_path / "p.csv").write_text("file,prompt\n1.png,a house\n2.png,a cat\n")
    done = invoke(folder, *arguments)
    assert done.exit_code == code
    assert message in done.output
    assert not (tmp_path / "runs").exists()


def test_a_metric_that_fails_takes_nothing_from_the_others(folder, tmp_path):
    few = (
        '{ kind = "precision_recall", features = "mobilenet", reference = "mine", neighbours = 9 }'
    )
    done = invoke(folder, "--metric", few, "--reward", "compressibility")
    assert done.exit_code == 1
    assert "needs at least 10 samples and as many references, got 9 and 9" in done.output
    assert len((tmp_path / "runs/mine_scores/scores.csv").read_text().splitlines()) == 10


def test_a_broken_reference_is_told_before_anything_is_scored(folder, tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"cut")
    metric = '{ kind = "fid", features = "mobilenet", reference = "cut.npz" }'
    done = invoke(folder, "--metric", metric, "--reward", "compressibility")
    assert done.exit_code == 1
    assert "cut.npz' is no .npz file that can be read" in done.output
    assert not (tmp_path / "runs").exists()


def test_broken_pictures_are_told_and_nothing_is_scored(folder, tmp_path):
    (folder / "3.png").write_bytes(b"no picture")
    done = invoke(folder, "--reward", "compressibility")
    assert done.exit_code == 1
    assert "3.png' is not a picture" in done.output
    assert "nothing was scored" in done.output
    assert not (tmp_path / "runs").exists()
