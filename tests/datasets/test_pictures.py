"""Labelled pictures from folders and archives."""

import io
import tarfile

import numpy as np
import pytest
import torch
from loguru import logger
from PIL import Image

from align.core.errors import PartError
from align.datasets.pictures import Pictures
from align.io.images import opened
from align.rewards.known import known
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
    files = {**_files(), "train/dog/notes.txt": b"none", "train/dog/er/a.png": _png(0)[0]}
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


def _saved(image, kind="PNG", **how):
    content = io.BytesIO()
    image.save(content, kind, **how)
    return content.getvalue()


@pytest.fixture
def notices():
    lines = []
    logger.enable("align")
    sink = logger.add(lines.append, format="{message}", filter=lambda r: r["extra"].get("notice"))
    yield lines
    logger.remove(sink)
    logger.disable("align")


def test_what_is_left_out_of_a_folder_is_counted(tmp_path, notices):
    odd = {"train/dog/a.gif": b"", "train/dog/b.GIF": b"", "train/dog/.DS_Store": b""}
    odd |= {"train/dog/README": b"", "train/stray.png": b"", "train/.cache/x.png": b""}
    folder = _folder(tmp_path, _files() | odd)
    assert len(load(Pictures(path=folder), 3)) == 6
    assert notices == [
        f"data: '{folder}': left out 2 with .gif, 1 of no class, 1 without an ending\n"
    ]


def test_a_set_of_which_nothing_is_left_out_says_nothing(tmp_path, notices):
    load(Pictures(path=_folder(tmp_path / "set", _files())), 3)
    load(Pictures(path=_tar(tmp_path / "set.tar", _files())), 3)
    assert not notices


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["a.gif", "notes", "deep/er.png"])
def test_a_class_without_readable_pictures_is_refused(tmp_path, packed, inside):
    files = {**_files(), f"train/bird/{inside}": b"x"}
    if packed and "/" in inside:
        files["train/bird/x.txt"] = b""
    path = _tar(tmp_path / "s.tar", files) if packed else _folder(tmp_path / "set", files)
    with pytest.raises(PartError, match=r"class 'bird' of .* has no picture that is read"):
        load(Pictures(path=path), 3)


def test_a_class_with_nothing_in_it_is_refused(tmp_path):
    folder = _folder(tmp_path, _files())
    (tmp_path / "train/bird").mkdir()
    with pytest.raises(PartError, match=r"class 'bird' .*, but nothing; convert"):
        load(Pictures(path=folder), 3)


def test_folders_behind_links_are_read_and_circles_are_not_followed(tmp_path):
    folder = _folder(tmp_path / "far", _files())
    near = tmp_path / "near"
    near.mkdir()
    (near / "train").symlink_to(f"{folder}/train")
    (tmp_path / "far/train/dog/up").symlink_to(folder)
    assert torch.equal(
        load(Pictures(path=str(near)), 3).pictures, load(Pictures(path=folder), 3).pictures
    )


def test_links_and_repeated_names_in_an_archive_are_counted(tmp_path, notices):
    path = _tar(tmp_path / "set.tar", _files())
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"set/train/dog/link{kind.decode()}.png")
            link.type, link.linkname = kind, "set/train/dog/0.png"
            archive.addfile(link)
        again = tarfile.TarInfo("set/train/dog/0.png")
        again.size = len(_png(9)[0])
        archive.addfile(again, io.BytesIO(_png(9)[0]))
    found = load(Pictures(path=path), 3)
    assert notices == [f"data: '{path}': left out 2 links, 1 of a name that comes again\n"]
    assert len(found) == 6
    assert np.array_equal(found.pictures[3].permute(1, 2, 0).numpy(), _png(9)[1])


def test_a_broken_link_is_refused(tmp_path):
    folder = _folder(tmp_path, _files())
    (tmp_path / "train/dog/0.png").unlink()
    (tmp_path / "train/dog/0.png").symlink_to("nowhere.png")
    with pytest.raises(PartError, match=r"dog/0\.png' cannot be read: no such file or directory$"):
        load(Pictures(path=folder), 3)
    with pytest.raises(PartError, match=r"dog/0\.png' cannot be read: no such file or directory$"):
        Pictures(path=folder).fingerprint()


def test_training_sees_what_rewards_and_verify_see(tmp_path):
    cut = Image.new("RGBA", (8, 6), (9, 9, 9, 0))
    cut.paste((255, 200, 0, 255), (2, 2, 5, 4))
    exif = Image.Exif()
    exif[0x112] = 6
    contents = {"cut.png": _saved(cut), "turned.jpg": _saved(cut.convert("RGB"), "JPEG", exif=exif)}
    for name, content in contents.items():
        folder = _folder(tmp_path / name, {f"train/dog/{name}": content})
        trained = load(Pictures(path=folder), 3).pictures[0]
        seen = opened(f"{folder}/train/dog/{name}").tensor
        measured = known(f"{folder}/train/dog/{name}", torch.device("cpu")).picture
        assert torch.equal(trained.float() / 255, seen)
        assert torch.equal(measured, seen)
