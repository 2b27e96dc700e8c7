"""The pictures of a comparison: what is where."""

import json

import numpy as np
import pytest
from PIL import Image

from align.core.baseline import Divergence
from align.engine.meter import Cost
from align.io.images import save_picture
from align.report import plots, write
from align.report.grid import MOST_ROWS, grid
from align.report.plots import curves, scatter, tradeoff
from align.report.schema import BaseNumbers, RunResults


def filled(folder, arms, count, size=(4, 5)):
    """A picture of one colour for every sample: 60 · arm + 3 · row + 1."""
    for number, arm in enumerate(arms):
        for row in range(count):
            picture = np.full((*size, 3), 60 * number + 3 * row + 1, np.uint8)
            save_picture(folder / arm.folder / f"{row:04d}.png", picture)


def sheet_of(folder, arms):
    grid(folder, arms)
    return np.asarray(Image.open(folder / "grid.png"))


@pytest.mark.parametrize("count", [1, 3, 20])
def test_grid_has_a_column_an_arm_and_a_row_a_sample(folder_of, arm_of, count):
    arms = [arm_of(name, n, count) for n, name in enumerate(("plain", "a long name here", "best"))]
    folder = folder_of(*arms)
    filled(folder, arms, count)
    grid(folder, arms)
    sheet = np.asarray(Image.open(folder / "grid.png"))
    # 4 x 5 pixels are shown 24 times as large, 6 apart; whatever is above them are the heads.
    shown = min(count, MOST_ROWS)
    height, width = 96, 120
    top = sheet.shape[0] - shown * (height + 6) - 6
    assert sheet.shape[1] == 3 * (width + 6) + 6
    assert top > 8
    for column in range(3):
        for row in range(shown):
            y, x = top + row * (height + 6), 6 + column * (width + 6)
            tile = sheet[y : y + height, x : x + width]
            assert np.unique(tile).tolist() == [60 * column + 3 * row + 1]
            assert sheet[y : y + height, x - 6 : x].min() == 255
        head = sheet[:top, 6 + column * (width + 6) :][:, : width + 6]
        assert head.min() < 100
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("count", [1, 3])
def test_given_pictures_come_first(folder_of, arm_of, count):
    arms = [arm_of("a", 0, count), arm_of("b", 1, count)]
    folder = folder_of(*arms)
    filled(folder, arms, count)
    plain = sheet_of(folder, arms)
    for index, name in enumerate(("known_picture", "measurement")):
        given = np.full((4, 5, 3), 200 + index, np.uint8)
        save_picture(folder / "given" / f"{index}_{name}.png", given)
    sheet = sheet_of(folder, arms)
    shown, width, height = max(count, 2), 126, 102
    top = sheet.shape[0] - shown * height - 6
    assert sheet.shape[1] == plain.shape[1] + width
    for row in range(shown):
        tile = sheet[top + row * height :, 6:][:96, :120]
        assert np.unique(tile).tolist() == [200 + row if row < 2 else 255]
    assert sheet[:top, 6:width].min() < 100
    # The arms' columns are as they were, but for room that the new head takes.
    kept = count * height + 6
    old = plain[-kept:]
    assert np.array_equal(sheet[top : top + kept - 6, width:], old[:-6])


def test_no_grid_without_pictures(folder_of, arm_of):
    arms = [arm_of("a", 0), arm_of("b", 1)]
    folder = folder_of(*arms)
    filled(folder, arms[:1], 2)
    grid(folder, arms)
    assert not (folder / "grid.png").exists()


@pytest.fixture
def drawn(monkeypatch):
    """Figures by the names of their files; nothing is painted."""
    figures = {}
    monkeypatch.setattr(
        plots, "save_figure", lambda figure, path: figures.update({path.name: figure})
    )
    return figures


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def lines_of(axes):
    """Points and colour of each line by its label."""
    return {line.get_label(): (line.get_xydata().tolist(), line.get_color()) for line in axes.lines}


