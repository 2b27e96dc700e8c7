"""The tokenizer: known numbers, transformers' own, and what is refused."""

import json

import pytest
from align_clip.tokens import END, START, cleaned, from_file, from_merges, shipped

from align import PartError

ODD = [
    "a photo of a cat",
    "A Tabby CAT's 12 hats!!",
    "“curly” naïve ﬁ ﾊﾝ ÿ 日本 emoji 😀",
    "two  \n spaces\tdon't &amp; go",
    "",
    f"ends {END} early",
    "x" * 200,
    "e\u0301 \u00e9",
]


@pytest.fixture(scope="module")
def tokenizer():
    return shipped()


def test_known_prompts_have_their_known_numbers(tokenizer):
    # The example of OpenAI's and of transformers' documentation.
    numbers = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.encode("a photo of a cat").ids == numbers
    assert tokenizer.encode(" A PHOTO  of\na cat ").ids == numbers
    assert tokenizer.get_vocab_size() == 49408
    assert [tokenizer.token_to_id(name) for name in (START, END)] == [49406, 49407]


def test_it_is_transformers_tokenizer(tokenizer):
    from transformers import CLIPTokenizerFast

    model = json.loads(tokenizer.to_str())["model"]
    assert len(model["merges"]) == 48894
    other = CLIPTokenizerFast(tokenizer_object=from_merges([tuple(m) for m in model["merges"]]))
    with_transformers = [other(prompt)["input_ids"] for prompt in ODD]
    assert [tokenizer.encode(prompt).ids for prompt in ODD] == with_transformers


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a &amp;amp; b", "a & b"),
        (" a \n\t b ", "a b"),
        ("“curly” ‘quotes’", "\"curly\" 'quotes'"),
        ("ｆｕｌｌ", "full"),
        ("cafÃ©", "café"),
        ("Case Stays", "Case Stays"),
    ],
)
def test_prompts_are_repaired_as_openai_does(prompt, wanted):
    assert cleaned(prompt) == wanted


def test_a_file_is_read_without_its_padding_and_truncation(tmp_path):
    made = from_merges([("c", "a")])
    plain = made.encode("ca cb").ids
    made.enable_padding(length=77)
    made.enable_truncation(3)
    made.save(str(tmp_path / "tokenizer.json"))
    assert from_file(tmp_path / "tokenizer.json", "x").encode("ca cb").ids == plain


def test_other_files_are_refused(tmp_path):
    from tokenizers import Tokenizer, models

    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(PartError, match=r"^reward 'x': .*x\.json' is no tokenizer\.json"):
        from_file(tmp_path / "x.json", "reward 'x'")
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "y.json"))
    with pytest.raises(PartError, match=r"no tokenizer of CLIP: it has no token '<\|endoftext"):
        from_file(tmp_path / "y.json", "reward 'x'")
