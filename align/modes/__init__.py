"""Modes: what a run does."""
