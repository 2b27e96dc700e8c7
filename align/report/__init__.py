"""Tables and pictures of a run, made from its folder alone."""
