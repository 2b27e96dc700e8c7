"""Samples refined from posterior draws."""

import pytest
import torch

from align.core.streams import Streams
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.mfm import MetaFlowMap
from align.samplers.refine import refine
from align.testing.distances import w1
from align.testing.worlds import line

COUNT = 10_000


@pytest.mark.parametrize("sampler", [MetaFlowMap(), ExactPosterior()], ids=lambda s: s.kind)
@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_samples_are_exact_for_any_number_of_steps(kind, sampler):
    model, _ = line(kind)
    cond = model.encode([""] * COUNT)
    exact = model.draw(Streams(1, tuple(range(100_000))))[:, 0]
    for steps in (1, 2, 4, 8):
        streams = Streams(steps, tuple(range(COUNT)))
        x1 = refine(model, sampler, cond, steps=steps, streams=streams)
        assert w1(x1[:, 0], exact) < 0.05  # another seed of exact draws: 0.01 to 0.04


def test_samples_are_wrong_with_a_wrong_posterior():
    model, _ = line()
    cond, exact = model.encode([""] * COUNT), model.draw(Streams(1, tuple(range(COUNT))))[:, 0]
    x1 = refine(model, DPS(), cond, steps=8, streams=Streams(8, tuple(range(COUNT))))
    assert w1(x1[:, 0], exact) > 0.2


def test_a_sample_is_the_same_in_any_batch():
    model, _ = line()
    five, two = (
        refine(
            model, MetaFlowMap(), model.encode([""] * len(rows)), steps=3, streams=Streams(0, rows)
        )
        for rows in ((4, 7, 1, 0, 2), (7, 2))
    )
    assert torch.allclose(five[[1, 4]], two, atol=1e-12)
    assert five.dtype == model.dtype