def test_scatter_has_a_panel_an_arm_with_its_points(folder_of, arm_of, drawn):
    cloud = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), -1).reshape(-1, 2)
    arms = [arm_of("many", 0), arm_of("two", 1)]
    folder = folder_of(*arms, states=[cloud, cloud[:2]])
    scatter(folder, arms)
    figure = drawn["scatter.png"]
    assert titles(figure) == ["many", "two"]
    points = [axes.collections[0].get_offsets().tolist() for axes in figure.axes]
    assert points == [cloud.tolist(), cloud[:2].tolist()]
    many, two = figure.axes
    assert many.get_xlim() == two.get_xlim()
    assert many.get_ylim() == two.get_ylim()


@pytest.mark.parametrize("shape", [(3, 3), (3, 1), (3, 2, 2)])
def test_states_outside_the_plane_have_no_scatter(folder_of, arm_of, shape):
    folder = folder_of(arm_of("a", 0), states=[np.zeros(shape)])
    scatter(folder, [arm_of("a", 0)])
    assert not (folder / "scatter.png").exists()


def gained(reward, **bounds):
    return Divergence(reward=reward, **bounds)


def markers(axes):
    """Places, fill and colour of the points with error bars, by colour."""
    return {
        bar.lines[0].get_color(): (
            bar.lines[0].get_xydata().tolist(),
            bar.lines[0].get_markerfacecolor(),
        )
        for bar in axes.containers
    }


def test_tradeoff_has_a_point_an_arm_in_both_panels(folder_of, arm_of, drawn):
    far = arm_of("far", 0, divergence=gained(2.0, at_most=3.0))
    near = arm_of("near", 1, divergence=gained(0.0, at_most=1.0))
    tradeoff(folder_of(far, near), RunResults(arms=(far, near)))
    spent, distance = drawn["tradeoff.png"].axes
    assert markers(distance) == {"C0": ([[3.0, 2.0]], "C0"), "C1": ([[1.0, 0.0]], "C1")}
    assert [places[0][1] for places, _ in markers(spent).values()] == [2.0, 0.0]
    assert spent.get_legend_handles_labels()[1] == ["far", "near"]
    assert spent.get_ylabel() == "mean r"
    assert distance.get_xlabel() == "KL(samples | base model), nats"


def test_tradeoff_of_an_unknown_divergence_has_no_point_there(folder_of, arm_of, drawn):
    arm = arm_of("far", 0, divergence=gained(2.0))
    tradeoff(folder_of(arm), RunResults(arms=(arm,)))
    spent, distance = drawn["tradeoff.png"].axes
    assert len(markers(spent)) == 1
    assert not markers(distance)


def test_tradeoff_of_a_bound_from_below_is_an_open_point_with_an_arrow(folder_of, arm_of, drawn):
    arm = arm_of("far", 0, divergence=gained(2.0, at_least=3.0))
    tradeoff(folder_of(arm), RunResults(arms=(arm,)))
    _, distance = drawn["tradeoff.png"].axes
    assert markers(distance) == {"C0": ([[3.0, 2.0]], "white")}
    (arrow,) = distance.texts
    assert arrow.xy == (3.0, 2.0)


def base_of(r):
    return BaseNumbers(arms=(), flow_steps=1, scores={}, r=r, cost=Cost())


@pytest.mark.parametrize(
    ("r", "curves_shown"),
    [((), 0), ((None,), 0), (((0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 1.0, 1.9),), 1)],
    ids=["no base samples", "no reward", "base samples"],
)
def test_tradeoff_shows_the_best_possible_by_base_samples(
    folder_of, arm_of, drawn, r, curves_shown
):
    arm = arm_of("far", 0, divergence=gained(2.0, at_most=0.2))
    tradeoff(folder_of(arm), RunResults(arms=(arm,), unsteered=tuple(map(base_of, r))))
    _, distance = drawn["tradeoff.png"].axes
    labels = distance.get_legend_handles_labels()[1]
    assert labels.count("best possible, by 8 unsteered samples") == curves_shown
    assert labels.count("p e^r, likewise") == curves_shown
    if curves_shown:
        points = lines_of(distance)["best possible, by 8 unsteered samples"][0]
        rewards = [reward for _, reward in points]
        assert rewards == sorted(rewards)
        assert rewards[0] == pytest.approx(0.7)


