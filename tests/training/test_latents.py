"""Training rows: pictures as states of a model, and the batches made of them."""

import json

import attrs
import numpy as np
import pytest
import torch
from loguru import logger
from PIL import Image

from align.core.errors import PartError
from align.core.streams import Streams
from align.datasets.pictures import Pictures
from align.models.network_model import NetworkModel
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.training import latents
from align.training.data import load
from align.training.latents import Examples, encoded


def _pictures(root, count=3):
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        for k in range(count):
            array = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(array).save(root / "train" / name / f"{k}.png")
    return str(root)


def _model(classes=("dog", "cat")):
    torch.manual_seed(0)
    auto = Autoencoder(AutoencoderConfig(width=8, levels=1, latents=4)).requires_grad_(False)
    return NetworkModel(shape=(4, 4, 4), classes=classes, autoencoder=auto)


def test_states_are_latents_of_the_pictures_and_of_their_mirror_images(tmp_path):
    model, path = _model(), _pictures(tmp_path)
    found = encoded(Pictures(path=path), model.encoding())
    pictures = load(Pictures(path=path), 3).pictures / 255
    assert found.states.shape == (2, 6, 4, 4, 4)
    assert torch.allclose(found.states[0], model.autoencoder.encode(pictures), atol=1e-5)
    assert torch.allclose(found.states[1], model.autoencoder.encode(pictures.flip(3)), atol=1e-5)
    assert not torch.allclose(found.states[0], found.states[1], atol=1e-2)
    assert found.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert found.null_label == 2
    assert not found.states.requires_grad
    plain = encoded(Pictures(path=path, mirror=False), model.encoding())
    assert torch.equal(plain.states, found.states[:1])


def test_a_model_without_classes_sees_none(tmp_path):
    found = encoded(Pictures(path=_pictures(tmp_path)), _model(classes=()).encoding())
    assert found.labels.tolist() == [0] * 6
    assert found.null_label == 0


def test_a_model_without_autoencoder_is_refused(tmp_path):
    model = NetworkModel(shape=(2,))
    with pytest.raises(PartError, match="no autoencoder that encodes them"):
        encoded(Pictures(path=_pictures(tmp_path)), model.encoding())


def _numbered(rows=5):
    """View v of row r is the number 10 v + r, its class r."""
    states = 10 * torch.arange(2)[:, None, None] + torch.arange(rows)[None, :, None]
    return Examples(states.float(), torch.arange(rows), 99)


def _rows(first, count):
    return Streams(0, (0,)).numbered(first, count)


def test_rows_keep_states_and_classes_together():
    x1, labels = _numbered().rows(_rows(192, 64), 0.0)
    assert x1.shape == (64, 1)
    assert torch.equal(x1[:, 0].long() % 10, labels)
    share = float((x1 >= 10).float().mean())
    assert 0.25 < share < 0.75


def test_a_row_is_the_same_in_any_batch():
    examples = _numbered()
    whole, labels = examples.rows(_rows(0, 40), 0.3)
    for index in (0, 3):
        part, named = examples.rows(_rows(10 * index, 10), 0.3)
        rows = slice(10 * index, 10 * index + 10)
        assert torch.equal(part, whole[rows])
        assert torch.equal(named, labels[rows])
    assert torch.equal(whole[:5, 0].long().remainder(10).sort().values, torch.arange(5))


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_a_share_of_labels_is_dropped(dropout):
    x1, labels = _numbered().rows(_rows(0, 2000), dropout)
    dropped = labels == 99
    assert abs(float(dropped.float().mean()) - dropout) < 0.05
    assert torch.equal(labels[~dropped], x1[~dropped, 0].long() % 10)


@pytest.fixture
def data(tmp_path):
    """Six pictures, and where their latents are to be."""
    return Pictures(path=_pictures(tmp_path / "set"), latents=str(tmp_path / "kept/latents"))


def test_pictures_that_memory_is_too_small_for_are_encoded_fewer_at_once(tmp_path):
    data, encoding, seen = Pictures(path=_pictures(tmp_path / "set")), _model().encoding(), []

    def short(pictures):
        seen.append(len(pictures))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encoding.encode(pictures)

    found = encoded(data, attrs.evolve(encoding, encode=short))
    assert torch.allclose(found.states, encoded(data, encoding).states, atol=1e-6)
    assert max(seen) > 2


@pytest.fixture
def folder(data, tmp_path):
    """Latents that are written."""
    encoded(data, _model().encoding())
    return tmp_path / "kept/latents"


def test_latents_are_written_once_and_are_those_in_memory(data, tmp_path, monkeypatch):
    model, seen = _model(), []
    plain = encoded(attrs.evolve(data, latents=""), model.encoding())
    chunks = latents.chunks
    monkeypatch.setattr(latents, "chunks", lambda *a: seen.append(a) or chunks(*a))
    for _ in range(2):
        found = encoded(data, model.encoding())
        assert torch.equal(found.states, plain.states)
        assert torch.equal(found.labels, plain.labels)
        for one, two in zip(
            found.rows(_rows(3, 9), 0.5), plain.rows(_rows(3, 9), 0.5), strict=True
        ):
            assert torch.equal(one, two)
            assert one.dtype == two.dtype
    assert len(seen) == 1
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["latents"]
    mapped = np.load(tmp_path / "kept/latents/states.npy", mmap_mode="r")
    assert (mapped.dtype, mapped.shape) == (np.float32, (2, 6, 4, 4, 4))


def test_classes_of_latents_are_known_by_their_names(data, folder):
    other = encoded(data, _model(classes=("Cat", "dog")).encoding())
    assert other.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert encoded(data, _model(classes=()).encoding()).labels.tolist() == [0] * 6
    with pytest.raises(PartError, match=r"latents' differ from the model's in: bird, cat$"):
        encoded(data, _model(classes=("bird", "dog")).encoding())


