"""Network architectures: torch modules, and the options that make them."""
