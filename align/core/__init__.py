"""Mathematics and contracts: knows no recipe, no plugin and no file."""
