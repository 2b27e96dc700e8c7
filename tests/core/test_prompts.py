"""Prompts that stand for several."""

import attrs
import pytest
import torch

from align.core.errors import PromptError
from align.core.model import ModelSpec
from align.core.prompts import expand_prompt, match_class
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


def test_brace_that_is_not_closed_is_refused_beside_a_choice():
    with pytest.raises(PromptError, match="has a brace that is not closed"):
        expand_prompt("A {0 {cat|dog}.")
    assert expand_prompt("A {cat|dog} :}") == ("A cat :}", "A dog :}")


def test_the_longest_name_counts_in_any_case():
    assert match_class("A Tabby CAT on a mat", ("cat", "tabby cat", "dog")) == 1
    assert match_class("Two red foxes, two oxen and a dog's cats.", ("ox", "fox", "cat")) == 2
    with pytest.raises(PromptError, match="'a horse' names none of the classes: cat, dog"):
        match_class("a horse", ("cat", "dog"))


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
