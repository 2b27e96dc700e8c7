"""Modes that sample: steering and Best-of-N."""
