"""Rewards that need nothing beyond the core."""
