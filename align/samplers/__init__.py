"""Posterior samplers: one algorithm, one file."""
