"""A run, stage by stage: from a recipe to a run folder."""
