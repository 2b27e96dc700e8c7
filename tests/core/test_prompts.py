"""Prompts that stand for several."""

import attrs
import pytest
import torch

from align.core.errors import PromptError
from align.core.model import ModelSpec
from align.core.prompts import (
    ReadsPrompts,
    expand_prompt,
    match_class,
    named_classes,
    others_named,
    prompt_notes,
)
from align.models.network_model import NetworkModel
from align.modes.sampling.best_of_n import BestOfN
from align.recipe import Arm, Run
from align.runner.build import Rewards, build


def test_a_plain_prompt_is_itself():
    assert expand_prompt("a cat") == ("a cat",)
    assert expand_prompt("") == ("",)


def test_classes_and_words_in_turn():
    assert expand_prompt("A {class}.", ("cat", "dog")) == ("A cat.", "A dog.")
    both = expand_prompt("{A|One} {class}", ("cat", "dog"))
    assert both == ("A cat", "A dog", "One cat", "One dog")


@pytest.mark.parametrize("prompt", ["A {class}.", "A {cat}.", "A {}."])
def test_braces_that_hold_nothing(prompt):
    with pytest.raises(PromptError, match=r"stands for|is neither"):
        expand_prompt(prompt)


@pytest.mark.parametrize(
    "prompt",
    ["A {0 {cat|dog}.", "A {cat|dog} :}", "a { b", "a } b", "{cat|{dog}}", "{{a}", "{a|b}}", "}{"],
)
def test_brace_without_a_partner_is_refused(prompt):
    with pytest.raises(PromptError, match="has a brace without a partner, or braces in braces"):
        expand_prompt(prompt)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a {{ b", ("a { b",)),
        ("{{cat}} }}", ("{cat} }",)),
        ("{cat|dog} :}}", ("cat :}", "dog :}")),
        ("{{{cat|dog}}}", ("{cat}", "{dog}")),
        ("{{class}}", ("{class}",)),
    ],
)
def test_doubled_braces_are_braces(prompt, expected):
    assert expand_prompt(prompt, ("a", "b")) == expected


def test_classes_that_are_not_known_yet_stay():
    assert expand_prompt("{A|One} {class}", None) == ("A {class}", "One {class}")


def test_a_prompt_that_stands_for_too_many_is_refused():
    with pytest.raises(PromptError, match=r"stands for 1,099,511,627,776 prompts, and 100,000 are"):
        expand_prompt("{a|b}" * 40)


def test_the_longest_name_counts_in_any_case():
    assert match_class("A Tabby CAT on a mat", ("cat", "tabby cat", "dog")) == 1
    assert match_class("Two red foxes, two oxen and a dog's cats.", ("ox", "fox", "cat")) == 2
    with pytest.raises(PromptError, match="'a horse' names none of the classes: cat, dog"):
        match_class("a horse", ("cat", "dog"))


@pytest.mark.parametrize(
    ("prompt", "numbers"),
    [
        ("a tabby cat", (1,)),
        ("a tabby cat and a cat", (1, 0)),
        ("a dog, a cat, a tabby cat; dogs", (1, 0, 2)),
        ("a cat and a dog", (0, 2)),
        ("catdog cats", (0,)),
        ("cat " * 20_000, (0,)),
    ],
)
def test_all_the_classes_that_a_prompt_names(prompt, numbers):
    assert named_classes(prompt, ("cat", "tabby cat", "dog")) == numbers


def test_what_is_said_of_a_prompt_that_names_several_classes():
    names = ("cat", "tabby cat", "dog")
    assert others_named("a tabby cat", names) == others_named("a horse", names) == ""
    assert others_named("cat, dog", names) == "names 'cat' and 'dog', of which 'cat' counts"


class Reads(ReadsPrompts):
    def left_out(self, prompt):
        return "is long" if len(prompt) > 3 else ""


def test_notes_on_prompts_are_one_sentence_for_all():
    assert prompt_notes("a reward", Reads(), ["cat", "", "dog"]) == ()
    assert prompt_notes("a reward", Reads(), ["cat", "oxen", "oxen"]) == (
        "a reward: the prompt 'oxen' is long.",
    )
    (note,) = prompt_notes("a reward", Reads(), ["x" * 5000, "oxen"])
    assert note == f"a reward: the prompt '{'x' * 57}...' is long. So it is with 2 prompts."


@attrs.frozen
class Line(ModelSpec):
    """A model of nothing but classes."""

    kind = "line"
    domain = "vector"
    provides = frozenset()
    prompt = "the {class}"

    def build(self, device):
        return NetworkModel(shape=(1,), classes=("a", "b", "c"), domain="vector")


def test_sample_i_has_prompt_i():
    arm = Arm(name="", model=Line(), sampler=None, estimator=None, mode=BestOfN())
    problem = build(arm, Rewards((), torch.device("cpu")), Run(samples=5)).problem
    assert problem.cond.prompts == ("the a", "the b", "the c", "the a", "the b")
    assert problem.condition((7, 2)).prompts == ("the b", "the c")
    assert problem.cond.tensors["label"].tolist() == [0, 1, 2, 0, 1]
