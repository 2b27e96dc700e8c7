"""Random numbers: the generator's known answers, and that a sample's numbers are its own."""

import attrs
import numpy as np
import pytest
import torch

from align.core.streams import Streams, philox

# Known answers of philox4x32-10 from the authors' library Random123 (kat_vectors).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter, key, words):
    for kind in (torch.tensor, np.array):
        got = philox(tuple(kind([word]) for word in counter), key)
        assert tuple(int(word[0]) for word in got) == words


@pytest.mark.parametrize("make", ["normal", "uniform"])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (4, 5, 3)])
def test_a_sample_has_its_own_numbers(make, shape):
    samples = (0, 7, 3, 2**40 + 1, 3)
    many = getattr(Streams(5, samples).fold_in("x", 2), make)(shape, draws=9)
    assert many.shape == (9, 5, *shape)
    assert many.dtype == torch.float64
    for row, sample in enumerate(samples):
        alone = Streams(5, (sample,)).fold_in("x", 2)
        assert torch.equal(getattr(alone, make)(shape, draws=9)[:, 0], many[:, row])
        assert torch.equal(getattr(alone, make)(shape, draws=2)[:, 0], many[:2, row])
        assert torch.equal(getattr(alone, make)(shape)[0], many[0, row])
    assert torch.equal(
        getattr(Streams(5, samples).rows(slice(1, 4)).fold_in("x", 2), make)(shape), many[0, 1:4]
    )


def test_large_batches_agree_with_small_ones_bit_for_bit():
    samples = tuple(range(1000))
    big = Streams(1, samples).normal((3, 5), draws=3)
    for first in (0, 1, 13, 997):
        small = Streams(1, samples[first : first + 3]).normal((3, 5), draws=3)
        assert torch.equal(small, big[:, first : first + 3])


def test_purposes_and_seeds_differ():
    base = Streams(0, (0,))
    kinds = [
        base,
        base.fold_in("a"),
        base.fold_in("a", 1),
        base.fold_in("a", "1"),
        base.fold_in("b"),
        Streams(1, (0,)),
    ]
    numbers = {float(kind.uniform(())) for kind in kinds}
    assert len(numbers) == len(kinds)
    assert torch.equal(base.fold_in("a").fold_in(1).normal((4,)), base.fold_in("a", 1).normal((4,)))


def test_normal_and_uniform_numbers_have_their_moments():
    count = 200_000
    x = Streams(2, tuple(range(count // 10))).normal((10,)).flatten()
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(x.pow(power).mean()) - moment) < 5 * (spread / count) ** 0.5
    draws = Streams(2, tuple(range(20))).normal((100,), draws=200)
    for other in (draws[1:, :, :], draws[:, 1:, :], draws[:, :, 1:]):
        near = draws[: other.shape[0], : other.shape[1], : other.shape[2]]
        assert abs(float((near * other).mean())) < 5 / other.numel() ** 0.5
    u = Streams(3, tuple(range(1000))).uniform((100,))
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 5 * (1 / 12 / u.numel()) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < 5 * (1 / 180 / u.numel()) ** 0.5


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    Streams(0, (0, 1)).normal((3,), draws=2)
    Streams(0, (0, 1)).uniform((3,))
    assert torch.equal(before, torch.get_rng_state())


def test_branches_are_the_streams_of_their_purposes():
    streams = Streams(3, (0, 5, 7)).fold_in("a").after(2)
    purposes = [(), ("candidate", 1), ("candidate", 4)]
    branched = streams.branched(*purposes)
    each = [streams.fold_in(*purpose) for purpose in purposes]

    def both(change, draws=None):
        rows = [change(one).normal((3, 2), draws=draws) for one in each]
        return change(branched).normal((3, 2), draws=draws), torch.cat(
            rows, 0 if draws is None else 1
        )

    assert torch.equal(*both(lambda one: one))
    assert torch.equal(*both(lambda one: one.fold_in("step", 2), draws=4))
    assert torch.equal(*both(lambda one: one.after(3).fold_in("b")))
    whole = both(lambda one: one.fold_in("b"))[1]
    for rows in (slice(2, 6), torch.tensor([8, 0, 4])):
        assert torch.equal(branched.fold_in("b").rows(rows).normal((3, 2)), whole[rows])
    twice = branched.fold_in("b").branched((), (1,)).fold_in("c").normal(())
    deeper = [one.fold_in("b", *more, "c").normal(()) for more in ((), (1,)) for one in each]
    assert torch.equal(twice, torch.cat(deeper))
    for spread in (Streams.spread, Streams.particles):
        many = spread(branched, 2).normal(()).unflatten(0, (2, 9))
        alone = [spread(one, 2).normal(()).unflatten(0, (2, 3)) for one in each]
        assert torch.equal(many, torch.cat(alone, 1))


@pytest.mark.parametrize("scheme", ["antithetic", "sobol"])
def test_coupled_draws_depend_on_seed_sample_and_number_alone(scheme):
    streams = attrs.evolve(Streams(3, (0, 1, 2)), scheme=scheme).fold_in("posterior")
    for numbers in ("normal", "uniform"):
        whole = getattr(streams, numbers)((5,), draws=6)
        assert torch.equal(
            getattr(streams.rows(slice(1, 2)), numbers)((5,), draws=6)[:, 0], whole[:, 1]
        )
        assert torch.equal(getattr(streams.after(3), numbers)((5,), draws=2), whole[3:5])
        spread = getattr(streams.spread(6), numbers)((5,))
        assert torch.equal(spread, whole.flatten(0, 1))
        assert torch.equal(getattr(streams, numbers)((5,), draws=3), whole[:3])


def test_antithetic_draws_mirror_the_one_before():
    streams = Streams(3, (0, 1))
    paired = attrs.evolve(streams, scheme="antithetic")
    plain, found = streams.normal((5,), draws=2), paired.normal((5,), draws=4)
    assert torch.equal(found[::2], plain)
    assert torch.equal(found[1::2], -plain)
    uniform = paired.uniform((5,), draws=2)
    assert torch.allclose(uniform.sum(0), torch.ones(2, 5).double())


def test_sobol_draws_fill_every_cell_and_each_has_its_law():
    streams = attrs.evolve(Streams(3, tuple(range(200))), scheme="sobol")
    numbers = streams.uniform((7,), draws=16)
    cells = (numbers * 16).long().sort(0).values
    assert torch.equal(cells, torch.arange(16)[:, None, None].expand_as(cells))
    first = numbers[0].flatten().sort().values
    assert (first - torch.linspace(0, 1, len(first)).double()).abs().max() < 0.06  # Kolmogorov
    normal = streams.normal((7,), draws=16)
    assert torch.allclose(torch.special.ndtr(normal), numbers)
    assert not torch.equal(numbers, streams.fold_in("other").uniform((7,), draws=16))
