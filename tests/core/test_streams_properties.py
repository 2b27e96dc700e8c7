"""Streams on drawn examples: a number depends on its address, and on nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from align.core.streams import Streams

SEEDS = st.integers(0, 2**63 - 1)
SAMPLES = st.lists(st.integers(0, 2**53), min_size=1, max_size=6, unique=True)
PURPOSES = st.lists(st.one_of(st.text("ab/é猫", max_size=5), st.integers(0, 2**31)), max_size=3)
SHAPES = st.sampled_from([(), (1,), (5,), (2, 3)])


def streams_of(seed, samples, purpose):
    return Streams(seed, tuple(samples)).fold_in(*purpose)


@given(SEEDS, SAMPLES, PURPOSES, SHAPES, st.data())
def test_row_of_some_samples_is_that_of_all(seed, samples, purpose, shape, data):
    streams = streams_of(seed, samples, purpose)
    chosen = data.draw(st.lists(st.sampled_from(range(len(samples))), min_size=1, max_size=4))
    whole, part = streams.normal(shape), streams.rows(torch.tensor(chosen)).normal(shape)
    assert torch.equal(part, whole[chosen])


@given(SEEDS, SAMPLES, SHAPES, st.integers(1, 5), st.integers(0, 4))
def test_draws_after_some_are_the_next_ones(seed, samples, shape, draws, skipped):
    streams = streams_of(seed, samples, ())
    together = streams.normal(shape, draws=skipped + draws)
    assert torch.equal(streams.after(skipped).normal(shape, draws=draws), together[skipped:])


@given(SEEDS, SAMPLES, SHAPES, st.integers(1, 4))
def test_a_row_for_each_draw_has_the_draws_of_each_row(seed, samples, shape, draws):
    streams = streams_of(seed, samples, ())
    spread = streams.spread(draws).normal(shape)
    assert torch.equal(spread, streams.normal(shape, draws=draws).flatten(0, 1))


@given(SEEDS, SAMPLES, PURPOSES, PURPOSES, PURPOSES)
def test_purposes_are_told_apart_and_fold_in_one_by_one(seed, samples, purpose, one, other):
    streams = streams_of(seed, samples, purpose)
    assert streams.fold_in(*one).fold_in(*other) == streams.fold_in(*one, *other)
    alike = torch.equal(streams.fold_in(*one).normal((4,)), streams.fold_in(*other).normal((4,)))
    assert alike == (one == other)


@given(SEEDS, SAMPLES, SHAPES)
def test_uniform_numbers_lie_between_zero_and_one(seed, samples, shape):
    numbers = streams_of(seed, samples, ("u",)).uniform(shape)
    assert numbers.shape == (len(samples), *shape)
    assert bool(((numbers >= 0) & (numbers <= 1)).all())
    assert bool(streams_of(seed, samples, ("n",)).normal(shape).isfinite().all())
