"""Recipes: what a TOML file says, strictly read and fitted together."""

from align.core.term import RewardTerm
from align.recipe.assemble import with_unique_names
from align.recipe.load import Loaded, load
from align.recipe.schema import Arm, Recipe, Run
from align.recipe.write import to_toml

__all__ = ["Arm", "Loaded", "Recipe", "RewardTerm", "Run", "load", "to_toml", "with_unique_names"]
