"""Models that need nothing beyond the core: closed-form worlds."""
