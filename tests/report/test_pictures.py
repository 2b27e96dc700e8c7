"""The pictures of a comparison: what is where."""

import json

import attrs
import numpy as np
import pytest
from PIL import Image

from align.core.baseline import Divergence
from align.core.departure import Departure
from align.engine.meter import Cost
from align.io.images import save_picture
from align.report import plots
from align.report.grid import MOST_ROWS, grid
from align.report.plots import curves, scatter, tradeoff
from align.report.schema import BaseNumbers, RewardRole, RunResults
from align.report.writer import write


def filled(folder, arms, count, size=(4, 5)):
    """A picture of one colour for every sample: 60 · arm + 3 · row + 1."""
    for number, arm in enumerate(arms):
        for row in range(count):
            picture = np.full((*size, 3), 60 * number + 3 * row + 1, np.uint8)
            save_picture(folder / arm.folder / f"{row:04d}.png", picture)


def sheet_of(folder, arms):
    grid(folder, RunResults(arms=tuple(arms)))
    return np.asarray(Image.open(folder / "grid.png"))


@pytest.mark.parametrize("count", [1, 3, 20])
def test_grid_has_a_column_an_arm_and_a_row_a_sample(folder_of, arm_of, count):
    arms = [arm_of(name, n, count) for n, name in enumerate(("plain", "a long name here", "best"))]
    folder = folder_of(*arms)
    filled(folder, arms, count)
    sheet = sheet_of(folder, arms)
    # 4 x 5 pixels are shown 36 times as large, 6 apart; whatever is above them are the heads.
    shown = min(count, MOST_ROWS)
    height, width = 144, 180
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


def test_a_long_name_of_one_word_is_broken_to_its_column(folder_of, arm_of):
    arms = [arm_of("short", 0, 1), arm_of("w" * 60, 1, 1)]
    folder = folder_of(*arms)
    filled(folder, arms, 1)
    long = sheet_of(folder, arms)
    top = long.shape[0] - 144 - 12
    assert top > 8 + 16 * 3  # several lines
    assert long.shape[1] == 2 * (180 + 6) + 6
    assert (long[4:top, -4:] == 255).all()  # and none of them leaves its column


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
    shown, width, height = max(count, 2), 186, 150
    top = sheet.shape[0] - shown * height - 6
    assert sheet.shape[1] == plain.shape[1] + width
    for row in range(shown):
        tile = sheet[top + row * height :, 6:][:144, :180]
        assert np.unique(tile).tolist() == [200 + row if row < 2 else 255]
    assert sheet[:top, 6:width].min() < 100
    # The arms' columns are as they were, but for room that the new head takes.
    kept = count * height + 6
    old = plain[-kept:]
    assert np.array_equal(sheet[top : top + kept - 6, width:], old[:-6])


def test_scores_stand_beneath_their_sample(folder_of, arm_of):
    arm = arm_of("a", 0, 2)
    folder = folder_of(arm)
    filled(folder, [arm], 2)
    roles = {name: RewardRole(weight=1, held_out=name == "seen") for name in ("liked", "seen")}
    plain = sheet_of(folder, [arm])
    scored = attrs.evolve(arm, scores={"liked": (1.5, -20.25), "seen": (0.25, 3.0)})
    grid(folder, RunResults(arms=(scored,), rewards=roles))
    sheet = np.asarray(Image.open(folder / "grid.png"))
    assert sheet.shape[1] == plain.shape[1]
    for row in range(2):  # a line below each picture, and above all what the numbers are
        below = sheet[sheet.shape[0] - 6 - (2 - row) * 166 + 144 :][:16]
        assert below.min() < 160
    assert sheet.shape[0] > plain.shape[0] + 2 * 16


def test_no_grid_without_pictures(folder_of, arm_of):
    arms = [arm_of("a", 0), arm_of("b", 1)]
    folder = folder_of(*arms)
    filled(folder, arms[:1], 2)
    grid(folder, RunResults(arms=tuple(arms)))
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


def panels(figure):
    """What the axes upwards say."""
    return [axes.get_ylabel() for axes in figure.axes]


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


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


def test_scatter_is_a_square_that_leaves_out_few_outliers_and_says_so(folder_of, arm_of, drawn):
    cloud = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), -1).reshape(-1, 2)
    lost = np.concatenate((cloud, [[1e6, -3.0]]))
    wide = cloud * [4, 1]
    two = np.array([[0.0, 0.0], [6.0, 0.0]])  # of so few nothing is an outlier
    nan = np.concatenate((cloud, [[np.nan, 0.0]]))
    arms = [arm_of(name, n) for n, name in enumerate(("lost", "wide", "two", "nan", "five"))]
    scatter(folder_of(*arms, states=[lost, wide, two, nan, cloud]), arms)
    figure = drawn["scatter.png"]
    assert titles(figure) == ["lost (1 outside)", "wide", "two", "nan (1 outside)", "five"]
    for axes in figure.axes:
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert (left, right) == pytest.approx((6 - 6.48, 6 + 6.48))
        assert (low, high) == pytest.approx((1.5 - 6.48, 1.5 + 6.48))
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("$x_1$", "$x_2$")
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        *((0, column) for column in range(4)),
        (1, 0),
    ]


