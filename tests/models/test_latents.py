"""Training rows: pictures as states of a model, and the batches made of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from align.core.streams import Streams
from align.errors import PartError
from align.models.latents import Examples, encoded
from align.models.network import NetworkModel
from align.nets.autoencoder import Autoencoder, AutoencoderConfig
from align.training.data import Pictures, load


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
    found = encoded(Pictures(path=path), model)
    pictures = load(Pictures(path=path), 3).pictures / 255
    assert found.states.shape == (2, 6, 4, 4, 4)
    assert torch.allclose(found.states[0], model.autoencoder.encode(pictures), atol=1e-5)
    assert torch.allclose(found.states[1], model.autoencoder.encode(pictures.flip(3)), atol=1e-5)
    assert not torch.allclose(found.states[0], found.states[1], atol=1e-2)
    assert found.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert found.unnamed == 2
    assert not found.states.requires_grad
    plain = encoded(Pictures(path=path, mirror=False), model)
    assert torch.equal(plain.states, found.states[:1])


def test_a_model_without_classes_sees_none(tmp_path):
    found = encoded(Pictures(path=_pictures(tmp_path)), _model(classes=()))
    assert found.labels.tolist() == [0] * 6
    assert found.unnamed == 0


def test_a_model_without_autoencoder_is_refused(tmp_path):
    model = NetworkModel(shape=(2,))
    with pytest.raises(PartError, match="hold no autoencoder"):
        encoded(Pictures(path=_pictures(tmp_path)), model)


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
