"""Labelled pictures from folders and archives."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from align.core.errors import PartError
from align.datasets.pictures import Pictures
from align.training.data import load


def _png(seed, size=(8, 6), mode="RGB"):
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue(), array


def _files():
    """Two classes of three pictures in `train`, one picture in `test`."""
    places = [f"train/{name}/{k}.png" for name in ("dog", "Big_cat") for k in (2, 0, 1)]
    return {place: _png(k)[0] for k, place in enumerate([*places, "test/dog/9.png"])}


def _folder(root, files):
    for place, content in files.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(content)
    return str(root)


def _tar(path, files, above="set/"):
    with tarfile.open(path, "w") as archive:
        for place, content in files.items():
            member = tarfile.TarInfo(above + place)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def test_rows_hold_their_pictures_and_classes(tmp_path):
    found = load(Pictures(path=_folder(tmp_path, _files())), 3)
    assert found.classes == ("big cat", "dog")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(found) == 6
    assert found.pictures.dtype == torch.uint8
    assert found.pictures.shape == (6, 3, 6, 8)
    # Sorted by name: seeds of Big_cat/0, 1, 2 and dog/0, 1, 2.
    for row, seed in enumerate((4, 5, 3, 1, 2, 0)):
        assert np.array_equal(found.pictures[row].permute(1, 2, 0).numpy(), _png(seed)[1])


@pytest.mark.parametrize("colours", [1, 3])
def test_folder_and_archive_are_alike(tmp_path, colours):
    files = _files()
    backwards = dict(reversed(files.items()))
    first = load(Pictures(path=_folder(tmp_path / "set", files)), colours)
    second = load(Pictures(path=_tar(tmp_path / "set.tar", backwards)), colours)
    bare = load(Pictures(path=_tar(tmp_path / "bare.tar", backwards, above="")), colours)
    itself = load(Pictures(path=str(tmp_path / "set/train")), colours)
    assert first.pictures.shape[1] == colours
    for other in (second, bare, itself):
        assert torch.equal(first.pictures, other.pictures)
        assert torch.equal(first.labels, other.labels)
        assert first.classes == other.classes
    grey = np.asarray(Image.open(io.BytesIO(files["train/Big_cat/0.png"])).convert("L"))
    if colours == 1:
        assert np.array_equal(first.pictures[0, 0].numpy(), grey)


def test_pictures_of_another_split_or_suffix_are_left_out(tmp_path):
    files = {**_files(), "train/dog/notes.txt": b"none", "train/deep/er/a.png": _png(0)[0]}
    folder = _folder(tmp_path, files)
    assert len(load(Pictures(path=folder), 3)) == 6
    test = load(Pictures(path=folder, split="test"), 3)
    assert (len(test), test.classes) == (1, ("dog",))
    with pytest.raises(PartError, match=r"has no pictures in <\.\.\.>/valid/<class>/"):
        load(Pictures(path=folder, split="valid"), 3)


def test_labels_follow_the_model_s_classes(tmp_path):
    found = load(Pictures(path=_folder(tmp_path, _files())), 3, ("Dog", "Big cat"))
    assert found.classes == ("Dog", "Big cat")
    assert found.labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_pictures_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(PartError, match="no file or folder"):
        load(Pictures(path=str(tmp_path / "none")), 3)
    folder = _folder(tmp_path / "set", _files())
    with pytest.raises(PartError, match=r"differ from the model's in: big cat, bird$"):
        load(Pictures(path=folder), 3, ("dog", "bird"))
    mixed = _folder(tmp_path / "mixed", {**_files(), "train/dog/x.png": _png(0, (6, 8))[0]})
    with pytest.raises(PartError) as caught:
        load(Pictures(path=mixed), 3)
    assert str(caught.value) == (
        f"data: the pictures are not all of one size: '{mixed}/train/Big_cat/0.png' has 8 x 6,"
        f" '{mixed}/train/dog/x.png' has 6 x 8; set 'size'"
    )
    broken = _folder(tmp_path / "broken", {**_files(), "train/dog/x.png": _png(0)[0][:40]})
    with pytest.raises(PartError, match=r"dog/x\.png' is not a picture: unknown format$"):
        load(Pictures(path=broken), 3)
    cut = _folder(tmp_path / "cut", {**_files(), "train/dog/x.png": _png(0)[0][:-60]})
    with pytest.raises(PartError, match=r"dog/x\.png' is not a picture: .*truncated"):
        load(Pictures(path=cut), 3)
    inside = _tar(tmp_path / "cut.tar", {**_files(), "train/dog/x.png": _png(0)[0][:40]})
    with pytest.raises(PartError, match=r"'set/train/dog/x\.png' in '.*cut\.tar' is not a picture"):
        load(Pictures(path=inside), 3)
    (tmp_path / "not.tar").write_bytes(b"x" * 600)
    with pytest.raises(PartError, match=r"not\.tar' is not a tar archive"):
        load(Pictures(path=str(tmp_path / "not.tar")), 3)


def test_a_path_or_latents_must_be_given():
    with pytest.raises(ValueError, match="expected 'path', or 'latents'"):
        Pictures()
    with pytest.raises(PartError, match=r"pictures are needed here, not only 'some'; set 'path'"):
        load(Pictures(latents="some"), 3)


def test_size_scales_the_shorter_side_and_cuts_the_rest(tmp_path):
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:4, 8:16], wide[4:, 8:16] = 100, 200
    for name, array in (("high", wide.transpose(1, 0, 2)), ("wide", wide)):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(np.ascontiguousarray(array)).save(tmp_path / "train" / name / "0.png")
    found = load(Pictures(path=str(tmp_path), size=4), 1).pictures.float()
    assert found.shape == (2, 1, 4, 4)
    # Of the wide one the middle third is left, and each of its halves, but for a blur.
    assert (found[1, 0] - torch.tensor([100, 100, 200, 200])[:, None]).abs().max() < 20
    assert (found[0, 0].T - found[1, 0]).abs().max() < 2
    same = load(Pictures(path=str(tmp_path), size=8), 1).pictures
    assert np.array_equal(same[1, 0].numpy(), wide[:, 8:16, 0])
