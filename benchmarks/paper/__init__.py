"""The paper's tables and figures, made anew: recipes, claims, and one page of verdicts."""