@pytest.mark.parametrize("rows", [0, 1, 8])
def test_scatter_of_no_points_or_of_equal_ones_is_drawn(folder_of, arm_of, rows):
    arms = [arm_of("a", 0, rows)]
    folder = folder_of(*arms, states=[np.ones((rows, 2))])
    scatter(folder, arms)
    assert (folder / "scatter.png").is_file()


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


def test_tradeoff_tells_more_than_ten_arms_apart(folder_of, arm_of, drawn):
    arms = [arm_of(f"arm {n}", n, divergence=gained(1.0, at_most=1.0)) for n in range(12)]
    tradeoff(folder_of(*arms), RunResults(arms=tuple(arms)))
    for axes in drawn["tradeoff.png"].axes:
        points = [bar.lines[0] for bar in axes.containers]
        assert len({(point.get_color(), point.get_marker()) for point in points}) == 12


@pytest.mark.parametrize("bound", [None, -1e-3, -7.78e4])
def test_tradeoff_of_an_unknown_divergence_has_no_point_there(folder_of, arm_of, drawn, bound):
    arm = arm_of("far", 0, divergence=gained(2.0, at_least=bound))
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


def test_tradeoff_leaves_out_an_arm_that_ran_away_and_says_where_it_is(folder_of, arm_of, drawn):
    left = Departure(norm=1.0, residual=1.0, left=0.03)
    means = {"unsteered": (-9.6, None), "dps": (-7.8e4, left), "glass": (-2.0, left)}
    arms = [
        arm_of(name, n, divergence=gained(mean, at_most=1.0), departure=departure)
        for n, (name, (mean, departure)) in enumerate(means.items())
    ]
    base = base_of((-20.0, -9.0, -5.0, -1.0))
    tradeoff(folder_of(*arms), RunResults(arms=tuple(arms), unsteered=(base,)))
    spent, distance = drawn["tradeoff.png"].axes
    assert markers(distance).keys() == markers(spent).keys() == {"C0", "C2"}
    assert min(spent.get_ylim()) > -20
    labels = spent.get_legend_handles_labels()[1]
    assert sorted(labels) == ["dps (outside, at -78000)", "glass", "unsteered"]
    # Nor is an arm left out that is far from the others and left nothing, or that is alone.
    kept = [attrs.evolve(arm, departure=None) for arm in arms]
    for shown in (kept, arms[1:2]):
        tradeoff(folder_of(), RunResults(arms=tuple(shown)))
        assert len(markers(drawn["tradeoff.png"].axes[0])) == len(shown)


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


def test_tradeoff_of_a_tuned_model_is_over_the_distance_from_the_first(folder_of, arm_of, drawn):
    r = (0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 1.0, 1.9)
    arms = (
        arm_of("plain", 0, divergence=gained(0.7, at_least=0.0, at_most=0.0)),
        arm_of("tuned", 1, divergence=gained(1.2, at_least=0.3, base="plain")),
    )
    bases = tuple(
        attrs.evolve(base_of(numbers), arms=(arm.name,))
        for arm, numbers in zip(arms, (r, (*r, 2.0)), strict=True)
    )
    tradeoff(folder_of(*arms), RunResults(arms=arms, unsteered=bases))
    _, distance = drawn["tradeoff.png"].axes
    labels = distance.get_legend_handles_labels()[1]
    assert [label for label in labels if "possible" in label] == [
        "best possible, by 8 unsteered samples"
    ]
    assert distance.get_xlabel() == "KL(samples | model of 'plain'), nats"


def test_no_tradeoff_of_arms_without_a_reward(folder_of, arm_of):
    folder = folder_of(arm_of("a", 0))
    tradeoff(folder, RunResults(arms=(arm_of("a", 0), arm_of("b", 1, divergence=None))))
    assert not (folder / "tradeoff.png").exists()


