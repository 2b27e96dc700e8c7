"""Likeness to a picture: what it is by definition, for each network; and its mean as a metric."""

import sys

import pytest
import torch
import torch.nn.functional as F
from align_classifier.testing import small_dinov2
from align_likeness import DinoLikeness, DinoLikenessMetric, DreamSim, Lpips, LpipsMetric
from align_likeness.testing import small_lpips
from PIL import Image

from align import PartError, Streams
from align.core.reward import HasReferenceImages

CPU = torch.device("cpu")


def noise(rows, height, width):
    coarse = Streams(4, tuple(range(rows))).uniform((3, 5, 5)).float()
    smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A picture, and weights of both networks."""
    folder = tmp_path_factory.mktemp("likeness")
    pixels = (noise(1, 70, 80)[0] * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / "picture.png")
    return {
        "picture": str(folder / "picture.png"),
        "alex": str(small_lpips("alex", folder)),
        "dino": str(small_dinov2(folder / "dinov2")),
    }


@pytest.fixture(scope="module")
def parts(files):
    return {
        "lpips": Lpips(picture=files["picture"], weights=files["alex"]),
        "dinov2": DinoLikeness(picture=files["picture"], weights=files["dino"]),
    }


@pytest.mark.parametrize(("kind", "best"), [("lpips", 0.0), ("dinov2", 1.0)])
def test_the_picture_itself_is_the_likest(parts, kind, best):
    reward = parts[kind].build(CPU)
    data = noise(4, 70, 80)
    scores = reward.score(data, [""] * 4)
    assert scores[0] == pytest.approx(best, abs=1e-5)
    assert (scores[1:] < best - 1e-5).all()
    (shown,) = reward.capability(HasReferenceImages).pictures().values()
    assert shown.shape == (3, 70, 80)


def test_metric_is_the_mean_of_the_reward(parts, files):
    data = noise(3, 64, 64)
    pairs = [
        (parts["lpips"], LpipsMetric(picture=files["picture"], weights=files["alex"])),
        (parts["dinov2"], DinoLikenessMetric(picture=files["picture"], weights=files["dino"])),
    ]
    for part, metric in pairs:
        expected = float(part.build(CPU).score(data, [""] * 3).mean())
        assert metric.compute(data, None) == {metric.kind: pytest.approx(expected, rel=1e-5)}
        states = [metric.update(data[:1]), metric.update(data[1:])]
        assert metric.finish(metric.merge(states), None)[metric.kind] == pytest.approx(expected)


def test_small_pictures_are_enlarged(parts):
    scores = parts["lpips"].build(CPU).score(noise(2, 28, 28), ["", ""])
    assert scores.isfinite().all() and scores[0] != scores[1]


def test_what_is_missing_is_told_in_a_line(files, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "dreamsim", None)
    for part, said in (
        (Lpips(picture=files["picture"], offline=True), "alexnet-owt-7be5be79.pth' is not there"),
        (Lpips(picture=files["picture"], weights="none.pth"), "no file 'none.pth'"),
        (Lpips(picture=files["picture"], net="vgg", weights=files["alex"]), "weights"),
        (DinoLikeness(picture=files["picture"], weights=str(tmp_path)), "has no 'config.json'"),
        (Lpips(picture="none.png", weights=files["alex"]), "no file 'none.png'"),
        (
            DreamSim(picture=files["picture"]),
            "dreamsim cannot be imported (import of dreamsim halted",
        ),
    ):
        with pytest.raises(PartError) as told:
            part.build(CPU)
        assert said in str(told.value)
