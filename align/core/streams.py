"""The only door to randomness: numbers addressed by (seed, purpose, sample, draw, element).

Every number is one evaluation of the counter-based generator Philox4x32-10: the key is a hash of
the seed and of what the number is for, the counter says which sample, draw and element. So
sample i sees the same noise in any batch, chunk, order or process, and on any device.

Reference: Parallel random numbers: as easy as 1, 2, 3, Salmon, Moraes, Dror, Shaw, 2011,
doi:10.1145/2063384.2063405, section 3.2.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from typing import Final, Literal, TypeAlias, TypeVar, final

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align.core.transfer import on_device

Result = TypeVar("Result")
Words = TypeVar("Words", Tensor, NDArray[np.int64])
Scheme: TypeAlias = Literal["independent", "antithetic", "sobol"]

_SOBOL_DIMENSIONS: Final = torch.quasirandom.SobolEngine.MAXDIM
_SOBOL_BITS: Final = torch.quasirandom.SobolEngine.MAXBIT

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(
    counter: tuple[Words, Words, Words, Words], key: tuple[int | Words, int | Words]
) -> list[Words]:
    """Philox4x32-10 on int64 arrays that hold 32-bit words; returns four words a counter.

    The counter's words and the key's may have any shapes that broadcast: the first rounds then stay
    small.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product may wrap around in int64; its 64 bits, and so both halves, stay right.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) & _MASK) ^ (c1 ^ k0), ((p0 >> 32) & _MASK) ^ (c3 ^ k1)
        c1, c3 = p1 & _MASK, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


