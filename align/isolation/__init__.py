"""A reward in an interpreter of its own, for packages that cannot live together."""
