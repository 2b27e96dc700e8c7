"""Pictures of a folder, and the tables that say their prompts."""

import pytest
from PIL import Image

from align.core.errors import PartError
from align.io.listed_pictures import listed_pictures, require_whole


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    (place / "inner").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "inner/c.png"):
        Image.new("RGB", (4, 4)).save(place / name)
    (place / "notes.txt").write_text("no picture")
    (place / ".hidden.png").write_text("no picture")
    return place


def listed(folder, table):
    pictures, notes = listed_pictures(folder, table)
    return [(picture.name, picture.prompt) for picture in pictures], notes


def test_without_a_table_every_picture_counts(folder):
    assert listed(folder, None) == ([("a.jpg", ""), ("b.png", ""), ("inner/c.png", "")], [])


def test_tables_say_order_and_prompts_and_what_is_left_out_is_told(folder, tmp_path):
    rows = [("inner/c.png", 'a cat, "tabby"'), ("a.jpg", "")]
    csv, jsonl = tmp_path / "p.csv", tmp_path / "p.jsonl"
    csv.write_text('\ufeffseed,file,prompt\n1,inner/c.png,"a cat, ""tabby"""\n2,a.jpg,\n', "utf-8")
    jsonl.write_text(
        '{"file": "inner/c.png", "prompt": "a cat, \\"tabby\\""}\n\n'
        '{"prompt": "", "file": "a.jpg", "seed": 3}\n'
    )
    for table in (csv, jsonl):
        found, (note,) = listed(folder, table)
        assert found == rows
        assert note == f"'b.png' is in '{folder}' and not in '{table}', and left out"


def test_every_mistake_of_a_table_is_told_with_its_line(folder, tmp_path):
    table = tmp_path / "p.csv"
    table.write_text("file,prompt\na.jpg,x\nz.png,x\na.jpg,y\n,x\nb.png,x,y\n")
    with pytest.raises(PartError) as error:
        listed_pictures(folder, table)
    assert str(error.value).splitlines() == [
        f"{table}:3: no file 'z.png' in '{folder}'",
        f"{table}:4: 'a.jpg' stands in {table}:2 too; leave one",
        f"{table}:5: an empty 'file'; name the picture",
        f"{table}:6: more cells than names; put a text with a comma in quotes",
    ]
    table = tmp_path / "p.jsonl"
    table.write_text('{"file": "a.jpg"}\n[]\nx\n')
    with pytest.raises(PartError) as error:
        listed_pictures(folder, table)
    places = [line.split(": ")[:2] for line in str(error.value).splitlines()]
    assert [place for place, _ in places] == [f"{table}:{number}" for number in (1, 2, 3)]
    assert [what[:7] for _, what in places] == ["no text", "no obje", "no JSON"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "p.csv",
            "file,words\na.jpg,x\n",
            "p.csv:1: expected one column 'prompt', got 'file', 'wo",
        ),
        ("p.csv", 'file,prompt\na.jpg,"x\n', "no table"),
        ("p.csv", "", "expected one column 'file', got nothing"),
        ("p.csv", "file,prompt\n", "names no pictures"),
        ("p.txt", "a.jpg\n", "neither .csv nor .jsonl"),
    ],
)
def test_other_files_are_refused(folder, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(PartError) as error:
        listed_pictures(folder, tmp_path / name)
    assert message in str(error.value)


def test_folders_without_pictures_are_refused(tmp_path):
    with pytest.raises(PartError, match="has no pictures"):
        listed_pictures(tmp_path, None)
    with pytest.raises(PartError, match="no folder"):
        listed_pictures(tmp_path / "nowhere", None)


def test_broken_pictures_are_told_all_at_once(folder, tmp_path):
    (folder / "a.jpg").write_bytes(b"no picture")
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:40])
    table = tmp_path / "p.csv"
    table.write_text("file,prompt\na.jpg,x\nb.png,y\ninner/c.png,z\n")
    with pytest.raises(PartError) as error:
        require_whole(listed_pictures(folder, table)[0])
    first, second, cure = str(error.value).splitlines()
    assert first.startswith(f"{table}:2: '{folder / 'a.jpg'}' is not a picture")
    assert second.startswith(f"{table}:3: ")
    assert cure.startswith("nothing was scored")
