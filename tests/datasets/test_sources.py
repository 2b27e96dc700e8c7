"""Where pictures of shards lie, what class they have, and what tells a set from others."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from align.core.errors import PartError
from align.datasets.pictures import Pictures
from align.datasets.sources import files_of, index, signature
from align.training.data import load


def _png(level, size=(4, 4)):
    content = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), level, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def _tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _shards(root, say, count=3):
    """Two pictures a shard; `say(n)` is the member that names the class of picture n."""
    for shard in range(count):
        members = {}
        for n in (2 * shard, 2 * shard + 1):
            suffix, content = say(n)
            members |= {f"a/{n:04}.png": _png(n), f"a/{n:04}.{suffix}": content.encode()}
        _tar(root / f"x-{shard + 8:02}.tar", members)
    return str(root / "x-{08..10}.tar")


def test_shards_are_read_in_their_order(tmp_path):
    path = _shards(tmp_path, lambda n: ("cls", f"{(n + 1) % 2}\n"))
    found = load(Pictures(path=path), 3, ("cat", "dog"))
    assert found.pictures[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert found.classes == ("cat", "dog")
    globbed = load(Pictures(path=str(tmp_path / "x-*.tar")), 3, ("cat", "dog"))
    assert (globbed.pictures == found.pictures).all()
    part = load(Pictures(path=str(tmp_path / "x-{09..09}.tar")), 3, ("cat", "dog"))
    assert part.pictures[:, 0, 0, 0].tolist() == [2, 3]


def test_pictures_are_found_by_place_not_read(tmp_path):
    path = _shards(tmp_path, lambda n: ("cls", "0"))
    found = index(path, "train")
    for name, file, (start, count), level in zip(
        found.names, found.files, found.spans.tolist(), range(6), strict=True
    ):
        with Path(file).open("rb") as archive:
            archive.seek(start)
            assert archive.read(count) == _png(level)
        assert name == f"a/{level:04}.png"


@pytest.mark.parametrize("field", ["label", "class"])
def test_classes_of_shards_may_be_names(tmp_path, field):
    names = ("Big_cat", "dog")
    path = _shards(tmp_path, lambda n: ("json", json.dumps({field: names[n % 2], "width": 4})))
    assert index(path, "train").classes == ("big cat", "dog")
    assert load(Pictures(path=path), 3, ("dog", "big cat")).labels.tolist() == [1, 0] * 3
    with pytest.raises(PartError, match=r"differ from the model's in: big cat, bird$"):
        load(Pictures(path=path), 3, ("dog", "bird"))


def test_classes_of_shards_that_are_numbers_have_no_names(tmp_path):
    path = _shards(tmp_path, lambda n: ("json", json.dumps({"label": 10 * (n // 2)})))
    places = index(path, "train")
    assert places.classes == ()
    assert places.labels.tolist() == [0, 0, 10, 10, 20, 20]


def test_cls_goes_before_json_and_other_members_are_left_alone(tmp_path):
    members = {
        ".hidden.png": b"x",
        "__meta__": b"x",
        "a.txt": b"x",
        "a.seg.png": b"x",
        "a.json": b'{"label": 0}',
        "a.cls": b"1",
        "a.JPG": _png(7),
        "b.c.json": b"x",
        "b.cls": b"0",
        "b.json": b'{"label": 1}',
        "b.png": _png(8),
    }
    _tar(tmp_path / "x-0.tar", members)
    found = index(str(tmp_path / "x-*.tar"), "train")
    assert found.names == ("a.JPG", "b.png")
    assert found.labels.tolist() == [1, 0]


@pytest.mark.parametrize("number", [2, -1])
def test_a_class_out_of_range_is_refused(tmp_path, number):
    path = _shards(tmp_path, lambda n: ("cls", str(number if n == 3 else 0)))
    with pytest.raises(PartError) as caught:
        load(Pictures(path=path), 3, ("cat", "dog"))
    shard = path.replace("{08..10}", "09")
    assert str(caught.value) == (
        f"data: class {number} of 'a/0003.png' in '{shard}' is out of range:"
        " the model's 2 classes are counted from 0"
    )


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("txt", "0"), r"has no class: expected a/0000\.cls, or a/0000\.json with a field 'label'"),
        (("json", '{"caption": "cat"}'), "has no class"),
        (("json", '{"label": 1.5}'), "has no class"),
        (("json", "[0]"), "has no class"),
        (("json", "{"), r"'a/0000\.json' in '.*x-08\.tar' is not JSON"),
    ],
)
def test_a_picture_of_no_class_is_refused(tmp_path, said, message):
    path = _shards(tmp_path, lambda n: said)
    with pytest.raises(PartError, match=message):
        index(path, "train")


def test_shards_that_are_not_there(tmp_path):
    path = _shards(tmp_path, lambda n: ("cls", "0"), count=2)
    with pytest.raises(PartError, match=r"no file or folder '.*x-10\.tar'"):
        index(path, "train")
    with pytest.raises(PartError, match=r"no file or folder '.*y-\*\.tar'"):
        index(str(tmp_path / "y-*.tar"), "train")
    with pytest.raises(PartError, match=r"WebDataset shards are given by a pattern, 'x-\*\.tar'"):
        index(str(tmp_path / "x-08.tar"), "train")
    _tar(tmp_path / "z-0.tar", {"a.cls": b"0"})
    with pytest.raises(PartError, match=r"class '0' .* has no picture that is read"):
        index(str(tmp_path / "z-*.tar"), "train")


def test_archives_that_cannot_be_read_at_random(tmp_path):
    path = tmp_path / "x-0.tar"
    _tar(path, {"train/dog/a.png": _png(0), "train/dog/b.png": b"0" * 5000})
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(PartError, match=r"x-0\.tar' is not a tar archive, .*cut off"):
        index(str(path), "train")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("train/dog/a.png"))
    with pytest.raises(PartError, match="or is compressed"):
        index(str(tmp_path / "x.tar.gz"), "train")


def test_a_path_that_exists_is_no_pattern(tmp_path):
    place = tmp_path / "set [1]" / "train" / "dog"
    place.mkdir(parents=True)
    (place / "a.png").write_bytes(_png(0))
    assert files_of(str(tmp_path / "set [1]"), "train") == [str(place / "a.png")]


def test_a_signature_tells_sets_apart(tmp_path):
    for name in ("one", "two"):
        for split in ("train", "val"):
            (tmp_path / name / split / "dog").mkdir(parents=True)
            (tmp_path / name / split / "dog" / "a.png").write_bytes(_png(0))
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    first = signature(one, "train")
    assert signature(two, "train") == first
    assert signature(one, "val") != first
    (tmp_path / "two/train/dog/a.png").write_bytes(_png(0) + b"0")
    assert signature(two, "train") != first
    (tmp_path / "one/train/dog").rename(tmp_path / "one/train/cat")
    assert signature(one, "train") != first
    shards = _shards(tmp_path, lambda n: ("cls", "0"))
    assert signature(shards, "train") == signature(str(tmp_path / "x-*.tar"), "train")
    assert signature(shards, "train") != signature(str(tmp_path / "x-{08..09}.tar"), "train")


def test_what_is_left_out_of_shards_is_counted(tmp_path):
    members = {"a.png": _png(1), "a.cls": b"0", "a.jpg": _png(2), "b.gif": b"x", "b.cls": b"0"}
    _tar(tmp_path / "x-0.tar", members)
    with tarfile.open(tmp_path / "x-0.tar", "a") as archive:
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(link)
    found = index(str(tmp_path / "x-*.tar"), "train")
    assert found.names == ("a.jpg",)
    assert found.left_out == "1 links, 1 of a key that comes again, 1 without a picture"


def test_a_class_of_shards_without_a_picture_is_refused(tmp_path):
    _tar(tmp_path / "x-0.tar", {"a.png": _png(1), "a.cls": b"cat", "b.gif": b"x", "b.cls": b"dog"})
    with pytest.raises(PartError, match=r"class 'dog' .* but 1 without a picture"):
        index(str(tmp_path / "x-*.tar"), "train")
