"""Network architectures: plain torch modules that know nothing of recipes."""
