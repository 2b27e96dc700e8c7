"""Pictures on the way: which steps, and what of the draws."""

import pytest
import torch

import align
from align.core.mode import Info
from align.core.path import LinearPath
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.runner.film import Film

WIDTH = 2


class Tiles:
    """A state is a number, and its picture 2 x 2 pixels of it."""

    path, shape, domain = LinearPath(), (1,), "image"
    dtype, device = torch.float32, torch.device("cpu")

    def decode(self, x1):
        return x1[:, :, None, None].expand(-1, 3, WIDTH, WIDTH)

    def capability(self, kind):
        return None


@pytest.fixture
def meter():
    return Meter()


@pytest.fixture
def film(meter):
    return lambda every: Film(GuardedModel(Tiles(), "tiles", meter, 64), every)


def looked_at(film, steps):
    draws = torch.zeros(1, 1, 1)
    infos = [film.seen(index, steps, Info({}, draws=draws)) for index in range(steps)]
    return [index for index, info in enumerate(infos) if info.pictures is not None]


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [
        ("auto", 12, list(range(12))),
        ("auto", 5, [0, 1, 2, 3, 4]),
        ("auto", 23, list(range(0, 23, 2))),
        (4, 10, [0, 4, 8, 9]),
        (0, 10, []),
        ("auto", 1, [0]),
    ],
)
def test_steps_to_look_at_are_even_and_end_with_the_last(film, every, steps, expected):
    assert looked_at(film(every), steps) == expected


def test_a_frame_is_two_draws_of_each_of_two_samples_and_their_spread(film, meter):
    draws = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.5, 0.0], [0.4, 0.5, 0.0]])[..., None]
    picture = film("auto").seen(0, 1, Info({"r": 1.0}, draws=draws)).pictures
    assert picture.shape == (1, 3, 6 * WIDTH, WIDTH)
    rows = picture[0, 0, ::WIDTH, 0]
    spread = 2 * draws[:, 0].std()
    torch.testing.assert_close(rows, torch.tensor([0.0, 0.2, spread, 0.5, 0.5, 0.0]))
    assert not meter.calls  # nobody is charged


def test_one_draw_has_no_spread_and_a_step_without_draws_no_picture(film):
    one = film(1).seen(0, 2, Info({}, draws=torch.zeros(1, 3, 1)))
    assert one.pictures.shape == (1, 3, 2 * WIDTH, WIDTH)
    assert film(1).seen(0, 2, Info({})).pictures is None
    own = torch.ones(1, 3, 4, 4)
    assert film(1).seen(0, 2, Info({}, own, draws=torch.zeros(1, 3, 1))).pictures is own


def test_a_steered_run_leaves_its_frames_and_its_samples_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def ran(name, **options):
        return align.run(
            {
                "run": {"samples": 2, "unsteered": 0, "out": name, **options},
                "model": {"kind": "pocket"},
                "sampler": {"kind": "mfm"},
                "estimator": {"kind": "gradient", "draws": 2},
                "reward": [{"kind": "silhouette_class", "label": "cat"}],
                "mode": {"kind": "steer", "steps": 3},
            },
            progress=False,
        )

    seen, unseen = ran("seen"), ran("unseen", pictures_every=0)
    assert len(list((tmp_path / "seen" / "looks").rglob("*.png"))) == 3
    assert not (tmp_path / "unseen" / "looks").exists()
    (one,), (other,) = seen.results, unseen.results
    assert torch.equal(one.x1, other.x1)
    assert one.cost.calls == other.cost.calls
