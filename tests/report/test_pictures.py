"""The pictures of a comparison: what is where."""

import json

import attrs
import numpy as np
import pytest
from PIL import Image

from align.core.baseline import Divergence
from align.engine.meter import Cost
from align.io.images import save_picture
from align.report import write
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


def painted(path):
    """Share of pixels that are not white, by thirds from left to right."""
    sheet = np.asarray(Image.open(path).convert("L"))
    return [float((third < 200).mean()) for third in np.array_split(sheet, 3, axis=1)]


def test_scatter_is_for_points_in_the_plane(folder_of, arm_of):
    cloud = np.stack(np.meshgrid(np.arange(40.0), np.arange(40.0)), -1).reshape(-1, 2)
    arms = [arm_of("many", 0), arm_of("two", 1), arm_of("two again", 2)]
    folder = folder_of(*arms, states=[cloud, cloud[:2], cloud[:2]])
    scatter(folder, arms)
    many, two, again = painted(folder / "scatter.png")
    assert many > 2 * two > 0
    assert two == pytest.approx(again, rel=0.7)


@pytest.mark.parametrize("shape", [(3, 3), (3, 1), (3, 2, 2)])
def test_no_scatter_of_anything_else(folder_of, arm_of, shape):
    folder = folder_of(arm_of("a", 0), states=[np.zeros(shape)])
    scatter(folder, [arm_of("a", 0)])
    assert not (folder / "scatter.png").exists()


def gained(reward, **bounds):
    return Divergence(reward=reward, **bounds)


def inked(path, where):
    """Pixels that are coloured, within a part of the width."""
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    low, high = (int(share * sheet.shape[1]) for share in where)
    part = sheet[:, low:high]
    return int((part.max(2) - part.min(2) > 60).sum())


def test_tradeoff_has_a_point_an_arm_in_both_panels(folder_of, arm_of):
    right = (0.55, 1.0)
    far = arm_of("far", 0, divergence=gained(2.0, at_most=3.0))
    near = arm_of("near", 1, divergence=gained(0.0, at_most=1.0))
    alone, seen = folder_of(far, near), []
    for arms in ([far], [far, near], [attrs.evolve(far, divergence=gained(2.0))]):
        tradeoff(alone, RunResults(arms=tuple(arms)))
        seen.append((inked(alone / "tradeoff.png", (0, 0.5)), inked(alone / "tradeoff.png", right)))
    (left, one), (_, two), (same, none) = seen
    assert min(left, one) > 20
    assert two == pytest.approx(2 * one, rel=0.3)
    assert none == 0  # nothing is known of its divergence
    assert same == left
    bound = attrs.evolve(far, divergence=gained(2.0, at_least=3.0))
    tradeoff(alone, RunResults(arms=(bound,)))
    assert inked(alone / "tradeoff.png", right) != one


def base_of(r):
    return BaseNumbers(arms=(), flow_steps=1, scores={}, r=r, cost=Cost())


def test_tradeoff_shows_the_best_possible(folder_of, arm_of):
    arm = arm_of("far", 0, divergence=gained(2.0, at_most=0.2))
    folder = folder_of(arm)
    dark = []
    for r in ((), (None,), ((0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 1.0, 1.9),)):
        tradeoff(folder, RunResults(arms=(arm,), unsteered=tuple(map(base_of, r))))
        sheet = np.asarray(Image.open(folder / "tradeoff.png").convert("L"))
        dark.append(int((sheet[:, sheet.shape[1] // 2 :] < 200).sum()))
    assert dark[0] == dark[1] < dark[2] - 100


def test_no_tradeoff_of_arms_without_a_reward(folder_of, arm_of):
    folder = folder_of(arm_of("a", 0))
    tradeoff(folder, RunResults(arms=(arm_of("a", 0), arm_of("b", 1, divergence=None))))
    assert not (folder / "tradeoff.png").exists()


def told(folder, *lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def test_curves_have_a_panel_a_number(tmp_path):
    wide = []
    for names in (("loss",), ("loss", "norm", "learning_rate")):
        steps = ({"arm": "a", "step": n} | {k: 1.0 + n for k in names} for n in range(4))
        told(tmp_path, *steps)
        curves(tmp_path)
        wide.append(np.asarray(Image.open(tmp_path / "curves.png")).shape[1])
    assert wide[1] == 3 * wide[0]
    assert not list(tmp_path.glob("*.part"))


def test_curves_of_two_arms_with_numbers_of_their_own(tmp_path):
    told(
        tmp_path,
        *({"arm": "a", "step": n, "reward": n} for n in range(3)),
        *({"arm": "b", "step": n, "reward": -n, "ess": n} for n in range(3)),
    )
    curves(tmp_path)
    assert min(painted(tmp_path / "curves.png")[::2]) > 0


def test_an_arm_has_one_colour_and_a_single_point_no_panel(tmp_path):
    told(
        tmp_path,
        {"arm": "plain", "step": 0, "reward": 1.0, "candidates": 1.0},
        *({"arm": "steered", "step": n, "reward": n, "ess": n} for n in range(3)),
    )
    curves(tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    assert sheet.shape[1] == 2 * sheet.shape[0] * 4.2 / 3.2  # reward and ess alone
    orange = np.abs(sheet - (255, 127, 14)).sum(2) < 30
    blue = np.abs(sheet - (31, 119, 180)).sum(2) < 30
    half = sheet.shape[1] // 2
    assert min(orange[:, :half].sum(), orange[:, half:].sum()) > 20
    assert not blue.any()


def test_many_numbers_stand_in_rows(tmp_path):
    names = ["reward", "value", "ess", "draws", "error"]
    told(tmp_path, *({"arm": "a", "step": n} | dict.fromkeys(names, n) for n in range(3)))
    curves(tmp_path)
    high, wide = np.asarray(Image.open(tmp_path / "curves.png")).shape[:2]
    assert wide / high == pytest.approx(4 * 4.2 / (2 * 3.2), rel=0.01)


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
