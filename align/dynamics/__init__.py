"""Dynamics: one step of a guided flow, one algorithm a file."""
