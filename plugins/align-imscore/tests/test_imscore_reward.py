"""The reward `imscore` without its package: what is told, and what is known beforehand."""

import sys

import pytest
import torch
from align_imscore import Imscore
from align_imscore.reward import _Imscore

from align import PartError, PromptError


def test_a_missing_package_is_told_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "imscore", None)
    with pytest.raises(PartError, match=r"imscore cannot be imported .*--make-venv FOLDER"):
        Imscore(scorer="mps").build(torch.device("cpu"))


def test_scorers_of_beauty_need_no_prompt():
    assert Imscore(scorer="mps").needs_prompt
    assert not Imscore(scorer="laion_aesthetic").needs_prompt


class Means:
    """Answers as some of the package's scorers do, (B, 1)."""

    def score(self, pixels, prompts):
        return pixels.mean((1, 2, 3))[:, None]


def test_scores_are_one_a_picture_whatever_their_shape():
    data = torch.linspace(0, 1, 96).reshape(2, 3, 4, 4).requires_grad_()
    score = _Imscore(Means(), needs_prompt=True).score(data, ["a", "b"])
    assert score.shape == (2,) and score.requires_grad
    with pytest.raises(PromptError):
        _Imscore(Means(), needs_prompt=True).score(data, ["a", " "])
