"""The table of scores beside the packages' runs from end to end."""

import pytest


def test_benchmark_at_toy_size_prints_a_row_a_reward(capsys):
    pytest.importorskip("hpsv2")
    pytest.importorskip("ImageReward")
    from benchmarks.parity import main

    main(["--toy"])
    text = capsys.readouterr().out
    for reward in ("HPSv2", "ImageReward", "PickScore", "CLIP"):
        assert text.count(f"| {reward} | ") == 2
