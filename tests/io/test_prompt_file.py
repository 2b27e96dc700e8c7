"""Files of prompts: what is read of them, and what is said of those that do not do."""

import hashlib

import pytest

from align import PartError
from align.io.prompt_file import PromptFile

TEXTS = {
    "p.txt": "a cat\na {dog}, again\r\n  spaced \n\n",
    "p.jsonl": '{"prompt": "a cat"}\n{"seed": 3, "prompt": "a {dog}, again"}\n"  spaced "\n',
    "p.csv": 'seed,prompt\n1,a cat\n2,"a {dog}, again"\n3,  spaced \n',
    "P.TXT": "\ufeffa cat\na {dog}, again\n  spaced ",
}


@pytest.mark.parametrize("name", TEXTS)
def test_prompts_are_the_lines_as_they_stand(name, tmp_path):
    (tmp_path / name).write_text(TEXTS[name], encoding="utf-8", newline="")
    file = PromptFile.read(str(tmp_path / name))
    assert [prompt.strip() for prompt in file.prompts] == ["a cat", "a {dog}, again", "spaced"]
    assert file.digest == hashlib.sha256(TEXTS[name].encode()).hexdigest()
    file.require(3)
    with pytest.raises(PartError, match=r"has 3 prompts, and run.samples is 4: sample i has line"):
        file.require(4)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("p.txt", None, "p.txt' is missing; name a file with a prompt a line"),
        ("p.txt", "", "p.txt' holds no prompt; write one a line"),
        ("p.txt", " \n\n", "p.txt' holds no prompt; write one a line"),
        ("p.txt", "a\n\nb\n", "p.txt:2' holds no prompt; write one, or take it out"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 3}', "p.jsonl:2': expected an object with a text"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"', "p.jsonl:2' is no JSON"),
        ("p.jsonl", '{"prompt": " "}', "p.jsonl:1' holds no prompt"),
        ("p.jsonl", "", "p.jsonl' holds no prompt"),
        ("p.csv", "text,seed\na,1\n", "p.csv:1' has no column 'prompt', only 'text', 'seed'"),
        ("p.csv", "seed,prompt\n1,a\n2\n", "p.csv:3' holds no prompt"),
        ("p.csv", "id,prompt\n1,a\n2,b, c\n", "p.csv:3' has more cells than line 1 has names"),
        ("p.csv", "prompt\na cat, asleep\n", "p.csv:2' has more cells than line 1 has names"),
        ("p.csv", "prompt,id,prompt\na,1,b\n", "p.csv:1' has 2 columns 'prompt'"),
        ("p.csv", "id,prompt\n1,a\n2,b\0c\n", r"p.csv:\d' (is no table|holds a letter)"),
        ("p.txt", "a\nb\0c\n", "p.txt:2' holds a letter that is no text; take it out"),
        ("p.jsonl", '"a"\n{"prompt": "b\\u0000"}', "p.jsonl:2' holds a letter that is no text"),
        ("p.jsonl", '"a\\ud800"', "p.jsonl:1' holds a letter that is no text"),
        (
            "p.jsonl",
            '"a"\n{"prompt": "b", "prompt": "c"}',
            "p.jsonl:2' is no JSON .'prompt' stands",
        ),
        ("p.csv", 'prompt\n"a\n', r"p.csv:\d' is no table"),
        ("p.csv", "prompt\n", "p.csv' holds no prompt"),
        ("p.csv", "", "p.csv' holds no prompt"),
        ("p.toml", "a", "p.toml' is none of .txt, .jsonl, .csv; name a file"),
    ],
)
def test_file_that_does_not_do_is_one_line(name, text, wanted, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(PartError, match=wanted) as caught:
        PromptFile.read(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_single_prompt_and_empty_cells_are_told_and_read_well(tmp_path):
    (tmp_path / "p.csv").write_text('prompt,id\n"a cat, asleep",1,,\n')
    file = PromptFile.read(str(tmp_path / "p.csv"))
    assert file.prompts == ("a cat, asleep",)
    with pytest.raises(PartError, match=r"has 1 prompt, and run.samples is 2"):
        file.require(2)


def test_bytes_that_are_no_text_are_one_line(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(PartError, match="is no text in UTF-8"):
        PromptFile.read(str(tmp_path / "p.txt"))
