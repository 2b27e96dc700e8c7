"""Measurements, each a command to be run from the repository's root: `python -m benchmarks.NAME`.

All take `--toy`, which shows in seconds that they run, and `--page`, which writes their tables into
a page of results.
"""
