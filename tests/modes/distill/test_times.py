"""The laws of the times that a map is trained at."""

import pytest
import torch

from align.core.streams import Streams
from align.modes.distill.times import Times

ROWS = Streams(0, (0,)).numbered(0, 20_000)


def test_context_times_are_a_power_and_sometimes_zero():
    t = Times(context_power=2.0, context_zero=0.1).context(ROWS, 0.5)
    assert float((t == 0).double().mean()) == pytest.approx(0.1, abs=0.01)
    # E U² = 1/3.
    assert float(t[t > 0].mean()) == pytest.approx(1 / 3, abs=0.01)
    assert float(t.max()) < 1
    assert not Times(context_zero=1.0).context(ROWS, 0.5).any()


def test_jumps_are_sorted_pairs_and_a_share_is_on_the_diagonal():
    s, u, alone = Times(diagonal_share=0.25).jumps(ROWS, 0.5)
    assert float(alone.double().mean()) == pytest.approx(0.25)
    assert torch.equal(s[alone], u[alone])
    assert (s <= u).all()
    assert float(s[alone].mean()) == pytest.approx(1 / 2, abs=0.02)
    assert float(s[~alone].mean()) == pytest.approx(1 / 3, abs=0.01)
    assert float(u[~alone].mean()) == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_every_piece_of_a_batch_has_its_share_of_the_diagonal(share):
    streams = Streams(0, (0,))
    for first in (0, 10, 990):
        alone = Times(diagonal_share=share).jumps(streams.numbered(first, 10), 0.0)[2]
        assert int(alone.sum()) == round(10 * share)


def test_times_of_a_row_do_not_depend_on_its_batch():
    times = Times(diagonal_share=0.3, full_jump_share=0.2)
    whole = (*times.jumps(ROWS, 0.5), times.context(ROWS, 0.5))
    few = ROWS.rows(slice(7, 12))
    for one, all_ in zip((*times.jumps(few, 0.5), times.context(few, 0.5)), whole, strict=True):
        assert torch.equal(one, all_[7:12])


def test_some_jumps_go_all_the_way():
    s, u, alone = Times(diagonal_share=0.5, full_jump_share=0.3).jumps(ROWS, 0.5)
    far = (s == 0) & (u == 1)
    assert not (far & alone).any()
    assert float(far[~alone].double().mean()) == pytest.approx(0.3, abs=0.02)


def test_logit_normal_times():
    s, u, _ = Times(
        diagonal_share=0.0, time_distribution="logit_normal", means=(-5.0, 5.0), deviation=0.1
    ).jumps(ROWS, 0.5)
    assert torch.allclose(torch.logit(s).mean(), torch.tensor(-5.0).double(), atol=0.01)
    assert float(torch.logit(u).std()) == pytest.approx(0.1, abs=0.01)
    swapped = Times(
        diagonal_share=0.0, time_distribution="logit_normal", means=(5.0, -5.0), deviation=0.1
    )
    assert (swapped.jumps(ROWS, 0.5)[0] < 0.5).all()


def test_curriculum():
    times = Times(diagonal_share=0.5, diagonal_until=0.2, full_length_at=0.6, context_start=0.1)
    assert not times.context(ROWS, 0.05).any()
    assert times.context(ROWS, 0.1).any()
    assert times.jumps(ROWS, 0.1)[2].all()
    for done, longest in ((0.3, 0.25), (0.4, 0.5), (0.6, 1.0), (0.9, 1.0)):
        s, u, alone = times.jumps(ROWS, done)
        assert float(alone.double().mean()) == pytest.approx(0.5)
        assert float((u - s).max()) <= longest + 1e-9
        assert float((u - s).max()) > 0.95 * longest
