"""Studies: modes that measure."""
