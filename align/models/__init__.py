"""Models: networks in weights files, and closed-form worlds."""
