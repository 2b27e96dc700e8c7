"""Classes by name."""

import re

import pytest
from align_imagenet import ImageNet
from align_imagenet.labels import index_in, index_of, names, numbers_of, others_in, owners, plain

from align import PromptError


@pytest.mark.parametrize(
    "label",
    ["tabby cat", "tabby", "Tabby Cat", "tabby_cat", " tabby-cat ", "281"],
)
def test_a_class_has_many_names(label):
    assert index_of(label) == 281


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("tench", 0),
        ("goldfish", 1),
        ("Persian cat", 283),
        ("lion", 291),
        ("golden retriever", 207),
        ("king penguin", 145),
        ("missile", 657),
        ("crane bird", 134),
        ("toilet tissue", 999),
    ],
)
def test_known_classes(label, index):
    assert index_of(label) == index


def test_there_are_a_thousand_classes_and_every_main_name_leads_home():
    assert len(names()) == 1000
    for index, row in enumerate(names()):
        assert index in owners()[plain(row[0])]
        assert any(owners()[plain(name)] == (index,) for name in row) or len(row) == 1


def test_a_misspelt_class_gets_suggestions():
    with pytest.raises(ValueError, match=r"named 'tabbi'; did you mean 'tabby'"):
        index_of("tabbi")


@pytest.mark.parametrize("label", ["zzzzzz", "1000", "-1", "", "²"])
def test_unknown_class_is_refused(label):
    with pytest.raises(ValueError, match=r"no ImageNet class is named .* index from 0 to 999"):
        index_of(label)


@pytest.mark.parametrize("prompt", ["-1", "+3", "2.5", "1000", "a Zz-Zz"])
def test_a_refused_prompt_is_quoted_as_it_was_written(prompt):
    with pytest.raises(PromptError, match=rf"^'{re.escape(prompt)}'.*an index from 0 to 999$"):
        index_in(prompt)


def test_a_name_of_two_classes_is_refused_with_both():
    with pytest.raises(ValueError, match=r"names 2 ImageNet classes; write 134 .* or 517"):
        index_of("crane")


def test_a_prompt_that_names_several_classes_says_which_counts():
    assert others_in("a tabby cat") == others_in("a tabby, a tabby cat") == ""
    assert others_in("a tabby cat and a golden retriever") == (
        "names 'golden retriever' and 'tabby cat', of which 'golden retriever' counts"
    )


def test_a_prompt_that_names_no_class_is_refused_before_anything_is_loaded():
    ImageNet().check_prompt("a tabby cat")
    ImageNet(label="tabby").check_prompt("a unicorn")
    with pytest.raises(PromptError, match="names none of the classes"):
        ImageNet().check_prompt("a unicorn")


def test_folders_are_named_by_classes_numbers_or_all_wordnet_ids():
    assert numbers_of(["tabby_cat", "7", "crane bird"]) == [281, 7, 134]
    with pytest.raises(ValueError, match="'crane' names 2 ImageNet classes"):
        numbers_of(["tabby", "crane"])
    ids = [f"n{number:08d}" for number in range(1000, 0, -1)]
    assert numbers_of(ids) == list(range(999, -1, -1))
    with pytest.raises(ValueError, match="999 folders are named by WordNet ids"):
        numbers_of(ids[1:])
