"""The table of scores beside the packages' runs from end to end."""

from benchmarks.parity import main


def test_benchmark_at_toy_size_prints_a_row_a_reward(capsys):
    main(["--toy"])
    text = capsys.readouterr().out
    for reward in ("HPSv2", "ImageReward", "PickScore", "CLIP"):
        assert text.count(f"| {reward} | ") == 2