def told(folder, *lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def test_curves_have_a_panel_a_number(tmp_path, drawn):
    names = ["loss", "norm", "learning_rate"]
    values = [10.0, 9.0, 9.0, 1.0]
    told(
        tmp_path, *({"arm": "a", "step": n} | dict.fromkeys(names, v) for n, v in enumerate(values))
    )
    curves(tmp_path)
    figure = drawn["curves.png"]
    assert panels(figure) == ["loss", "norm of the gradient", "learning rate"]
    for axes in figure.axes:
        points, _ = lines_of(axes)["a"]
        assert points == [[1.0 + n, v] for n, v in enumerate(values)]
        assert axes.get_xlabel() == "step"
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert legend_of(figure) == []


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1.0, 1.0, 1.0, 9.0], "log"),
        ([1.0, 1.0, 1.0, 7.0], "linear"),
        ([1.0, 1.0, -1.0, 9.0], "linear"),
        ([1.0, 1.0, 0.0, 9.0], "linear"),
        ([-1.0, -1.0, -1.0, -99.0], "linear"),
        ([-1.0, -1.0, -1.0, -101.0], "symlog"),
    ],
)
def test_an_axis_is_logarithmic_where_a_peak_would_hide_the_rest(tmp_path, drawn, values, scale):
    told(tmp_path, *({"arm": "a", "step": n, "ess": v} for n, v in enumerate(values)))
    curves(tmp_path)
    assert [axes.get_yscale() for axes in drawn["curves.png"].axes] == [scale]


def test_an_arm_that_runs_away_leaves_the_others_lines_their_room(tmp_path, drawn):
    lines = [{"arm": "a", "step": n, "reward": -9.0 + n} for n in range(5)]
    lines += [{"arm": "b", "step": n, "reward": -(10.0 ** (2 * n))} for n in range(5)]
    told(tmp_path, *lines)
    curves(tmp_path)
    (axes,) = drawn["curves.png"].axes
    _, shown = axes.transAxes.inverted().transform(axes.transData.transform([(1, -9), (5, -5)])).T
    assert axes.get_yscale() == "symlog" and shown[1] - shown[0] > 0.03


def test_many_steps_are_shown_by_a_running_mean(tmp_path, drawn):
    told(tmp_path, *({"arm": "a", "step": n, "loss": n % 2} for n in range(400)))
    curves(tmp_path)
    every, mean = drawn["curves.png"].axes[0].lines
    assert len(every.get_xdata()) == 400
    assert mean.get_ydata() == pytest.approx([0.5] * 393)
    assert (mean.get_xdata()[0], mean.get_xdata()[-1]) == (5, 397)
    assert mean.get_label() == "a"


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
    assert reward.get_ylabel() == "r, which is optimised"
    assert legend_of(drawn["curves.png"]) == ["a", "b"]


def test_a_single_point_is_a_level_and_colours_stay_with_their_arms(tmp_path, drawn):
    told(
        tmp_path,
        {"arm": "plain", "step": 0, "reward": 1.0, "candidates": 1.0},
        *({"arm": "steered", "step": n, "reward": n, "ess": n} for n in range(3)),
    )
    curves(tmp_path)
    figure = drawn["curves.png"]
    assert panels(figure) == ["r, which is optimised", "effective number of draws"]
    reward, ess = figure.axes
    assert lines_of(reward)["plain"] == ([[0, 1], [1, 1]], "C0")  # across the whole panel
    assert set(lines_of(ess)) == {"steered"}
    assert {lines_of(axes)["steered"][1] for axes in figure.axes} == {"C1"}
    assert legend_of(figure) == ["plain", "steered"]


def test_numbers_that_never_change_have_no_panel_and_others_stand_in_rows_of_three(tmp_path, drawn):
    names = ["reward", "value", "ess", "error"]
    told(
        tmp_path,
        *({"arm": "a", "step": n, "draws": 4} | dict.fromkeys(names, n) for n in range(3)),
        *({"arm": "b", "step": n, "draws": 1} for n in range(3)),
    )
    curves(tmp_path)
    grids = [axes.get_subplotspec() for axes in drawn["curves.png"].axes]
    assert [(place.rowspan.start, place.colspan.start) for place in grids] == [
        *((0, column) for column in range(3)),
        (1, 0),
    ]


def test_more_than_ten_arms_are_told_apart(tmp_path, drawn):
    arms = [f"arm {n}" for n in range(12)]
    told(tmp_path, *({"arm": arm, "step": n, "loss": n} for arm in arms for n in range(2)))
    curves(tmp_path)
    lines = drawn["curves.png"].axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12


def test_standard_errors_have_no_panel(tmp_path, drawn):
    steps = ({"arm": "a", "step": n, "cat": 1.0 * n, "errors": {"cat": 0.1}} for n in range(3))
    told(tmp_path, *steps)
    curves(tmp_path)
    assert panels(drawn["curves.png"]) == ["cat"]


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
    wanted = {"table.md", "table.csv", "scatter.png", "curves.png", "report.html"}
    assert made == wanted | {"results.json", "metrics.jsonl"}
    for name in ("scatter.png", "curves.png"):
        with Image.open(folder / name) as picture:
            picture.verify()
