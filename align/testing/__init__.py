"""What tests of parts need: the conformance kit, distances between samples, closed-form worlds."""

from align.testing.kit import conformance

__all__ = ["conformance"]
