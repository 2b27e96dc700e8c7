"""What tests of parts need: distances between samples, and closed-form worlds."""