def test_no_tradeoff_of_arms_without_a_reward(folder_of, arm_of):
    folder = folder_of(arm_of("a", 0))
    tradeoff(folder, RunResults(arms=(arm_of("a", 0), arm_of("b", 1, divergence=None))))
    assert not (folder / "tradeoff.png").exists()


def told(folder, *lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def test_curves_have_a_panel_a_number(tmp_path, drawn):
    names = ["loss", "norm", "learning_rate"]
    told(tmp_path, *({"arm": "a", "step": n} | {k: 1.0 + n for k in names} for n in range(4)))
    curves(tmp_path)
    figure = drawn["curves.png"]
    assert titles(figure) == names
    for axes in figure.axes:
        points, _ = lines_of(axes)["a"]
        assert points == [[1 + n, 1.0 + n] for n in range(4)]
        assert axes.get_xlabel() == "step"
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert figure.axes[0].get_legend() is None


def test_curves_of_two_arms_share_a_panel_and_keep_numbers_of_their_own(tmp_path, drawn):
    told(
        tmp_path,
        *({"arm": "a", "step": n, "reward": n} for n in range(3)),
        *({"arm": "b", "step": n, "reward": -n, "ess": n} for n in range(3)),
    )
    curves(tmp_path)
    reward, ess = drawn["curves.png"].axes
    assert lines_of(reward) == {
        "a": ([[1, 0], [2, 1], [3, 2]], "C0"),
        "b": ([[1, 0], [2, -1], [3, -2]], "C1"),
    }
    assert lines_of(ess) == {"b": ([[1, 0], [2, 1], [3, 2]], "C1")}
    assert [text.get_text() for text in reward.get_legend().get_texts()] == ["a", "b"]


def test_a_single_point_is_no_curve_and_colours_stay_with_their_arms(tmp_path, drawn):
    told(
        tmp_path,
        {"arm": "plain", "step": 0, "reward": 1.0, "candidates": 1.0},
        *({"arm": "steered", "step": n, "reward": n, "ess": n} for n in range(3)),
    )
    curves(tmp_path)
    figure = drawn["curves.png"]
    assert titles(figure) == ["reward", "ess"]
    assert [set(lines_of(axes)) for axes in figure.axes] == [{"steered"}] * 2
    assert {lines_of(axes)["steered"][1] for axes in figure.axes} == {"C1"}


def test_many_numbers_stand_in_rows_of_four(tmp_path, drawn):
    names = ["reward", "value", "ess", "draws", "error"]
    told(tmp_path, *({"arm": "a", "step": n} | dict.fromkeys(names, n) for n in range(3)))
    curves(tmp_path)
    grids = [axes.get_subplotspec() for axes in drawn["curves.png"].axes]
    assert [(place.rowspan.start, place.colspan.start) for place in grids] == [
        *((0, column) for column in range(4)),
        (1, 0),
    ]


def test_standard_errors_have_no_panel(tmp_path, drawn):
    steps = ({"arm": "a", "step": n, "cat": 1.0 * n, "errors": {"cat": 0.1}} for n in range(3))
    told(tmp_path, *steps)
    curves(tmp_path)
    assert titles(drawn["curves.png"]) == ["cat"]


def test_no_curves_of_a_single_step_or_of_none(tmp_path):
    curves(tmp_path)
    told(tmp_path, {"arm": "a", "step": 0, "reward": 1.0})
    curves(tmp_path)
    told(tmp_path, {"arm": "a", "step": 0}, {"arm": "a", "step": 1})
    curves(tmp_path)
    assert not (tmp_path / "curves.png").exists()


def test_write_makes_all_of_it(folder_of, arm_of):
    folder = folder_of(arm_of("a", 0), states=[[[0.0, 0.0], [1.0, 1.0]]])
    told(folder, *({"arm": "a", "step": n, "reward": n} for n in range(2)))
    write(folder)
    made = {path.name for path in folder.iterdir() if path.is_file()}
    wanted = {"table.md", "scatter.png", "curves.png"}
    assert made == wanted | {"results.json", "metrics.jsonl"}
    for name in ("scatter.png", "curves.png"):
        with Image.open(folder / name) as picture:
            picture.verify()