def test_latents_of_something_else_are_refused(data, folder):
    other = _model()
    other.autoencoder.std.mul_(2)
    cases = {"autoencoder": (data, other)}
    cases |= {
        name: (attrs.evolve(data, **{name: value}), _model())
        for name, value in {"mirror": False, "size": 4}.items()
    }
    place = data.path + "/train/cat/9.png"
    for odd, (asked, model) in cases.items():
        with pytest.raises(PartError) as caught:
            encoded(asked, model.encoding())
        assert str(caught.value) == (
            f"data.latents: '{folder}' was made from something else ({odd});"
            " delete it, or name another folder"
        )
    Image.new("RGB", (8, 8)).save(place)
    with pytest.raises(PartError, match=r"something else \(files\)"):
        encoded(data, _model().encoding())


def test_a_run_killed_while_encoding_leaves_no_latents(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(latents, "_encode", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encoded(data, _model().encoding())
    assert not list((tmp_path / "kept").iterdir())
    (tmp_path / "kept/latents.part").mkdir()
    assert encoded(data, _model().encoding()).states.shape[1] == 6


def test_full_disk_or_foreign_folder_refuses_latents(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(latents.shutil, "disk_usage", lambda _: attrs.make_class("U", ["free"])(9))
        with pytest.raises(PartError, match=r"would need 0\.0 GB, and the disk has 0\.0 GB left"):
            encoded(data, _model().encoding())
    (tmp_path / "kept/latents").mkdir()
    (tmp_path / "kept/latents/mine").write_text("mine")
    with pytest.raises(PartError, match="holds other things; name another folder"):
        encoded(data, _model().encoding())


def test_pictures_of_another_size_than_the_model_s_are_refused(data):
    model = attrs.evolve(_model(), shape=(4, 8, 8))
    for asked in (data, attrs.evolve(data, latents="")):
        with pytest.raises(PartError) as caught:
            encoded(asked, model.encoding())
        assert str(caught.value) == (
            "data: pictures of size (3, 8, 8) become states (4, 4, 4),"
            " but the model's are (4, 8, 8); set 'size'"
        )


def _own(root, **other):
    """Latents that come from elsewhere: one view of three rows."""
    states = np.arange(3 * 64, dtype=np.float16).reshape(1, 3, 4, 4, 4)
    said = {"states": states, "labels": np.array([1, 0, 1], np.uint8)} | other
    for name, array in said.items():
        if name != "about":
            np.save(root / f"{name}.npy", array)
    (root / "about.json").write_text(json.dumps(other.get("about", {"classes": ["cat", "dog"]})))
    return Pictures(latents=str(root))


def test_latents_of_one_s_own_need_no_pictures(tmp_path):
    found = encoded(_own(tmp_path), _model().encoding())
    assert found.labels.tolist() == [0, 1, 0]
    x1, labels = found.rows(_rows(0, 3), 0.0)
    assert x1.dtype == torch.float32
    order = x1[:, 0, 0, 0].argsort()
    assert torch.equal(x1[order].reshape(-1), torch.arange(3 * 64.0))
    assert labels[order].tolist() == [0, 1, 0]
    # Nor does the model need an autoencoder to be trained on them.
    assert (
        len(encoded(_own(tmp_path), attrs.evolve(_model(), autoencoder=None).encoding()).labels)
        == 3
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"states": np.zeros((3, 4, 4, 4))},
            r"states \(3, 4, 4, 4\) of type float64, exp",
        ),
        (
            {"states": np.zeros((1, 3, 4, 4, 4), int)},
            r"type int64, expected floats \(views, rows",
        ),
        ({"labels": np.zeros(2, int)}, r"has labels \(2,\) of type int64, expected one integer a"),
        ({"labels": np.zeros(3)}, "of type float64, expected one integer a row"),
        ({"labels": np.array([0, 1, 2])}, "has labels out of range: about.json names 2 classes"),
        ({"labels": np.array([0, 1, -1])}, "has labels out of range"),
        ({"about": {}}, r"cannot be read: KeyError\('classes'\)"),
        ({"states": np.array([None])}, "cannot be read: ValueError"),
        (
            {"states": np.zeros((1, 0, 4, 4, 4)), "labels": np.zeros(0, int)},
            "has no rows",
        ),
        (
            {"about": {"classes": ["cat", "dog"], "made_from": {"autoencoder": "0"}}},
            r"made from something else \(autoencoder\)",
        ),
    ],
)
def test_latents_that_do_not_fit_are_refused(tmp_path, other, message):
    with pytest.raises(PartError, match=message):
        encoded(_own(tmp_path, **other), _model().encoding())


def test_latents_without_pictures_must_be_there(tmp_path):
    with pytest.raises(PartError, match=r"no file '.*about\.json'; set 'path' to make it"):
        encoded(Pictures(latents=str(tmp_path / "none")), _model().encoding())
    (tmp_path / "states.npy").write_bytes(b"")
    (tmp_path / "about.json").write_text("{}")
    with pytest.raises(PartError, match="cannot be read"):
        encoded(Pictures(latents=str(tmp_path)), _model().encoding())


def test_the_log_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(
        latents,
        "chunks",
        lambda found, workers: ((first, found.rows([first])) for first in range(len(found))),
    )
    lines = []
    logger.enable("align")
    sink = logger.add(lambda message: lines.append(message.record["message"]))
    try:
        encoded(Pictures(path=_pictures(tmp_path, count=20)), _model().encoding())
    finally:
        logger.remove(sink)
        logger.disable("align")
    assert lines == [f"{4 * k} of 40 pictures encoded" for k in range(1, 11)]