@final
@attrs.frozen
class Streams:
    """Random numbers for some samples: row b of every result depends on `samples[b]` alone.

    Args:
        seed: of the run.
        samples: the number of each row's sample.
        purpose: what the numbers are for; `fold_in` extends it.
        device: where the numbers are made.
        first: the number of each row's first draw; () is 0 for all.
        branches: what each row's numbers are for, before `purpose`; () is nothing for all.
        scheme: how the draws of one sample depend on each other: not at all; draw 2k + 1 mirrors
            draw 2k; or together they are a scrambled Sobol sequence. Each draw alone has the same
            law, and samples are independent, whatever the scheme.

    Reference: Monte Carlo theory, methods and examples, Owen, 2013, sections 8.2 (antithetic) and
    17.3 (randomised by a digital shift, for which each sample has one of its own).
    """

    seed: int
    samples: tuple[int, ...]
    purpose: tuple[str | int, ...] = ()
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))
    first: tuple[int, ...] = ()
    branches: tuple[tuple[str | int, ...], ...] = ()
    scheme: Scheme = "independent"

    def fold_in(self, *purpose: str | int) -> Streams:
        """The streams for a narrower purpose, independent of all others."""
        # Many times a step, and attrs.evolve takes three times as long.
        purpose = self.purpose + purpose
        return Streams(
            self.seed, self.samples, purpose, self.device, self.first, self.branches, self.scheme
        )

    def rows(self, rows: slice | Tensor) -> Streams:
        """The streams of some of the rows, given as a slice or as their numbers."""
        chosen = rows if isinstance(rows, slice) else rows.tolist()
        return attrs.evolve(
            self,
            samples=_of_rows(self.samples, chosen),
            first=_of_rows(self.first, chosen),
            branches=_of_rows(self.branches, chosen),
        )

    def after(self, draws: int) -> Streams:
        """The streams whose draw 0 is draw number `draws` of these."""
        first = self.first or (0,) * len(self.samples)
        return attrs.evolve(self, first=tuple(map(draws.__add__, first)))

    def spread(self, draws: int) -> Streams:
        """(draws · B) rows, draw-major like `NoisyState.tile`: row (n, b) has draw n of row b."""
        if draws == 1:
            return self
        base = self.first or (0,) * len(self.samples)
        first = tuple(chain.from_iterable(map(n.__add__, base) for n in range(draws)))
        branches = self.branches * draws
        return attrs.evolve(self, samples=self.samples * draws, first=first, branches=branches)

    def branched(self, *purposes: tuple[str | int, ...]) -> Streams:
        """(K · B) rows for K purposes: row (k, b) is row b of `fold_in(*purposes[k])`."""
        before = self.branches or ((),) * len(self.samples)
        branches = tuple(row + self.purpose + last for last in purposes for row in before)
        count = len(purposes)
        samples, first = self.samples * count, self.first * count
        return Streams(self.seed, samples, (), self.device, first, branches, self.scheme)

    def particles(self, count: int) -> Streams:
        """(count · B) rows, particle-major like `NoisyState.tile`: particle 0 is the row's own.

        Particle m of sample i is sample i + 2³² m.
        """
        if count == 1:
            return self
        # Thousands of numbers at every step: put together by iterators, not in a Python loop.
        spans = (range(sample, sample + (count << 32), 1 << 32) for sample in self.samples)
        samples = tuple(chain.from_iterable(zip(*spans, strict=True)))
        first, branches = self.first * count, self.branches * count
        return attrs.evolve(self, samples=samples, first=first, branches=branches)

    def numbered(self, first: int, count: int) -> Streams:
        """The streams of the samples `first`, `first` + 1, ...: `count` of them."""
        return attrs.evolve(self, samples=tuple(range(first, first + count)), first=(), branches=())

    def initialise(self, make: Callable[[], Result]) -> Result:
        """Run `make` with torch's global generator seeded from these streams, then put it back.

        For libraries that draw from the global generator, as `torch.nn.init` does.
        """
        text = repr((self.seed, *self.purpose)).encode()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(hashlib.blake2b(text, digest_size=6).digest()))
            return make()

    def normal(self, shape: tuple[int, ...], *, draws: int | None = None) -> Tensor:
        """Standard normal numbers, float64: (B, *shape), or (draws, B, *shape).

        Draw n is the same whatever the number of draws.
        """
        if self.scheme == "sobol":
            quantiles: Tensor = torch.special.ndtri(self.uniform(shape, draws=draws))
            return quantiles
        w = self._words(math.prod(shape), draws or 1)
        # Box-Muller on pairs of words.
        radius = torch.sqrt(-2 * torch.log((w[..., 0::2].double() + 0.5) / 2**32))
        angle = (2 * math.pi / 2**32) * w[..., 1::2].double()
        numbers = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1).flatten(
            -2
        )
        if self.scheme == "antithetic":
            numbers = torch.where(self._odd(draws or 1), -numbers, numbers)
        return self._shaped(numbers, shape, draws)

    def uniform(self, shape: tuple[int, ...], *, draws: int | None = None) -> Tensor:
        """Uniform numbers in (0, 1), float64: (B, *shape), or (draws, B, *shape)."""
        count, several = math.prod(shape), draws or 1
        words = (
            self._sobol(count, several) if self.scheme == "sobol" else self._words(count, several)
        )
        numbers = (words.double() + 0.5) / 2**32
        if self.scheme == "antithetic":
            numbers = torch.where(self._odd(several), 1 - numbers, numbers)
        return self._shaped(numbers, shape, draws)

    def _places(self, draws: int) -> Tensor:
        """The number of each draw of each row, (draws, B)."""
        first = on_device(self.first or (0,) * len(self.samples), self.device)
        return torch.arange(draws, device=self.device)[:, None] + first

    def _odd(self, draws: int) -> Tensor:
        """Which draws mirror the one before, (draws, B, 1)."""
        return (self._places(draws) % 2 == 1)[..., None]

    def _sobol(self, count: int, draws: int) -> Tensor:
        """32-bit words as int64, (draws, B, count rounded up to an even number).

        The sequence is scrambled once for a seed, and shifted by bits of each sample's own. Numbers
        beyond those that Sobol's sequence has directions for have the same directions again.
        """
        shifts = attrs.evolve(self, first=(), scheme="independent")._words(count, 1)
        places = self._places(draws)
        last = 1 << int(places.max()).bit_length()
        points = _sobol_points(min(shifts.shape[2], _SOBOL_DIMENSIONS), self.seed, last)
        points = points.to(self.device)[places]
        repeats = -(-shifts.shape[2] // points.shape[2])
        return points.repeat(1, 1, repeats)[..., : shifts.shape[2]] ^ shifts

    def _words(self, count: int, draws: int) -> Tensor:
        """32-bit words as int64, (draws, B, count rounded up to an even number)."""
        sizes = draws, -(-count // 4)
        kept = 2 if count <= 2 else 4  # pairs beyond `count` are not stacked
        if self.device.type == "cpu":
            # There numpy takes half the time of torch, or a third where numbers are few.
            draw, block = map(np.arange, sizes)
            words = self._philox(draw, block, lambda numbers: np.array(numbers, dtype=np.int64))
            pairs = torch.from_numpy(np.stack(words[:kept], -1)).flatten(-2)
        else:
            places, blocks = (torch.arange(size, device=self.device) for size in sizes)
            there = self._philox(places, blocks, lambda numbers: on_device(numbers, self.device))
            pairs = torch.stack(there[:kept], -1).flatten(-2)
        return pairs[..., : count + count % 2]

    def _philox(
        self, draw: Words, block: Words, array: Callable[[tuple[int, ...]], Words]
    ) -> list[Words]:
        """Four words (draws, B, blocks) for each counter, by arrays of the kind of `draw`."""
        draw, block = draw[:, None, None], block[None, None, :]
        if self.first:
            draw = draw + array(self.first)[None, :, None]
        if self.scheme == "antithetic":
            draw = draw >> 1
        sample = array(self.samples)[None, :, None]
        counter = block, draw, sample & _MASK, (sample >> 32) & _MASK
        if not self.branches:
            return philox(counter, _key_of((self.seed, *self.purpose)))
        first, second = self._keys()
        return philox(counter, (array(first)[None, :, None], array(second)[None, :, None]))

    def _keys(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Both words of each row's key."""
        keys = {row: _key_of((self.seed, *row, *self.purpose)) for row in set(self.branches)}
        first, second = zip(*(keys[row] for row in self.branches), strict=True)
        return first, second

    def _shaped(self, numbers: Tensor, shape: tuple[int, ...], draws: int | None) -> Tensor:
        numbers = numbers[..., : math.prod(shape)].reshape(*numbers.shape[:2], *shape)
        return numbers[0] if draws is None else numbers


@lru_cache(maxsize=8)
def _sobol_points(dimensions: int, seed: int, count: int) -> Tensor:
    """The first `count` points of Sobol's sequence as 32-bit words in int64, (count, dimensions).

    Scrambled by random matrices that belong to the seed.
    """
    key = _key_of((seed, "sobol"))[0]
    engine = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=key)
    points: Tensor = engine.draw(count, dtype=torch.float64)
    words: Tensor = (points * 2**_SOBOL_BITS).long() << (32 - _SOBOL_BITS)
    return words


def _key_of(purpose: tuple[str | int, ...]) -> tuple[int, int]:
    """The generator's key for a seed and what its numbers are for."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _of_rows(values: tuple[Result, ...], rows: slice | list[int]) -> tuple[Result, ...]:
    """The values of some of the rows; () where no row has one of its own."""
    if isinstance(rows, slice):
        return values[rows]
    return tuple(values[row] for row in rows) if values else ()
