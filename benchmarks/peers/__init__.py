"""`align` beside azula and deepinv: `python -m benchmarks.peers`."""
